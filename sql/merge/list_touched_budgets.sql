-- Purpose: instants at which a budget came, changed or left: touched days begin there.
-- Parameters: none
-- Grain: one row an advertiser and instant
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.TouchedBudget (advertiser_id, event_time)
SELECT DISTINCT
    v.advertiser_id,
    v.event_time
FROM staging.BudgetVersion AS v
WHERE (v.standing = 'held' AND v.arrival > 0)
    OR (v.standing = 'passed' AND v.arrival = 0);
