"""Bad input: a proper SQLSTATE or a closed connection, the pool stays right, and nobody else sees anything."""

from __future__ import annotations

import asyncio
import random

import pytest
from core_lab import turns
from relay_conversations import CONVERSATIONS, bound, unnamed
from relay_lab import LabClient, RelayLab, fresh, relay_lab

from sojourn.errors import SojournError
from sojourn.gateways.postgres import wire

FUZZED_COUNT = 20_000
SEED = 20_261_121
GARBAGE = b"\xff\xfe\0\0\0\1garbage"
BEYOND_LIMIT = b"Q\x7f\xff\xff\xff"
_ROW = b"D\0\0\0\x0a\0\1\0\0\0\0"


def kinds_of(data: bytes) -> str:
    """Return the types of the messages that a client was sent."""
    return "".join(chr(kind) for kind, _ in wire.split(data)[0])


def errors_of(data: bytes) -> list[tuple[str, str]]:
    """Return severity and SQLSTATE of each error."""
    fields = [wire.error_fields(body) for kind, body in wire.split(data)[0] if kind == ord("E")]
    return [(one["S"], one["C"]) for one in fields]


async def check_served(lab: RelayLab) -> None:
    """Check that another client is served as if nothing had been."""
    other = lab.client()
    other.say(wire.query("select 1"))
    if not other.transport.written:  # a server is opened for it
        await turns(8)
        lab.pump()
    assert (
        kinds_of(other.transport.data).lstrip("S") == "TDCZ"
    )  # it may hear of parameters that were reported
    other.leave()
    lab.clients.remove(other)


# What the client sends


@pytest.mark.parametrize(
    ("sent", "told", "is_open"),
    [
        pytest.param(b"\0\0\0\0\4", ("FATAL", "08P01"), False, id="a type that is none"),
        pytest.param(b"y\0\0\0\4", ("FATAL", "08P01"), False, id="an unknown type"),
        pytest.param(wire.password_message(b"x"), ("FATAL", "08P01"), False, id="a password after the login"),
        pytest.param(b"Q\0\0\0\3", ("FATAL", "08P01"), False, id="a length below four"),
        pytest.param(BEYOND_LIMIT, ("FATAL", "08P01"), False, id="a length beyond the limit"),
        pytest.param(
            b"B" + (20_000).to_bytes(4, "big") + b"n" * 9_000, ("FATAL", "54000"), False, id="a long name"
        ),
        pytest.param(b"Q\0\0\0\4", ("ERROR", "08P01"), True, id="a Query without a text"),
        pytest.param(b"Q\0\0\0\x0aselect", ("ERROR", "08P01"), True, id="a Query without its NUL"),
        pytest.param(b"Q\0\0\0\x0dsel\0ect1\0", ("ERROR", "08P01"), True, id="a NUL in a Query"),
        pytest.param(b"P\0\0\0\x05\0" + wire.sync(), ("ERROR", "08P01"), True, id="a Parse without a text"),
        pytest.param(b"P\0\0\0\x06ab" + wire.sync(), ("ERROR", "08P01"), True, id="a Parse without its NUL"),
        pytest.param(b"B\0\0\0\x06ab" + wire.sync(), ("ERROR", "08P01"), True, id="a Bind without its NUL"),
        pytest.param(
            b"D\0\0\0\x06X\0" + wire.sync(), ("ERROR", "08P01"), True, id="a Describe of nothing known"
        ),
        pytest.param(
            b"E\0\0\0\x06ab" + wire.sync(), ("ERROR", "08P01"), True, id="an Execute without its NUL"
        ),
        pytest.param(wire.execute(b"p") + wire.sync(), ("ERROR", "34000"), True, id="Execute without Bind"),
        pytest.param(bound(b"nobody"), ("ERROR", "26000"), True, id="Bind without Parse"),
    ],
)
def test_what_breaks_a_rule_is_told_as_postgresql_tells_it(sent, told, is_open):
    """PostgreSQL: broken framing ends a connection, a malformed message fails its request; both with an SQLSTATE."""

    async def check():
        async with relay_lab() as lab:
            client = lab.client()
            answer = client.say(sent)
            assert errors_of(answer) == [told]
            assert client.transport.is_closed is not is_open
            if is_open:
                assert kinds_of(client.say(wire.query("select 1"))) == "TDCZ"
            await turns()
            await check_served(lab)
            lab.check_rest()

    asyncio.run(check())


@pytest.mark.parametrize("message", [b"S\0\0\0\x05x", b"H\0\0\0\x05x"])
def test_a_sync_or_flush_with_a_body_is_taken_for_a_bare_one(message):
    """An error of the server would come out of turn: so it gets them without."""

    async def check():
        async with relay_lab() as lab:
            client = lab.client()
            client.say(wire.parse(b"", b"select 1") + message)
            assert kinds_of(client.say(wire.sync() + wire.query("select 1"))).endswith("TDCZ")
            await check_served(lab)

    asyncio.run(check())


def test_more_prepared_statements_than_allowed_fail_one_by_one():
    """Issue 3: a million prepared statements are an error of their client, and neither server nor memory grows."""

    async def check():
        async with relay_lab(
            max_prepared_statements_per_client_count=50, max_prepared_statements_count=20
        ) as lab:
            client = lab.client()
            for number in range(50):
                client.say(wire.parse(b"s%d" % number, b"select %d" % number) + wire.sync())
            for number in range(50, 300):
                answer = client.say(
                    wire.parse(b"s%d" % number, b"select %d" % number) + bound(b"s%d" % number)
                )
                assert errors_of(answer) == [("ERROR", "53400")]
                assert kinds_of(answer) == "EZ"
            (transport,) = lab.transports
            assert len(transport.backend.prepared) <= 20
            assert len(transport.session.prepared) <= 20
            assert len(client.session.prepared) == 50
            assert kinds_of(client.say(bound(b"s0"))) == "2DCZ"
            client.say(wire.query("begin"))
            client.say(wire.parse(b"more", b"select 1") + wire.sync())
            assert errors_of(client.say(wire.query("select 1"))) == [("ERROR", "25P02")]
            client.say(wire.query("rollback") + wire.close_statement(b"s0") + wire.sync())
            assert kinds_of(client.say(wire.parse(b"more", b"select 1") + wire.sync())) == "1Z"
            lab.check_rest()

    asyncio.run(check())


# What the server sends

_LOST = frozenset({"40001", "08006", "08007", "57P01", "57P03", "08P01", "25P02"})


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize(
    "rest", [b"", GARBAGE, b"Z\0\0\0\1", b"D\0\0\0\3"], ids=["death", "type", "length", "row"]
)
@pytest.mark.parametrize(
    "request_",
    [
        wire.query("select 1; rows 2"),
        wire.parse(b"s", b"select 1") + bound(b"s", b"v", describes=wire.describe_portal(b"")),
        wire.query("begin") + unnamed("select 1"),
        wire.query("copy out"),
        wire.query("copy in"),
        unnamed("late 2"),
    ],
)
def test_a_server_that_dies_or_raves_at_any_byte_costs_itself_only(mode, rest, request_):
    """Issue 3: a proper SQLSTATE or a closed connection, and the pool stays right."""

    async def check():
        async with relay_lab(mode) as lab:
            with fresh(lab) as client:
                answer = client.say(request_)
            for place in range(len(answer)):
                lab.failures.clear()
                lab.endings.clear()
                with fresh(lab) as client:
                    client.feed(request_)
                    (transport,) = lab.transports
                    transport.unread.clear()
                    server = transport.session
                    server.data_received(answer[:place] + rest)
                    if not rest:
                        server.abort("")
                    lab.pump()
                    await turns(4)
                    lab.pump()
                    check_told(client, answer[:place] + rest, is_dead=not rest)
                    assert all(isinstance(error, SojournError) for error in lab.failures), lab.failures
                    assert all(isinstance(error, SojournError) for error in lab.endings), lab.endings
                    client.leave()
                    await turns(4)
                    lab.pump()
                    if mode == "transaction":
                        await check_served(lab)
                    assert len(lab.pool.primary.servers) <= 1
                    assert lab.pool.clients == 0

    asyncio.run(check())


def check_told(client: LabClient, came: bytes, *, is_dead: bool) -> None:
    """Check that a client whose server went wrong was told so, or closed, or waits for the rest of a message."""
    said = client.transport.data
    messages, rest = wire.split(said)
    states = [wire.error_fields(body)["C"] for kind, body in messages if kind == ord("E")]
    assert set(states) <= _LOST | {"22012"}, states
    if client.transport.is_closed:
        assert not rest or came.startswith(said)
    elif is_dead:
        assert not rest
        assert states or said.endswith((wire.ready_for_query(73), b"G\0\0\0\t\0\0\1\0\0"))


# Fuzz


def damaged(dice: random.Random, data: bytes) -> bytes:
    """Return bytes with one place changed: replaced, taken out, put in, or said twice."""
    place = dice.randrange(len(data))
    stop = min(len(data), place + dice.randrange(1, 12))
    match dice.randrange(5):
        case 0:
            return data[:place] + dice.randbytes(stop - place) + data[stop:]
        case 1:
            return data[:place] + data[stop:]
        case 2:
            return data[:place] + dice.randbytes(dice.randrange(1, 9)) + data[place:]
        case 3:
            return data[:stop] + data[place:]
        case _:
            return data[:place] + bytes((data[place] ^ 1 << dice.randrange(8),)) + data[place + 1 :]


class _Damage:
    """Damages one answer of a server, once."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._left = dice.randrange(4)

    def cut(self, data: bytes) -> list[bytes]:
        """Return the bytes that arrive, in two pieces."""
        self._left -= 1
        if self._left == 0:
            data = damaged(self._dice, data)
        middle = len(data) // 2
        return [data[:middle], data[middle:]] if middle else [data]


def test_damaged_conversations_end_no_worse_than_their_client():
    """Issue 3: 20,000 valid conversations with one damage each; no exception gets out, and no session is left."""

    async def check():
        dice = random.Random(SEED)
        names = sorted(CONVERSATIONS)
        async with relay_lab() as lab:
            for number in range(FUZZED_COUNT):
                said = list(CONVERSATIONS[dice.choice(names)])
                is_server = number % 4 == 0
                if not is_server:
                    at = dice.randrange(len(said))
                    said[at] = damaged(dice, said[at])
                client = lab.client()
                damage = _Damage(dice) if is_server else None
                for turn in said:
                    client.feed(turn)
                    lab.pump(damage)
                client.leave()
                lab.clients.clear()
                if is_server:
                    lab.end_servers()  # what such a server says next is anybody's guess
                lab.pump()
                lab.transports = [one for one in lab.transports if one.session.state != "closed"]
                if not lab.transports:
                    lab.open_server()
                assert lab.pool.clients == 0
                await check_served(lab)
                lab.check_rest()
            assert all(isinstance(error, SojournError) for error in lab.failures), lab.failures
            assert all(isinstance(error, SojournError) for error in lab.endings), lab.endings
            assert not lab.manager.connections

    asyncio.run(check())


def test_what_was_answered_is_not_done_again_when_the_server_ends_in_the_same_breath():
    """postgres-proxy.md section 6.8: a statement whose tag has come was executed; its end is told, not repeated."""

    async def check():
        async with relay_lab() as lab:
            client = lab.client()
            client.feed(wire.parse(b"s", b"notice x") + bound(b"s"))
            (transport,) = lab.transports
            transport.unread.clear()
            done = wire.parse_complete() + wire.bind_complete() + wire.command_complete("INSERT 0 1")
            fatal = wire.error_response("57P01", "terminating connection", severity="FATAL")
            transport.session.data_received(done + fatal)
            await turns()
            lab.pump()
            assert kinds_of(client.transport.data) == "12CEZ"
            assert not any(one.backend.log for one in lab.transports)

    asyncio.run(check())


def test_a_server_that_reports_parameters_without_end_is_left():
    """Issue 3, a server that sends garbage: each report is a new set of all, so that many cost more than many times."""

    async def check():
        async with relay_lab() as lab:
            client = lab.client()
            client.feed(wire.query("select 1"))
            (transport,) = lab.transports
            transport.unread.clear()
            transport.session.data_received(
                b"".join(wire.parameter_status(f"extension.{number}", "on") for number in range(2_000))
            )
            assert transport.is_closed
            assert len(transport.session.reported.values) < 300
            await turns()
            lab.pump()
            assert errors_of(client.transport.data) == [("ERROR", "08007")]
            await check_served(lab)

    asyncio.run(check())
