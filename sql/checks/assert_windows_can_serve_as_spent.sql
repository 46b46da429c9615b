-- Purpose: a window says can_serve exactly when its budget is known and the day's spend so far is below it.
-- Parameters: none
-- Grain: one row a wrong window
-- Rerun: selects only
SELECT
    c.advertiser_id,
    c.grain,
    c.window_start,
    c.cumulative,
    c.budget_at_time,
    c.can_serve
FROM (
    SELECT
        w.advertiser_id,
        w.grain,
        w.window_start,
        w.budget_at_time,
        w.can_serve,
        SUM(w.gross_spend) OVER (
            PARTITION BY w.advertiser_id, w.grain, k.day_start
            ORDER BY w.window_start
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS cumulative
    FROM staging.CheckedDay AS k
    INNER JOIN ads.SpendSummary AS w
        ON w.advertiser_id = k.advertiser_id
            AND w.window_start >= k.day_start
            AND w.window_start < k.day_end
) AS c
WHERE c.can_serve <> CASE WHEN c.cumulative < c.budget_at_time THEN 1 ELSE 0 END;
