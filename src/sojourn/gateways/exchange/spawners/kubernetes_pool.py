"""WarmPool: Pods that run already and belong to nobody yet.

A claim is a compare-and-swap: the Pod's labels are changed only if nobody has written to it since it was seen, so of
two claims for one Pod the API server lets one win. A claimed Pod is *held* until its session has attached, then it is
*taken* for good; one whose session never attaches goes back. How long it has been held is measured on the monotonic
clock of whoever keeps the pool, from when it first saw the claim; no two clocks are compared.

The claim's token is the name of the simulator that was asked for, so asking once more finds the Pod of the first time.

Knows nothing of what a session is.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

import msgspec

from sojourn.core.backoff import Backoff
from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.spawners.kubernetes_api import BACKEND, PodApi
from sojourn.gateways.exchange.spawners.kubernetes_mirror import PodMirror
from sojourn.gateways.exchange.spawners.kubernetes_pods import (
    CLAIM_LABEL,
    FLAVOUR_LABEL,
    POOL_LABEL,
    SESSION_LABEL,
    PodSeen,
    Pool,
    check_label,
    flavour,
    manifest,
    read_status,
    selector,
)
from sojourn.gateways.exchange.spawners.spawner import Phase, SimulatorSpec

CLAIMS_COUNT: Final = 8
"""Pods that one claim tries for; whoever loses so often starts a Pod of its own."""

STARTS_COUNT: Final = 10
"""Pods that one pass starts at most."""

RETIRES_AT: Final = 0.8
"""The share of its life without an owner after which a Pod is replaced: who claims it must not lose it at once."""


class WarmPool:
    """The waiting Pods of one installation.

    Life: the spawner makes one and keeps it; :meth:`keep` is called in passes, by one process of ours at a time; more
    than one costs a few Pods that are started and removed again.
    """

    def __init__(self, api: PodApi, mirror: PodMirror, clock: Clock = monotonic) -> None:
        self.settings = api.settings.pool
        self._all = api.settings
        self._api = api
        self._mirror = mirror
        self._clock = clock
        self._spec = SimulatorSpec(simulator="warm", owner_timeout_s=self.settings.owner_timeout_s)
        self._flavour = flavour(self._all, self._spec)
        self._held_since: dict[tuple[str, str], float] = {}
        self._backoff = Backoff(self.settings.retry_s, self.settings.retry_max_s, lambda: 1.0)
        self._paused_until = 0.0

    @property
    def ready_count(self) -> int:
        """Pods that could be claimed now."""
        return len(self._candidates("", CLAIMS_COUNT + self.settings.size_count))

    async def claim(self, spec: SimulatorSpec) -> PodSeen | None:
        """Take a ready Pod for a session; None if there is none that could stand in.

        Then: :meth:`confirm` within ``hold_s``, or it goes back.
        Raises: BackendUnavailable.
        """
        if not self.settings.size_count or not spec.session or flavour(self._all, spec) != self._flavour:
            return None
        token = check_label(spec.simulator)
        mine = await self._api.list(f"{selector(self._all.deployment)},{CLAIM_LABEL}={token}")
        for pod in mine.pods:
            if pod.session == spec.session and not pod.is_ending:
                self._mirror.put(pod)
                return pod
        labels: dict[str, str | None] = {
            POOL_LABEL: Pool.HELD,
            CLAIM_LABEL: token,
            SESSION_LABEL: check_label(spec.session),
        }
        for pod in self._candidates(token):
            claimed = await self._api.patch(pod, labels=labels)
            if claimed is None:
                # Lost, or won by a request whose answer was lost.
                claimed = await self._api.get(pod.name)
                if claimed is None or claimed.label(CLAIM_LABEL) != token:
                    continue
            self._mirror.put(claimed)
            return claimed
        return None

    async def confirm(self, pod: PodSeen, session: str) -> bool:
        """Make a held Pod its session's for good; False if it is not that session's any more.

        Raises: BackendUnavailable.
        """
        for _ in range(self._all.attempts_count):
            now = await self._api.get(pod.name)
            if now is None or now.metadata.uid != pod.metadata.uid or now.session != session or now.is_ending:
                return False
            if now.label(POOL_LABEL) in ("", Pool.TAKEN):
                return True
            taken = await self._api.patch(now, labels={POOL_LABEL: Pool.TAKEN})
            if taken is not None:
                self._mirror.put(taken)
                return True
        raise BackendUnavailable(BACKEND, 0.0, f"the Pod {pod.name} changes faster than it can be confirmed")

    def failed(self) -> None:
        """Take note that a waiting Pod failed: start no other for a while."""
        self._paused_until = self._clock() + next(self._backoff)

    async def keep(self) -> None:
        """One pass: holds that are over go back, what is broken, old or too much goes, what is missing is started.

        Raises: BackendUnavailable; LimitExceeded if the namespace is full.
        """
        await self._return_held()
        fit: list[PodSeen] = []
        for pod in self._waiting(Pool.READY):
            is_old = self._mirror.age_s(pod) > self.settings.owner_timeout_s * RETIRES_AT
            is_wanted = pod.label(FLAVOUR_LABEL) == self._flavour and self.settings.size_count
            if is_wanted and not is_old:
                fit.append(pod)
            else:
                await self._api.delete(pod, self._grace_s, is_exact=True)
        # Those that run stay before those that start, older ones before younger ones.
        fit.sort(key=lambda pod: (self._phase(pod) != Phase.RUNNING, -self._mirror.age_s(pod)))
        for pod in fit[self.settings.size_count :]:
            await self._api.delete(pod, self._grace_s, is_exact=True)
        if any(self._phase(pod) == Phase.RUNNING for pod in fit):
            self._backoff.reset()
        missing = min(self.settings.size_count - len(fit), STARTS_COUNT)
        room = self._all.simulators_count - len(self._mirror.pods)
        if self._clock() >= self._paused_until:
            for _ in range(min(missing, room)):
                await self._start()

    @property
    def _grace_s(self) -> int:
        return max(1, int(self._all.cleanup_grace_s))

    async def _start(self) -> None:
        spec = msgspec.structs.replace(self._spec, simulator=f"warm-{secrets.token_hex(8)}")
        made = await self._api.create(manifest(self._all, spec, is_pooled=True))
        if made is not None:
            self._mirror.put(made)

    async def _return_held(self) -> None:
        now = self._clock()
        held = {(pod.metadata.uid, pod.label(CLAIM_LABEL)): pod for pod in self._waiting(Pool.HELD)}
        self._held_since = {key: self._held_since.get(key, now) for key in held}
        for key, since in self._held_since.items():
            if now - since >= self.settings.hold_s:
                free: dict[str, str | None] = {POOL_LABEL: Pool.READY, CLAIM_LABEL: None, SESSION_LABEL: None}
                returned = await self._api.patch(held[key], labels=free)
                if returned is not None:
                    self._mirror.put(returned)

    def _waiting(self, where: str) -> Iterator[PodSeen]:
        for pod in self._mirror.pods:
            is_alive = not pod.is_ending and self._phase(pod) in (Phase.STARTING, Phase.RUNNING)
            if is_alive and pod.label(POOL_LABEL) == where:
                yield pod

    def _candidates(self, token: str, count: int = CLAIMS_COUNT) -> list[PodSeen]:
        """Return the Pods that may be claimed; each claim in an order of its own, so that few meet."""
        ready = [
            pod
            for pod in self._waiting(Pool.READY)
            if self._phase(pod) == Phase.RUNNING
            and pod.label(FLAVOUR_LABEL) == self._flavour
            and self._mirror.age_s(pod) < self.settings.owner_timeout_s * RETIRES_AT
        ]
        ready.sort(key=lambda pod: hash((token, pod.metadata.uid)))
        return ready[:count]

    def _phase(self, pod: PodSeen) -> str:
        return read_status(pod, self._all.port).phase
