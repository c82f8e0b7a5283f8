"""A Kubernetes API with a hollow node and our spawner in front of it, for tests; the API is our stub or a real one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from hollow_kubelet import HollowKubelet
from kubernetes_stub import ADMIN, KubernetesStub

from sojourn.core.clock import Clock
from sojourn.core.settings import BreakerSettings
from sojourn.gateways.exchange.spawners.kubernetes import KubernetesSpawner
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings, WarmPoolSettings
from sojourn.gateways.exchange.spawners.spawner import (
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
)

Document = dict[str, Any]
SPEC = SimulatorSpec(simulator="sim-1", session="session-1", owner_timeout_s=60.0)

DEFAULTS: dict[str, Any] = {
    "image": "registry.example/sojourn:1",
    "start_timeout_s": 20.0,
    "stop_margin_s": 5.0,
    "cleanup_grace_s": 1.0,
    "request_timeout_s": 5.0,
    "retry_s": 0.02,
    "retry_max_s": 0.2,
    # Reliable without them: a test that needs one of the two says so.
    "relist_s": 60.0,
    "watch_silence_s": 30.0,
    "breaker": BreakerSettings(open_s=0.05, open_max_s=0.2),
}


class Leap:
    """A monotonic clock that runs, and can be made to leap ahead."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.by_s


class KubernetesLab:
    """One API, its node, and spawners.

    Args:
        url: of the API server.
        kubeconfig: for the driver, with no more rights than its Role gives.
        token: an administrator's.
        kubelet: the node.
    """

    def __init__(
        self,
        url: str,
        kubeconfig: str,
        token: str,
        namespace: str,
        kubelet: HollowKubelet | None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.kubelet = kubelet
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = tls

    def settings(self, **more: Any) -> KubernetesSettings:
        """Return settings of a driver; a number for ``pool`` is its size."""
        pool = more.pop("pool", None)
        if isinstance(pool, int):
            more["pool"] = WarmPoolSettings(size_count=pool, hold_s=more.pop("hold_s", 30.0))
        return KubernetesSettings(**{**DEFAULTS, "kubeconfig_file": self.kubeconfig, **more})

    @contextlib.asynccontextmanager
    async def spawner(
        self, clock: Clock = time.monotonic, random: Callable[[], float] = random.random, **more: Any
    ) -> AsyncIterator[KubernetesSpawner]:
        """Open a spawner for as long as the block lasts."""
        spawner = KubernetesSpawner(self.settings(**more), clock=clock, random=random)
        await spawner.open()
        try:
            yield spawner
        finally:
            await spawner.close()

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Document]:
        """Make a request as the administrator; ``path`` is below the namespace."""
        url = f"{self.url}/api/v1/namespaces/{self.namespace}/{path}"
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        async with (
            aiohttp.ClientSession(headers=self._headers, connector=connector) as http,
            http.request(method, url, **more) as reply,
        ):
            return reply.status, await reply.json()

    async def pods(self) -> dict[str, Document]:
        """Return all Pods by name."""
        _, listed = await self.ask("GET", "pods")
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    async def pod(self, name: str) -> Document:
        """Return one Pod."""
        return (await self.pods())[name]

    async def label(self, name: str, **labels: str) -> None:
        """Change labels as somebody else would; ``pool`` is ``sojourn/pool``."""
        body = {"metadata": {"labels": {f"sojourn/{key}": value for key, value in labels.items()}}}
        headers = {"Content-Type": "application/merge-patch+json"}
        status, said = await self.ask("PATCH", f"pods/{name}", json=body, headers=headers)
        assert status == 200, said


@contextlib.asynccontextmanager
async def stub_lab(
    folder: Path, plan: str | Callable[[Document], str] = "run", stub: KubernetesStub | None = None
) -> AsyncIterator[tuple[KubernetesLab, KubernetesStub]]:
    """Start a stub and its node."""
    async with (
        stub or KubernetesStub() as api,
        HollowKubelet(api.url, ADMIN, api.namespace, plan) as kubelet,
    ):
        yield KubernetesLab(api.url, api.kubeconfig(folder), ADMIN, api.namespace, kubelet), api


async def reaches(
    spawner: KubernetesSpawner, handle: SimulatorHandle, phase: str, words: str = ""
) -> SimulatorStatus:
    """Wait for the news that a simulator stands somewhere; return its status."""
    async for seen in spawner.watch():
        if seen.handle.simulator != handle.simulator:
            continue
        if seen.status.phase == phase and words in seen.status.detail:
            return seen.status
    raise AssertionError("the spawner closed")


async def becomes(holds: Callable[[], Any]) -> None:
    """Wait until something is so that nobody announces."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.005)  # what is waited for has no event of its own


async def seen_until(spawner: KubernetesSpawner, simulator: str, phase: str) -> list[SimulatorSeen]:
    """Return all news of a simulator up to a phase."""
    news = []
    async for seen in spawner.watch():
        if seen.handle.simulator == simulator:
            news.append(seen)
            if seen.status.phase == phase:
                break
    return news
