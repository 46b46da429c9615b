-- Purpose: how many click messages ended how.
-- Parameters: none
-- Grain: one row a standing
-- Rerun: selects only
SELECT
    v.standing,
    COUNT(*) AS messages
FROM staging.ClickVersion AS v
WHERE v.arrival > 0
GROUP BY v.standing;
