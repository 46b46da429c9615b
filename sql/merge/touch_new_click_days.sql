-- Purpose: the days that uncontested clicks touch have to be rebuilt.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser and day
-- Rerun: a touched day is left out
INSERT INTO etl.TouchedDay (advertiser_id, date_key, created_at)
SELECT DISTINCT
    g.advertiser_id,
    g.date_key,
    @now AS created_at
FROM staging.NewClickGroup AS g
WHERE NOT EXISTS (
        SELECT 1 FROM etl.TouchedDay AS t WHERE t.advertiser_id = g.advertiser_id AND t.date_key = g.date_key
    );
