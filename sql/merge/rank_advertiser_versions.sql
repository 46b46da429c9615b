-- Purpose: put all versions of each advertiser in the order of their arrival and say how each stands:
--   held (the one to keep), passed (held until a newer one came), late (older than what was held),
--   equal (as new as what was held: a duplicate or a conflict). The stored version arrives first;
--   an inferred member is no version, so a real row of any age replaces it.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT, @merge_id BIGINT: the batches to merge
-- Grain: one row a version of an advertiser
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.AdvertiserVersion (
    advertiser_id,
    name,
    industry,
    country,
    is_active,
    updated_at,
    arrival,
    batch_id,
    ordinal,
    standing
)
SELECT
    r.advertiser_id,
    r.name,
    r.industry,
    r.country,
    r.is_active,
    r.updated_at,
    r.arrival,
    r.batch_id,
    r.ordinal,
    CASE
        WHEN r.updated_at = r.best_before THEN 'equal'
        WHEN r.updated_at < r.best_before THEN 'late'
        WHEN r.updated_at < r.best THEN 'passed'
        ELSE 'held'
    END AS standing
FROM (
    SELECT
        v.advertiser_id,
        v.name,
        v.industry,
        v.country,
        v.is_active,
        v.updated_at,
        v.arrival,
        v.batch_id,
        v.ordinal,
        MAX(v.updated_at) OVER (
            PARTITION BY v.advertiser_id ORDER BY v.arrival ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS best_before,
        MAX(v.updated_at) OVER (PARTITION BY v.advertiser_id) AS best
    FROM (
        SELECT
            c.advertiser_id,
            c.name,
            c.industry,
            c.country,
            c.is_active,
            c.updated_at,
            CAST(0 AS BIGINT) AS arrival,
            CAST(NULL AS BIGINT) AS batch_id,
            CAST(NULL AS INT) AS ordinal
        FROM ads.Advertiser AS c
        WHERE EXISTS (
            SELECT 1 FROM staging.StagedAdvertiser AS k
            WHERE k.advertiser_id = c.advertiser_id
                AND k.batch_id BETWEEN @first_batch AND @last_batch
        )
            AND c.is_inferred = 0
        UNION ALL
        SELECT
            s.advertiser_id,
            s.name,
            s.industry,
            s.country,
            s.is_active,
            s.updated_at,
            ROW_NUMBER() OVER (ORDER BY s.batch_id, s.ordinal) AS arrival,
            s.batch_id,
            s.ordinal
        FROM staging.StagedAdvertiser AS s
        WHERE s.batch_id BETWEEN @first_batch AND @last_batch
            AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.merge_id = @merge_id)
    ) AS v
) AS r;
