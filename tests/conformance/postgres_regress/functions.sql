-- SQL functions, defaults, variadics, sets, procedures.
CREATE FUNCTION add_all(VARIADIC n int[], OUT total int) LANGUAGE sql IMMUTABLE AS 'SELECT sum(x)::int FROM unnest(n) x';
SELECT add_all(1, 2, 3), add_all(VARIADIC ARRAY[4, 5]);
CREATE FUNCTION greet(name text, greeting text DEFAULT 'Hello') RETURNS text LANGUAGE sql RETURN greeting || ', ' || name;
SELECT greet('Ana'), greet('Ana', greeting => 'Bye');
CREATE FUNCTION rows_of(n int) RETURNS TABLE (i int, square int) LANGUAGE sql AS 'SELECT x, x * x FROM generate_series(1, n) x';
SELECT * FROM rows_of(3);
CREATE PROCEDURE twice(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x * 2; END $$;
CALL twice(21);
CREATE FUNCTION sets_path() RETURNS text LANGUAGE sql SET search_path = pg_catalog AS 'SELECT current_setting(''search_path'')';
SELECT sets_path(), current_setting('search_path');
SELECT add_all('x');
DROP FUNCTION greet(text);
DROP FUNCTION greet, add_all, rows_of, sets_path;
DROP PROCEDURE twice;
