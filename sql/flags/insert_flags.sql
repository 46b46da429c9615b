-- Purpose: flags of advertisers that had none.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @as_of DATETIME2(3); @now DATETIME2(3); @day DATE
-- Grain: one row an advertiser
-- Rerun: an advertiser with a flag is left out
INSERT INTO ads.ServingFlag (
    advertiser_id,
    can_serve,
    reason,
    budget,
    spent_today,
    remaining,
    day,
    as_of,
    version,
    is_stale,
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
    @day AS day,
    @as_of AS as_of,
    1 AS version,
    d.is_stale,
    @now AS created_at,
    @now AS updated_at
FROM staging.DecidedFlag AS d
WHERE NOT EXISTS (SELECT 1 FROM ads.ServingFlag AS f WHERE f.advertiser_id = d.advertiser_id)
ORDER BY d.advertiser_id;
