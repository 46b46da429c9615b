-- Purpose: how many click messages of each batch ended how.
-- Parameters: none
-- Grain: one row a batch and standing
-- Rerun: selects only
SELECT
    v.batch_id,
    v.standing,
    COUNT(*) AS messages
FROM staging.ClickVersion AS v
WHERE v.arrival > 0
GROUP BY v.batch_id, v.standing;
