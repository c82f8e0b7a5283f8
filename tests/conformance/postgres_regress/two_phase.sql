-- PREPARE TRANSACTION.
CREATE TABLE phased (a int);
BEGIN; INSERT INTO phased VALUES (1); PREPARE TRANSACTION 'regress-one';
SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'regress%';
COMMIT PREPARED 'regress-one';
BEGIN; INSERT INTO phased VALUES (2); PREPARE TRANSACTION 'regress-two';
ROLLBACK PREPARED 'regress-two';
COMMIT PREPARED 'regress-two';
PREPARE TRANSACTION 'regress-none';
SELECT * FROM phased;
DROP TABLE phased;
