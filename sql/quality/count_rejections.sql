-- Purpose: rejected messages of each batch by reason.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch and reason
-- Rerun: selects only
SELECT
    r.batch_id,
    r.reason,
    COUNT(*) AS event_count
FROM staging.RejectedEvent AS r
WHERE r.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = r.batch_id AND b.state = 'judging')
GROUP BY r.batch_id, r.reason
ORDER BY r.batch_id, r.reason;
