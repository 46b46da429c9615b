-- Purpose: a page of advertisers in the order of their ids.
-- Parameters: @n INT: most rows; @after INT: the last one of the page before, 0: none; @only INT: the one advertiser
--   that may be seen, 0: all
-- Grain: one row an advertiser
-- Rerun: reads only
SELECT TOP (@n)
    a.advertiser_id,
    a.name,
    a.industry,
    a.country,
    a.is_active,
    a.is_inferred,
    a.created_at,
    a.updated_at
FROM ads.Advertiser AS a
WHERE a.advertiser_id > @after
    AND (@only = 0 OR a.advertiser_id = @only)
ORDER BY a.advertiser_id;
