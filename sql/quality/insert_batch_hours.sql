-- Purpose: remember how many clicks each batch that is being judged has by hour: what the volume of this hour, and of
--   later days, is told by.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge; @now DATETIME2(3)
-- Grain: one row a batch and hour
-- Rerun: a batch is judged once, in one transaction
INSERT INTO etl.BatchHour (time_key, batch_id, click_count, created_at)
SELECT
    s.time_key,
    s.batch_id,
    COUNT(*) AS click_count,
    @now AS created_at
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.time_key, s.batch_id;
