"""What a session holds according to the server itself, and where that disagrees with our tracker.

One query reads it; it may run at any idle moment, since it changes nothing and needs no right. Two things stay
invisible: custom settings whose names nobody knows, and the sequences that ``currval`` remembers.
Knows nothing of how the query travels.
Source: PostgreSQL manual, chapter 54 (system views).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres.lexer import SYMBOL, identifier, split_statements, tokens
from sojourn.gateways.postgres.session_statements import declared_cursor, prepared_name
from sojourn.gateways.postgres.vector import ROLE, SESSION_AUTHORIZATION, Value, Vector, decoded, literal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.session_state import SessionState

SNAPSHOT_SQL: Final = b"""\
SELECT 'setting', lower(name), pg_catalog.current_setting(name),
 CASE WHEN source = 'session' AND setting = reset_val THEN 'default' ELSE source END, vartype
 FROM pg_catalog.pg_settings WHERE source IN ('session', 'client')
UNION ALL SELECT 'encoding', pg_catalog.current_setting('client_encoding'), '', '', ''
UNION ALL SELECT 'role', '', pg_catalog.current_setting('role'), '', ''
UNION ALL SELECT 'user', session_user::text, pg_catalog.pg_get_userbyid(usesysid)::text, '', ''
 FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())
UNION ALL SELECT 'prepared', name, statement, CASE WHEN from_sql THEN 'sql' ELSE '' END, ''
 FROM pg_catalog.pg_prepared_statements
UNION ALL SELECT 'channel', channel, '', '', '' FROM pg_catalog.pg_listening_channels() AS channel
UNION ALL SELECT 'cursor', name, statement, '', '' FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL SELECT 'advisory', count(*)::text, '', '', ''
 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted
UNION ALL SELECT 'temporary', relname::text, '', '', ''
 FROM pg_catalog.pg_class
 WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind NOT IN ('i', 'I', 't')
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS owned WHERE owned.classid = pg_class.tableoid
  AND owned.objid = pg_class.oid AND owned.deptype IN ('a', 'i') AND owned.refobjsubid > 0)
UNION ALL SELECT 'temporary', proname::text, '', '', ''
 FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'temporary', typname::text, '', '', ''
 FROM pg_catalog.pg_type
 WHERE typnamespace = pg_catalog.pg_my_temp_schema() AND typrelid = 0 AND typcategory <> 'A'\
"""
"""Rows of five texts: a kind, then what the kind needs."""

_COLUMNS_COUNT: Final = 5
# Settings that are not a session's choice, or that the rows beside the settings tell.
_LEFT_OUT: Final = frozenset(
    (
        "in_hot_standby",
        "is_superuser",
        "seed",
        "transaction_deferrable",
        "transaction_isolation",
        "transaction_read_only",
        ROLE,
        SESSION_AUTHORIZATION,
    )
)
# Their values have many spellings, of which the server keeps its own.
_RESPELLED: Final = frozenset(("application_name", "client_encoding", "datestyle", "timezone"))

# Lists that the server shows with its own quotes.
_LISTS_OF_NAMES: Final = frozenset(
    ("local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces")
)
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One session at one idle moment, as its server sees it.

    ``settings`` are those that the session changed, ``at_default`` those of them that have the value to which
    RESET would lead (``RESET x; SET LOCAL x`` leaves one so), ``startup`` those of the packet that opened the server
    connection; ``custom`` are the custom settings that were asked for and exist. Names of settings are in
    lower case, other names as the catalogs have them.
    """

    settings: dict[str, str] = field(default_factory=dict)
    at_default: frozenset[str] = frozenset()
    startup: dict[str, str] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    role: str = "none"
    session_user: str = ""
    login_user: str = ""
    prepared: dict[bytes, bytes] = field(default_factory=dict)
    protocol_prepared: frozenset[bytes] = frozenset()
    channels: frozenset[bytes] = frozenset()
    cursors: dict[bytes, bytes] = field(default_factory=dict)
    advisory_locks_count: int = 0
    temporary: frozenset[bytes] = frozenset()


def snapshot_sql(custom_names: Iterable[str] = ()) -> bytes:
    """Return the query, which also asks for these custom settings."""
    asked = b"".join(
        b"\nUNION ALL SELECT 'custom', %b, pg_catalog.current_setting(%b, true), '', ''"
        % (literal(name), literal(name))
        for name in sorted(custom_names)
    )
    return SNAPSHOT_SQL + asked


def parse_snapshot(results: Sequence[Sequence[Sequence[bytes | None]]]) -> Snapshot:
    """Read the rows that the query returned; rows of any other shape are left out."""
    groups: defaultdict[bytes | None, list[list[bytes]]] = defaultdict(list)
    for row in (row for result in results for row in result):
        if len(row) == _COLUMNS_COUNT and not (row[0] == b"custom" and row[2] is None):
            groups[row[0]].append([column or b"" for column in row[1:]])
    client_encoding = groups[b"encoding"][0][0].decode("ascii", "replace") if groups[b"encoding"] else "UTF8"

    def text(value: bytes) -> str:
        found = decoded(value, client_encoding)
        return _text(value) if found is None else found

    settings = [
        (text(name), text(value), source, text(vartype))
        for name, value, source, vartype in groups[b"setting"]
        if text(name) not in _LEFT_OUT
    ]
    users = groups[b"user"] or [[b"", b""]]
    prepared = groups[b"prepared"]
    return Snapshot(
        settings={name: value for name, value, source, _ in settings if source != b"client"},
        at_default=frozenset(name for name, _, source, _ in settings if source == b"default"),
        startup={name: value for name, value, source, _ in settings if source == b"client"},
        custom={text(row[0]): text(row[1]) for row in groups[b"custom"]},
        types={name: vartype for name, _, _, vartype in settings},
        role=text(groups[b"role"][0][1]) if groups[b"role"] else "none",
        session_user=text(users[0][0]),
        login_user=text(users[0][1]),
        prepared={row[0]: _own_statement(row[1], row[0]) for row in prepared if row[2] == b"sql"},
        protocol_prepared=frozenset(row[0] for row in prepared if row[2] != b"sql"),
        channels=frozenset(row[0] for row in groups[b"channel"]),
        cursors={row[0]: _own_statement(row[1], row[0]) for row in groups[b"cursor"]},
        advisory_locks_count=sum(int(row[0]) for row in groups[b"advisory"]),
        temporary=frozenset(row[0] for row in groups[b"temporary"]),
    )


def vector_of(snapshot: Snapshot, known: Vector) -> Vector:
    """Return the settings that the server has, in the words of ``known`` where those say the same."""
    values: dict[str, Value] = {}
    for name, text in {**snapshot.settings, **snapshot.custom}.items():
        value = known.get(name)
        # A custom setting that was reset does not vanish, it becomes empty.
        if value is None and (name in snapshot.at_default or (name in snapshot.custom and not text)):
            continue
        is_same = value is not None and says_the_same(name, value, text, snapshot.types.get(name, "string"))
        values[name] = value if value is not None and is_same else text
    for name, text in snapshot.startup.items():
        value = known.get(name)
        if value is not None and says_the_same(name, value, text, snapshot.types.get(name, "string")):
            values[name] = value
    role = known.get(ROLE)
    if snapshot.role != "none" or (role is not None and name_in(role) == "none"):
        is_same = role is not None and name_in(role) == snapshot.role
        values[ROLE] = role if role is not None and is_same else snapshot.role
    user = known.get(SESSION_AUTHORIZATION)
    if snapshot.session_user != snapshot.login_user or (
        user is not None and name_in(user) == snapshot.session_user
    ):
        is_same = user is not None and name_in(user) == snapshot.session_user
        values[SESSION_AUTHORIZATION] = user if user is not None and is_same else snapshot.session_user
    return Vector.of(values)


def differences(state: SessionState, snapshot: Snapshot) -> list[str]:
    """Return one sentence for each point where the tracker and the server disagree; call it at an idle moment."""
    found: list[str] = []
    seen = vector_of(snapshot, state.vector)
    for name in sorted({name for name, _ in (*state.vector.items, *seen.items)}):
        ours, theirs = state.vector.get(name), seen.get(name)
        if theirs is None:
            found.append(f"setting {name}: tracked, but the server has its default")
        elif ours is None:
            found.append(f"setting {name}: not tracked, but the session changed it on the server")
        elif ours != theirs and not (
            isinstance(theirs, str) and may_say_the_same(name, ours, theirs, snapshot.types.get(name, ""))
        ):
            found.append(f"setting {name}: the server has another value than the one tracked")
    found.extend(_disagreements("prepared statement", state.prepared.keys(), snapshot.prepared.keys()))
    found.extend(_disagreements("channel", state.channels, snapshot.channels))
    found.extend(_disagreements("cursor", state.cursors.keys(), snapshot.cursors.keys()))
    found.extend(_disagreements("temporary object", state.temporary, snapshot.temporary))
    if state.has_advisory_locks != bool(snapshot.advisory_locks_count):
        told = "tracked" if state.has_advisory_locks else "not tracked"
        found.append(f"advisory locks: {told}, but the server holds {snapshot.advisory_locks_count}")
    return found


def says_the_same(name: str, value: Value, text: str, vartype: str) -> bool:
    """Say whether a tracked value is surely the one that the server shows."""
    ours = value if isinstance(value, str) else _plain(value)
    if ours == text:
        return True
    if name in _LISTS_OF_NAMES and isinstance(value, bytes):
        return _listed(value) == _listed(text.encode("utf-8", "surrogateescape"))
    if vartype in ("bool", "enum"):
        truth = _truth(ours)
        return ours.lower() == text.lower() or (truth is not None and truth == _truth(text))
    return False


def may_say_the_same(name: str, value: Value, text: str, vartype: str) -> bool:
    """Say whether a tracked value can be the one that the server shows, in a spelling of the server's own."""
    return name in _RESPELLED or vartype in ("integer", "real") or says_the_same(name, value, text, vartype)


def name_in(value: Value) -> str:
    """Return the name that the value of role or session_authorization stands for."""
    if isinstance(value, str):
        return value
    first = next(tokens(value), None)
    return "" if first is None else _text(identifier(first))


def _truth(text: str) -> bool | None:
    """Read a boolean as the server does: any beginning of its words that is not ambiguous."""
    word = text.lower()
    found = {truth for known, truth in _BOOLEANS.items() if word and known.startswith(word)}
    return found.pop() if len(found) == 1 else None


def _plain(value: bytes) -> str:
    """Return the text that SQL text assigns: constants and names, joined as the server joins a list."""
    parts: list[bytes] = []
    for token in tokens(value):
        if token.kind == SYMBOL and token.text == b",":
            parts.append(b", ")
        else:
            parts.append(identifier(token) or token.text)
    return _text(b"".join(parts))


def _listed(value: bytes) -> list[bytes]:
    return [identifier(token) for token in tokens(value) if token.kind != SYMBOL]


def _own_statement(text: bytes, name: bytes) -> bytes:
    """Return the statement that made ``name`` out of the whole query string that the catalogs keep."""
    for statement in split_statements(text):
        declaration = declared_cursor(statement)
        if prepared_name(statement) == name or (declaration is not None and declaration.name == name):
            return statement
    return text


def _disagreements(what: str, ours: Iterable[bytes], theirs: Iterable[bytes]) -> list[str]:
    tracked, there = set(ours), set(theirs)
    missing = [f"{what} {_text(name)}: tracked, but the server has none" for name in sorted(tracked - there)]
    return missing + [
        f"{what} {_text(name)}: on the server, but not tracked" for name in sorted(there - tracked)
    ]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
