-- Purpose: a page of hours with the days, weeks, months, quarters and years that they belong to.
-- Parameters: @n INT: most rows; @start DATETIME2(3), inclusive; @stop DATETIME2(3), exclusive
-- Grain: one row an hour
-- Rerun: reads only
SELECT TOP (@n)
    t.time_key,
    t.date_key,
    t.hour,
    t.day,
    t.week,
    t.week_start,
    t.month,
    t.quarter,
    t.year,
    t.weekday_name,
    t.is_active
FROM ads.TimeHierarchy AS t
WHERE t.time_key >= @start
    AND t.time_key < @stop
ORDER BY t.time_key;
