"""A protocol whose sessions own no task says itself when one of them may be ended by a drain."""

from __future__ import annotations

import asyncio

from core_lab import Say, ended, lab, memory, only, running, turns

from sojourn.core.session import Reason, Session


class Ledger(Session, eq=False):
    """A session that is inside a transaction from ``begin`` to ``commit``."""

    is_open: bool = False
    is_asked_to_end: bool = False

    @property
    def is_idle(self) -> bool:
        return not self.is_open

    def drain(self) -> None:
        self.is_asked_to_end = True


def book(session, ask):
    session.is_open = ask.text == "begin"
    session.reply(Say(ask.text))
    if session.is_asked_to_end and session.is_idle:
        session.close(Reason.DRAINED)


def test_a_drain_asks_a_session_that_is_busy_to_end_and_leaves_the_moment_to_it(run):
    """Architecture, drain: busy ones finish; what is busy without a task only the protocol knows."""

    async def main():
        async with running(lab(book, session_class=Ledger)) as server:
            wire = memory(server)
            assert await wire.ask("begin") == "begin"
            draining = asyncio.ensure_future(server.manager.drain(30))
            await turns()
            server.sweep()
            assert only(server).is_asked_to_end
            assert not draining.done()
            assert await wire.ask("commit") == "commit"
            await draining
            assert list(ended(server).values()) == [Reason.DRAINED]
            wire.close()

    run(main())


def test_a_session_that_says_it_is_idle_is_ended_at_once(run):
    """Architecture, drain: close idle."""

    async def main():
        async with running(lab(book, session_class=Ledger)) as server:
            wire = memory(server)
            assert await wire.ask("hello") == "hello"
            session = only(server)
            await server.manager.drain(30)
            assert not session.is_asked_to_end
            assert session.ended == Reason.DRAINED
            wire.close()

    run(main())
