"""Who is present: snapshots, search, close, and the sequence diagram of a trace."""

from __future__ import annotations

import time

from core_lab import Say, lab, memory, only, running, until

from sojourn.core.peer import Peer
from sojourn.core.registry import TraceEntry, as_mermaid
from sojourn.testing import ManualClock


def handle(session, ask):
    session.about = ask.text
    if ask.text == "bug":
        raise ZeroDivisionError
    if ask.text == "end":
        session.finish(Say("ended"))
    else:
        session.reply(Say("here"))


def test_snapshots_show_live_and_ended_sessions_and_can_be_searched(run):
    """By state, by gateway, by id, peer or subject in any case."""

    async def main():
        clock = ManualClock()
        async with running(lab(handle), clock=clock) as server:
            wires = [memory(server, peer=Peer(f"192.0.2.{number}", number)) for number in (1, 2, 3)]
            for wire, text in zip(wires, ("Ana", "end", "bug"), strict=True):
                await wire.ask(text)
            clock.advance(7)
            registry = server.registry
            assert [one.state for one in registry.snapshots()][:1] == ["live"]
            (live,) = registry.snapshots(state="live")
            assert (live.id, live.gateway, live.peer, live.about) == ("lab-1", "lab", "192.0.2.1:1", "Ana")
            assert live.age_s == 7
            assert abs(live.started + 7 - time.time()) < 60
            (finished,) = registry.snapshots(state="ended")
            assert (finished.about, finished.reason) == ("end", "finished")
            (failed,) = registry.snapshots(state="failed")
            assert (failed.about, failed.reason) == ("bug", "internal error")
            assert [one.id for one in registry.snapshots(search="aNA")] == ["lab-1"]
            assert [one.id for one in registry.snapshots(search="192.0.2.3")] == ["lab-3"]
            assert not list(registry.snapshots(gateway="other"))
            assert registry.find("lab-3") == failed
            assert registry.find("lab-9") is None
            assert registry.trace("lab-9") is None
            for wire in wires:
                wire.close()

    run(main())


def test_a_live_session_can_be_closed_once(run):
    """By id; an ended one cannot."""

    async def main():
        async with running(lab(handle)) as server:
            wire = memory(server)
            await wire.ask("Ana")
            assert server.registry.close(only(server).id)
            assert not server.registry.close("lab-1")
            await until(lambda: not server.manager.session_count)
            wire.close()

    run(main())


def entry(at_s, source, target, name, summary=""):
    return TraceEntry(at_s, "in", source, target, name, summary, 1)


def test_a_trace_is_drawn_as_a_sequence_diagram():
    """Parties in their order, messages as arrows, what happens inside as notes, and time that passes."""
    drawn = as_mermaid(
        "lab-1",
        [
            entry(0.0, "peer", "lab", "Ask", "text='a'"),
            entry(0.1, "lab", "lab", "checked"),
            entry(3.1, "lab", "peer", "Say"),
        ],
    )
    lines = [line.strip() for line in drawn.splitlines()]
    assert lines[0] == "sequenceDiagram"
    assert lines[1] == "title lab-1"
    assert [line.endswith(end) for line, end in zip(lines[2:4], ("as peer", "as lab"), strict=True)] == [
        True,
        True,
    ]
    assert lines[4].endswith(": Ask text='a'")
    assert "->>" in lines[4]
    assert lines[5].startswith("Note over")
    assert lines[6].endswith("3.0 s pass")
    assert "->>" in lines[7]


def test_nothing_that_a_peer_sent_can_break_the_diagram():
    """Line ends, semicolons, entities and markup are escaped; a party called ``end`` does not end it."""
    evil = "x;\nparticipant mallory\r\n#quot; <script> %% end"
    drawn = as_mermaid(evil, [entry(0, "end", "my gateway", evil, evil)])
    assert len(drawn.splitlines()) == 5
    assert "<script>" not in drawn
    for line in drawn.splitlines()[1:]:
        rest = line.replace("#35;", "").replace("#59;", "").replace("#lt;", "").replace("#gt;", "")
        assert ";" not in rest
        assert "#" not in rest
    assert "participant end" not in drawn


def test_a_trace_without_entries_is_an_empty_diagram():
    """The recorder may be off."""
    assert as_mermaid("lab-1", []).splitlines()[0] == "sequenceDiagram"
