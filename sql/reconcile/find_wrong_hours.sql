-- Purpose: hour windows that aren't what clicks and budgets give, computed in another way than sql/spend does: all events in
--   one pile, each hour's budget looked up in all of history, and net as what the hour's level, min(cumulative, budget),
--   rises above every level before it that day. Days that wait to be rebuilt are left out.
-- Parameters: @from DATETIME2(3), @to DATETIME2(3): whole days, half-open; @limit INT: most rows
-- Grain: one row an advertiser and hour that differs
-- Rerun: selects only
SELECT TOP (@limit)
    x.advertiser_id,
    x.window_start,
    SUM(CASE WHEN x.side = 1 THEN 1 ELSE 0 END) AS expected_rows,
    SUM(CASE WHEN x.side = 2 THEN 1 ELSE 0 END) AS found_rows,
    MAX(CASE WHEN x.side = 1 THEN x.click_count END) AS click_count,
    CAST(MAX(CASE WHEN x.side = 1 THEN x.gross_spend END) AS DECIMAL(28, 4)) AS gross_spend,
    CAST(MAX(CASE WHEN x.side = 1 THEN x.invalid_spend END) AS DECIMAL(28, 4)) AS invalid_spend,
    CAST(MAX(CASE WHEN x.side = 1 THEN x.net_spend END) AS DECIMAL(28, 4)) AS net_spend,
    CAST(MAX(CASE WHEN x.side = 1 THEN x.budget_at_time END) AS DECIMAL(28, 4)) AS budget_at_time,
    MAX(CASE WHEN x.side = 1 THEN x.can_serve END) AS can_serve,
    MAX(CASE WHEN x.side = 2 THEN x.click_count END) AS found_click_count,
    CAST(MAX(CASE WHEN x.side = 2 THEN x.gross_spend END) AS DECIMAL(28, 4)) AS found_gross_spend,
    CAST(MAX(CASE WHEN x.side = 2 THEN x.invalid_spend END) AS DECIMAL(28, 4)) AS found_invalid_spend,
    CAST(MAX(CASE WHEN x.side = 2 THEN x.net_spend END) AS DECIMAL(28, 4)) AS found_net_spend,
    CAST(MAX(CASE WHEN x.side = 2 THEN x.budget_at_time END) AS DECIMAL(28, 4)) AS found_budget_at_time,
    MAX(CASE WHEN x.side = 2 THEN x.can_serve END) AS found_can_serve
FROM (
    SELECT
        1 AS side,
        m.advertiser_id,
        m.time_key AS window_start,
        DATEADD(HOUR, 1, m.time_key) AS window_end,
        m.click_count,
        m.gross_spend,
        m.invalid_spend,
        CASE
            WHEN m.level > COALESCE(m.level_before, 0) THEN m.level - COALESCE(m.level_before, 0)
            ELSE 0
        END AS net_spend,
        m.budget_at_time,
        CASE WHEN m.cumulative < m.budget_at_time THEN 1 ELSE 0 END AS can_serve
    FROM (
        SELECT
            l.advertiser_id,
            l.time_key,
            l.click_count,
            l.gross_spend,
            l.invalid_spend,
            l.budget_at_time,
            l.cumulative,
            l.level,
            MAX(l.level) OVER (
                PARTITION BY l.advertiser_id, l.day_start
                ORDER BY l.time_key
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS level_before
        FROM (
            SELECT
                c.advertiser_id,
                c.day_start,
                c.time_key,
                c.click_count,
                c.gross_spend,
                c.invalid_spend,
                c.budget_at_time,
                c.cumulative,
                CASE
                    WHEN c.budget_at_time IS NULL THEN 0
                    WHEN c.cumulative < c.budget_at_time THEN c.cumulative
                    ELSE c.budget_at_time
                END AS level
            FROM (
                SELECT
                    h.advertiser_id,
                    CAST(CAST(h.time_key AS DATE) AS DATETIME2(3)) AS day_start,
                    h.time_key,
                    h.click_count,
                    h.gross_spend,
                    h.invalid_spend,
                    g.new_budget_value AS budget_at_time,
                    SUM(h.gross_spend) OVER (
                        PARTITION BY h.advertiser_id, CAST(h.time_key AS DATE)
                        ORDER BY h.time_key
                        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                    ) AS cumulative
                FROM (
                    SELECT
                        v.advertiser_id,
                        v.time_key,
                        SUM(v.clicks) AS click_count,
                        SUM(v.gross) AS gross_spend,
                        SUM(v.invalid) AS invalid_spend
                    FROM (
                        SELECT
                            e.advertiser_id,
                            e.time_key,
                            1 AS clicks,
                            CASE WHEN e.is_valid = 1 THEN e.amount ELSE 0 END AS gross,
                            CASE WHEN e.is_valid = 1 THEN 0 ELSE e.amount END AS invalid
                        FROM ads.ClickEvent AS e
                        WHERE e.time_key >= @from
                            AND e.time_key < @to
                        UNION ALL
                        SELECT
                            b.advertiser_id,
                            b.time_key,
                            0 AS clicks,
                            0 AS gross,
                            0 AS invalid
                        FROM ads.BudgetEvent AS b
                        WHERE b.time_key >= @from
                            AND b.time_key < @to
                    ) AS v
                    GROUP BY v.advertiser_id, v.time_key
                ) AS h
                OUTER APPLY (
                    SELECT TOP 1 b.new_budget_value
                    FROM ads.BudgetEvent AS b
                    WHERE b.advertiser_id = h.advertiser_id
                        AND b.event_time < DATEADD(HOUR, 1, h.time_key)
                    ORDER BY b.event_time DESC, b.updated_at DESC, LOWER(CAST(b.event_id AS CHAR(36))) DESC
                ) AS g
            ) AS c
        ) AS l
    ) AS m
    UNION ALL
    SELECT
        2 AS side,
        s.advertiser_id,
        s.window_start,
        s.window_end,
        s.click_count,
        s.gross_spend,
        s.invalid_spend,
        s.net_spend,
        s.budget_at_time,
        CAST(s.can_serve AS INT) AS can_serve
    FROM ads.SpendSummary AS s
    WHERE s.grain = 'hour'
        AND s.window_start >= @from
        AND s.window_start < @to
) AS x
WHERE NOT EXISTS (
        SELECT 1 FROM etl.TouchedDay AS t
        WHERE t.advertiser_id = x.advertiser_id AND t.date_key = CAST(x.window_start AS DATE)
    )
GROUP BY x.advertiser_id, x.window_start
HAVING COUNT(*) <> 2
    OR MIN(x.window_end) <> MAX(x.window_end)
    OR MIN(x.click_count) <> MAX(x.click_count)
    OR MIN(x.gross_spend) <> MAX(x.gross_spend)
    OR MIN(x.invalid_spend) <> MAX(x.invalid_spend)
    OR MIN(x.net_spend) <> MAX(x.net_spend)
    OR MIN(x.budget_at_time) <> MAX(x.budget_at_time)
    OR MIN(x.can_serve) <> MAX(x.can_serve)
    OR COUNT(x.budget_at_time) = 1
ORDER BY x.advertiser_id, x.window_start;
