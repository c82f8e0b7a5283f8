"""Asking a panel: the command that is under way in a session, and those that wait for their turn.

Knows nothing of what commands mean; which packet answers one is said by the rules of :mod:`pending`.

Source: itv2-protocol.md sections 5.2, 5.4 and 14, rules 6 to 8.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.errors import ConnectionLost
from sojourn.gateways.itv2 import pending as rules
from sojourn.gateways.itv2.answers import NOT_SENT, Answer, Done, UnknownOutcome
from sojourn.gateways.itv2.messages import Command, Message, Unknown

if TYPE_CHECKING:
    from sojourn.gateways.itv2.session import PanelSession

ACK: Final = "ack"
"""Key of whoever waits until our last packet is acknowledged."""
ANSWER: Final = "answer"
"""Key of whoever waits for the answer to the command that is under way."""
UNANSWERED_COUNT: Final = 8
"""Commands without an answer whose late answers are known for what they are."""


class Asking:
    """One command at a time.

    Life: made with its session, closed until the replay is over, ended with the session. Always true: no command is
    sent twice, nothing is sent unless the session is open, and whoever asks is told something, whatever becomes of it.
    """

    __slots__ = ("_gate", "_is_open", "_line", "_session", "_unanswered", "_waiting_for")

    def __init__(self, session: PanelSession) -> None:
        self._session = session
        self._is_open = False
        self._gate: asyncio.Event | None = None
        """Where those wait who came before it was open; most panels never have one."""
        self._line = asyncio.Lock()
        self._waiting_for: rules.PendingCommand | None = None
        self._unanswered: list[rules.PendingCommand] = []

    @property
    def is_busy(self) -> bool:
        """Say whether a command is under way."""
        return self._line.locked()

    def open(self) -> None:
        """Let commands through; after the end of the session they are told that they were not sent."""
        self._is_open = True
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    def close(self, why: str) -> None:
        """Keep commands waiting; the one that is under way has an unknown outcome."""
        self._is_open = False
        self._unanswered.clear()
        if self._session.pending is not None:
            self._session.pending.fail_all(ConnectionLost(why))

    async def ask(self, command: Command | Unknown, limit_s: float) -> Answer:
        """Send a command when it is its turn, and return its answer.

        Args:
            command: its command sequence is given here.
            limit_s: from the acknowledgement to the answer.
        Raises: LocalProtocolError if it cannot be written; it was not sent then.
        """
        session = self._session
        timing = session.settings.timing
        try:
            # Whoever is before has at most this long, and so has a replay.
            async with asyncio.timeout(timing.replay_max_s + timing.ack_timeout_s + timing.answer_timeout_s):
                await self._take_turn()
        except TimeoutError:
            return UnknownOutcome(f"{NOT_SENT}other commands, or a replay, took too long")
        try:
            if session.ended or session.connection.closed:
                return UnknownOutcome(f"{NOT_SENT}the panel is not connected")
            return await self._ask(command, limit_s)
        finally:
            self._line.release()

    async def _take_turn(self) -> None:
        """Wait until commands may be sent and no other is under way."""
        while True:
            await self._opened()
            await self._line.acquire()
            if self._is_open:
                return
            self._line.release()

    async def _opened(self) -> None:
        while not self._is_open:
            if self._gate is None:
                self._gate = asyncio.Event()
            await self._gate.wait()

    async def _ask(self, command: Command | Unknown, limit_s: float) -> Answer:
        session = self._session
        ack_s = session.settings.timing.ack_timeout_s
        was_sent = False
        try:
            await self._let_poll_be_acknowledged(ack_s)
            if session.ended or not self._is_open:
                # The panel began a new session in the same moment: codes must not go out before its keys.
                return UnknownOutcome(f"{NOT_SENT}{session.why or 'the panel starts over'}")
            command, self._waiting_for = _numbered(command, session.next_command_sequence())
            acknowledged = session.expect(ACK, within_s=ack_s)
            answered = session.expect(ANSWER, within_s=ack_s + limit_s)
            session.say(command)
            was_sent = True
            await acknowledged
            if not answered.done():
                # The time for the answer begins with the acknowledgement.
                self._forget(ANSWER)
                answered = session.expect(ANSWER, within_s=limit_s)
            return await answered  # type: ignore[no-any-return]  # an answer, by the rules
        except TimeoutError:
            what = "acknowledge" if session.is_unacknowledged else "answer"
            return UnknownOutcome(f"the panel did not {what} the command in time")
        except ConnectionLost as error:
            if not was_sent:
                return UnknownOutcome(f"{NOT_SENT}{session.why or error.cause}")
            return UnknownOutcome(f"the session ended before the answer: {session.why or error.cause}")
        finally:
            if was_sent and self._waiting_for is not None:
                self._unanswered.append(self._waiting_for)
                del self._unanswered[:-UNANSWERED_COUNT]
            self._waiting_for = None
            self._forget(ACK)
            self._forget(ANSWER)

    async def _let_poll_be_acknowledged(self, within_s: float) -> None:
        """Wait for the acknowledgement of what was sent before: there is one packet at a time on the line."""
        session = self._session
        if session.is_unacknowledged:
            try:
                await session.expect(ACK, within_s=within_s)
            except TimeoutError:
                session.is_unacknowledged = False

    def _forget(self, key: str) -> None:
        if self._session.pending is not None:
            self._session.pending.fail(key, ConnectionLost("nobody waits any more"))

    def takes(self, message: Message) -> bool:
        """Complete the command that is under way if ``message`` is about it; say whether the message is used up."""
        session = self._session
        verdict = None if self._waiting_for is None else self._waiting_for.verdict(message)
        if verdict is None or self._is_late(message, verdict):
            if rules.is_answer(message):
                session.complete(
                    f"{rules.word_of(message):04X}", message
                )  # nobody waits for it: that is told
                return True
            return False
        pending = session.pending
        assert pending is not None  # noqa: S101 - a command that waits is in there
        pending.complete(ACK, None)
        if not isinstance(verdict, rules.Accepted):
            self._waiting_for = None
            pending.complete(ANSWER, verdict)
        return True

    def _is_late(self, message: Message, verdict: Answer | rules.Accepted) -> bool:
        """Say whether data answers a question before this one that is about something else.

        Only then does it matter what data is about: no capture says how panels write it back.
        """
        assert self._waiting_for is not None  # noqa: S101 - a verdict is about something
        if not isinstance(verdict, Done) or verdict.message is None:
            return False
        subject = rules.subject_of(message)
        if subject == self._waiting_for.subject:
            return False
        late = (
            one for one in self._unanswered if one.subject == subject and one.verdict(message) is not None
        )
        if (one := next(late, None)) is None:
            return False
        self._unanswered.remove(one)
        return True


def _numbered(command: Command | Unknown, number: int) -> tuple[Command | Unknown, rules.PendingCommand]:
    """Return a command with its sequence, and what answers it; that of an unknown word is its body's first byte."""
    if isinstance(command, Unknown):
        command = msgspec.structs.replace(command, body=bytes((number,)) + command.body[1:])
        return command, rules.PendingCommand.of_raw(command, number)
    command = msgspec.structs.replace(command, command_sequence=number)
    return command, rules.PendingCommand.of(command)
