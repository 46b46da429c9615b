-- Purpose: a topic that was made anew knows nothing: send every flag again as it is.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser
-- Rerun: sends once more; consumers keep the greatest version
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
    f.advertiser_id,
    f.can_serve,
    f.reason,
    f.budget,
    f.spent_today,
    f.remaining,
    f.as_of,
    f.version,
    @now AS created_at,
    @now AS updated_at
FROM ads.ServingFlag AS f;
