"""PodMirror: the installation's Pods as the API server has them, followed by list and watch.

Theory of operation. A list gives all Pods at one version; a watch tells what changes after it. Where the watch ends it
is begun again at the last version, which bookmarks move along. Where that version is forgotten (410) everything is
listed anew. No watch is trusted for long: one that is silent is begun again, and all is listed anew every ``relist_s``
whatever was told, because watches have been seen to lose events (jupyterhub/kubespawner issue 209).

Ages are the server's: its clock at the list, less the Pod's time of creation, and from there our monotonic clock. So no
clock of a machine is compared with that of another.

News of one Pod come by three ways, watch, list and the answers to our own writes, and one may overtake another.
Versions put them in order: they are integers that grow (KEP-5504 says so since Kubernetes 1.35, and etcd has always
made them so). Where one is not a number, what comes last counts, and the next list mends it.

Knows nothing of simulators: who wants to know is called with each Pod that changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.spawners.kubernetes_api import Change, PodApi, PodList, TooOld
from sojourn.gateways.exchange.spawners.kubernetes_pods import PodSeen, selector

OnPod = Callable[[PodSeen, bool], None]
"""Called with a Pod and whether it has gone, in the loop; must not raise."""


ENDED_COUNT: Final = 1_000
"""Pods that have gone whose uid is remembered, so that a late answer does not bring them back."""


class _Kept(NamedTuple):
    """A Pod and when it was made, on our monotonic clock."""

    pod: PodSeen
    made_at: float


class MirrorCounts:
    """What following took: for metrics, and for tests."""

    def __init__(self) -> None:
        self.lists = 0
        self.watches = 0
        self.too_old = 0
        self.silences = 0
        self.failures = 0


class PodMirror:
    """The Pods of one installation.

    Life: the spawner makes it, lists once, runs :meth:`follow` in a task and cancels that.
    """

    def __init__(self, api: PodApi, on_pod: OnPod, clock: Clock = monotonic) -> None:
        self.counts = MirrorCounts()
        self.trouble = ""
        """Why it cannot follow at the moment, in words; empty if it can."""
        self._api = api
        self._settings = api.settings
        self._selector = selector(api.settings.deployment)
        self._on_pod = on_pod
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._version = ""
        self._heard_at = -math.inf
        self._listed_at = -math.inf

    @property
    def pods(self) -> list[PodSeen]:
        """All Pods, as last heard of."""
        return [kept.pod for kept in self._kept.values()]

    @property
    def is_fresh(self) -> bool:
        """What is here can be relied on: heard of not longer ago than a list should take to come round."""
        return self._clock() - self._heard_at < 2 * self._settings.relist_s

    def get(self, name: str) -> PodSeen | None:
        """Return a Pod by its name."""
        kept = self._kept.get(name)
        return kept.pod if kept else None

    def has_ended(self, uid: str) -> bool:
        """Say whether the Pod was seen to go."""
        return uid in self._ended

    def age_s(self, pod: PodSeen) -> float:
        """Return how long ago the Pod was made."""
        kept = self._kept.get(pod.name)
        return self._clock() - kept.made_at if kept else 0.0

    def put(self, pod: PodSeen) -> None:
        """Take a Pod from the answer to a write of ours."""
        self._keep(pod, self._clock())

    def drop(self, pod: PodSeen) -> None:
        """Take note that the very Pod is gone."""
        self._ended[pod.metadata.uid] = None
        if len(self._ended) > ENDED_COUNT:
            self._ended.popitem(last=False)
        kept = self._kept.get(pod.name)
        if kept is not None and kept.pod.metadata.uid == pod.metadata.uid:
            del self._kept[pod.name]
            self._on_pod(kept.pod, True)

    async def relist(self) -> PodList:
        """Read all Pods anew.

        Raises: BackendUnavailable.
        """
        listed = await self._api.list(self._selector)
        self.counts.lists += 1
        now = self._heard_at = self._listed_at = self._clock()
        self._version = listed.version
        for pod in listed.pods:
            made = pod.metadata.creation_timestamp
            # Both are cut to seconds: rather a second too young than too old.
            age_s = max(0.0, (listed.server_time - made).total_seconds() - 1.0) if made else 0.0
            self._keep(pod, now - age_s)
        names = {pod.name for pod in listed.pods}
        for pod in self.pods:
            # One that is newer than the list was made while the list was on its way.
            if pod.name not in names and not is_older(listed.version, pod.metadata.resource_version):
                self.drop(pod)
        return listed

    async def follow(self) -> None:
        """Follow until cancelled; what fails is tried again, more and more slowly."""
        backoff = self._api.backoff()
        while True:
            try:
                due_s = self._listed_at + self._settings.relist_s - self._clock()
                if not self._version or due_s <= 0:
                    await self.relist()
                    due_s = self._settings.relist_s
                    self.trouble = ""
                began = self._clock()
                await self._watch(due_s)
                self.trouble = ""
                if self._clock() - began >= 1.0:
                    backoff.reset()
                    continue
            except BackendUnavailable as error:
                self.counts.failures += 1
                self.trouble = error.cause
            # After a failure, and after a watch that was over at once: neither may become a flood.
            await asyncio.sleep(next(backoff))

    async def _watch(self, within_s: float) -> None:
        """Watch once, at most until the next list is due."""
        self.counts.watches += 1
        try:
            async with (
                asyncio.timeout(within_s),
                contextlib.aclosing(self._api.watch(self._selector, self._version, within_s)) as changes,
            ):
                async for change in changes:
                    if isinstance(change, TooOld):
                        self.counts.too_old += 1
                        self._version = ""
                        break
                    self._take(change)
        except TimeoutError:
            if self._clock() < self._listed_at + self._settings.relist_s:
                self.counts.silences += 1

    def _take(self, change: Change) -> None:
        self._heard_at = self._clock()
        self._version = change.version
        if change.pod is None:
            return
        if change.type == "DELETED":
            self.drop(change.pod)
        else:
            self._keep(change.pod, self._heard_at)

    def _keep(self, pod: PodSeen, made_at: float) -> None:
        """Keep a Pod, and tell if it is another than before; what is older than what we know is nothing."""
        if pod.metadata.uid in self._ended:
            return
        known = self._kept.get(pod.name)
        if known is not None and is_older(pod.metadata.resource_version, known.pod.metadata.resource_version):
            return
        if known is not None and known.pod.metadata.uid != pod.metadata.uid:
            self.drop(known.pod)
            known = None
        self._kept[pod.name] = _Kept(pod, min(made_at, known.made_at) if known else made_at)
        if known is None or known.pod.metadata.resource_version != pod.metadata.resource_version:
            self._on_pod(pod, False)


def is_older(version: str, other: str) -> bool:
    """Say whether a version comes before another one; False if they cannot be compared."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)
