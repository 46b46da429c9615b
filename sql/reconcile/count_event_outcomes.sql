-- Purpose: how every event that was read ended, or where it waits: one line of the books a stream and state.
-- Parameters: @from DATETIME2(3), @to DATETIME2(3): when it was read, half-open
-- Grain: one row a stream and state of its batches
-- Rerun: selects only
SELECT
    b.stream,
    b.state,
    SUM(CAST(b.event_count AS BIGINT)) AS events,
    SUM(CAST(b.rejected_count + COALESCE(o.conflict_count, 0) AS BIGINT)) AS rejected,
    SUM(CAST(COALESCE(o.written_count, 0) AS BIGINT)) AS written,
    SUM(CAST(COALESCE(o.duplicate_count, 0) AS BIGINT)) AS duplicates,
    SUM(CAST(COALESCE(o.superseded_count, 0) AS BIGINT)) AS superseded
FROM etl.Batch AS b
LEFT JOIN etl.BatchOutcome AS o
    ON o.batch_id = b.batch_id
WHERE b.is_replay = 0
    AND b.created_at >= @from
    AND b.created_at < @to
GROUP BY b.stream, b.state;
