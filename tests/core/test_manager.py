"""Who may connect, who is connected, and how it ends for all of them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from core_lab import Say, ended, lab, memory, only, packet, running, tcp, told, turns, until

from sojourn.core.peer import Peer
from sojourn.core.router import Lane
from sojourn.core.session import Reason
from sojourn.errors import LimitExceeded
from sojourn.testing import ManualClock

TCP = "127.0.0.1:0"


def shout(session, ask):
    session.reply(Say(ask.text.upper()))


async def refused(wire):
    """Say whether the server closed without a byte."""
    try:
        return await wire.rest() == b""
    except ConnectionResetError:
        return True


def test_the_number_of_connections_has_a_limit(run):
    """``connections_count``: one more is refused, and let in when one has left."""

    async def main():
        async with running(lab(shout, limits={"connections_count": 2})) as server:
            wires = [memory(server) for _ in range(3)]
            assert await refused(wires[2])
            assert await wires[0].ask("a") == "A"
            (event,) = told(server, "connection.refused")
            assert event["error"] == "connections: 3 is more than the limit of 2"
            wires[0].close()
            await until(lambda: len(server.manager.connections) == 1)
            again = memory(server)
            assert await again.ask("b") == "B"
            for wire in (*wires, again):
                wire.close()

    run(main())


def test_each_peer_has_its_own_limit(run):
    """``connections_per_peer_count`` counts addresses, not ports; others are not concerned."""

    async def main():
        async with running(lab(shout, limits={"connections_per_peer_count": 1})) as server:
            first = memory(server, peer=Peer("192.0.2.1", 1))
            second = memory(server, peer=Peer("192.0.2.1", 2))
            other = memory(server, peer=Peer("192.0.2.2", 1))
            assert await refused(second)
            assert await first.ask("a") == await other.ask("a") == "A"
            for wire in (first, second, other):
                wire.close()

    run(main())


def test_the_accept_rate_has_a_limit_that_refills(run):
    """``accepts_per_s`` with ``accepts_burst_count``: a token bucket on the monotonic clock."""

    async def main():
        clock = ManualClock()
        limits = {"accepts_per_s": 1.0, "accepts_burst_count": 2}
        async with running(lab(shout, limits=limits), clock=clock) as server:
            wires = [memory(server) for _ in range(3)]
            assert await refused(wires[2])
            clock.advance(1)
            wires.append(memory(server))
            assert await wires[3].ask("a") == "A"
            for wire in wires:
                wire.close()

    run(main())


@pytest.mark.parametrize("listener", [TCP, None], ids=["tcp", "memory"])
def test_a_peer_that_is_not_known_is_refused_before_a_byte_is_read(run, listener):
    """``admit`` raises; framing and codec are never asked."""

    async def main():
        def admit(_peer):
            raise LimitExceeded("unknown devices", 1, 0)

        gateway = lab(shout, admit=admit, codec=None)
        async with running(gateway, *([listener] if listener else [])) as server:
            wire = await tcp(server) if listener else memory(server)
            wire.send("a")
            assert await refused(wire)
            assert server.manager.connections_refused == 1
            assert server.manager.connections_opened == 0
            assert told(server, "connection.refused")[0]["error"].startswith("unknown devices")
            wire.close()

    run(main())


def test_a_bug_in_the_admission_lets_nobody_in(run):
    """Told with error and place; the socket is closed."""

    async def main():
        def admit(_peer):
            raise ZeroDivisionError

        async with running(lab(shout, admit=admit), TCP) as server:
            wire = await tcp(server)
            assert await refused(wire)
            (event,) = told(server, "connection.not_started")
            assert (event["error"], "test_manager.py:" in event["where"]) == ("ZeroDivisionError", True)
            wire.close()

    run(main())


def test_a_drain_closes_idle_connections_at_once_and_lets_busy_sessions_finish(run):
    """No new ones meanwhile; the drain is over when the last session is."""

    async def main():
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            session.finish(Say(ask.text))

        async with running(lab(slow, keyed=True), TCP) as server:
            idle, busy = await tcp(server), await tcp(server)
            busy.send("done", session=1)
            await until(lambda: server.manager.task_count and len(server.manager.connections) == 2)
            draining = asyncio.ensure_future(server.manager.drain(30))
            assert await idle.rest() == b""
            late = await tcp(server)
            assert await refused(late)
            busy.send("more", session=2)
            assert await busy.receive(session=2) == "refused: the connection is draining"
            assert not draining.done()
            gate.set()
            assert await busy.receive(session=1) == "done"
            await draining
            assert not told(server, "drain.cut_short")
            for wire in (idle, busy, late):
                wire.close()

    run(main())


def test_a_connection_that_is_its_session_is_idle_while_it_waits_for_the_peer(run):
    """Where there is no key: the conversation takes its leave, then the connection closes."""

    async def main():
        async def chat(session, ask):
            while True:
                await session.send(Say(ask.text))
                ask = await session.receive()

        async with running(lab(chat, lane=Lane.CONVERSATION)) as server:
            wire = memory(server)
            assert await wire.ask("a") == "a"
            await until(lambda: only(server).waiter)
            await server.manager.drain(30)
            assert await wire.receive() == "bye: SojournError"
            assert await wire.rest() == b""
            assert list(ended(server).values()) == [Reason.DRAINED]
            wire.close()

    run(main())


def test_a_session_that_becomes_idle_during_the_drain_ends_then(run):
    """The drain does not wait for its deadline when there is nothing left to wait for."""

    async def main():
        gate = asyncio.Event()

        async def chat(session, ask):
            await gate.wait()
            await session.send(Say(ask.text))
            await session.receive()

        async with running(lab(chat, lane=Lane.CONVERSATION)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.task_count)
            draining = asyncio.ensure_future(server.manager.drain(30))
            await turns()
            assert server.manager.connections
            gate.set()
            assert await wire.receive() == "a"
            server.sweep()
            await draining
            assert list(ended(server).values()) == [Reason.DRAINED]
            wire.close()

    run(main())


def test_the_drain_s_deadline_cuts_what_is_left(run):
    """Farewell, cancellation, one event; no task is left."""

    async def main():
        cancelled = []

        async def endless(session, _ask):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(session.number)

        async with running(lab(endless)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.task_count)
            await server.manager.drain(0.01)
            assert cancelled == [1]
            assert await wire.receive() == "bye: SojournError"
            assert told(server, "drain.cut_short") == [{"gateway": "lab", "connections": 1, "sessions": 1}]
            assert not server.manager.tasks
            wire.close()

    run(main())


def test_a_peer_that_takes_nothing_cannot_hold_up_the_end(run, monkeypatch):
    """After ``CLOSE_TIMEOUT_S`` its connection is aborted."""
    monkeypatch.setattr("sojourn.core.manager.CLOSE_TIMEOUT_S", 0.05)

    async def main():
        async with running(lab(lambda session, ask: session.reply(Say(ask.text * 10)))) as server:
            wire = memory(server)
            wire.writer.transport.pause_reading()
            wire.send("x" * 5_000)
            await until(lambda: server.manager.session_count)
            await server.manager.abort()
            assert not server.manager.connections
            wire.writer.transport.abort()

    run(main())


def test_a_reload_drains_connections_that_may_not_stay(run):
    """``readmit``: the gateway is asked about each peer again."""

    async def main():
        gone = set()

        def admit(peer):
            if peer.address in gone:
                raise LimitExceeded("deleted devices", 1, 0)

        async with running(lab(shout, keyed=True, admit=admit)) as server:
            first, second = (memory(server, peer=Peer(f"192.0.2.{number}", 1)) for number in (1, 2))
            assert await first.ask("a", session=1) == await second.ask("a", session=1) == "A"
            gone.add("192.0.2.1")
            server.reload()
            first.send("b", session=2)
            assert (await first.receive()).startswith("refused: the connection is draining")
            assert await second.ask("b", session=2) == "B"
            first.close()
            second.close()

    run(main())


def test_new_limits_of_the_accept_rate_are_in_force_after_a_reload(run):
    """The bucket is made anew where its settings changed, and only there."""

    async def main():
        gateway = lab(shout, keyed=True, limits={"accepts_per_s": 1.0, "accepts_burst_count": 1})
        async with running(gateway) as server:
            wires = [memory(server)]
            server.reload()
            assert server.manager.refusal_by_limits(Peer("192.0.2.1", 1)) is not None
            gateway.limits = msgspec.structs.replace(gateway.limits, accepts_burst_count=2)
            server.reload()
            wires += [memory(server), memory(server)]
            assert [await wire.ask("a", session=1) for wire in wires] == ["A"] * 3
            assert server.manager.refusal_by_limits(Peer("192.0.2.1", 1)) is not None
            for wire in wires:
                wire.close()

    run(main())


@pytest.mark.parametrize("where", ["sweep", "reload", "flush"])
def test_a_bug_met_with_one_connection_stops_no_other(run, where):
    """Sweep, reload and flush go over all connections: the one with the bug is closed and told, the rest goes on."""

    async def main():
        clock, handled = ManualClock(), []

        def raising(_self=None, *_more):
            raise ZeroDivisionError

        async def waits(session, _ask):
            session.reply(Say("waits"))
            try:
                await session.receive(within_s=1.0)
            except TimeoutError:
                handled.append(session.connection.peer.address)

        gateway = lab(waits, clock=clock)
        async with running(gateway, clock=clock) as server:
            wires = {
                name: memory(server, peer=Peer(name, 1)) for name in ("192.0.2.1", "192.0.2.2", "192.0.2.3")
            }
            for wire in wires.values():
                assert await wire.ask("a") == "waits"
            manager = server.manager
            bad = next(one for one in manager.connections if one.peer.address == "192.0.2.2")
            if where == "sweep":
                only_bad = next(iter(bad.table.live.values()))
                only_bad.pending = type("Broken", (), {"sweep": raising, "fail_all": lambda *_: 0})()
                clock.advance(2.0)
                server.sweep()
                await until(lambda: sorted(handled) == ["192.0.2.1", "192.0.2.3"])
            elif where == "reload":
                gateway.readmit = lambda connection: raising() if connection is bad else False
                server.reload()
            else:
                for connection in sorted(manager.connections, key=lambda one: one.peer.address):
                    connection.append(packet("flushed"))
                bad.transport = type("Broken", (), {"write": raising, "abort": bad.transport.abort})()
                await turns()
                assert await wires["192.0.2.3"].receive() == "flushed"
            await until(lambda: bad not in manager.connections)
            (event,) = told(server, "connection.bug")
            assert (event["peer"], event["error"]) == ("192.0.2.2:1", "ZeroDivisionError")
            if where == "reload":
                await until(lambda: not manager.connections)
            for wire in wires.values():
                wire.close()

    run(main())


def test_counters_are_the_sum_of_what_is_and_was(run):
    """Plain integers of connections, added when they are lost or when somebody asks."""

    async def main():
        async with running(lab(shout, keyed=True)) as server:
            wires = [memory(server) for _ in range(2)]
            for wire in wires:
                wire.writer.write(packet("a", session=1) + packet("a", session=2))
                await wire.receive()
                await wire.receive()
            wires[0].close()
            await until(lambda: len(server.manager.connections) == 1)
            manager = server.manager
            assert (manager.packets_in, manager.packets_out, manager.sessions_opened) == (4, 4, 4)
            assert (manager.session_count, manager.connections_opened) == (2, 2)
            wires[1].close()

    run(main())


def test_a_session_may_begin_without_a_connection(run):
    """``open_detached``: it is seen, carried by connections that come, outlives them, and ends once."""

    async def main():
        async with running(lab(shout, session_key=lambda _packet: 9)) as server:
            session = server.manager.open_detached("s1")
            assert [one.id for one in server.registry.snapshots(state="live")] == [session.id]
            assert str(session.connection.peer) == "-"
            wire = memory(server)
            await until(lambda: server.manager.connections)
            (connection,) = server.manager.connections
            session.attach(connection, 9)
            assert await wire.ask("a", session=9) == "A"
            assert server.manager.session_count == 1
            wire.close()
            await until(lambda: not server.manager.connections)
            assert not session.ended
            assert server.manager.session_count == 1
            session.finish()
            assert server.manager.session_count == 0
            assert [one.state for one in server.registry.snapshots()] == ["ended"]

    run(main())
