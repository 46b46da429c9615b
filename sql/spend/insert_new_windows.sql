-- Purpose: windows that weren't there before.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row a window
-- Rerun: a stored window is left out
INSERT INTO ads.SpendSummary (
    advertiser_id,
    grain,
    window_start,
    window_end,
    click_count,
    gross_spend,
    invalid_spend,
    net_spend,
    budget_at_time,
    can_serve,
    created_at,
    updated_at
)
SELECT
    b.advertiser_id,
    b.grain,
    b.window_start,
    b.window_end,
    b.click_count,
    b.gross_spend,
    b.invalid_spend,
    b.net_spend,
    b.budget_at_time,
    b.can_serve,
    @now AS created_at,
    @now AS updated_at
FROM staging.BuiltWindow AS b
WHERE NOT EXISTS (
        SELECT 1 FROM ads.SpendSummary AS s
        WHERE s.advertiser_id = b.advertiser_id
            AND s.window_start = b.window_start
            AND s.grain = b.grain
    )
ORDER BY b.advertiser_id, b.window_start, b.grain;
