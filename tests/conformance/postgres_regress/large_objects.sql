-- Large objects by function and by psql's commands.
BEGIN;
SELECT lo_create(880001);
SELECT lo_open(880001, 131072 | 262144) AS handle \gset
SELECT lowrite(:handle, 'some bytes'), lo_lseek(:handle, 5, 0), loread(:handle, 100);
SELECT lo_truncate(:handle, 4);
COMMIT;
SELECT lo_get(880001);
SELECT lo_put(880001, 2, 'XY'), lo_get(880001, 1, 3);
SELECT lo_unlink(880001);
SELECT lo_unlink(880001);
