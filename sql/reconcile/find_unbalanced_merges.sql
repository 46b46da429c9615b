-- Purpose: merges whose events don't add up: accepted when they were read = written + duplicate + superseded + conflict.
--   Merges before the first whose outcome was recorded are left out.
-- Parameters: @from DATETIME2(3), @to DATETIME2(3): when it was merged, half-open; @limit INT: most rows
-- Grain: one row a merge
-- Rerun: selects only
SELECT TOP (@limit)
    b.merge_id,
    COUNT(*) AS batches,
    SUM(b.event_count - b.rejected_count) AS accepted,
    SUM(
        COALESCE(o.written_count, 0) + COALESCE(o.duplicate_count, 0)
        + COALESCE(o.superseded_count, 0) + COALESCE(o.conflict_count, 0)
    ) AS accounted
FROM etl.Batch AS b
LEFT JOIN etl.BatchOutcome AS o
    ON o.batch_id = b.batch_id
WHERE b.merged_at >= @from
    AND b.merged_at < @to
    AND b.batch_id >= (SELECT MIN(f.batch_id) FROM etl.BatchOutcome AS f)
GROUP BY b.merge_id
HAVING SUM(b.event_count - b.rejected_count) <> SUM(
        COALESCE(o.written_count, 0) + COALESCE(o.duplicate_count, 0)
        + COALESCE(o.superseded_count, 0) + COALESCE(o.conflict_count, 0)
    )
ORDER BY MIN(b.batch_id);
