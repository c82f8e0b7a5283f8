"""Simulators that somebody else runs, at endpoints that are known.

Each serves one session at a time, so there are as many simulators as endpoints. They are neither started nor ended
here: ``create`` gives one away, ``stop`` takes it back. Whose each is stands in the database, where every pod sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from msgspec import Meta

from sojourn.core.settings import Seconds, Settings
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.rows import PoolState
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from sojourn.gateways.exchange.rows import PoolRow
    from sojourn.gateways.exchange.storage import PoolTable

LARGEST_PORT: Final = 65_535
FOR_GOOD_S: Final = 100 * 365 * 86_400.0
"""How long an endpoint is held: until it is given back."""


class StaticSettings(Settings, frozen=True):
    """Simulators that run already."""

    endpoints: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1, description="Where they are: host:port or unix:/path.", examples=[["10.0.0.7:7400"]]
        ),
    ]
    connect_timeout_s: Annotated[Seconds, Meta(description="To see whether one is there.")] = 2.0

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is no endpoint, and one that would serve two sessions."""
        for index, endpoint in enumerate(self.endpoints):
            host, _, port = endpoint.rpartition(":")
            is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= LARGEST_PORT
            if not endpoint.startswith("unix:/") and not (host and is_port):
                yield f"endpoints[{index}]", repr(endpoint), "host:port or unix:/path"
            if endpoint in self.endpoints[:index]:
                yield f"endpoints[{index}]", f"{endpoint!r} again", "each simulator once"


class StaticSpawner(Spawner):
    """The driver ``static``.

    Always true: an endpoint is one simulator's at a time, whichever pods give it away. Each has a row in the pool, held
    under the simulator's name; one claim of a row wins.

    Args:
        settings: of the driver.
        pool: the table that all pods share.
    """

    driver: ClassVar[str] = "static"

    def __init__(self, settings: StaticSettings, pool: PoolTable) -> None:
        super().__init__()
        self.settings = settings
        self._pool = pool
        self._doubtful: frozenset[str] = frozenset()

    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Give away an endpoint that is free."""
        rows = {row.endpoint: row for row in await self._pool.list(self.driver)}
        mine = next((row for row in rows.values() if row.claim_token == spec.simulator), None)
        if mine is None:
            mine = await self._claim(spec, rows)
        handle = self._handle(mine)
        self.news.tell(handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=mine.endpoint))
        return handle

    async def _claim(self, spec: SimulatorSpec, rows: dict[str, PoolRow]) -> PoolRow:
        """Take the first endpoint that is free and that no other pod takes first."""
        for endpoint in self.settings.endpoints:
            if endpoint not in rows:
                await self._pool.add(endpoint, self.driver, endpoint, endpoint, {})
            elif rows[endpoint].state != PoolState.READY:
                continue
            row = await self._pool.claim(
                self.driver, endpoint, session_id=spec.session, token=spec.simulator, hold_s=FOR_GOOD_S
            )
            if row is not None:
                return row
        endpoints_count = len(self.settings.endpoints)
        raise LimitExceeded("simulators", endpoints_count + 1, endpoints_count)

    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """See whether something listens there; an endpoint that other pods still have is the session's, too."""
        endpoint = str(handle.place.get("endpoint", ""))
        try:
            await self._connect(endpoint)
        except BackendUnavailable:
            if endpoint in self.settings.endpoints:
                raise
            gone = "its endpoint is not configured any more, and does not answer"
            return SimulatorStatus(phase=Phase.STOPPED, detail=gone)
        return self.news.tell(handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=endpoint))

    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """Take the endpoint back; what runs there goes on."""
        del grace_s
        await self._pool.give_back(str(handle.place.get("endpoint", "")), handle.simulator)
        if handle.simulator in self.news.latest:
            self.news.tell(handle, SimulatorStatus(phase=Phase.STOPPED, detail="it was given back"))
        self.news.forget(handle.simulator)

    async def list(self) -> list[SimulatorSeen]:
        """Return what any pod has given away."""
        return [self._seen(row) for row in await self._pool.list(self.driver) if row.claim_token]

    async def upkeep(self, wanted: Collection[str]) -> None:
        """Take back what nobody wants, and forget endpoints that are not configured any more.

        What is not wanted may have been given away after ``wanted`` was read, so it must not be wanted twice.
        """
        rows = await self._pool.list(self.driver)
        unwanted = {
            row.claim_token: row.id for row in rows if row.claim_token and row.claim_token not in wanted
        }
        for simulator in self._doubtful & unwanted.keys():
            await self._pool.give_back(unwanted[simulator], simulator)
        self._doubtful = frozenset(unwanted)
        for row in rows:
            if row.state == PoolState.READY and row.endpoint not in self.settings.endpoints:
                await self._pool.withdraw(row.id)

    def _handle(self, row: PoolRow) -> SimulatorHandle:
        return SimulatorHandle(
            simulator=row.claim_token,
            driver=self.driver,
            session=row.session_id,
            place={"endpoint": row.endpoint},
        )

    def _seen(self, row: PoolRow) -> SimulatorSeen:
        known = self.news.latest.get(row.claim_token)
        status = SimulatorStatus(phase=Phase.RUNNING, endpoint=row.endpoint)
        return SimulatorSeen(self._handle(row), status) if known is None else known

    async def _connect(self, endpoint: str) -> None:
        timeout_s = self.settings.connect_timeout_s
        path = endpoint.removeprefix("unix:")
        try:
            async with asyncio.timeout(timeout_s):
                if path != endpoint:
                    _, writer = await asyncio.open_unix_connection(path)
                else:
                    host, _, port = endpoint.rpartition(":")
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            cause = getattr(error, "strerror", None) or "it did not answer"
            raise BackendUnavailable(endpoint, timeout_s, cause) from None
