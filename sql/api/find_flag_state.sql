-- Purpose: what tells whether any flag was decided anew since the last look.
-- Parameters: none
-- Grain: one row
-- Rerun: reads only
SELECT
    COUNT(*) AS flag_count,
    MAX(f.updated_at) AS decided_at,
    COALESCE(SUM(f.version), 0) AS version_sum,
    MIN(f.as_of) AS oldest_as_of
FROM ads.ServingFlag AS f;
