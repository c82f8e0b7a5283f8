"""Which statements may be run again in a verified replay, by their text."""

from __future__ import annotations

import pytest

from sojourn.gateways.postgres.journal import may_be_repeated


@pytest.mark.parametrize(
    "statement",
    [
        b"SELECT * FROM orders WHERE id = $1 FOR UPDATE",
        b"with n as (insert into t values (1) returning *) select * from n",
        b"UPDATE stock SET count = count - 1",
        b"INSERT INTO ledger VALUES ('temperature', 1)",
        b"MERGE INTO a USING b ON a.n = b.n WHEN MATCHED THEN DELETE",
        b"SAVEPOINT one",
        b"ROLLBACK TO SAVEPOINT one",
        b"rollback work to one",
        b"RELEASE one",
        b"DECLARE c CURSOR FOR SELECT 1",
        b"FETCH 10 FROM c",
        b"NOTIFY news, 'later'",
        b"SELECT pg_notify('news', 'later')",
        b"LOCK TABLE t IN SHARE MODE",
        b"SET LOCAL work_mem = '1MB'",
        b"SET CONSTRAINTS ALL DEFERRED",
    ],
)
def test_what_a_rollback_takes_back_may_be_run_again(statement):
    """Specification 6.8, last row: the first run is rolled back, so that the second is the only one."""
    assert may_be_repeated(statement)


@pytest.mark.parametrize(
    "statement",
    [
        b"COMMIT",
        b"COMMIT AND CHAIN",
        b"END",
        b"PREPARE TRANSACTION 'a'",
        b"ROLLBACK",
        b"ROLLBACK AND CHAIN",
        b"BEGIN",
        b"LISTEN news",
        b"COPY t FROM STDIN",
        b"CALL p()",
        b"DO 'begin end'",
        b"PREPARE s AS SELECT 1",
        b"EXECUTE s",
        b"DEALLOCATE s",
        b"DISCARD ALL",
        b"SET work_mem = '1MB'",
        b"SET SESSION work_mem = '1MB'",
        b"RESET work_mem",
        b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        b"SET LOCAL transaction_isolation = 'read committed'",
        b"CREATE TABLE t (n int)",
        b"VACUUM t",
        b"EXPLAIN ANALYZE EXECUTE s",
        b"SELECT 1 INTO TEMP t",
        b"SELECT * FROM pg_temp.t",
        b'SELECT * FROM "pg_temp_3".t',
        b"DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        b"SELECT pg_advisory_lock(1)",
        b"SELECT pg_catalog.pg_try_advisory_lock(1)",
        b"SELECT set_config('a.b', '1', false)",
        b"SELECT lo_create(0)",
        b"SELECT lowrite(1, '')",
        b"SELECT dblink_exec('', 'insert into t values (1)')",
        b"SELECT nextval('s')",
        b"SELECT pg_terminate_backend(1)",
        b"SELECT U&\"\\0073et_config\"('a.b', '1', false)",
    ],
)
def test_what_outlives_a_rollback_or_lives_in_one_server_may_not(statement):
    """Specification 6.8: cautious by the text; what a function hides is the operator's to know."""
    assert not may_be_repeated(statement)
