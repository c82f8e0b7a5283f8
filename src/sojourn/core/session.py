"""Session: one conversation, as its author sees it.

A session holds its connection directly. What arrives is *delivered* to it (inline, or into a bounded inbox);
what it sends goes into the connection's corked outbox. Both are data structures, not tasks; only a session that
waits owns a task. Knows nothing of bytes: a codec turns messages into them.

Theory of operation. The connection hands over each message. If the session is idle, the router's handler runs in
its lane (``router.Lane``); if a conversation waits in ``receive``, the message goes into its one-slot future; if it
is busy, into the inbox. A session ends once, in ``_end``, whatever the cause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from sojourn.core.correlation import PendingTable
from sojourn.core.recorder import Direction, Entry
from sojourn.core.router import Lane
from sojourn.errors import (
    BackendUnavailable,
    ConnectionLost,
    LimitExceeded,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    SojournError,
)

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.gateway import Gateway

MessageT = TypeVar("MessageT")


class Reason:
    """Why a session ended."""

    FINISHED = "finished"
    ABORTED = "aborted by the peer"
    CONNECTION_LOST = "connection lost"
    PROTOCOL_ERROR = "protocol error"
    DEADLINE = "deadline passed"
    LIMIT = "limit exceeded"
    BACKEND = "backend unavailable"
    CLOSED = "closed by the operator"
    DRAINED = "drained"
    INTERNAL = "internal error"


_CANCELLING = frozenset(
    {Reason.CLOSED, Reason.ABORTED, Reason.DRAINED, Reason.DEADLINE, Reason.LIMIT, Reason.PROTOCOL_ERROR}
)
_QUIET = frozenset({Reason.FINISHED, Reason.ABORTED, Reason.CONNECTION_LOST, Reason.CLOSED, Reason.DRAINED})


def reason_of(error: BaseException) -> str:
    """Return the reason that stands for ``error`` at the end of a session."""
    match error:
        case ConnectionLost():
            return Reason.CONNECTION_LOST
        case ProtocolError():
            return Reason.PROTOCOL_ERROR if not isinstance(error, LocalProtocolError) else Reason.INTERNAL
        case TimeoutError():
            return Reason.DEADLINE
        case LimitExceeded():
            return Reason.LIMIT
        case BackendUnavailable():
            return Reason.BACKEND
        case _:
            return Reason.INTERNAL


class Session(msgspec.Struct, eq=False):
    """One conversation: its state, its deadline, its way to send and to wait.

    Life: opened by a connection at the first packet with an unknown key; ended by ``finish``, by the return of its
    conversation, by an error or with its connection. A gateway subclasses it to add its own fields with defaults.
    Always true: ``config`` is the snapshot of the moment it was opened; after the end nothing is sent.
    Units: ``deadline``, ``started`` and ``wait_until`` are points on the monotonic clock, in seconds; 0 = none.
    """

    connection: Connection
    task: asyncio.Task[None] | None
    trace: list[Entry] | None
    state: Any
    gateway: Gateway
    config: Any
    key: Hashable
    number: int
    started: float
    deadline: float
    waiter: asyncio.Future[Any] | None = None
    wait_until: float = 0.0
    inbox: deque[Any] | None = None
    pending: PendingTable | None = None
    ended: str = ""
    ended_at: float = 0.0
    about: str = ""
    on_send_error: Callable[[Session, ConnectionLost], None] | None = None
    outlives_connection: bool = False
    others: list[Connection] | None = None

    @property
    def id(self) -> str:
        """Return the name that people use for it: ``tacacs-1f``."""
        return f"{self.gateway.name}-{self.number:x}"

    # Sending

    def reply(self, message: Any) -> None:
        """Put ``message`` into the connection's outbox without waiting.

        Raises: ConnectionLost if the connection is gone, after the hooks on the way have seen it.
        """
        connection = self.connection
        if connection.closed:
            connection.send_failed(self)
        data = connection.encode(self, message)
        connection.outbox.append(data)
        if not connection.in_batch:
            connection.flush_soon()
        trace = self.trace
        if trace is not None:
            if not connection.in_batch:
                connection.now = connection.clock()
            redact = connection.redactors[type(message)]
            trace.append((connection.now, 1, len(data), message if redact is None else redact(message)))
            if len(trace) > connection.trace_limit:
                del trace[: len(trace) // 2]

    async def send(self, message: Any) -> None:
        """Send ``message``; suspends only while the connection is above its high-water mark.

        Raises: ConnectionLost, into this session, which decides what that means.
        """
        self.reply(message)
        if not self.connection.writable:
            await self.connection.wait_writable(self)

    def finish(self, message: Any = None, *, reason: str = Reason.FINISHED) -> None:
        """Send a last message, if any, and end the session."""
        if self.ended:
            return
        if message is not None:
            self.reply(message)
        self._end(reason)

    # Waiting

    @overload
    async def receive(self, kind: type[MessageT], *, within_s: float | None = None) -> MessageT: ...
    @overload
    async def receive(self, kind: None = None, *, within_s: float | None = None) -> Any: ...
    async def receive(self, kind: type | None = None, *, within_s: float | None = None) -> Any:
        """Return the next message of the peer.

        Args:
            kind: the class that is wanted; anything else is the peer's protocol error.
            within_s: how long to wait; by default the session's own deadline is the only one.
        Raises:
            TimeoutError, ConnectionLost, RemoteProtocolError.
        """
        inbox = self.inbox
        if inbox:
            message = inbox.popleft()
            self.connection.inbox_has_room()
        else:
            if self.ended:
                raise ConnectionLost(self.ended)
            connection = self.connection
            waiter = self.waiter = connection.loop.create_future()
            if within_s is not None:
                self.wait_until = connection.clock() + within_s
            try:
                message = await waiter
            finally:
                self.waiter = None
                self.wait_until = 0.0
        if kind is not None and not isinstance(message, kind):
            raise RemoteProtocolError(type(message).__name__, kind.__name__, "the order of the conversation")
        return message

    async def ask(self, message: Any, kind: type | None = None, *, within_s: float | None = None) -> Any:
        """Send ``message`` and return the peer's next one; see ``send`` and ``receive``."""
        await self.send(message)
        return await self.receive(kind, within_s=within_s)

    def expect(self, key: Hashable, *, within_s: float) -> asyncio.Future[Any]:
        """Return a future for what will complete the pending command ``key``.

        Raises:
            LocalProtocolError: ``key`` is pending already.
            The future raises TimeoutError after ``within_s`` seconds, or ConnectionLost.
        """
        pending = self.pending
        if pending is None:
            pending = self.pending = PendingTable()
        connection = self.connection
        return pending.expect(key, connection.clock() + within_s, connection.loop)

    def complete(self, key: Hashable, answer: Any) -> bool:
        """Hand ``answer`` to whoever expects ``key``; False, and one event, if nobody does (any more)."""
        if self.pending is not None and self.pending.complete(key, answer):
            return True
        self.note(f"late or unasked answer for {key!r}")
        return False

    def note(self, text: str, *, direction: int = Direction.STATE) -> None:
        """Write a line into the flight recorder; never a secret."""
        trace = self.trace
        if trace is not None:
            trace.append((self.connection.clock(), direction, 0, text))
            if len(trace) > self.connection.trace_limit:
                del trace[: len(trace) // 2]

    # More than one connection

    def attach(self, connection: Connection, key: Hashable = None) -> None:
        """Let packets with ``key`` on another connection reach this session too.

        Replies go to the connection that the last message came from.
        """
        if self.others is None:
            self.others = [self.connection]
        self.others.append(connection)
        connection.table.live[key] = self

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Return all connections that carry the session at this moment."""
        return tuple(self.others) if self.others is not None else (self.connection,)

    # Delivery: called by the connection

    def start(self, lane: int, handler: Callable[[Any, Any], Any], message: Any) -> None:
        """Begin what a handler with a task does with a message."""
        self.run(handler(self, message), ends=lane == Lane.CONVERSATION)

    def run(self, work: Coroutine[Any, Any, Any], *, ends: bool) -> None:
        """Run ``work`` in the session's task; with ``ends`` the session is over when it returns."""
        self.task = self.connection.loop.create_task(self._run(work, ends=ends))

    def take(self, message: Any) -> None:
        """Take a message while the session is busy: into the slot of who waits, or into the inbox."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(message)
                return
        self._enqueue(message)

    def _enqueue(self, message: Any) -> None:
        inbox = self.inbox
        if inbox is None:
            inbox = self.inbox = deque()
        if len(inbox) >= self.gateway.inbox_limit_count:
            self.fail(
                RemoteProtocolError(
                    f"{type(message).__name__} while {len(inbox)} messages wait",
                    f"at most {self.gateway.inbox_limit_count} waiting",
                    "the session's inbox",
                )
            )
            return
        inbox.append(message)
        if len(inbox) == self.gateway.inbox_limit_count and self.gateway.pauses_when_full:
            self.connection.inbox_is_full()

    async def _run(self, work: Coroutine[Any, Any, Any], *, ends: bool) -> None:
        """Own the handler's coroutine: its errors end the session and nothing else."""
        try:
            await work
            while self.inbox and not ends and not self.ended:
                message = self.inbox.popleft()
                self.connection.inbox_has_room()
                await self._step(message)
        except asyncio.CancelledError:
            if not self.ended:
                self._end(Reason.CLOSED)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its session, nothing else
            self.task = None
            self.fail(error)
        else:
            self.task = None
            if ends and not self.ended:
                self._end(Reason.FINISHED)
        finally:
            self.task = None

    async def _step(self, message: Any) -> None:
        _, _, handler, refine = self.gateway.router.routes[type(message)]
        slow = (handler if refine is None else refine(message)[1])(self, message)
        if slow is not None:
            await slow

    # Ending

    def fail(self, error: BaseException) -> None:
        """End the session because of ``error``, with the protocol's own farewell where it has one."""
        if self.ended:
            return
        reason = reason_of(error)
        self.note(in_words(error), direction=Direction.ERROR)
        if reason != Reason.CONNECTION_LOST:
            self.gateway.session_failed(self, error, reason)
            try:
                farewell = self.gateway.farewell(self, error)
                if farewell is not None:
                    self.reply(farewell)
            except ConnectionLost:
                reason = Reason.CONNECTION_LOST
            except Exception as second:  # noqa: BLE001 - a farewell that fails must not keep the session alive
                self.gateway.session_failed(self, second, Reason.INTERNAL)
        self._end(reason)

    def close(self, reason: str = Reason.CLOSED) -> None:
        """End the session from outside; its task is cancelled."""
        if not self.ended:
            self._end(reason)

    def lose(self, connection: Connection, error: ConnectionLost) -> None:
        """Take note that ``connection`` is gone; called by it."""
        if self.others is not None and connection in self.others:
            self.others.remove(connection)
            if self.others:
                self.connection = self.others[-1]
                return
        if self.outlives_connection:
            self.note(in_words(error))
            return
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
            task = None
        else:
            task = self.task
        if self.pending is not None:
            self.pending.fail_all(error)
        self._end(Reason.CONNECTION_LOST, cancel=task)

    def sweep(self, now: float) -> None:
        """Enforce the deadlines that have passed; called by the connection's sweep."""
        if self.pending is not None:
            self.pending.sweep(now)
        waiter = self.waiter
        if self.wait_until and now >= self.wait_until and waiter is not None and not waiter.done():
            waiter.set_exception(TimeoutError("the peer did not answer in time"))
        elif self.deadline and now >= self.deadline:
            self.fail(TimeoutError(f"the session was open for {now - self.started:.1f} s"))

    def _end(self, reason: str, cancel: asyncio.Task[None] | None = None) -> None:
        """Leave every table, keep the trace, stop the task unless it is the caller: the one way out."""
        self.ended = reason
        connection = self.connection
        if self.task is not None:
            self._leave_task(self.task, cancels=cancel is not None or reason in _CANCELLING)
        if self.pending is not None:
            self.pending.fail_all(ConnectionLost(reason))
        self.inbox = None
        if self.trace is not None:
            self.ended_at = connection.now
            if reason in _QUIET:
                connection.keep_finished(self)
            else:
                connection.keep_failed(self)
        if self.others is None:
            connection.ended(self)
        else:
            for one in tuple(self.others):
                one.ended(self)

    def _leave_task(self, task: asyncio.Task[None], *, cancels: bool) -> None:
        """Hand a task that goes on to the manager, which awaits it; unless it is the one that ends the session."""
        if task is not asyncio.current_task(self.connection.loop):
            self.connection.manager.adopt(task)
            if cancels:
                task.cancel()


def in_words(error: BaseException) -> str:
    """Return an error as one line for people; the text of foreign exceptions may hold secrets and is left out."""
    if isinstance(error, (SojournError, TimeoutError)):
        return str(error) or type(error).__name__
    return type(error).__name__
