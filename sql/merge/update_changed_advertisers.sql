-- Purpose: give every stored advertiser its newest version and fill inferred members in.
-- Parameters: none
-- Grain: one row an advertiser
-- Rerun: the version that holds is stored again, to the same content
UPDATE ads.Advertiser
SET
    name = v.name,
    industry = v.industry,
    country = v.country,
    is_active = v.is_active,
    is_inferred = 0,
    updated_at = v.updated_at
FROM staging.AdvertiserVersion AS v
WHERE ads.Advertiser.advertiser_id = v.advertiser_id
    AND v.standing = 'held'
    AND v.arrival > 0;
