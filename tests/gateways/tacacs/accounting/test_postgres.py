"""The PostgreSQL sink against real servers, killed and brought back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from sojourn.core.secret import Secret
from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import BackendUnavailable, ConfigError, LocalProtocolError
from sojourn.gateways.tacacs.accounting import Record
from sojourn.gateways.tacacs.accounting.postgres import PostgresRows
from sojourn.gateways.tacacs.accounting.sinks import Accounting
from sojourn.gateways.tacacs.config import Accounting as AccountingSettings
from sojourn.gateways.tacacs.config import PostgresSink


def sink_settings(dsn: str, **values: object) -> PostgresSink:
    return PostgresSink(name="table", dsn=Secret(dsn), **values)


@asynccontextmanager
async def opened(settings: PostgresSink) -> AsyncIterator[PostgresRows]:
    sink = PostgresRows(settings)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def rows(dsn: str, query: str = "SELECT * FROM sojourn.tacacs_accounting ORDER BY record_id") -> list:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


async def ids(dsn: str) -> list[str]:
    return [str(row["record_id"]) for row in await rows(dsn)]


def test_each_record_is_one_row_with_every_field(run, make_record) -> None:
    """What the device sent is there in columns and, in its order, in args."""

    async def scenario() -> None:
        async with (
            PostgresServer() as server,
            Accounting(AccountingSettings(postgres=(sink_settings(server.dsn()),))) as accounting,
        ):
            record = make_record("task_id=7", "elapsed_time=31", "cmd=é'\\\n", "x=1", "x=1", "bytes_in=9")
            await accounting.store(record)
            [row] = await rows(server.dsn(), "SELECT *, args::text AS texts FROM sojourn.tacacs_accounting")
            for name in Record.__struct_fields__:
                if name not in {"record_id", "args"}:
                    assert row[name] == getattr(record, name), name
            assert str(row["record_id"]) == record.record_id
            assert row["texts"].startswith('["task_id=7", "elapsed_time=31", "cmd=é')
            assert row["texts"].endswith('"x=1", "x=1", "bytes_in=9"]')

    run(scenario())


def test_many_records_are_few_statements_and_a_repeated_one_is_one_row(run, make_record) -> None:
    """A commit whose answer was lost is repeated: the id keeps it from doubling."""

    async def scenario() -> None:
        async with PostgresServer() as server:
            settings = sink_settings(server.dsn())
            records = [make_record() for _ in range(500)]
            async with Accounting(AccountingSettings(postgres=(settings,))) as accounting:
                await asyncio.gather(*[accounting.store(record) for record in records])
                assert accounting.snapshot()[0].batches_count < 10
            async with opened(settings) as sink:
                await sink.store(records[100:])
            assert await ids(server.dsn()) == [record.record_id for record in records]

    run(scenario())


def test_a_server_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    run, make_record, alarms, until
) -> None:
    """ERROR while it is away, recovery by itself, exactly the acknowledged rows at least, none twice."""

    async def scenario() -> None:
        acknowledged: list[str] = []
        refused: list[BackendUnavailable] = []
        failing = asyncio.Event()
        is_over = False

        async def device(accounting: Accounting) -> None:
            while not is_over:
                record = make_record()
                try:
                    await accounting.store(record)
                except BackendUnavailable as error:
                    refused.append(error)
                    failing.set()
                    await asyncio.sleep(0)
                else:
                    acknowledged.append(record.record_id)

        async with PostgresServer() as server:
            settings = AccountingSettings(postgres=(sink_settings(server.dsn()),))
            async with Accounting(settings, on_alarm=alarms) as accounting, asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(device(accounting))
                await until(lambda: len(acknowledged) >= 200)
                await server.crash()
                await failing.wait()
                assert accounting.snapshot()[0].health == "down"
                await server.start()
                await alarms.wait_for("table", "available again")
                before = len(acknowledged)
                await until(lambda: len(acknowledged) >= before + 200)
                is_over = True
            stored = await ids(server.dsn())
            assert len(stored) == len(set(stored))
            assert set(acknowledged) <= set(stored)
            assert refused
            assert [sink for sink, _ in alarms.heard] == ["table", "table"]

    run(scenario())


def test_a_connection_that_the_server_ended_costs_nobody_an_error(run, make_record, alarms) -> None:
    """Idle connections are ended by servers and firewalls; the second attempt connects anew."""

    async def scenario() -> None:
        async with PostgresServer() as server:
            settings = AccountingSettings(postgres=(sink_settings(server.dsn()),))
            async with Accounting(settings, on_alarm=alarms) as accounting:
                await accounting.store(make_record())
                await rows(
                    server.dsn(),
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'sojourn accounting'",
                )
                await accounting.store(make_record())
            assert len(await ids(server.dsn())) == 2
        assert alarms.heard == []

    run(scenario())


def test_a_table_that_is_locked_is_an_error_within_the_deadline(run, make_record) -> None:
    """A statement that hangs is given up, and the next one works."""

    async def scenario() -> None:
        async with PostgresServer() as server, opened(sink_settings(server.dsn(), timeout_s=0.3)) as sink:
            acknowledged = [make_record(), make_record()]
            await sink.store(acknowledged[:1])
            blocker = await asyncpg.connect(server.dsn())
            await blocker.execute("BEGIN; LOCK TABLE sojourn.tacacs_accounting")
            with pytest.raises((TimeoutError, BackendUnavailable)):
                await sink.store([make_record()])
            await blocker.execute("ROLLBACK")
            await blocker.close()
            await sink.open()
            await sink.store(acknowledged[1:])
            # What timed out may have been stored at the last moment; what was acknowledged must be there.
            assert {record.record_id for record in acknowledged} <= set(await ids(server.dsn()))

    run(scenario())


def test_a_row_that_the_table_refuses_is_told_from_a_server_that_fails(run, make_record) -> None:
    """Only the record that does not fit is refused; the sink stays up."""

    async def scenario() -> None:
        async with (
            PostgresServer() as server,
            Accounting(AccountingSettings(postgres=(sink_settings(server.dsn()),))) as accounting,
        ):
            monster, good = make_record(), make_record()
            monster.priv_lvl = 1 << 40
            outcomes = await asyncio.gather(
                accounting.store(monster), accounting.store(good), return_exceptions=True
            )
            assert isinstance(outcomes[0], LocalProtocolError)
            assert outcomes[1] is None
            assert accounting.snapshot()[0].health == "up"
            assert await ids(server.dsn()) == [good.record_id]

    run(scenario())


def test_several_gateways_may_start_at_once_on_an_empty_database(run, make_record) -> None:
    """The advisory lock lets one make the table and the others find it."""

    async def scenario() -> None:
        async with PostgresServer() as server:
            sinks = [PostgresRows(sink_settings(server.dsn(), schema="audit")) for _ in range(6)]
            await asyncio.gather(*[sink.open() for sink in sinks])
            for sink in sinks:
                await sink.store([make_record()])
                await sink.close()
            assert len(await rows(server.dsn(), "SELECT 1 FROM audit.tacacs_accounting")) == 6
            assert len(await rows(server.dsn(), "SELECT 1 FROM audit.migrations")) == 1

    run(scenario())


def test_a_role_that_may_only_insert_is_enough_once_the_table_is_there(run, make_record) -> None:
    """The daemon needs no right to create where the migrations were applied before."""

    async def scenario() -> None:
        async with PostgresServer(port=0) as server:
            async with opened(sink_settings(server.dsn())):
                pass
            owner = await asyncpg.connect(server.dsn())
            await owner.execute("""
                CREATE ROLE clerk LOGIN PASSWORD 'clerk-password';
                GRANT USAGE ON SCHEMA sojourn TO clerk;
                GRANT SELECT ON sojourn.migrations TO clerk;
                GRANT INSERT, SELECT ON sojourn.tacacs_accounting TO clerk;
            """)
            await owner.close()
            clerk = f"postgresql://clerk:clerk-password@{server.host}:{server.port}/postgres"
            async with opened(sink_settings(clerk)) as sink:
                await sink.store([make_record()])
            assert len(await ids(server.dsn())) == 1

    run(scenario())


@pytest.mark.parametrize(
    ("withdraw", "give_back"),
    [
        (
            "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
            "ALTER ROLE CURRENT_USER RESET ALL",
        ),
        (
            "ALTER TABLE sojourn.tacacs_accounting RENAME TO away",
            "ALTER TABLE sojourn.away RENAME TO tacacs_accounting",
        ),
    ],
    ids=["read-only", "no table"],
)
def test_a_server_that_answers_but_takes_no_rows_is_not_called_available(
    run, make_record, withdraw: str, give_back: str
) -> None:
    """A standby after a failover lets us log in; only an insert shows the truth."""

    async def scenario() -> None:
        async with PostgresServer() as server, opened(sink_settings(server.dsn())) as sink:
            owner = await asyncpg.connect(server.dsn())
            await owner.execute(withdraw)
            with pytest.raises(BackendUnavailable):
                await sink.open()
            await owner.execute("SET default_transaction_read_only = off")
            await owner.execute(give_back)
            await owner.close()
            await sink.open()
            await sink.store([make_record()])

    run(scenario())


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ana:s3cr3t-word@127.0.0.1:1/postgres",
        "postgresql://ana:s3cr3t-word@127.0.0.1:s3cr3t-word/x",
        "http://s3cr3t-word",
    ],
)
def test_no_error_shows_the_password(run, address: str) -> None:
    """The texts go to logs; drivers like to quote what they could not read."""

    async def scenario() -> None:
        with pytest.raises(BackendUnavailable) as caught:
            await PostgresRows(sink_settings(address)).open()
        assert "s3cr3t" not in f"{caught.value} {caught.value.cause} {caught.value!r}"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    run(scenario())


def test_a_missing_driver_is_said_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncpg is an extra: a sink that needs it is then a problem of the configuration."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "sojourn.gateways.tacacs.accounting.postgres", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'sojourn\[postgres\]'"):
        Accounting(AccountingSettings(postgres=(sink_settings("postgresql:///x"),)))
