-- Purpose: how many budget messages ended how.
-- Parameters: none
-- Grain: one row a standing
-- Rerun: selects only
SELECT
    v.standing,
    COUNT(*) AS messages
FROM staging.BudgetVersion AS v
WHERE v.arrival > 0
GROUP BY v.standing;
