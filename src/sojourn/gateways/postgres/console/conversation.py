"""One operator's connection to the console: the simple and the extended query protocol.

Knows commands only as something that can be run and has columns; knows nothing of what they mean. PgBouncer's own
console speaks the simple protocol only; drivers that speak nothing but the extended one can use this console too.

Source: PostgreSQL documentation, "Message Flow": simple query, extended query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from sojourn.errors import ConnectionLost, SojournError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.commands import Command, commands, refuse
from sojourn.gateways.postgres.console.results import (
    PORTAL_SUSPENDED,
    Result,
    data_row,
    failure,
    row_description,
    spread,
)
from sojourn.gateways.postgres.console.rows import Column
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend, Refusal, TransactionStatus

MAX_STATEMENTS: Final = 1_000
"""Prepared statements, and portals, of one connection."""

T = TypeVar("T")
Message = tuple[int, bytes]


class Talk(Protocol):
    """What is needed of a connection: send, and take the next message."""

    def send(self, data: bytes) -> None:
        """Write."""

    async def receive(self) -> Message:
        """Return type and body of the next message."""


class Runner(Protocol):
    """What is needed of the console."""

    async def execute(
        self, sql: bytes, is_admin: bool, after: Callable[[Command], None] | None = None
    ) -> bytes:
        """Answer a simple query."""

    async def run(self, command: Command, *, is_admin: bool) -> Result:
        """Carry out one command."""

    def columns(self, command: Command) -> tuple[Column, ...] | None:
        """Return the columns of a command's answer."""


class _Portal:
    """One command that was bound: run at its first Execute, then given out as far as each Execute asks."""

    __slots__ = ("command", "formats", "place", "result")

    def __init__(self, command: Command | None, formats: tuple[int, ...]) -> None:
        self.command = command
        self.formats = formats
        self.result: Result | None = None
        self.place = 0


class Conversation:
    """One connection to the console.

    Life: made when an operator has logged in and was sent :data:`~.shows.PARAMETERS` and the first ReadyForQuery;
    ended by Terminate, by the loss of the connection or by what ``receive`` raises. Always true: at most one message is
    read ahead, while a command waits, so that the loss of an operator ends the wait.
    """

    def __init__(self, console: Runner, talk: Talk, *, is_admin: bool) -> None:
        self._console = console
        self._talk = talk
        self._is_admin = is_admin
        self._tasks: asyncio.TaskGroup | None = None
        self._reading: asyncio.Task[Message | Exception] | None = None
        self._work: asyncio.Task[Any] | None = None
        self._status = TransactionStatus.IDLE
        self._is_skipping = False
        self._statements: dict[bytes, Command | None] = {}
        self._portals: dict[bytes, _Portal] = {}
        self._extended: dict[int, Callable[[bytes], Coroutine[Any, Any, None]]] = {
            Frontend.PARSE: self._parse,
            Frontend.BIND: self._bind,
            Frontend.DESCRIBE: self._describe,
            Frontend.EXECUTE: self._execute,
            Frontend.CLOSE: self._close,
        }

    def cancel(self) -> None:
        """End what the operator waits for with an error; for a CancelRequest."""
        if self._work is not None:
            self._work.cancel()

    async def serve(self) -> None:
        """Answer until Terminate or the loss of the connection, which is no error here.

        Then: close the connection.
        Raises: Refusal after a message that ends the connection, already told; what ``receive`` raises.
        """
        ended: Exception | None = None
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await self._converse()
            except ConnectionLost:
                pass
            except (SojournError, TimeoutError) as error:
                ended = error  # raised outside: a TaskGroup would wrap it
            finally:
                if self._reading is not None:
                    self._reading.cancel()
        if ended is not None:
            raise ended

    async def _converse(self) -> None:
        while True:
            kind, body = await self._next()
            if kind == Frontend.TERMINATE:
                return
            if kind == Frontend.SYNC:
                self._end_cycle()
            elif self._is_skipping or kind in {Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL}:
                continue  # what a failed COPY left behind is ignored by PostgreSQL, too
            elif kind == Frontend.QUERY:
                await self._simple(body)
            elif kind in self._extended:
                await self._extend(kind, body)
            elif kind == Frontend.FUNCTION_CALL:
                self._talk.send(
                    wire.error_response(SQLSTATE.FEATURE_NOT_SUPPORTED, "the console has no functions")
                )
                self._end_cycle()
            elif kind != Frontend.FLUSH:
                refusal = Refusal(SQLSTATE.PROTOCOL_VIOLATION, f"invalid frontend message type {kind}")
                self._talk.send(wire.error_response(refusal.sqlstate, refusal.message, severity="FATAL"))
                raise refusal

    # Waiting

    async def _read(self) -> Message | Exception:
        try:
            return await self._talk.receive()
        except (SojournError, TimeoutError) as error:
            return error  # kept for who asks for the message; a TaskGroup would end everything

    def _start_reading(self, tasks: asyncio.TaskGroup) -> asyncio.Task[Message | Exception]:
        if self._reading is None:
            self._reading = tasks.create_task(self._read())
        return self._reading

    async def _next(self) -> Message:
        assert self._tasks is not None  # noqa: S101 - serve() has made it
        reading = self._start_reading(self._tasks)
        found = await reading
        self._reading = None
        if isinstance(found, Exception):
            raise found
        return found

    async def _attend(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what may wait for long, and give up when the operator goes away or cancels.

        Raises: Refusal when canceled, ConnectionLost, and what ``work`` raises.
        """
        assert self._tasks is not None  # noqa: S101 - serve() has made it
        task = self._work = self._tasks.create_task(_caught(work))
        reading = self._start_reading(self._tasks)
        try:
            await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and isinstance(reading.result(), Exception):
                task.cancel()
            await asyncio.wait({task})
        finally:
            self._work = None
            task.cancel()
        if task.cancelled():
            refuse("canceling statement due to user request", SQLSTATE.QUERY_CANCELED, hint="")
        found: T | Exception = task.result()
        if isinstance(found, Exception):
            raise found
        return found

    # The simple protocol

    async def _simple(self, body: bytes) -> None:
        self._portals.clear()
        self._statements.pop(b"", None)
        try:
            sql = wire.query_text(body)
            answer = await self._attend(self._console.execute(sql, self._is_admin, self._note))
        except (SojournError, TimeoutError) as error:
            answer = failure(error)
        self._talk.send(answer + wire.ready_for_query(self._status))

    def _note(self, command: Command) -> None:
        """Follow what a command changes of this connection."""
        match command.verb:
            case "BEGIN" | "START":
                self._status = TransactionStatus.IN_TRANSACTION
            case "COMMIT" | "END" | "ABORT":
                self._status = TransactionStatus.IDLE
            case "ROLLBACK" if "TO" not in command.keywords:
                self._status = TransactionStatus.IDLE
            case "DEALLOCATE" | "DISCARD":
                if "ALL" in command.keywords:
                    self._statements.clear()
                elif command.verb == "DEALLOCATE" and command.rest:
                    self._statements.pop(command.rest[-1].text.encode(), None)

    # The extended protocol

    def _end_cycle(self) -> None:
        self._is_skipping = False
        if self._status == TransactionStatus.IDLE:
            self._portals.clear()
        self._talk.send(wire.ready_for_query(self._status))

    async def _extend(self, kind: int, body: bytes) -> None:
        try:
            await self._extended[kind](body)
        except (SojournError, TimeoutError) as error:
            self._is_skipping = True
            self._talk.send(failure(error))

    async def _parse(self, body: bytes) -> None:
        name, sql, oids = wire.parse_fields(body)
        found = commands(sql)
        if len(found) > 1:
            refuse("cannot insert multiple commands into a prepared statement")
        if oids:
            refuse("commands of the console have no parameters", SQLSTATE.FEATURE_NOT_SUPPORTED)
        if name and name in self._statements:
            refuse("a prepared statement of this name exists already", SQLSTATE.DUPLICATE_PSTATEMENT, hint="")
        if len(self._statements) >= MAX_STATEMENTS:
            refuse(f"more than {MAX_STATEMENTS} prepared statements", SQLSTATE.PROGRAM_LIMIT, hint="")
        command = found[0] if found else None
        if command is not None:
            self._console.columns(command)  # PostgreSQL refuses a statement when it is parsed, and so do we
        self._statements[name] = command
        self._talk.send(wire.parse_complete())

    async def _bind(self, body: bytes) -> None:
        fields = wire.bind_fields(body)
        command = self._statement(fields.statement)
        if fields.values:
            refuse("commands of the console have no parameters", SQLSTATE.PROTOCOL_VIOLATION)
        if fields.portal and fields.portal in self._portals:
            refuse("a portal of this name exists already", SQLSTATE.DUPLICATE_CURSOR, hint="")
        if len(self._portals) >= MAX_STATEMENTS:
            refuse(f"more than {MAX_STATEMENTS} portals", SQLSTATE.PROGRAM_LIMIT, hint="")
        if any(form not in {0, 1} for form in fields.result_formats):
            refuse("a format that is neither text nor binary", SQLSTATE.PROTOCOL_VIOLATION, hint="")
        columns = None if command is None else self._console.columns(command)
        spread(fields.result_formats, len(columns or ()))
        self._portals[fields.portal] = _Portal(command, fields.result_formats)
        self._talk.send(wire.bind_complete())

    async def _describe(self, body: bytes) -> None:
        kind, name = wire.target(body)
        formats: tuple[int, ...] = ()
        if kind == wire.STATEMENT:
            command = self._statement(name)
            self._talk.send(wire.parameter_description(()))
        else:
            portal = self._portal(name)
            command, formats = portal.command, portal.formats
        columns = None if command is None else self._console.columns(command)
        self._talk.send(wire.no_data() if columns is None else row_description(columns, formats))

    async def _execute(self, body: bytes) -> None:
        name, limit = wire.execute_fields(body)
        portal = self._portal(name)
        command = portal.command
        if command is None:
            self._talk.send(wire.empty_query_response())
            return
        if portal.result is None:
            portal.result = await self._attend(self._console.run(command, is_admin=self._is_admin))
            self._note(command)
            self._talk.send(portal.result.notice)
        result = portal.result
        end = len(result.rows) if limit <= 0 else min(len(result.rows), portal.place + limit)
        rows = [data_row(row, portal.formats) for row in result.rows[portal.place : end]]
        is_suspended = 0 < limit == end - portal.place
        portal.place = end
        rows.append(PORTAL_SUSPENDED if is_suspended else wire.command_complete(result.tag))
        self._talk.send(b"".join(rows))

    async def _close(self, body: bytes) -> None:
        kind, name = wire.target(body)
        if kind == wire.STATEMENT:
            self._statements.pop(name, None)
        else:
            self._portals.pop(name, None)
        self._talk.send(wire.close_complete())

    def _statement(self, name: bytes) -> Command | None:
        if name not in self._statements:
            refuse("there is no prepared statement of this name", SQLSTATE.UNDEFINED_PSTATEMENT, hint="")
        return self._statements[name]

    def _portal(self, name: bytes) -> _Portal:
        portal = self._portals.get(name)
        if portal is None:
            refuse("there is no portal of this name", SQLSTATE.UNDEFINED_CURSOR, hint="")
        return portal


async def _caught(work: Coroutine[Any, Any, T]) -> T | Exception:
    """Return what ``work`` raises: a task that raised would end the whole TaskGroup."""
    try:
        return await work
    except (SojournError, TimeoutError) as error:
        return error
