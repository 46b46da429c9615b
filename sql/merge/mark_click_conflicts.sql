-- Purpose: tell conflicts from duplicates: as new as what was held, but of other content (NULLs compare as equal).
-- Parameters: none
-- Grain: one row a version of a click
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
UPDATE staging.ClickVersion
SET standing = 'clash'
WHERE staging.ClickVersion.standing = 'equal'
    AND EXISTS (
        SELECT 1 FROM staging.ClickVersion AS h
        WHERE h.click_id = staging.ClickVersion.click_id
            AND h.updated_at = staging.ClickVersion.updated_at
            AND h.standing IN ('held', 'passed')
            AND EXISTS (
                SELECT
                    staging.ClickVersion.advertiser_id,
                    staging.ClickVersion.ad_id,
                    staging.ClickVersion.click_time,
                    staging.ClickVersion.time_key,
                    staging.ClickVersion.amount,
                    staging.ClickVersion.is_valid
                EXCEPT
                SELECT h.advertiser_id, h.ad_id, h.click_time, h.time_key, h.amount, h.is_valid
            )
    );
