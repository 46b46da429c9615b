-- Purpose: batches whose staged rows aren't as many as were accepted when they were read; purged batches have no payload.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to look at; @limit INT: most rows
-- Grain: one row a batch
-- Rerun: selects only
SELECT TOP (@limit)
    b.batch_id,
    b.stream,
    b.partition_id,
    b.event_count - b.rejected_count AS accepted,
    COALESCE(n.staged_rows, 0) AS staged_rows
FROM etl.Batch AS b
LEFT JOIN (
    SELECT
        s.batch_id,
        COUNT(*) AS staged_rows
    FROM (
        SELECT c.batch_id
        FROM staging.StagedClick AS c
        WHERE c.batch_id BETWEEN @first_batch AND @last_batch
        UNION ALL
        SELECT g.batch_id
        FROM staging.StagedBudget AS g
        WHERE g.batch_id BETWEEN @first_batch AND @last_batch
        UNION ALL
        SELECT a.batch_id
        FROM staging.StagedAdvertiser AS a
        WHERE a.batch_id BETWEEN @first_batch AND @last_batch
        UNION ALL
        SELECT d.batch_id
        FROM staging.StagedAd AS d
        WHERE d.batch_id BETWEEN @first_batch AND @last_batch
    ) AS s
    GROUP BY s.batch_id
) AS n
    ON n.batch_id = b.batch_id
WHERE b.batch_id BETWEEN @first_batch AND @last_batch
    AND b.state <> 'discarded'
    AND EXISTS (SELECT 1 FROM staging.BatchPayload AS p WHERE p.batch_id = b.batch_id)
    AND b.event_count - b.rejected_count <> COALESCE(n.staged_rows, 0)
ORDER BY b.batch_id;
