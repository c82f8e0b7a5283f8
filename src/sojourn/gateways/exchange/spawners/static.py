"""Simulators that somebody else runs, at endpoints that are known.

Each serves one session at a time, so there are as many simulators as endpoints. They are neither started nor ended
here: ``create`` gives one away, ``stop`` takes it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from sojourn.core.settings import Seconds, Settings
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)

LARGEST_PORT: Final = 65_535


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

    Which endpoints are taken is known by the handles: those that this process has made, and those that it has loaded.

    Args:
        settings: of the driver.
    """

    driver: ClassVar[str] = "static"

    def __init__(self, settings: StaticSettings) -> None:
        super().__init__()
        self.settings = settings
        self._taken: dict[str, SimulatorHandle] = {}

    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Give away an endpoint that is free."""
        taken = {str(handle.place["endpoint"]) for handle in self._taken.values()}
        known = self._taken.get(spec.simulator)
        if known is not None:
            return known
        free = next((one for one in self.settings.endpoints if one not in taken), None)
        if free is None:
            raise LimitExceeded("simulators", len(taken) + 1, len(self.settings.endpoints))
        handle = SimulatorHandle(
            simulator=spec.simulator, driver=self.driver, session=spec.session, place={"endpoint": free}
        )
        self._taken[spec.simulator] = handle
        self.news.tell(handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=free))
        return handle

    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """See whether something listens there."""
        endpoint = str(handle.place.get("endpoint", ""))
        if endpoint not in self.settings.endpoints:
            return SimulatorStatus(phase=Phase.STOPPED, detail="its endpoint is not configured any more")
        self._taken.setdefault(handle.simulator, handle)
        await self._connect(endpoint)
        return self.news.tell(handle, SimulatorStatus(phase=Phase.RUNNING, endpoint=endpoint))

    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """Take the endpoint back; what runs there goes on."""
        del grace_s
        if self._taken.pop(handle.simulator, None) is not None:
            self.news.tell(handle, SimulatorStatus(phase=Phase.STOPPED, detail="it was given back"))
        self.news.forget(handle.simulator)

    async def list(self) -> list[SimulatorSeen]:
        """Return what this process has given away."""
        return [self.news.latest[name] for name in self._taken if name in self.news.latest]

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
