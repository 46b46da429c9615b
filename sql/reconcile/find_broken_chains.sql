-- Purpose: batches that don't begin where the batch before them of the same partition and epoch ended: a position was
--   moved by hand. A batch that was merged before outcomes were recorded may be followed by a step that was not
--   recorded either, and is left out.
-- Parameters: @from DATETIME2(3), @to DATETIME2(3): when the batch was read, half-open; @limit INT: most rows
-- Grain: one row a batch
-- Rerun: selects only
SELECT TOP (@limit)
    b.batch_id,
    b.stream,
    b.partition_id,
    b.epoch,
    b.from_position,
    p.batch_id AS batch_before,
    p.to_position AS position_before
FROM etl.Batch AS b
CROSS APPLY (
    SELECT TOP 1
        q.batch_id,
        q.to_position,
        q.state
    FROM etl.Batch AS q
    WHERE q.stream = b.stream
        AND q.partition_id = b.partition_id
        AND q.epoch = b.epoch
        AND q.batch_id < b.batch_id
        AND q.is_replay = 0
    ORDER BY q.batch_id DESC
) AS p
WHERE b.is_replay = 0
    AND b.created_at >= @from
    AND b.created_at < @to
    AND b.from_position <> p.to_position
    AND (p.state <> 'merged' OR EXISTS (SELECT 1 FROM etl.BatchOutcome AS o WHERE o.batch_id = p.batch_id))
ORDER BY b.batch_id;
