-- Purpose: what the clicks of each batch are like.
-- Parameters: none
-- Grain: one row a batch
-- Rerun: selects only
SELECT
    p.batch_id,
    SUM(p.click_count) AS click_count,
    SUM(p.invalid_count) AS invalid_count,
    SUM(p.zero_count) AS zero_count,
    SUM(p.amount) AS amount,
    MIN(p.amount_min) AS amount_min,
    MAX(p.amount_max) AS amount_max
FROM staging.ProfiledAdvertiser AS p
GROUP BY p.batch_id
ORDER BY p.batch_id;
