-- Purpose: an ad that clicks speak of before anybody announced it becomes an inferred member;
--   of several advertisers that clicks give it, the one with the smallest id, whatever came first.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an ad
-- Rerun: a known ad is left out
INSERT INTO ads.Ad (ad_id, advertiser_id, ad_title, is_active, is_inferred, created_at, updated_at)
SELECT
    m.ad_id,
    m.advertiser_id,
    'unknown' AS ad_title,
    0 AS is_active,
    1 AS is_inferred,
    @now AS created_at,
    @now AS updated_at
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
WHERE NOT EXISTS (SELECT 1 FROM ads.Ad AS a WHERE a.ad_id = m.ad_id)
ORDER BY m.ad_id DESC;
