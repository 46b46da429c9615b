-- Purpose: store the newest version of every ad that isn't stored yet.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an ad
-- Rerun: a stored key is left out
INSERT INTO ads.Ad (
    ad_id,
    advertiser_id,
    ad_title,
    ad_format,
    product_link,
    is_active,
    is_inferred,
    created_at,
    updated_at
)
SELECT
    v.ad_id,
    v.advertiser_id,
    v.ad_title,
    v.ad_format,
    v.product_link,
    v.is_active,
    0 AS is_inferred,
    @now AS created_at,
    v.updated_at
FROM staging.AdVersion AS v
WHERE v.standing = 'held'
    AND v.arrival > 0
    AND NOT EXISTS (SELECT 1 FROM ads.Ad AS c WHERE c.ad_id = v.ad_id)
ORDER BY v.ad_id;
