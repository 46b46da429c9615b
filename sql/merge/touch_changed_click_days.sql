-- Purpose: a changed click touches the day it is in now and the day it was in before.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser and day
-- Rerun: a touched day is left out
INSERT INTO etl.TouchedDay (advertiser_id, date_key, created_at)
SELECT DISTINCT
    v.advertiser_id,
    CAST(v.time_key AS DATE) AS date_key,
    @now AS created_at
FROM staging.ClickVersion AS v
WHERE ((v.standing = 'held' AND v.arrival > 0) OR (v.standing = 'passed' AND v.arrival = 0))
    AND NOT EXISTS (
        SELECT 1 FROM etl.TouchedDay AS t
        WHERE t.advertiser_id = v.advertiser_id AND t.date_key = CAST(v.time_key AS DATE)
    );
