-- Purpose: the click messages to reject as conflicting_duplicate.
-- Parameters: none
-- Grain: one row a message
-- Rerun: selects only
SELECT
    v.batch_id,
    v.ordinal
FROM staging.ClickVersion AS v
WHERE v.standing = 'clash'
ORDER BY v.arrival;
