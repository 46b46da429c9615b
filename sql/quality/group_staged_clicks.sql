-- Purpose: the clicks of the batches that are being judged, by advertiser.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch and advertiser
-- Rerun: on a work table emptied before it
INSERT INTO staging.ProfiledAdvertiser (batch_id, advertiser_id, click_count, amount)
SELECT
    s.batch_id,
    s.advertiser_id,
    COUNT(*) AS click_count,
    SUM(s.amount) AS amount
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.batch_id, s.advertiser_id;
