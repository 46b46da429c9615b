-- Purpose: the advertiser with the most clicks in each batch, and how many it had lately: its days from an instant on.
-- Parameters: @since DATETIME2(3): midnight UTC of a day
-- Grain: one row a batch
-- Rerun: selects only
SELECT
    t.batch_id,
    t.advertiser_id,
    t.click_count,
    COALESCE(u.click_count, 0) AS usual_count
FROM (
    SELECT
        p.batch_id,
        p.advertiser_id,
        p.click_count,
        ROW_NUMBER() OVER (PARTITION BY p.batch_id ORDER BY p.click_count DESC, p.advertiser_id) AS place
    FROM staging.ProfiledAdvertiser AS p
) AS t
OUTER APPLY (
    SELECT SUM(w.click_count) AS click_count
    FROM ads.SpendSummary AS w
    WHERE w.advertiser_id = t.advertiser_id
        AND w.window_start >= @since
        AND w.grain = 'day'
) AS u
WHERE t.place = 1
ORDER BY t.batch_id;
