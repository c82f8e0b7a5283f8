-- Rows long, wide and many.
SELECT n, md5(n::text), repeat(chr(65 + n % 26), n % 300) FROM generate_series(1, 3000) n;
SELECT repeat('0123456789', 100000);
SELECT string_agg(n::text, ',') FROM generate_series(1, 50000) n;
SELECT * FROM generate_series(1, 2) a, generate_series(1, 3) b, generate_series(1, 4) c ORDER BY 1, 2, 3;
SELECT NULL, '', ' ', E'\n', E'\t' FROM generate_series(1, 3);
SELECT FROM generate_series(1, 3);
