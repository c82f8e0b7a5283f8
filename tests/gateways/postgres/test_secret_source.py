"""Where secrets of users come from: tables first, then one query for many logins."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres.secret_source import SecretSource
from sojourn.testing.clock import ManualClock

SQL = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"


class Server:
    """Answers the query, when it is told to."""

    def __init__(self, **rows):
        self.rows = rows
        self.asked = []
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def run(self, sql, user):
        assert sql == SQL
        self.asked.append(user)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.rows.get(user, [])


def row(user, secret):
    return [[user.encode(), secret.encode()]]


def source(server, *known, **more):
    return SecretSource(*known, query=SQL, run=server.run, **({"cache_s": 10} | more))


def test_earlier_tables_win_and_the_server_is_asked_last(run):
    """PgBouncer, auth_query: only for users that the list does not have."""

    async def scenario():
        server = Server(cy=row("cy", "three"))
        users = source(server, {"ana": Secret("one")}, {"ana": Secret("no"), "bob": Secret("two")})
        found = [(await users.find(user)).reveal() for user in ("ana", "bob", "cy")]
        assert (found, server.asked) == (["one", "two", "three"], ["cy"])
        assert await SecretSource({"ana": Secret("one")}).find("bob") is None

    run(scenario())


def test_a_login_storm_asks_once(run):
    """A thousand logins of one user are one query."""

    async def scenario():
        server = Server(ana=row("ana", "one"))
        server.may_answer.clear()
        users = source(server, cache_s=0)
        tasks = [asyncio.ensure_future(users.find("ana")) for _ in range(1000)]
        await asyncio.sleep(0)
        server.may_answer.set()
        assert {secret.reveal() for secret in await asyncio.gather(*tasks)} == {"one"}
        assert server.asked == ["ana"]
        await users.find("ana")
        assert server.asked == ["ana", "ana"]

    run(scenario())


def test_when_the_one_who_asks_is_cancelled_the_next_one_asks(run):
    """A client that goes away takes nobody's login with it."""

    async def scenario():
        server = Server(ana=row("ana", "one"))
        server.may_answer.clear()
        users = source(server)
        first, second = (asyncio.ensure_future(users.find("ana")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        server.may_answer.set()
        assert (await second).reveal() == "one"
        assert server.asked == ["ana", "ana"]

    run(scenario())


def test_when_the_server_cannot_be_asked_all_who_wait_hear_it_and_nothing_is_kept(run):
    """The next login asks again."""

    async def scenario():
        server = Server(ana=row("ana", "one"))
        server.error = BackendUnavailable("db", 1.5, "refused")
        server.may_answer.clear()
        users = source(server)
        tasks = [asyncio.ensure_future(users.find("ana")) for _ in range(3)]
        await asyncio.sleep(0)
        server.may_answer.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(str(error), server.asked) for error in errors] == [(str(server.error), ["ana"])] * 3
        server.error = None
        assert (await users.find("ana")).reveal() == "one"

    run(scenario())


def test_answers_are_kept_for_a_while_and_absence_for_a_shorter_one(run):
    """A role that is made just now can log in within a second."""

    async def scenario():
        clock = ManualClock()
        server = Server(ana=row("ana", "one"))
        users = source(server, clock=clock)
        await users.find("ana")
        assert await users.find("bob") is None
        clock.advance(0.9)
        await users.find("ana")
        await users.find("bob")
        assert server.asked == ["ana", "bob"]
        clock.advance(0.2)
        await users.find("ana")
        await users.find("bob")
        assert server.asked == ["ana", "bob", "bob"]
        clock.advance(9)
        await users.find("ana")
        users.forget("ana")
        await users.find("ana")
        users.forget()
        await users.find("ana")
        assert server.asked == ["ana", "bob", "bob", "ana", "ana", "ana"]

    run(scenario())


def test_the_cache_is_bounded(run):
    """Names that somebody makes up fill no memory."""

    async def scenario():
        server = Server()
        users = source(server, size_count=2)
        for user in ("a", "b", "c"):
            await users.find(user)
        assert len(users) == 2
        await users.find("b")
        assert server.asked == ["a", "b", "c"]

    run(scenario())


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([[b"ana"]], "1 columns"),
        ([[b"ana", b"x"], [b"ana", b"y"]], "2 rows"),
        ([[b"bob", b"secret"]], "another user"),
        ([[None, b"secret"]], "another user"),
        ([[b"ana", b"secret\xff"]], "not UTF-8"),
    ],
)
def test_an_answer_of_another_shape_is_the_servers_fault_and_is_not_shown(run, rows, cause):
    """One row of user and secret, or none."""

    async def scenario():
        with pytest.raises(BackendUnavailable, match=cause) as caught:
            await source(Server(ana=rows)).find("ana")
        assert "secret\xff" not in str(caught.value)

    run(scenario())


def test_a_user_without_a_secret_has_none(run):
    """NULL in pg_authid, and an empty text."""

    async def scenario():
        for secret in (None, b""):
            assert await source(Server(ana=[[b"ana", secret, b"more"]])).find("ana") is None

    run(scenario())
