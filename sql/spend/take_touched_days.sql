-- Purpose: take the next days to rebuild, oldest first, with their bounds.
-- Parameters: @limit INT: most days in one transaction
-- Grain: one row an advertiser and day
-- Rerun: runs inside the rebuild's transaction, on a work table emptied at its start
INSERT INTO staging.RebuiltDay (advertiser_id, date_key, day_start, day_end)
SELECT TOP (@limit)
    t.advertiser_id,
    t.date_key,
    CAST(t.date_key AS DATETIME2(3)) AS day_start,
    DATEADD(DAY, 1, CAST(t.date_key AS DATETIME2(3))) AS day_end
FROM etl.TouchedDay AS t
ORDER BY t.date_key, t.advertiser_id;
