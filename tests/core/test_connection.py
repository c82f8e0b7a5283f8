"""Every quirk of a raw socket, on loopback: an answer or a close, one line for the operator, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from pathlib import Path

import pytest
from core_lab import (
    HEADER,
    MAX_BYTES,
    Say,
    ended,
    lab,
    memory,
    only,
    packet,
    running,
    tcp,
    told,
    turns,
    until,
)

from sojourn.core.connection import Connection
from sojourn.core.router import Lane
from sojourn.core.session import Reason
from sojourn.core.settings import RecorderSettings
from sojourn.core.table import Mode
from sojourn.testing import ManualClock, drive

TCP = "127.0.0.1:0"


def shout(session, ask):
    session.reply(Say(ask.text.upper()))


def descriptors_count():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def reset(wire):
    """Close with RST instead of FIN."""
    sock = wire.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


def test_an_empty_read_is_nothing(run):
    """No loop should deliver one; a transport of another kind may."""

    async def main():
        async with running(lab(shout)) as server:
            wire = memory(server)
            assert await wire.ask("a") == "A"
            connection = only(server).connection
            connection.data_received(b"")
            connection.data_received(packet("b")[:4])
            connection.data_received(b"")
            connection.data_received(packet("b")[4:])
            assert await wire.receive() == "B"
            wire.close()

    run(main())


def test_a_peer_that_connects_and_leaves_is_no_event(run):
    """Port scans and health checks: nothing is opened, nothing is told."""

    async def main():
        gateway = lab(shout)
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            wire.close()
            await until(lambda: gateway.lost)
            assert gateway.lost == ["closed by the peer"]
            assert server.manager.sessions_opened == 0
            assert told(server) == ["listener.started", "server.started"]

    run(main())


def test_a_half_closed_peer_gets_the_answers_that_are_under_way(run):
    """``nc -N``: requests, FIN, then it reads."""

    async def main():
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            await session.send(Say(ask.text))

        async with running(lab(slow, keyed=True), TCP) as server:
            wire = await tcp(server)
            wire.send("a", session=1)
            wire.send("b", session=2)
            wire.writer.write_eof()
            await until(
                lambda: server.manager.connections and next(iter(server.manager.connections))._heard_eof
            )
            gate.set()
            assert await wire.rest() == packet("a", session=1, kind=9) + packet("b", session=2, kind=9)
            await until(lambda: not server.manager.connections)
            wire.close()

    run(main())


def test_a_half_close_inside_a_packet_takes_no_answer_away(run):
    """What was whole is answered; the rest of the packet never comes, and its deadline with it."""

    async def main():
        gate, clock = asyncio.Event(), ManualClock()

        async def slow(session, ask):
            await gate.wait()
            session.finish(Say(ask.text))

        async with running(lab(slow, keyed=True), TCP, clock=clock) as server:
            wire = await tcp(server)
            wire.writer.write(packet("good", session=1) + packet("never whole", session=2)[:-1])
            wire.writer.write_eof()
            await until(
                lambda: server.manager.connections and only_connection(server).table.mode == Mode.DRAINING
            )
            clock.advance(11)
            server.sweep()
            gate.set()
            assert await wire.receive(1) == "good"
            assert await wire.rest() == b""
            wire.close()

    run(main())


def only_connection(server):
    """Return the only connection there is."""
    (connection,) = server.manager.connections
    return connection


def test_a_half_closed_peer_gets_inline_answers_too(run):
    """The answer was written before the end of file was read."""

    async def main():
        async with running(lab(shout), TCP) as server:
            wire = await tcp(server)
            wire.send("a", "b")
            wire.writer.write_eof()
            assert await wire.rest() == packet("A", kind=9) + packet("B", kind=9)
            wire.close()

    run(main())


def test_a_session_that_waits_for_a_half_closed_peer_is_over(run):
    """It would wait for ever; the one that works may finish."""

    async def main():
        gate = asyncio.Event()

        async def handle(session, ask):
            if ask.text == "work":
                await gate.wait()
                await session.send(Say("done"))
            else:
                await session.receive()

        async with running(lab(handle, lane=Lane.CONVERSATION, keyed=True), TCP) as server:
            wire = await tcp(server)
            wire.send("work", session=1)
            wire.send("wait", session=2)
            wire.writer.write_eof()
            await until(lambda: ended(server))
            assert ended(server) == {2: Reason.CONNECTION_LOST}
            gate.set()
            assert await wire.rest() == packet("done", session=1, kind=9)
            wire.close()

    run(main())


def test_a_reset_in_the_middle_of_a_packet_ends_the_sessions(run):
    """The cause is the socket's own; there is no farewell for nobody."""

    async def main():
        gateway = lab(shout)
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            assert await wire.ask("a") == "A"
            wire.writer.write(packet("never whole")[:7])
            await until(lambda: only(server).connection.partial_since)
            reset(wire)
            await until(lambda: gateway.lost)
            assert gateway.lost == ["ConnectionResetError"]
            assert list(ended(server).values()) == [Reason.CONNECTION_LOST]

    run(main())


def test_one_byte_at_a_time_is_the_same_conversation(run):
    """64 KiB in pieces of one byte: each costs one append, not one look at everything."""

    async def main():
        text = "x" * 65_536
        async with running(lab(lambda session, ask: session.reply(Say(str(len(ask.text)))))) as server:
            wire = memory(server, piece_bytes=1)
            wire.send(text, "short")
            assert [await wire.receive(), await wire.receive()] == ["65536", "5"]
            wire.close()

    run(main())


def test_one_byte_per_segment_on_a_real_socket(run):
    """TCP_NODELAY on the client: the server reads what the network gives."""

    async def main():
        async with running(lab(shout), TCP) as server:
            wire = await tcp(server)
            wire.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in packet("hello") + packet("world"):
                wire.writer.write(bytes([byte]))
                await turns(3)
            assert [await wire.receive(), await wire.receive()] == ["HELLO", "WORLD"]
            wire.close()

    run(main())


def test_a_peer_that_never_reads_is_cut_off(run):
    """Above the high-water mark it is not read either, and after ``write_timeout_s`` it is gone."""

    async def main():
        clock = ManualClock()
        gateway = lab(
            lambda session, ask: session.reply(Say(ask.text * 60)),
            limits={"write_high_water_bytes": 4_096, "write_timeout_s": 30},
        )
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            wire = await tcp(server, limit=1)
            wire.writer.transport.pause_reading()
            wire.send(*["x" * 1_000] * 60)
            connection = None
            while connection is None or connection.writable:
                await turns(3)
                wire.send(*["x" * 1_000] * 10)
                connection = only(server).connection if server.manager.session_count else None
            assert not connection.transport.is_reading()
            clock.advance(29)
            assert server.manager.connections
            clock.advance(2)
            await until(lambda: gateway.lost)
            assert gateway.lost == ["the peer took no bytes in time"]
            reset(wire)

    run(main())


def test_a_peer_that_does_not_take_the_last_bytes_is_cut_off_too(run):
    """A close waits for the peer, but not for ever; below the high-water mark as well."""

    async def main():
        clock = ManualClock()
        gateway = lab(lambda session, _ask: session.finish(Say("bye")), first_mode="single")
        async with running(gateway, clock=clock) as server:
            drive(server)
            wire = memory(server)
            wire.writer.transport.pause_reading()
            wire.send("a")
            await until(lambda: ended(server))
            await turns()
            assert server.manager.connections
            clock.advance(31)
            await until(lambda: gateway.lost)
            wire.writer.transport.abort()

    run(main())


def test_a_peer_that_sends_faster_than_it_is_served_waits(run):
    """Bounded inbox, bounded buffers: everything is served in order, nothing is kept beyond the limits."""

    async def main():
        served = []
        most = []

        async def slow(session, ask):
            await asyncio.sleep(0)
            served.append(ask.text)
            most.append(len(session.inbox or ()))
            if len(served) == 5_000:
                await session.send(Say("all"))

        async with running(lab(slow, inbox_limit_count=16), TCP) as server:
            wire = await tcp(server)
            texts = [f"{number}" for number in range(5_000)]
            wire.send(*texts)
            assert await wire.receive() == "all"
            assert served == texts
            assert max(most) <= 16
            wire.close()

    run(main())


@pytest.mark.parametrize("length", [MAX_BYTES + 1, 2**32 - 1])
def test_a_header_that_promises_too_much_is_refused_alone(run, length):
    """From the header: nothing is allocated, nothing is waited for; good packets before it are served."""

    async def main():
        gateway = lab(shout)
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            wire.writer.write(packet("good") + HEADER.pack(1, length, 0))
            assert await wire.receive() == "GOOD"
            assert await wire.rest() == b""
            (event,) = told(server, "connection.failed")
            assert event["error"] == (
                f"found a body of {length} bytes, wanted at most {MAX_BYTES} (the length in the header)"
            )
            wire.close()

    run(main())


def test_a_bad_packet_waits_behind_the_backlog_of_a_full_inbox(run):
    """Good packets come first, and are answered before the close."""

    async def main():
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            await session.send(Say(ask.text))

        async with running(lab(slow, inbox_limit_count=1), TCP) as server:
            wire = await tcp(server)
            wire.writer.write(packet("1") + packet("2") + packet("3") + HEADER.pack(1, 2**32 - 1, 0))
            await until(lambda: server.manager.session_count and only(server).inbox)
            await turns()
            assert not told(server, "connection.failed")
            gate.set()
            assert [await wire.receive() for _ in range(3)] == ["1", "2", "3"]
            assert await wire.rest() == b""
            assert len(told(server, "connection.failed")) == 1
            wire.close()

    run(main())


def test_work_on_good_packets_finishes_before_broken_framing_closes(run):
    """Answers first, the protocol's last bytes behind them; what the peer sends meanwhile is thrown away."""

    async def main():
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            session.finish(Say(ask.text))

        gateway = lab(slow, keyed=True, broken=lambda _connection, _error: b"go away")
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            wire.writer.write(packet("good", session=1) + HEADER.pack(1, 2**32 - 1, 0))
            await until(lambda: server.manager.session_count == 1)
            wire.writer.write(packet("late", session=2) * 1000)
            (connection,) = server.manager.connections
            await until(lambda: connection.bytes_in > 1000 * len(packet("late")))
            assert not connection.closed
            assert server.manager.session_count == 1
            assert connection._buffer is None
            gate.set()
            assert await wire.receive(1) == "good"
            assert await wire.rest() == b"go away"
            wire.close()

    run(main())


def test_work_that_does_not_finish_is_lost_with_broken_framing(run):
    """``packet_timeout_s`` bounds the courtesy; a session that only waits for the peer is not waited for."""

    async def main():
        clock, lost = ManualClock(), []

        async def never(_session, _ask):
            try:
                await asyncio.Event().wait()
            finally:
                lost.append(True)

        async with running(lab(never, keyed=True), TCP, clock=clock) as server:
            wire = await tcp(server)
            wire.writer.write(packet("good", session=1) + HEADER.pack(1, 2**32 - 1, 0))
            await until(lambda: told(server, "connection.failed"))
            clock.advance(9.9)
            server.sweep()
            await turns()
            assert not lost
            clock.advance(0.2)
            server.sweep()
            assert await wire.rest() == b""
            await until(lambda: lost)
            wire.close()

        async def waits(session, _ask):
            await session.receive()

        async with running(lab(waits), TCP) as server:
            wire = await tcp(server)
            wire.writer.write(packet("good") + HEADER.pack(1, 2**32 - 1, 0))
            assert await wire.rest() == b""
            wire.close()

    run(main())


def test_a_bug_met_in_the_backlog_ends_its_connection_and_is_told(run):
    """No transport calls there: without a close of ours the connection would be open and deaf."""

    async def main():
        gate = asyncio.Event()

        async def slow(_session, _ask):
            await gate.wait()

        def refuse(_connection, _packet, _why):
            raise ZeroDivisionError

        gateway = lab(
            slow, keyed=True, inbox_limit_count=1, max_sessions_per_connection_count=1, refuse=refuse
        )
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            wire.writer.write(packet("1", session=1) * 2 + packet("2", session=2))
            await until(lambda: server.manager.session_count and only(server).inbox)
            gate.set()
            with contextlib.suppress(ConnectionResetError):
                await wire.rest()
            (event,) = told(server, "connection.bug")
            assert event["error"] == "ZeroDivisionError"
            await until(lambda: not server.manager.connections)
            wire.close()

    run(main())


def test_broken_framing_gets_the_gateway_s_last_bytes(run):
    """``broken``: the protocol's own words, then the close."""

    async def main():
        gateway = lab(shout, broken=lambda _connection, _error: b"go away")
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            wire.writer.write(HEADER.pack(1, 2**32 - 1, 0))
            assert await wire.rest() == b"go away"
            wire.close()

    run(main())


def test_silence_before_the_first_byte_is_closed(run):
    """``first_byte_timeout_s`` counts from the accept."""

    async def main():
        clock, gateway = ManualClock(), lab(shout)
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            wire = await tcp(server)
            await until(lambda: server.manager.connections)
            clock.advance(10)
            assert server.manager.connections
            clock.advance(0.1)
            assert await wire.rest() == b""
            await until(lambda: gateway.lost)
            assert gateway.lost == ["silence before the first byte"]
            wire.close()

    run(main())


def test_silence_inside_a_packet_is_closed(run):
    """``packet_timeout_s`` counts from the packet's first byte; a byte now and then changes nothing."""

    async def main():
        clock, gateway = ManualClock(), lab(shout)
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            wire = await tcp(server)
            assert await wire.ask("a") == "A"
            clock.advance(60)
            for byte in packet("slow")[:3]:
                wire.writer.write(bytes([byte]))
                before = only(server).connection.bytes_in
                await until(lambda before=before: only(server).connection.bytes_in > before)
                clock.advance(3)
            assert not gateway.lost
            clock.advance(3)
            assert await wire.rest() == b""
            await until(lambda: gateway.lost)
            assert gateway.lost == ["silence inside a packet"]
            wire.close()

    run(main())


def test_a_packet_that_we_do_not_read_is_not_the_peer_s_silence(run):
    """While reading is paused the packet's deadline rests."""

    async def main():
        clock = ManualClock()
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            await session.send(Say(ask.text))

        gateway = lab(slow, inbox_limit_count=1)
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            wire = await tcp(server)
            wire.writer.write(packet("1") + packet("2") + packet("3")[:5])
            await until(lambda: server.manager.session_count and only(server).inbox)
            wire.writer.write(packet("3")[5:])
            clock.advance(60)
            gate.set()
            assert [await wire.receive() for _ in range(3)] == ["1", "2", "3"]
            wire.close()

    run(main())


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(run):
    """``idle_timeout_s`` counts from the last byte to the next sweep."""

    async def main():
        clock = ManualClock()

        async def busy(session, ask):
            if ask.text == "busy":
                await asyncio.Event().wait()
            session.finish(Say("done"))

        gateway = lab(busy, limits={"idle_timeout_s": 100})
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            idle, working = await tcp(server), await tcp(server)
            assert await idle.ask("a") == "done"
            working.send("busy")
            await until(lambda: server.manager.task_count)
            clock.advance(1)
            clock.advance(101)
            assert await idle.rest() == b""
            await until(lambda: gateway.lost)
            assert gateway.lost == ["idle"]
            assert server.manager.task_count == 1
            reset(working)
            idle.close()

    run(main())


def test_a_peer_that_never_speaks_to_a_server_that_did_is_idle(run):
    """Where the server speaks first there is a session before the first byte."""

    async def main():
        clock = ManualClock()

        async def greet(session):
            await session.send(Say("welcome"))
            await session.receive()

        def connected(connection):
            session = connection.new_session()
            session.run(greet(session), ends=True)

        gateway = lab(connected=connected, limits={"idle_timeout_s": 100})
        async with running(gateway, TCP, clock=clock) as server:
            drive(server)
            wire = await tcp(server)
            assert await wire.receive() == "welcome"
            clock.advance(99)
            assert server.manager.connections
            clock.advance(2)
            await wire.rest()
            await until(lambda: gateway.lost)
            assert gateway.lost == ["idle"]
            wire.close()

    run(main())


def test_a_bug_in_the_greeting_closes_its_connection_and_is_told(run):
    """Neither a socket nor a place in the table is left."""

    async def main():
        def connected(_connection):
            raise ZeroDivisionError

        gateway = lab(connected=connected)
        async with running(gateway, TCP) as server:
            wire = await tcp(server)
            assert await wire.rest() == b""
            (event,) = told(server, "connection.not_started")
            assert event["error"] == "ZeroDivisionError"
            assert not server.manager.connections
            wire.close()

    run(main())


def test_two_thousand_connects_leave_nothing(run):
    """Connect and close as fast as the kernel allows: no descriptor, no connection, no memory of the peers."""

    async def main():
        gateway = lab(shout, limits={"accepts_burst_count": 5_000})
        async with running(gateway, TCP) as server:
            host, _, port = server.listeners[0].address.rpartition(":")
            wire = await tcp(server)
            assert await wire.ask("a") == "A"
            descriptors = descriptors_count()
            for batch in range(1, 11):
                socks = [socket.create_connection((host, int(port))) for _ in range(200)]
                for sock in socks[::2]:
                    sock.sendall(packet("a"))
                for sock in socks:
                    sock.close()
                await until(lambda batch=batch: server.manager.connections_opened == 200 * batch + 1)
            await until(lambda: len(server.manager.connections) == 1)
            assert descriptors_count() <= descriptors
            assert sum(server.manager._per_peer.values()) == 1
            assert await wire.ask("b") == "B"
            wire.close()

    run(main())


def test_a_connection_that_is_over_is_garbage(run):
    """Nothing but the recorder remembers it, and the recorder is off here."""

    async def main():
        def alive():
            gc.collect()
            return sum(isinstance(one, Connection) for one in gc.get_objects())

        recorder = RecorderSettings(entries_per_session_count=0)
        before = alive()
        async with running(lab(shout), TCP, recorder=recorder) as server:
            for _ in range(20):
                wire = await tcp(server)
                assert await wire.ask("a") == "A"
                wire.close()
                await wire.writer.wait_closed()
            await until(lambda: not server.manager.connections)
            await turns()
            assert alive() - before <= 1

    run(main())


def test_refused_sessions_are_answered_and_counted(run):
    """More sessions than ``max_sessions_per_connection_count``: the gateway's refusal, the others go on."""

    async def main():
        async with running(lab(shout, keyed=True, max_sessions_per_connection_count=2), TCP) as server:
            wire = await tcp(server)
            assert [await wire.ask("a", session=number) for number in (1, 2)] == ["A", "A"]
            assert await wire.ask("a", session=3) == "refused: 2 sessions are open, the limit"
            assert await wire.ask("a", session=1) == "A"
            assert server.manager.sessions_refused == 1
            wire.close()

    run(main())


def test_packets_behind_the_last_session_of_a_connection_are_not_served(run):
    """After the close nothing is run, even if it came in the same read."""

    async def main():
        served = []

        def once(session, ask):
            served.append(ask.text)
            session.connection.close("enough")

        async with running(lab(once, keyed=True), TCP) as server:
            wire = await tcp(server)
            wire.writer.write(b"".join(packet("a", session=number) for number in range(5)))
            await wire.rest()
            assert served == ["a"]
            wire.close()

    run(main())
