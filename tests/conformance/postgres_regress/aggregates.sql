-- Grouping, windows, ordered sets.
CREATE TEMP TABLE sales AS SELECT n % 3 AS region, n % 4 AS quarter, n * 1.5 AS amount FROM generate_series(1, 24) n;
SELECT region, sum(amount), avg(amount), count(*) FILTER (WHERE quarter = 1) FROM sales GROUP BY region ORDER BY region;
SELECT region, quarter, sum(amount) FROM sales GROUP BY ROLLUP (region, quarter) ORDER BY 1, 2;
SELECT region, quarter, count(*) FROM sales GROUP BY GROUPING SETS ((region), (quarter), ()) ORDER BY 1, 2;
SELECT region, amount, rank() OVER w, lag(amount) OVER w, sum(amount) OVER (w ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM sales WHERE quarter = 0 WINDOW w AS (PARTITION BY region ORDER BY amount) ORDER BY 1, 2;
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount), mode() WITHIN GROUP (ORDER BY region) FROM sales;
SELECT string_agg(DISTINCT region::text, '+' ORDER BY region::text), bool_and(amount > 0), max(amount) - min(amount) FROM sales;
SELECT region, sum(amount) FROM sales;
SELECT sum(amount) FROM sales HAVING count(*) > 100;
