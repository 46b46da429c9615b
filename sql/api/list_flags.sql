-- Purpose: all flags, and the last change of any that they include, as of one instant.
-- Parameters: none
-- Grain: one row an advertiser
-- Rerun: reads only
SELECT
    f.advertiser_id,
    f.can_serve,
    f.reason,
    f.budget,
    f.spent_today,
    f.remaining,
    f.day,
    f.as_of,
    f.version,
    f.is_stale,
    c.last_change
FROM ads.ServingFlag AS f
CROSS APPLY (
    SELECT COALESCE(MAX(o.id), 0) AS last_change
    FROM etl.Outbox AS o
) AS c
ORDER BY f.advertiser_id;
