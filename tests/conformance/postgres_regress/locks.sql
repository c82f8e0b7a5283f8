-- Advisory locks, LOCK TABLE, FOR UPDATE.
SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2), pg_try_advisory_lock(3, 4);
SELECT classid, objid, objsubid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY classid, objid;
SELECT pg_advisory_unlock(1), pg_advisory_unlock(1);
SELECT pg_advisory_unlock_all();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
BEGIN;
SELECT pg_advisory_xact_lock(9);
COMMIT;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
CREATE TEMP TABLE lockable (a int);
LOCK TABLE lockable;
BEGIN; LOCK TABLE lockable IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT;
SELECT * FROM lockable FOR UPDATE SKIP LOCKED;
