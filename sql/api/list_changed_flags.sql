-- Purpose: whose flag changed after a change.
-- Parameters: @after BIGINT: the change, a number of etl.Outbox
-- Grain: one row an advertiser
-- Rerun: reads only
SELECT DISTINCT o.advertiser_id
FROM etl.Outbox AS o
WHERE o.id > @after;
