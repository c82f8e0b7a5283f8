"""A session as its author sees it: three lanes, waiting, sending, and every way to end."""

from __future__ import annotations

import asyncio

import pytest
from core_lab import Ask, Other, Say, ended, lab, memory, only, packet, running, told, turns, until

from sojourn.core.memory import accept_in_memory
from sojourn.core.router import Lane, Router
from sojourn.core.session import Reason, in_words, reason_of
from sojourn.errors import (
    BackendUnavailable,
    ConnectionLost,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    SojournError,
)
from sojourn.testing import ManualClock, drive

CONVERSATION = Lane.CONVERSATION


def shout(session, ask):
    session.reply(Say(ask.text.upper()))


# Three lanes


def test_a_plain_function_answers_inline(run):
    """Lane 1: called in the read batch; one write for all answers."""

    async def main():
        async with running(lab(shout)) as server:
            wire = memory(server)
            wire.send("a", "b", "c")
            assert [await wire.receive() for _ in range(3)] == ["A", "B", "C"]
            assert only(server).task is None
            wire.close()

    run(main())


def test_a_coroutine_has_a_task_while_it_waits_and_keeps_the_order(run):
    """Lane 2: what arrives meanwhile waits in the inbox; afterwards there is no task."""

    async def main():
        gates = {"a": asyncio.Event(), "b": asyncio.Event()}

        async def handle(session, ask):
            await gates[ask.text].wait()
            await session.send(Say(ask.text.upper()))

        async with running(lab(handle)) as server:
            wire = memory(server)
            wire.send("a", "b")
            await until(lambda: server.manager.session_count and only(server).inbox)
            gates["b"].set()
            await turns()
            assert len(only(server).inbox) == 1
            gates["a"].set()
            assert [await wire.receive(), await wire.receive()] == ["A", "B"]
            await until(lambda: only(server).task is None)
            wire.close()

    run(main())


def test_a_conversation_reads_top_to_bottom_and_ends_by_returning(run):
    """Lane 3: ask, receive, return."""

    async def main():
        async def login(session, ask):
            password = await session.ask(Say(f"password of {ask.text}?"))
            await session.send(Say("welcome" if password.text == "tulip" else "no"))

        async with running(lab(login, lane=CONVERSATION)) as server:
            wire = memory(server)
            assert await wire.ask("ana") == "password of ana?"
            assert await wire.ask("tulip") == "welcome"
            await until(lambda: not server.manager.session_count)
            assert list(ended(server).values()) == [Reason.FINISHED]
            assert await wire.ask("ben") == "password of ben?"
            wire.close()

    run(main())


def test_a_conversation_that_waited_in_the_inbox_ends_its_session_too(run):
    """The lane of each message is its own, also behind a handler of another lane."""

    async def main():
        router = Router()
        gate = asyncio.Event()

        @router.on(Ask)
        async def first(session, ask):
            await gate.wait()

        @router.conversation(Other)
        async def second(session, other):
            await session.send(Say("done"))

        async with running(lab(router=router)) as server:
            wire = memory(server)
            wire.send("a")
            wire.send("b", kind=2)
            await until(lambda: server.manager.session_count and only(server).inbox)
            gate.set()
            assert await wire.receive() == "done"
            await until(lambda: not server.manager.session_count)
            assert list(ended(server).values()) == [Reason.FINISHED]
            wire.close()

    run(main())


def test_one_session_that_waits_blocks_no_other(run):
    """A thousand sessions of the same connection are served meanwhile."""

    async def main():
        gate = asyncio.Event()

        async def handle(session, ask):
            if ask.text == "slow":
                await gate.wait()
            session.finish(Say(ask.text))

        async with running(lab(handle, keyed=True, max_sessions_per_connection_count=2_000)) as server:
            wire = memory(server)
            wire.send("slow", session=7)
            wire.writer.write(b"".join(packet("fast", session=100 + number) for number in range(1_000)))
            assert [await wire.receive() for _ in range(1_000)] == ["fast"] * 1_000
            gate.set()
            assert await wire.receive(session=7) == "slow"
            wire.close()

    run(main())


# Receiving


def test_another_kind_than_wanted_is_the_peer_s_error(run):
    """``receive(Kind)``: RemoteProtocolError, farewell, end."""

    async def main():
        async def strict(session, _ask):
            await session.receive(Other)

        async with running(lab(strict, lane=CONVERSATION)) as server:
            wire = memory(server)
            assert await _two(wire) == "bye: RemoteProtocolError"
            assert list(ended(server).values()) == [Reason.PROTOCOL_ERROR]
            (event,) = told(server, "session.failed")
            assert event["error"] == "found Ask, wanted Other (the order of the conversation)"
            wire.close()

    async def _two(wire):
        wire.send("a", "b")
        return await wire.receive()

    run(main())


def test_a_message_that_nobody_handles_is_the_peer_s_error(run):
    """The router's table says what has a place."""

    async def main():
        async with running(lab(shout)) as server:
            wire = memory(server)
            wire.send("x", kind=2)
            assert await wire.receive() == "bye: RemoteProtocolError"
            wire.close()

    run(main())


def test_a_wait_ends_at_its_deadline_and_not_before(run):
    """``within_s`` is a stamp that the sweep compares: TimeoutError is raised where the session waits."""

    async def main():
        clock = ManualClock()

        async def patient(session, _ask):
            try:
                await session.receive(within_s=5)
            except TimeoutError:
                await session.send(Say("too late"))
                await session.receive(within_s=5)

        async with running(lab(patient, lane=CONVERSATION), clock=clock) as server:
            drive(server)
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.session_count and only(server).waiter)
            clock.advance(4.9)
            await turns()
            assert only(server).waiter
            clock.advance(0.1)
            assert await wire.receive() == "too late"
            await until(lambda: only(server).waiter)
            clock.advance(5)
            assert await wire.receive() == "bye: TimeoutError"
            assert list(ended(server).values()) == [Reason.DEADLINE]
            wire.close()

    run(main())


def test_a_message_that_comes_as_the_wait_is_given_up_is_kept(run):
    """A wait that an author's own timeout cancels loses nothing."""

    async def main():
        got = []

        async def impatient(session, _ask):
            waiting = asyncio.ensure_future(session.receive())
            await until(lambda: session.waiter)
            session.take(Ask("in between"))
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            got.append(await session.receive())

        async with running(lab(impatient, lane=CONVERSATION)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: got)
            assert got == [Ask("in between")]
            wire.close()

    run(main())


# Ending


def test_a_session_is_over_at_its_deadline_whatever_it_does(run):
    """``session_timeout_s``: farewell, reason, and its task is stopped."""

    async def main():
        clock = ManualClock()
        stopped = []

        async def busy(session, _ask):
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(session.number)

        async with running(lab(busy, session_timeout_s=30.0), clock=clock) as server:
            drive(server)
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.task_count)
            clock.advance(29)
            await turns()
            assert not stopped
            clock.advance(1)
            assert await wire.receive() == "bye: TimeoutError"
            assert list(ended(server).values()) == [Reason.DEADLINE]
            await until(lambda: stopped)
            ((session, failed),) = server.recorder.ended()
            assert failed
            assert session.ended_at - session.started == 30
            wire.close()

    run(main())


def test_finish_sends_the_last_message_and_counts_once(run):
    """``finish`` twice is one end."""

    async def main():
        def last(session, ask):
            session.finish(Say("last"))
            session.finish(Say("never"))

        async with running(lab(last)) as server:
            wire = memory(server)
            assert await wire.ask("a") == "last"
            assert await wire.ask("a") == "last"
            assert len(ended(server)) == 2
            wire.close()

    run(main())


def test_a_single_session_closes_its_connection(run):
    """Mode single: the answer goes out first."""

    async def main():
        async with running(
            lab(lambda session, _ask: session.finish(Say("bye")), first_mode="single")
        ) as server:
            wire = memory(server)
            wire.send("a", "b")
            assert await wire.receive() == "bye"
            assert await wire.rest() == b""
            assert len(ended(server)) == 1
            wire.close()

    run(main())


@pytest.mark.parametrize("lane", [Lane.INLINE, Lane.TASK])
def test_a_bug_ends_its_own_session_with_one_event_and_no_other(run, lane):
    """Whatever a handler raises: farewell, one line that names error and place, and never its text."""

    async def main():
        def broken(session, ask):
            if ask.text == "bug":
                raise ZeroDivisionError("a secret")
            session.reply(Say(ask.text))

        async def broken_task(session, ask):
            broken(session, ask)

        async with running(lab(broken if lane == Lane.INLINE else broken_task, keyed=True)) as server:
            wire = memory(server)
            assert await wire.ask("fine", session=1) == "fine"
            assert await wire.ask("bug", session=2) == "bye: ZeroDivisionError"
            assert await wire.ask("fine", session=1) == "fine"
            (event,) = told(server, "session.handler_failed")
            assert event["error"] == "ZeroDivisionError"
            assert "test_session.py:" in event["where"]
            assert "secret" not in str(event)
            assert ended(server) == {2: Reason.INTERNAL}
            wire.close()

    run(main())


def test_a_bug_of_the_codec_ends_its_own_session(run):
    """Bytes that the codec's author did not think of are no reason to drop the others."""

    async def main():
        async with running(lab(shout, keyed=True)) as server:
            wire = memory(server)
            assert await wire.ask("fine", session=1) == "FINE"
            assert await wire.ask("?", session=2) == "bye: IndexError"
            assert await wire.ask("!", session=3) == "bye: WireError"
            assert await wire.ask("fine", session=1) == "FINE"
            assert told(server, "session.handler_failed")[0]["error"] == "IndexError"
            wire.close()

    run(main())


def test_a_bug_behind_the_end_is_told_too(run):
    """The session is over, the bug is not forgotten."""

    async def main():
        def broken(session, _ask):
            session.finish(Say("done"))
            raise ZeroDivisionError

        async with running(lab(broken)) as server:
            wire = memory(server)
            assert await wire.ask("a") == "done"
            assert told(server, "session.handler_failed")[0]["error"] == "ZeroDivisionError"
            assert list(ended(server).values()) == [Reason.FINISHED]
            wire.close()

    run(main())


def test_a_farewell_that_fails_does_not_keep_the_session_alive(run):
    """The end always comes."""

    async def main():
        def broken(_session, _ask):
            raise ZeroDivisionError

        def farewell(_session, _error):
            raise KeyError

        async with running(lab(broken, farewell=farewell)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: ended(server))
            assert [event["error"] for event in told(server, "session.handler_failed")] == [
                "ZeroDivisionError",
                "KeyError",
            ]
            assert server.manager.session_count == 0
            wire.close()

    run(main())


def test_an_operator_can_close_a_session(run):
    """By id: farewell, its task is stopped, the peer can begin anew."""

    async def main():
        async def endless(session, _ask):
            while True:
                await session.receive()

        async with running(lab(endless, lane=CONVERSATION)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.session_count)
            assert not server.registry.close("lab-ffff")
            assert server.registry.close(only(server).id)
            assert await wire.receive() == "bye: SojournError"
            assert list(ended(server).values()) == [Reason.CLOSED]
            wire.close()

    run(main())


def test_a_handler_that_goes_on_after_finish_is_stopped_with_the_server(run):
    """Its task belongs to the manager then; ``running`` proves that none is left."""

    async def main():
        stopped = asyncio.Event()

        async def lingering(session, _ask):
            session.finish(Say("done"))
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with running(lab(lingering)) as server:
            wire = memory(server)
            assert await wire.ask("a") == "done"
            assert len(server.manager.tasks) == 1
            wire.close()
        assert stopped.is_set()

    run(main())


# Configuration


def test_a_session_keeps_the_configuration_of_its_beginning(run):
    """Reload swaps the snapshot; open sessions keep theirs, the next ones get the new one."""

    async def main():
        def tell(session, ask):
            (session.finish if ask.text == "end" else session.reply)(Say(session.config))

        gateway = lab(tell, config="old")
        async with running(gateway) as server:
            wire = memory(server)
            assert await wire.ask("a") == "old"
            gateway.reload("new")
            assert await wire.ask("a") == "old"
            assert await wire.ask("end") == "old"
            assert await wire.ask("a") == "new"
            wire.close()

    run(main())


# Bounded inbox


def test_a_full_inbox_stops_reading_and_loses_nothing(run):
    """``pauses_when_full``: the peer waits, in order, however much it sends."""

    async def main():
        gate = asyncio.Event()

        async def slow(session, ask):
            await gate.wait()
            await session.send(Say(ask.text))

        gateway = lab(slow, inbox_limit_count=4)
        async with running(gateway) as server:
            wire = memory(server)
            texts = [str(number) for number in range(200)]
            wire.send(*texts[:100])
            for text in texts[100:]:
                wire.send(text)
            await until(lambda: server.manager.session_count and len(only(server).inbox or ()) == 4)
            await turns()
            assert len(only(server).inbox) == 4
            assert not only(server).connection.transport.is_reading()
            gate.set()
            assert [await wire.receive() for _ in texts] == texts
            assert only(server).connection.transport.is_reading()
            wire.close()

    run(main())


def test_room_in_one_inbox_does_not_flood_another(run):
    """Two sessions of one connection are full: reading goes on when both have room."""

    async def main():
        gates = {1: asyncio.Event(), 2: asyncio.Event()}

        async def slow(session, ask):
            await gates[session.key].wait()
            await session.send(Say(ask.text))

        async with running(lab(slow, keyed=True, inbox_limit_count=2)) as server:
            wire = memory(server)
            for _ in range(3):
                wire.send("a", session=1)
            for _ in range(3):
                wire.send("b", session=2)
            wire.send("a", "a", "a", session=1)
            wire.send("b", "b", "b", session=2)
            await turns()
            gates[1].set()
            assert [await wire.receive(session=1) for _ in range(3)] == ["a"] * 3
            await turns()
            assert not told(server, "session.failed")
            gates[2].set()
            rest = [await wire.receive() for _ in range(9)]
            assert sorted(rest) == ["a"] * 3 + ["b"] * 6
            wire.close()

    run(main())


def test_a_session_that_ends_with_a_full_inbox_lets_the_others_go_on(run):
    """Reading goes on for the rest of the connection."""

    async def main():
        gate = asyncio.Event()

        async def once(session, ask):
            await gate.wait()
            session.finish(Say(ask.text))

        async with running(lab(once, keyed=True, inbox_limit_count=1)) as server:
            wire = memory(server)
            wire.send("a", "a", session=1)
            await turns()
            wire.send("b", session=2)
            gate.set()
            assert await wire.receive(session=1) == "a"
            assert await wire.receive(session=2) == "b"
            wire.close()

    run(main())


def test_a_full_inbox_can_be_the_peer_s_error_instead(run):
    """``pauses_when_full = False``: protocols in which a peer must wait for its answer."""

    async def main():
        async def slow(_session, _ask):
            await asyncio.Event().wait()

        async with running(lab(slow, keyed=True, inbox_limit_count=1, pauses_when_full=False)) as server:
            wire = memory(server)
            wire.send("a", "b", "c", session=1)
            assert await wire.receive(session=1) == "bye: RemoteProtocolError"
            assert ended(server) == {1: Reason.PROTOCOL_ERROR}
            assert "1 messages wait" in told(server, "session.failed")[0]["error"]
            wire.close()

    run(main())


# Sending


def slow_reader(server):
    """Return a client's end that takes nothing until it is told to."""
    transport = accept_in_memory(server.manager)
    protocol = Collecting()
    transport.begin(protocol)
    transport.pause_reading()
    return transport, protocol


class Collecting(asyncio.Protocol):
    def __init__(self):
        self.data = b""

    def data_received(self, data):
        self.data += data


def test_a_sender_suspends_above_the_high_water_mark_and_goes_on_below(run):
    """``await send`` suspends only while the peer does not take what is sent."""

    async def main():
        sent = []

        async def pour(session, _ask):
            for number in range(200):
                await session.send(Say("x" * 1_000))
                sent.append(number)

        gateway = lab(pour, lane=CONVERSATION, limits={"write_high_water_bytes": 4_096})
        async with running(gateway) as server:
            transport, protocol = slow_reader(server)
            transport.write(packet("go"))
            await turns(100)
            assert 0 < len(sent) < 200
            assert not only(server).connection.writable
            transport.resume_reading()
            await until(lambda: len(protocol.data) == 200 * (1_000 + 9))
            assert len(sent) == 200
            transport.close()

    run(main())


def test_a_sender_that_never_waits_meets_the_high_water_mark_all_the_same(run):
    """The outbox is bounded: a loop of sends is not a loop that fills the memory."""

    async def main():
        async def pour(session, _ask):
            while True:
                await session.send(Say("x" * 1_000))

        gateway = lab(pour, lane=CONVERSATION, limits={"write_high_water_bytes": 4_096})
        async with running(gateway) as server:
            transport, _ = slow_reader(server)
            transport.write(packet("go"))
            await turns(100)
            connection = only(server).connection
            assert connection.transport.get_write_buffer_size() < 200_000
            assert sum(map(len, connection.outbox)) < 200_000
            transport.abort()

    run(main())


def hooked(gateway, server, session):
    """Let every layer write down that it saw an error on its way."""
    session.on_send_error = lambda _session, error: gateway.hooks.append(("session", str(error)))
    manager = server.manager
    before = manager.on_send_error

    def outermost(connection, session, error):
        before(connection, session, error)
        gateway.hooks.append(("manager", str(error)))

    manager.on_send_error = outermost


ORDER = [(layer, "connection lost: ConnectionResetError") for layer in ("session", "gateway", "manager")]


def test_a_lost_connection_is_raised_where_the_session_sends(run):
    """ConnectionLost into the session, which decides; hooks in the order session, connection, manager."""

    async def main():
        seen = []
        go_on = asyncio.Event()

        async def late(session, _ask):
            session.state = "waiting"
            try:
                await session.receive()
            except ConnectionLost:
                await go_on.wait()
                try:
                    await session.send(Say("anybody?"))
                except ConnectionLost as error:
                    seen.append(error.cause)

        gateway = lab(late, lane=CONVERSATION)
        async with running(gateway) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.session_count and only(server).waiter)
            hooked(gateway, server, only(server))
            wire.writer.transport.abort()
            await until(lambda: not server.manager.connections)
            assert server.manager.task_count == 1
            go_on.set()
            await until(lambda: seen)
            assert seen == ["ConnectionResetError"]
            assert gateway.hooks == ORDER
            assert server.manager.send_errors == 1
            assert list(ended(server).values()) == [Reason.CONNECTION_LOST]
            assert not told(server, "session.failed")

    run(main())


def test_a_lost_connection_is_raised_where_the_session_waits_to_send(run):
    """The suspended send raises ConnectionLost, not a cancellation; the hooks see it too."""

    async def main():
        seen = []

        async def pour(session, _ask):
            try:
                while True:
                    await session.send(Say("x" * 1_000))
            except ConnectionLost as error:
                seen.append(error.cause)
                raise

        gateway = lab(pour, lane=CONVERSATION, limits={"write_high_water_bytes": 4_096})
        async with running(gateway) as server:
            transport, _ = slow_reader(server)
            transport.write(packet("go"))
            await until(lambda: server.manager.session_count and not only(server).connection.writable)
            hooked(gateway, server, only(server))
            await turns()
            transport.abort()
            await until(lambda: seen)
            assert seen == ["ConnectionResetError"]
            assert gateway.hooks == ORDER

    run(main())


def test_a_lost_connection_is_raised_where_the_session_expects_an_answer(run):
    """A lost connection fails all pending."""

    async def main():
        seen = []

        async def expecting(session, _ask):
            try:
                await session.expect("answer", within_s=60)
            except ConnectionLost as error:
                seen.append(error.cause)

        async with running(lab(expecting)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.session_count and only(server).pending)
            wire.writer.transport.abort()
            await until(lambda: seen)
            assert seen == ["ConnectionResetError"]

    run(main())


def test_a_session_that_is_busy_elsewhere_is_cancelled_when_its_connection_goes(run):
    """Nothing it waits for can tell it; clean-up in ``finally`` runs."""

    async def main():
        ends = []

        async def busy(_session, _ask):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async with running(lab(busy)) as server:
            wire = memory(server)
            wire.send("a")
            await until(lambda: server.manager.task_count)
            wire.writer.transport.abort()
            await until(lambda: ends)
            await until(lambda: not server.manager.task_count)

    run(main())


# Correlation


def test_an_answer_completes_the_command_that_expects_it(run):
    """``expect`` and ``complete``, in any order of answers."""

    async def main():
        router = Router()

        @router.conversation(Ask)
        async def commands(session, _ask):
            first, second = session.expect(1, within_s=5), session.expect(2, within_s=5)
            with pytest.raises(LocalProtocolError):
                session.expect(1, within_s=5)
            await session.send(Say("ready"))
            message = await session.receive(Other)
            session.complete(2, message.text)
            message = await session.receive(Other)
            session.complete(1, message.text)
            await session.send(Say(f"{await first} {await second}"))

        async with running(lab(router=router)) as server:
            wire = memory(server)
            assert await wire.ask("go") == "ready"
            wire.send("two", "one", kind=2)
            assert await wire.receive() == "one two"
            wire.close()

    run(main())


def test_a_late_answer_is_told_and_not_delivered(run):
    """After its deadline a command is over: one event, one line in the trace."""

    async def main():
        clock = ManualClock()
        router = Router()

        @router.on(Ask)
        async def command(session, _ask):
            try:
                await session.expect("cmd-7", within_s=2)
            except TimeoutError:
                await session.send(Say("no answer"))

        @router.on(Other)
        def answer(session, other):
            assert not session.complete("cmd-7", other)

        async with running(lab(router=router), clock=clock) as server:
            drive(server)
            wire = memory(server)
            wire.send("go")
            await until(lambda: server.manager.session_count and only(server).pending)
            clock.advance(2)
            assert await wire.receive() == "no answer"
            wire.send("late", kind=2)
            await until(lambda: told(server, "session.late_answer"))
            assert told(server, "session.late_answer")[0]["key"] == "cmd-7"
            texts = [entry.name for entry in server.registry.trace("lab-1")]
            assert any("cmd-7" in text for text in texts)
            wire.close()

    run(main())


# More than one connection, or none


class Sittings:
    """A gateway's memory of sessions by the first word of their connection."""

    def __init__(self):
        self.by_name = {}


def test_a_second_connection_can_join_a_session(run):
    """``attach``: answers go where the last question came from; the loss of one is not the end."""

    async def main():
        router = Router()
        host = []

        @router.on(Ask)
        def chat(session, ask):
            if ask.text == "host":
                host.append(session)
            if ask.text == "join":
                guest, session = session, host[0]
                connection = guest.connection
                guest.finish()
                session.attach(connection)
                session.connection = connection
            session.reply(Say(f"{len(session.connections)} here"))

        async with running(lab(router=router)) as server:
            first, second = memory(server), memory(server)
            assert await first.ask("host") == "1 here"
            assert await second.ask("join") == "2 here"
            assert await first.ask("a") == "2 here"
            assert await second.ask("b") == "2 here"
            assert server.manager.session_count == 2
            assert len(list(server.manager.sessions())) == 1
            first.close()
            await until(lambda: len(server.manager.connections) == 1)
            assert await second.ask("c") == "1 here"
            second.close()
            await until(lambda: host[0].ended)
            assert host[0].ended == Reason.CONNECTION_LOST

    run(main())


def outliving(clock):
    """Return a gateway whose only session goes on, whatever happens to its connections."""
    known = []

    async def presence(session, _ask):
        session.outlives_connection = True
        known.append(session)
        while True:
            try:
                message = await session.receive(within_s=100)
            except TimeoutError:
                session.state = "gave up"
                return
            if message.text == "expect":
                try:
                    await session.expect("x", within_s=1000)
                except ConnectionLost:
                    session.state = "lost"
            else:
                await session.send(Say(f"{message.text} of {session.number}"))

    def find_session(_connection, _key):
        return known[0] if known and not known[0].ended else None

    return lab(presence, lane=CONVERSATION, find_session=find_session)


def test_a_session_can_outlive_its_connection(run):
    """It is still there, seen and swept, and goes on under the next connection."""

    async def main():
        clock = ManualClock()
        async with running(outliving(clock), clock=clock) as server:
            drive(server)
            first = memory(server)
            first.send("begin")
            assert await first.ask("a") == "a of 1"
            first.close()
            await until(lambda: not server.manager.connections)
            assert only(server).number == 1
            assert not ended(server)
            second = memory(server)
            assert await second.ask("b") == "b of 1"
            assert not server.manager.detached
            second.close()
            await until(lambda: server.manager.detached)
            clock.advance(100)
            await until(lambda: ended(server))
            assert not list(server.manager.sessions())

    run(main())


def test_a_newer_connection_takes_the_session_from_the_older(run):
    """The newest wins; what happens to the older one is not the session's business any more."""

    async def main():
        clock = ManualClock()
        async with running(outliving(clock), clock=clock) as server:
            first, second = memory(server), memory(server)
            first.send("begin")
            assert await first.ask("a") == "a of 1"
            assert await second.ask("b") == "b of 1"
            assert only(server).connection.table.live == {None: only(server)}
            assert server.manager.session_count == 1
            first.close()
            await until(lambda: len(server.manager.connections) == 1)
            assert await second.ask("c") == "c of 1"
            second.close()

    run(main())


def test_what_a_session_without_connection_expects_has_failed(run):
    """A lost connection fails all pending, even where the session stays."""

    async def main():
        clock = ManualClock()
        async with running(outliving(clock), clock=clock) as server:
            first = memory(server)
            first.send("begin", "expect")
            await until(lambda: server.manager.session_count and only(server).pending)
            first.close()
            await until(lambda: server.manager.detached)
            await until(lambda: only(server).state == "lost")

    run(main())


def test_reasons_follow_from_errors():
    """One word for the operator per kind of error."""
    assert reason_of(ConnectionLost("x")) == Reason.CONNECTION_LOST
    assert reason_of(RemoteProtocolError("a", "b", "c")) == Reason.PROTOCOL_ERROR
    assert reason_of(LocalProtocolError("a", "b", "c")) == Reason.INTERNAL
    assert reason_of(TimeoutError()) == Reason.DEADLINE
    assert reason_of(LimitExceeded("x", 2, 1)) == Reason.LIMIT
    assert reason_of(BackendUnavailable("x", 1, "y")) == Reason.BACKEND
    assert reason_of(ValueError("secret")) == Reason.INTERNAL
    assert in_words(ValueError("secret")) == "ValueError"
    assert in_words(SojournError("plain")) == "plain"
    assert in_words(TimeoutError()) == "TimeoutError"
