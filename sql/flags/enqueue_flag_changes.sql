-- Purpose: every change of can_serve or reason becomes a message, in the transaction that changes the flag.
-- Parameters: @as_of DATETIME2(3); @now DATETIME2(3)
-- Grain: one row a change
-- Rerun: runs once for a decision, before the flags are written
INSERT INTO etl.Outbox (
    advertiser_id,
    can_serve,
    reason,
    budget,
    spent_today,
    remaining,
    as_of,
    version,
    created_at,
    updated_at
)
SELECT
    d.advertiser_id,
    d.can_serve,
    d.reason,
    d.budget,
    d.spent_today,
    d.remaining,
    @as_of AS as_of,
    COALESCE(f.version, 0) + 1 AS version,
    @now AS created_at,
    @now AS updated_at
FROM staging.DecidedFlag AS d
LEFT JOIN ads.ServingFlag AS f
    ON f.advertiser_id = d.advertiser_id
WHERE f.advertiser_id IS NULL
    OR f.can_serve <> d.can_serve
    OR f.reason <> d.reason;
