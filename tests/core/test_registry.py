"""Who is present: snapshots, search, close."""

from __future__ import annotations

import time

from core_lab import Say, lab, memory, only, running, until

from sojourn.core.peer import Peer
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
