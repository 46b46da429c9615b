-- Purpose: how far back changes of flags are remembered.
-- Parameters: none
-- Grain: one row
-- Rerun: reads only
SELECT MIN(o.id) AS oldest_change
FROM etl.Outbox AS o;
