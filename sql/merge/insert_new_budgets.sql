-- Purpose: store the newest version of every budget that isn't stored yet.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row a budget
-- Rerun: a stored key is left out
INSERT INTO ads.BudgetEvent (
    event_id,
    advertiser_id,
    new_budget_value,
    event_time,
    time_key,
    source,
    created_at,
    updated_at
)
SELECT
    v.event_id,
    v.advertiser_id,
    v.new_budget_value,
    v.event_time,
    v.time_key,
    v.source,
    @now AS created_at,
    v.updated_at
FROM staging.BudgetVersion AS v
WHERE v.standing = 'held'
    AND v.arrival > 0
    AND NOT EXISTS (SELECT 1 FROM ads.BudgetEvent AS c WHERE c.event_id = v.event_id)
ORDER BY v.event_id;
