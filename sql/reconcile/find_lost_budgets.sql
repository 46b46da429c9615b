-- Purpose: budget events that were merged from batches which are still in staging and aren't in ads.BudgetEvent as they
--   came; as find_lost_clicks.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to look at; @from DATETIME2(3), @to DATETIME2(3):
--   the hours to look at, half-open; @limit INT: most rows
-- Grain: one row a version of a budget event
-- Rerun: selects only
SELECT TOP (@limit)
    LOWER(CAST(s.event_id AS CHAR(36))) AS event_key,
    s.advertiser_id,
    s.event_time,
    s.time_key,
    s.new_budget_value,
    s.source,
    s.updated_at,
    e.advertiser_id AS found_advertiser_id,
    e.event_time AS found_event_time,
    e.time_key AS found_time_key,
    e.new_budget_value AS found_new_budget_value,
    e.source AS found_source,
    e.updated_at AS found_updated_at
FROM staging.StagedBudget AS s
INNER JOIN etl.Batch AS b
    ON b.batch_id = s.batch_id
        AND b.state = 'merged'
LEFT JOIN etl.BatchOutcome AS o
    ON o.batch_id = b.batch_id
LEFT JOIN ads.BudgetEvent AS e
    ON e.event_id = s.event_id
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND s.time_key >= @from
    AND s.time_key < @to
    AND (
        e.event_id IS NULL
        OR e.updated_at < s.updated_at
        OR (
            e.updated_at = s.updated_at
            AND (
                e.advertiser_id <> s.advertiser_id
                OR e.event_time <> s.event_time
                OR e.time_key <> s.time_key
                OR e.new_budget_value <> s.new_budget_value
                OR CONCAT(e.source, '.') <> CONCAT(s.source, '.')
            )
        )
    )
    AND NOT (b.is_replay = 1 AND COALESCE(o.conflict_count, 0) > 0)
    AND NOT EXISTS (
        SELECT 1 FROM staging.RejectedEvent AS r
        WHERE r.batch_id = s.batch_id AND r.ordinal = s.ordinal
    )
ORDER BY s.batch_id, s.ordinal;
