"""Asks: what a client has asked of its session and not been answered, over any number of connections.

An ask keeps its id for life, and servers answer an id that they know as they did before. So what is not answered when a
connection ends is simply said again on the next one. Knows no connection and waits for nobody.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sojourn.errors import LimitExceeded, LocalProtocolError, SojournError
from sojourn.gateways.exchange.messages import (
    CancelOrder,
    Code,
    Err,
    PlaceOrder,
    ReplaceOrder,
    SimulatorCommand,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
from sojourn.gateways.exchange.peer.calls import Declined

Wish = PlaceOrder | CancelOrder | ReplaceOrder | SimulatorCommand | SnapshotRequest | Subscribe | Unsubscribe
"""Frames that are answered by ``ok`` or ``err``."""
_AGAIN: Final = frozenset(
    {Code.RATE_LIMITED, Code.UNAVAILABLE, Code.SIMULATOR_UNAVAILABLE, Code.OUTCOME_UNKNOWN}
)
"""Errors that the same frame may not meet again."""


class Ask:
    """One frame that waits for its answer."""

    __slots__ = ("answer", "frame", "is_in_hello", "latest", "sent_count")

    def __init__(self, frame: Wish) -> None:
        self.frame = frame
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent_count = 0
        self.is_in_hello = False
        """The hello of the present connection says it: which symbols are wanted."""
        self.latest: Declined | None = None
        """What the server said when it asked for another try."""


class Asks:
    """All of them, the oldest first.

    Args:
        limit_count: that may wait at once.
    """

    def __init__(self, limit_count: int) -> None:
        self._limit_count = limit_count
        self._waiting: dict[str, Ask] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, frame: Wish) -> Ask:
        """Begin to wait for an answer.

        Raises: LimitExceeded; LocalProtocolError if something with the same id waits already.
        """
        if len(self._waiting) >= self._limit_count:
            raise LimitExceeded("requests without an answer", len(self._waiting) + 1, self._limit_count)
        if frame.id in self._waiting:
            raise LocalProtocolError(f"id {frame.id} twice at once", "an id of its own", "session.v1")
        ask = self._waiting[frame.id] = Ask(frame)
        return ask

    def close(self, ask: Ask) -> None:
        """Wait for it no more."""
        self._waiting.pop(ask.frame.id, None)

    def is_open(self, ask: Ask) -> bool:
        """Say whether somebody still waits for it."""
        return self._waiting.get(ask.frame.id) is ask and not ask.answer.done()

    def open_ones(self) -> tuple[Ask, ...]:
        """Return what waits, in the order in which it was asked."""
        return tuple(ask for ask in self._waiting.values() if not ask.answer.done())

    def note_hello(self) -> None:
        """Take note that a hello goes out, which says all that was asked about symbols."""
        for ask in self.open_ones():
            ask.is_in_hello = isinstance(ask.frame, Subscribe | Unsubscribe)

    def answered(self, ref: str, value: Any) -> Ask | None:
        """Give somebody an answer; return whose it was."""
        ask = self._waiting.get(ref)
        if ask is not None and not ask.answer.done():
            ask.answer.set_result(value)
        return ask

    def refused(self, err: Err) -> tuple[Ask, ...]:
        """Take an error; return what is to be said again after its ``retry_after_s``.

        One that names nobody may mean any of them: then it is all that wait, for which saying it twice does no harm.
        """
        declined = Declined(err.code, err.detail, retry_after_s=err.retry_after_s or 0.0)
        if err.ref is None:
            again = self.open_ones() if err.code == Code.RATE_LIMITED else ()
        else:
            ask = self._waiting.get(err.ref)
            if ask is None or ask.answer.done():
                return ()
            if err.code not in _AGAIN or err.retry_after_s is None:
                ask.answer.set_exception(declined)
                return ()
            again = (ask,)
        for ask in again:
            ask.latest = declined
        return again

    def end(self, error: SojournError) -> None:
        """Tell everybody that no answer will come."""
        for ask in self.open_ones():
            ask.answer.set_exception(error)
