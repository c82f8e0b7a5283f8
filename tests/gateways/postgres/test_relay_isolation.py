"""Not one byte of one client's data reaches another, and not one setting, whoever shares a server."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_conversations import bound, unnamed
from relay_lab import LabClient, fresh, relay_lab

from sojourn.gateways.postgres import wire

CLIENTS_COUNT = 4
IDLE = b"I"


def answers_of(data: bytes) -> list[bytes]:
    """Return what answers each request, cut behind every ReadyForQuery."""
    messages, rest = wire.split(data)
    assert rest == b""
    found, one = [], []
    for kind, body in messages:
        one.append(bytes((kind,)) + body)
        if kind == ord("Z"):
            found.append(b"|".join(one))
            one = []
    assert not one
    return found


def rows_of(data: bytes) -> list[list[bytes | None]]:
    """Return the rows in some answers."""
    return [wire.row_values(body) for kind, body in wire.split(data)[0] if kind == ord("D")]


def errors_of(data: bytes) -> list[str]:
    """Return the SQLSTATEs in some answers."""
    return [wire.error_fields(body)["C"] for kind, body in wire.split(data)[0] if kind == ord("E")]


def in_lab(check, mode: str = "transaction", **options) -> None:
    """Run a check in a lab of its own."""

    async def body():
        async with relay_lab(mode, **options) as lab:
            check(lab)
            lab.pump()
            lab.check_rest()
            assert lab.failures == []

    asyncio.run(body())


_REQUESTS = {
    "simple": lambda mark: wire.query(f"select {mark}"),
    "unnamed": lambda mark: unnamed(f"select {mark}", mark.encode()),
    "same name": lambda mark: (
        wire.close_statement(b"s") + wire.parse(b"s", f"select {mark}".encode()) + bound(b"s", mark.encode())
    ),
    "own name": lambda mark: (
        wire.close_statement(b"s1")
        + wire.parse(b"s1", f"select {mark}".encode())
        + bound(b"s1", mark.encode(), describes=wire.describe_portal(b""))
    ),
    "transaction": lambda mark: wire.query("begin") + wire.query(f"select {mark}") + wire.query("commit"),
    "failing": lambda mark: unnamed(f"select {mark}") + unnamed("fail parse") + wire.query(f"notice {mark}"),
    "settings": lambda mark: wire.query(f"set work_mem to '{mark}'"),
    "copy": lambda mark: wire.query("copy in") + wire.copy_data(mark.encode()) + wire.copy_done(),
    "rolled back": lambda mark: (
        wire.query("begin")
        + unnamed(f"set work_mem to '{mark}'")
        + wire.query("fail")
        + wire.query("rollback")
    ),
}


@given(
    st.lists(
        st.tuples(
            st.integers(0, CLIENTS_COUNT - 1),
            st.sampled_from(sorted(_REQUESTS)),
            st.integers(1, 60),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_each_client_hears_what_it_would_hear_alone(steps):
    """Issue 3: not one byte of one client's data reaches another; answers come in order."""

    async def body():
        async with relay_lab(servers_count=2) as lab, relay_lab(servers_count=1) as alone:
            clients = [lab.client() for _ in range(CLIENTS_COUNT)]
            said: list[list[bytes]] = [[] for _ in clients]
            for number, (who, what, cut, is_answered) in enumerate(steps):
                request = _REQUESTS[what](f"m{who}x{number}")
                said[who].append(request)
                clients[who].feed(request[:cut])
                if is_answered:
                    lab.pump()
                clients[who].feed(request[cut:])
                if is_answered:
                    lab.pump()
            lab.pump()
            lab.check_rest()
            assert lab.failures == lab.endings == []
            for who, client in enumerate(clients):
                with fresh(alone) as one:
                    for request in said[who]:
                        one.feed(request)
                    alone.pump()
                    assert answers_of(client.transport.data) == answers_of(one.transport.data)
                others = [f"m{other}x".encode() for other in range(CLIENTS_COUNT) if other != who]
                assert not any(mark in client.transport.data for mark in others)

    asyncio.run(body())


def pair(lab) -> tuple[LabClient, LabClient]:
    """Return two clients."""
    return lab.client(), lab.client()


def test_an_unnamed_statement_is_never_another_clients():
    """postgres-proxy.md section 6.6: the unnamed statement belongs to its client, wherever it is bound."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.parse(b"", b"select ana") + wire.sync())
        ben.say(wire.parse(b"", b"select ben") + wire.sync())
        assert rows_of(ana.say(bound(b"")))[0][0] == b"select ana"
        assert rows_of(ben.say(bound(b"")))[0][0] == b"select ben"

    in_lab(check)


def test_an_unnamed_statement_survives_the_simple_query_of_another():
    """PostgreSQL: a simple query drops the unnamed statement of its own session only."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(unnamed("select ana"))
        ben.say(wire.query("select ben"))
        assert rows_of(ana.say(bound(b"")))[0][0] == b"select ana"
        ana.say(wire.query("select 1"))
        assert errors_of(ana.say(bound(b""))) == ["26000"]

    in_lab(check)


def test_a_parse_that_was_skipped_leaves_no_unnamed_statement_of_another():
    """PostgreSQL: after an error everything up to Sync is skipped, so that a Parse there has prepared nothing."""

    def check(lab):
        ana, ben = pair(lab)
        ben.say(wire.parse(b"", b"select ben") + wire.sync())
        skipped = wire.bind(b"", b"nobody") + wire.parse(b"", b"select ana") + wire.sync()
        assert errors_of(ana.say(skipped)) == ["26000"]
        assert errors_of(ana.say(bound(b""))) == ["26000"]
        assert rows_of(ben.say(bound(b"")))[0][0] == b"select ben"
        ana.say(wire.parse(b"", b"select first") + wire.sync())
        ana.say(skipped)
        assert rows_of(ana.say(bound(b"")))[0][0] == b"select first"

    in_lab(check)


def test_a_name_that_two_clients_use_means_to_each_its_own():
    """postgres-proxy.md section 6.6: names are the client's."""

    def check(lab):
        ana, ben = pair(lab)
        for client, text in ((ana, b"select ana"), (ben, b"select ben")):
            client.say(wire.parse(b"s", text) + wire.sync())
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"
        assert rows_of(ben.say(bound(b"s")))[0][0] == b"select ben"
        ben.say(wire.close_statement(b"s") + wire.sync())
        assert errors_of(ben.say(bound(b"s"))) == ["26000"]
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"

    in_lab(check)


@pytest.mark.parametrize("request_", [wire.query("deallocate s"), unnamed("deallocate s")])
def test_deallocate_closes_the_name_of_its_client_only(request_):
    """postgres-proxy.md section 6.6: DEALLOCATE is the client's, on whatever server it comes to run."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.parse(b"s", b"select ana") + wire.sync())
        assert errors_of(ben.say(request_)) == ["26000"]
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"
        ben.say(wire.parse(b"s", b"select ben") + wire.sync())
        assert errors_of(ben.say(request_)) == []
        assert errors_of(ben.say(bound(b"s"))) == ["26000"]
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"

    in_lab(check)


def test_deallocate_finds_a_statement_on_a_server_that_never_had_it():
    """postgres-proxy.md section 6.6: the name is there because the client prepared it, not because a server knows."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.parse(b"s", b"select ana") + wire.sync())
        ben.say(wire.query("begin"))  # takes the server that has it
        other = ana.say(wire.query("deallocate s"))
        assert errors_of(other) == []
        ben.say(wire.query("commit"))
        assert errors_of(ana.say(bound(b"s"))) == ["26000"]

    in_lab(check, servers_count=2)


def test_a_name_that_exists_is_an_error_also_where_the_server_has_another_under_it():
    """PostgreSQL: 42P05; and the name goes on to mean what it meant."""

    def check(lab):
        ana, ben = pair(lab)
        ben.say(wire.parse(b"s", b"select ben") + wire.sync())
        ana.say(wire.parse(b"s", b"select ana") + wire.sync())
        assert errors_of(ana.say(wire.parse(b"s", b"select new") + wire.sync())) == ["42P05"]
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"
        assert rows_of(ben.say(bound(b"s")))[0][0] == b"select ben"

    in_lab(check)


def test_a_close_of_ours_that_was_skipped_is_remembered():
    """PostgreSQL: after an error everything up to Sync is skipped, our own Close too: the name is still taken."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.parse(b"s", b"select ana") + wire.sync())
        failing = wire.bind(b"", b"nobody") + wire.describe_statement(b"s") + wire.sync()
        assert errors_of(ben.say(failing)) == ["26000"]
        assert errors_of(ben.say(wire.parse(b"s", b"select ben") + bound(b"s"))) == []
        assert rows_of(ana.say(bound(b"s")))[0][0] == b"select ana"

    in_lab(check)


def test_a_server_that_still_skips_to_sync_is_given_to_nobody():
    """PostgreSQL: after an error nothing is taken before Sync, so that the next client would wait for ever."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(unnamed("copy in"))  # its Sync is swallowed by the COPY
        assert errors_of(ana.say(wire.copy_data(b"bad"))) == ["22P04"]
        ana.say(wire.copy_done())
        assert ben.say(wire.query("select ben")) == b""
        ana.say(wire.sync())
        assert rows_of(ben.transport.data)[0][0] == b"select ben"

    in_lab(check)


def test_settings_stay_with_their_client():
    """postgres-proxy.md section 6.6: a server gets its client's settings before a byte of the client."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.query("set search_path to 'ana'"))
        assert b"ana" not in rows_of(ben.say(wire.query("select 1")))[0][1]
        assert b"ana" in rows_of(ana.say(wire.query("select 1")))[0][1]
        ben.say(wire.query("begin; set local search_path to 'ben'"))
        ben.say(wire.query("commit"))
        assert b"ben" not in rows_of(ana.say(wire.query("select 1")))[0][1]
        assert b"search" not in rows_of(ben.say(wire.query("select 1")))[0][1]

    in_lab(check)


def test_a_client_that_takes_nothing_leaves_its_server_readable():
    """postgres-proxy.md section 6.2: back-pressure stops the server of the moment, never that of the next client."""

    def check(lab):
        ana, ben = pair(lab)
        wrote = ana.transport.write

        def full(data):
            wrote(data)
            ana.session.pause_writing()

        ana.session.write = full
        ana.feed(wire.query("select ana"))
        lab.pump()
        assert not ana.transport.is_reading()
        assert rows_of(ben.say(wire.query("select ben")))[0][0] == b"select ben"
        ana.session.write = wrote
        ana.session.resume_writing()
        assert ana.transport.is_reading()
        assert rows_of(ana.say(wire.query("select again")))[0][0] == b"select again"

    in_lab(check)


def test_a_client_whose_server_was_full_is_read_again_when_it_is_given_back():
    """postgres-proxy.md section 6.2: reading goes on when the reason to stop has gone, whoever has the server then."""

    def check(lab):
        ana, _ = pair(lab)
        ana.say(wire.query("copy in"))
        server = ana.session.server
        server.pause_writing()
        assert not ana.transport.is_reading()
        ana.say(wire.copy_data(b"bad"))
        assert ana.session.server is None
        assert ana.transport.is_reading()
        server.resume_writing()

    in_lab(check)


def test_a_server_goes_back_to_the_quick_way_after_a_slow_answer():
    """One SET must not make every later answer of its server be taken message by message."""

    def check(lab):
        ana, _ = pair(lab)
        ana.say(wire.query("set work_mem to '1MB'"))
        ana.say(wire.query("select 1"))
        (transport,) = lab.transports
        from sojourn.gateways.postgres.scan import QUIET  # noqa: PLC0415 - only here

        assert transport.session.table is QUIET

    in_lab(check)


def test_a_copy_that_was_sent_at_one_go_frees_its_server():
    """PostgreSQL: data and CopyDone may be sent ahead of CopyInResponse; what follows them is a request like any."""

    def check(lab):
        ana, ben = pair(lab)
        whole = wire.query("copy in") + wire.copy_data(b"1\n") + wire.copy_done()
        ana.say(whole + whole + wire.query("select ana"))
        assert [row[0] for row in rows_of(ben.say(wire.query("select ben")))] == [b"select ben"]
        assert rows_of(ana.transport.data)[-1][0] == b"select ana"

    in_lab(check)


def test_a_request_inside_a_copy_fails_it_and_nothing_else():
    """PostgreSQL: any other message fails the COPY; the connection goes on."""

    def check(lab):
        ana, ben = pair(lab)
        for request in (wire.query("select 1"), wire.parse(b"", b"select 1")):
            ana.say(wire.query("copy in"))
            assert errors_of(ana.say(request)) == ["57014"]
            assert rows_of(ana.say(wire.query("select 2")))[0][0] == b"select 2"
        ana.say(unnamed("copy in"))
        assert errors_of(ana.say(unnamed("select 1"))) == ["57014"]
        assert rows_of(ben.say(wire.query("select ben")))[0][0] == b"select ben"
        assert lab.endings == []

    in_lab(check)


def test_a_client_that_breaks_off_leaves_no_server_in_the_midst_of_a_message():
    """The rest of one client's message must never be the beginning of another's."""

    def check(lab):
        ana, ben = pair(lab)
        ana.say(wire.query("copy in"))
        half = wire.copy_data(b"1\n")[:-1]
        assert errors_of(ana.say(wire.copy_data(b"bad") + half)) == ["22P04"]
        ana.say(b"\n\0\0\0\0\0")
        assert errors_of(ana.transport.data)[-1] == "08P01"
        ana.leave()
        assert rows_of(ben.say(wire.query("select ben")))[0][0] == b"select ben"

    in_lab(check)
