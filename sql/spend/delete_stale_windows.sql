-- Purpose: windows of the days being rebuilt that have no click and no budget event any more.
-- Parameters: none
-- Grain: one row a window
-- Rerun: what was deleted isn't there
DELETE FROM ads.SpendSummary
WHERE id IN (
        SELECT s.id
        FROM staging.RebuiltDay AS d
        INNER JOIN ads.SpendSummary AS s
            ON s.advertiser_id = d.advertiser_id
                AND s.window_start >= d.day_start
                AND s.window_start < d.day_end
        WHERE NOT EXISTS (
                SELECT 1 FROM staging.BuiltWindow AS b
                WHERE b.advertiser_id = s.advertiser_id
                    AND b.window_start = s.window_start
                    AND b.grain = s.grain
            )
    );
