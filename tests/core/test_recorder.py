"""The flight recorder: bounded, cheap, and without secrets."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import pytest
from core_lab import Login, Say, ended, lab, memory, only, running, until

from sojourn.core.recorder import redactor_for, summary
from sojourn.core.router import Router
from sojourn.core.settings import RecorderSettings
from sojourn.testing import ManualClock, drive


class Lone(msgspec.Struct):
    """One public field is no tuple to an attrgetter."""

    secret_fields: ClassVar = frozenset({"password"})
    user: str
    password: str


class AllSecret(msgspec.Struct):
    secret_fields: ClassVar = frozenset({"password"})
    password: str


class Open(msgspec.Struct):
    user: str
    note: bytes = b""


class Sealed(msgspec.Struct, frozen=True):
    secret_fields: ClassVar = frozenset({"password"})
    user: str
    password: str


class Envelope(msgspec.Struct):
    """Holds another message, whose class the redactor cannot know."""

    number: int
    message: Lone

    def redacted(self) -> Envelope:
        return Envelope(self.number, Lone(self.message.user, "***"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Lone("ana", "tulip"), ("Lone", "user='ana'")),
        (AllSecret("tulip"), ("AllSecret", "")),
        (Sealed("ana", "tulip"), ("Sealed", "user='ana'")),
        (Open("ana"), ("Open", "user='ana'")),
        (
            Envelope(7, Lone("ana", "tulip")),
            ("Envelope", "number=7 message=Lone(user='ana', password='***')"),
        ),
        (b"tulip", ("5 bytes", "")),
        ("tulip", ("5 bytes", "")),
        (["tulip"], ("list", "")),
    ],
)
def test_an_entry_holds_no_secret(message, words):
    """A class names its secret fields or redacts itself; what is no message at all is kept as its size or kind."""
    redact = redactor_for(type(message))
    kept = message if redact is None else redact(message)
    assert "tulip" not in repr(kept)
    assert summary((0.0, 0, 5, kept)) == words


def login_router():
    router = Router()

    @router.on(Login)
    def login(session, message):
        session.about = message.user
        session.note("checked")
        session.finish(Say("welcome"))

    return router


def test_a_trace_tells_what_happened_and_no_secret(run):
    """In, notes, out; the password is nowhere."""

    async def main():
        async with running(lab(router=login_router())) as server:
            wire = memory(server)
            wire.send("ana tulip", kind=3)
            assert await wire.receive() == "welcome"
            entries = server.registry.trace("lab-1")
            assert [(entry.direction, entry.name, entry.summary) for entry in entries] == [
                ("in", "Login", "user='ana'"),
                ("state", "checked", ""),
                ("out", "Say", "text='welcome'"),
            ]
            assert [entry.size_bytes for entry in entries] == [9, 0, 16]
            assert "tulip" not in repr(entries)
            wire.close()

    run(main())


def test_a_trace_is_bounded_and_keeps_the_latest(run):
    """``entries_per_session_count`` at most, half of it at least."""

    async def main():
        recorder = RecorderSettings(entries_per_session_count=8)
        async with running(
            lab(lambda session, ask: session.reply(Say(ask.text))), recorder=recorder
        ) as server:
            wire = memory(server)
            for number in range(50):
                assert await wire.ask(str(number)) == str(number)
                assert len(only(server).trace) <= 8
            entries = server.registry.trace(only(server).id)
            assert 4 <= len(entries) <= 8
            assert entries[-1].summary == "text='49'"
            wire.close()

    run(main())


def test_a_gateway_may_keep_less_of_each_session_than_the_recorder_allows(run):
    """``trace_limit_count``, for sessions that are many and long."""

    async def main():
        gateway = lab(lambda session, ask: session.reply(Say(ask.text)))
        gateway.trace_limit_count = 4
        async with running(gateway) as server:
            wire = memory(server)
            for number in range(50):
                assert await wire.ask(str(number)) == str(number)
                assert len(only(server).trace) <= 4
            wire.close()

    run(main())


def test_ended_sessions_are_bounded_and_failed_ones_are_kept_apart(run):
    """A flood of good ones does not push the bad ones out."""

    async def main():
        def handle(session, ask):
            if ask.text == "bug":
                raise ZeroDivisionError
            session.finish()

        recorder = RecorderSettings(finished_sessions_count=3, failed_sessions_count=2)
        async with running(lab(handle), recorder=recorder) as server:
            wire = memory(server)
            wire.send("bug", *["fine"] * 10)
            await until(lambda: server.manager.sessions_opened == 11)
            reasons = [session.ended for session, _ in server.recorder.ended()]
            assert sorted(reasons) == ["finished", "finished", "finished", "internal error"]
            wire.close()

    run(main())


def test_ended_sessions_are_forgotten_after_a_while(run):
    """``finished_keep_s`` and ``failed_keep_s``."""

    async def main():
        clock = ManualClock()
        recorder = RecorderSettings(finished_keep_s=10, failed_keep_s=100)
        async with running(
            lab(lambda session, _ask: session.finish()), recorder=recorder, clock=clock
        ) as server:
            drive(server)
            wire = memory(server)
            wire.send("a", "!")
            await until(lambda: len(ended(server)) == 2)
            clock.advance(11)
            assert list(ended(server).values()) == ["protocol error"]
            clock.advance(90)
            assert not ended(server)
            wire.close()

    run(main())


def test_the_recorder_can_be_off(run):
    """``entries_per_session_count = 0``: nothing is kept, everything that looks still works."""

    async def main():
        recorder = RecorderSettings(entries_per_session_count=0)
        async with running(lab(lambda session, _ask: session.reply(Say("a"))), recorder=recorder) as server:
            wire = memory(server)
            assert await wire.ask("a") == "a"
            only(server).note("nobody keeps this")
            (snapshot,) = server.registry.snapshots()
            assert snapshot.entries == 0
            assert server.registry.trace(snapshot.id) == []
            wire.close()
            await until(lambda: not server.manager.connections)
            assert not ended(server)

    run(main())
