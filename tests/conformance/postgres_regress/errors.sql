-- Mistakes of every kind; the session goes on after each.
SELECT;
SELEC 1;
SELECT * FROM nowhere;
SELECT nothing FROM pg_class;
SELECT no_function(1);
SELECT 1 +;
SELECT 'unterminated;
';
SELECT 1::no_type;
INSERT INTO pg_class DEFAULT VALUES;
CREATE TABLE pg_catalog.mine (a int);
DROP DATABASE not_there;
SELECT * FROM generate_series(1, 3) WHERE 1;
SELECT array_fill(0, ARRAY[1000000000, 10]);
SELECT E'\xff';
SELECT chr(0);
\unknown_command
SELECT 'still here';
