-- COPY in every format, in and out, well and badly formed.
CREATE TEMP TABLE c (a int, b text, d date);
COPY c FROM STDIN;
1	one	2026-01-01
2	\N	\N
3	tab\there	2026-03-03
\.
COPY c FROM STDIN WITH (FORMAT csv, HEADER, NULL '-', FORCE_NOT_NULL (b));
a,b,d
4,"quoted, ""text""",2026-04-04
5,,-
\.
COPY c (a) FROM STDIN;
6
\.
COPY c FROM STDIN;
7	too	2026-01-01	many
\.
COPY c FROM STDIN;
x	y	z
\.
COPY c TO STDOUT;
COPY (SELECT a, b FROM c ORDER BY a) TO STDOUT WITH (FORMAT csv, HEADER, FORCE_QUOTE (b));
COPY c (a, d) TO STDOUT (DELIMITER '|', NULL 'none');
COPY missing TO STDOUT;
COPY c FROM STDIN WHERE a > 100;
99	no	2026-01-01
101	yes	2026-01-01
\.
SELECT count(*) FROM c;
BEGIN;
COPY c FROM STDIN;
200	kept	2026-01-01
\.
ROLLBACK;
SELECT count(*), max(a) FROM c;
