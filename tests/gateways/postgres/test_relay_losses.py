"""What a client is told when its server is lost at a certain message: whole conversations, without sockets.

The rows of the table are in ``test_retry``; this is about the facts that are found for it, request by request.
Source: postgres-proxy.md sections 3.3 and 6.8.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from msgspec.structs import replace
from relay_conversations import bound, unnamed
from relay_lab import LabClient, relay_lab, story_of

from sojourn.gateways.postgres import cancel, wire
from sojourn.gateways.postgres.outcome import ArmedCommit
from sojourn.gateways.postgres.states import Busy


def in_lab(check, mode: str = "transaction", **options) -> None:
    """Run a check in a lab of its own."""

    async def body():
        async with relay_lab(mode, **options) as lab:
            check(lab)
            lab.pump()
            lab.check_rest()
            assert lab.failures == []
            assert lab.endings == []

    asyncio.run(body())


def begun(client: LabClient, *statements: str) -> None:
    """Let a client run some statements."""
    for statement in statements:
        client.say(wire.query(statement))


def lose(lab, client: LabClient, answered_count: int = 0) -> list[str]:
    """Let the client's server answer so many messages of what it was asked and die; return what the client hears."""
    server = client.session.server
    assert server is not None
    transport = server.transport
    before = len(client.transport.written)
    answer = transport.backend.answer(b"".join(transport.unread))
    transport.unread = []
    messages, _ = wire.split(answer)
    for kind, body in messages[:answered_count]:
        server.data_received(wire.message(kind, body))
    transport.is_closed = True
    server.connection_lost(None)
    return story_of(b"".join(client.transport.written[before:]))


def replaced(lab, client: LabClient, data: bytes = b"") -> list[str]:
    """Open a new server, let the client say something, and return what it hears."""
    before = len(client.transport.written)
    place = lab.pool.primary
    if not place.servers:
        lab.open_server()
    client.say(data)
    lab.pump()
    return story_of(b"".join(client.transport.written[before:]))


def batch(*texts: bytes) -> bytes:
    """Return an extended request without its Sync."""
    return b"".join(wire.parse(b"", one) + wire.bind(b"", b"", ()) + wire.execute(b"") for one in texts)


QUERY, SYNC, FLUSH = wire.query, wire.sync(), wire.message(ord("H"), b"")
LONG_BYTES = 3 << 19
COPY_IN = "copy t from stdin"
BLOCK = ("begin", "insert 1")
ROW = ["T", "D", "SELECT 1", "I"]

HEARD = {
    # Each request of a pipeline by itself: what comes behind a ROLLBACK is no part of the transaction.
    "rollback, then a write": (
        BLOCK,
        QUERY("rollback") + QUERY("insert 2"),
        0,
        ["ROLLBACK", "I", "08007", "I"],
    ),
    "a write, then rollback": (
        BLOCK,
        QUERY("insert 2") + QUERY("rollback"),
        0,
        ["40001", "E", "ROLLBACK", "I"],
    ),
    "two writes in a transaction": (BLOCK, QUERY("insert 2") * 2, 0, ["40001", "E", "25P02", "E"]),
    "a write, then commit": (
        BLOCK,
        QUERY("insert 2") + QUERY("commit"),
        0,
        ["08007", "E", "08007", "I"],
    ),
    "commit, then another transaction": (
        BLOCK,
        QUERY("commit") + QUERY("begin") + QUERY("insert 2"),
        0,
        ["08007", "I", "40001", "E", "25P02", "E"],
    ),
    "a whole transaction at once": (
        (),
        QUERY("begin") + QUERY("insert 1") + QUERY("commit"),
        0,
        ["08007", "E", "08007", "E", "08007", "I"],
    ),
    # Comments do not hide the end of a transaction.
    "a comment before commit": (BLOCK, QUERY("/* ; */ commit"), 0, ["08007", "I"]),
    "a comment before the last statement": (BLOCK, QUERY("insert 2; -- done\n commit"), 0, ["08007", "I"]),
    "a comment before rollback": (BLOCK, QUERY("-- no\nrollback"), 0, ["ROLLBACK", "I"]),
    "a commit in a string": (BLOCK, QUERY("insert '; commit'"), 0, ["40001", "E"]),
    "a commit that may be in what is not known": (
        BLOCK,
        QUERY("insert '" + "x" * 100_000 + "'; commit"),
        0,
        ["08007", "I"],
    ),
    # An error that was told is not told again.
    "the error of a query": ((), QUERY("fail"), 1, ["42601", "I"]),
    "the error of a request": ((), unnamed("fail"), 3, ["1", "2", "42601", "I"]),
    "the error in a transaction": (("begin",), unnamed("fail"), 3, ["1", "2", "42601", "E"]),
    "the error, its Sync to come": ((), batch(b"fail"), 3, ["1", "2", "42601"]),
    "the error, a request behind it": (
        (),
        unnamed("fail") + QUERY("insert 1"),
        3,
        ["1", "2", "42601", "I", "08007", "I"],
    ),
    # A batch may begin and end transactions long before its Sync.
    "a write behind the commit of a batch": (
        BLOCK,
        batch(b"commit", b"insert 2") + SYNC,
        3,
        ["1", "2", "COMMIT", "08007", "I"],
    ),
    "a write behind the begin of a batch": (
        (),
        batch(b"begin", b"insert 2") + FLUSH,
        3,
        ["1", "2", "BEGIN", "40001"],
    ),
    "a write behind a return to a savepoint": (
        (*BLOCK, "savepoint a"),
        batch(b"rollback to a", b"insert 2") + SYNC,
        2,
        ["1", "2", "40001", "E"],
    ),
    # Before its Sync nothing of a batch is committed, unless a command of it commits by itself.
    "a write, its Sync to come": ((), batch(b"insert 2") + FLUSH, 0, ["40001"]),
    "a write behind an answered one, the Sync to come": (
        (),
        batch(b"insert 1", b"insert 2") + FLUSH,
        4,
        ["1", "2", "D", "SELECT 1", "40001"],
    ),
    "a write behind another request, its Sync to come": (
        (),
        QUERY("insert 1") + batch(b"insert 2") + FLUSH,
        0,
        ["08007", "I", "40001"],
    ),
    "a write and its Sync": ((), batch(b"insert 2") + FLUSH + SYNC, 0, ["08007", "I"]),
    "a call, its Sync to come": ((), batch(b"call p()") + FLUSH, 0, ["08007"]),
    "a write behind a call, the Sync to come": (
        (),
        batch(b"call p()", b"insert 2") + FLUSH,
        4,
        ["1", "2", "D", "SELECT 1", "08007"],
    ),
    # COPY: only what cannot have been committed is called so.
    "copy from a file": ((), QUERY("copy t from '/tmp/from stdin'"), 0, ["08007", "I"]),
    "copy of a query that writes": (
        (),
        QUERY("copy (insert into t values (1) returning n) to stdout"),
        0,
        ["08007", "I"],
    ),
    "copy before a write": ((), QUERY("copy t to stdout; insert 2"), 0, ["08007", "I"]),
    "copy of a table": ((), QUERY("copy t to stdout"), 0, ["40001", "I"]),
    "copy from the client": ((), QUERY(COPY_IN), 0, ["40001", "I"]),
    "copy with all data ahead": (
        (),
        QUERY(COPY_IN) + wire.copy_data(b"1\n") + wire.copy_done(),
        0,
        ["08007", "I"],
    ),
}


@pytest.mark.parametrize("case", HEARD, ids=lambda case: case.replace(" ", "-"))
def test_the_client_hears_of_each_request_what_is_true_of_it(case):
    """Specification 6.8: one answer a request, and "nothing was committed" only where nothing can have been."""
    before, data, answered_count, heard = HEARD[case]

    def check(lab):
        ana = lab.client()
        begun(ana, *before)
        ana.feed(data)
        assert lose(lab, ana, answered_count) == heard
        if heard[-1] == "E":
            assert replaced(lab, ana, QUERY("select 1") + QUERY("rollback")) == [
                "25P02",
                "E",
                "ROLLBACK",
                "I",
            ]
        elif heard[-1] != "I":
            status = "E" if before or "BEGIN" in heard else "I"
            ends = QUERY("rollback") if status == "E" else b""
            ended = ["ROLLBACK", "I"] if ends else []
            assert replaced(lab, ana, SYNC + ends) == [status, *ended]
        assert replaced(lab, ana, QUERY("select 1")) == ROW

    in_lab(check)


@pytest.mark.parametrize("name", [b"", b"named"])
def test_what_is_left_of_a_batch_that_was_only_prepared_goes_to_another_server(name):
    """Parse and Describe were answered upon Flush and nothing was executed: the next server gets the Parse unseen."""

    def check(lab):
        ana = lab.client()
        ana.feed(wire.parse(name, b"select 1") + FLUSH)
        assert lose(lab, ana, 1) == ["1"]
        rest = wire.bind(b"", name, ()) + wire.execute(b"") + SYNC
        assert replaced(lab, ana, rest) == ["2", "D", "SELECT 1", "I"]

    in_lab(check)


@pytest.mark.parametrize(
    ("end", "heard"),
    [
        (QUERY("/* pool */ ROLLBACK"), ["ROLLBACK", "I"]),
        (QUERY("rollback and no chain"), ["ROLLBACK", "I"]),
        (QUERY("ROLLBACK;\nselect 1;\nselect 2;"), ["ROLLBACK", *ROW[:3], *ROW]),
        (wire.parse(b"S_1", b"ROLLBACK") + bound(b"S_1"), ["1", "2", "ROLLBACK", "I"]),
        (
            wire.parse(b"S_1", b"ROLLBACK") + wire.describe_statement(b"S_1") + SYNC + bound(b"S_1"),
            ["1", "t", "n", "E", "2", "ROLLBACK", "I"],
        ),
    ],
    ids=["a comment", "no chain", "more behind it", "named", "named and described"],
)
def test_a_lost_transaction_is_ended_by_whatever_ends_one(end, heard):
    """Specification 6.4: PostgreSQL takes ROLLBACK in each of these forms; drivers reset sessions with the third."""

    def check(lab):
        ana = lab.client()
        begun(ana, *BLOCK)
        ana.feed(QUERY("insert 2"))
        assert lose(lab, ana) == ["40001", "E"]
        assert replaced(lab, ana, end) == heard
        assert replaced(lab, ana, QUERY("select 1")) == ROW

    in_lab(check)


def test_a_commit_whose_fate_is_known_says_nothing_of_what_follows_it():
    """3.3 point 3: the id is that of the transaction; a write behind the COMMIT may be lost or not."""

    async def body():
        async with relay_lab() as lab:
            ana = lab.client()
            begun(ana, *BLOCK)
            ana.feed(QUERY("commit") + QUERY("insert 2"))
            ana.session.armed = ArmedCommit(xid=0, lsn=1, timeline=0)
            lab.pool.room.probe = _nobody_answers
            before = len(ana.transport.written)
            lose(lab, ana)
            async with asyncio.timeout(10):
                while len(ana.transport.written) == before:  # noqa: ASYNC110 - turns of the loop
                    await asyncio.sleep(0)
            assert story_of(b"".join(ana.transport.written[before:])) == ["COMMIT", "I", "08007", "I"]

    asyncio.run(body())


async def _nobody_answers(_node):
    """Stand for a primary that can be reached and knows nothing of timelines."""

    class Probe:
        async def query(self, _sql):
            """Return nothing."""
            return []

        def close(self):
            """End."""

    return Probe()


async def until(predicate):
    """Give the loop turns until the predicate holds."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110 - whoever makes it true is the loop
            await asyncio.sleep(0)


async def settled(lab, client: LabClient) -> None:
    """Let servers answer until the client waits for nothing."""

    def is_ready():
        lab.pump()
        return not client.session.busy & Busy.WAITING

    await until(is_ready)


def test_a_session_that_is_being_rebuilt_is_not_told_that_it_waits_too_long():
    """3.3 point 1: it has asked for nothing, so nothing can be refused; it is rebuilt when a server is free."""

    async def body():
        async with relay_lab("session") as lab:
            ana = lab.client()
            begun(ana, "set work_mem to '7MB'")
            lab.pool.size = 0
            assert lose(lab, ana) == []
            lab.pool.upkeep.sweep(monotonic() + 1_000)
            assert list(lab.pool.waiting()) == [ana.session]
            lab.pool.size = 1
            lab.pool.upkeep.sweep(monotonic())
            await settled(lab, ana)
            assert not ana.session.needs_restore
            assert story_of(ana.say(QUERY("select 1"))) == ROW

    asyncio.run(body())


def test_a_request_that_was_refused_for_waiting_leaves_the_session_to_be_rebuilt():
    """3.3 point 1: what the session holds is made before its next request runs, whatever became of the last one."""

    async def body():
        async with relay_lab("session") as lab:
            ana = lab.client()
            begun(ana, "set work_mem to '7MB'")
            lab.pool.size = 0
            lose(lab, ana)
            ana.feed(QUERY("select 1"))
            before = len(ana.transport.written)
            lab.pool.upkeep.sweep(monotonic() + 1_000)
            assert story_of(b"".join(ana.transport.written[before:])) == ["53300", "I"]
            lab.pool.size = 1
            lab.pool.upkeep.sweep(monotonic())
            await settled(lab, ana)
            assert not ana.session.needs_restore

    asyncio.run(body())


def test_a_session_is_rebuilt_after_a_batch_that_was_lost():
    """3.3 point 1: nothing runs on a new server before the session's state is there, also if one is free at once."""

    async def body():
        async with relay_lab("session", servers_count=2) as lab:
            ana = lab.client()
            ana.feed(batch(b"insert 1") + FLUSH)
            lose(lab, ana, 1)
            ana.feed(SYNC + QUERY("select 1"))
            await settled(lab, ana)
            assert not ana.session.needs_restore
            assert story_of(ana.transport.data)[-5:] == ["I", *ROW]

    asyncio.run(body())


def test_a_cancel_request_never_hits_what_prepares_a_server(monkeypatch):
    """Specification 6.6: the request that waits is cancelled; a SET of ours that failed would end the client."""

    async def body():
        async with relay_lab() as lab:
            ana, ben = lab.client(), lab.client()
            begun(ana, "set work_mem to '7MB'")
            begun(ben, "select 1")
            sent = []
            monkeypatch.setattr(cancel, "_send", sent.append)
            before = len(ana.transport.written)
            ana.feed(QUERY("select 2"))
            assert ana.session.busy & Busy.WAITING
            await cancel.cancel(ana.session, timeout_s=1)
            lab.pump()
            assert sent == []
            assert story_of(b"".join(ana.transport.written[before:])) == ["57014", "I"]
            lab.check_rest()
            assert lab.pool.busy_count == 0
            assert story_of(ana.say(QUERY("select 3"))) == ROW

    asyncio.run(body())


def test_too_many_who_wait_for_a_primary_are_refused_and_stay():
    """Specification 6.4: held clients are bounded by count; 3.3 point 1: the socket stays open."""

    async def body():
        async with relay_lab() as lab:
            ana, ben = lab.client(), lab.client()
            settings = lab.gateway.settings
            lab.gateway.settings = replace(
                settings, failover=replace(settings.failover, buffered_clients_count=1)
            )
            lab.pool.primary, primary = None, lab.pool.primary
            for client in (ana, ben):
                client.feed(QUERY("select 1"))
            await until(lambda: ben.transport.written)
            assert story_of(ben.transport.data) == ["57P03", "I"]
            assert list(lab.pool.waiting()) == [ana.session]
            lab.pool.primary = primary
            assert story_of(ben.say(QUERY("select 2"))) == ROW

    asyncio.run(body())


def test_an_unnamed_statement_too_long_to_be_kept_stays_where_it_is():
    """PostgreSQL: it lives until the next unnamed Parse or simple query; nobody else may have its server till then."""

    def check(lab):
        ana, ben = lab.client(), lab.client()
        long = b"select " + b"x" * (1 << 21)
        parse = wire.parse(b"", long) + SYNC
        ana.feed(parse[:LONG_BYTES])
        assert story_of(ana.say(parse[LONG_BYTES:])) == ["1", "I"]
        assert ben.say(QUERY("select 1")) == b""
        for _ in range(2):
            answer = ana.say(wire.bind(b"", b"", ()) + wire.execute(b"") + SYNC)
            assert story_of(answer) == ["2", "D", "SELECT 1", "I"]
        assert story_of(ana.say(QUERY("select 2"))) == ROW
        assert story_of(ben.transport.data) == ROW
        assert lab.pool.busy_count == 0

    in_lab(check)


def test_a_statement_too_long_to_be_kept_is_named_when_its_server_is_lost():
    """3.3 point 5: what cannot be made again is named in a warning."""

    async def body():
        async with relay_lab() as lab:
            ana = lab.client()
            parse = wire.parse(b"", b"select " + b"x" * (1 << 21)) + SYNC
            ana.feed(parse[:LONG_BYTES])
            ana.say(parse[LONG_BYTES:])
            assert lose(lab, ana) == []
            lab.open_server()
            await settled(lab, ana)
            notice = wire.error_fields(wire.split(ana.transport.data)[0][-1][1])
            assert notice["C"] == "01000"
            assert "prepared statements that are too long" in notice["D"]
            assert "26000" in story_of(ana.say(wire.bind(b"", b"", ()) + wire.execute(b"") + SYNC))

    asyncio.run(body())


@pytest.mark.parametrize("size", [100, 70_000, 1_000_000])
def test_a_row_that_was_cut_is_not_begun(size):
    """3.3 point 1, rows half sent: what the client has begun to get it could never get the end of."""

    def check(lab):
        ana = lab.client()
        ana.feed(QUERY(f"rows 3 {size}"))
        server = ana.session.server
        answer = server.transport.backend.answer(b"".join(server.transport.unread))
        for begin in range(0, size + size // 2, 65_536):
            server.data_received(answer[begin : min(begin + 65_536, size + size // 2)])
        server.transport.is_closed = True
        server.connection_lost(None)
        assert story_of(ana.transport.data) == ["T", "D", "08007", "I"]
        assert replaced(lab, ana, QUERY("select 1")) == ROW

    in_lab(check)


def test_what_a_row_holds_never_passes_for_its_header():
    """As above, for values that someone else has stored: each five bytes of this one look like the row's own end."""
    size = 60_000

    def check(lab):
        ana = lab.client()
        ana.feed(QUERY("rows 3 10"))
        server = ana.session.server
        end = 7 + 4 + size
        value = b"".join(b"D" + (end - pos - 1).to_bytes(4, "big") for pos in range(11, 11 + size, 5))
        row = wire.message(ord("D"), b"\0\1", size.to_bytes(4, "big"), value)
        assert len(row) == end
        server.data_received(wire.data_row(["x"]) + row[: size // 2])
        assert ana.transport.data == wire.data_row(["x"])
        server.transport.is_closed = True
        server.connection_lost(None)
        assert story_of(ana.transport.data) == ["D", "08007", "I"]

    in_lab(check)


def test_a_row_that_is_held_back_is_joined_once():
    """Issue 3, CPU as a pooler's: to join it with each part that comes is to copy a row of 1 MiB a hundred times."""

    def check(lab):
        ana = lab.client()
        ana.feed(QUERY("rows 1 1000000"))
        server = ana.session.server
        answer = server.transport.backend.answer(b"".join(server.transport.unread))
        server.data_received(answer[:8192])
        kept = server.kept
        assert len(kept) > 8000
        for begin in range(8192, 990_000, 8192):
            server.data_received(answer[begin : begin + 8192])
            assert server.kept is kept
        server.data_received(answer[begin + 8192 :])
        server.transport.unread = []
        assert ana.transport.data == answer
        assert not server.kept

    in_lab(check)


def test_wherever_an_answer_is_cut_its_client_stays():
    """Issue 3, failover: the client's socket stays open; that goes for the description of the rows as for the rows."""

    def check(lab):
        ana = lab.client()
        whole = wire.notice_response("00000", "x") + ana.say(QUERY("rows 2 20"))
        for cut in range(1, len(whole)):
            ana.feed(QUERY("rows 2 20"))
            server = ana.session.server
            server.data_received(whole[:cut])
            server.transport.is_closed = True
            server.connection_lost(None)
            assert not ana.transport.is_closed, cut
            assert story_of(ana.transport.data)[-2:] in (["08007", "I"], ["40001", "I"])
            ana.transport.written.clear()
            lab.open_server()

    in_lab(check)
