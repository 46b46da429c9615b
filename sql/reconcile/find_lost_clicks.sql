-- Purpose: clicks that were merged from batches which are still in staging and aren't in ads.ClickEvent as they came:
--   gone, older than what came, or of other content than the version that they say they are. A newer version than
--   the staged one came by another batch and is looked at there; what was rejected as a conflict is no witness.
-- Parameters: @first_batch BIGINT, @last_batch BIGINT: the batches to look at; @from DATETIME2(3), @to DATETIME2(3):
--   the hours to look at, half-open; @limit INT: most rows
-- Grain: one row a version of a click
-- Rerun: selects only
SELECT TOP (@limit)
    LOWER(CAST(s.click_id AS CHAR(36))) AS event_key,
    s.advertiser_id,
    s.ad_id,
    s.click_time AS event_time,
    s.time_key,
    s.amount,
    CAST(s.is_valid AS INT) AS is_valid,
    s.updated_at,
    e.advertiser_id AS found_advertiser_id,
    e.ad_id AS found_ad_id,
    e.click_time AS found_event_time,
    e.time_key AS found_time_key,
    e.amount AS found_amount,
    CAST(e.is_valid AS INT) AS found_is_valid,
    e.updated_at AS found_updated_at
FROM staging.StagedClick AS s
INNER JOIN etl.Batch AS b
    ON b.batch_id = s.batch_id
        AND b.state = 'merged'
LEFT JOIN etl.BatchOutcome AS o
    ON o.batch_id = b.batch_id
LEFT JOIN ads.ClickEvent AS e
    ON e.click_id = s.click_id
WHERE s.batch_id BETWEEN @first_batch AND @last_batch
    AND s.time_key >= @from
    AND s.time_key < @to
    AND (
        e.click_id IS NULL
        OR e.updated_at < s.updated_at
        OR (
            e.updated_at = s.updated_at
            AND (
                e.advertiser_id <> s.advertiser_id
                OR e.ad_id <> s.ad_id
                OR e.click_time <> s.click_time
                OR e.time_key <> s.time_key
                OR e.amount <> s.amount
                OR e.is_valid <> s.is_valid
            )
        )
    )
    AND NOT (b.is_replay = 1 AND COALESCE(o.conflict_count, 0) > 0)
    AND NOT EXISTS (
        SELECT 1 FROM staging.RejectedEvent AS r
        WHERE r.batch_id = s.batch_id AND r.ordinal = s.ordinal
    )
ORDER BY s.batch_id, s.ordinal;
