-- Purpose: the budget of an advertiser that holds at an instant.
-- Parameters: @advertiser_id INT; @at DATETIME2(3)
-- Grain: at most one row
-- Rerun: reads only
SELECT TOP 1
    b.event_id,
    b.new_budget_value,
    b.event_time,
    b.source
FROM ads.BudgetEvent AS b
WHERE b.advertiser_id = @advertiser_id
    AND b.event_time <= @at
ORDER BY b.event_time DESC, b.updated_at DESC, LOWER(CAST(b.event_id AS CHAR(36))) DESC;
