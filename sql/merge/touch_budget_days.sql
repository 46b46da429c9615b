-- Purpose: a budget event touches its own day, and every later day that has windows up to the
--   advertiser's next budget event, that event's day included: its hours before the event depend on it too.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser and day
-- Rerun: a touched day is left out
INSERT INTO etl.TouchedDay (advertiser_id, date_key, created_at)
SELECT
    d.advertiser_id,
    d.date_key,
    @now AS created_at
FROM (
    SELECT
        p.advertiser_id,
        CAST(p.event_time AS DATE) AS date_key
    FROM staging.TouchedBudget AS p
    UNION
    SELECT
        p.advertiser_id,
        CAST(w.window_start AS DATE) AS date_key
    FROM staging.TouchedBudget AS p
    OUTER APPLY (
        SELECT TOP 1 b.event_time
        FROM ads.BudgetEvent AS b
        WHERE b.advertiser_id = p.advertiser_id
            AND b.event_time > p.event_time
        ORDER BY b.event_time
    ) AS n
    INNER JOIN ads.SpendSummary AS w
        ON w.advertiser_id = p.advertiser_id
            AND w.window_start > p.event_time
            AND (n.event_time IS NULL OR w.window_start <= n.event_time)
    WHERE w.grain = 'day'
) AS d
WHERE NOT EXISTS (
        SELECT 1 FROM etl.TouchedDay AS t WHERE t.advertiser_id = d.advertiser_id AND t.date_key = d.date_key
    )
ORDER BY d.date_key, d.advertiser_id;
