-- Purpose: an advertiser that clicks, budgets or ads speak of before anybody announced it
--   becomes an inferred member, so that its money is counted. Every version infers, so the order of arrival doesn't matter.
--   Sorted, so that all of it is found out before the first row is stored: PostgreSQL would else look each row
--   up in the rows that it has just stored, when it took the table for empty.
-- Parameters: @now DATETIME2(3)
-- Grain: one row an advertiser
-- Rerun: a known advertiser is left out
INSERT INTO ads.Advertiser (advertiser_id, name, is_active, is_inferred, created_at, updated_at)
SELECT
    m.advertiser_id,
    'unknown' AS name,
    0 AS is_active,
    1 AS is_inferred,
    @now AS created_at,
    @now AS updated_at
FROM (
    SELECT g.advertiser_id FROM staging.NewClickGroup AS g
    UNION
    SELECT v.advertiser_id FROM staging.ClickVersion AS v WHERE v.arrival > 0 AND v.standing <> 'clash'
    UNION
    SELECT v.advertiser_id FROM staging.BudgetVersion AS v WHERE v.arrival > 0 AND v.standing <> 'clash'
    UNION
    SELECT v.advertiser_id FROM staging.AdVersion AS v WHERE v.arrival > 0 AND v.standing <> 'clash'
) AS m
WHERE NOT EXISTS (SELECT 1 FROM ads.Advertiser AS a WHERE a.advertiser_id = m.advertiser_id)
ORDER BY m.advertiser_id DESC;
