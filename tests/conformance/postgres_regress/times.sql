-- Dates, intervals and zones, with settings that change how they are shown.
SET TIME ZONE 'America/New_York';
SELECT timestamptz '2026-03-08 01:59:59', timestamptz '2026-03-08 03:00:00', timestamp '2026-03-08 02:30';
SET datestyle = 'German';
SELECT date '2026-02-28' + 1, timestamp '2026-02-28 12:34:56.789';
SET datestyle = 'SQL, DMY';
SELECT date '2026-02-28', '28/02/2026'::date;
SET intervalstyle = 'iso_8601';
SELECT interval '1 year 2 months 3 days 04:05:06.7', interval '-1 day' * 3;
RESET intervalstyle;
RESET datestyle;
SELECT extract(epoch FROM timestamptz '2000-01-01 00:00:00+00'), date_trunc('month', date '2026-02-28'), age('2026-02-28', '2024-02-29');
SELECT '2026-02-30'::date;
SELECT date 'infinity', timestamp '-infinity', '4713-01-01 BC'::date;
SELECT generate_series(date '2026-01-30', date '2026-02-02', interval '1 day');
SET TIME ZONE DEFAULT;
SHOW timezone;
