-- Purpose: a day window is the sum of its hours, and neither is there without the other.
-- Parameters: none
-- Grain: one row a day whose sums differ
-- Rerun: selects only
SELECT
    s.advertiser_id,
    s.day_start,
    s.day_count,
    s.gross_difference,
    s.invalid_difference,
    s.net_difference,
    s.click_difference
FROM (
    SELECT
        k.advertiser_id,
        k.day_start,
        SUM(CASE WHEN w.grain = 'day' THEN 1 ELSE 0 END) AS day_count,
        SUM(CASE WHEN w.grain = 'day' THEN w.gross_spend ELSE -w.gross_spend END) AS gross_difference,
        SUM(CASE WHEN w.grain = 'day' THEN w.invalid_spend ELSE -w.invalid_spend END) AS invalid_difference,
        SUM(CASE WHEN w.grain = 'day' THEN w.net_spend ELSE -w.net_spend END) AS net_difference,
        SUM(CASE WHEN w.grain = 'day' THEN w.click_count ELSE -w.click_count END) AS click_difference
    FROM staging.CheckedDay AS k
    INNER JOIN ads.SpendSummary AS w
        ON w.advertiser_id = k.advertiser_id
            AND w.window_start >= k.day_start
            AND w.window_start < k.day_end
    GROUP BY k.advertiser_id, k.day_start
) AS s
WHERE s.day_count <> 1
    OR s.gross_difference <> 0
    OR s.invalid_difference <> 0
    OR s.net_difference <> 0
    OR s.click_difference <> 0;
