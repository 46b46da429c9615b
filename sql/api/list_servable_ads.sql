-- Purpose: a page of active ads of advertisers that may serve now.
-- Parameters: @n INT: most rows; @after INT: the last one of the page before, 0: none; @only INT: the one advertiser
--   whose ads they are, 0: all; @decided_since DATETIME2(3): flags decided for before it are stale
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
INNER JOIN ads.ServingFlag AS f
    ON f.advertiser_id = a.advertiser_id
WHERE a.ad_id > @after
    AND (@only = 0 OR a.advertiser_id = @only)
    AND a.is_active = 1
    AND a.is_inferred = 0
    AND f.can_serve = 1
    AND f.as_of >= @decided_since
ORDER BY a.ad_id;
