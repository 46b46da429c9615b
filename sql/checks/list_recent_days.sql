-- Purpose: the days that ./spendgate status checks: all windows from an instant on.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @from DATETIME2(3)
-- Grain: one row an advertiser and day
-- Rerun: in a transaction that is rolled back
INSERT INTO staging.CheckedDay (advertiser_id, date_key, day_start, day_end)
SELECT
    w.advertiser_id,
    CAST(w.window_start AS DATE) AS date_key,
    w.window_start AS day_start,
    w.window_end AS day_end
FROM ads.SpendSummary AS w
WHERE w.grain = 'day'
    AND w.window_start >= @from
    AND NOT EXISTS (
        SELECT 1 FROM staging.CheckedDay AS k
        WHERE k.advertiser_id = w.advertiser_id AND k.day_start = w.window_start
    )
ORDER BY w.window_start, w.advertiser_id;
