-- Purpose: the day windows: sums of the hours; the budget is the last hour's, because every budget
--   event has an hour window of its own.
-- Parameters: none
-- Grain: one row an advertiser and day
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
    s.advertiser_id,
    'day' AS grain,
    s.day_start AS window_start,
    DATEADD(DAY, 1, s.day_start) AS window_end,
    s.day_start,
    1 AS is_last,
    s.click_count,
    s.gross_spend,
    s.invalid_spend,
    s.net_spend,
    s.budget_at_time,
    CASE WHEN s.budget_at_time IS NOT NULL AND s.gross_spend < s.budget_at_time THEN 1 ELSE 0 END AS can_serve
FROM (
    SELECT
        h.advertiser_id,
        h.day_start,
        SUM(h.click_count) AS click_count,
        SUM(h.gross_spend) AS gross_spend,
        SUM(h.invalid_spend) AS invalid_spend,
        SUM(h.net_spend) AS net_spend,
        MAX(CASE WHEN h.is_last = 1 THEN h.budget_at_time END) AS budget_at_time
    FROM staging.BuiltWindow AS h
    WHERE h.grain = 'hour'
    GROUP BY h.advertiser_id, h.day_start
) AS s;
