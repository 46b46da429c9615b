-- Purpose: store the newest version of every advertiser that isn't stored yet.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser
-- Rerun: a stored key is left out
INSERT INTO ads.Advertiser (
    advertiser_id,
    name,
    industry,
    country,
    is_active,
    is_inferred,
    created_at,
    updated_at
)
SELECT
    v.advertiser_id,
    v.name,
    v.industry,
    v.country,
    v.is_active,
    0 AS is_inferred,
    @now AS created_at,
    v.updated_at
FROM staging.AdvertiserVersion AS v
WHERE v.standing = 'held'
    AND v.arrival > 0
    AND NOT EXISTS (SELECT 1 FROM ads.Advertiser AS c WHERE c.advertiser_id = v.advertiser_id)
ORDER BY v.advertiser_id;
