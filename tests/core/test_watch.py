"""Looking again: what was added to a trace, which sessions came and went, what a process tells of itself."""

from __future__ import annotations

import json

import msgspec
import pytest
from core_lab import Say, lab, memory, only, running, told, until

from sojourn.core.events import EventKind
from sojourn.core.rates import Counts, GatewayFigures, PerSecond, Relayed, together
from sojourn.core.report import Look, Report, reported
from sojourn.core.settings import RecorderSettings
from sojourn.core.watch import TraceWatch, changes

USUAL = EventKind("test.usual")


def handle(session, ask):
    session.about = ask.text
    if ask.text == "bug":
        raise ZeroDivisionError
    if ask.text == "end":
        session.finish(Say("ended"))
    else:
        session.reply(Say("here"))


def test_a_trace_that_is_watched_grows_by_what_is_new(run):
    """Every entry once and in order; what the ring forgot unseen is a gap."""

    async def main():
        async with running(lab(handle), recorder=RecorderSettings(entries_per_session_count=4)) as server:
            wire = memory(server)
            await wire.ask("one")
            watch = TraceWatch(server, only(server))
            first = watch.look()
            assert [one.direction for one in first.entries] == ["in", "out"]
            assert (first.session.state, first.has_gap) == ("live", False)
            assert watch.look().entries == []
            await wire.ask("two")
            assert [one.summary for one in watch.look().entries] == ["text='two'", "text='here'"]
            for text in ("three", "four", "five"):
                await wire.ask(text)
            grown = watch.look()
            assert grown.has_gap
            assert grown.entries[-1].summary == "text='here'"
            await wire.ask("end")
            ended = watch.look()
            assert (ended.session.state, ended.session.reason) == ("ended", "finished")
            wire.close()

    run(main())


def test_a_session_that_nobody_keeps_is_watched_to_its_end(run):
    """The recorder keeps so many a second; whoever follows another one sees its last words all the same."""

    async def main():
        async with running(lab(handle), recorder=RecorderSettings(finished_sessions_per_s=1)) as server:
            server.recorder.quota = 0
            wire = memory(server)
            await wire.ask("one")
            session = only(server)
            session.trace.clear()  # as one has it that began this moment
            watch = TraceWatch(server, session)
            assert watch.look().entries == []
            await wire.ask("end")
            ended = watch.look()
            assert [one.summary for one in ended.entries] == ["text='end'", "text='ended'"]
            assert ended.session.reason == "finished"
            assert session.trace is None
            wire.close()

    run(main())


def test_changes_tell_who_came_and_went_since_the_last_look(run):
    """The first look tells nothing; a session that was over before the next one is told once, as ended."""

    async def main():
        async with running(lab(handle)) as server:
            wires = [memory(server) for _ in range(4)]
            await wires[0].ask("Ana")
            first = changes(server, None, 10)
            assert (first.opened, first.ended) == ([], [])
            for wire, text in zip(wires[1:], ("Ben", "end", "bug"), strict=True):
                await wire.ask(text)
            second = changes(server, first.mark, 10)
            assert [one.about for one in second.opened] == ["Ben"]
            assert {one.about: one.state for one in second.ended} == {"end": "ended", "bug": "failed"}
            assert (second.more_opened, second.more_ended) == (0, 0)
            third = changes(server, second.mark, 10)
            assert (third.opened, third.ended, third.more_opened) == ([], [], 0)
            for wire in wires:
                wire.close()

    run(main())


def test_changes_beyond_the_limit_are_counted(run):
    """And those that the recorder does not keep."""

    async def main():
        async with running(lab(handle), recorder=RecorderSettings(finished_sessions_per_s=1)) as server:
            mark = changes(server, None, 2).mark
            wires = [memory(server) for _ in range(7)]
            for wire in wires:
                await wire.ask("Ana")
            for wire in wires[:3]:
                await wire.ask("end")
            found = changes(server, mark, 2)
            assert (len(found.opened), len(found.ended)) == (2, 1)
            assert (found.more_opened, found.more_ended) == (4, 2)
            for wire in wires:
                wire.close()

    run(main())


def test_a_second_is_what_was_counted_in_it(run):
    """Per second, however long the second was."""

    async def main():
        async with running(lab(handle)) as server:
            wire = memory(server)
            for text in ("a", "b", "c", "bug"):
                await wire.ask(text)
            server.clock.advance(2)
            server.rates.sample(server.clock())
            ((sample,),) = [one.samples for one in Report(server).figures()]
            assert (sample.packets_in, sample.sessions_opened, sample.sessions_failed) == (2.0, 0.5, 0.5)
            counts = Report(server).figures()[0].counts
            assert (counts.sessions_open, counts.sessions_opened, counts.sessions_failed) == (0, 1, 1)
            wire.close()
            sizes = counts.bytes_in, counts.bytes_out
            await until(lambda: not server.manager.connections)
            gone = server.manager.counts()
            assert (gone.connections, gone.bytes_in, gone.bytes_out) == (0, *sizes)

    run(main())


def test_what_a_gateway_relays_by_itself_counts_too(run):
    """On top of what the connections have counted: in the figures, the samples and the metrics."""

    async def main():
        async with running(lab(handle)) as server:
            wire = memory(server)
            await wire.ask("Ana")
            before = server.manager.counts()
            server.rates.sample(server.clock())
            server.manager.gateway.relayed = lambda: Relayed(10, 20, 300, 400)
            server.clock.advance(2)
            server.rates.sample(server.clock())
            counts = server.manager.counts()
            assert (counts.packets_in - before.packets_in, counts.packets_out - before.packets_out) == (
                10,
                20,
            )
            assert (counts.bytes_in - before.bytes_in, counts.bytes_out - before.bytes_out) == (300, 400)
            sample = server.rates.samples("lab")[-1]
            assert (sample.packets_in, sample.bytes_out) == (5.0, 200.0)
            assert (server.manager.packets_in, server.manager.packets_out) == (
                counts.packets_in,
                counts.packets_out,
            )
            wire.close()

    run(main())


def test_figures_of_several_processes_are_added_up():
    """Samples meet at their newest ends: a worker that is younger has fewer."""
    one = GatewayFigures("a", "A", Counts(sessions_open=1, packets_in=5), (PerSecond(1.0), PerSecond(2.0)))
    two = GatewayFigures("a", "A", Counts(sessions_open=2, packets_in=7), (PerSecond(10.0),))
    other = GatewayFigures("b", "B", Counts(), ())
    first, second = together([one, other, two])
    assert (first.counts.sessions_open, first.counts.packets_in) == (3, 12)
    assert [sample.sessions_open for sample in first.samples] == [1.0, 12.0]
    assert second == other


def test_events_are_numbered_and_grave_ones_outlive_the_rest(run):
    """A flood of what is usual does not push out what went wrong."""

    async def main():
        async with running(lab(handle)) as server:
            wire = memory(server)
            await wire.ask("bug")
            told(server)
            report = Report(server)
            (grave,) = report.events(None, "error", "", "", 10)
            wire.close()
            for _ in range(300):
                server.events.emit(USUAL, None)
            told(server)
            assert grave in report.events(None, "error", "session.handler_failed", "", 1_000)
            numbers = [one.number for one in report.events(None, "", "", "", 1_000)]
            assert numbers == sorted(numbers, reverse=True)
            assert len(set(numbers)) == len(numbers)
            assert report.events(numbers[0], "", "", "", 10) == []

    run(main())


def test_another_process_gets_the_same_report_as_json(run):
    """What workers ask of each other goes through JSON and back; anything else is refused."""

    async def main():
        async with running(lab(handle)) as server:
            first = reported(server, "look", b"[{}, 5, 5]")
            assert isinstance(first, Look)
            wire = memory(server)
            await wire.ask("Ana")
            marks = msgspec.json.encode([{first.process: first.changes.mark}, 5, 5])
            second = reported(server, "look", marks)
            again = msgspec.json.decode(msgspec.json.encode(second), type=Look)
            assert [one.about for one in again.changes.opened] == ["Ana"]
            for what, arguments in (("stop", []), ("__init__", []), ("_of_server", [])):
                with pytest.raises(ValueError, match="wanted one of"):
                    reported(server, what, json.dumps(arguments).encode())
            wire.close()

    run(main())
