"""The log of requests and responses: slow, failed and sampled statements, and figures by kind of statement.

For the console and the dashboard. Takes a finished request as plain values and keeps a masked, shortened text; knows
no sessions, no messages and no files, and never sees the values of Bind. The engine asks :meth:`QueryLog.wants` after
each request, and calls :meth:`QueryLog.finished`, after its flush, only for the few that are wanted.
Source: postgres-proxy.md section 6.9, wire tap: sampled, bounded, dropped under pressure, secrets masked.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from sojourn.core.clock import Clock

KINDS_COUNT: Final = 500
"""Kinds of statements with figures; the one that was not seen for the longest time gives way."""

RECORDS_PER_S_COUNT: Final = 500
"""More are dropped and counted: masking a text of a kilobyte costs about as much as relaying a transaction."""

MASK: Final = b"?"


class LogSettings(Protocol):
    """What is read of ``[postgres.query_log]``."""

    @property
    def sample_rate(self) -> float: ...  # noqa: D102 - the table of settings explains them
    @property
    def slow_ms(self) -> float: ...  # noqa: D102 - as above
    @property
    def entries_count(self) -> int: ...  # noqa: D102 - as above
    @property
    def statement_bytes(self) -> int: ...  # noqa: D102 - as above
    @property
    def mask_literals(self) -> bool: ...  # noqa: D102 - as above


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One remembered request.

    Units: ``finished_at`` is a point on the log's clock; ``wait_s`` is what its client has waited for servers.
    ``sqlstate`` is empty where it did not fail.
    """

    finished_at: float
    session_id: str
    database: str
    user: str
    node: str
    statement: str
    duration_s: float
    wait_s: float
    sqlstate: str


class Kind(msgspec.Struct, kw_only=True, gc=False):
    """Figures of all recorded statements that differ in their literals only.

    Counts what was recorded, not what was run: with a ``sample_rate`` of 1 that is the same.
    """

    database: str
    user: str
    statement: str
    count: int = 0
    errors_count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A copy for people to look at: the newest entry in front, the kind that took longest altogether in front."""

    slow: tuple[Entry, ...]
    failed: tuple[Entry, ...]
    sampled: tuple[Entry, ...]
    kinds: tuple[Kind, ...]
    dropped_count: int


class QueryLog:
    """What is remembered of the requests of one gateway; lives as long as the process, through every reload.

    Always true: bounded in entries, in kinds and in bytes of text; no secret and, with ``mask_literals``, no literal
    is in it. A request is in one ring only: failed before slow before sampled.

    Args:
        settings: of the present configuration.
        clock: whatever the readers of ``finished_at`` go by.
    """

    def __init__(self, settings: LogSettings, clock: Clock) -> None:
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str, str], Kind] = OrderedDict()
        self._slow: deque[Entry] = deque()
        self._failed: deque[Entry] = deque()
        self._sampled: deque[Entry] = deque()
        self._credit = 0.0
        self._second = 0
        self._recorded_count = 0
        self.dropped_count = 0
        self.configure(settings)

    def configure(self, settings: LogSettings) -> None:
        """Go on with other settings; entries beyond a smaller bound leave, the others stay."""
        self._settings = settings
        self._sample_rate = settings.sample_rate
        self._slow_s = settings.slow_ms / 1000 if settings.slow_ms else float("inf")
        self._is_off = settings.entries_count == 0
        for name in ("_slow", "_failed", "_sampled"):
            setattr(self, name, deque(getattr(self, name), maxlen=settings.entries_count))

    def wants(self, duration_s: float, is_failed: bool) -> bool:
        """Tell whether the request is to be recorded; the only part that runs for every request.

        Then: call :meth:`finished` if it is, after the flush.
        """
        if is_failed or duration_s >= self._slow_s:
            return not self._is_off
        if not self._sample_rate:
            return False
        # A sum instead of chance: the share is exact, and it costs one addition.
        self._credit += self._sample_rate
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return not self._is_off

    def finished(
        self,
        *,
        session_id: str,
        database: str,
        user: str,
        statement: bytes,
        duration_s: float,
        node: str = "",
        wait_s: float = 0.0,
        sqlstate: str = "",
    ) -> None:
        """Record one finished request, or drop it if this second had too many."""
        now = self._clock()
        if int(now) != self._second:
            self._second = int(now)
            self._recorded_count = 0
        if self._recorded_count >= RECORDS_PER_S_COUNT:
            self.dropped_count += 1
            return
        self._recorded_count += 1
        part = statement[: self._settings.statement_bytes]
        masked = shown(part)
        self._count(database, user, masked, duration_s, is_failed=bool(sqlstate))
        entry = Entry(
            finished_at=now,
            session_id=session_id,
            database=database,
            user=user,
            node=node,
            statement=masked if self._settings.mask_literals else shown(part, is_masking=False),
            duration_s=duration_s,
            wait_s=wait_s,
            sqlstate=sqlstate,
        )
        ring = self._failed if sqlstate else self._slow if duration_s >= self._slow_s else self._sampled
        ring.append(entry)

    def snapshot(self) -> Snapshot:
        """Return a copy of everything."""
        return Snapshot(
            slow=_newest_first(self._slow),
            failed=_newest_first(self._failed),
            sampled=_newest_first(self._sampled),
            kinds=tuple(
                msgspec.structs.replace(kind)
                for kind in sorted(self._kinds.values(), key=lambda kind: kind.total_s, reverse=True)
            ),
            dropped_count=self.dropped_count,
        )

    def clear(self) -> None:
        """Forget everything."""
        for ring in (self._slow, self._failed, self._sampled):
            ring.clear()
        self._kinds.clear()
        self.dropped_count = 0

    def _count(self, database: str, user: str, masked: str, duration_s: float, *, is_failed: bool) -> None:
        key = (database, user, masked)
        kind = self._kinds.get(key)
        if kind is None:
            while len(self._kinds) >= KINDS_COUNT:
                self._kinds.popitem(last=False)
            kind = self._kinds[key] = Kind(database=database, user=user, statement=masked)
        else:
            self._kinds.move_to_end(key)
        kind.count += 1
        kind.errors_count += is_failed
        kind.total_s += duration_s
        kind.max_s = max(kind.max_s, duration_s)


def _newest_first(ring: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(ring)[::-1]


# What is kept is one match up to the next literal, because each match costs a call: half the time.
# Nothing here may make the scanner try twice: alternatives inside a repeated group begin differently, and what follows
# it takes whatever is left. Only single characters repeat possessively, as in the lexer. Text that was cut inside a
# quote or comment is masked to its end. A plain string with \' ends in different places with and without
# standard_conforming_strings; which holds is not known here, so everything behind such a mark is masked: rather a word
# too many than one too few.
_TOKEN: Final = re.compile(
    rb"""
      (?P<comment> --[^\r\n]*+ | /\*(?:[^*]++|\*(?!/))*(?:\*/)? )
    | (?P<string> [eE]'(?:[^'\\]++|''|\\.)*(?:'|\\?\Z)
        | (?:[bBxXnN]|[uU]&)?'(?:[^'\\]++|''|\\(?!'))*(?:'|\\'.*\Z|\Z) )
    | (?P<dollar> \$(?P<tag>(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<kept> (?: [ \t\r\n\f\v(),=<>+*;:\[\]!%^&|?~@\#{}`]++ | \.(?![0-9]) | -(?!-) | /(?!\*) | "(?:[^"]++|"")*"?
        | \$[0-9]++ | (?![eEbBxXnN]'|[uU]&')[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+ )+ )
    | (?P<number> \.?[0-9](?:[eE][+-][0-9]|[0-9A-Za-z_.])* )
    """,
    re.VERBOSE | re.DOTALL,
)
_SECRET: Final = re.compile(
    rb"passw|passphrase|passfile|pwd|secret|token|credential|identified|private|api_?key|ssl_?key|scram-sha|md5"
    rb"|crypt|hmac|digest|user\s+mapping|subscription|dblink|conninfo|://[^/\s:@]*:",
    re.IGNORECASE,
)
"""Words and forms near which a literal may be a secret: then no literal of that text is shown."""

_ROLE_COMMAND: Final = re.compile(rb"\b(?:create|alter)\s++(?:role|user|group)\b", re.IGNORECASE)
_UNQUOTED_PASSWORD: Final = re.compile(
    rb"\b(password|identified\s++by)\b\s*+=?\s*+(?!null\b)[^\s;?=].*", re.IGNORECASE | re.DOTALL
)
"""A password without quotes is a syntax error, and errors are just what is remembered."""

_LIST: Final = re.compile(rb"([(\[])\s*+\?(?:\s*+,\s*+\?)+\s*+([)\]])")
_ROWS: Final = re.compile(rb"(\(\?(?:, \.\.\.)?\))(?:\s*+,\s*+\1)+")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def shown(statement: bytes, *, is_masking: bool = True) -> str:
    """Return a statement as it may be remembered: on one line, without control characters and without secrets.

    Args:
        statement: its text, which may have been cut anywhere.
        is_masking: put ``?`` for every literal, one for a list of them, and leave out comments, so that statements of
            the same kind look the same. Done anyway where the text looks like one with a secret.
    """
    if is_masking or _SECRET.search(statement):
        statement = _TOKEN.sub(_masked, statement)
        if _ROLE_COMMAND.search(statement):
            statement = _UNQUOTED_PASSWORD.sub(rb"\1 ?", statement)
        statement = _LIST.sub(rb"\1?, ...\2", statement)
        statement = _ROWS.sub(rb"\1, ...", statement)
    return _UNPRINTABLE.sub(" ", statement.decode("utf-8", "replace")).strip()


def _masked(found: re.Match[bytes]) -> bytes:
    match found.lastgroup:
        case "kept":
            return found[0]
        case "comment":
            return b" "
        case _:
            return MASK
