-- Purpose: the data checks at the end of the build look at the days that it rebuilt.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: none
-- Grain: one row an advertiser and day
-- Rerun: a remembered day is left out
INSERT INTO staging.CheckedDay (advertiser_id, date_key, day_start, day_end)
SELECT
    d.advertiser_id,
    d.date_key,
    d.day_start,
    d.day_end
FROM staging.RebuiltDay AS d
WHERE NOT EXISTS (
        SELECT 1 FROM staging.CheckedDay AS k
        WHERE k.advertiser_id = d.advertiser_id AND k.date_key = d.date_key
    )
ORDER BY d.date_key, d.advertiser_id;
