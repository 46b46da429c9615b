-- Purpose: write the decision; the version grows only where can_serve or reason changes.
-- Parameters: @as_of DATETIME2(3); @now DATETIME2(3); @day DATE
-- Grain: one row an advertiser
-- Rerun: the same decision again changes no version
UPDATE ads.ServingFlag
SET
    can_serve = d.can_serve,
    reason = d.reason,
    budget = d.budget,
    spent_today = d.spent_today,
    remaining = d.remaining,
    day = @day,
    as_of = @as_of,
    version = ads.ServingFlag.version + CASE
        WHEN ads.ServingFlag.can_serve <> d.can_serve OR ads.ServingFlag.reason <> d.reason THEN 1
        ELSE 0
    END,
    is_stale = d.is_stale,
    updated_at = @now
FROM staging.DecidedFlag AS d
WHERE ads.ServingFlag.advertiser_id = d.advertiser_id;
