"""Verified replay: a transaction that is run again goes on only if every answer is the same.

Whole conversations without sockets; that it holds with real servers is shown in the scenarios.
Source: postgres-proxy.md section 6.8, the last row.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from msgspec.structs import replace
from relay_conversations import CONVERSATIONS, bound, unnamed
from relay_lab import Cutter, LabClient, RelayLab, relay_lab, story_of

from sojourn.gateways.postgres import cancel, wire
from sojourn.gateways.postgres.config import FailoverSettings
from sojourn.gateways.postgres.routing import LsnFloor
from sojourn.gateways.postgres.states import Busy, Holds
from sojourn.gateways.postgres.verified_replay import Replay

ON = FailoverSettings(verified_replay=True)
QUERY, SYNC, FLUSH = wire.query, wire.sync(), wire.flush()
MODES = ("session", "transaction")
ROW = ["T", "D", "SELECT 1", "T"]
LOST = ["40001", "E"]
RAISE = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


class Story:
    """One client in a lab, and what it has heard since it was asked last."""

    def __init__(self, lab: RelayLab, client: LabClient) -> None:
        self.lab = lab
        self.client = client
        self.session = client.session
        self._heard_count = len(client.transport.written)

    @property
    def data(self) -> bytes:
        """Return the bytes that came since the last look."""
        written = self.client.transport.written
        new, self._heard_count = b"".join(written[self._heard_count :]), len(written)
        return new

    @property
    def heard(self) -> list[str]:
        """Return what came since the last look, in words."""
        return story_of(self.data)

    async def say(self, data: bytes, cutter: Cutter | None = None) -> list[str]:
        """Let the client say something, and return what it hears when nothing is under way any more."""
        for chunk in cutter.cut(data) if cutter is not None else [data]:
            self.client.feed(chunk)
        await self.rest()
        return self.heard

    async def rest(self, cutter: Cutter | None = None) -> None:
        """Return when servers and loop have nothing to do for this client."""
        for _ in range(8):
            self.lab.pump(cutter)
            async with asyncio.timeout(10):
                while self.session.busy & Busy.WAITING and self.session.server is None:
                    self.lab.pump(cutter)
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            if isinstance(self.session.journal, Replay):
                await self.rest(cutter)

    def lose(self, answered: bytes = b"") -> None:
        """Let the server send some bytes yet, and die; what it was asked it has not seen."""
        server = self.session.server
        assert server is not None
        if answered:
            server.data_received(answered)
        server.transport.unread = []
        server.transport.is_closed = True
        server.connection_lost(None)

    def answer_of_server(self) -> bytes:
        """Return what the server has to say to what it was asked."""
        transport = self.session.server.transport
        data, transport.unread = b"".join(transport.unread), []
        return transport.backend.answer(data)

    @property
    def log(self) -> list[bytes]:
        """Return the SQL that the present server has got in plain queries, settings aside."""
        backend = self.session.server.transport.backend
        return [body[:-1] for kind, body in backend.log if kind == ord("Q")]


def told(lab: RelayLab) -> dict[str, int]:
    """Return what was counted."""
    return dict(lab.gateway.losses)


def run(
    check, mode: str = "transaction", *, failover: FailoverSettings = ON, is_clean: bool = True, **options
):
    """Run a check in a lab of its own, with one client."""

    async def body():
        async with relay_lab(mode, failover=failover, **options) as lab:
            ana = Story(lab, lab.client())
            await check(lab, ana)
            lab.pump()
            if is_clean:
                lab.check_rest()
            assert lab.failures == []
            assert lab.endings == []

    asyncio.run(body())


async def begun(ana: Story, *requests: bytes, begin: bytes = b"begin") -> None:
    """Let a client begin a transaction and ask something in it."""
    assert await ana.say(QUERY(begin)) == ["BEGIN", "T"]
    for one in requests:
        await ana.say(one)
    ana.data  # noqa: B018 - it is heard


NAMED = wire.parse(b"s1", b"select a") + wire.describe_statement(b"s1") + SYNC
REQUESTS = {
    "simple": [QUERY("select 1"), QUERY("update 2")],
    "extended": [unnamed("select a", b"v"), unnamed("select rows 3")],
    "named": [NAMED, bound(b"s1", b"1"), bound(b"s1", b"2")],
    "closed": [NAMED, bound(b"s1", b"1"), wire.close_statement(b"s1") + SYNC, NAMED],
    "settings": [QUERY("set local work_mem to '1MB'"), QUERY("select 1")],
    "a portal in parts": [
        wire.parse(b"", b"select rows 5") + wire.bind(b"c", b"", ()) + wire.execute(b"c", 2) + SYNC,
        wire.execute(b"c", 2) + SYNC,
    ],
    "a batch of several": [unnamed("select 1")[:-5] + unnamed("update 2"), QUERY("select 3; select 4")],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_transaction_between_two_requests_goes_on_unseen(name, mode):
    """6.8: re-run with a checksum of every result; the client notices latency only."""

    async def check(lab, ana):
        await begun(ana, *REQUESTS[name])
        ana.lose()
        await ana.rest()
        assert ana.data == b""
        assert ana.session.server.status == ord("T")
        assert await ana.say(QUERY("select 9")) == ROW
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}
        assert ana.session.journal is None
        assert not ana.session.busy & Busy.JOURNAL

    run(check, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("unanswered", "heard"),
    [
        (QUERY("select 2"), ROW),
        (unnamed("update 2"), ["1", "2", "SELECT 1", "T"]),
        (bound(b"s1", b"3"), ["2", "SELECT 1", "T"]),
        (QUERY("select 2") + QUERY("select 3"), ROW + ROW),
        (QUERY("select fail"), ["42601", "E"]),
    ],
    ids=["simple", "extended", "named", "pipeline", "an error"],
)
def test_the_request_without_an_answer_is_sent_behind_the_transaction(unanswered, heard, mode):
    """6.8: only if all is equal; then it gets its own answer, whatever that is."""

    async def check(lab, ana):
        await begun(ana, NAMED, bound(b"s1", b"1"))
        ana.client.feed(unanswered)
        ana.lose()
        await ana.rest()
        answered = [word for word in ana.heard if word != "D"]
        assert answered == [word for word in heard if word != "D"]
        assert (await ana.say(QUERY("rollback")))[-1] == "I"

    run(check, mode)


@pytest.mark.parametrize("place", range(1, len(unnamed("update 2"))))
def test_a_request_that_had_come_in_part_goes_on_with_its_rest(place):
    """6.3: a message may be cut anywhere, and its server be lost there."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        request = unnamed("update 2")
        ana.client.feed(request[:place])
        ana.lose()
        await ana.rest()
        assert ana.heard == []
        assert await ana.say(request[place:]) == ["1", "2", "D", "SELECT 1", "T"]
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


@pytest.mark.parametrize("place", range(0, 70, 3))
def test_however_answers_are_cut_they_are_the_same(place):
    """The digest is one of bytes, not of the chunks in which they came."""

    async def check(lab, ana):
        await begun(ana, unnamed("select 1"), QUERY("select rows 3"))
        ana.lose()
        await ana.rest(Cutter(place, place + 40, place + 90))
        assert ana.data == b""
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


def test_nothing_is_run_again_once_a_part_of_the_answer_was_passed_on():
    """6.8: what the client has begun to see cannot be compared; at every message of the answer."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        for count in range(1, 4):
            ana.client.feed(QUERY("select rows 2"))
            messages, _ = wire.split(ana.answer_of_server())
            ana.lose(b"".join(wire.message(kind, body) for kind, body in messages[:count]))
            assert ana.heard[-2:] == LOST
            assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
            assert await ana.say(QUERY("begin")) == ["BEGIN", "T"]
        assert "verified_replay" not in told(lab)
        await ana.say(QUERY("rollback"))

    run(check)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changed", [b"select 7", b"fail", b"rows 2", b"notice x"])
@pytest.mark.parametrize("unanswered", [b"", QUERY("select 3")], ids=["idle", "asking"])
def test_at_the_first_difference_all_is_rolled_back_and_the_client_is_told(unanswered, changed, mode):
    """6.8: stop at the first difference; the client gets what it gets without this: 40001, E until ROLLBACK."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"), QUERY("select 2"))
        if unanswered:
            ana.client.feed(unanswered)
        ana.lose()
        server = lab.transports[-1] if len(lab.transports) > 1 else await opened(lab)
        server.backend.changed[b"select 1"] = changed
        await ana.rest()
        assert ana.heard == (LOST if unanswered else [])
        assert await ana.say(QUERY("select 4")) == (["25P02", "E"] if unanswered else LOST)
        sql = [body[:-1] for kind, body in server.backend.log if kind == ord("Q")]
        assert b"select 2" not in sql
        assert b"ROLLBACK" in sql
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert await ana.say(QUERY("select 5")) == [*ROW[:3], "I"]
        assert told(lab) == {"verified_replay": 1, "replay_given_up": 1}

    run(check, mode)


async def opened(lab: RelayLab):
    """Return the transport of the server that is opened next."""
    count = len(lab.transports)
    async with asyncio.timeout(10):
        while len(lab.transports) == count:  # noqa: ASYNC110 - turns of the loop
            await asyncio.sleep(0)
    return lab.transports[-1]


@pytest.mark.parametrize(
    ("begin", "requests", "wanted"),
    [
        (b"begin", [QUERY("select 1")], [b"begin", b"SHOW transaction_isolation", RAISE, b"select 1"]),
        (
            b"begin",
            [QUERY("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"), QUERY("select 1")],
            [
                b"begin",
                b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
                b"SHOW transaction_isolation",
                RAISE,
                b"select 1",
            ],
        ),
        (
            b"begin isolation level serializable",
            [QUERY("select 1")],
            [b"begin isolation level serializable", b"SHOW transaction_isolation", b"select 1"],
        ),
        (
            b"begin isolation level repeatable read",
            [QUERY("select 1")],
            [b"begin isolation level repeatable read", b"SHOW transaction_isolation", b"select 1"],
        ),
    ],
    ids=["default", "set afterwards", "serializable", "repeatable read"],
)
def test_all_that_is_read_again_belongs_to_one_moment(begin, requests, wanted):
    """6.8: under REPEATABLE READ, which the client's own SET TRANSACTION must not undo, and never under less."""

    async def check(lab, ana):
        await begun(ana, *requests, begin=begin)
        ana.lose()
        await ana.rest()
        assert ana.log == wanted
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


def test_a_transaction_that_has_read_nothing_keeps_its_own_level():
    """Nothing was compared, so that there is no moment to keep to."""

    async def check(lab, ana):
        await begun(ana)
        ana.client.feed(QUERY("update 1"))
        ana.lose()
        await ana.rest()
        assert ana.heard == ROW
        assert ana.log == [b"begin", b"update 1"]
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


def test_what_the_client_says_meanwhile_is_answered_afterwards_in_order():
    """3.3 point 1: its input waits as for any server."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.client.feed(QUERY("select 2"))
        ana.lose()
        ana.client.feed(QUERY("select rows 2"))
        ana.client.feed(QUERY("commit"))
        await ana.rest()
        assert ana.heard == [*ROW, "T", "D", "D", "SELECT 2", "T", "COMMIT", "I"]

    run(check)


def test_a_server_that_dies_in_the_replay_is_followed_by_another():
    """6.8 and the round's order: again on the next, within the deadline; not for ever."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"), QUERY("select 2"))
        ana.client.feed(QUERY("select 3"))
        ana.lose()
        transport = await opened(lab)
        await asyncio.sleep(0)
        transport.session.data_received(transport.backend.answer(b"".join(transport.unread)))
        transport.unread = []
        ana.lose()
        await ana.rest()
        assert ana.heard == ROW
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_a_transaction_that_kills_one_server_after_the_other_is_given_up():
    """As above."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose()
        for _ in range(3):
            assert isinstance(ana.session.journal, Replay)
            await opened(lab)
            lab.pump()
            ana.lose()
        assert not isinstance(ana.session.journal, Replay)
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_given_up": 1}

    run(check)


def test_servers_that_die_before_they_have_begun_it_do_not_count():
    """A node that dies takes its free servers with it one by one: they have not seen what is to be run again."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose()
        for _ in range(9):
            await opened(lab)
            ana.lose()
        await ana.rest()
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_a_request_that_has_cost_two_servers_is_not_sent_to_a_third():
    """A statement that kills its server must not go from one to the next."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.client.feed(QUERY("select 2"))
        ana.lose()
        while ana.log[-1:] != [b"select 2"] if ana.session.server else True:
            transport = ana.session.server.transport if ana.session.server else await opened(lab)
            if any(b"select 2" in data for data in transport.unread):
                break
            lab.pump()
            await asyncio.sleep(0)
        ana.lose()
        assert ana.heard == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1, "in_transaction": 1}

    run(check)


def test_a_transaction_may_survive_two_failovers():
    """The journal goes on behind a replay, with what was answered since."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        for number in range(2):
            ana.lose()
            await ana.rest()
            assert await ana.say(QUERY(f"select {number}")) == ROW
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 2, "replay_equal": 2}

    run(check)


def test_a_client_that_leaves_in_the_replay_leaves_nothing():
    """6.4: its server is not given to anybody with its transaction open."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"), QUERY("select 2"))
        ana.lose()
        transport = await opened(lab)
        await asyncio.sleep(0)
        assert isinstance(ana.session.journal, Replay)
        ana.client.leave()
        assert not lab.pool.upkeep.replays
        lab.pump()
        await asyncio.sleep(0)
        assert transport.is_closed
        ben = Story(lab, lab.client())
        assert await ben.say(QUERY("select 1")) == [*ROW[:3], "I"]

    run(check)


def test_a_client_that_leaves_while_it_waits_for_a_server_is_forgotten():
    """6.4: nothing runs for nobody."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose()
        ana.client.leave()
        assert not lab.pool.upkeep.replays
        assert list(lab.pool.waiting()) == []

    run(check)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_attached", [False, True])
def test_the_deadline_ends_a_replay(is_attached, mode):
    """6.8: a bound in time; what waits is told as if nothing had been tried."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.client.feed(QUERY("select 2"))
        if not is_attached:
            lab.pool.size = 0
        ana.lose()
        if is_attached:
            await opened(lab)
            await asyncio.sleep(0)
        lab.pool.upkeep.sweep(monotonic() + 29)
        assert ana.heard == []
        lab.pool.upkeep.sweep(monotonic() + 31)
        assert ana.heard == LOST
        assert list(lab.pool.waiting()) == []
        lab.pool.size = 1
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert await ana.say(QUERY("select 3")) == [*ROW[:3], "I"]

    run(check, mode)


def test_without_a_primary_in_time_the_transaction_is_lost():
    """6.4: those who wait for a primary are told when there is none; a transaction as lost, not as refused."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        lab.pool.primary, primary = None, lab.pool.primary
        ana.lose()
        lab.pool.give_up("nobody is there")
        lab.pool.primary = primary
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]

    run(check)


@pytest.mark.parametrize(
    ("asked", "meanwhile", "heard"),
    [
        (QUERY("select 2"), b"", ["57014", "E"]),
        (QUERY("select 2") + QUERY("select 3"), b"", ["57014", "E", "25P02", "E"]),
        (b"", QUERY("select 4"), ["57014", "E"]),
    ],
    ids=["unanswered", "a pipeline", "asked meanwhile"],
)
@pytest.mark.parametrize("is_attached", [False, True])
def test_a_cancel_request_is_for_what_waits_for_an_answer(asked, meanwhile, heard, is_attached, monkeypatch):
    """6.6: 57014 for the request, after which the transaction has failed, as at a server."""
    sent = []

    async def remembered(server):
        sent.append(server)

    monkeypatch.setattr(cancel, "_send", remembered)

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        if asked:
            ana.client.feed(asked)
        ana.lose()
        if is_attached:
            await opened(lab)
            await asyncio.sleep(0)
        if meanwhile:
            ana.client.feed(meanwhile)
        await cancel.cancel(ana.session, timeout_s=1)
        assert ana.heard == heard
        assert await ana.say(QUERY("select 5")) == ["25P02", "E"]
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert await ana.say(QUERY("select 6")) == [*ROW[:3], "I"]

    run(check)


def test_a_cancel_request_of_a_client_that_waits_for_nothing_is_left_alone():
    """PostgreSQL: a cancel request that comes too late has no effect."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose()
        await opened(lab)
        await asyncio.sleep(0)
        await cancel.cancel(ana.session, timeout_s=1)
        await ana.rest()
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


def test_what_is_longer_than_the_bound_is_not_kept():
    """The memory of a journal is bounded; the transaction is lost as without one."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        assert ana.session.journal is not None
        await ana.say(QUERY("select " + "x" * 2_000))
        assert ana.session.journal is None
        assert not ana.session.busy & Busy.JOURNAL
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]

    run(check, failover=replace(ON, verified_replay_bytes=1_000))


def test_many_small_requests_count_by_what_they_cost():
    """As above: an empty request of five bytes is two objects in memory."""

    async def check(lab, ana):
        await begun(ana)
        await ana.say(SYNC * 10)
        assert ana.session.journal is None
        await ana.say(QUERY("rollback"))

    run(check, failover=replace(ON, verified_replay_bytes=1_000))


NEVER = {
    "commit": ([QUERY("select 1")], QUERY("commit"), ["08007", "I"]),
    "commit in a batch": ([QUERY("select 1")], unnamed("commit"), ["08007", "I"]),
    "a failed transaction": ([QUERY("select fail")], b"", []),
    "what outlives it": ([QUERY("set work_mem to '1MB'")], QUERY("select 1"), LOST),
    "a function of the protocol": ([QUERY("select 1")], wire.message(ord("F"), b"\0" * 10), LOST),
    "listen": ([QUERY("listen a")], QUERY("select 1"), LOST),
    "an unknown command": ([QUERY("select 1; call p()")], QUERY("select 1"), LOST),
    "the same unanswered": ([QUERY("select 1")], QUERY("call p()"), LOST),
    "parsed": ([unnamed("call p()")], QUERY("select 1"), LOST),
    "copy": ([QUERY("copy out")], QUERY("select 1"), LOST),
    "copy in flight": ([QUERY("select 1")], QUERY("copy t from stdin"), LOST),
    "rollback": ([QUERY("select 1")], QUERY("rollback"), ["ROLLBACK", "I"]),
    "a query behind an open batch": (
        [wire.parse(b"", b"select 1") + QUERY("select 2")],
        QUERY("select 1"),
        LOST,
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_is_never_run_again(name):
    """6.8: nothing behind a COMMIT, nothing that lives on, nothing failed, no COPY; each as without this."""
    before, unanswered, heard = NEVER[name]

    async def check(lab, ana):
        await begun(ana, *before)
        if unanswered:
            ana.client.feed(unanswered)
        ana.lose()
        assert ana.heard == heard
        assert not {"verified_replay", "replay_equal"} & set(told(lab))
        assert ana.session.journal is None
        assert ana.session.write == ana.client.transport.write
        await ana.say(QUERY("rollback"))

    run(check)


def test_a_statement_that_was_prepared_before_the_transaction_is_looked_at_too():
    """6.8: what is executed counts, not where its text was sent."""

    async def check(lab, ana):
        await ana.say(wire.parse(b"s1", b"call p()") + SYNC)
        ana.data  # noqa: B018 - it is heard
        await begun(ana, bound(b"s1"))
        ana.lose()
        assert await ana.say(QUERY("select 1")) == LOST
        await ana.say(QUERY("rollback"))

    run(check)


def test_a_server_that_ends_a_slow_transaction_is_not_evaded():
    """25P03 is the server's answer to a client that waits too long, not a failure of the server."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.session.server.data_received(wire.error_response("25P03", "too slow", severity="FATAL"))
        assert await ana.say(QUERY("select 2")) == LOST
        await ana.say(QUERY("rollback"))

    run(check)


def test_a_server_that_is_stopped_is_lost_like_any_other():
    """57P01 comes before a planned restart."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.session.server.data_received(wire.error_response("57P01", "shutting down", severity="FATAL"))
        await ana.rest()
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_prepared_statements_are_after_a_lost_replay_what_they_were_before_it():
    """PostgreSQL: what was prepared in a transaction outlives its rollback."""

    async def check(lab, ana):
        await begun(ana, NAMED, bound(b"s1", b"1"))
        ana.lose()
        (await opened(lab)).backend.changed[b"select a"] = b"select b"
        await ana.rest()
        assert await ana.say(QUERY("select 4")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert await ana.say(bound(b"s1", b"1")) == ["2", "D", "SELECT 1", "I"]

    run(check)


def test_off_it_is_as_if_it_were_not_there():
    """6.8: never default; nothing is kept and no bytes go another way."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        assert ana.session.journal is None
        assert ana.session.write == ana.client.transport.write
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert told(lab) == {"in_transaction": 1}

    run(check, failover=FailoverSettings())


def test_a_begin_that_was_answered_by_the_gateway_is_run_again_too():
    """6.6: a deferred BEGIN is one as any other."""

    async def check(lab, ana):
        lab.gateway.settings = lab.gateway.config = replace(lab.gateway.settings, is_deferring_begin=True)
        ana.session.config = lab.gateway.settings
        await begun(ana, QUERY("set local work_mem to '1MB'"), QUERY("select 1"))
        ana.lose()
        await ana.rest()
        assert ana.data == b""
        assert await ana.say(QUERY("select 1")) == ROW
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_a_transaction_that_began_anew_unseen_may_be_run_again():
    """6.8: the row only_begin_sent comes first; what follows is kept from there."""

    async def check(lab, ana):
        await begun(ana, QUERY("set local work_mem to '1MB'"))
        ana.lose()
        await ana.say(QUERY("select 1"))
        ana.lose()
        await ana.rest()
        assert await ana.say(QUERY("select 2")) == ROW
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"only_begin_sent": 1, "verified_replay": 1, "replay_equal": 1}

    run(check)


def test_the_next_transaction_has_a_journal_of_its_own():
    """A journal ends with its transaction, also where the next BEGIN comes right behind the COMMIT."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        assert await ana.say(QUERY("commit") + QUERY("begin")) == ["COMMIT", "I", "BEGIN", "T"]
        await ana.say(QUERY("rollback"))
        assert ana.session.journal is None
        assert ana.session.write == ana.client.transport.write
        await begun(ana, QUERY("select 2"))
        ana.lose()
        await ana.rest()
        assert b"select 1" not in ana.log
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_however_the_client_cuts_its_bytes_the_transaction_is_kept(place):
    """6.3: chunks are no messages; the journal has the requests as they were meant."""

    async def check(lab, ana):
        whole = QUERY("begin") + unnamed("select a", b"v") + QUERY("update 1")
        await ana.say(whole, Cutter(place, place + 11, place + 29))
        ana.lose()
        await ana.rest()
        assert ana.heard == []
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_a_long_request_that_streams_is_kept_whole():
    """A query longer than what is looked at goes on in parts, and is one request."""

    async def check(lab, ana):
        long = QUERY("select " + "x" * 200_000)
        await begun(ana)
        await ana.say(long, Cutter(70_000, 150_000))
        ana.lose()
        await ana.rest()
        assert ana.heard == []
        assert ana.log[-1] == long[5:-1]
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check, failover=replace(ON, verified_replay_bytes=1_000_000))


def as_select(turn: bytes) -> bytes:
    """Return a turn with the made-up statements in the form in which they may be run again."""
    messages, rest = wire.split(turn)
    assert rest == b""
    return b"".join(wire.message(kind, _as_select(kind, body)) for kind, body in messages)


def _as_select(kind: int, body: bytes) -> bytes:
    start = 0 if kind == ord("Q") else body.index(0) + 1 if kind == ord("P") else len(body)
    is_made_up = body[start:].startswith((b"rows ", b"fail\0"))
    return body[:start] + b"select " + body[start:] if is_made_up else body


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_the_same_with_a_loss_or_its_transaction_is_lost(name, mode):
    """6.8: for each conversation in a transaction, its server lost behind each turn: every later byte is the same, or
    nothing was run again."""
    turns = [as_select(turn) for turn in CONVERSATIONS[name]]

    async def check(lab, ana):
        whole = await conversation(lab, turns, lost_after=len(turns))
        for place in range(len(turns)):
            before = told(lab).get("replay_equal", 0)
            heard = await conversation(lab, turns, lost_after=place)
            assert heard[: place + 1] == whole[: place + 1]
            if told(lab).get("replay_equal", 0) > before:
                assert heard == whole

    run(check, mode, is_clean=False)


async def conversation(lab: RelayLab, turns: list[bytes], *, lost_after: int) -> list[bytes]:
    """Return what a client hears of each turn within a transaction whose server is lost once."""
    lab.end()
    lab.clients.clear()
    lab.transports.clear()
    lab.open_server()
    ana = Story(lab, lab.client())
    await begun(ana)
    heard = []
    for place, turn in enumerate(turns):
        ana.client.feed(turn)
        await ana.rest()
        heard.append(ana.data)
        if place == lost_after and ana.session.server is not None:
            ana.lose()
            await ana.rest()
    return heard


BEGIN_IN_BATCH = unnamed("begin")[:-5]
IN_BATCH = {
    "alone with its statement": (BEGIN_IN_BATCH + unnamed("select 1"),),
    "described": (unnamed("begin", describes=wire.describe_portal(b""))[:-5] + unnamed("select 1"),),
    "with others behind it": (
        BEGIN_IN_BATCH + unnamed("select 1")[:-5] + unnamed("update 2"),
        QUERY("select 3"),
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", range(0, 80, 9))
@pytest.mark.parametrize("name", IN_BATCH)
def test_a_begin_that_comes_in_a_batch_with_the_first_statement_is_one_too(name, place, mode):
    """6.8: JDBC and pipelines send it so; it is done first, raised, and answered in its place when the batch comes."""

    async def check(lab, ana):
        for turn in IN_BATCH[name]:
            heard = await ana.say(turn, Cutter(place, place + 20))
        assert heard[-1] == "T"
        ana.client.feed(QUERY("select 8"))
        ana.lose()
        await ana.rest()
        assert ana.heard == ROW
        first = ana.log.index(b"begin")  # in session mode behind the session's state
        assert ana.log[first : first + 3] == [b"begin", b"SHOW transaction_isolation", RAISE]
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check, mode)


def test_a_begin_that_was_prepared_is_one_too():
    """6.8: a driver that prepares what it often sends prepares BEGIN as well."""

    async def check(lab, ana):
        await ana.say(wire.parse(b"b", b"begin") + SYNC)
        assert (await ana.say(bound(b"b")[:-5] + unnamed("select 1")))[-1] == "T"
        ana.lose()
        await ana.rest()
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_a_begin_that_came_in_parts_too_late_to_be_kept_is_not_run_again():
    """6.8: only a transaction that is kept as a whole; here the beginning of its Bind went on before anybody knew."""

    async def check(lab, ana):
        await ana.say(wire.parse(b"b", b"begin") + SYNC)
        await ana.say(bound(b"b")[:-5] + unnamed("select 1"), Cutter(9))
        assert ana.session.journal is None
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]

    run(check)


@pytest.mark.parametrize(
    "turn",
    [
        unnamed("select 1")[:-5] + BEGIN_IN_BATCH + unnamed("select 1"),
        BEGIN_IN_BATCH + unnamed("commit")[:-5] + BEGIN_IN_BATCH + unnamed("select 1"),
        QUERY("select 1") + BEGIN_IN_BATCH + unnamed("select 1"),
        QUERY("begin; select 1"),
    ],
    ids=["not the first", "not the last", "behind a request", "in a query with others"],
)
def test_a_begin_whose_transaction_is_not_known_from_its_first_byte_is_not_run_again(turn):
    """6.8: what came before it was no part of the transaction, and may be committed."""

    async def check(lab, ana):
        assert (await ana.say(turn))[-1] == "T"
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        assert told(lab) == {"in_transaction": 1}

    run(check)


def test_a_batch_that_differs_is_not_the_same_because_its_begin_is():
    """6.8: stop at the first difference."""

    async def check(lab, ana):
        assert (await ana.say(BEGIN_IN_BATCH + unnamed("select 1")))[-1] == "T"
        ana.lose()
        (await opened(lab)).backend.changed[b"select 1"] = b"select 7"
        await ana.rest()
        assert await ana.say(QUERY("select 4")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]

    run(check)


def test_a_session_at_a_replica_stays_one_that_asks_replicas():
    """6.7: its transaction goes on at the primary; where its next one goes is as before."""

    async def check(lab, ana):
        ana.session.route = 1
        await begun(ana, QUERY("select 1"))
        ana.lose()
        assert ana.session.route == 0
        await ana.rest()
        assert ana.session.route == 1
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check, "session")


def test_what_came_unasked_within_the_transaction_counts_as_a_part_of_an_answer():
    """A parameter that is reported in between counts as bytes: as those of an answer that has begun."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose(wire.parameter_status("application_name", "another"))
        assert ana.heard == ["S"]
        assert await ana.say(QUERY("select 2")) == LOST
        await ana.say(QUERY("rollback"))

    run(check)


def test_data_that_nobody_wants_are_still_nobody_s_after_a_loss():
    """6.3: the rest of a message that is dropped must not be taken for the next one."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        data = wire.copy_data(b"x" * 100)
        ana.client.feed(data[:50])
        ana.lose()
        assert await ana.say(data[50:] + QUERY("select 2")) == LOST
        await ana.say(QUERY("rollback"))

    run(check)


def test_a_session_that_has_what_cannot_be_made_again_is_told_so():
    """6.8: what a sequence has given to the session is gone; a function in the transaction may ask for it."""

    async def check(lab, ana):
        ana.session.holding.completed(b"SELECT 1", b"select nextval('s')")
        await begun(ana, QUERY("select 1"))
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        await ana.say(QUERY("rollback"))

    run(check)


def test_strings_that_end_elsewhere_are_not_read():
    """PostgreSQL: without standard_conforming_strings a COMMIT may hide behind a backslash."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.session.reported = ana.session.reported.with_value("standard_conforming_strings", "off")
        ana.lose()
        assert await ana.say(QUERY("select 2")) == LOST
        await ana.say(QUERY("rollback"))

    run(check, is_clean=False)


def test_a_session_that_keeps_its_server_gets_another_one_after_a_replay_that_failed():
    """3.3 point 1: what it holds is made again at once, not only when it asks."""

    async def check(lab, ana):
        await begun(ana, QUERY("select 1"))
        ana.lose()
        (await opened(lab)).backend.changed[b"select 1"] = b"select 7"
        await ana.rest()
        assert ana.session.needs_restore
        assert await ana.say(QUERY("select 2")) == LOST
        assert await ana.say(QUERY("rollback")) == ["ROLLBACK", "I"]
        await ana.rest()
        assert not ana.session.needs_restore
        assert ana.session.server is not None

    run(check, "session")


def test_the_unnamed_statement_is_again_what_it_was_at_the_beginning():
    """A Parse that was answered upon a Flush before the batch's first Execute belongs to what came before."""

    async def check(lab, ana):
        assert await ana.say(wire.parse(b"", b"begin") + FLUSH) == ["1"]
        heard = ["2", "BEGIN", "1", "2", "D", "SELECT 1", "T"]
        assert await ana.say(bound(b"")[:-5] + unnamed("select b")) == heard
        ana.lose()
        await ana.rest()
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]
        assert told(lab) == {"verified_replay": 1, "replay_equal": 1}

    run(check)


def test_the_transaction_s_settings_are_forgotten_before_they_are_made_again():
    """6.5: settings follow the transaction, and that one was rolled back."""

    async def check(lab, ana):
        await begun(ana, QUERY("set local work_mem to '1MB'"), QUERY("select 1"))
        assert ana.session.holding.current_vector.get("work_mem")
        ana.lose()
        assert not ana.session.holding.current_vector.get("work_mem")
        await ana.rest()
        assert ana.session.holding.current_vector.get("work_mem")
        assert await ana.say(QUERY("commit")) == ["COMMIT", "I"]

    run(check)


def test_how_far_the_log_is_is_asked_after_a_replay_too():
    """6.7, read your writes: the floor follows what the transaction wrote at its new server."""

    async def check(lab, ana):
        ana.session.floor = LsnFloor()
        await begun(ana, QUERY("update 1"))
        ana.lose()
        await ana.rest()
        assert ana.session.holds & Holds.FLOOR

    run(check, is_clean=False)
