-- Purpose: every click of a rebuilt day lies in the hour of its time, and TimeHierarchy knows that hour.
-- Parameters: none
-- Grain: one row a wrong click
-- Rerun: selects only
SELECT
    e.click_id,
    e.advertiser_id,
    e.click_time,
    e.time_key
FROM staging.CheckedDay AS k
INNER JOIN ads.ClickEvent AS e
    ON e.advertiser_id = k.advertiser_id
        AND e.time_key >= k.day_start
        AND e.time_key < k.day_end
WHERE e.click_time < e.time_key
    OR e.click_time >= DATEADD(HOUR, 1, e.time_key)
    OR NOT EXISTS (SELECT 1 FROM ads.TimeHierarchy AS h WHERE h.time_key = e.time_key);
