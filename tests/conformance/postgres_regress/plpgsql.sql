-- Blocks, loops, exceptions, messages, dynamic SQL, transaction control.
CREATE TABLE log (n int);
DO $$
DECLARE
    r record;
BEGIN
    FOR i IN 1..3 LOOP
        INSERT INTO log VALUES (i);
        IF i = 2 THEN COMMIT; END IF;
    END LOOP;
    ROLLBACK;
    FOR r IN SELECT n FROM log ORDER BY n LOOP RAISE NOTICE 'kept %', r.n; END LOOP;
END $$;
SELECT * FROM log ORDER BY n;
DO $$
BEGIN
    PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
    RAISE WARNING 'caught %', SQLSTATE USING DETAIL = 'a detail', HINT = 'a hint';
END $$;
DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = 'ZZ123', COLUMN = 'c', TABLE = 't'; END $$;
\errverbose
DO $$ BEGIN EXECUTE format('CREATE TABLE %I (a int)', 'Odd Name'); END $$;
\d "Odd Name"
DO $$ BEGIN ASSERT 1 = 2, 'not equal'; END $$;
DO $$ BEGIN RETURN 1; END $$;
DO $$ BEGIN PERFORM set_config('my.value', 'set in a block', false); END $$;
SHOW my.value;
DROP TABLE log, "Odd Name";
