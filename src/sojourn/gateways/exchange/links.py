"""ClientLink: one WebSocket of a client, from its hello to its close code.

Reads frames, answers what it can by itself, queues what its session must do, and sends what its view has. What is slow
waits in a bounded queue, in order, in one task that exists only while there is something in it; heartbeats never wait.
Knows no HTTP library and no socket: it writes into an :class:`Outlet`.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from sojourn.core.rate import TokenBucket
from sojourn.errors import BackendUnavailable, LimitExceeded, WireError
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.ladder import Ladder, Rung
from sojourn.gateways.exchange.messages import (
    Bye,
    CancelOrder,
    ClientFrame,
    Close,
    Code,
    Degraded,
    Err,
    Heartbeat,
    HeartbeatAck,
    HeartbeatTerms,
    Hello,
    LinkLimits,
    Ok,
    PlaceOrder,
    QualityReport,
    ReconnectTerms,
    ReplaceOrder,
    Resume,
    ServerHeartbeat,
    ServerHeartbeatAck,
    SimulatorCommand,
    SimulatorState,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from sojourn.gateways.exchange.quality import Quality
from sojourn.gateways.exchange.view import event_frame, message

if TYPE_CHECKING:
    from sojourn.core.clock import Clock
    from sojourn.gateways.exchange.event_log import LogEvent
    from sojourn.gateways.exchange.link_config import LinkSettings
    from sojourn.gateways.exchange.view import SessionView

Command = PlaceOrder | CancelOrder | ReplaceOrder | SimulatorCommand
"""What a session does for a client, and may have to wait for."""
SYMBOLS_COUNT: Final = 500
BAD_KEEP_S: Final = 60.0
"""After so long without another one, frames that should not have come are forgotten."""
_OTHER_ENCODING: Final = {
    is_binary: WireError(f"a {found} message", f"{wanted} messages, as was negotiated", "session.v1")
    for is_binary, found, wanted in ((False, "binary", "text"), (True, "text", "binary"))
}
_CLOSED_WITH: Final = {Code.WRONG_DEVICE: Close.REPLACED, Code.FORBIDDEN: Close.SESSION_ENDED}
"""How a link ends that its session does not take; otherwise it is to try later."""


class Outlet(Protocol):
    """Where a link's bytes go."""

    def write(self, data: bytes) -> None:
        """Send whole WebSocket messages; never blocks, never raises."""

    def waiting_bytes(self) -> int:
        """Return how much the peer has not taken."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end the connection; a second time does nothing."""


class Room(Protocol):
    """What a link needs of its session on this pod."""

    view: SessionView
    session_id: str
    pod: str

    def joined(self, link: ClientLink) -> Err | None:
        """Take a link that has said hello; or say why not."""

    def left(self, link: ClientLink) -> None:
        """Take note that a link is gone."""

    def was_active(self, link: ClientLink) -> None:
        """Take note that its user did something, which heartbeats are not."""

    async def refresh(self, link: ClientLink) -> None:
        """Make the view as new as the durable log is; for a client that has seen more than it has."""

    async def carry_out(self, link: ClientLink, command: Command) -> Any:
        """Do what a client wants and return what it is told.

        Raises: Refused, or BackendUnavailable, LimitExceeded, TimeoutError.
        """

    def record(self, link: ClientLink, direction: int, size_bytes: int, frame: Any) -> None:
        """Put a frame into the flight recorder."""


class Refused(Exception):  # noqa: N818 - it is no error of ours: a command was understood and not done
    """A command is not done, for a reason that its client gets.

    Args:
        code: one of :class:`.messages.Code`.
        detail: in words.
        retry_after_s: when it may be tried again, if that would help.
    """

    def __init__(self, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


IN: Final = 0
OUT: Final = 1


class ClientLink:
    """One client's WebSocket.

    Life: made after the upgrade, which has authenticated it; ended by ``close`` or ``lost``. Always true: after its
    welcome it has been sent every event of the log in order, none twice; after its end it sends nothing.

    Args:
        conn: its id.
        room: the session.
        outlet: of its socket.
        settings: of links.
        clock: monotonic seconds.
        wall_ms: milliseconds since 1970.
        is_binary: frames are MessagePack.
        spawn: starts a task that its owner awaits at the end.
    """

    def __init__(
        self,
        conn: str,
        room: Room,
        outlet: Outlet,
        settings: LinkSettings,
        *,
        clock: Clock,
        wall_ms: Callable[[], int],
        is_binary: bool,
        spawn: Callable[[Awaitable[None]], object],
    ) -> None:
        self.conn = conn
        self.room = room
        self.outlet = outlet
        self.is_binary = is_binary
        self.device = ""
        self.is_live = False
        self.closed = 0
        self.market_cursor = self.portfolio_cursor = 0
        self.symbols: frozenset[str] | None = None
        self.acked = 0
        self.ladder = Ladder(settings.ladder())
        self.quality = Quality(settings.quality())
        self.opened_at = self.heard_at = clock()
        self._beat_at = 0.0
        self._settings = settings
        self._clock = clock
        self._wall_ms = wall_ms
        self._spawn = spawn
        self._bucket = TokenBucket(settings.frames_per_s, settings.frames_burst_count, clock)
        self._commands: deque[Command | Hello] = deque()
        self._is_working = False
        self._bad_count = 0
        self._bad_at = 0.0

    def __repr__(self) -> str:
        return f"<ClientLink {self.conn} {self.device or 'before its hello'}>"

    # What comes in

    def receive(self, data: bytes | str) -> None:
        """Take one frame of the client."""
        if self.closed:
            return
        now = self.heard_at = self._clock()
        if not self._bucket.take():
            self._too_many()
            return
        if isinstance(data, str) == self.is_binary:
            self._bad(_OTHER_ENCODING[self.is_binary], b"")
            return
        try:
            frame = wire.read_frame(data, is_binary=self.is_binary)
        except WireError as error:
            self._bad(error, data)
            return
        self.room.record(self, IN, len(data), frame)
        if not self.is_live and not isinstance(frame, Hello | Bye):
            self.answer(Err(Code.HELLO_FIRST, "a link begins with a hello frame", getattr(frame, "id", None)))
            self.close(Close.PROTOCOL, "hello first")
            return
        self._take(frame, now)

    def pinged(self) -> bool:
        """Count a WebSocket ping or pong like a frame; say whether it may be answered."""
        if not self.closed and not self._bucket.take():
            self._too_many()
            return False
        return not self.closed

    def _take(self, frame: ClientFrame, now: float) -> None:
        match frame:
            case HeartbeatAck():
                self.acked = max(self.acked, min(frame.o, self.room.view.log.last))
                if self.quality.answered(frame.n, now) and self.quality.judge():
                    self._report_quality(now)
            case Heartbeat():
                self.answer(ServerHeartbeatAck(n=frame.n, time=self._wall_ms()))
            case Hello():
                self._on_hello(frame)
            case Bye():
                self.close(Close.BYE, "bye")
            case _:
                self.room.was_active(self)
                self._on_request(frame)

    def _on_request(self, frame: ClientFrame) -> None:
        match frame:
            case Subscribe() if self.symbols is not None:
                self._see(self.symbols | frozenset(frame.symbols), frame.id)
            case Subscribe():
                self.answer(Ok(frame.id))  # it sees all
            case Unsubscribe():
                seen = self.symbols
                if seen is None:
                    seen = frozenset(self.room.view.feed.symbols())
                self._see(seen - frozenset(frame.symbols), frame.id)
            case SnapshotRequest():
                self.answer(Ok(frame.id))
                self.send_snapshot()
            case PlaceOrder() | CancelOrder() | ReplaceOrder() | SimulatorCommand():
                self._queue(frame)

    def _see(self, symbols: frozenset[str], ref: str) -> None:
        if len(symbols) > SYMBOLS_COUNT:
            self.answer(Err(Code.RATE_LIMITED, f"at most {SYMBOLS_COUNT} symbols", ref))
            return
        self.symbols = symbols
        self.market_cursor = 0  # the next tick brings the whole of what it wants now
        self.answer(Ok(ref))

    def _too_many(self) -> None:
        if self._is_hopeless():
            self.close(Close.LIMIT, "too many frames")
            return
        limit = f"at most {self._settings.frames_per_s:g} frames per second"
        self.answer(Err(Code.RATE_LIMITED, limit, retry_after_s=1.0))

    def _bad(self, error: WireError, data: bytes | str) -> None:
        if self._is_hopeless():
            self.close(Close.PROTOCOL, "too many frames that cannot be read")
            return
        is_unknown = error.wanted == wire.KNOWN_TYPE
        code = Code.UNKNOWN_TYPE if is_unknown else Code.BAD_FRAME
        self.answer(Err(code, error.found, wire.id_of(data, is_binary=self.is_binary)))

    def _is_hopeless(self) -> bool:
        """Count one more frame that should not have come; say whether there were too many of them lately."""
        now = self._clock()
        if now - self._bad_at > BAD_KEEP_S:
            self._bad_count = 0
        self._bad_at = now
        self._bad_count += 1
        return self._bad_count > self._settings.bad_frames_count

    # Hello

    def _on_hello(self, hello: Hello) -> None:
        if self.is_live or self._commands:
            self.answer(Err(Code.HELLO_TWICE, "a link has one hello", hello.id))
            return
        resume, log = hello.resume, self.room.view.log
        if resume is not None and resume.epoch == log.epoch and resume.events > log.last:
            self._queue(hello)  # it has seen what is not here yet, or never was
            return
        self._greet(hello)

    def _greet(self, hello: Hello) -> None:
        """Let the client in, and send what it lacks."""
        view, resume = self.room.view, hello.resume
        self.device = hello.device
        if len(view.links) >= self._settings.session_links_count:
            limit = f"at most {self._settings.session_links_count} connections of one session"
            self.answer(Err(Code.RATE_LIMITED, limit, hello.id, 1.0))
            self.close(Close.LIMIT, "too many connections of the session")
            return
        refusal = self.room.joined(self)
        if refusal is not None:
            self.answer(refusal)
            self.close(_CLOSED_WITH.get(refusal.code, Close.LIMIT), refusal.code)
            return
        log = view.log
        self.symbols = None if hello.symbols is None else frozenset(hello.symbols)
        is_continued = resume is not None and log.has_all_after(resume.epoch, resume.events)
        if resume is not None and resume.epoch == log.epoch and resume.events > log.last:
            self.answer(Err(Code.BAD_CURSOR, f"event {resume.events} is none of this session's", hello.id))
        resumed: Literal["full", "partial", "none"] = "none"
        events: tuple[LogEvent, ...] = ()
        if is_continued and resume is not None:
            events = tuple(log.after(resume.events))
            self._continue(resume)
            has_market = self.market_cursor or not view.feed.revision
            has_portfolio = self.portfolio_cursor or not view.portfolio_revision
            resumed = "full" if has_market and has_portfolio else "partial"
        self.answer(self._welcome(resumed, len(events)))
        for event in events:
            data = event_frame(event, is_binary=self.is_binary)
            self.ladder.forgive(len(data))
            self.outlet.write(data)
            self.room.record(self, OUT, len(data), event)
        if is_continued:
            self.answer(SimulatorState(view.simulator_state, view.simulator))  # it may have changed meanwhile
        else:
            self.outlet.write(view.snapshot_message(is_binary=self.is_binary))
        for what in view.degraded:
            self.answer(Degraded(what))
        self.is_live = True
        view.links.add(self)
        self._beat_at = self._clock() + self._settings.heartbeat_every_s
        self.tick(self._clock())

    def _continue(self, resume: Resume) -> None:
        """Go on from the client's revisions where they are of what is shown now."""
        view = self.room.view
        if view.feed.base <= resume.md <= view.feed.revision:
            self.market_cursor = resume.md
        if view.feed.base <= resume.pf <= view.portfolio_revision:
            self.portfolio_cursor = resume.pf

    def _welcome(self, resumed: Literal["full", "partial", "none"], recovered: int) -> Welcome:
        settings, view = self._settings, self.room.view
        return Welcome(
            session=self.room.session_id,
            conn=self.conn,
            pod=self.room.pod,
            epoch=view.log.epoch,
            events=view.log.last - recovered,
            md=self.market_cursor,
            pf=self.portfolio_cursor,
            resumed=resumed,
            recovered=recovered,
            heartbeat=HeartbeatTerms(settings.heartbeat_every_s, settings.heartbeat_timeout_s),
            limits=LinkLimits(settings.frame_bytes, settings.frames_per_s, settings.frames_burst_count),
            reconnect=self.reconnect_terms,
            server_time=self._wall_ms(),
        )

    @property
    def reconnect_terms(self) -> ReconnectTerms:
        """How the client should come back."""
        settings = self._settings
        return ReconnectTerms(settings.reconnect_min_s, settings.reconnect_max_s, settings.reconnect_jitter)

    # Commands

    def _queue(self, command: Command | Hello) -> None:
        if len(self._commands) >= self._settings.commands_count:
            limit = f"at most {self._settings.commands_count} commands may wait"
            self.answer(Err(Code.RATE_LIMITED, limit, command.id, retry_after_s=1.0))
            return
        self._commands.append(command)
        if not self._is_working:
            self._is_working = True
            self._spawn(self._work())

    async def _work(self) -> None:
        """Carry out what waits, one after the other; none twice, none out of order."""
        try:
            while self._commands:
                command = self._commands[0]  # it stays: what waits is counted with it
                if isinstance(command, Hello):
                    is_fresh = await self._refresh()
                    if self._commands:
                        self._commands.popleft()
                        self._greet_if(command, is_fresh=is_fresh)
                    continue
                answer = await self._answer_to(command)
                if self._commands:
                    self._commands.popleft()
                    self.answer(answer)
        finally:
            self._is_working = False

    async def _refresh(self) -> bool:
        """Look whether the log has what the client has seen; False if that cannot be known now."""
        try:
            async with asyncio.timeout(self._settings.command_timeout_s):
                await self.room.refresh(self)
        except (TimeoutError, BackendUnavailable):
            return False
        return True

    def _greet_if(self, hello: Hello, *, is_fresh: bool) -> None:
        """Let a client in whose cursor is ahead of ours; not with an older snapshot, or it would hear events twice."""
        resume, log = hello.resume, self.room.view.log
        if is_fresh or resume is None or resume.epoch != log.epoch or resume.events <= log.last:
            self._greet(hello)
            return
        self.answer(Err(Code.UNAVAILABLE, "the session's log does not answer", hello.id, 1.0))
        self.close(Close.RESTART, "come back and resume")

    async def _answer_to(self, command: Command) -> Ok | Err:
        try:
            async with asyncio.timeout(self._settings.command_timeout_s):
                return Ok(command.id, await self.room.carry_out(self, command))
        except Refused as refused:
            return Err(refused.code, refused.detail, command.id, refused.retry_after_s)
        except LimitExceeded as error:
            return Err(Code.RATE_LIMITED, error.what, command.id, 1.0)
        except BackendUnavailable as error:
            return Err(Code.UNAVAILABLE, error.backend, command.id, 1.0)
        except TimeoutError:
            again = "it was sent and not answered in time; the same id sent again is the same order"
            return Err(Code.OUTCOME_UNKNOWN, again, command.id, 1.0)

    # What goes out

    def answer(self, frame: Any) -> None:
        """Send one control frame."""
        if not self.closed:
            data = message(frame, is_binary=self.is_binary)
            self.outlet.write(data)
            self.room.record(self, OUT, len(data), frame)

    def send(self, data: bytes, frame: Any) -> None:
        """Send a control frame that is encoded already."""
        if not self.closed:
            self.outlet.write(data)
            self.room.record(self, OUT, len(data), frame)

    def send_event(self, data: bytes) -> None:
        """Send an event that is encoded already; a client that takes none any more is closed."""
        if self.closed:
            return
        outlet, ladder = self.outlet, self.ladder
        waiting = outlet.waiting_bytes()
        # The clock only where it matters: nothing waits at nearly all times.
        if (waiting or ladder.is_watched) and ladder.look(waiting, self._clock()) == Rung.CLOSE:
            self.close(Close.SLOW_CONSUMER, "events wait too long")
            return
        outlet.write(data)

    def send_snapshot(self) -> None:
        """Send everything anew."""
        self.market_cursor = self.portfolio_cursor = 0
        self.outlet.write(self.room.view.snapshot_message(is_binary=self.is_binary))
        self.tick(self._clock())

    def tick(self, now_s: float) -> None:
        """Send what of market and portfolio is new for this client, unless it is slow."""
        view, ladder = self.room.view, self.ladder
        feed = view.feed
        has_market = self.market_cursor != feed.revision
        has_portfolio = self.portfolio_cursor != view.portfolio_revision
        if self.closed or not (has_market or has_portfolio) or now_s * 1000 < ladder.next_ms:
            return
        waiting = self.outlet.waiting_bytes()
        rung = ladder.look(waiting, now_s) if waiting or ladder.is_watched else Rung.ALL
        if rung == Rung.CLOSE:
            self.close(Close.SLOW_CONSUMER, "it takes less than it gets")
            return
        if rung != Rung.ALL:
            ladder.skip()
            ladder.next_ms = now_s * 1000 + ladder.interval_ms
            return
        if has_market:
            data = feed.frame(self.market_cursor, self.symbols, is_binary=self.is_binary)
            if data:
                self.outlet.write(data)
            self.market_cursor = feed.revision
        if has_portfolio:
            data = view.portfolio_frame(is_binary=self.is_binary)
            if data:
                self.outlet.write(data)
            self.portfolio_cursor = view.portfolio_revision
        ladder.sent(now_s * 1000)

    # Deadlines

    def sweep(self, now: float) -> None:
        """Enforce deadlines and send heartbeats; called about once a second."""
        settings = self._settings
        if self.closed:
            return
        if not self.is_live:
            if now - self.opened_at > settings.hello_timeout_s and not self._commands:
                # Not PROTOCOL, which sends it away for good: the network may have held its hello up.
                self.close(Close.HEARTBEAT_TIMEOUT, "no hello in time")
            return
        if now - self.heard_at > settings.heartbeat_timeout_s:
            self.close(Close.HEARTBEAT_TIMEOUT, "no heartbeat in time")
            return
        if now >= self._beat_at:
            self._beat_at = now + settings.heartbeat_every_s
            number = self.quality.beat(now)
            if self.quality.missed_count and self.quality.judge():
                self._report_quality(now)
            self.answer(ServerHeartbeat(number))

    def _report_quality(self, now: float) -> None:
        quality = self.quality
        self.answer(
            QualityReport(
                grade=quality.grade,
                rtt_ms=round(quality.rtt_ms, 1),
                p95_ms=round(quality.p95_ms, 1),
                missed=quality.missed_count,
                reconnect=quality.advises_reconnect(now),
            )
        )

    # The end

    @property
    def resume(self) -> Resume:
        """What the client has been sent, for it to come back with."""
        log = self.room.view.log
        return Resume(log.epoch, log.last, self.market_cursor, self.portfolio_cursor)

    def close(self, code: int, reason: str) -> None:
        """End the link from our side."""
        if self.closed:
            return
        self.closed = code
        self.outlet.close(code, reason)
        self._leave()

    def lost(self, code: int = 1006) -> None:
        """Take note that the connection is gone."""
        if not self.closed:
            self.closed = code
            self._leave()

    def _leave(self) -> None:
        self._commands.clear()
        self.room.view.links.discard(self)
        self.room.left(self)
