"""Server: gateways, their listeners and their managers from start to the last goodbye.

Start, reload on SIGHUP, drain on SIGTERM (and Ctrl-C), end at once on the second. Knows no protocol and no
configuration file: both are handed in.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sojourn.core import descriptors
from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.events import EventKind, Events
from sojourn.core.listener import HANDSHAKE_FAILED, Listener
from sojourn.core.logs import LogView
from sojourn.core.loop import run, settle
from sojourn.core.manager import ConnectionManager
from sojourn.core.memory import PREFIX, MemoryListener
from sojourn.core.offload import OffloadPool
from sojourn.core.rates import Rates
from sojourn.core.recorder import Recorder
from sojourn.core.registry import Registry
from sojourn.core.session import raised_at
from sojourn.core.settings import (
    BreakerSettings,
    ListenerSettings,
    LogSettings,
    OffloadSettings,
    RecorderSettings,
)
from sojourn.core.tls import ReloadableContext
from sojourn.errors import ConfigError, SojournError

if TYPE_CHECKING:
    from sojourn.core.clock import Clock
    from sojourn.core.gateway import Gateway
    from sojourn.core.panel import AdminPanel

SERVER_STARTED = EventKind("server.started", ("gateways",))
SERVER_DRAINING = EventKind("server.draining", ("cause",))
SERVER_STOPPED = EventKind("server.stopped")
SERVER_RELOADED = EventKind("server.reloaded")
LOOP_ERROR = EventKind("server.loop_error", ("message", "error"), level="error")

RELOAD_REFUSED = EventKind("server.reload_refused", ("problems",), level="error")
"""A reload by signal found a configuration with problems; the application tells them one by one."""
TLS_REFUSED = EventKind("tls.refused", ("address", "problem"), level="error")
"""TLS files that were read again have a problem; the listener keeps the ones that it had."""
TLS_WARNING = EventKind("tls.warning", ("address", "warning"), level="warning")
"""Something in a listener's TLS files works no more, or will not soon."""
FEW_DESCRIPTORS = EventKind("server.few_descriptors", ("allowed_count", "wanted_count"), level="warning")
"""The limits let in more connections than this process may have open; what is beyond that is closed unread."""
BREAKER_CHANGED = EventKind("breaker.changed", ("endpoint", "old", "new"), level="warning")

DESCRIPTORS_RESERVED_COUNT = 256
"""For files, servers behind gateways, and connections that are being refused."""
OFFLOAD_CLOSE_S = 5.0
"""How long slow work that is under way at the end may take before its threads are left to die."""
DRAIN_LEAST_S = 1.0
"""What a drain has of its time, however long the leave before it took."""
TICK_S = 0.1
"""How long an event waits for its log line at most."""
SAMPLE_TICKS_COUNT = 10
"""Counters are sampled at every so many ticks, once a second."""
SWEEP_TICKS_COUNT = 5
"""Deadlines are looked at every so many ticks, so that they are kept to half a second."""


class Server:
    """All gateways of one process.

    Life: made by the application, which adds gateways, then awaits ``serve``; tests await ``start`` and ``stop``.
    Always true: after ``stop`` no task, socket or thread of it is left.
    """

    def __init__(
        self,
        *,
        recorder: RecorderSettings = RecorderSettings(),
        offload: OffloadSettings = OffloadSettings(),
        breaker: BreakerSettings = BreakerSettings(),
        clock: Clock = time.monotonic,
        on_reload: Callable[[], None] | None = None,
        first_number: int = 1,
    ) -> None:
        self.clock = clock
        self.events = Events(clock)
        self.recorder = Recorder(recorder)
        self.offload = OffloadPool(offload.threads_count, offload.queue_count, offload.timeout_s, clock)
        self.breakers = Breakers(breaker, clock, on_change=self._on_breaker)
        self.registry = Registry(self)
        self.gateways: dict[str, Gateway] = {}
        self.managers: dict[str, ConnectionManager] = {}
        self.rates = Rates(self.managers)
        self.panels: dict[str, AdminPanel] = {}
        """The pages of the gateways that have one."""
        self.started_at = 0.0
        """When the server was ready, in monotonic seconds; 0 = it was not yet."""
        self.listeners: list[Listener | MemoryListener] = []
        self.is_ready = False
        self._on_reload = on_reload
        self._to_listen: list[tuple[Gateway, Sequence[ListenerSettings]]] = []
        self._tls: list[tuple[Listener, ReloadableContext]] = []
        self._next_number = itertools.count(first_number).__next__
        self._stop_asked = asyncio.Event()
        self._abort_asked = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._works: set[asyncio.Task[Any]] = set()
        self._reload_asked = False

    def add(self, gateway: Gateway, listeners: Sequence[ListenerSettings] = ()) -> None:
        """Add a gateway and the addresses on which it listens; before ``start``."""
        self.gateways[gateway.name] = gateway
        self._to_listen.append((gateway, listeners))

    def spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``work`` in a task that lives as long as the server; cancelled and awaited at its end."""
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._work_ended)
        return task

    def _work_ended(self, task: asyncio.Future[Any]) -> None:
        """Forget work that has ended, and tell at once of work that failed."""
        self._works.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.events.emit(LOOP_ERROR, None, "work of the server failed", _first_of(error))

    async def start(self) -> None:
        """Open everything; the order is gateways, then listeners.

        Raises: OSError for an address that cannot be bound, ConfigError for TLS files; what was opened is closed.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self.events.flush_soon = loop.call_soon
        try:
            for gateway, listeners in self._to_listen:
                await gateway.start(self)
                if (panel := gateway.panel()) is not None:
                    self.panels[gateway.name] = panel
                manager = ConnectionManager(
                    gateway, loop=loop, clock=self.clock, next_number=self._next_number
                )
                self.managers[gateway.name] = manager
                for index, settings in enumerate(listeners):
                    await self._listen(settings, manager, f"{gateway.name}.listeners[{index}].tls")
        except BaseException:
            await self.stop(timeout_s=0)
            raise
        self._ticker = loop.create_task(self._tick())
        self.started_at = self.clock()
        self.rates.sample(self.started_at)
        self.is_ready = True
        self.events.emit(SERVER_STARTED, None, ", ".join(self.gateways))

    async def _listen(self, settings: ListenerSettings, manager: ConnectionManager, table: str) -> None:
        """Bind one address; it is in ``listeners`` before, so that a failure half-way is closed too."""
        listener: Listener | MemoryListener
        if settings.address.startswith(PREFIX):
            listener = MemoryListener(settings, manager)
        elif settings.tls is None:
            listener = Listener(settings, manager, None)
        else:
            context = ReloadableContext(settings.tls, file="configuration", table=table)
            listener = Listener(settings, manager, context.current)
            self._tls.append((listener, context))
            self._warn(listener, context)
        self.listeners.append(listener)
        await listener.start()

    async def _tick(self) -> None:
        """Flush events every tick, sweep deadlines every few: the server's one timer."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                if ticks % SWEEP_TICKS_COUNT == 0:
                    self.sweep()
                if ticks % SAMPLE_TICKS_COUNT == 0:
                    self.rates.sample(self.clock())
            except Exception as error:  # noqa: BLE001 - a gateway's bug must not stop every deadline of the server
                self.events.emit(LOOP_ERROR, None, "the sweep failed", type(error).__name__)
            self.recorder.refill(self.clock())
            self.events.flush()

    def sweep(self) -> None:
        """Enforce all deadlines that have passed; tests with a hand-driven clock call it themselves."""
        now = self.clock()
        for manager in self.managers.values():
            manager.sweep(now)
        self.recorder.sweep(now)

    async def serve(self) -> None:
        """Start, run until a signal or ``ask_to_stop``, drain, stop."""
        loop = asyncio.get_running_loop()
        # Before the start: unhandled, a reload that comes too early would kill the process.
        loop.add_signal_handler(signal.SIGHUP, self._reload_on_signal)
        try:
            await self.start()
            self._allow_descriptors()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.ask_to_stop, signal.Signals(number).name)
            try:
                settle()
                if self._reload_asked:
                    self._reload_on_signal()
                await self._stop_asked.wait()
            finally:
                await self.stop()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _allow_descriptors(self) -> None:
        wanted = sum(gateway.limits.connections_count for gateway in self.gateways.values())
        wanted += DESCRIPTORS_RESERVED_COUNT
        allowed = descriptors.allow(wanted)
        if allowed < wanted:
            self.events.emit(FEW_DESCRIPTORS, None, allowed, wanted)

    def ask_to_stop(self, cause: str = "asked") -> None:
        """Drain and end; asked a second time: end now."""
        if self._stop_asked.is_set():
            self._abort_asked.set()
            return
        self.events.emit(SERVER_DRAINING, None, cause)
        self._stop_asked.set()

    def reload(self) -> None:
        """Read the configuration again, by the application's function; live connections follow.

        TLS files are read again too; those with problems leave their listener as it was, and an event tells.

        Raises: whatever the application's function raises for a configuration with problems; nothing is changed then.
        """
        if self._on_reload is not None:
            self._on_reload()
        for listener, context in self._tls:
            try:
                context.reload(listener.settings.tls)
                self._warn(listener, context)
            except ConfigError as error:
                for problem in error.problems:
                    self.events.emit(TLS_REFUSED, None, listener.address, str(problem))
                self._warn(listener, context)
            except Exception as error:  # noqa: BLE001 - the new configuration is in force: its connections are asked yet
                self.events.emit(TLS_REFUSED, None, listener.address, type(error).__name__)
        for manager in self.managers.values():
            manager.reload()
        self.events.emit(SERVER_RELOADED, None)

    def _reload_on_signal(self) -> None:
        if not self.is_ready:
            self._reload_asked = True  # the gateways are not there yet
            return
        self._reload_asked = False
        try:
            self.reload()
        except SojournError as error:
            count = len(error.problems) if isinstance(error, ConfigError) else 1
            self.events.emit(RELOAD_REFUSED, None, count)

    def use_listeners(self, gateway_name: str, listeners: Sequence[ListenerSettings]) -> bool:
        """Take new settings of a gateway's listeners, in their old order; the next reload puts their TLS in force.

        Returns: whether that is all that changed; the rest, such as another address, needs a restart.
        """
        mine = [one for one in self.listeners if one.manager.gateway.name == gateway_name]
        is_all = len(mine) == len(listeners)
        for listener, settings in zip(mine, listeners, strict=False):
            old = listener.settings
            if (old.tls is None) != (settings.tls is None) or old.address != settings.address:
                is_all = False
                continue
            listener.settings = msgspec.structs.replace(old, tls=settings.tls)
            is_all = is_all and listener.settings == settings
        return is_all

    def _warn(self, listener: Listener, context: ReloadableContext) -> None:
        for sentence in context.warnings():
            self.events.emit(TLS_WARNING, None, listener.address, sentence)

    async def stop(self, *, timeout_s: float | None = None) -> None:
        """Take leave, stop accepting, drain every gateway side by side, close all that ``start`` opened."""
        self.is_ready = False
        async with asyncio.TaskGroup() as group:
            for manager in self.managers.values():
                limit_s = manager.gateway.limits.drain_timeout_s if timeout_s is None else timeout_s
                group.create_task(self._stop_serving(manager, limit_s))
        for gateway in reversed(self.gateways.values()):
            if hasattr(gateway, "server"):
                await self._closing(gateway.stop())
        works = [task for task in (*self._works, self._ticker) if task is not None]
        for task in works:
            task.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        self._works.clear()
        await self.offload.close(OFFLOAD_CLOSE_S)
        self.events.emit(SERVER_STOPPED, None)
        self.events.flush()

    async def _closing(self, work: Awaitable[None]) -> None:
        """Await one part of the end; whatever it raises is told, and the rest is closed all the same."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - told above
            self.events.emit(LOOP_ERROR, None, "a part could not be closed", type(error).__name__)

    async def _stop_serving(self, manager: ConnectionManager, timeout_s: float) -> None:
        """Let one gateway take its leave while it still serves, then accept nothing more, then drain it.

        The leave and the drain share the time, but for a moment that the drain has in any case.
        """
        until = manager.loop.time() + timeout_s
        if timeout_s:
            await self._leave(manager, timeout_s)
            timeout_s = max(until - manager.loop.time(), min(timeout_s, DRAIN_LEAST_S))
        for listener in self.listeners:
            if listener.manager is manager:
                await self._closing(listener.close())
        await self._drain(manager, timeout_s)

    async def _leave(self, manager: ConnectionManager, timeout_s: float) -> None:
        """Await the gateway's leave until the deadline, or until a second signal comes."""
        leaving = manager.loop.create_task(manager.gateway.leave(timeout_s))
        aborting = manager.loop.create_task(self._abort_asked.wait())
        try:
            await asyncio.wait((leaving, aborting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            aborting.cancel()
            for result in await asyncio.gather(leaving, aborting, return_exceptions=True):
                if isinstance(result, Exception):
                    self.events.emit(LOOP_ERROR, None, "the leave failed", type(result).__name__)

    async def _drain(self, manager: ConnectionManager, timeout_s: float) -> None:
        """Drain one gateway, or end it now when a second signal comes."""
        draining = manager.loop.create_task(manager.drain(timeout_s))
        aborting = manager.loop.create_task(self._abort_asked.wait())
        sweeping = manager.loop.create_task(self._sweep_while_draining(manager))
        try:
            await asyncio.wait((draining, aborting), return_when=asyncio.FIRST_COMPLETED)
            if not draining.done() or draining.exception() is not None:
                draining.cancel()
                await manager.abort()
        finally:
            for task in (draining, aborting, sweeping):
                task.cancel()
            for result in await asyncio.gather(draining, aborting, sweeping, return_exceptions=True):
                if isinstance(result, Exception):
                    self.events.emit(LOOP_ERROR, None, "the drain failed", type(result).__name__)

    async def _sweep_while_draining(self, manager: ConnectionManager) -> None:
        """Keep deadlines while the ticker may not run: a drain must not wait for a session that is too late."""
        while True:
            await asyncio.sleep(TICK_S)
            manager.sweep(self.clock())

    def _on_breaker(self, endpoint: str, old: CircuitState, new: CircuitState) -> None:
        self.events.emit(BREAKER_CHANGED, None, endpoint, old.word, new.word)

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Turn what the loop complains about into an event: one line, no traceback."""
        error = context.get("exception")
        message = str(context.get("message", "")).split("\n")[0]
        if "SSL" in message or "handshake" in message:
            self.events.emit(HANDSHAKE_FAILED, None, "unknown", type(error).__name__)
            return
        self.events.emit(LOOP_ERROR, None, message, type(error).__name__)


def _first_of(error: BaseException) -> str:
    """Return the name of an error, or of the first one in a group, and where it was raised; never its text."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__} at {raised_at(error)}"


def serve(gateway: Gateway, *addresses: str, log: LogSettings | None = None) -> None:
    """Serve one gateway until SIGTERM or Ctrl-C: all that a program needs which is nothing but that gateway.

    Log lines go where ``log`` says, by default to standard error. Whoever needs more, such as several gateways, TLS
    or a reload, makes a :class:`Server`.

    Args:
        addresses: as in ``ListenerSettings.address``: host:port, [v6]:port or unix:/path.
    Raises: OSError for an address that cannot be bound.
    """

    async def until_told() -> None:
        server = Server()
        view = LogView(log or LogSettings(), server.events.unix_time)
        server.events.add_view(view)
        server.add(gateway, tuple(ListenerSettings(address=address) for address in addresses))
        try:
            await server.serve()
        finally:
            view.close()

    run(until_told())
