-- Purpose: who may serve now and why not, with names.
-- Parameters: none
-- Grain: one row an advertiser
-- Rerun: dropped and made again by every migrate
CREATE VIEW ads.CurrentServing AS
SELECT
    f.advertiser_id,
    a.name,
    f.can_serve,
    f.reason,
    f.budget,
    f.spent_today,
    f.remaining,
    f.day,
    f.as_of,
    f.version,
    f.is_stale
FROM ads.ServingFlag AS f
INNER JOIN ads.Advertiser AS a
    ON a.advertiser_id = f.advertiser_id;
