-- Purpose: partitions whose next read wouldn't begin where their newest batch ended. A batch that was merged before
--   outcomes were recorded is left out, as in find_broken_chains.
-- Parameters: @limit INT: most rows
-- Grain: one row a partition
-- Rerun: selects only
SELECT TOP (@limit)
    p.stream,
    p.partition_id,
    p.epoch,
    p.position,
    b.batch_id,
    b.to_position
FROM etl.StreamPosition AS p
CROSS APPLY (
    SELECT TOP 1
        q.batch_id,
        q.to_position,
        q.state
    FROM etl.Batch AS q
    WHERE q.stream = p.stream
        AND q.partition_id = p.partition_id
        AND q.epoch = p.epoch
        AND q.is_replay = 0
    ORDER BY q.batch_id DESC
) AS b
WHERE (p.position IS NULL OR p.position <> b.to_position)
    AND (b.state <> 'merged' OR EXISTS (SELECT 1 FROM etl.BatchOutcome AS o WHERE o.batch_id = b.batch_id))
ORDER BY p.stream, p.partition_id;
