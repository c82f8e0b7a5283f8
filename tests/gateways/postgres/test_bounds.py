"""What clients can make the gateway remember has a bound, however many names they think of."""

from __future__ import annotations

import asyncio
import weakref

import msgspec
from relay_lab import relay_lab

from sojourn.gateways.postgres import console_tables, wire
from sojourn.gateways.postgres.access import SOURCES_COUNT, Access
from sojourn.gateways.postgres.auth import Credentials
from sojourn.gateways.postgres.config import AuthSettings, Database, PostgresSettings
from sojourn.gateways.postgres.nodes import Node
from sojourn.gateways.postgres.place import Place
from sojourn.gateways.postgres.server_session import ServerSession
from sojourn.gateways.postgres.statements import CLOSE_UNNAMED
from sojourn.gateways.postgres.vector import EMPTY, difference

NOBODY = Credentials.of("nobody", None)


def in_lab(check, **options) -> None:
    """Run a check in a lab of its own."""

    async def body():
        async with relay_lab(**options) as lab:
            check(lab)
            assert lab.failures == []

    asyncio.run(body())


def errors_of(data: bytes) -> list[str]:
    """Return the SQLSTATEs in some answers."""
    return [wire.error_fields(body)["C"] for kind, body in wire.split(data)[0] if kind == ord("E")]


# Pools


def test_pools_that_nobody_uses_are_forgotten():
    """STYLE.md, bounds: a database of ``*`` and a user may have any name, so that a pool lives as long as its use."""

    def check(lab):
        gateway, entry = lab.gateway, lab.gateway.settings.databases[0]
        for number in range(1_000):
            gateway.pools.of(entry, f"db{number}", "nobody", NOBODY)
        gateway.pools.forget_unused()
        assert list(gateway.pools.values()) == [lab.pool]
        assert lab.pool.room.pools == [lab.pool]

    in_lab(check)


def test_a_pool_with_a_client_a_server_or_a_minimum_is_kept():
    """Pool: it is removed when it has neither clients nor servers, and a minimum is servers."""

    def check(lab):
        gateway = lab.gateway
        client = lab.client()
        lab.end_servers()
        gateway.pools.forget_unused()
        assert lab.pool in gateway.pools.values()
        client.leave()
        server = lab.open_server()
        gateway.pools.forget_unused()
        assert lab.pool in gateway.pools.values()
        lab.pool.minimum = 1
        lab.pool.size = 0
        server.connection_lost(None)
        gateway.pools.forget_unused()
        assert lab.pool in gateway.pools.values()
        lab.pool.minimum = 0
        assert lab.pool.is_unused

    in_lab(check)


def test_what_a_forgotten_pool_did_still_counts_for_its_database():
    """SHOW STATS: totals since the process started; they never go down."""

    def check(lab):
        gateway = lab.gateway
        shop = Database(name="shop", cluster="lab")
        gateway.use(msgspec.structs.replace(gateway.settings, databases=(*gateway.settings.databases, shop)))
        pool = gateway.pools.of(shop, "shop", "nobody", NOBODY)
        pool.closed.queries, pool.closed.transactions, pool.wait_s = 7, 5, 2.0
        before = {row.database: row for row in console_tables.stats(gateway)}["shop"]
        gateway.pools.forget_unused()
        assert pool not in gateway.pools.values()
        after = {row.database: row for row in console_tables.stats(gateway)}["shop"]
        assert after == before
        assert (after.query_count, after.xact_count, after.wait_time) == (7, 5, 2_000_000)

    in_lab(check)


def _assignments(gateway):
    return {row.database: row for row in console_tables.stats(gateway)}["shop"].server_assignment_count


def test_each_login_of_a_session_pool_counts_as_one_server_for_good():
    """SHOW STATS: a client of a session pool gets one server, and the totals do not go down when it leaves."""

    def check(lab):
        gateway = lab.gateway
        shop = Database(name="shop", cluster="lab", pool_mode="session")
        gateway.use(msgspec.structs.replace(gateway.settings, databases=(*gateway.settings.databases, shop)))
        pool = gateway.pools.of(shop, "shop", "nobody", NOBODY)
        pool.closed.transactions = 5
        pool.clients, pool.joined_count = 2, 3
        for clients in (2, 0):
            pool.clients = clients
            assert _assignments(gateway) == 3
        gateway.pools.forget_unused()
        assert pool not in gateway.pools.values()
        assert _assignments(gateway) == 3

    in_lab(check)


# Secrets


def test_who_is_not_logged_in_cannot_make_us_remember_every_database():
    """The database of a startup message decides where auth_query runs, and may be any name."""

    async def run(_database, _sql, _user):
        return []

    auth = AuthSettings(
        method="trust", query="SELECT name, secret FROM users WHERE name = $1", query_user="u"
    )
    access = Access.read(PostgresSettings(auth=auth))
    first = access.secrets_for("first", run)
    used = access.secrets_for("used", run)
    for number in range(SOURCES_COUNT):
        access.secrets_for(f"db{number}", run)
        assert access.secrets_for("used", run) is used
    assert access.secrets_for("first", run) is not first


# Prepared statements


def test_statements_whose_answer_is_under_way_count_too():
    """max_prepared_statements_per_client_count holds also for those that come in one batch."""

    def check(lab):
        client = lab.client()
        parses = [wire.parse(b"s%d" % number, b"select %d" % number) for number in range(5)]
        assert errors_of(client.say(b"".join(parses) + wire.sync())) == ["53400"]
        assert set(client.session.prepared) == {b"s0", b"s1", b"s2"}

    in_lab(check, max_prepared_statements_per_client_count=3)


def test_statements_that_a_batch_closes_make_room_in_it():
    """The bound is on what a client has, not on what it says."""

    def check(lab):
        client = lab.client()
        batch = b"".join(
            wire.parse(b"s%d" % number, b"select %d" % number) + wire.close_statement(b"s%d" % number)
            for number in range(50)
        )
        assert errors_of(client.say(batch + wire.sync())) == []
        assert not client.session.prepared

    in_lab(check, max_prepared_statements_per_client_count=3)


def test_the_unnamed_statement_of_somebody_else_is_closed_once_in_a_batch():
    """Each Bind of it has to fail, and looking for the Close of the one before must not cost more and more."""

    def check(lab):
        client = lab.client()
        assert errors_of(client.say(wire.bind(b"", b"") * 100 + wire.sync())) == ["26000"]
        assert lab.transports[0].data.count(CLOSE_UNNAMED) == 1

    in_lab(check)


def test_statements_go_with_their_last_holder():
    """StatementTable: a text that nobody has any more is not kept."""

    def check(lab):
        table = type(lab.gateway.statements).__mro__[1]()
        for number in range(1_000):
            table.intern(b"select %d\0\0\0" % number)
        assert len(table) == 0

    in_lab(check)


# Settings


def test_long_settings_are_not_kept_once_nobody_has_them():
    """How settings differ is remembered by the thousand, so that it must not hold long values."""
    vector = EMPTY.with_value("app.note", "x" * 100_000)
    assert len(difference(EMPTY, vector)) > 100_000
    last = weakref.ref(vector)
    del vector
    assert last() is None


# PIDs


def test_the_same_pid_at_two_nodes_is_two_servers():
    """PIDs are an operating system's own: a notification names the sender at its own node."""

    def check(lab):
        gateway, mine = lab.gateway, lab.open_server()
        there = Node("db-2", "127.0.0.1:2")
        other = ServerSession(lab.pool, there, 99)
        other.pid = mine.pid
        mine.last_pid, other.last_pid = 7, 8
        gateway.server_opened(other)
        assert gateway.public_pid(mine.node, mine.pid) == 7
        assert gateway.public_pid(there, mine.pid) == 8
        lab.pool.places[there] = Place(there)
        gateway.server_closed(other, "the test ends")
        assert gateway.public_pid(mine.node, mine.pid) == 7
        assert gateway.public_pid(there, mine.pid) == mine.pid

    in_lab(check)
