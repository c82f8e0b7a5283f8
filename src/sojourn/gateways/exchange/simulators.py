"""SimulatorKeeper: what a session wants of a simulator, and what becomes of it; the row says, the spawner does.

A simulator is worked on by the owner of its session, one step after the other, each written to its row before the next;
so a pod that takes a session over goes on where the last one stood. What nobody owns any more is stopped by whichever
pod holds the cluster's task for orphans.

Source: exchange-session-service.md sections 5.2 and 5.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.errors import BackendUnavailable, ConfigError, LimitExceeded
from sojourn.gateways.exchange.lifecycle import FINAL_SIMULATOR_STATES, SimulatorState
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.rows import Desired, Observation, SimulatorRow
from sojourn.gateways.exchange.spawners.spawner import Phase, SimulatorHandle, SimulatorSpec

if TYPE_CHECKING:
    from sojourn.core.backoff import Backoff
    from sojourn.gateways.exchange.rows import Json
    from sojourn.gateways.exchange.spawners.spawner import Spawner
    from sojourn.gateways.exchange.storage import Storage

CLAIM_S: Final = 60.0
"""How long the work on a simulator is one pod's without a sign of life; a start takes less."""
RELEASE_S: Final = 1.0
"""How long the end of the work waits for the database; a claim that stays there is over by itself."""
GRACE_S: Final = 5.0
ATTACHED_TRIES_COUNT: Final = 8
"""How often a driver is told that its simulator is followed; a pool takes back what it is not told of in time."""

Told = Callable[[SimulatorRow], None]
"""Is told of each change of a row."""


class SimulatorKeeper:
    """Brings simulators up and down.

    Life: one per pod, without tasks of its own: whoever calls it awaits the work.

    Args:
        store: of the rows.
        spawners: by the names of their drivers.
        pod: that works.
        owner_timeout_s: a simulator without an owner for so long ends by itself.
        backoff: makes waits between tries.
    """

    def __init__(
        self,
        store: Storage,
        spawners: Mapping[str, Spawner],
        *,
        pod: str,
        owner_timeout_s: float,
        backoff: Callable[[], Backoff],
    ) -> None:
        self._store = store
        self._spawners = spawners
        self._pod = pod
        self._owner_timeout_s = owner_timeout_s
        self._backoff = backoff

    async def settle(self, row: SimulatorRow, told: Told) -> SimulatorRow:
        """Work on a simulator until it is what is wanted of it, or has failed; return its row.

        The work is given up, not ended, by cancellation: whoever owns the session next goes on with it, at once.
        """
        if self._is_settled(row):
            return row
        try:
            return await self._worked_on(row, told)
        finally:
            with suppress(BackendUnavailable, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await self._store.simulators.release_claim(row.id, self._pod)

    async def _worked_on(self, row: SimulatorRow, told: Told) -> SimulatorRow:
        """Claim the simulator and do what is to be done, step by step; return its row."""
        backoff = self._backoff()
        while not self._is_settled(row):
            try:
                if not await self._store.simulators.claim(row.id, self._pod, CLAIM_S):
                    await asyncio.sleep(next(backoff))
                elif row.desired == Desired.STOPPED:
                    await self._stop(row, told)
                else:
                    await self._start(row, told)
                fresh = await self._store.simulators.get(row.id)
            except (BackendUnavailable, LimitExceeded):
                await asyncio.sleep(next(backoff))
                continue
            if fresh is None:
                break
            row = fresh
        return row

    @staticmethod
    def _is_settled(row: SimulatorRow) -> bool:
        if row.state in FINAL_SIMULATOR_STATES:
            return True
        return row.desired == Desired.RUNNING and row.state == SimulatorState.RUNNING

    async def _start(self, row: SimulatorRow, told: Told) -> None:
        """Create it, if that was not done, and follow its start to the end.

        Raises: BackendUnavailable, LimitExceeded.
        """
        spawner = self._spawners.get(row.driver)
        if spawner is None:
            await self._fail(row, told, f"no driver {row.driver!r} here")
            return
        if row.handle:
            try:
                handle = await spawner.load_state(row.handle)
            except ConfigError as error:
                await self._fail(row, told, str(error))
                return
        else:
            spec = SimulatorSpec(
                simulator=row.id,
                session=row.session_id,
                market=msgspec.convert(row.spec, MarketSettings),
                owner_timeout_s=self._owner_timeout_s,
            )
            handle = await spawner.create(spec)
            starting = Observation(state=SimulatorState.STARTING, handle=spawner.get_state(handle))
            await self._see(row, starting, told)
        async for status in spawner.progress(handle):
            if status.phase == Phase.RUNNING:
                running = Observation(
                    state=SimulatorState.RUNNING,
                    endpoint=status.endpoint,
                    handle=spawner.get_state(handle),
                    is_unreachable=False,
                )
                await self._see(row, running, told)
                return
            if status.is_final:
                await self._fail(row, told, status.detail or f"it is {status.phase}")
                return

    async def _stop(self, row: SimulatorRow, told: Told) -> None:
        """Stop it and see it gone. Raises: BackendUnavailable."""
        spawner = self._spawners.get(row.driver)
        if row.handle and spawner is not None:
            await self._see(row, Observation(state=SimulatorState.STOPPING), told)
            handle = await spawner.load_state(row.handle)
            await spawner.stop(handle, GRACE_S)
        await self._see(row, Observation(state=SimulatorState.STOPPED, endpoint=""), told)

    async def look(self, row: SimulatorRow, told: Told, *, is_noted: bool) -> None:
        """Find out whether a simulator that ran still does, when its link says that it does not; note it if it does.

        Raises: BackendUnavailable.
        """
        spawner = self._spawners.get(row.driver)
        if spawner is None or row.state != SimulatorState.RUNNING:
            return
        handle: SimulatorHandle = await spawner.load_state(row.handle)
        status = await spawner.poll(handle)
        if status.phase == Phase.FAILED:
            await self._fail(row, told, status.detail or "it died")
        elif status.phase == Phase.STOPPED:
            await self._fail(row, told, status.detail or "it ended without being told to")
        elif not is_noted:
            await self._see(row, Observation(state=SimulatorState.RUNNING, is_unreachable=True), told)

    async def attached(self, row: SimulatorRow, told: Told) -> None:
        """Tell the driver that the session follows its simulator; one that has gone to another session has failed."""
        spawner = self._spawners.get(row.driver)
        if spawner is None or not row.handle:
            return
        backoff = self._backoff()
        for _ in range(ATTACHED_TRIES_COUNT):
            try:
                handle = await spawner.load_state(row.handle)
                if not await spawner.attached(handle):
                    await self._fail(row, told, "it was given back to the pool before the session came")
            except ConfigError:
                return
            except BackendUnavailable:
                await asyncio.sleep(next(backoff))
            else:
                return

    async def _fail(self, row: SimulatorRow, told: Told, why: str) -> None:
        failed = Observation(state=SimulatorState.FAILED, endpoint="", failure={"detail": why[:500]})
        await self._see(row, failed, told)

    async def _see(self, row: SimulatorRow, seen: Observation, told: Told) -> None:
        fresh = await self._store.simulators.observe(row.id, row.generation, seen)
        if fresh is not None:
            told(fresh)


def market_of(spec: Json | None, default: MarketSettings) -> Json:
    """Return the spec that is stored for a new simulator."""
    found: Json = msgspec.to_builtins(default) if spec is None else spec
    return found
