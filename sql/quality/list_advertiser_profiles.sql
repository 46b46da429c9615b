-- Purpose: how many advertiser events each batch has, and how many of their optional fields are missing.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch
-- Rerun: selects only
SELECT
    s.batch_id,
    COUNT(*) AS advertiser_count,
    SUM(CASE WHEN s.industry IS NULL THEN 1 ELSE 0 END) + SUM(CASE WHEN s.country IS NULL THEN 1 ELSE 0 END) AS null_count
FROM staging.StagedAdvertiser AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.batch_id
ORDER BY s.batch_id;
