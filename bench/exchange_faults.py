"""Faults of six kinds, by chance, side by side: what is done to clients, pods, the Valkey and simulators' lines.

Four lanes run at the same time: each does its share of the faults, one after the other or some at once, so that faults
overlap. Of each fault it is noted how long the clients that it hit were away. Nothing here knows what is right; but it
notes whose events nobody could have kept: where the Valkey lost its data while no living pod had them in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from exchange_network import Line
from exchange_pods import Cluster, PodProcess, RedisError, cut_links
from exchange_traders import Trader

KINDS: Final = (
    "client cut",
    "slow client",
    "service killed",
    "service drained",
    "Valkey restarted",
    "simulator cut",
)
SHARES: Final = {
    "client cut": 0.38,
    "slow client": 0.20,
    "service killed": 0.06,
    "service drained": 0.06,
    "Valkey restarted": 0.07,
    "simulator cut": 0.23,
}
BACK_S: Final = 60.0
"""How long a client may take to come back, at the very most."""
LOOK_S: Final = 0.02
OWNERS_EVERY_S: Final = 0.25
CALM_S: Final = 6.0
"""Of a pod, from its start to its next fault: longer than a lease, so that it can take what others have left."""
EXCUSED_S: Final = 60.0
"""For so long after that a client may find that its session began anew: until it comes back at last."""
MOVING_S: Final = 2.5
"""For so long a session that somebody has just taken may have its events nowhere in memory."""
KEPT_SHARE: Final = 0.6
"""Of restarts of the Valkey, those with its data."""
AHEAD: Final = 0.05
"""By what part of its faults a lane may be ahead of the slowest, so that all kinds overlap to the end."""
SETTLE_S: Final = 0.4
"""Between two faults of the lanes that hit everybody."""


class Fault(NamedTuple):
    """One fault: its kind, how it was done, when, and how long the clients that it hit were away at most."""

    kind: str
    how: str
    at_s: float
    away_s: float
    hit_count: int


class Desk(NamedTuple):
    """A trader and the line that leads to them."""

    trader: Trader
    line: Line


class Director:
    """Does faults.

    Args:
        cluster: to be broken.
        desks: the clients.
        chance: of everything.
        counts: how many of each kind.
    """

    def __init__(
        self, cluster: Cluster, desks: Sequence[Desk], chance: random.Random, counts: dict[str, int]
    ) -> None:
        self.faults: list[Fault] = []
        self._fragile: dict[str, list[tuple[float, str]]] = {}
        """Sessions whose events nobody could have kept: since when, and why."""
        self.counts = counts
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._desks = desks
        self._chance = chance
        self._owners: dict[str, tuple[str, int]] = {}
        self._leases: dict[str, tuple[str, int]] = {}
        self._leased_at: dict[str, float] = {}
        self._orphans: set[str] = set()
        """Sessions whose owner was killed or has left, and that nobody has taken since."""
        self._busy_desks: set[int] = set()
        self._busy_pids: set[int] = set()
        self._pids: dict[str, int] = {}
        self._tasks: asyncio.TaskGroup
        self._noting = asyncio.Lock()
        """What is noted of sessions is so when the fault is done."""
        self._progress: dict[Sequence[str], float] = {}
        self._is_empty = False
        """The Valkey is away, and will come back without its data."""

    async def run(self) -> None:
        """Do all faults, then let everything be well."""
        self._pids = {one.session: one.pid for one in await self._cluster.simulators()}
        clients_count = max(3, len(self._desks) // 2)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            noting = tasks.create_task(self._note_owners())
            async with asyncio.TaskGroup() as lanes:
                for kinds, at_once_count, do in (
                    (("service killed", "service drained"), 2, self._service_fault),
                    (("client cut", "slow client"), clients_count, self._client_fault),
                    (("Valkey restarted",), 1, self._valkey_fault),
                    (("simulator cut",), 3, self._simulator_fault),
                ):
                    lanes.create_task(self._lane(kinds, at_once_count, do))
            noting.cancel()

    async def _lane(
        self, kinds: Sequence[str], at_once_count: int, do: Callable[[str], Awaitable[None]]
    ) -> None:
        """Do faults of some kinds, so many at once, and no faster than the others can."""
        waiting = [kind for kind in kinds for _ in range(self.counts[kind])]
        self._chance.shuffle(waiting)
        count = len(waiting)
        if count:
            self._progress[kinds] = 0.0

        async def work() -> None:
            while waiting:
                if 1 - len(waiting) / count > min(self._progress.values()) + AHEAD + 1 / count:
                    await asyncio.sleep(LOOK_S)
                    continue
                kind = waiting.pop()
                await do(kind)
                self.done[kind] += 1
                self._progress[kinds] += 1 / count

        async with asyncio.TaskGroup() as hands:
            for _ in range(at_once_count):
                hands.create_task(work())

    # Who was hit, and when they were back

    async def _back(self, kind: str, how: str, at_s: float, desks: Sequence[Desk]) -> None:
        """Wait until the clients that a fault has hit are live again, and note it."""
        await self._until_live(desks, at_s)
        self.faults.append(Fault(kind, how, at_s, time.monotonic() - at_s, len(desks)))

    async def _until_live(self, desks: Sequence[Desk], at_s: float) -> None:
        """Wait until they all are, or a minute after ``at_s``."""
        while time.monotonic() < at_s + BACK_S:
            if all(desk.trader.live.state == "live" or desk.trader.error for desk in desks):
                return
            await asyncio.sleep(LOOK_S)

    def _clients_of(self, pod: PodProcess) -> list[Desk]:
        return [desk for desk in self._desks if pod.name in desk.line.pod_names]

    # Clients

    async def _client_fault(self, kind: str) -> None:
        number = await self._free_desk()
        desk = self._desks[number]
        try:
            if kind == "client cut":
                await self._cut(desk)
            else:
                await self._clog(desk)
        finally:
            self._busy_desks.discard(number)

    async def _free_desk(self) -> int:
        while True:
            free = [number for number in range(len(self._desks)) if number not in self._busy_desks]
            live = [number for number in free if self._desks[number].trader.live.state == "live"]
            if live:
                number = self._chance.choice(live)
                self._busy_desks.add(number)
                return number
            await asyncio.sleep(LOOK_S)

    async def _cut(self, desk: Desk) -> None:
        """Reset its connections, or one half of them only."""
        how = self._chance.choice(("reset", "reset", "client vanishes", "pod vanishes"))
        at_s = time.monotonic()
        for passage in tuple(desk.line.passages):
            match how:
                case "reset":
                    passage.reset()
                case "client vanishes":
                    passage.lose_client()
                case _:
                    passage.lose_pod()
        greetings = len(desk.trader.greetings)
        while len(desk.trader.greetings) == greetings and time.monotonic() - at_s < BACK_S:  # noqa: ASYNC110 - no event
            await asyncio.sleep(LOOK_S)
        await self._back("client cut", how, at_s, [desk])

    async def _clog(self, desk: Desk) -> None:
        """Let it take nothing for a while, or until it is closed for that."""
        greetings, at_s = len(desk.trader.greetings), time.monotonic()
        desk.line.clog()
        await asyncio.sleep(self._chance.uniform(0.5, 11.0))
        desk.line.clear()
        await asyncio.sleep(SETTLE_S)
        await self._until_live([desk], at_s)
        how = "closed" if len(desk.trader.greetings) > greetings else "caught up"
        await self._back("slow client", how, at_s, [desk])

    # Pods

    async def _service_fault(self, kind: str) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 2 * SETTLE_S))
        pod = await self._well_pod()
        hit, at_s = self._clients_of(pod), time.monotonic()
        pod.is_well = False
        if kind == "service killed":
            async with self._noting:
                await self._note_orphans(pod.name)
                pod.signal(signal.SIGKILL)
        else:
            pod.signal(signal.SIGTERM)
        code = await pod.ended()
        if kind == "service drained":
            assert code == 0, f"{pod.name} ended with {code}: {pod.last_words()}"
            self._orphans |= {one for one, lease in self._leases.items() if lease[0] == pod.name}
        # A process that comes back under its old name finds leases of its own.
        has_name = self._chance.random() < 0.5  # noqa: PLR2004 - a coin
        pod.start(pod.name if has_name else self._cluster.new_name())
        await pod.ready(self._cluster.http)
        self._tasks.create_task(self._back(kind, "same name" if has_name else "new name", at_s, hit))

    async def _well_pod(self) -> PodProcess:
        """Return a pod that may be ended: one that had time to own sessions, and another such one must stay."""
        while True:
            now_s = time.monotonic()
            well = [pod for pod in self._cluster.well if now_s - pod.ready_s > CALM_S]
            if len(well) > 1:
                return self._chance.choice(well)
            await asyncio.sleep(LOOK_S)

    # The Valkey

    async def _valkey_fault(self, kind: str) -> None:
        await asyncio.sleep(self._chance.uniform(1.0, 4.0))
        keeps_data = self._chance.random() < KEPT_SHARE
        at_s = time.monotonic()
        async with self._noting:
            self._is_empty = not keeps_data
            if not keeps_data:
                await self._note_homeless()
            self._cluster.kill_valkey()
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        await self._cluster.start_valkey(keeps_data=keeps_data)
        self._is_empty = False
        self._tasks.create_task(
            self._back(kind, "with its data" if keeps_data else "empty", at_s, self._desks)
        )

    async def _note_owners(self) -> None:
        """Keep in mind who owns each session: in the database, and by the lease."""
        while True:
            await self._take_owners()
            await asyncio.sleep(OWNERS_EVERY_S)

    async def _take_owners(self) -> set[str]:
        """Read who owns what; return the sessions that nobody has the lease of, as far as can be known."""
        self._owners = await self._cluster.owners()
        now_s = time.monotonic()
        try:
            leases = await self._cluster.leases(list(self._owners))
        except (RedisError, OSError):
            return set()
        for session, lease in leases.items():
            if self._leases.get(session) != lease:
                self._leases[session] = lease
                self._leased_at[session] = now_s
                self._orphans.discard(session)
        return self._owners.keys() - leases.keys()

    async def _note_orphans(self, pod: str) -> None:
        """Note whose owner dies now, and which of them have their events nowhere else."""
        await self._take_owners()
        for session, owner in self._owners.items():
            if pod not in (owner[0], self._leases.get(session, ("", 0))[0]):
                continue
            self._orphans.add(session)
            has_log = not self._is_empty
            if self._cluster.is_valkey_up:
                with contextlib.suppress(RedisError, OSError):
                    has_log = await self._cluster.has_log(session)
            if not has_log:
                self._note_fragile(session, "the owner was killed before it had written a lost log again")

    async def _note_homeless(self) -> None:
        """Note which sessions have no living owner while their log is lost."""
        homeless = self._orphans | await self._take_owners()
        now_s = time.monotonic()
        for session, owner in self._owners.items():
            if session in homeless:
                self._note_fragile(session, "the Valkey lost its data while nobody owned the session")
            elif self._leases.get(session) != owner or now_s - self._leased_at[session] < MOVING_S:
                self._note_fragile(session, "the Valkey lost its data while the session moved")

    def _note_fragile(self, session: str, why: str) -> None:
        self._fragile.setdefault(session, []).append((time.monotonic(), why))

    def excuse(self, session: str, at_s: float) -> str:
        """Return why nobody could continue a session at a moment, as is documented; empty if somebody could."""
        for since_s, why in reversed(self._fragile.get(session, [])):
            if since_s <= at_s < since_s + EXCUSED_S:
                return why
        return ""

    # Simulators

    async def _simulator_fault(self, _: str) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 1.0))
        free = [desk for desk in self._desks if self._pids[desk.trader.session] not in self._busy_pids]
        desk = self._chance.choice(free)
        pid = self._pids[desk.trader.session]
        self._busy_pids.add(pid)
        at_s = time.monotonic()
        is_cut = self._chance.random() < 0.6 and cut_links(pid) > 0  # noqa: PLR2004 - most are
        try:
            if not is_cut:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(self._chance.uniform(0.2, 8.0))
        finally:
            if not is_cut:
                os.kill(pid, signal.SIGCONT)
            self._busy_pids.discard(pid)
        self._tasks.create_task(self._heard(desk, "cut" if is_cut else "frozen", at_s))

    async def _heard(self, desk: Desk, how: str, at_s: float) -> None:
        """Note how long it takes until a client hears of its simulator again."""
        events = len(desk.trader.events)
        while len(desk.trader.events) == events and time.monotonic() - at_s < BACK_S:  # noqa: ASYNC110 - as above
            await asyncio.sleep(LOOK_S)
        await self._back("simulator cut", how, at_s, [desk])
