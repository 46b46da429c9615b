-- Purpose: give every stored ad its newest version and fill inferred members in.
-- Parameters: none
-- Grain: one row an ad
-- Rerun: the version that holds is stored again, to the same content
UPDATE ads.Ad
SET
    advertiser_id = v.advertiser_id,
    ad_title = v.ad_title,
    ad_format = v.ad_format,
    product_link = v.product_link,
    is_active = v.is_active,
    is_inferred = 0,
    updated_at = v.updated_at
FROM staging.AdVersion AS v
WHERE ads.Ad.ad_id = v.ad_id
    AND v.standing = 'held'
    AND v.arrival > 0;
