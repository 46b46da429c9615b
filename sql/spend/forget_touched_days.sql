-- Purpose: the days that were just rebuilt need no rebuild any more.
-- Parameters: none
-- Grain: one row an advertiser and day
-- Rerun: what was deleted isn't there
DELETE FROM etl.TouchedDay
WHERE EXISTS (
        SELECT 1 FROM staging.RebuiltDay AS d
        WHERE d.advertiser_id = etl.TouchedDay.advertiser_id AND d.date_key = etl.TouchedDay.date_key
    );
