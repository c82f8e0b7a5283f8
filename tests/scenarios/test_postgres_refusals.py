"""The new primary refuses what a session had on the old one: the socket stays, and nothing runs with other settings.

Real servers: the role was dropped while sessions still had it, or an extension of the replica has claimed the name of
a custom setting. Source: specification 3.3 and 6.5.
"""

from __future__ import annotations

import asyncio

import pytest
from failover_lab import running_failover_lab
from psycopg import errors
from psycopg.pq import TransactionStatus

MODES = ("session", "transaction")
CLAIMS_NAMES = {"shared_preload_libraries": "plpgsql"}
"""A replica that takes no ``plpgsql.nonsense`` any more, as PostgreSQL does since 15 once the library is loaded."""


async def value(connection, sql):
    """Return the only value of a query's only row."""
    return (await (await connection.execute(sql)).fetchone())[0]


async def fail_over(lab, way):
    """Let the replica take over, and return when the gateway knows."""
    await lab.caught_up()
    await lab.crash()
    await lab.promote()
    async with asyncio.timeout(20):
        while way.room.writable() is None or way.room.writable().name != lab.port_name(lab.primary.port):  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("mode", MODES)
def test_a_role_that_is_gone_is_told_until_the_session_leaves_it(run, mode):
    """Nothing runs as somebody else: every request gets the server's words; SET and RESET of the role get through."""

    async def scenario():
        async with running_failover_lab() as lab:
            way = await lab.gateway(mode)
            await lab.direct("CREATE ROLE worker", "CREATE ROLE other")
            clients = [await way.connect(autocommit=True) for _ in range(4)]
            resetting, setting, listening, beginning = clients
            filenos = [client.fileno() for client in clients]
            for client in clients:
                await client.execute("SET ROLE worker")
                await client.execute("SET work_mem = '7MB'")
            await listening.execute("LISTEN news")
            await lab.direct("DROP ROLE worker")
            await fail_over(lab, way)
            for _ in range(2):
                with pytest.raises(errors.Error) as caught:
                    await resetting.execute("SELECT current_user")
                assert 'role "worker" does not exist' in str(caught.value)
                assert "SET or RESET" in caught.value.diag.message_hint
                assert caught.value.diag.severity == "ERROR"
            await resetting.execute("RESET ROLE")
            with pytest.raises(errors.Error, match='role "nobody" does not exist'):
                await setting.execute("SET ROLE nobody")
            with pytest.raises(errors.Error, match='role "worker" does not exist'):
                await setting.execute("SELECT 1")
            await setting.execute("SET ROLE other")
            await listening.execute("DISCARD ALL")
            await listening.execute("LISTEN tidings")
            with pytest.raises(errors.Error, match='role "worker" does not exist'):
                await beginning.execute("BEGIN")
            assert beginning.info.transaction_status == TransactionStatus.IDLE
            await beginning.execute("RESET ROLE")
            users = [await value(client, "SELECT current_user") for client in clients]
            assert users == ["postgres", "other", "postgres", "postgres"]
            memory = [await value(client, "SHOW work_mem") for client in clients]
            assert memory == ["7MB", "7MB", "4MB", "7MB"]
            assert await value(listening, "SELECT pg_listening_channels()") == "tidings"
            assert [client.fileno() for client in clients] == filenos
            assert way.told("server.loop_error") == way.told("postgres.server_failed") == []
            for client in clients:
                await client.close()

    run(scenario())


@pytest.mark.parametrize("mode", MODES)
def test_a_setting_that_an_extension_claims_is_told_and_can_be_reset(run, mode):
    """Asked for by SET or in the startup packet; RESET ALL gives up the first, nobody the second."""

    async def scenario():
        async with running_failover_lab(replica_settings=CLAIMS_NAMES) as lab:
            way = await lab.gateway(mode)
            client = await way.connect(autocommit=True)
            starting = await way.connect(autocommit=True, options="-c plpgsql.nonsense=2")
            other = await way.connect(autocommit=True)
            filenos = [client.fileno(), starting.fileno(), other.fileno()]
            await client.execute("SET plpgsql.nonsense = '1'")
            assert await value(starting, "SHOW plpgsql.nonsense") == "2"
            await fail_over(lab, way)
            for refused in (client, client, starting, starting):
                with pytest.raises(errors.InvalidName, match=r"plpgsql\.nonsense"):
                    await refused.execute("SELECT 1")
            await client.execute("RESET ALL")
            for accepted in (client, other):
                assert await value(accepted, "SELECT inet_server_port()") == lab.primary.port
            assert [client.fileno(), starting.fileno(), other.fileno()] == filenos
            for one in (client, starting, other):
                await one.close()

    run(scenario())


def test_a_setting_that_a_replica_refuses_sends_the_reader_to_the_primary(run):
    """What reads from replicas by its own wish is answered all the same."""

    async def scenario():
        async with running_failover_lab(replica_settings=CLAIMS_NAMES) as lab:
            way = await lab.gateway("transaction")
            async with await way.connect(autocommit=True) as client:
                await client.execute("SET plpgsql.nonsense = '1'")
                await client.execute("SET sojourn.role TO replica")
                assert await value(client, "SELECT inet_server_port()") == lab.primary.port

    run(scenario())
