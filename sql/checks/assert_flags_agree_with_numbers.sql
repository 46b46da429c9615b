-- Purpose: a flag's can_serve, reason and remaining follow from its own numbers.
-- Parameters: none
-- Grain: one row a wrong flag
-- Rerun: selects only
SELECT
    f.advertiser_id,
    f.can_serve,
    f.reason,
    f.budget,
    f.spent_today,
    f.remaining
FROM ads.ServingFlag AS f
WHERE f.can_serve <> CASE WHEN f.reason = 'ok' THEN 1 ELSE 0 END
    OR f.remaining <> CASE WHEN f.budget > f.spent_today THEN f.budget - f.spent_today ELSE 0 END
    OR (f.reason = 'no_budget' AND f.budget IS NOT NULL)
    OR (f.reason IN ('ok', 'exhausted') AND f.budget IS NULL)
    OR (f.reason = 'ok' AND f.spent_today >= f.budget)
    OR (f.reason = 'exhausted' AND f.spent_today < f.budget)
    OR f.reason NOT IN ('ok', 'exhausted', 'no_budget', 'inactive');
