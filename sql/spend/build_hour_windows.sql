-- Purpose: the hour windows of the days being rebuilt, as docs/data-contract.md defines them:
--   an hour exists with a click, valid or not, or a budget event; billable is the highest level that
--   min(cumulative, budget) has reached that day, so a raised budget bills earlier over-delivery and a lowered
--   one un-bills nothing. Only the last budget before a day and the day's own are looked at, so history costs nothing.
-- Parameters: none
-- Grain: one row an advertiser and hour
-- Rerun: runs inside the rebuild's transaction, on a work table emptied at its start
INSERT INTO staging.BuiltWindow (
    advertiser_id,
    grain,
    window_start,
    window_end,
    day_start,
    is_last,
    click_count,
    gross_spend,
    invalid_spend,
    net_spend,
    budget_at_time,
    can_serve
)
SELECT
    w.advertiser_id,
    'hour' AS grain,
    w.time_key AS window_start,
    w.window_end,
    w.day_start,
    w.is_last,
    w.click_count,
    w.gross_spend,
    w.invalid_spend,
    w.billable - COALESCE(w.billable_before, 0) AS net_spend,
    w.budget_at_time,
    CASE WHEN w.budget_at_time IS NOT NULL AND w.cumulative < w.budget_at_time THEN 1 ELSE 0 END AS can_serve
FROM (
    SELECT
        l.advertiser_id,
        l.day_start,
        l.time_key,
        l.window_end,
        l.click_count,
        l.gross_spend,
        l.invalid_spend,
        l.budget_at_time,
        l.cumulative,
        l.billable,
        LAG(l.billable) OVER (PARTITION BY l.advertiser_id, l.day_start ORDER BY l.time_key) AS billable_before,
        CASE
            WHEN LEAD(l.time_key) OVER (PARTITION BY l.advertiser_id, l.day_start ORDER BY l.time_key) IS NULL
                THEN 1
            ELSE 0
        END AS is_last
    FROM (
        SELECT
            c.advertiser_id,
            c.day_start,
            c.time_key,
            c.window_end,
            c.click_count,
            c.gross_spend,
            c.invalid_spend,
            c.budget_at_time,
            c.cumulative,
            MAX(
                CASE
                    WHEN c.cumulative < COALESCE(c.budget_at_time, 0) THEN c.cumulative
                    ELSE COALESCE(c.budget_at_time, 0)
                END
            ) OVER (
                PARTITION BY c.advertiser_id, c.day_start
                ORDER BY c.time_key
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS billable
        FROM (
            SELECT
                h.advertiser_id,
                h.day_start,
                h.time_key,
                h.window_end,
                h.click_count,
                h.gross_spend,
                h.invalid_spend,
                g.new_budget_value AS budget_at_time,
                SUM(h.gross_spend) OVER (
                    PARTITION BY h.advertiser_id, h.day_start
                    ORDER BY h.time_key
                    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                ) AS cumulative
            FROM (
                SELECT
                    e.advertiser_id,
                    CAST(CAST(e.time_key AS DATE) AS DATETIME2(3)) AS day_start,
                    e.time_key,
                    DATEADD(HOUR, 1, e.time_key) AS window_end,
                    COUNT(*) AS click_count,
                    COALESCE(SUM(CASE WHEN e.is_valid = 1 THEN e.amount END), 0) AS gross_spend,
                    COALESCE(SUM(CASE WHEN e.is_valid = 0 THEN e.amount END), 0) AS invalid_spend
                FROM staging.RebuiltDay AS d
                INNER JOIN ads.ClickEvent AS e
                    ON e.advertiser_id = d.advertiser_id
                        AND e.time_key >= d.day_start
                        AND e.time_key < d.day_end
                GROUP BY e.advertiser_id, e.time_key
                UNION ALL
                SELECT DISTINCT
                    d.advertiser_id,
                    d.day_start,
                    b.time_key,
                    DATEADD(HOUR, 1, b.time_key) AS window_end,
                    0 AS click_count,
                    CAST(0 AS DECIMAL(19, 4)) AS gross_spend,
                    CAST(0 AS DECIMAL(19, 4)) AS invalid_spend
                FROM staging.RebuiltDay AS d
                INNER JOIN ads.BudgetEvent AS b
                    ON b.advertiser_id = d.advertiser_id
                        AND b.event_time >= d.day_start
                        AND b.event_time < d.day_end
                WHERE NOT EXISTS (
                        SELECT 1 FROM ads.ClickEvent AS e
                        WHERE e.advertiser_id = b.advertiser_id AND e.time_key = b.time_key
                    )
            ) AS h
            LEFT JOIN (
                SELECT
                    p.advertiser_id,
                    p.day_start,
                    p.new_budget_value,
                    p.event_time AS valid_from,
                    LEAD(p.event_time) OVER (
                        PARTITION BY p.advertiser_id, p.day_start
                        ORDER BY p.event_time, p.updated_at, p.event_key
                    ) AS valid_to
                FROM (
                    SELECT
                        d.advertiser_id,
                        d.day_start,
                        b.new_budget_value,
                        b.event_time,
                        b.updated_at,
                        LOWER(CAST(b.event_id AS CHAR(36))) AS event_key
                    FROM staging.RebuiltDay AS d
                    INNER JOIN ads.BudgetEvent AS b
                        ON b.advertiser_id = d.advertiser_id
                            AND b.event_time >= d.day_start
                            AND b.event_time < d.day_end
                    UNION ALL
                    SELECT
                        d.advertiser_id,
                        d.day_start,
                        o.new_budget_value,
                        o.event_time,
                        o.updated_at,
                        o.event_key
                    FROM staging.RebuiltDay AS d
                    CROSS APPLY (
                        SELECT TOP 1
                            b.new_budget_value,
                            b.event_time,
                            b.updated_at,
                            LOWER(CAST(b.event_id AS CHAR(36))) AS event_key
                        FROM ads.BudgetEvent AS b
                        WHERE b.advertiser_id = d.advertiser_id
                            AND b.event_time < d.day_start
                        ORDER BY b.event_time DESC, b.updated_at DESC, LOWER(CAST(b.event_id AS CHAR(36))) DESC
                    ) AS o
                ) AS p
            ) AS g
                ON g.advertiser_id = h.advertiser_id
                    AND g.day_start = h.day_start
                    AND g.valid_from < h.window_end
                    AND (g.valid_to IS NULL OR g.valid_to >= h.window_end)
        ) AS c
    ) AS l
) AS w;
