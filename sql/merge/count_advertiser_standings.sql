-- Purpose: how many advertiser messages ended how.
-- Parameters: none
-- Grain: one row a standing
-- Rerun: selects only
SELECT
    v.standing,
    COUNT(*) AS messages
FROM staging.AdvertiserVersion AS v
WHERE v.arrival > 0
GROUP BY v.standing;
