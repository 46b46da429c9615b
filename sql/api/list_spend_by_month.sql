-- Purpose: a page of an advertiser's calendar months (UTC) with clicks or budget events.
-- Parameters: @n INT: most rows; @advertiser_id INT; @start DATETIME2(3), inclusive, and @stop DATETIME2(3), exclusive:
--   first days of months, so that months are whole
-- Grain: one row a month
-- Rerun: reads only
SELECT TOP (@n)
    t.year,
    t.month,
    SUM(w.click_count) AS click_count,
    SUM(w.gross_spend) AS gross_spend,
    SUM(w.invalid_spend) AS invalid_spend,
    SUM(w.net_spend) AS net_spend
FROM ads.SpendSummary AS w
INNER JOIN ads.TimeHierarchy AS t
    ON t.time_key = w.window_start
WHERE w.advertiser_id = @advertiser_id
    AND w.grain = 'hour'
    AND w.window_start >= @start
    AND w.window_start < @stop
GROUP BY t.year, t.month
ORDER BY t.year, t.month;
