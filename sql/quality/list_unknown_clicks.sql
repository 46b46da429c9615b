-- Purpose: clicks of advertisers that nobody announced: neither in ads, but for inferred ones, nor staged beside them.
-- Parameters: none
-- Grain: one row a batch that has any
-- Rerun: selects only
SELECT
    p.batch_id,
    SUM(p.click_count) AS click_count
FROM staging.ProfiledAdvertiser AS p
WHERE NOT EXISTS (SELECT 1 FROM ads.Advertiser AS a WHERE a.advertiser_id = p.advertiser_id AND a.is_inferred = 0)
    AND NOT EXISTS (
        SELECT 1
        FROM staging.StagedAdvertiser AS s
        INNER JOIN etl.Batch AS b
            ON b.batch_id = s.batch_id
        WHERE s.advertiser_id = p.advertiser_id
            AND b.state IN ('judging', 'passed', 'released')
    )
GROUP BY p.batch_id
ORDER BY p.batch_id;
