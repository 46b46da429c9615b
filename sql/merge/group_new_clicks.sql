-- Purpose: which advertisers, ads and days the uncontested clicks touch.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT, @merge_id BIGINT: the batches to merge
-- Grain: one row an advertiser, ad and day
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.NewClickGroup (advertiser_id, ad_id, date_key)
SELECT
    s.advertiser_id,
    s.ad_id,
    CAST(s.time_key AS DATE) AS date_key
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.merge_id = @merge_id)
    AND NOT EXISTS (SELECT 1 FROM staging.ContestedClick AS k WHERE k.click_id = s.click_id)
GROUP BY s.advertiser_id, s.ad_id, CAST(s.time_key AS DATE);
