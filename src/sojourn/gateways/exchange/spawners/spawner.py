"""Spawner: what the gateway asks of a place where simulators run, and the words for it.

A handle is all that is needed to find a simulator again, by whichever process of ours; its state is JSON that fits a
column of the database. What changes, the phase and the endpoint, is a status, which is asked for or watched.

What it does not know on purpose: gRPC, and which drivers there are.
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.market.settings import MarketSettings

Place = dict[str, str | int]
"""A driver's own words for where a simulator is, such as a pid or the name and uid of a Pod."""


class Phase:
    """Where a simulator stands. STOPPED and FAILED are final; what a driver knows nothing of is STOPPED."""

    STARTING: Final = "starting"
    RUNNING: Final = "running"
    STOPPED: Final = "stopped"
    FAILED: Final = "failed"


FINAL_PHASES: Final = frozenset({Phase.STOPPED, Phase.FAILED})


class SimulatorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A simulator as it is wanted.

    Shape: ``simulator`` is unique for ever and made of letters, digits and hyphens, at most 63 of them; ``session`` is
    empty for one that waits in a warm pool, which then belongs to the session that attaches first.
    """

    simulator: str
    session: str = ""
    market: MarketSettings = MarketSettings()
    owner_timeout_s: float = 300.0
    """Without an owner's heartbeat for so long it ends by itself; 0 = never."""


class SimulatorHandle(msgspec.Struct, frozen=True, kw_only=True):
    """Which simulator is meant: made by :meth:`Spawner.create`, :meth:`Spawner.load_state` or :meth:`Spawner.list`."""

    simulator: str
    driver: str
    session: str = ""
    place: Place = {}


class SimulatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a simulator stands.

    Shape: ``endpoint`` is a gRPC target (``unix:/run/...``, ``10.1.2.3:7400``), empty until it is RUNNING; ``detail``
    says for people why it FAILED or what a start waits for, and holds no secret. ``since_ms`` is unix time.
    """

    phase: str
    endpoint: str = ""
    detail: str = ""
    since_ms: int = 0

    @property
    def is_final(self) -> bool:
        """Nothing more comes of it."""
        return self.phase in FINAL_PHASES


class SimulatorSeen(NamedTuple):
    """A simulator and where it stands."""

    handle: SimulatorHandle
    status: SimulatorStatus


class Spawner(abc.ABC):
    """One place where simulators run.

    Life: the gateway makes one per configured driver, opens it, and closes it when it stops; closing ends only those
    simulators that are to die with us. All methods are called in one loop. Drivers announce what changes through
    ``news``.

    Always true: a simulator that is not RUNNING within the driver's start timeout is FAILED, and removed.
    """

    driver: ClassVar[str]
    """The name by which it is configured, and which its handles carry."""

    def __init__(self) -> None:
        self.news = News()

    async def open(self) -> None:
        """Begin: find what an earlier process left, and remove what of it is dead.

        Raises: ConfigError for what the operator has to mend; BackendUnavailable if the place does not answer.
        """
        self.news = News()

    async def close(self) -> None:
        """End: no watch and no progress goes on; leave or end the simulators, as the driver is told."""
        self.news.close()

    @abc.abstractmethod
    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Begin to start a simulator and return; one that exists already under this name is that one.

        Raises: BackendUnavailable if the place refuses or does not answer; LimitExceeded if it is full.
        """

    @abc.abstractmethod
    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """Return where a simulator stands.

        Raises: BackendUnavailable if that cannot be known now; the simulator may be well.
        """

    @abc.abstractmethod
    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """End a simulator and return when it has gone: asked first, killed after the grace; gone already is fine.

        Raises: BackendUnavailable if the place does not answer; to be tried again.
        """

    @abc.abstractmethod
    async def list(self) -> list[SimulatorSeen]:
        """Return every simulator of this deployment that is there, whoever of us has started it.

        Raises: BackendUnavailable if the place does not answer.
        """

    async def attached(self, handle: SimulatorHandle) -> bool:  # noqa: ARG002 - a driver with a pool looks at it
        """Take note that the session has attached, so that a simulator out of a warm pool does not go back there.

        Returns: False if it is not the session's any more, and another one is to be created; without a pool never.
        Raises: BackendUnavailable if the place does not answer; to be tried again.
        """
        return True

    async def upkeep(self, wanted: Collection[str]) -> None:  # noqa: B027 - most places need none
        """One pass over what nobody wants and over the pool, by one process of ours at a time, every few seconds.

        Args:
            wanted: names of all simulators that are wanted, of those without a handle yet too; all else may be ended.
        Raises: BackendUnavailable if the place does not answer; LimitExceeded if it has no room for the pool.
        """

    async def watch(self) -> AsyncIterator[SimulatorSeen]:
        """Yield every simulator that this process knows, and then each change, until the spawner closes.

        A slow reader misses what lies between, never where a simulator stands last.
        """
        with self.news.reader() as reader:
            while (seen := await reader.next()) is not None:
                yield seen

    async def progress(self, handle: SimulatorHandle) -> AsyncIterator[SimulatorStatus]:
        """Yield how the start goes; the last one is RUNNING, STOPPED or FAILED."""
        with self.news.reader() as reader:
            status = await self.poll(handle)
            yield status
            while status.phase == Phase.STARTING:
                seen = await reader.next()
                if seen is None:
                    return
                if seen.handle.simulator == handle.simulator and seen.status != status:
                    status = seen.status
                    yield status

    def get_state(self, handle: SimulatorHandle) -> dict[str, Any]:
        """Return what another process of ours needs to find the simulator: plain JSON, no secret.

        Then: to be asked for again once the simulator is RUNNING; a driver may know more then.
        """
        state: dict[str, Any] = msgspec.to_builtins(handle)
        return state

    async def load_state(self, state: dict[str, Any]) -> SimulatorHandle:
        """Take over a simulator from its state; :meth:`poll` then says whether it is still there.

        Raises: ConfigError if this is no state of this driver.
        """
        try:
            handle = msgspec.convert(state, SimulatorHandle)
        except msgspec.ValidationError as error:
            raise ConfigError([Problem("simulator", 0, "", "state", str(error), "a handle")]) from None
        if handle.driver != self.driver:
            raise ConfigError([Problem("simulator", 0, "", "driver", repr(handle.driver), repr(self.driver))])
        return handle


class News:
    """What changes among a driver's simulators, for any number of readers.

    Each reader has at most one entry per simulator in front of it, the last; so nothing here grows beyond the number of
    simulators. Driver code calls :meth:`tell`, in the loop.
    """

    def __init__(self) -> None:
        self.latest: dict[str, SimulatorSeen] = {}
        self._readers: set[NewsReader] = set()
        self._is_closed = False

    def tell(self, handle: SimulatorHandle, status: SimulatorStatus) -> SimulatorStatus:
        """Say where a simulator stands; return it with its time. What is told twice is told once."""
        known = self.latest.get(handle.simulator)
        if known is not None and known.handle == handle:
            old = known.status
            if (old.phase, old.endpoint, old.detail) == (status.phase, status.endpoint, status.detail):
                return old
        if not status.since_ms:
            status = msgspec.structs.replace(status, since_ms=unix_ms())
        seen = self.latest[handle.simulator] = SimulatorSeen(handle, status)
        for reader in self._readers:
            reader.put(seen)
        return status

    def forget(self, simulator: str) -> None:
        """Drop a simulator that has gone; who has not read its end yet still will."""
        self.latest.pop(simulator, None)

    def close(self) -> None:
        """Let every reader end when it has read what there is."""
        self._is_closed = True
        for reader in self._readers:
            reader.close()

    @contextmanager
    def reader(self) -> Iterator[NewsReader]:
        """Return a reader that begins with all that is known."""
        reader = NewsReader(self.latest)
        self._readers.add(reader)
        if self._is_closed:
            reader.close()
        try:
            yield reader
        finally:
            self._readers.discard(reader)


class NewsReader:
    """One reader of the news; made by :meth:`News.reader`."""

    def __init__(self, latest: dict[str, SimulatorSeen]) -> None:
        self._waiting = dict(latest)
        self._is_closed = False
        self._has_news = asyncio.Event()
        if latest:
            self._has_news.set()

    def put(self, seen: SimulatorSeen) -> None:
        """Keep an entry instead of the one before of the same simulator."""
        self._waiting.pop(seen.handle.simulator, None)
        self._waiting[seen.handle.simulator] = seen
        self._has_news.set()

    def close(self) -> None:
        """Let it end after what it has."""
        self._is_closed = True
        self._has_news.set()

    async def next(self) -> SimulatorSeen | None:
        """Wait for the next entry; None when there will be no more."""
        await self._has_news.wait()
        if not self._waiting:
            return None
        seen = self._waiting.pop(next(iter(self._waiting)))
        if not self._waiting and not self._is_closed:
            self._has_news.clear()
        return seen


def unix_ms() -> int:
    """Return the unix time in milliseconds."""
    return time.time_ns() // 1_000_000
