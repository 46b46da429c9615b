-- Purpose: flags that aren't what budgets and day windows give at the flag's own as_of, and advertisers without a flag.
-- Parameters: @limit INT: most rows
-- Grain: one row an advertiser
-- Rerun: selects only
SELECT TOP (@limit)
    r.advertiser_id,
    CASE WHEN r.reason = 'ok' THEN 1 ELSE 0 END AS can_serve,
    r.reason,
    r.budget,
    r.spent_today,
    r.flag_advertiser_id,
    r.found_can_serve,
    r.found_reason,
    r.found_budget,
    r.found_spent_today,
    r.found_remaining
FROM (
    SELECT
        a.advertiser_id,
        f.advertiser_id AS flag_advertiser_id,
        CAST(f.can_serve AS INT) AS found_can_serve,
        f.reason AS found_reason,
        f.budget AS found_budget,
        f.spent_today AS found_spent_today,
        f.remaining AS found_remaining,
        g.new_budget_value AS budget,
        COALESCE(s.gross_spend, 0) AS spent_today,
        CASE
            WHEN a.is_inferred = 1 OR a.is_active = 0 THEN 'inactive'
            WHEN g.new_budget_value IS NULL THEN 'no_budget'
            WHEN g.new_budget_value > COALESCE(s.gross_spend, 0) THEN 'ok'
            ELSE 'exhausted'
        END AS reason
    FROM ads.Advertiser AS a
    LEFT JOIN ads.ServingFlag AS f
        ON f.advertiser_id = a.advertiser_id
    LEFT JOIN ads.SpendSummary AS s
        ON s.advertiser_id = a.advertiser_id
            AND s.grain = 'day'
            AND s.window_start = CAST(CAST(f.as_of AS DATE) AS DATETIME2(3))
    OUTER APPLY (
        SELECT TOP 1 b.new_budget_value
        FROM ads.BudgetEvent AS b
        WHERE b.advertiser_id = a.advertiser_id
            AND b.event_time <= f.as_of
        ORDER BY b.event_time DESC, b.updated_at DESC, LOWER(CAST(b.event_id AS CHAR(36))) DESC
    ) AS g
) AS r
WHERE r.flag_advertiser_id IS NULL
    OR r.found_reason <> r.reason
    OR r.found_can_serve <> CASE WHEN r.reason = 'ok' THEN 1 ELSE 0 END
    OR r.found_spent_today <> r.spent_today
    OR r.found_budget <> r.budget
    OR (r.found_budget IS NULL AND r.budget IS NOT NULL)
    OR (r.found_budget IS NOT NULL AND r.budget IS NULL)
    OR r.found_remaining <> CASE WHEN r.budget > r.spent_today THEN r.budget - r.spent_today ELSE 0 END
ORDER BY r.advertiser_id;
