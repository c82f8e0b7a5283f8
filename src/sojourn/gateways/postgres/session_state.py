"""Follow what one client's session holds by the command tags of its completed statements.

A tag says that something changed; only then the statement's text is read. What no text can tell (a DO block,
``set_config`` with parameters, temporary objects made by the way) asks for a snapshot instead.
Knows nothing of servers, pools or messages; :mod:`.holdings` keeps what is found, and :mod:`.snapshot` reads
the server's own view.
Source: postgres-proxy.md section 6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final

from sojourn.gateways.postgres import session_statements as read
from sojourn.gateways.postgres.holdings import HeldCursor, Holdings
from sojourn.gateways.postgres.lexer import words
from sojourn.gateways.postgres.messages import TransactionStatus
from sojourn.gateways.postgres.vector import EMPTY, Vector, decoded, portable

_PROBED_BYTES: Final = 65_536
# Reported without any act of the session's.
_REPORTED_ANYWAY: Final = frozenset(("in_hot_standby", "is_superuser", "session_authorization"))
# What a DO block's text must hold to change its session in a way that we can name.
_DO_WORDS: Final = (
    b"set",
    b"execute",
    b"listen",
    b"temp",
    b"load",
    b"advisory",
    b"prepare",
    b"call",
    b"reset",
)
_TAGS_THAT_SAY_ALL: Final = frozenset(
    (
        b"COMMIT",
        b"PREPARE TRANSACTION",
        b"DEALLOCATE ALL",
        b"CLOSE CURSOR ALL",
        b"DISCARD ALL",
        b"DISCARD TEMP",
        b"DISCARD SEQUENCES",
    )
)

_REMEMBERED_BYTES: Final = 1024
_REMEMBERED_COUNT: Final = 2048
_PLAIN_BEGINNINGS: Final = (b"select", b"insert", b"update", b"delete", b"begin", b"start")
_TELLING_WORDS: Final = (b"set_config", b"advisory_", b"tval", b"temp")


@lru_cache(maxsize=_REMEMBERED_COUNT)
def _is_plain(statement: bytes) -> bool:
    """Say whether a statement cannot change a session; texts repeat, and probing one costs a microsecond."""
    text = statement.lower()
    if not text.startswith(_PLAIN_BEGINNINGS) or any(word in text for word in _TELLING_WORDS):
        return False
    return b"into" not in text or text.startswith(b"insert")


class SessionState(Holdings):
    """What one client holds: made at its login, fed by the engine, ended with the client.

    The engine reports every completion of the client's own statements, every error and every ReadyForQuery;
    what it sends itself, it does not report.
    """

    __slots__ = ("_has_error", "_has_moved")

    def __init__(self, startup: Vector = EMPTY) -> None:
        super().__init__(startup)
        self._has_error = False
        self._has_moved = False

    def completed(self, tag: bytes, statement: bytes) -> None:
        """Note that a statement of the client's ended well.

        Args:
            tag: of its CommandComplete.
            statement: the text of exactly this statement, empty if it is not known.
        """
        act = self._ACTS.get(tag)
        if act is not None:
            if statement or tag in _TAGS_THAT_SAY_ALL:
                act(self, statement)
            else:
                self._has_moved = True
                self._ask()
        elif not statement:
            self._ask()
        elif self._kept is not None or len(statement) > _REMEMBERED_BYTES or not _is_plain(statement):
            self._probe(tag, statement)

    def failed(self) -> None:
        """Note an ErrorResponse to the client's own request."""
        self._has_error = self._has_moved = True

    def ready(self, status: int) -> None:
        """Note a ReadyForQuery with this transaction status."""
        if status == TransactionStatus.IDLE and self._pending is not None:
            if self._has_error:
                self._roll_back()
            else:
                self._commit()
        self._has_error = False
        self._has_moved = status == TransactionStatus.FAILED

    def reported(self, name: str, value: str) -> None:
        """Note a ParameterStatus that came while the client's own request ran, before its ReadyForQuery.

        One that no statement of this request explains is the work of a function, and asks for a snapshot.
        """
        del value  # what a rollback will leave of it is not known here
        if not self._has_moved and name.lower() not in _REPORTED_ANYWAY:
            self._ask()

    def changed_by(self, statement: bytes) -> Vector | None:
        """Return the settings that a SET, RESET or DISCARD ALL leaves outside a transaction; None for any other."""
        tag = b" ".join(words(statement, 2)).upper()
        if tag != b"DISCARD ALL":
            tag = tag.partition(b" ")[0]
        if tag not in (b"SET", b"RESET", b"DISCARD ALL"):
            return None
        trial = SessionState(self.startup)
        trial.vector = self.vector
        trial.completed(tag, statement)
        trial.ready(TransactionStatus.IDLE)
        return None if trial.needs_snapshot else trial.vector

    def _on_set(self, statement: bytes) -> None:
        self._has_moved = True
        assignments = read.set_statements(statement)
        if not assignments:
            self._ask()
        for name, value, is_local in assignments:
            same = None if value is None else portable(value, self._client_encoding())
            self._assign(name, same, is_local=is_local)

    def _on_reset(self, statement: bytes) -> None:
        self._has_moved = True
        name = read.reset_name(statement)
        if name == read.ALL:
            self._reset_settings()
        elif name:
            self._assign(name, None, is_local=False)
        else:
            self._ask()

    def _on_commit(self, _statement: bytes) -> None:
        self._has_moved = True
        self._commit()

    def _on_rollback(self, statement: bytes) -> None:
        self._has_moved = True
        name = read.savepoint_name(statement)
        if name:
            self._roll_back_to(name)
        else:
            self._roll_back()

    def _on_savepoint(self, statement: bytes) -> None:
        self._save(read.savepoint_name(statement))

    def _on_release(self, statement: bytes) -> None:
        self._release(read.savepoint_name(statement))

    def _on_prepare(self, statement: bytes) -> None:
        self._keep().prepared[read.prepared_name(statement)] = statement
        self.is_clean = False

    def _on_deallocate(self, statement: bytes) -> None:
        if self._kept is not None:
            name = read.deallocated_name(statement) if statement else None
            if name is None:
                self._kept.prepared.clear()
            else:
                self._kept.prepared.pop(name, None)
            self._refresh()

    def _on_listen(self, statement: bytes) -> None:
        name = read.channel(statement)
        objects = self._point().objects
        if name:
            self._change(objects._replace(channels=objects.channels | {name}))

    def _on_unlisten(self, statement: bytes) -> None:
        name = read.channel(statement)
        objects = self._point().objects
        left = frozenset() if name is None else objects.channels - {name}
        if left != objects.channels:
            self._change(objects._replace(channels=left))

    def _on_declare(self, statement: bytes) -> None:
        declaration = read.declared_cursor(statement)
        if declaration is None:
            self._ask()
        elif declaration.is_holdable:
            objects = self._point().objects
            cursors = {**objects.cursors, declaration.name: HeldCursor(statement)}
            self._change(objects._replace(cursors=cursors))

    def _on_close(self, statement: bytes) -> None:
        self._close_cursor(read.closed_cursor(statement) if statement else None)

    def _on_load(self, statement: bytes) -> None:
        self._keep().libraries[read.loaded_library(statement)] = statement
        self.is_clean = False

    def _on_discard_all(self, _statement: bytes) -> None:
        self._has_moved = True
        self.forget_all()

    def _on_discard_temp(self, _statement: bytes) -> None:
        objects = self._point().objects
        if objects.temporary:
            self._change(objects._replace(temporary=frozenset()))

    def _on_discard_sequences(self, _statement: bytes) -> None:
        if self._kept is not None:
            self._kept.has_sequences = False

    def _on_do(self, statement: bytes) -> None:
        text = statement.lower()
        if any(word in text for word in _DO_WORDS):
            names = read.custom_names(statement)
            if names:
                self._keep().custom |= names
            self._ask()

    def _probe(self, tag: bytes, statement: bytes) -> None:
        """Look into a statement whose tag says nothing for the few words that may change a session."""
        text = statement[:_PROBED_BYTES].lower()
        kept = self._kept
        if (
            kept is not None
            and kept.prepared
            and b"execute" in text
            and (name := read.executed_name(statement))
        ):
            statement = kept.prepared.get(name, b"")
            text = statement[:_PROBED_BYTES].lower()
        if b"set_config" in text:
            self._on_set_config(statement)
        if b"advisory_" in text and (b"advisory_lock" in text or b"advisory_unlock" in text):
            self._ask()
        if b"tval" in text and (b"nextval" in text or b"setval" in text):
            self._keep().has_sequences = True
        if tag.startswith(b"SELECT"):
            if b"temp" in text or self._creates_temporary():
                if words(statement, 1) == [b"CREATE"]:
                    self._on_create(tag, statement, text)
                elif b"into" in text:
                    self._ask()
        elif tag.startswith(b"CREATE "):
            self._on_create(tag, statement, text)
        elif tag.startswith((b"FETCH", b"MOVE")):
            self.fetched(read.fetched_cursor(statement))
        elif tag.startswith((b"DROP ", b"ALTER ")) and self._point().objects.temporary:
            self._ask()

    def _on_create(self, tag: bytes, statement: bytes, text: bytes) -> None:
        objects = self._point().objects
        relation = read.temporary_relation(statement)
        if relation is None:
            # A view of something temporary is temporary without saying so.
            is_of_temporary = tag == b"CREATE VIEW" and bool(objects.temporary)
            if b"pg_temp" in text or is_of_temporary or self._creates_temporary():
                self._ask()
        elif not relation.is_dropped_at_commit:
            self._change(objects._replace(temporary=objects.temporary | {relation.name}))

    def _creates_temporary(self) -> bool:
        """Say whether objects without a schema are made in the temporary one."""
        path = self.current_vector.get("search_path")
        return path is not None and ("temp" in path if isinstance(path, str) else b"temp" in path.lower())

    def _on_set_config(self, statement: bytes) -> None:
        calls = read.set_config_calls(statement)
        if read.is_only_set_config(statement):
            self._has_moved = True
            for name, value, is_local in calls:
                text = None if value is None else decoded(value, self._client_encoding())
                if name is None or text is None:
                    self._ask()
                else:
                    self._assign(name, text, is_local=bool(is_local))
            return
        if calls and all(call.is_local for call in calls):
            self._has_moved = True  # it ends with the transaction
            return
        self._ask()
        kept = self._keep()
        kept.custom |= {call.name for call in calls if call.name is not None and "." in call.name}
        # A name that is not in the text may be that of a custom setting, which no snapshot can find.
        kept.is_unseen |= any(call.name is None and not call.is_local for call in calls)

    _ACTS: ClassVar[dict[bytes, Callable[[SessionState, bytes], None]]] = {
        b"SET": _on_set,
        b"RESET": _on_reset,
        b"COMMIT": _on_commit,
        b"PREPARE TRANSACTION": _on_commit,
        b"ROLLBACK": _on_rollback,
        b"SAVEPOINT": _on_savepoint,
        b"RELEASE": _on_release,
        b"PREPARE": _on_prepare,
        b"DEALLOCATE": _on_deallocate,
        b"DEALLOCATE ALL": _on_deallocate,
        b"LISTEN": _on_listen,
        b"UNLISTEN": _on_unlisten,
        b"DECLARE CURSOR": _on_declare,
        b"CLOSE CURSOR": _on_close,
        b"CLOSE CURSOR ALL": _on_close,
        b"LOAD": _on_load,
        b"DISCARD ALL": _on_discard_all,
        b"DISCARD TEMP": _on_discard_temp,
        b"DISCARD SEQUENCES": _on_discard_sequences,
        b"DO": _on_do,
    }
