-- Purpose: keep an inferred ad with the smallest advertiser id that any click gave it, whatever came first.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an inferred ad
-- Rerun: an ad that has the smallest already is left alone
UPDATE ads.Ad
SET
    advertiser_id = m.advertiser_id,
    updated_at = @now
FROM (
    SELECT
        n.ad_id,
        MIN(n.advertiser_id) AS advertiser_id
    FROM (
        SELECT g.ad_id, g.advertiser_id FROM staging.NewClickGroup AS g
        UNION
        SELECT v.ad_id, v.advertiser_id FROM staging.ClickVersion AS v WHERE v.arrival > 0 AND v.standing <> 'clash'
    ) AS n
    GROUP BY n.ad_id
) AS m
WHERE ads.Ad.ad_id = m.ad_id
    AND ads.Ad.is_inferred = 1
    AND ads.Ad.advertiser_id > m.advertiser_id;
