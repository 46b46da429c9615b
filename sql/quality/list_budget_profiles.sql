-- Purpose: what the budgets of each batch are like, and what the stored ones that they follow were.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch
-- Rerun: selects only
SELECT
    s.batch_id,
    COUNT(*) AS budget_count,
    SUM(CASE WHEN s.source = 'unknown' THEN 1 ELSE 0 END) AS unnamed_count,
    MAX(s.new_budget_value) AS budget_max,
    SUM(CASE WHEN g.new_budget_value > 0 THEN 1 ELSE 0 END) AS compared_count,
    SUM(CASE WHEN g.new_budget_value > 0 THEN s.new_budget_value ELSE 0 END) AS budgets,
    SUM(COALESCE(g.new_budget_value, 0)) AS usual_budgets
FROM staging.StagedBudget AS s
OUTER APPLY (
    SELECT TOP 1 b.new_budget_value
    FROM ads.BudgetEvent AS b
    WHERE b.advertiser_id = s.advertiser_id
        AND b.event_time < s.event_time
    ORDER BY b.event_time DESC, b.updated_at DESC
) AS g
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.batch_id
ORDER BY s.batch_id;
