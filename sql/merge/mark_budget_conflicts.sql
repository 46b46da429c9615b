-- Purpose: tell conflicts from duplicates: as new as what was held, but of other content (NULLs compare as equal).
--   SQL Server compares texts without their trailing spaces, so each is compared with a full stop after it, too;
--   by itself it tells NULL from empty.
-- Parameters: none
-- Grain: one row a version of a budget
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
UPDATE staging.BudgetVersion
SET standing = 'clash'
WHERE staging.BudgetVersion.standing = 'equal'
    AND EXISTS (
        SELECT 1 FROM staging.BudgetVersion AS h
        WHERE h.event_id = staging.BudgetVersion.event_id
            AND h.updated_at = staging.BudgetVersion.updated_at
            AND h.standing IN ('held', 'passed')
            AND EXISTS (
                SELECT
                    staging.BudgetVersion.advertiser_id,
                    staging.BudgetVersion.new_budget_value,
                    staging.BudgetVersion.event_time,
                    staging.BudgetVersion.time_key,
                    staging.BudgetVersion.source,
                    CONCAT(staging.BudgetVersion.source, '.') AS source_end
                EXCEPT
                SELECT
                    h.advertiser_id,
                    h.new_budget_value,
                    h.event_time,
                    h.time_key,
                    h.source,
                    CONCAT(h.source, '.') AS source_end
            )
    );
