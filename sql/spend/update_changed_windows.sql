-- Purpose: give changed windows their new numbers; a window with the same numbers isn't written.
-- Parameters: @now DATETIME2(3)
-- Grain: one row a window
-- Rerun: a window that is right is left alone
UPDATE ads.SpendSummary
SET
    click_count = b.click_count,
    gross_spend = b.gross_spend,
    invalid_spend = b.invalid_spend,
    net_spend = b.net_spend,
    budget_at_time = b.budget_at_time,
    can_serve = b.can_serve,
    updated_at = @now
FROM staging.BuiltWindow AS b
WHERE ads.SpendSummary.advertiser_id = b.advertiser_id
    AND ads.SpendSummary.window_start = b.window_start
    AND ads.SpendSummary.grain = b.grain
    AND (
        ads.SpendSummary.click_count <> b.click_count
        OR ads.SpendSummary.gross_spend <> b.gross_spend
        OR ads.SpendSummary.invalid_spend <> b.invalid_spend
        OR ads.SpendSummary.net_spend <> b.net_spend
        OR ads.SpendSummary.can_serve <> b.can_serve
        OR ads.SpendSummary.budget_at_time <> b.budget_at_time
        OR (ads.SpendSummary.budget_at_time IS NULL AND b.budget_at_time IS NOT NULL)
        OR (ads.SpendSummary.budget_at_time IS NOT NULL AND b.budget_at_time IS NULL)
    );
