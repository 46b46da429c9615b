-- Purpose: give every stored click its newest version.
-- Parameters: none
-- Grain: one row a click
-- Rerun: the version that holds is stored again, to the same content
UPDATE ads.ClickEvent
SET
    advertiser_id = v.advertiser_id,
    ad_id = v.ad_id,
    click_time = v.click_time,
    time_key = v.time_key,
    amount = v.amount,
    is_valid = v.is_valid,
    updated_at = v.updated_at
FROM staging.ClickVersion AS v
WHERE ads.ClickEvent.click_id = v.click_id
    AND v.standing = 'held'
    AND v.arrival > 0;
