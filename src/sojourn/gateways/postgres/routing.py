"""Which server a request goes to: the order of the evidence, and the choice among replicas.

Pure decisions on texts and figures: knows no sockets, no clock and no SQL beyond the words that begin a transaction.
A replica that gets a write after all refuses it with SQLSTATE 25006 before doing anything, so the worst of a wrong
decision is a second attempt; a primary takes everything, so every doubt ends there.
Source: postgres-proxy.md section 6.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from sojourn.errors import WireError
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal


class Route:
    """Where to: plain ints, compared on the hot path."""

    PRIMARY: Final = 0
    REPLICA: Final = 1


class Rule:
    """What an operator says of a user, or of everybody: ``users.route`` and ``routing.default``."""

    PRIMARY: Final = 0
    """Everything goes to the primary that nobody asks a replica for."""
    REPLICA_READS: Final = 1
    """What is known to only read goes to a replica."""
    REPLICA: Final = 2
    """Everything goes to a replica that nobody asks the primary for."""


class Mode:
    """What a transaction says of itself."""

    READ_ONLY: Final = 1
    READ_WRITE: Final = 2
    SERIALIZABLE: Final = 3
    """A replica refuses it with SQLSTATE 0A000, also where it only reads (PostgreSQL section 26.4.5)."""


RULES: Final[dict[str, int]] = {
    "primary": Rule.PRIMARY,
    "replica_reads": Rule.REPLICA_READS,
    "replica": Rule.REPLICA,
}
_ROLES: Final[dict[str, int | None]] = {"primary": Route.PRIMARY, "replica": Route.REPLICA, "default": None}

ROLE_SETTING: Final = "sojourn.role"
"""The setting that a client changes with ``SET sojourn.role TO replica``; no server ever sees it."""

_HINT: Final = re.compile(
    rb"(?:[ \t\r\n\f\v]++|/\*(?!\s*sojourn\s*:)(?:[^*]++|\*(?!/))*\*/|--(?!\s*sojourn\s*:)[^\r\n]*+)*"
    rb"(?:/\*\s*sojourn\s*:\s*(primary|replica)\s*\*/"
    rb"|--[ \t]*sojourn[ \t]*:[ \t]*(primary|replica)[ \t]*(?:[\r\n]|\Z))",
    re.IGNORECASE | re.DOTALL,
)
_HINT_WITHIN_BYTES: Final = 512
"""A hint stands in front; there may be other comments before it, but not for ever."""

_BEGINNING: Final = re.compile(
    rb"(?:\s++|/\*(?:[^*]++|\*(?!/))*\*/|--[^\r\n]*+)*"
    rb"(?:BEGIN|START\s+TRANSACTION|SET\s+TRANSACTION)\b([^;]*+);?\s*+\Z",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_BEGINNING_BYTES: Final = 512
_COMMENT: Final = re.compile(rb"/\*.*?\*/|--[^\r\n]*+", re.DOTALL)
_MODE_WORDS: Final = re.compile(rb"\bREAD\s+(ONLY|WRITE)\b|\b(SERIALIZABLE)\b", re.IGNORECASE)
_CHANGES_MODE: Final = re.compile(rb"write|read_only|set_config", re.IGNORECASE)
_LSN: Final = re.compile(rb"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_LAST_PUNCTUATION: Final = ord("/")


def hint_of(sql: bytes) -> int | None:
    """Return the route that a comment in front asks for: ``/* sojourn: replica */`` or ``-- sojourn: primary``."""
    # White space, '-' and '/' sort below every letter, and hardly any statement begins with one of them.
    if not sql or sql[0] > _LAST_PUNCTUATION:
        return None
    found = _HINT.match(sql, 0, _HINT_WITHIN_BYTES)
    if found is None:
        return None
    return _ROLES[(found[1] or found[2]).decode().lower()]


def role_setting(value: str) -> int | None:
    """Return the route that ``SET sojourn.role`` asks for; None for ``default``.

    Raises: Refusal with 22023, severity ERROR, for any other word.
    """
    try:
        return _ROLES[value.strip().lower()]
    except KeyError:
        raise Refusal(
            SQLSTATE.INVALID_PARAMETER_VALUE,
            f'invalid value for parameter "{ROLE_SETTING}"',
            hint="Available values: primary, replica, default.",
            severity="ERROR",
        ) from None


def rule_of(user_route: str, default: str) -> int:
    """Return the rule for a user: ``users.route``, or where that is empty ``routing.default``."""
    return RULES[user_route or default]


def transaction_mode(sql: bytes) -> int | None:
    """Return what BEGIN, START TRANSACTION or SET TRANSACTION say of their transaction; None for nothing.

    A text of several statements says nothing: what comes after a COMMIT in it may write.
    """
    found = _BEGINNING.match(sql) if len(sql) <= _LONGEST_BEGINNING_BYTES else None
    if found is None:
        return None
    mode = None
    for access, isolation in _MODE_WORDS.findall(_COMMENT.sub(b" ", found[1])):
        if isolation:
            return Mode.SERIALIZABLE
        mode = Mode.READ_ONLY if access.upper() == b"ONLY" else Mode.READ_WRITE
    return mode


def session_mode(default_read_only: str, default_isolation: str) -> int | None:
    """Return what a session says of all its transactions by the two settings ``default_transaction_...``.

    Args:
        default_read_only: value of ``default_transaction_read_only``, as the server reports it; empty = not known.
        default_isolation: value of ``default_transaction_isolation``; empty = not known.
    """
    if default_isolation == "serializable":
        return Mode.SERIALIZABLE
    return Mode.READ_ONLY if default_read_only == "on" else None


def choose(
    sql: bytes,
    *,
    attached: int | None = None,
    role: int | None = None,
    rule: int = Rule.PRIMARY,
    session: int | None = None,
    is_read_only: Callable[[bytes], bool] | None = None,
) -> int:
    """Return the route of a request; the first evidence that says anything wins.

    Args:
        attached: route of the server that a transaction, or a reason to stay, holds already.
        role: what ``SET sojourn.role`` said.
        rule: the user's, or that of everybody.
        session: what the session says of its transactions, see :func:`session_mode`.
        is_read_only: the classifier, where it is switched on.
    """
    if attached is not None:
        return attached
    route = hint_of(sql)
    if route is None:
        route = role
    if route is not None:
        return route
    if rule != Rule.REPLICA_READS:
        return Route.REPLICA if rule == Rule.REPLICA else Route.PRIMARY
    mode = transaction_mode(sql)
    if mode == Mode.READ_WRITE or Mode.SERIALIZABLE in (mode, session):
        return Route.PRIMARY
    if mode == Mode.READ_ONLY or (session == Mode.READ_ONLY and _CHANGES_MODE.search(sql) is None):
        return Route.REPLICA
    if is_read_only is not None and is_read_only(sql):
        return Route.REPLICA
    return Route.PRIMARY


def parse_lsn(text: bytes) -> int:
    """Return a position in the write-ahead log, such as ``0/16B3748``, as bytes since its beginning.

    Raises: WireError if it is none.
    Source: PostgreSQL section 8.20.
    """
    found = _LSN.fullmatch(text)
    if found is None:
        raise WireError(
            f"{len(text)} bytes that are no log position", "two hexadecimal numbers", "section 8.20"
        )
    return int(found[1], 16) << 32 | int(found[2], 16)


class Readable(Protocol):
    """What is asked of a node to choose among replicas.

    Units: ``lag_bytes`` and ``replay_lsn`` are bytes, 0 for a position that is not known; ``latency_ewma_s`` is the
    moving average of its answers, 0 before the first.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the class says what it is
    @property
    def lag_s(self) -> float: ...  # noqa: D102 - as above
    @property
    def lag_bytes(self) -> int: ...  # noqa: D102 - as above
    @property
    def replay_lsn(self) -> int: ...  # noqa: D102 - as above
    @property
    def timeline(self) -> int: ...  # noqa: D102 - as above
    @property
    def outstanding_count(self) -> int: ...  # noqa: D102 - as above
    @property
    def latency_ewma_s(self) -> float: ...  # noqa: D102 - as above


SomeNode = TypeVar("SomeNode", bound=Readable)


class LsnFloor:
    """How far a replica must have come before one client may read there: behind the client's own last commit.

    Life: made with the client when ``read_your_writes`` is on; advanced after each of its commits. Always true: within
    a timeline it only grows; positions of different timelines are never compared, because the same number means
    different bytes there.
    """

    __slots__ = ("lsn", "timeline")

    def __init__(self) -> None:
        self.lsn = 0
        self.timeline = 0

    def advance(self, lsn: int, timeline: int) -> None:
        """Take note of ``pg_current_wal_insert_lsn()`` after a commit on a primary of this timeline."""
        if timeline > self.timeline:
            self.timeline = timeline
            self.lsn = lsn
        elif timeline == self.timeline and lsn > self.lsn:
            self.lsn = lsn

    def follow(self, timeline: int, switch_lsn: int) -> None:
        """Carry the floor over to a newer timeline, if that left the old one behind the client's last commit.

        Otherwise it stays: no replica of the new timeline can prove that it has the commit, so the primary answers
        until the client writes again.
        """
        if timeline > self.timeline and self.lsn <= switch_lsn:
            self.timeline = timeline

    def is_reached_by(self, node: Readable) -> bool:
        """Tell whether the node has replayed what the client wrote."""
        return self.lsn == 0 or (node.timeline == self.timeline and node.replay_lsn >= self.lsn)


class ReplicaChooser:
    """Chooses one replica for each request that may go to one; lives as long as its settings.

    Always true: never returns a node beyond a lag limit, or of unknown lag where there is a limit, or below the
    client's floor.

    Args:
        balance: ``least_outstanding`` takes the node with the fewest requests under way, among equals the one that
            answers fastest; ``round_robin`` takes them in turn.
        max_lag_s: nodes further behind are not used; 0 = no limit.
        max_lag_bytes: nodes with more log to replay are not used; 0 = no limit.
    """

    __slots__ = ("_balances_by_load", "_is_limited", "_max_lag_bytes", "_max_lag_s", "_turn")

    TURN_EVERY_COUNT: Final = 16
    """Every so many choices the turn decides among equals: a node whose average is bad by one slow answer, and that
    therefore is never asked, could not improve it."""

    def __init__(
        self, balance: str = "least_outstanding", max_lag_s: float = 0.0, max_lag_bytes: int = 0
    ) -> None:
        self._balances_by_load = balance == "least_outstanding"
        self._is_limited = max_lag_s > 0 or max_lag_bytes > 0
        self._max_lag_s = max_lag_s or float("inf")
        self._max_lag_bytes = max_lag_bytes or float("inf")
        self._turn = 0

    def choose(self, nodes: Sequence[SomeNode], floor: LsnFloor | None = None) -> SomeNode | None:
        """Return a replica for one request; None means the primary.

        Args:
            nodes: the replicas that are up.
            floor: of the client, where it is to read its own writes.
        """
        fit = [
            node
            for node in nodes
            if (node.replay_lsn or not self._is_limited)
            and node.lag_s <= self._max_lag_s
            and node.lag_bytes <= self._max_lag_bytes
            and (floor is None or floor.is_reached_by(node))
        ]
        if not fit:
            return None
        self._turn += 1
        if self._balances_by_load:
            fewest = min(node.outstanding_count for node in fit)
            fit = [node for node in fit if node.outstanding_count == fewest]
            if self._turn % self.TURN_EVERY_COUNT:
                return min(fit, key=_latency)
            return fit[self._turn // self.TURN_EVERY_COUNT % len(fit)]
        return fit[self._turn % len(fit)]


def _latency(node: Readable) -> float:
    return node.latency_ewma_s
