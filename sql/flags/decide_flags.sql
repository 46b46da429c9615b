-- Purpose: decide for every advertiser whether it may serve at an instant; the first reason that holds counts.
--   It is decided on what is known: who has events in a held batch is marked as stale.
-- Parameters: @as_of DATETIME2(3); @day_start DATETIME2(3): midnight UTC of the day that holds as_of
-- Grain: one row an advertiser
-- Rerun: on a work table emptied at the transaction's start
INSERT INTO staging.DecidedFlag (advertiser_id, can_serve, reason, budget, spent_today, remaining, is_stale)
SELECT
    r.advertiser_id,
    CASE WHEN r.reason = 'ok' THEN 1 ELSE 0 END AS can_serve,
    r.reason,
    r.budget,
    r.spent_today,
    CASE WHEN r.budget > r.spent_today THEN r.budget - r.spent_today ELSE 0 END AS remaining,
    CASE WHEN h.advertiser_id IS NULL THEN 0 ELSE 1 END AS is_stale
FROM (
    SELECT
        a.advertiser_id,
        g.new_budget_value AS budget,
        COALESCE(s.gross_spend, 0) AS spent_today,
        CASE
            WHEN a.is_active = 0 OR a.is_inferred = 1 THEN 'inactive'
            WHEN g.new_budget_value IS NULL THEN 'no_budget'
            WHEN COALESCE(s.gross_spend, 0) >= g.new_budget_value THEN 'exhausted'
            ELSE 'ok'
        END AS reason
    FROM ads.Advertiser AS a
    LEFT JOIN ads.SpendSummary AS s
        ON s.advertiser_id = a.advertiser_id
            AND s.window_start = @day_start
            AND s.grain = 'day'
    OUTER APPLY (
        SELECT TOP 1 b.new_budget_value
        FROM ads.BudgetEvent AS b
        WHERE b.advertiser_id = a.advertiser_id
            AND b.event_time <= @as_of
        ORDER BY b.event_time DESC, b.updated_at DESC, LOWER(CAST(b.event_id AS CHAR(36))) DESC
    ) AS g
) AS r
LEFT JOIN (
    SELECT DISTINCT k.advertiser_id
    FROM etl.HeldAdvertiser AS k
    INNER JOIN etl.Batch AS q
        ON q.batch_id = k.batch_id
    WHERE q.state IN ('held', 'released')
) AS h
    ON h.advertiser_id = r.advertiser_id;
