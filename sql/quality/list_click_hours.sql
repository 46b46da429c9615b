-- Purpose: what the clicks of each batch that is being judged are like, hour by hour: few rows, which are added up in
--   Python. How many there are is remembered in etl.BatchHour.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch and hour
-- Rerun: selects only
SELECT
    s.batch_id,
    s.time_key,
    COUNT(*) AS click_count,
    SUM(CASE WHEN s.is_valid = 0 THEN 1 ELSE 0 END) AS invalid_count,
    SUM(CASE WHEN s.amount = 0 THEN 1 ELSE 0 END) AS zero_count,
    SUM(s.amount) AS amount,
    MIN(s.amount) AS amount_min,
    MAX(s.amount) AS amount_max
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.batch_id, s.time_key
ORDER BY s.batch_id, s.time_key;
