-- Purpose: tell conflicts from duplicates: as new as what was held, but of other content (NULLs compare as equal).
--   SQL Server compares texts without their trailing spaces, so each is compared with a full stop after it, too;
--   by itself it tells NULL from empty.
-- Parameters: none
-- Grain: one row a version of an ad
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
UPDATE staging.AdVersion
SET standing = 'clash'
WHERE staging.AdVersion.standing = 'equal'
    AND EXISTS (
        SELECT 1 FROM staging.AdVersion AS h
        WHERE h.ad_id = staging.AdVersion.ad_id
            AND h.updated_at = staging.AdVersion.updated_at
            AND h.standing IN ('held', 'passed')
            AND EXISTS (
                SELECT
                    staging.AdVersion.advertiser_id,
                    staging.AdVersion.ad_title,
                    staging.AdVersion.ad_format,
                    staging.AdVersion.product_link,
                    staging.AdVersion.is_active,
                    CONCAT(staging.AdVersion.ad_title, '.') AS ad_title_end,
                    CONCAT(staging.AdVersion.ad_format, '.') AS ad_format_end,
                    CONCAT(staging.AdVersion.product_link, '.') AS product_link_end
                EXCEPT
                SELECT
                    h.advertiser_id,
                    h.ad_title,
                    h.ad_format,
                    h.product_link,
                    h.is_active,
                    CONCAT(h.ad_title, '.') AS ad_title_end,
                    CONCAT(h.ad_format, '.') AS ad_format_end,
                    CONCAT(h.product_link, '.') AS product_link_end
            )
    );
