-- Purpose: an hour window is an hour long, a day window a day.
-- Parameters: none
-- Grain: one row a wrong window
-- Rerun: selects only
SELECT
    w.advertiser_id,
    w.grain,
    w.window_start,
    w.window_end
FROM staging.CheckedDay AS k
INNER JOIN ads.SpendSummary AS w
    ON w.advertiser_id = k.advertiser_id
        AND w.window_start >= k.day_start
        AND w.window_start < k.day_end
WHERE (w.grain = 'hour' AND w.window_end <> DATEADD(HOUR, 1, w.window_start))
    OR (w.grain = 'day' AND w.window_end <> DATEADD(DAY, 1, w.window_start))
    OR w.grain NOT IN ('hour', 'day');
