-- Purpose: the newest message of an advertiser is the flag's own version: never a flag without its message,
--   never a message without its flag.
-- Parameters: none
-- Grain: one row a flag or message without the other
-- Rerun: selects only
SELECT
    f.advertiser_id,
    f.version,
    m.version AS message_version
FROM ads.ServingFlag AS f
LEFT JOIN (
    SELECT
        o.advertiser_id,
        MAX(o.version) AS version
    FROM etl.Outbox AS o
    GROUP BY o.advertiser_id
) AS m
    ON m.advertiser_id = f.advertiser_id
WHERE m.version IS NULL
    OR m.version <> f.version;
