"""A simulated panel on a real socket: it dials, reconnects, and lives its life, many of them in one process.

Knows nothing of scripts and terminals. For ``sojourn simulate panel``, demos, benches and tests.

Source: itv2-protocol.md sections 11 and 13.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, cast

from sojourn.core.clock import Clock, monotonic
from sojourn.gateways.itv2.messages import ArmingMethod, Message, PanelTime
from sojourn.gateways.itv2.peer.desk import Desk
from sojourn.gateways.itv2.peer.faults import ALWAYS, Fault, Faults
from sojourn.gateways.itv2.peer.line import Line, Step, Told
from sojourn.gateways.itv2.peer.outbox import Outbox
from sojourn.gateways.itv2.peer.panel import PanelModel
from sojourn.gateways.itv2.peer.programme import LineSettings, PanelIdentity, PanelProgramme
from sojourn.gateways.itv2.peer.record import LOG_COUNT, Record

SPLIT_PAUSE_S: Final = 0.005
"""Between the halves of a packet that is written in two."""
WITHIN_S: Final = 30.0


class _Socket(asyncio.Protocol):
    """One TCP connection, and the line on it."""

    def __init__(self, panel: SimulatedPanel) -> None:
        self.gone = asyncio.Event()
        self.line: Line | None = None
        self.is_forgotten = False
        self._panel = panel
        self._transport: asyncio.Transport | None = None
        self._second_half = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of a stream, and uvloop's is no subclass
        self.line = self._panel.new_line(self)
        self.line.start()
        self._panel.rearm()

    def data_received(self, data: bytes) -> None:
        if self.line is not None:
            self.line.receive(data)
            self._panel.rearm()

    def connection_lost(self, _: Exception | None) -> None:
        self.gone.set()
        if self.line is not None:
            if not self.line.is_ended and not self.is_forgotten:
                self._panel.record.told(Told(self.line.step, "the server closed the connection"))
            self.line.end()

    def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._second_half:
            self._second_half += data
        elif len(data) > 1 and self._panel.faults.take(Fault.SPLIT_WRITES):
            self._transport.write(data[: len(data) // 2])
            self._second_half = data[len(data) // 2 :]
            asyncio.get_running_loop().call_later(SPLIT_PAUSE_S, self._write_rest)
        else:
            self._transport.write(data)

    def _write_rest(self) -> None:
        rest, self._second_half = self._second_half, b""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(rest)

    def hang_up(self, _: str = "") -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Neither read nor close any more, as a panel whose network is gone."""
        self.is_forgotten = True
        if self.line is not None:
            self.line.end()
        if self._transport is not None:
            self._transport.pause_reading()


class SimulatedPanel:
    """A panel that dials a server.

    Use as ``async with SimulatedPanel(...) as panel``: it dials until it is left. Its house is ``panel.house``; what
    happened is ``panel.record``. Methods that do something in the house return at once.

    Args:
        speed: how many seconds of the panel pass in one second; the line's own timers do not care.
        seed: the same seed gives the same choices, such as what comes in one packet.
        begins: what the panel's keypads show at first; by default the time of day.
        log_count: so many messages are kept in ``record``.
        on_told, on_sent, on_heard: hear of each step, of each message that is sent, and of the server's commands.
    """

    def __init__(
        self,
        identity: PanelIdentity,
        host: str,
        port: int,
        *,
        programme: PanelProgramme = PanelProgramme(),  # noqa: B008 - a frozen struct
        line: LineSettings = LineSettings(),  # noqa: B008 - a frozen struct
        speed: float = 1.0,
        seed: int | None = None,
        begins: datetime | None = None,
        log_count: int = LOG_COUNT,
        on_told: Callable[[Told], None] | None = None,
        on_sent: Callable[[Message], None] | None = None,
        on_heard: Callable[[Message], None] | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.identity = identity
        self.faults = Faults()
        self.record = Record(log_count, self._stir, on_told, on_sent, on_heard)
        self.outbox = Outbox(line.queue_count)
        self._address = (host, port)
        self._settings = line
        self.speed = speed
        self._clock = clock
        self._began_s = clock()
        self._begins = datetime.now().astimezone() if begins is None else begins
        self._chance = random.Random(seed)  # noqa: S311 - nothing here is a secret
        self.house = PanelModel(
            programme,
            self._notify,
            clock=self.now_s,
            panel_time=self.time,
            chance=self._chance,
            speed=speed,
        )
        self._desk = Desk(self.house)
        self._sockets: list[_Socket] = []
        self._stirred = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_cut = False
        self._tasks = asyncio.TaskGroup()
        self._living: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._living = self._tasks.create_task(self._live())
        self.rearm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._living is not None:
            self._living.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for socket in self._sockets:
            socket.forget()
            socket.abort()
        await self._tasks.__aexit__(None, None, None)

    # Time

    def now_s(self) -> float:
        """Return the panel's own seconds since it began."""
        return (self._clock() - self._began_s) * self.speed

    def time(self) -> PanelTime:
        """Return what the panel's keypads show."""
        shown = self._begins + timedelta(seconds=self.now_s())
        return PanelTime(shown.year, shown.month, shown.day, shown.hour, shown.minute, shown.second)

    def set_time(self, hour: int, minute: int) -> None:
        """Set the panel's clock on, to the next time that it is so late, and tell it."""
        shown = self._begins + timedelta(seconds=self.now_s())
        wanted = shown.replace(hour=hour, minute=minute, second=0, microsecond=0)
        self._begins += wanted + timedelta(days=wanted < shown) - shown
        self.house.broadcast_time()

    def rearm(self) -> None:
        """See to it that the next deadline is met."""
        now = self._clock()
        due_s = self._began_s + self.house.deadline_s / self.speed
        for socket in self._sockets:
            if socket.line is not None and not socket.line.is_ended:
                due_s = min(due_s, socket.line.deadline_s)
        if self._timer is not None:
            if self._timer_s <= due_s:
                return  # it wakes early, and arms itself again
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - now), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.house.pass_time()
        for socket in tuple(self._sockets):
            if socket.line is not None:
                socket.line.pass_time()
        self.rearm()

    # The line

    @property
    def line(self) -> Line | None:
        """The newest connection's line."""
        return self._sockets[-1].line if self._sockets else None

    @property
    def is_connected(self) -> bool:
        """Whether the handshake is done and the connection stands."""
        return self.line is not None and self.line.step is Step.CONNECTED

    @property
    def has_said_all(self) -> bool:
        """Whether the server has acknowledged everything."""
        return self.line is not None and self.line.is_idle and not self.outbox

    async def connected(self, within_s: float = WITHIN_S) -> None:
        """Wait until the handshake is done. Raises: TimeoutError."""
        await self.until(lambda: self.is_connected, within_s)

    async def acknowledged(self, within_s: float = WITHIN_S) -> None:
        """Wait until the server has acknowledged everything. Raises: TimeoutError."""
        await self.until(lambda: self.has_said_all, within_s)

    async def until(self, is_so: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait until something is so; looks whenever something happened to the line. Raises: TimeoutError."""
        async with asyncio.timeout(within_s):
            while not is_so():
                self._stirred.clear()
                await self._stirred.wait()

    def cut(self) -> None:
        """Cut the line: what happens now waits until :meth:`mend`."""
        self._is_cut = True
        for socket in self._sockets:
            if socket.line is not None:
                socket.line.end()
            socket.abort()
        self.record.told(Told(Step.ENDED, "the line is cut"))

    def mend(self) -> None:
        """Mend the line: the panel dials at once."""
        self._is_cut = False
        self._hurry.set()

    def end_session(self) -> None:
        """Say goodbye; the panel dials again after its usual pause."""
        if self.line is not None:
            self.line.end_session()
        self.rearm()

    def poll(self) -> None:
        """Ask the server whether it is there."""
        if self.line is not None:
            self.line.poll()
        self.rearm()

    def inject(self, fault: Fault, count: int = 1) -> None:
        """Let something go wrong: at once where the fault says so, else at its next occasion."""
        match fault:
            case Fault.ENDLESS:
                if self.line is not None:
                    self.line.flood()
            case Fault.HALF_OPEN | Fault.TWIN:
                if fault is Fault.HALF_OPEN and self._sockets:
                    self._sockets[-1].forget()
                self._hurry.set()
            case Fault.SILENCE | Fault.WRONG_KEY:
                self.faults.inject(fault, ALWAYS)
            case _:
                self.faults.inject(fault, count)

    def heal(self, fault: Fault) -> None:
        """Let it go right from now on."""
        self.faults.heal(fault)

    def new_line(self, socket: _Socket) -> Line:
        """Make the line of a new connection."""
        self.record.connections_count += 1
        return Line(
            self.identity,
            self._settings,
            outbox=self.outbox,
            desk=self._desk,
            faults=self.faults,
            watcher=self.record,
            write=socket.write,
            hang_up=socket.hang_up,
            clock=self._clock,
            has_wrong_key=self.faults.is_set(Fault.WRONG_KEY),
        )

    async def _live(self) -> None:
        """Dial again and again."""
        while True:
            if self._is_cut:
                await self._hurry.wait()
            self._hurry.clear()
            socket = await self._dial()
            if socket is not None:
                await self._until_gone(socket)
            if not self._hurry.is_set():
                await self._pause()

    async def _dial(self) -> _Socket | None:
        socket = _Socket(self)
        self._sockets.append(socket)
        host, port = self._address
        try:
            async with asyncio.timeout(self._settings.dial_s):
                await asyncio.get_running_loop().create_connection(lambda: socket, host, port)
        except (OSError, TimeoutError) as error:
            self._sockets.remove(socket)
            cause = (
                f"no answer within {self._settings.dial_s:g} s" if isinstance(error, TimeoutError) else error
            )
            self.record.told(Told(Step.DIALED, f"cannot dial {host}:{port}: {cause}"))
            return None
        return socket

    async def _until_gone(self, socket: _Socket) -> None:
        """Wait for the end of a connection, or for a reason to dial again all the same."""
        gone, hurry = (self._tasks.create_task(one.wait()) for one in (socket.gone, self._hurry))
        try:
            await asyncio.wait((gone, hurry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            hurry.cancel()
        self._sockets = [one for one in self._sockets if not one.gone.is_set()]

    async def _pause(self) -> None:
        pause_s = self._chance.uniform(*self._settings.reconnect_s) / self.speed
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._hurry.wait()

    # The house

    def open_zone(self, number: int) -> None:
        """Open a zone. Raises: KeyError."""
        self.house.open_zone(number)

    def restore_zone(self, number: int) -> None:
        """Close a zone. Raises: KeyError."""
        self.house.restore_zone(number)

    def arm(self, partition: int, mode: int, *, user: int = 0) -> int:
        """Arm at the keypad, by a user's code or the function key; returns a ``ResponseCode``."""
        method = ArmingMethod.ACCESS_CODE if user else ArmingMethod.FUNCTION_KEY
        return self.house.arm(partition, mode, user=user, method=method)

    def disarm(self, partition: int, *, user: int = 1) -> int:
        """Disarm at the keypad; returns a ``ResponseCode``."""
        return self.house.disarm(partition, user=user)

    def bypass(self, zone: int, *, is_bypassed: bool = True) -> None:
        """Leave a zone out at the keypad, or take it back in. Raises: KeyError."""
        self.house.bypass(zone, is_bypassed=is_bypassed)

    def _notify(self, message: Message) -> None:
        self.outbox.notify(message)
        if self.line is not None:
            self.line.flush()
        if self._living is not None:
            self.rearm()

    def _stir(self) -> None:
        self._stirred.set()
