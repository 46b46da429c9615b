-- Purpose: a day whose clicks were purged keeps the windows that it has; a rebuild would make them of nothing.
-- Parameters: none
-- Grain: one row an advertiser and day
-- Rerun: a forgotten day isn't there
DELETE FROM etl.TouchedDay
WHERE EXISTS (SELECT 1 FROM etl.ClosedHistory AS c WHERE etl.TouchedDay.date_key < c.closed_before);
