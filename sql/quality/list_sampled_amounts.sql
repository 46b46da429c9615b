-- Purpose: what clicks cost, of the first events of each batch: quantiles of these are close to those of all.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge; @sample INT: events of a batch
-- Grain: one row a click
-- Rerun: selects only
SELECT
    s.batch_id,
    s.amount
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND s.ordinal < @sample
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging');
