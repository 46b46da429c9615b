-- Purpose: a page of ads in the order of their ids.
-- Parameters: @n INT: most rows; @after INT: the last one of the page before, 0: none; @only INT: the one advertiser
--   whose ads they are, 0: all
-- Grain: one row an ad
-- Rerun: reads only
SELECT TOP (@n)
    a.ad_id,
    a.advertiser_id,
    a.ad_title,
    a.ad_format,
    a.product_link,
    a.is_active,
    a.is_inferred,
    a.created_at,
    a.updated_at
FROM ads.Ad AS a
WHERE a.ad_id > @after
    AND (@only = 0 OR a.advertiser_id = @only)
ORDER BY a.ad_id;
