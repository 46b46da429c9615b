-- Purpose: find clicks that are stored already; what comes now is a duplicate, a correction or a conflict.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT, @merge_id BIGINT: the batches to merge
-- Grain: one row a click
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.ContestedClick (click_id)
SELECT s.click_id
FROM staging.StagedClick AS s
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.merge_id = @merge_id)
    AND EXISTS (SELECT 1 FROM ads.ClickEvent AS c WHERE c.click_id = s.click_id);
