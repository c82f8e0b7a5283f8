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
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from sojourn.core.correlation import PendingTable
from sojourn.core.events import EventKind
from sojourn.core.recorder import Direction, Entry, Leg
from sojourn.core.router import Lane
from sojourn.core.table import Mode
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

LATE_ANSWER = EventKind("session.late_answer", ("key", "peer"), level="warning")
"""An answer came that nobody waits for (any more); it was not delivered."""

OUTBOX_COUNT = 64
"""How many messages a sender that never waits may put into the outbox before they are written."""


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


_MULTI = Mode.MULTI
_CANCELLING = frozenset(
    {
        Reason.CLOSED,
        Reason.ABORTED,
        Reason.DRAINED,
        Reason.DEADLINE,
        Reason.LIMIT,
        Reason.PROTOCOL_ERROR,
        Reason.BACKEND,
        Reason.INTERNAL,
    }
)
_QUIET = frozenset({Reason.FINISHED, Reason.ABORTED, Reason.CONNECTION_LOST, Reason.CLOSED, Reason.DRAINED})


def is_failure(reason: str) -> bool:
    """Say whether a session that ended for ``reason`` failed."""
    return reason not in _QUIET


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
        connection = self.connection
        if len(connection.outbox) >= OUTBOX_COUNT or not connection.writable:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Meet the high-water mark here: a loop that only sends never gives the loop a turn to flush."""
        connection = self.connection
        connection.flush()
        if not connection.writable:
            await connection.wait_writable(self)

    def finish(self, message: Any = None, *, reason: str = Reason.FINISHED) -> None:
        """Send a last message, if any, and end the session."""
        if self.ended:
            return
        if message is not None:
            self.reply(message)
        if self.task is None and self.pending is None and self.others is None and reason == Reason.FINISHED:
            # The usual end of a short exchange, without the calls of ``_end``: worth 0.2 us of each.
            self.ended = reason
            connection = self.connection
            if self.trace is not None:
                recorder = connection.recorder
                if recorder.quota:
                    recorder.quota -= 1
                    self.ended_at = connection.now
                    recorder.keep_finished(self)
                else:
                    # Its events wait for the log and hold it until then: thousands of traces, and none in the cache.
                    self.trace = None
            table = connection.table
            if table.mode == _MULTI and table.live.get(self.key) is self:
                del table.live[self.key]
            else:
                connection.ended(self)
        else:
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
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._keep(waiter.result())  # it came in the turn in which the wait was given up
                raise
            finally:
                self.waiter = None
                self.wait_until = 0.0
        if kind is not None and not isinstance(message, kind):
            raise RemoteProtocolError(type(message).__name__, kind.__name__, "the order of the conversation")
        return message

    async def ask(self, message: Any, kind: type | None = None, *, within_s: float | None = None) -> Any:
        """Send ``message`` and return the peer's next one; see ``send`` and ``receive``."""
        self.reply(message)
        connection = self.connection
        if len(connection.outbox) >= OUTBOX_COUNT or not connection.writable:
            await self._wait_for_room()
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
        self.gateway.server.events.emit(LATE_ANSWER, self, str(key), str(self.connection.peer))
        return False

    def note(self, text: str, *, direction: int = Direction.STATE) -> None:
        """Write a line into the flight recorder; never a secret."""
        trace = self.trace
        if trace is not None:
            trace.append((self.connection.clock(), direction, 0, text))
            if len(trace) > self.connection.trace_limit:
                del trace[: len(trace) // 2]

    def note_sent(self, party: str, name: str, text: str = "") -> None:
        """Write into the flight recorder what ``party``, which is not the peer, was asked or told; never a secret."""
        self._note_leg(Direction.OUT, party, name, text)

    def note_received(self, party: str, name: str, text: str = "", *, is_error: bool = False) -> None:
        """Write into the flight recorder what ``party`` answered, or that it failed; never a secret."""
        self._note_leg(Direction.ERROR if is_error else Direction.IN, party, name, text)

    def _note_leg(self, direction: int, party: str, name: str, text: str) -> None:
        trace = self.trace
        if trace is not None:
            trace.append((self.connection.clock(), direction, 0, Leg(party, name, text)))
            if len(trace) > self.connection.trace_limit:
                del trace[: len(trace) // 2]

    # More than one connection

    def attach(self, connection: Connection, key: Hashable = None) -> None:
        """Let packets with ``key`` on another connection reach this session too.

        Replies go to the connection that the last message came from.
        """
        if self.others is None:
            self.others = [] if self.connection.closed else [self.connection]
        if connection not in self.others:
            self.others.append(connection)
        self.connection.manager.detached.discard(self)
        if self.connection.closed:
            self.connection = connection
        connection.table.live[key] = self

    def move(self, connection: Connection) -> None:
        """Go on under ``connection``, which takes the place of the one before."""
        before = self.connection
        self.connection = connection
        connection.manager.detached.discard(self)
        if self.others is not None:
            if connection not in self.others:
                self.others.append(connection)
        elif before is not connection and not before.closed:
            before.ended(self)

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
        # The class itself: the loop's create_task costs 0.2 us more.
        self.task = asyncio.Task(self._run(work, ends=ends), loop=self.connection.loop, name="session")

    def take(self, message: Any) -> None:
        """Take a message while the session is busy: into the slot of who waits, or into the inbox."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(message)
                return
        self._enqueue(message)

    def _keep(self, message: Any) -> None:
        if self.inbox is None:
            self.inbox = deque()
        self.inbox.appendleft(message)

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
        if len(inbox) >= self.gateway.inbox_limit_count and self.gateway.pauses_when_full:
            self.connection.inbox_is_full()

    async def _run(self, work: Coroutine[Any, Any, Any], *, ends: bool) -> None:
        """Own the handler's coroutine: its errors end the session and nothing else."""
        task = self.task
        try:
            await work
            while self.inbox and not ends and not self.ended:
                message = self.inbox.popleft()
                self.connection.inbox_has_room()
                ends = await self._step(message)
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
            if self.ended:
                self.connection.manager.tasks.discard(task)

    async def _step(self, message: Any) -> bool:
        """Handle a message that waited in the inbox; return whether its handler was a conversation."""
        _, lane, handler, refine = self.gateway.router.routes[type(message)]
        if refine is not None:
            lane, handler = refine(message)
        slow = handler(self, message)
        if slow is not None:
            await slow
        return bool(lane == Lane.CONVERSATION)

    # Draining

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is under way, so that a drain may end the session: no task, or one that waits."""
        return self.task is None or self.waiter is not None

    def drain(self) -> None:
        """Take note that the connection drains while something is under way; for protocols that can end in between.

        Called again with every sweep until the session is idle.
        """

    # Ending

    def fail(self, error: BaseException) -> None:
        """End the session because of ``error``, with the protocol's own farewell where it has one."""
        reason = reason_of(error)
        if self.ended:
            if reason == Reason.INTERNAL:  # a bug behind finish() is still a bug
                self.gateway.session_failed(self, error, reason)
            return
        self._stamp()
        self.note(in_words(error), direction=Direction.ERROR)
        if reason != Reason.CONNECTION_LOST:
            self.gateway.session_failed(self, error, reason)
            if not self._say_farewell(error):
                reason = Reason.CONNECTION_LOST
        self._end(reason)

    def close(self, reason: str = Reason.CLOSED) -> None:
        """End the session from outside; its task is cancelled.

        A peer that did not ask for it gets the protocol's own farewell; one that gave up gets nothing.
        """
        if not self.ended:
            self._stamp()
            if reason != Reason.ABORTED:
                self._say_farewell(SojournError(reason))
            self._end(reason)

    def _say_farewell(self, error: SojournError | BaseException) -> bool:
        """Send what the protocol says at the end; False if the connection is gone."""
        try:
            farewell = self.gateway.farewell(self, error)
            if farewell is not None:
                self.reply(farewell)
        except ConnectionLost:
            return False
        except Exception as second:  # noqa: BLE001 - a farewell that fails must not keep the session alive
            self.gateway.session_failed(self, second, Reason.INTERNAL)
        return True

    def _stamp(self) -> None:
        """Let the end have its own time, where it comes in no batch."""
        connection = self.connection
        if not connection.in_batch:
            connection.now = connection.clock()

    def lose(self, connection: Connection, error: ConnectionLost, *, is_told: bool = False) -> None:
        """Take note that ``connection`` is gone; called by it.

        Args:
            connection: the one that is gone.
            error: what is raised where the session waits.
            is_told: the session gets the error already, where it waits to send.
        """
        if self.others is not None and connection in self.others:
            self.others.remove(connection)
            if self.others:
                self.connection = self.others[-1]
                return
        elif connection is not self.connection:
            return  # the session has moved on
        self._stamp()
        self.note(in_words(error))
        is_told |= self.pending is not None and self.pending.fail_all(error) > 0
        if self.outlives_connection:
            connection.manager.detached.add(self)
            return
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
            is_told = True
        # Whoever is told where it waits decides itself; a cancellation would take that away.
        self._end(Reason.CONNECTION_LOST, cancel=None if is_told else self.task)

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
        if self.outlives_connection:
            connection.manager.detached.discard(self)
        if self.task is not None:
            self._leave_task(self.task, cancels=cancel is not None or reason in _CANCELLING)
        if self.pending is not None:
            self.pending.fail_all(ConnectionLost(reason))
        self.inbox = None
        has_failed = reason not in _QUIET
        if has_failed:
            connection.manager.sessions_failed += 1
        if self.trace is not None:
            recorder = connection.recorder
            self.ended_at = connection.now
            if has_failed:
                recorder.keep_failed(self)
            elif recorder.quota:
                recorder.quota -= 1
                recorder.keep_finished(self)
            else:
                self.trace = None  # as in finish
        if self.others is None:
            connection.ended(self)
        else:
            for one in tuple(self.others):
                one.ended(self)

    def _leave_task(self, task: asyncio.Task[None], *, cancels: bool) -> None:
        """Hand a task that goes on to the manager, which awaits it."""
        if task is asyncio.current_task(self.connection.loop):
            self.connection.manager.tasks.add(task)  # until _run takes it out: a callback would cost 0.4 us
            return
        self.connection.manager.adopt(task)
        if cancels:
            task.cancel()
            _close_unstarted(task)


def _close_unstarted(task: asyncio.Task[None]) -> None:
    """Close the work of a task that is cancelled before its first step: nobody else will."""
    coroutine = task.get_coro()
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        inspect.getcoroutinelocals(coroutine)["work"].close()


def in_words(error: BaseException) -> str:
    """Return an error as one line for people; the text of foreign exceptions may hold secrets and is left out."""
    if isinstance(error, (SojournError, TimeoutError)):
        return str(error) or type(error).__name__
    return type(error).__name__


def raised_at(error: BaseException) -> str:
    """Return file and line of the innermost frame, never the text of a foreign exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 2)[-1]}:{trace.tb_lineno}"
