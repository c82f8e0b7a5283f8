"""Conversation: what holds one talk with a session together, over as many WebSockets as it takes.

Connects, says hello with how far it has come, takes what is replayed, and does so again whenever a connection ends with
a code that lets it, as late as the server's terms and chance say. Knows no order and no price.

Theory of operation. One task runs one connection after the other. Frames go through the mirror, which alone knows the
cursor. Requests are kept until they are answered and said again on the next connection, since servers know their ids;
between connections, and while a server sends its clients away, they wait.

Source: exchange-session-service.md sections 5.4 and 5.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, ConnectionLost, RemoteProtocolError, SojournError, WireError
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.messages import (
    Close,
    Code,
    Drain,
    Ended,
    Err,
    HeartbeatAck,
    Hello,
    Ok,
    QualityReport,
    Replaced,
    Resume,
    ServerHeartbeat,
    SimulatorState,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from sojourn.gateways.exchange.peer.asks import Ask, Asks, Wish
from sojourn.gateways.exchange.peer.calls import NAME, Calls, Declined, Socket
from sojourn.gateways.exchange.peer.event_queue import EventQueue
from sojourn.gateways.exchange.peer.frames import (
    EventFrame,
    MarketFrame,
    PortfolioFrame,
    ServerFrame,
    SnapshotFrame,
)
from sojourn.gateways.exchange.peer.link import Link
from sojourn.gateways.exchange.peer.mirror import Mirror
from sojourn.gateways.exchange.peer.returning import Dismissed, Returning, Verdict
from sojourn.gateways.exchange.peer.stats import LiveStats

Dial = Callable[[], Awaitable[Socket | Verdict]]
"""Opens a WebSocket, or says why there is none and how to try again. Raises: Declined."""
State = Literal["connecting", "live", "waiting", "over"]

ASKS_COUNT: Final = 1_000
_HELLO: Final = "hello"
_ALL: Final = "all"
_WELCOME_S: Final = 10.0
_LEAVE_S: Final = 3.0


class Conversation:
    """One talk.

    Life: begun by ``start``, over after ``stop`` or when the server says so for good; the session itself stays.

    Args:
        calls: to the servers, with their waits and tokens.
        dial: opens a WebSocket of the session.
        device: ours.
        symbols: that are wanted; None for all.
        resume: where an earlier one ended.
        is_binary: MessagePack instead of JSON.
        timeout_s: of a request, and of everything until the first greeting.
        events_count: events that may wait for their consumer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        calls: Calls,
        dial: Dial,
        *,
        device: str,
        symbols: frozenset[str] | None,
        resume: Resume | None,
        is_binary: bool,
        timeout_s: float,
        events_count: int,
        clock: Clock = monotonic,
    ) -> None:
        self.state: State = "connecting"
        self.stats = LiveStats()
        self.mirror = Mirror(self.stats, resume)
        self.queue = EventQueue(events_count)
        self.welcome: Welcome | None = None
        self.quality: QualityReport | None = None
        self.symbols = symbols
        self.timeout_s = timeout_s
        self._calls = calls
        self._dial = dial
        self._device = device
        self._is_binary = is_binary
        self._clock = clock
        self._returning = Returning(calls.random)
        self._asks = Asks(ASKS_COUNT)
        self._watchers: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._link: Link | None = None
        self._over: SojournError | None = None
        self._is_leaving = False
        self._return_at: float | None = None
        self._may_return = asyncio.Event()
        self._may_return.set()
        self._lost_at: float | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Connect, and wait until we are greeted.

        Raises: Declined, Dismissed; BackendUnavailable if it is not done in time.
        """
        await self._tasks.__aenter__()
        self._running = self._tasks.create_task(self._run())
        try:
            await self.until(lambda: self.state == "live", self.timeout_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Say goodbye, and see the task end."""
        self._is_leaving = True
        running = self._running
        if running is not None and not running.done():
            if self._link is None:
                running.cancel()
            else:
                self._link.leave(Verdict("left", Close.BYE))
                await asyncio.wait({running}, timeout=_LEAVE_S)
                running.cancel()
        # An error of whoever used us leaves as it is, not wrapped in a group; the task raises none of its own.
        await self._tasks.__aexit__(None, None, None)
        self._end(ConnectionLost("the conversation was left"))

    def cut(self) -> None:
        """Lose the connection, as a network does; another one follows."""
        if self._link is not None:
            self._link.cut()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Lose the connection, and come back when the block ends and not before."""
        self._may_return.clear()
        self.cut()
        try:
            yield
        finally:
            self._may_return.set()

    async def _run(self) -> None:
        """Come back until that is no use any more, or we leave."""
        try:
            while not self._is_leaving:
                await self._may_return.wait()
                verdict = await self._visit()
                if not self._is_leaving:
                    await self._wait(verdict)
        except SojournError as error:
            self._end(error)

    async def _visit(self) -> Verdict:
        """Have one connection. Raises: Declined, Dismissed."""
        found = await self._dial()
        if isinstance(found, Verdict):
            return found
        link = self._link = Link(found, is_binary=self._is_binary, clock=self._clock)
        symbols = None if self.symbols is None else tuple(sorted(self.symbols))
        link.send(Hello(_HELLO, self._device, self.mirror.say_hello(), symbols))
        self._asks.note_hello()
        try:
            verdict = await link.run(lambda frame: self._take(link, frame), _WELCOME_S)
        except Dismissed:
            if not self._is_leaving:
                raise
            return Verdict("left")
        finally:
            self._link = None
            if self._lost_at is None and link.is_greeted:
                self._lost_at = self._clock()
        self.stats.gaps_count += verdict.code == Close.PROTOCOL
        return verdict

    async def _wait(self, verdict: Verdict) -> None:
        """Wait until it is time to come back, having done what the verdict asks for. Raises: Declined."""
        self.stats.last_why = verdict.why
        self.state = "waiting"
        self._tell_watchers()
        if verdict.wants_token and not self._calls.renew_token():
            raise Declined("invalid_token", f"{verdict.why}, and there is no other token")
        if verdict.is_elsewhere:
            self._calls.go_elsewhere()
        if self._return_at is not None:
            after_s = max(0.0, self._return_at - self._clock())
            verdict, self._return_at = verdict._replace(after_s=after_s, is_paced=True), None
        await self._calls.sleep(self._returning.delay_s(verdict))
        self.state = "connecting"

    def _end(self, error: SojournError) -> None:
        """Tell whoever waits that it is over."""
        if self._over is None:
            self._over = error
            self.state = "over"
            self.queue.end(None if self._is_leaving else error)
            self._asks.end(error)
            for watcher in tuple(self._watchers):
                if not watcher.done():
                    watcher.set_exception(error)

    # Whoever uses us

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Wait until something that the server tells is so.

        Raises: BackendUnavailable if it is not so in time; whatever the conversation ended with.
        """
        if is_so():
            return
        if self._over is not None:
            raise self._over
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers[watcher] = is_so
        try:
            async with asyncio.timeout(timeout_s):
                await watcher
        except TimeoutError:
            why = self.stats.last_why or "it did not come to that"
            raise BackendUnavailable(NAME, timeout_s, why) from None
        finally:
            self._watchers.pop(watcher, None)

    def _tell_watchers(self) -> None:
        for watcher, is_so in tuple(self._watchers.items()):
            if not watcher.done() and is_so():
                watcher.set_result(None)

    async def ask(self, frame: Wish, timeout_s: float) -> Any:
        """Send a frame and return what is answered, over however many connections that takes.

        Raises: Declined; BackendUnavailable if no answer came in time; whatever the conversation ended with.
        """
        if self._over is not None:
            raise self._over
        try:
            wire.read_frame(wire.write_frame(frame))
        except WireError as error:
            raise Declined(Code.BAD_FRAME, error.found) from error
        ask = self._asks.open(frame)
        try:
            self._say(ask)
            async with asyncio.timeout(timeout_s):
                return await ask.answer
        except TimeoutError:
            if ask.latest is not None:
                raise ask.latest from None
            cause = "no answer in time; the same id sent again is the same request"
            raise BackendUnavailable(NAME, timeout_s, cause) from None
        finally:
            self._asks.close(ask)

    def _say(self, ask: Ask) -> None:
        link = self._link
        if link is not None and link.is_greeted and not link.is_closing:
            self.stats.repeated_count += ask.sent_count > 0
            ask.sent_count += 1
            link.send(ask.frame)

    def _say_again(self, asks: Iterable[Ask], link: Link) -> None:
        for ask in asks:
            if self._link is link and self._asks.is_open(ask):
                self._say(ask)

    # What the server says

    def _take(self, link: Link, frame: ServerFrame) -> None:
        """Take one frame. Raises: RemoteProtocolError."""
        mirror = self.mirror
        match frame:
            case EventFrame():
                self.queue.put(mirror.take_event(frame))
            case MarketFrame():
                mirror.take_market(frame)
            case PortfolioFrame():
                mirror.take_portfolio(frame)
            case Ok():
                self._take_answer(frame)
            case Err():
                self._take_error(link, frame)
            case ServerHeartbeat():
                link.send_now(HeartbeatAck(frame.n, mirror.offset))
                if self.welcome is not None:
                    link.expect_within(self.welcome.heartbeat.timeout_s)
            case SimulatorState():
                mirror.simulator = frame
            case _:
                self._take_turn(link, frame)
        if self._watchers:
            self._tell_watchers()

    def _take_turn(self, link: Link, frame: ServerFrame) -> None:
        """Take what changes how things stand between us and the server. Raises: RemoteProtocolError."""
        match frame:
            case Welcome():
                self._take_welcome(link, frame)
            case SnapshotFrame():
                self.queue.put(self.mirror.take_snapshot(frame))
                self._greeted(link)
            case Drain():
                self._take_drain(link, frame)
            case QualityReport():
                self.quality = frame
            case Replaced():
                link.reason = f"by {frame.device}"
            case Ended():
                link.reason = frame.reason

    def _take_welcome(self, link: Link, welcome: Welcome) -> None:
        if self.welcome is not None and self.welcome.conn == welcome.conn:
            raise RemoteProtocolError("a second welcome", "one", "session.v1")
        self.mirror.take_welcome(welcome)
        self.welcome = welcome
        self._returning.succeeded(welcome.reconnect)
        link.pace(welcome.limits)
        link.expect_within(welcome.heartbeat.timeout_s)
        if not self.mirror.awaits_snapshot:
            self._greeted(link)

    def _greeted(self, link: Link) -> None:
        """Let requests go out; those that were not answered go out again."""
        if link.is_greeted:
            return
        link.is_greeted = True
        stats = self.stats
        stats.connections_count += 1
        if self._lost_at is not None:
            stats.last_away_s, self._lost_at = self._clock() - self._lost_at, None
            stats.longest_away_s = max(stats.longest_away_s, stats.last_away_s)
        self.state = "live"
        if not self.mirror.knows_all:
            link.send(SnapshotRequest(_ALL))
        for ask in self._asks.open_ones():
            if ask.is_in_hello:
                ask.answer.set_result(None)
            else:
                self._say(ask)

    def _take_answer(self, ok: Ok) -> None:
        ask = self._asks.answered(ok.ref, ok.d)
        if ask is not None and isinstance(ask.frame, Subscribe | Unsubscribe):
            self.mirror.rows_granted()

    def _take_error(self, link: Link, err: Err) -> None:
        if err.ref == _HELLO:
            link.reason = f"{err.code}: {err.detail}"
            return
        again = self._asks.refused(err)
        if again:
            after_s = 1.0 if err.retry_after_s is None else err.retry_after_s
            asyncio.get_running_loop().call_later(after_s, self._say_again, again, link)
        elif err.ref is None:
            self.stats.last_why = f"{err.code}: {err.detail}"

    def _take_drain(self, link: Link, drain: Drain) -> None:
        """Ask for nothing more here, hear what still comes, and go when we are told to."""
        self.mirror.take_drain(drain)
        link.is_closing = True
        after_s = drain.reconnect_after_ms / 1000
        self._return_at = self._clock() + after_s
        verdict = Verdict("the server sends its clients away", Close.BYE, is_elsewhere=True)
        asyncio.get_running_loop().call_later(after_s, link.leave, verdict)
