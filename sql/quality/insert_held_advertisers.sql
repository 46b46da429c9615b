-- Purpose: remember who has events in the batches that are held now: their flags are decided without these.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches that were judged; @now DATETIME2(3)
-- Grain: one row a batch and advertiser
-- Rerun: who is remembered is left out
INSERT INTO etl.HeldAdvertiser (batch_id, advertiser_id, created_at)
SELECT
    e.batch_id,
    e.advertiser_id,
    @now AS created_at
FROM (
    SELECT
        c.batch_id,
        c.advertiser_id
    FROM staging.StagedClick AS c
    UNION
    SELECT
        d.batch_id,
        d.advertiser_id
    FROM staging.StagedBudget AS d
    UNION
    SELECT
        a.batch_id,
        a.advertiser_id
    FROM staging.StagedAdvertiser AS a
) AS e
WHERE e.batch_id BETWEEN @first_batch AND @last_batch
    AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = e.batch_id AND b.state = 'held')
    AND NOT EXISTS (
        SELECT 1 FROM etl.HeldAdvertiser AS h WHERE h.batch_id = e.batch_id AND h.advertiser_id = e.advertiser_id
    );
