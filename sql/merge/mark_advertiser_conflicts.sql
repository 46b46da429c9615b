-- Purpose: tell conflicts from duplicates: as new as what was held, but of other content (NULLs compare as equal).
--   SQL Server compares texts without their trailing spaces, so each is compared with a full stop after it, too;
--   by itself it tells NULL from empty.
-- Parameters: none
-- Grain: one row a version of an advertiser
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
UPDATE staging.AdvertiserVersion
SET standing = 'clash'
WHERE staging.AdvertiserVersion.standing = 'equal'
    AND EXISTS (
        SELECT 1 FROM staging.AdvertiserVersion AS h
        WHERE h.advertiser_id = staging.AdvertiserVersion.advertiser_id
            AND h.updated_at = staging.AdvertiserVersion.updated_at
            AND h.standing IN ('held', 'passed')
            AND EXISTS (
                SELECT
                    staging.AdvertiserVersion.name,
                    staging.AdvertiserVersion.industry,
                    staging.AdvertiserVersion.country,
                    staging.AdvertiserVersion.is_active,
                    CONCAT(staging.AdvertiserVersion.name, '.') AS name_end,
                    CONCAT(staging.AdvertiserVersion.industry, '.') AS industry_end
                EXCEPT
                SELECT
                    h.name,
                    h.industry,
                    h.country,
                    h.is_active,
                    CONCAT(h.name, '.') AS name_end,
                    CONCAT(h.industry, '.') AS industry_end
            )
    );
