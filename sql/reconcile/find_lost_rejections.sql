-- Purpose: batches whose rows in staging.RejectedEvent aren't as many as were rejected, when they were read and when they
--   were merged, less those that left by being accepted in a replay.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to look at; @limit INT: most rows
-- Grain: one row a batch
-- Rerun: selects only
SELECT TOP (@limit)
    b.batch_id,
    b.stream,
    b.partition_id,
    b.rejected_count + COALESCE(o.conflict_count, 0) - COALESCE(o.replayed_count, 0) AS rejected,
    COALESCE(n.kept_rows, 0) AS kept_rows
FROM etl.Batch AS b
LEFT JOIN etl.BatchOutcome AS o
    ON o.batch_id = b.batch_id
LEFT JOIN (
    SELECT
        r.batch_id,
        COUNT(*) AS kept_rows
    FROM staging.RejectedEvent AS r
    WHERE r.batch_id BETWEEN @first_batch AND @last_batch
    GROUP BY r.batch_id
) AS n
    ON n.batch_id = b.batch_id
WHERE b.batch_id BETWEEN @first_batch AND @last_batch
    AND b.is_replay = 0
    AND b.state <> 'discarded'
    AND EXISTS (SELECT 1 FROM staging.BatchPayload AS p WHERE p.batch_id = b.batch_id)
    AND (b.state <> 'merged' OR o.batch_id IS NOT NULL)
    AND b.rejected_count + COALESCE(o.conflict_count, 0) - COALESCE(o.replayed_count, 0) <> COALESCE(n.kept_rows, 0)
ORDER BY b.batch_id;
