-- Purpose: what each batch's clicks cost, and what they would have cost at the mean cost per click that their advertisers
--   had lately: their days from an instant on. So another mix of advertisers is no change of prices. Odd are the clicks
--   of advertisers whose mean is more than @factor times that, or less than one part in @factor of it.
-- Parameters: @since DATETIME2(3): midnight UTC of a day; @least INT: clicks that a mean takes; @factor INT
-- Grain: one row a batch that has clicks of such advertisers
-- Rerun: selects only
SELECT
    e.batch_id,
    SUM(e.click_count) AS click_count,
    SUM(e.amount) AS amount,
    SUM(e.expected) AS expected,
    SUM(
        CASE
            WHEN e.amount > CAST(CAST(e.expected AS DECIMAL(28, 4)) * @factor AS DECIMAL(28, 4)) THEN e.click_count
            WHEN CAST(CAST(e.amount AS DECIMAL(28, 4)) * @factor AS DECIMAL(28, 4)) < e.expected THEN e.click_count
            ELSE 0
        END
    ) AS odd_count
FROM (
    SELECT
        p.batch_id,
        p.click_count,
        p.amount,
        CAST(CAST(u.amount AS DECIMAL(28, 4)) / u.click_count * p.click_count AS DECIMAL(28, 4)) AS expected
    FROM staging.ProfiledAdvertiser AS p
    INNER JOIN (
        SELECT
            w.advertiser_id,
            SUM(w.click_count) AS click_count,
            SUM(w.gross_spend) + SUM(w.invalid_spend) AS amount
        FROM ads.SpendSummary AS w
        WHERE w.window_start >= @since
            AND w.grain = 'day'
            AND EXISTS (SELECT 1 FROM staging.ProfiledAdvertiser AS k WHERE k.advertiser_id = w.advertiser_id)
        GROUP BY w.advertiser_id
        HAVING SUM(w.click_count) >= @least
    ) AS u
        ON u.advertiser_id = p.advertiser_id
) AS e
GROUP BY e.batch_id
ORDER BY e.batch_id;
