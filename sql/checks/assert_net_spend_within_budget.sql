-- Purpose: over a day never more is billed than the highest budget of the day, nor than was spent, nor less than nothing.
-- Parameters: none
-- Grain: one row a wrong day window
-- Rerun: selects only
SELECT
    w.advertiser_id,
    w.window_start,
    w.net_spend,
    w.gross_spend
FROM staging.CheckedDay AS k
INNER JOIN ads.SpendSummary AS w
    ON w.advertiser_id = k.advertiser_id
        AND w.window_start = k.day_start
        AND w.grain = 'day'
WHERE w.net_spend < 0
    OR w.net_spend > w.gross_spend
    OR w.net_spend > COALESCE(
        (
            SELECT MAX(h.budget_at_time)
            FROM ads.SpendSummary AS h
            WHERE h.advertiser_id = w.advertiser_id
                AND h.window_start >= k.day_start
                AND h.window_start < k.day_end
                AND h.grain = 'hour'
        ),
        0
    );
