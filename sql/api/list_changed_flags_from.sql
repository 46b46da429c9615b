-- Purpose: whose flag changed at an instant or later.
-- Parameters: @since DATETIME2(3)
-- Grain: one row an advertiser
-- Rerun: reads only
SELECT DISTINCT o.advertiser_id
FROM etl.Outbox AS o
WHERE o.created_at >= @since;
