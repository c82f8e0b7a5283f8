"""Flight recorder: a small ring per session of what happened, kept a while after the session has ended.

On the hot path an entry is one tuple; words are made of it only when somebody looks. Secrets never enter the
ring: a message class names its ``secret_fields``, and a copy without their values is kept, or says itself what is left
(``redacted``). Knows no protocol.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from sojourn.core.settings import RecorderSettings

if TYPE_CHECKING:
    from sojourn.core.session import Session


class Direction:
    """Which way an entry went; plain ints, as they are stored once per message."""

    IN = 0
    OUT = 1
    STATE = 2
    ERROR = 3


Entry = tuple[float, int, int, Any]
"""Time (monotonic, s), direction, size in bytes, and what: a message without secrets, a copy of one whose secrets are
None, what its ``redacted()`` has returned, a text, a :class:`Leg` or a :class:`Through`."""


class Leg(msgspec.Struct, frozen=True):
    """What went between the session and a named party that is not its peer: a backend, a file of rules, another pod.

    Shape: the entry's direction is the session's side of it: OUT asks the party, IN is its answer, ERROR its failure.
    Then: never a secret; it is kept as it is.
    """

    party: str
    name: str
    text: str = ""


class Through(msgspec.Struct, frozen=True):
    """A message of one of several peers that a session has at a time; ``what`` is without secrets, as in an entry."""

    peer: str
    what: Any


Redactor = Callable[[Any], Any]


def _size_only(message: Any) -> Any:
    return f"{len(message)} bytes" if isinstance(message, (bytes, bytearray, str)) else type(message).__name__


def _public_names(kind: type) -> tuple[str, ...]:
    secret: frozenset[str] = getattr(kind, "secret_fields", frozenset())
    return tuple(name for name in getattr(kind, "__struct_fields__", ()) if name not in secret)


def redactor_for(kind: type) -> Redactor | None:
    """Return the function that takes the secrets out of messages of ``kind``; None: there are none.

    A struct without secret fields is kept as it is; one with them as a copy in which they are None; one that holds
    other messages has a method ``redacted`` and is kept as what that returns, which is a struct without secrets.
    Anything else (plain bytes, say) may hold anything and is kept as its size only.
    """
    if not issubclass(kind, msgspec.Struct):
        return _size_only
    redacted: Redactor | None = getattr(kind, "redacted", None)
    if redacted is not None:
        return redacted
    secret = getattr(kind, "secret_fields", None)
    # A copy costs half of what taking the public fields out one by one does.
    return partial(msgspec.structs.replace, **dict.fromkeys(secret)) if secret else None


class Redactors(dict[type, Redactor | None]):
    """Redactors by message class, made at the first message of each."""

    def __missing__(self, kind: type) -> Redactor | None:
        redactor = self[kind] = redactor_for(kind)
        return redactor


class Recorder:
    """Keeps ended sessions with their traces: ordinary ones in one ring, failed ones in another and for longer.

    Life: one per server. On the hot path keeping is one append of the session itself; whoever looks reads it later.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        self.entries_limit = settings.entries_per_session_count
        self._finished: deque[Session] = deque(maxlen=settings.finished_sessions_count)
        self._failed: deque[Session] = deque(maxlen=settings.failed_sessions_count)
        self._keep_s = (settings.finished_keep_s, settings.failed_keep_s)
        self.keep_finished = self._finished.append
        self.keep_failed = self._failed.append
        self._quota_per_s = settings.finished_sessions_per_s
        self._refilled_at = 0.0
        self.quota = self._quota_per_s
        """How many finished sessions may be kept until the next refill; taken from directly, it is the hot path."""
        self.redactors = Redactors()

    def refill(self, now: float) -> None:
        """Allow as many finished sessions as the time since the last call is worth; at most one second's."""
        worth = int((now - self._refilled_at) * self._quota_per_s)
        if worth:
            self._refilled_at = now
            self.quota = min(self._quota_per_s, self.quota + worth)

    def sweep(self, now: float) -> None:
        """Forget what is older than the settings say."""
        for ring, keep_s in zip((self._finished, self._failed), self._keep_s, strict=True):
            while ring and now - ring[0].ended_at > keep_s:
                ring.popleft()

    def finished(self) -> Iterator[Session]:
        """Yield sessions that ended well, newest first."""
        return reversed(tuple(self._finished))

    def failed(self) -> Iterator[Session]:
        """Yield sessions that failed, newest first."""
        return reversed(tuple(self._failed))

    def ended(self) -> Iterator[tuple[Session, bool]]:
        """Yield ended sessions and whether they failed, newest first."""
        failed = ((session, True) for session in self.failed())
        finished = ((session, False) for session in self.finished())
        yield from heapq.merge(failed, finished, key=lambda pair: -pair[0].ended_at)


def summary(entry: Entry) -> tuple[str, str]:
    """Return the name of what an entry holds and its fields in one line, secrets absent."""
    what = entry[3]
    if isinstance(what, str):
        return what, ""
    fields = ((name, getattr(what, name)) for name in _public_names(type(what)))
    shown = (f"{name}={value!r}" for name, value in fields if value not in ("", b"", ()))
    return type(what).__name__, " ".join(shown)
