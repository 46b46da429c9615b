-- Purpose: clicks that were stored since the oldest merge whose batches are all in staging, in a version that none of
--   them brought: nobody sent them.
-- Parameters: @stored_after DATETIME2(3): merges after this instant are in staging; @from DATETIME2(3),
--   @to DATETIME2(3): the hours to look at, half-open; @limit INT: most rows
-- Grain: one row a click
-- Rerun: selects only
SELECT TOP (@limit)
    LOWER(CAST(e.click_id AS CHAR(36))) AS event_key,
    e.advertiser_id,
    e.time_key,
    e.amount,
    e.updated_at
FROM ads.ClickEvent AS e
WHERE e.time_key >= @from
    AND e.time_key < @to
    AND e.created_at > @stored_after
    AND NOT EXISTS (
        SELECT 1 FROM staging.StagedClick AS s
        INNER JOIN etl.Batch AS b
            ON b.batch_id = s.batch_id
                AND b.state = 'merged'
        WHERE s.click_id = e.click_id AND s.updated_at = e.updated_at
    )
ORDER BY e.click_id;
