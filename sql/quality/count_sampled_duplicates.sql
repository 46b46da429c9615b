-- Purpose: of the first events of each batch, how many clicks there are, how many different versions of clicks these
--   are, and how many of those are stored already.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to judge; @sample INT: events of a batch
-- Grain: one row a batch
-- Rerun: selects only
SELECT
    g.batch_id,
    SUM(g.copies) AS click_count,
    COUNT(*) AS version_count,
    SUM(CASE WHEN c.click_id IS NULL THEN 0 ELSE 1 END) AS stored_count
FROM (
    SELECT
        s.batch_id,
        s.click_id,
        s.updated_at,
        COUNT(*) AS copies
    FROM staging.StagedClick AS s
    WHERE s.batch_id BETWEEN @first_batch AND @last_batch
        AND s.ordinal < @sample
        AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.state = 'judging')
    GROUP BY s.batch_id, s.click_id, s.updated_at
) AS g
LEFT JOIN ads.ClickEvent AS c
    ON c.click_id = g.click_id
        AND c.updated_at = g.updated_at
GROUP BY g.batch_id
ORDER BY g.batch_id;
