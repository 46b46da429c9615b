-- Purpose: give every stored budget its newest version.
-- Parameters: none
-- Grain: one row a budget
-- Rerun: the version that holds is stored again, to the same content
UPDATE ads.BudgetEvent
SET
    advertiser_id = v.advertiser_id,
    new_budget_value = v.new_budget_value,
    event_time = v.event_time,
    time_key = v.time_key,
    source = v.source,
    updated_at = v.updated_at
FROM staging.BudgetVersion AS v
WHERE ads.BudgetEvent.event_id = v.event_id
    AND v.standing = 'held'
    AND v.arrival > 0;
