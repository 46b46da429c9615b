-- Purpose: store the newest version of every contested click that isn't stored yet.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row a click
-- Rerun: a stored key is left out
INSERT INTO ads.ClickEvent (
    click_id,
    advertiser_id,
    ad_id,
    click_time,
    time_key,
    amount,
    is_valid,
    created_at,
    updated_at
)
SELECT
    v.click_id,
    v.advertiser_id,
    v.ad_id,
    v.click_time,
    v.time_key,
    v.amount,
    v.is_valid,
    @now AS created_at,
    v.updated_at
FROM staging.ClickVersion AS v
WHERE v.standing = 'held'
    AND v.arrival > 0
    AND NOT EXISTS (SELECT 1 FROM ads.ClickEvent AS c WHERE c.click_id = v.click_id)
ORDER BY v.click_id;
