-- Purpose: put all versions of each budget in the order of their arrival and say how each stands:
--   held (the one to keep), passed (held until a newer one came), late (older than what was held),
--   equal (as new as what was held: a duplicate or a conflict). The stored version arrives first.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT, @merge_id BIGINT: the batches to merge
-- Grain: one row a version of a budget
-- Rerun: runs inside the merge's transaction, on a work table emptied at its start
INSERT INTO staging.BudgetVersion (
    event_id,
    advertiser_id,
    new_budget_value,
    event_time,
    time_key,
    source,
    updated_at,
    arrival,
    batch_id,
    ordinal,
    standing
)
SELECT
    r.event_id,
    r.advertiser_id,
    r.new_budget_value,
    r.event_time,
    r.time_key,
    r.source,
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
        v.event_id,
        v.advertiser_id,
        v.new_budget_value,
        v.event_time,
        v.time_key,
        v.source,
        v.updated_at,
        v.arrival,
        v.batch_id,
        v.ordinal,
        MAX(v.updated_at) OVER (
            PARTITION BY v.event_id ORDER BY v.arrival ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS best_before,
        MAX(v.updated_at) OVER (PARTITION BY v.event_id) AS best
    FROM (
        SELECT
            c.event_id,
            c.advertiser_id,
            c.new_budget_value,
            c.event_time,
            c.time_key,
            c.source,
            c.updated_at,
            CAST(0 AS BIGINT) AS arrival,
            CAST(NULL AS BIGINT) AS batch_id,
            CAST(NULL AS INT) AS ordinal
        FROM ads.BudgetEvent AS c
        WHERE EXISTS (
            SELECT 1 FROM staging.StagedBudget AS k
            WHERE k.event_id = c.event_id
                AND k.batch_id BETWEEN @first_batch AND @last_batch
        )
        UNION ALL
        SELECT
            s.event_id,
            s.advertiser_id,
            s.new_budget_value,
            s.event_time,
            s.time_key,
            s.source,
            s.updated_at,
            ROW_NUMBER() OVER (ORDER BY s.batch_id, s.ordinal) AS arrival,
            s.batch_id,
            s.ordinal
        FROM staging.StagedBudget AS s
        WHERE s.batch_id BETWEEN @first_batch AND @last_batch
            AND EXISTS (SELECT 1 FROM etl.Batch AS b WHERE b.batch_id = s.batch_id AND b.merge_id = @merge_id)
    ) AS v
) AS r;
