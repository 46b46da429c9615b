-- Purpose: every click of a rebuilt day belongs to an advertiser and an ad that are there, inferred or real.
-- Parameters: none
-- Grain: one row an advertiser and ad without a row
-- Rerun: selects only
SELECT
    g.advertiser_id,
    g.ad_id
FROM (
    SELECT DISTINCT
        e.advertiser_id,
        e.ad_id
    FROM staging.CheckedDay AS k
    INNER JOIN ads.ClickEvent AS e
        ON e.advertiser_id = k.advertiser_id
            AND e.time_key >= k.day_start
            AND e.time_key < k.day_end
) AS g
WHERE NOT EXISTS (SELECT 1 FROM ads.Advertiser AS a WHERE a.advertiser_id = g.advertiser_id)
    OR NOT EXISTS (SELECT 1 FROM ads.Ad AS a WHERE a.ad_id = g.ad_id);
