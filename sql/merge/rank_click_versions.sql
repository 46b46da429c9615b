-- Purpose: put all versions of each contested click in the order of their arrival and say how each stands:
--   held (the one to keep), passed (held until a newer one came), late (older than what was held),
--   equal (as new as what was held: a duplicate or a conflict). The stored version arrives first.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT, @merge_id BIGINT: the batches to merge
-- Grain: one row a version of a click
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.ClickVersion (
    click_id,
    advertiser_id,
    ad_id,
    click_time,
    time_key,
    amount,
    is_valid,
    updated_at,
    arrival,
    batch_id,
    ordinal,
    standing
)
SELECT
    r.click_id,
    r.advertiser_id,
    r.ad_id,
    r.click_time,
    r.time_key,
    r.amount,
    r.is_valid,
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
        v.click_id,
        v.advertiser_id,
        v.ad_id,
        v.click_time,
        v.time_key,
        v.amount,
        v.is_valid,
        v.updated_at,
        v.arrival,
        v.batch_id,
        v.ordinal,
        MAX(v.updated_at) OVER (
            PARTITION BY v.click_id ORDER BY v.arrival ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS best_before,
        MAX(v.updated_at) OVER (PARTITION BY v.click_id) AS best
    FROM (
        SELECT
            c.click_id,
            c.advertiser_id,
            c.ad_id,
            c.click_time,
            c.time_key,
            c.amount,
            c.is_valid,
            c.updated_at,
            CAST(0 AS BIGINT) AS arrival,
            CAST(NULL AS BIGINT) AS batch_id,
            CAST(NULL AS INT) AS ordinal
        FROM ads.ClickEvent AS c
        WHERE EXISTS (SELECT 1 FROM staging.ContestedClick AS k WHERE k.click_id = c.click_id)
        UNION ALL
        SELECT
            s.click_id,
            s.advertiser_id,
            s.ad_id,
            s.click_time,
            s.time_key,
            s.amount,
            s.is_valid,
            s.updated_at,
            ROW_NUMBER() OVER (ORDER BY s.batch_id, s.ordinal) AS arrival,
            s.batch_id,
            s.ordinal
        FROM staging.StagedClick AS s
        WHERE s.batch_id BETWEEN @first_batch AND @last_batch
            AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.merge_id = @merge_id)
            AND EXISTS (SELECT 1 FROM staging.ContestedClick AS k WHERE k.click_id = s.click_id)
    ) AS v
) AS r;
