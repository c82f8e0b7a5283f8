"""KubernetesSpawner: each simulator a bare Pod, found by its labels.

No Deployment: it would start a simulator anew that has forgotten everything. No owner reference: a simulator outlives
the Pods of the service. All processes of ours see the same Pods and do the same to those that failed; what they do is
said with the Pod's uid or version, so that doing it twice does it once.

A Pod that does not run in time is given up: its failure is written to it first, in words, so that everybody who watches
learns why, and then it is deleted. Nothing is pending for ever.

Knows nothing of gRPC: a Pod is RUNNING when its startup probe has reached the port.
"""

from __future__ import annotations

import asyncio
import math
import random as _random
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import ClassVar, Final

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.spawners.kubernetes_api import BACKEND, PodApi
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings
from sojourn.gateways.exchange.spawners.kubernetes_mirror import PodMirror
from sojourn.gateways.exchange.spawners.kubernetes_pods import (
    DEPLOYMENT_LABEL,
    FAILURE_ANNOTATION,
    POOL_LABEL,
    PodSeen,
    Pool,
    manifest,
    pod_name,
    read_status,
)
from sojourn.gateways.exchange.spawners.kubernetes_pool import WarmPool
from sojourn.gateways.exchange.spawners.spawner import (
    Phase,
    SimulatorHandle,
    SimulatorSeen,
    SimulatorSpec,
    SimulatorStatus,
    Spawner,
)

ENDS_COUNT: Final = 1_000
"""Simulators that have gone whose end is remembered, for who asks late."""

REMOVES_AGAIN_S: Final = 10.0
"""A Pod whose deletion was answered is deleted again if it is still there by then."""

GONE: Final = SimulatorStatus(phase=Phase.STOPPED, detail="it is gone")


class KubernetesSpawner(Spawner):
    """Simulators as Pods of one namespace.

    Always true: a Pod that is no simulator's any more is deleted, by this process or another one.

    Args:
        settings: of the driver.
        clock: monotonic seconds.
        random: a number in [0, 1) for pauses between tries.
    """

    driver: ClassVar[str] = "kubernetes"

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        clock: Clock = monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.api = PodApi(settings, clock=clock, random=random)
        self.mirror = PodMirror(self.api, self._on_pod, clock)
        self.pool = WarmPool(self.api, self.mirror, clock)
        self.orphans_count = 0
        """Pods of nobody that this process has deleted."""
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._has_work = asyncio.Event()
        self._unsettled: set[str] = set()
        """Names of Pods that start or have ended; all others need no look."""
        self._changed = asyncio.Event()
        self._ends: OrderedDict[str, SimulatorStatus] = OrderedDict()
        self._removed_at: dict[str, float] = {}
        self._suspects: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Find the Pods that are there, and begin to follow them.

        Raises: ConfigError without a configuration that can be used; BackendUnavailable if nobody answers there.
        """
        await super().open()
        self.api.open()
        try:
            await self.mirror.relist()
        except BaseException:
            await self.api.close()
            raise
        self._group = await asyncio.TaskGroup().__aenter__()
        self._tasks = (
            self._group.create_task(self.mirror.follow(), name="kubernetes watch"),
            self._group.create_task(self._tend(), name="kubernetes upkeep"),
        )

    async def close(self) -> None:
        """Follow no longer; every Pod stays."""
        for task in self._tasks:
            task.cancel()
        self._tasks = ()
        if self._group is not None:
            group, self._group = self._group, None
            await group.__aexit__(None, None, None)
        await self.api.close()
        await super().close()

    @property
    def trouble(self) -> str:
        """Why the API server cannot be followed at the moment, in words for the operator; empty if it can."""
        return self.mirror.trouble

    async def create(self, spec: SimulatorSpec) -> SimulatorHandle:
        """Take a Pod of the pool, or start one; asked again for the same simulator, return the same Pod.

        Returns: its handle, which names the simulator; one of the pool keeps the name that it was started under.
        Then: :meth:`attached`, once its session has it.
        Raises: ValueError for names that no label can hold; BackendUnavailable; LimitExceeded.
        """
        claimed = await self.pool.claim(spec)
        if claimed is not None:
            return self._handle(claimed)
        wanted = manifest(self.settings, spec, is_pooled=False)
        name = pod_name(self.settings.deployment, spec.simulator)
        if self.mirror.get(name) is None and len(self.mirror.pods) >= self.settings.simulators_count:
            count = self.settings.simulators_count
            raise LimitExceeded("simulators in Kubernetes", len(self.mirror.pods) + 1, count)
        pod = await self.api.create(wanted) or await self.api.get(name)
        if pod is None:
            raise BackendUnavailable(BACKEND, 0.0, f"the Pod {name} went while it was being made")
        is_ours = (pod.simulator, pod.session) == (spec.simulator, spec.session)
        if not is_ours or pod.label(DEPLOYMENT_LABEL) != self.settings.deployment:
            raise BackendUnavailable(BACKEND, 0.0, f"there is a Pod {name} that is not ours")
        if pod.is_ending:
            raise BackendUnavailable(BACKEND, 0.0, f"the Pod {name} of an earlier try is still ending")
        self.mirror.put(pod)
        return self._handle(pod)

    async def attached(self, handle: SimulatorHandle) -> bool:
        """Take note that the session has its simulator, so that it does not go back to the pool.

        Returns: False if it is not the session's any more: stop nothing, create another one.
        Raises: BackendUnavailable.
        """
        pod = await self._find(handle)
        return pod is not None and await self.pool.confirm(pod, handle.session)

    async def poll(self, handle: SimulatorHandle) -> SimulatorStatus:
        """Return where a simulator stands; from what the watch told, as long as that can be relied on."""
        pod = await self._find(handle)
        if pod is None:
            return self._ends.get(handle.simulator, GONE)
        return read_status(pod, self.settings.port)

    async def stop(self, handle: SimulatorHandle, grace_s: float) -> None:
        """Delete the Pod and wait until it is gone; without its node's word if that does not come."""
        pod = await self._find(handle)
        if pod is None:
            return
        grace = max(1, math.ceil(grace_s))
        if not await self.api.delete(pod, grace):
            return  # another Pod has its name: it is gone
        if await self._is_gone(pod, grace + self.settings.stop_margin_s):
            return
        await self.api.delete(pod, 0)
        if not await self._is_gone(pod, self.settings.stop_margin_s):
            raise BackendUnavailable(BACKEND, grace_s, f"the Pod {pod.name} does not go")

    async def list(self) -> list[SimulatorSeen]:
        """Return every simulator that is a session's; those that wait in the pool are not."""
        listed = await self.mirror.relist()
        return [
            SimulatorSeen(self._handle(pod), read_status(pod, self.settings.port))
            for pod in listed.pods
            if pod.simulator and pod.label(POOL_LABEL) != Pool.READY
        ]

    async def upkeep(self, wanted: Collection[str]) -> None:
        """One pass over what is nobody's and over the pool; for one process of ours at a time.

        A Pod is nobody's if two passes in a row find that its simulator is not wanted, it is old enough, and nothing
        has happened to it between our look and its deletion.

        Args:
            wanted: the names of all simulators that the database wants, whether or not they have a Pod.
        Raises: BackendUnavailable; LimitExceeded if the namespace has no room for the pool.
        """
        await self.mirror.relist()
        suspects = {
            pod.metadata.uid: pod
            for pod in self.mirror.pods
            if not (pod.is_ending or pod.is_waiting or pod.simulator in wanted)
            and self.mirror.age_s(pod) >= self.settings.orphan_age_s
        }
        for uid, pod in suspects.items():
            if uid in self._suspects and await self.api.delete(pod, self._cleanup_grace_s, is_exact=True):
                self.orphans_count += 1
        self._suspects = frozenset(suspects)
        await self.pool.keep()

    # What the mirror tells

    def _on_pod(self, pod: PodSeen, is_gone: bool) -> None:
        status = read_status(pod, self.settings.port)
        name, handle = pod.simulator, self._handle(pod)
        is_ready = pod.label(POOL_LABEL) == Pool.READY
        self._changed.set()
        self._note_work(pod, status, is_gone=is_gone)
        if is_gone:
            self._removed_at.pop(pod.metadata.uid, None)
            self._end(handle, status if status.is_final else GONE, is_told=not is_ready)
        elif not is_ready:
            self.news.tell(handle, status)
        elif name in self.news.latest:
            given_back = SimulatorStatus(phase=Phase.STOPPED, detail="its session did not come for it")
            self._end(self.news.latest[name].handle, given_back, is_told=True)
        if is_ready and is_gone and status.phase == Phase.FAILED:
            self.pool.failed()

    def _note_work(self, pod: PodSeen, status: SimulatorStatus, *, is_gone: bool) -> None:
        """Keep what may be due with a Pod, and wake :meth:`_tend` where that is new."""
        if is_gone or pod.is_ending or status.phase == Phase.RUNNING:
            self._unsettled.discard(pod.name)
        elif status.is_final or pod.name not in self._unsettled:
            self._unsettled.add(pod.name)
            self._has_work.set()

    def _end(self, handle: SimulatorHandle, status: SimulatorStatus, *, is_told: bool) -> None:
        name = handle.simulator
        self._ends[name] = self.news.tell(handle, status) if is_told else status
        self._ends.move_to_end(name)
        if len(self._ends) > ENDS_COUNT:
            self._ends.popitem(last=False)
        self.news.forget(name)

    def _handle(self, pod: PodSeen) -> SimulatorHandle:
        place: dict[str, str | int] = {
            "namespace": self.api.namespace,
            "pod": pod.name,
            "uid": pod.metadata.uid,
        }
        return SimulatorHandle(simulator=pod.simulator, driver=self.driver, session=pod.session, place=place)

    async def _find(self, handle: SimulatorHandle) -> PodSeen | None:
        """Return a simulator's Pod; None if there is none, or it is another session's.

        That it is not there is believed only of the server itself, or where we have seen it go: another process of
        ours may have made or claimed it a moment ago.
        """
        name = str(handle.place.get("pod") or pod_name(self.settings.deployment, handle.simulator))
        uid = str(handle.place.get("uid", ""))
        pod = self.mirror.get(name) if self.mirror.is_fresh else None
        if pod is not None and self._is_of(pod, handle):
            return pod
        if uid and self.mirror.has_ended(uid):
            return None
        pod = await self.api.get(name)
        if pod is None or not self._is_of(pod, handle):
            return None
        self.mirror.put(pod)
        return pod

    def _is_of(self, pod: PodSeen, handle: SimulatorHandle) -> bool:
        """Say whether a Pod is the very one that a handle means."""
        return (
            (pod.simulator, pod.session) == (handle.simulator, handle.session)
            and pod.label(DEPLOYMENT_LABEL) == self.settings.deployment
            and handle.place.get("uid", pod.metadata.uid) == pod.metadata.uid
        )

    # What has to be done in time

    async def _tend(self) -> None:
        """Give up what does not start and delete what has ended, whenever something is due, until cancelled."""
        backoff = self.api.backoff()
        while True:
            self._has_work.clear()
            due_s: float | None = None
            for name in tuple(self._unsettled):
                pod = self.mirror.get(name)
                try:
                    left_s = await self._tend_one(pod) if pod else None
                except BackendUnavailable:
                    left_s = next(backoff)
                else:
                    backoff.reset()
                due_s = left_s if due_s is None or (left_s is not None and left_s < due_s) else due_s
            try:
                async with asyncio.timeout(due_s):
                    await self._has_work.wait()
            except TimeoutError:
                continue

    async def _tend_one(self, pod: PodSeen) -> float | None:
        """Do what is due with a Pod; return in how many seconds something will be, None if nothing."""
        if pod.is_ending:
            return None
        status = read_status(pod, self.settings.port)
        if status.is_final:
            again_s = self._removed_at.get(pod.metadata.uid, -math.inf) + REMOVES_AGAIN_S - self._clock()
            if again_s <= 0:
                await self.api.delete(pod, self._cleanup_grace_s)
                self._removed_at[pod.metadata.uid] = self._clock()
                again_s = REMOVES_AGAIN_S
            return again_s
        if status.phase != Phase.STARTING:
            return None
        left_s = self.settings.start_timeout_s - self.mirror.age_s(pod)
        if left_s > 0:
            return left_s
        words = f"it did not run within {self.settings.start_timeout_s:g} s: {status.detail}"
        # Exact: one that has begun to run since we looked is not given up.
        now = await self.api.patch(pod, annotations={FAILURE_ANNOTATION: words})
        now = now or await self.api.get(pod.name)
        if now is None:
            self.mirror.drop(pod)
        else:
            self.mirror.put(now)
        return 0.0

    @property
    def _cleanup_grace_s(self) -> int:
        return max(1, int(self.settings.cleanup_grace_s))

    async def _is_gone(self, pod: PodSeen, within_s: float) -> bool:
        """Wait until the very Pod has gone; ask once more at the end, for a watch may have lost that."""
        try:
            async with asyncio.timeout(within_s):
                while self._is_there(pod):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            now = await self.api.get(pod.name)
            if now is not None and now.metadata.uid == pod.metadata.uid:
                return False
            self.mirror.drop(pod)
        return True

    def _is_there(self, pod: PodSeen) -> bool:
        now = self.mirror.get(pod.name)
        return now is not None and now.metadata.uid == pod.metadata.uid
