-- Purpose: the clicks of the batches that are being judged, by advertiser: most of what is measured is a sum of these.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge
-- Grain: one row a batch and advertiser
-- Rerun: on a work table emptied at the pass's start
INSERT INTO staging.ProfiledAdvertiser (
    batch_id,
    advertiser_id,
    click_count,
    invalid_count,
    zero_count,
    amount,
    amount_min,
    amount_max
)
SELECT
    s.batch_id,
    s.advertiser_id,
    COUNT(*) AS click_count,
    SUM(CASE WHEN s.is_valid = 0 THEN 1 ELSE 0 END) AS invalid_count,
    SUM(CASE WHEN s.amount = 0 THEN 1 ELSE 0 END) AS zero_count,
    SUM(s.amount) AS amount,
    MIN(s.amount) AS amount_min,
    MAX(s.amount) AS amount_max
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
GROUP BY s.batch_id, s.advertiser_id;
