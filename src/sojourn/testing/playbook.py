"""Playbook: a conversation written down, and played against a handler.

::

    (playbook(ascii_login)
        .receives(AuthenStart(user="ana")).sends(AuthenReply(Status.GETPASS))
        .receives(AuthenContinue("nope")).sends(AuthenReply(Status.FAIL)).ends(Reason.FINISHED))

Messages go in and come out as they are: no framing, no codec, no socket; all between is the core itself, in all
three lanes. Time stands still until ``after``, for deadlines of the core and for ``asyncio.sleep`` alike.

Theory of operation. The playbook owns a loop whose clock is moved by hand. Each step runs it until nothing is left
to run, so that a step is over when the handler waits for the peer, for time or for a thread. A message becomes one
byte for the connection; a framing of the playbook's own turns that byte back into the message.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, cast

from sojourn.core.gateway import Gateway
from sojourn.core.memory import MemoryTransport, accept_in_memory
from sojourn.core.peer import Peer
from sojourn.core.recorder import redactor_for
from sojourn.core.router import Entry, Lane, Router, Routes
from sojourn.core.server import Server
from sojourn.core.session import Session
from sojourn.errors import LocalProtocolError
from sojourn.testing.clock import ManualClock, drive

ResultT = TypeVar("ResultT")
Ts = TypeVarTuple("Ts")

THREADS_TIMEOUT_S = 10.0
"""How long a step waits, in real seconds, for work that the handler gave to the offload pool."""
_SOURCE = "sojourn.testing.playbook"


class Playbook:
    """One conversation with one session.

    Life: made by :func:`playbook`; over at ``ends`` or at the first line that does not fit, or by ``close``. Always
    true: what the handler sends is compared in order, and nothing that it sends goes unnoticed.
    """

    def __init__(self, gateway: Gateway, peer: Peer) -> None:
        self.clock = ManualClock()
        self.gateway = gateway
        self.session: Session | None = None
        """The session that the conversation is about; there from the first message on."""
        self._loop = _HandDrivenLoop(self.clock)
        self._stage = _Stage(gateway)
        self._expected: list[str] = []
        self._got: list[str] = []
        self._is_lost = False
        gateway.session_class = _watched(gateway.session_class, self._opened)
        self.server = self._run(self._open())
        drive(self.server)
        self._transport: MemoryTransport = accept_in_memory(self.server.managers[gateway.name], peer)
        self._transport.begin(_Client(self._lost))
        self._settle()

    async def _open(self) -> Server:
        server = Server(clock=self.clock)
        server.add(self.gateway)
        await server.start()
        return server

    # The lines of a conversation

    def receives(self, *messages: object) -> Self:
        """Let the peer send ``messages``, all in one batch."""
        self._nothing_more("receives")
        for message in messages:
            self._both(f"receives {message!r}")
        self._stage.to_session.extend(messages)
        self._transport.write(bytes(len(messages)))
        self._settle()
        return self

    def sends(self, *messages: object) -> Self:
        """Compare what the session sends next with ``messages``."""
        for message in messages:
            self._expected.append(f"sends {message!r}")
            self._settle(until=lambda: bool(self._stage.to_peer))
            if not self._stage.to_peer:
                self._got.append(self._standing())
                self._fail()
            found = self._stage.to_peer.popleft()
            self._got.append(f"sends {found!r}")
            if found != message:
                self._fail()
        return self

    def sends_nothing(self) -> Self:
        """Make sure that the session has nothing to say now."""
        self._nothing_more("sends nothing")
        return self

    def after(self, seconds: float) -> Self:
        """Let time pass: deadlines of the core and timers of the handler."""
        self._nothing_more(f"{seconds} s pass")
        self._both(f"{seconds} s pass")
        self.clock.advance(seconds)
        self._settle()
        return self

    def disconnects(self) -> Self:
        """Let the peer reset the connection."""
        self._nothing_more("disconnects")
        self._both("disconnects")
        self._transport.abort()
        self._settle()
        return self

    def ends(self, reason: str) -> None:
        """Make sure that the session has ended for ``reason`` and that nothing more was sent; close the playbook."""
        self._expected.append(f"ends {reason!r}")
        self._settle(until=lambda: self.session is not None and bool(self.session.ended))
        while self._stage.to_peer:
            self._got.append(f"sends {self._stage.to_peer.popleft()!r}")
        self._got.append(self._standing())
        if self._expected != self._got:
            self._fail()
        self.close()

    def close(self) -> None:
        """Stop the server and the loop; does nothing the second time."""
        if not self._loop.is_closed():
            self._run(self.server.stop(timeout_s=0))
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Behind the lines

    @property
    def events(self) -> list[str]:
        """Return the names of the events so far, oldest first."""
        self.server.events.flush()
        return [event.kind.name for event in self.server.events.recent]

    def _opened(self, session: Session) -> None:
        if self.session is None or self.session.ended:
            self.session = session

    def _lost(self) -> None:
        self._is_lost = True

    def _both(self, line: str) -> None:
        self._expected.append(line)
        self._got.append(line)

    def _nothing_more(self, instead: str) -> None:
        if self._stage.to_peer:
            self._expected.append(instead)
            self._got += [f"sends {message!r}" for message in self._stage.to_peer]
            self._fail()

    def _standing(self) -> str:
        """Return in one line what the session does at this moment."""
        session = self.session
        if session is None:
            return "the connection was closed" if self._is_lost else "no session was opened"
        if session.ended:
            return f"ends {session.ended!r}"
        if session.waiter is not None:
            return "waits for the peer"
        return "waits for something else" if session.task is not None else "is idle"

    def _fail(self) -> None:
        events = self.events
        lines = difflib.ndiff(self._expected, self._got)
        shown = "\n".join(line for line in lines if not line.startswith("?"))
        self.close()
        told = f"\nevents: {', '.join(events)}" if events else ""
        raise AssertionError(f"the conversation went another way (- expected, + got):\n{shown}{told}")

    def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        asyncio.set_event_loop(None)
        return self._loop.run_until_complete(work)

    def _settle(self, until: Callable[[], bool] = lambda: False) -> None:
        """Run the loop until nothing is left to run, then while threads work for the handler."""
        give_up = time.monotonic() + THREADS_TIMEOUT_S
        while True:
            self._loop.run_until_idle()
            counters = self.server.offload.counters()
            if until() or not (counters.running or counters.queued) or time.monotonic() > give_up:
                self._loop.run_until_idle()
                return
            self._loop.wait_for_threads(0.05)


def playbook(
    what: Callable[..., Any] | Router | Gateway,
    *,
    config: object = None,
    peer: Peer | None = None,
    session_class: type[Session] | None = None,
    lane: int | None = None,
) -> Playbook:
    """Begin a conversation.

    Args:
        what: a handler, which then gets every message; or a router, or a gateway, which then pick the handler. A
            gateway is copied, started and asked everything but for framing, codec and the key of sessions.
        config: what ``session.config`` is; of a gateway the one that it has.
        peer: who is at the other end.
        session_class: of a handler or router; a gateway has its own.
        lane: of a single ``async def``: ``Lane.CONVERSATION`` unless ``Lane.TASK`` is said.
    Then: call it from a plain function; a loop must not be running.
    """
    if isinstance(what, Gateway):
        gateway = copy.copy(what)
    else:
        gateway = Gateway()
        gateway.router = what if isinstance(what, Router) else cast("Router", _OneHandler(what, lane))
        gateway.first_mode = "single"
    if config is not None:
        gateway.config = config
    if session_class is not None:
        gateway.session_class = session_class
    return Playbook(gateway, peer or Peer("192.0.2.1", 40_000, "playbook"))


class _OneHandler:
    """What of a router the connection looks at, for one handler that gets everything."""

    def __init__(self, handler: Callable[..., Any], lane: int | None) -> None:
        is_async = asyncio.iscoroutinefunction(handler)
        if lane is None:
            lane = Lane.CONVERSATION if is_async else Lane.INLINE
        if is_async == (lane == Lane.INLINE):
            raise LocalProtocolError(f"lane {lane} for {handler!r}", "a lane that fits", _SOURCE)
        self.routes: Routes = _OneRoute(lane, handler)


class _OneRoute(Routes):
    def __init__(self, lane: int, handler: Callable[..., Any]) -> None:
        super().__init__()
        self._lane, self._handler = lane, handler

    def __missing__(self, kind: type) -> Entry:
        return (redactor_for(kind), self._lane, self._handler, None)


class _Stage:
    """Framing and codec of a playbook: messages wait here while a byte stands for each of them."""

    def __init__(self, gateway: Gateway) -> None:
        self.to_session: deque[Any] = deque()
        self.to_peer: deque[Any] = deque()
        gateway.framing = self
        gateway.codec = lambda _connection: self  # type: ignore[method-assign, assignment]  # this copy is the playbook's own
        gateway.session_key = None
        gateway.body_of = _no_body

    def split(self, data: bytes) -> tuple[list[Any], int, int]:
        return [self.to_session.popleft() for _ in data], len(data), 1

    def decode(self, _session: Session, packet: object) -> object:
        return packet

    def encode(self, _session: Session, message: object) -> bytes:
        self.to_peer.append(message)
        return b"\0"


def _no_body(_packet: object) -> bytes:
    return b""


def _watched(kind: type[Session], opened: Callable[[Session], None]) -> type[Session]:
    """Return a session class that tells of each of its sessions."""

    def make(*args: object) -> Session:
        session = cast("Callable[..., Session]", kind)(*args)
        opened(session)
        return session

    return cast("type[Session]", make)


class _Client(asyncio.Protocol):
    """The peer's end: what arrives was written down before it was bytes."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost

    def connection_lost(self, _error: Exception | None) -> None:
        """Remember that it is over."""
        self._lost()


class _HandDrivenLoop(asyncio.SelectorEventLoop):
    """A loop that counts what is scheduled and takes its time from a clock that is moved by hand."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._scheduled_count = 0
        super().__init__(selectors.DefaultSelector())

    def time(self) -> float:
        return self._clock()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._scheduled_count += 1
        return super().call_soon(callback, *args, context=context)

    def run_until_idle(self) -> None:
        """Run turns until one has scheduled nothing; timers run once their time has come."""
        while True:
            before = self._scheduled_count
            self.call_soon(self.stop)
            self.run_forever()
            if self._scheduled_count == before + 1:
                # A timer that was due in this turn is run by it; what it woke was scheduled by it.
                return

    def wait_for_threads(self, seconds: float) -> None:
        """Sleep until a thread has something for the loop, at most ``seconds`` of real time."""
        # The selector is where a thread's wake-up arrives; the loop reads it in its next turn.
        selector = cast("selectors.BaseSelector", getattr(self, "_selector"))  # noqa: B009 - private in typeshed
        selector.select(seconds)
