"""What one client's session holds on a server beyond its connection, and how transactions change that.

Settings, LISTEN, cursors and temporary objects follow the transaction: a :class:`_Point` is what would hold if
it committed now, and a savepoint is a kept point. Prepared statements, advisory locks and LOAD do not follow
it. An idle client without any of this has no map of its own.
Knows nothing of tags and SQL text, which :mod:`.session_state` reads, nor of servers and messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from sojourn.gateways.postgres.lexer import quoted
from sojourn.gateways.postgres.snapshot import Snapshot, vector_of
from sojourn.gateways.postgres.vector import EMPTY, ROLE, SESSION_AUTHORIZATION, Value, Vector

_NAMES_SHOWN_COUNT: Final = 3
# The transaction takes these with it, and the seed is an act rather than a value.
_UNTRACKED: Final = frozenset(
    (
        "transaction_isolation",
        "transaction_read_only",
        "transaction_deferrable",
        "transaction_snapshot",
        "seed",
    )
)
_UNSEEN: Final = "settings under names that cannot be seen"


class HeldCursor:
    """One cursor WITH HOLD: the statement that declared it, and whether it still stands at its beginning."""

    __slots__ = ("is_read", "statement")

    def __init__(self, statement: bytes, *, is_read: bool = False) -> None:
        self.statement = statement
        self.is_read = is_read


class HeldObjects(NamedTuple):
    """What follows the transaction besides settings; never changed in place."""

    channels: frozenset[bytes]
    temporary: frozenset[bytes]
    cursors: Mapping[bytes, HeldCursor]


class _Point(NamedTuple):
    """A transaction's effect so far: what its commit would leave, and what is in force inside it (SET LOCAL)."""

    vector: Vector
    current: Vector
    objects: HeldObjects


class _Kept:
    """What does not follow the transaction. Exists only for the clients that have any of it."""

    __slots__ = ("custom", "has_locks", "has_sequences", "is_unseen", "libraries", "prepared")

    def __init__(self) -> None:
        self.prepared: dict[bytes, bytes] = {}
        self.libraries: dict[bytes, bytes] = {}
        self.custom: set[str] = set()
        self.has_locks = False
        self.has_sequences = False
        self.is_unseen = False

    @property
    def is_free(self) -> bool:
        """Nothing here keeps the client at its server."""
        return not (self.prepared or self.libraries or self.has_locks or self.is_unseen)


NOTHING: Final = HeldObjects(frozenset(), frozenset(), {})


class Holdings:
    """What one client holds, between transactions and inside one.

    ``vector`` are the settings between transactions; ``is_clean`` says that nothing else is held, and is right
    at every ReadyForQuery outside a transaction.
    """

    __slots__ = (
        "_kept",
        "_objects",
        "_pending",
        "_reset",
        "_savepoints",
        "is_clean",
        "needs_snapshot",
        "startup",
        "vector",
    )

    def __init__(self, startup: Vector = EMPTY) -> None:
        self.startup = startup
        self.vector = startup
        self.is_clean = True
        self.needs_snapshot = False
        self._objects = NOTHING
        self._pending: _Point | None = None
        self._savepoints: list[tuple[bytes, _Point]] | None = None
        self._kept: _Kept | None = None
        self._reset: frozenset[str] | None = None

    @property
    def current_vector(self) -> Vector:
        """The settings that the server has at this moment, also inside a transaction."""
        return self.vector if self._pending is None else self._pending.current

    @property
    def prepared(self) -> Mapping[bytes, bytes]:
        """The statements of SQL's PREPARE by name, each as its whole text."""
        return {} if self._kept is None else self._kept.prepared

    @property
    def channels(self) -> frozenset[bytes]:
        """The channels that the session listens to."""
        return self._objects.channels

    @property
    def temporary(self) -> frozenset[bytes]:
        """The names of temporary objects, as far as they are known."""
        return self._objects.temporary

    @property
    def cursors(self) -> Mapping[bytes, HeldCursor]:
        """The cursors WITH HOLD by name."""
        return self._objects.cursors

    @property
    def has_advisory_locks(self) -> bool:
        """The session holds advisory locks beyond its transaction."""
        return self._kept is not None and self._kept.has_locks

    @property
    def custom_names(self) -> frozenset[str]:
        """The custom settings to ask for in a snapshot, which the server does not list by itself."""
        known = {name for name, _ in (*self.vector.items, *self.startup.items) if "." in name}
        return frozenset(known if self._kept is None else known | self._kept.custom)

    @property
    def pins(self) -> tuple[str, ...]:
        """Why the server may not be given back, in words for an operator."""
        found: list[str] = []
        channels, temporary, cursors = self._objects
        if channels:
            found.append(f"LISTEN {_shown(channels)}")
        if temporary:
            found.append(f"temporary objects {_shown(temporary)}")
        if cursors:
            found.append(f"cursor WITH HOLD {_shown(cursors)}")
        kept = self._kept
        if kept is not None:
            if kept.has_locks:
                found.append("advisory lock")
            if kept.libraries:
                found.append(f"LOAD {_shown(kept.libraries)}")
            if kept.prepared:
                found.append(f"PREPARE {_shown(kept.prepared)}")
            if kept.is_unseen:
                found.append(_UNSEEN)
        if self.needs_snapshot:
            found.append("waits for a snapshot")
        return tuple(found)

    @property
    def server_vector(self) -> Vector:
        """The settings that the server really has, between transactions: as a rule ``vector`` itself.

        A RESET leads to the value that the server started with, not to the one that this client asked for at
        its login. Where this differs from ``vector``, send the difference before anything else, then call
        :meth:`corrected`.
        """
        found = self.vector
        for name in self._reset or ():
            found = found.without(name)
        return found

    def corrected(self) -> None:
        """Note that the server has all of ``vector`` again."""
        self._reset = None

    def fetched(self, name: bytes) -> None:
        """Note that a cursor was read from or moved: its position cannot be rebuilt."""
        cursors = self._objects.cursors if self._pending is None else self._pending.objects.cursors
        cursor = cursors.get(name)
        if cursor is not None:
            cursor.is_read = True

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Adopt the server's view; only at an idle moment, with nothing sent since the snapshot was asked for.

        Then: the server has :attr:`server_vector`.
        """
        vector = vector_of(snapshot, self.vector)
        # What was asked for at login and is not on the server has been reset: it is the client's all the same.
        missing = frozenset(name for name, _ in self.startup.items if name not in vector)
        for name, value in self.startup.items:
            if name in missing:
                vector = vector.with_value(name, value)
        self._reset = missing or None
        self.vector = vector
        cursors = {
            name: self._objects.cursors.get(name) or HeldCursor(statement, is_read=True)
            for name, statement in snapshot.cursors.items()
        }
        self._objects = HeldObjects(snapshot.channels, snapshot.temporary, cursors or NOTHING.cursors)
        if snapshot.prepared or snapshot.advisory_locks_count or self._kept is not None:
            kept = self._keep()
            known = kept.prepared
            kept.prepared = {name: known.get(name, text) for name, text in snapshot.prepared.items()}
            kept.has_locks = snapshot.advisory_locks_count > 0
        self.needs_snapshot = False
        self._refresh()

    def restoration(self) -> list[bytes]:
        """Return the queries that rebuild, on a server that has ``vector`` already, what can be rebuilt."""
        kept = self._kept
        found: list[bytes] = []
        if kept is not None:
            found.extend(kept.libraries.values())
            found.extend(kept.prepared.values())
        found.extend(b"LISTEN " + quoted(channel) for channel in sorted(self._objects.channels))
        found.extend(cursor.statement for cursor in self._objects.cursors.values() if not cursor.is_read)
        return found

    def losses(self) -> list[str]:
        """Return in words what no other server can be given."""
        found = [f"temporary object {_name(name)}" for name in sorted(self._objects.temporary)]
        found.extend(
            f"cursor {_name(name)} (was read from)"
            for name, cursor in self._objects.cursors.items()
            if cursor.is_read
        )
        kept = self._kept
        if kept is not None:
            if kept.has_locks:
                found.append("session advisory locks")
            if kept.has_sequences:
                found.append("currval of sequences")
            if kept.is_unseen:
                found.append(_UNSEEN)
        return found

    def forget_losses(self) -> None:
        """Give up what :meth:`losses` names and any open transaction: the server is gone, another takes over."""
        self._pending = self._savepoints = self._reset = None
        left = {name: cursor for name, cursor in self._objects.cursors.items() if not cursor.is_read}
        self._objects = self._objects._replace(temporary=frozenset(), cursors=left)
        if self._kept is not None:
            self._kept.has_locks = self._kept.has_sequences = self._kept.is_unseen = False
        self.needs_snapshot = False
        self._refresh()

    def forget_all(self) -> None:
        """Hold nothing but the startup settings: what DISCARD ALL leaves, and what a new server has."""
        self._pending = self._savepoints = self._kept = None
        self._objects = NOTHING
        self._set_aside(name for name, _ in self.startup.items)
        self.vector = self.startup
        self.needs_snapshot = False
        self.is_clean = True

    def _point(self) -> _Point:
        return self._pending or _Point(self.vector, self.vector, self._objects)

    def _keep(self) -> _Kept:
        if self._kept is None:
            self._kept = _Kept()
        return self._kept

    def _ask(self) -> None:
        self.needs_snapshot = True
        self.is_clean = False

    def _refresh(self) -> None:
        self.is_clean = (
            self._objects == NOTHING
            and not self.needs_snapshot
            and (self._kept is None or self._kept.is_free)
        )

    def _set_aside(self, names: Iterable[str]) -> None:
        reset = frozenset(name for name in names if name in self.startup)
        if reset:
            self._reset = (self._reset or frozenset()) | reset

    def _change(self, objects: HeldObjects) -> None:
        self._pending = self._point()._replace(objects=objects)

    def _commit(self) -> None:
        if self._pending is not None:
            self.vector, _, self._objects = self._pending
            self._pending = self._savepoints = None
            self._refresh()

    def _roll_back(self) -> None:
        self._pending = self._savepoints = None
        self._refresh()

    def _assign(self, name: str, value: Value | None, *, is_local: bool) -> None:
        """Give a setting a value in the transaction; None is the client's startup value."""
        if name in _UNTRACKED:
            return
        vector, current, objects = self._point()
        if value is None:
            self._set_aside((name,))
            value = self.startup.get(name)
        current = _with(current, name, value)
        if not is_local:
            vector = _with(vector, name, value)
        self._pending = _Point(vector, current, objects)

    def _reset_all(self, vector: Vector) -> Vector:
        """RESET ALL leaves alone who the session is."""
        reset = self.startup
        for name in (ROLE, SESSION_AUTHORIZATION):
            value = vector.get(name)
            reset = reset.without(name) if value is None else reset.with_value(name, value)
        return reset

    def _savepoint(self, name: bytes) -> int:
        savepoints = self._savepoints or []
        for index in range(len(savepoints) - 1, -1, -1):
            if savepoints[index][0] == name:
                return index
        return -1

    def _save(self, name: bytes) -> None:
        """Keep this point for a ROLLBACK TO."""
        point = self._pending = self._point()
        if self._savepoints is None:
            self._savepoints = []
        self._savepoints.append((name, point))

    def _release(self, name: bytes) -> None:
        index = self._savepoint(name)
        if self._savepoints is not None and index >= 0:
            del self._savepoints[index:]

    def _roll_back_to(self, name: bytes) -> None:
        """Go back to a kept point, which stays; those kept after it are gone."""
        index = self._savepoint(name)
        if self._savepoints is not None and index >= 0:
            del self._savepoints[index + 1 :]
            self._pending = self._savepoints[index][1]

    def _reset_settings(self) -> None:
        """RESET ALL."""
        vector, current, objects = self._point()
        self._set_aside(name for name, _ in self.startup.items if name not in (ROLE, SESSION_AUTHORIZATION))
        self._pending = _Point(self._reset_all(vector), self._reset_all(current), objects)

    def _close_cursor(self, name: bytes | None) -> None:
        """Forget a cursor, or all, in every point: no rollback brings a closed cursor back."""

        def left(objects: HeldObjects) -> HeldObjects:
            cursors = {key: one for key, one in objects.cursors.items() if name not in (None, key)}
            return objects._replace(cursors=cursors)

        self._objects = left(self._objects)
        if self._pending is not None:
            self._pending = self._pending._replace(objects=left(self._pending.objects))
        if self._savepoints is not None:
            self._savepoints = [
                (key, point._replace(objects=left(point.objects))) for key, point in self._savepoints
            ]
        self._refresh()

    def _client_encoding(self) -> str:
        value = self.current_vector.get("client_encoding")
        if value is None:
            return "UTF8"
        return value if isinstance(value, str) else value.decode("ascii", "replace")


def _with(vector: Vector, name: str, value: Value | None) -> Vector:
    if name == SESSION_AUTHORIZATION:  # another user begins without a role
        vector = vector.without(ROLE)
    return vector.without(name) if value is None else vector.with_value(name, value)


def _name(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _shown(names: Iterable[bytes]) -> str:
    found = sorted(_name(name) for name in names)
    text = ", ".join(found[:_NAMES_SHOWN_COUNT])
    more = len(found) - _NAMES_SHOWN_COUNT
    return f"{text} and {more} more" if more > 0 else text
