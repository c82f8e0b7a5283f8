"""Parties in traces: what went between a session and those behind it is in its place, bounded, and names them."""

from __future__ import annotations

import msgspec
from core_lab import Ask, Lab, Say, lab, memory, only, running

from sojourn.core.recorder import Direction, Leg, Through
from sojourn.core.router import Router
from sojourn.core.settings import RecorderSettings


def asking_router():
    """Return a router whose handler asks a library, which fails for one book."""
    router = Router()

    @router.on(Ask)
    def look_up(session, ask):
        session.note_sent("library", "find", ask.text)
        if ask.text == "lost":
            session.note_received("library", "closed", "since noon", is_error=True)
        else:
            session.note_received("library", "found")
        session.reply(Say(ask.text))

    return router


def told(entry):
    return entry.direction, entry.source, entry.target, entry.name, entry.summary, entry.is_leg


def test_legs_are_in_their_places_between_the_messages_of_the_peer(run):
    """A leg has its party at one end and the gateway at the other; one that failed is an error from the party."""

    async def main():
        async with running(lab(router=asking_router())) as server:
            wire = memory(server)
            for text in ("dune", "lost"):
                assert await wire.ask(text) == text
            assert [told(entry) for entry in server.registry.trace(only(server).id)] == [
                ("in", "peer", "lab", "Ask", "text='dune'", False),
                ("out", "lab", "library", "find", "dune", True),
                ("in", "library", "lab", "found", "", True),
                ("out", "lab", "peer", "Say", "text='dune'", False),
                ("in", "peer", "lab", "Ask", "text='lost'", False),
                ("out", "lab", "library", "find", "lost", True),
                ("error", "library", "lab", "closed", "since noon", True),
                ("out", "lab", "peer", "Say", "text='lost'", False),
            ]
            wire.close()

    run(main())


def test_legs_share_the_bound_of_the_ring(run):
    """A backend that is asked without end takes no more memory than a peer that asks without end."""

    async def main():
        recorder = RecorderSettings(entries_per_session_count=8)
        async with running(lab(router=asking_router()), recorder=recorder) as server:
            wire = memory(server)
            assert await wire.ask("dune") == "dune"
            for number in range(100):
                only(server).note_sent("library", "find", str(number))
                assert len(only(server).trace) <= 8
            assert server.registry.trace(only(server).id)[-1].summary == "99"
            wire.close()

    run(main())


def test_without_a_recorder_a_leg_costs_nothing(run):
    """No ring, no entry: sessions may be told of legs whatever the settings say."""

    async def main():
        async with running(
            lab(router=asking_router()), recorder=RecorderSettings(entries_per_session_count=0)
        ) as server:
            wire = memory(server)
            assert await wire.ask("lost") == "lost"
            assert only(server).trace is None
            wire.close()

    run(main())


class Reading(msgspec.Struct):
    """What a gateway keeps of a leg on its hot path, to be put into words later."""

    degrees: int


class Weather(Lab):
    """Puts its own legs into words when somebody looks, and words of its own on everything else."""

    def leg(self, what):
        if isinstance(what, Reading):
            return Leg("thermometer", "reading", f"{what.degrees} C")
        return super().leg(what)

    def words_for(self, entry):
        name, text = super().words_for(entry)
        return name.upper(), text


def test_a_gateway_may_keep_a_leg_cheaper_than_words(run):
    """``Gateway.leg`` is asked when somebody looks; ``words_for`` has all else, through whichever peer it came."""

    async def main():
        async with running(Weather(router=asking_router())) as server:
            wire = memory(server)
            assert await wire.ask("dune") == "dune"
            session = only(server)
            session.trace.append((server.clock(), Direction.IN, 0, Reading(21)))
            session.trace.append((server.clock(), Direction.IN, 4, Through("ana (2)", Ask("hi"))))
            *_, reading, second = server.registry.trace(session.id)
            assert told(reading) == ("in", "thermometer", "lab", "reading", "21 C", True)
            assert told(second) == ("in", "ana (2)", "lab", "ASK", "text='hi'", False)
            wire.close()

    run(main())
