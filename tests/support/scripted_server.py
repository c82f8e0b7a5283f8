"""A stand-in for PostgreSQL without sockets: answers the protocol by its rules, for statements that tests make up.

Strict where the relay must not go wrong: after an error everything up to Sync is skipped, a prepared statement and a
portal exist or do not, a simple query drops the unnamed statement, COPY data is swallowed where no COPY is. Errors are
sent at once, as PostgreSQL does; other answers wait for Sync, Flush or the end of a Query. What it is told is kept in
``log``, for tests that want to know what reached it.
"""

from __future__ import annotations

import re

from sojourn.errors import WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import Frontend

IDLE, IN_TRANSACTION, FAILED = 73, 84, 69
REPORTED = ("application_name",)
_SET = re.compile(rb"(?i)set (local )?(\w+) (?:to|=) '?([^']*)'?")
_SET_CONFIG = re.compile(rb"(?i)set_config\('(\w+)', '([^']*)', false\)")


class SqlError(Exception):
    """A statement failed."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ScriptedServer:
    """One backend.

    Statements: ``begin``, ``commit``, ``rollback``, ``set NAME to 'VALUE'``, ``reset NAME``, ``discard all``,
    ``deallocate NAME``, ``fail``, ``rows COUNT SIZE``, ``late COUNT`` (rows, then an error), ``notice TEXT``,
    ``notify TEXT``, ``copy in``, ``copy out``, ``select rows ...``, ``select fail``, ``SET TRANSACTION ...``,
    ``SHOW transaction_isolation``, nothing, and any other: one row with the statement's text, its parameters and the
    settings that are in force. A text in ``changed`` is taken for another one.
    """

    def __init__(self) -> None:
        self.status = IDLE
        self.settings: dict[bytes, bytes] = {}
        self.prepared: dict[bytes, bytes] = {}
        self.portals: dict[bytes, tuple[bytes, list[bytes | None], int]] = {}
        self.log: list[tuple[int, bytes]] = []
        self.changed: dict[bytes, bytes] = {}
        self.isolation = b"read committed"
        self.is_closed = False
        self._before: dict[bytes, bytes] | None = None
        self._local: dict[bytes, bytes] = {}
        self._rest = b""
        self._out: list[bytes] = []
        self._skips = False
        self._copy: str = ""
        self._copied = 0
        self._todo: list[bytes] = []

    def answer(self, data: bytes) -> bytes:
        """Take bytes of the client and return what is sent back by now."""
        if self.is_closed:
            return b""
        messages, self._rest = wire.split(self._rest + data)
        sent: list[bytes] = []
        for kind, body in messages:
            self.log.append((kind, body))
            if self._message(kind, body):
                sent += self._out
                self._out = []
        return b"".join(sent)

    def _message(self, kind: int, body: bytes) -> bool:  # noqa: PLR0911 - one answer per rule
        """Take one message; True: what is due is sent."""
        if self._copy:
            return self._copying(kind, body)
        if kind in (Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL):
            return False
        if kind == Frontend.TERMINATE:
            self.is_closed = True
            return False
        if kind == Frontend.SYNC:
            self._skips = False
            self._end_request()
            return True
        if self._skips:
            return False
        if kind == Frontend.FLUSH:
            return True
        try:
            if kind == Frontend.QUERY:
                self._query(body)
            else:
                self._extended(kind, body)
        except SqlError as error:
            self._fail(error, is_simple=kind == Frontend.QUERY)
            return True
        except (WireError, IndexError, ValueError):
            self._fail(SqlError("08P01", "invalid message format"), is_simple=kind == Frontend.QUERY)
            return True
        return kind == Frontend.QUERY or bool(self._copy)

    def _fail(self, error: SqlError, *, is_simple: bool) -> None:
        if self.status == IN_TRANSACTION:
            self.status = FAILED
        self._out.append(wire.error_response(error.sqlstate, str(error)))
        self._todo = []
        if is_simple:
            self._end_request()
        else:
            self._skips = True

    def _end_request(self) -> None:
        if self.status == IDLE:
            self.portals.clear()
        self._out.append(wire.ready_for_query(self.status))

    # Simple query

    def _query(self, body: bytes) -> None:
        self.prepared.pop(b"", None)
        if body[-1:] != b"\0" or b"\0" in body[:-1]:
            raise SqlError("08P01", "invalid message format")
        self._todo = [one.strip() for one in body[:-1].split(b";")]
        if len(self._todo) > 1 and not self._todo[-1]:
            self._todo.pop()
        self._go_on()

    def _go_on(self) -> None:
        while self._todo and not self._copy:
            self._run(self._todo.pop(0), [], describes=True)
        if not self._copy:
            self._end_request()

    # Extended query

    def _extended(self, kind: int, body: bytes) -> None:
        if kind == Frontend.PARSE:
            if body.count(0) < 2:
                raise SqlError("08P01", "invalid message format")
            name, text, _ = body.split(b"\0", 2)
            if not name:
                self.prepared.pop(b"", None)
            if text.startswith(b"fail parse"):
                raise SqlError("42601", "syntax error")
            self._allow(text)
            if name and name in self.prepared:
                raise SqlError(
                    "42P05", f'prepared statement "{name.decode(errors="replace")}" already exists'
                )
            self.prepared[name] = text
            self._out.append(wire.parse_complete())
        elif kind == Frontend.BIND:
            self._bind(body)
        elif kind == Frontend.DESCRIBE:
            self._describe(body)
        elif kind == Frontend.EXECUTE:
            portal = body[: body.index(0)]
            if portal not in self.portals:
                raise SqlError("34000", f'portal "{portal.decode(errors="replace")}" does not exist')
            text, values, place = self.portals[portal]
            limit = int.from_bytes(body[-4:], "big")
            self._run(text, values, limit=limit, place=place, portal=portal)
        elif kind == Frontend.CLOSE:
            (self.prepared if body[:1] == b"S" else self.portals).pop(body[1:-1], None)
            self._out.append(wire.close_complete())
        else:
            raise SqlError("08P01", "not one of the extended query")

    def _bind(self, body: bytes) -> None:
        if body.count(0) < 2:
            raise SqlError("08P01", "invalid message format")
        fields = wire.bind_fields(body)
        name = fields.statement
        if name not in self.prepared:
            raise SqlError("26000", f'prepared statement "{name.decode(errors="replace")}" does not exist')
        text = self.prepared[name]
        if text.startswith(b"fail bind"):
            raise SqlError("22P02", "invalid input syntax")
        self._allow(text)
        self.portals[fields.portal] = (text, list(fields.values), 0)
        self._out.append(wire.bind_complete())

    def _describe(self, body: bytes) -> None:
        name = body[1:-1]
        if body[:1] not in (b"S", b"P"):
            raise SqlError("08P01", "invalid DESCRIBE message subtype")
        known = self.prepared if body[:1] == b"S" else self.portals
        if name not in known:
            raise SqlError(
                "26000" if body[:1] == b"S" else "34000", f'"{name.decode(errors="replace")}" does not exist'
            )
        text = self.prepared[name] if body[:1] == b"S" else self.portals[name][0]
        if body[:1] == b"S":
            self._out.append(wire.parameter_description(()))
        word = text.split(b" ")[0]
        quiet = (b"begin", b"commit", b"rollback", b"set", b"copy", b"reset", b"notice", b"notify", b"")
        self._out.append(wire.no_data() if word in quiet else wire.row_description(["text"]))

    # Statements

    def _allow(self, text: bytes) -> None:
        if self.status == FAILED and text.split(b" ")[0] not in (b"commit", b"rollback"):
            raise SqlError("25P02", "current transaction is aborted")

    def _run(  # noqa: C901, PLR0912, PLR0915 - one branch per made-up statement
        self,
        text: bytes,
        values: list[bytes | None],
        *,
        describes: bool = False,
        limit: int = 0,
        place: int = 0,
        portal: bytes | None = None,
    ) -> None:
        self._allow(text)
        text = self.changed.get(text, text)
        if text.startswith((b"select fail", b"select rows ")):
            text = text[7:]
        word, _, rest = text.partition(b" ")
        out = self._out
        match word:
            case b"":
                out.append(wire.empty_query_response())
                return
            case b"begin":
                self.status, self._before = IN_TRANSACTION, dict(self.settings)
                self.isolation = rest.removeprefix(b"isolation level ") or self.isolation
                tag = b"BEGIN"
            case b"commit" | b"rollback":
                tag = b"COMMIT" if word == b"commit" and self.status != FAILED else b"ROLLBACK"
                self._end_transaction(is_kept=tag == b"COMMIT")
            case b"set" | b"SET":
                tag = self._set(text)
            case b"SHOW":
                out += [wire.row_description([rest.decode()]), wire.data_row([self.isolation])]
                tag = b"SHOW"
            case b"reset" | b"RESET":
                self._assign(rest.strip(b'"'), b"")
                tag = b"RESET"
            case b"discard" | b"DISCARD":
                for name in tuple(self.settings):
                    self._assign(name, b"")
                self.prepared.clear()
                tag = b"DISCARD ALL"
            case b"deallocate":
                if self.prepared.pop(rest, None) is None:
                    raise SqlError(
                        "26000", f'prepared statement "{rest.decode(errors="replace")}" does not exist'
                    )
                tag = b"DEALLOCATE"
            case b"fail":
                raise SqlError("42601", "it fails")
            case b"notice":
                out.append(wire.notice_response("01000", rest.decode(errors="replace")))
                tag = b"DO" if rest == b"do" else b"INSERT 0 1"
            case b"notify":
                out.append(wire.notification_response(77, "channel", rest.decode(errors="replace")))
                tag = b"INSERT 0 1"
            case b"copy":
                self._begin_copy(rest, is_simple=portal is None)
                return
            case b"rows" | b"late":
                self._rows(word, rest, describes=describes, limit=limit, place=place, portal=portal)
                return
            case _:
                for name, value in _SET_CONFIG.findall(text):
                    self._assign(name, value)
                if describes:
                    out.append(wire.row_description(["text"]))
                out.append(wire.data_row([text, *values, repr(sorted(self._in_force().items())).encode()]))
                tag = b"SELECT 1"
        out.append(wire.command_complete(tag))

    def _in_force(self) -> dict[bytes, bytes]:
        return self.settings | self._local

    def _set(self, text: bytes) -> bytes:
        match = _SET.match(text)
        if text.upper().startswith(b"SET TRANSACTION ISOLATION LEVEL "):
            self.isolation = text[32:].lower()
            return b"SET"
        if match is None:
            raise SqlError("42601", "what is set?")
        is_local, name, value = match.groups()
        if is_local:
            self._local[name] = value
        else:
            self._assign(name, value)
        return b"SET"

    def _assign(self, name: bytes, value: bytes) -> None:
        """Give a setting a value, none for that of the start, and report it."""
        if value:
            self.settings[name] = value
        else:
            self.settings.pop(name, None)
        if name == b"application_name":
            self._out.append(wire.parameter_status("application_name", value.decode(errors="replace")))

    def _end_transaction(self, *, is_kept: bool) -> None:
        if not is_kept and self._before is not None:
            for name in REPORTED:
                key = name.encode()
                if self._before.get(key) != self.settings.get(key):
                    self._out.append(
                        wire.parameter_status(name, self._before.get(key, b"").decode(errors="replace"))
                    )
            self.settings = self._before
        self.status, self._before, self._local = IDLE, None, {}
        self.isolation = b"read committed"

    def _rows(
        self, word: bytes, rest: bytes, *, describes: bool, limit: int, place: int, portal: bytes | None
    ) -> None:
        numbers = [int(one) for one in rest.split()]
        count, size = numbers[0], (numbers[1:] or [4])[0]
        if describes:
            self._out.append(wire.row_description(["text"]))
        last = min(count, place + limit) if limit else count
        self._out += [wire.data_row([b"%*d" % (size, number)]) for number in range(place, last)]
        if word == b"late":
            raise SqlError("22012", "division by zero")
        if portal is not None and last < count:
            self.portals[portal] = (*self.portals[portal][:2], last)
            self._out.append(wire.message(0x73, b""))
            return
        self._out.append(wire.command_complete(b"SELECT %d" % (last - place)))

    # COPY

    def _begin_copy(self, rest: bytes, *, is_simple: bool) -> None:
        if rest == b"out":
            self._out.append(wire.message(0x48, b"\0\0\1\0\0"))
            self._out += [wire.message(0x64, b"line %d\n" % number) for number in range(3)]
            self._out += [wire.message(0x63, b""), wire.command_complete(b"COPY 3")]
            return
        self._copy = "simple" if is_simple else "extended"
        self._copied = 0
        self._out.append(wire.message(0x47, b"\0\0\1\0\0"))

    def _copying(self, kind: int, body: bytes) -> bool:
        if kind in (Frontend.FLUSH, Frontend.SYNC):
            return False
        is_simple = self._copy == "simple"
        if kind == Frontend.COPY_DATA:
            if body.startswith(b"bad"):
                self._copy = ""
                self._fail(SqlError("22P04", "missing data"), is_simple=is_simple)
                return True
            self._copied += 1
            return False
        self._copy = ""
        if kind == Frontend.COPY_DONE:
            self._out.append(wire.command_complete(b"COPY %d" % self._copied))
            if is_simple:
                self._go_on()
            return is_simple
        told = "COPY from stdin failed" if kind == Frontend.COPY_FAIL else "unexpected message type"
        self._fail(SqlError("57014" if kind == Frontend.COPY_FAIL else "08P01", told), is_simple=is_simple)
        return True
