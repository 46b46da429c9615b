-- Purpose: spend of each advertiser by calendar month (UTC).
-- Parameters: none
-- Grain: one row an advertiser and month
-- Rerun: dropped and made again by every migrate
CREATE VIEW ads.SpendByMonth AS
SELECT
    w.advertiser_id,
    t.year,
    t.month,
    SUM(w.click_count) AS click_count,
    SUM(w.gross_spend) AS gross_spend,
    SUM(w.invalid_spend) AS invalid_spend,
    SUM(w.net_spend) AS net_spend
FROM ads.SpendSummary AS w
INNER JOIN ads.TimeHierarchy AS t
    ON t.time_key = w.window_start
WHERE w.grain = 'hour'
GROUP BY w.advertiser_id, t.year, t.month;
