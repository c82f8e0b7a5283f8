"""Simulators in this very loop, each on a loopback port: for tests and for tiny setups.

They end with us, whatever is configured, and a market that computes makes everybody else wait.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Seconds, Settings
from sojourn.errors import ConfigError, LimitExceeded, Problem
from sojourn.gateways.exchange.sim.service import SimulatorService
from sojourn.gateways.exchange.sim.settings import NO_TOKEN, ServiceSettings
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)


class InprocSettings(Settings, frozen=True):
    """Simulators in the daemon's own process."""

    simulators_count: Annotated[int, Meta(ge=1, le=1_000, description="At the same time.")] = 20
    start_timeout_s: Annotated[Seconds, Meta(description="Until one can be reached.")] = 5.0
    drain_timeout_s: Annotated[
        Seconds, Meta(description="What its reader may take to read the rest when it ends.")
    ] = 1.0
    speed: Annotated[
        float, Meta(ge=0, le=100, description="Of the market's time; 0 = only orders move it.")
    ] = 1.0


DEFAULT_SETTINGS: Final = InprocSettings()


class InprocSpawner(Spawner):
    """The driver ``inproc``.

    Args:
        settings: of the driver.
        token: that every simulator wants of its callers.
    """

    driver: ClassVar[str] = "inproc"

    def __init__(self, settings: InprocSettings = DEFAULT_SETTINGS, token: Secret = NO_TOKEN) -> None:
        super().__init__()
        self.settings = settings
        self._token = token
        self._tasks: asyncio.TaskGroup | None = None
        self._services: dict[str, tuple[SimulatorService, asyncio.Task[None]]] = {}

    def service(self, simulator: str) -> SimulatorService | None:
        """Return the simulator itself, if it runs; for tests."""
        found = self._services.get(simulator)
        return found and found[0]

    async def open(self) -> None:
        """Begin."""
        await super().open()
        self._tasks = await asyncio.TaskGroup().__aenter__()

    async def close(self) -> None:
        """End every simulator."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            for service, _ in self._services.values():
                service.stop("the daemon ends")
            await tasks.__aexit__(None, None, None)
        await super().close()

    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Start a simulator."""
        handle = SimulatorHandle(simulator=spec.simulator, driver=self.driver, session=spec.session)
        if spec.simulator in self._services:
            return handle
        limit = self.settings.simulators_count
        if self._tasks is None or len(self._services) >= limit:
            raise LimitExceeded("simulators", len(self._services) + 1, limit)
        if spec.market.replay_file:
            wanted = "no file: the driver inproc reads none"
            raise ConfigError([Problem("simulator", 0, "market", "replay_file", "a file", wanted)])
        told = ServiceSettings(
            simulator=spec.simulator,
            session=spec.session,
            token=self._token,
            market=spec.market,
            owner_timeout_s=spec.owner_timeout_s,
            drain_timeout_s=self.settings.drain_timeout_s,
            speed=self.settings.speed,
        )
        try:
            service = SimulatorService(told)
        except ValueError as error:
            raise ConfigError([Problem("simulator", 0, "market", "", str(error), "a market")]) from None
        self.news.tell(handle, SimulatorStatus(phase=Phase.STARTING, detail="starting"))
        task = self._tasks.create_task(self._run(handle, service), name=f"simulator {spec.simulator}")
        self._services[spec.simulator] = service, task
        return handle

    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """Return where a simulator stands."""
        seen = self.news.latest.get(handle.simulator)
        return SimulatorStatus(phase=Phase.STOPPED, detail="it is not there") if seen is None else seen.status

    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """End a simulator."""
        found = self._services.get(handle.simulator)
        if found is not None:
            service, task = found
            service.stop()
            await asyncio.wait((task,), timeout=grace_s)
            task.cancel()
            await asyncio.wait((task,))
        self.news.forget(handle.simulator)

    async def list(self) -> list[SimulatorSeen]:
        """Return every simulator of this process."""
        return [self.news.latest[name] for name in self._services]

    async def _run(self, handle: SimulatorHandle, service: SimulatorService) -> None:
        """Serve one simulator to its end, and say how that came."""
        status = SimulatorStatus(phase=Phase.FAILED, detail="it was canceled")
        try:
            async with asyncio.timeout(self.settings.start_timeout_s) as starting:

                def ready(address: str) -> None:
                    starting.reschedule(None)
                    self.news.tell(handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=address))

                await service.run(ready)
            status = SimulatorStatus(phase=Phase.STOPPED, detail=service.ended_because)
        except TimeoutError:
            why = f"it could not be reached within {self.settings.start_timeout_s:g} s"
            status = SimulatorStatus(phase=Phase.FAILED, detail=why)
        except ConfigError as error:
            status = SimulatorStatus(phase=Phase.FAILED, detail=str(error))
        except Exception as error:  # noqa: BLE001 - one that breaks must not take the others with it
            status = SimulatorStatus(phase=Phase.FAILED, detail=f"a bug of ours: {type(error).__name__}")
        finally:
            self._services.pop(handle.simulator, None)
            if service.ended_because:
                status = SimulatorStatus(phase=Phase.STOPPED, detail=service.ended_because)
            self.news.tell(handle, status)
