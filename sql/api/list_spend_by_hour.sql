-- Purpose: a page of an advertiser's hours with clicks or budget events.
-- Parameters: @n INT: most rows; @advertiser_id INT; @start DATETIME2(3), inclusive; @stop DATETIME2(3), exclusive
-- Grain: one row an hour
-- Rerun: reads only
SELECT TOP (@n)
    w.window_start,
    w.window_end,
    w.click_count,
    w.gross_spend,
    w.invalid_spend,
    w.net_spend,
    w.budget_at_time,
    w.can_serve
FROM ads.SpendSummary AS w
WHERE w.advertiser_id = @advertiser_id
    AND w.grain = 'hour'
    AND w.window_start >= @start
    AND w.window_start < @stop
ORDER BY w.window_start;
