"""The simulators of a :class:`~sojourn.gateways.exchange.memory_store.MemoryStore`."""

from __future__ import annotations

import builtins
from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from sojourn.gateways.exchange.lifecycle import (
    FINAL_SIMULATOR_STATES,
    SIMULATOR_TRANSITIONS,
    SimulatorState,
)
from sojourn.gateways.exchange.memory_store.tables import MemoryTables, page_of
from sojourn.gateways.exchange.rows import (
    Desired,
    Json,
    Observation,
    Page,
    Refusal,
    RefusalReason,
    SimulatorFilter,
    SimulatorRow,
    Wanted,
)


class MemorySimulators:
    """The simulators; see :class:`~sojourn.gateways.exchange.storage.SimulatorTable`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    async def want(
        self,
        session_id: str,
        desired: Desired,
        *,
        driver: str = "",
        spec: Json | None = None,
        name: str = "main",
        limit_count: int = 1,
    ) -> Wanted | Refusal:
        """Say what the simulator of that name is to be; saying it twice is saying it once."""
        tables = self._tables
        now = tables.answer()
        session = tables.sessions.get(session_id)
        if session is None or not session.is_live:
            return Refusal(RefusalReason.SESSION_ENDED)
        wanted = {row.name: row for row in tables.wanted_simulators(session_id)}
        known = wanted.get(name)
        if desired is Desired.STOPPED:
            if known is not None:
                return Wanted(tables.want_stopped(known, now), is_changed=True)
            rows = (row for row in tables.simulators.values() if row.session_id == session_id)
            latest = max((row for row in rows if row.name == name), key=lambda row: row.id, default=None)
            return Wanted(latest, is_changed=False)
        if known is not None:
            return Wanted(known, is_changed=False)
        if len(wanted) >= limit_count:
            return Refusal(RefusalReason.SIMULATORS_LIMIT, limit_count)
        others = (row.generation for row in tables.simulators.values() if row.session_id == session_id)
        row = SimulatorRow(
            id=tables.ids(),
            session_id=session_id,
            name=name,
            driver=driver,
            desired=Desired.RUNNING,
            state=SimulatorState.REQUESTED,
            endpoint="",
            spec=msgspec.json.decode(msgspec.json.encode(spec or {})),
            handle={},
            failure=None,
            is_unreachable=False,
            generation=max(others, default=0) + 1,
            observed_generation=0,
            created_at=now,
            changed_at=now,
            claimed_by="",
            claimed_until=None,
            heartbeat_at=None,
        )
        tables.simulators[row.id] = row
        return Wanted(row, is_changed=True)

    async def get(self, simulator_id: str) -> SimulatorRow | None:
        """Return a simulator; None if there is none."""
        self._tables.answer()
        return self._tables.simulators.get(simulator_id)

    async def list(self, where: SimulatorFilter, page: Page) -> tuple[SimulatorRow, ...]:
        """Return a page of the simulators that match, the newest first."""
        self._tables.answer()
        return page_of(
            page,
            (
                row
                for row in self._tables.simulators.values()
                if where.session_id in {"", row.session_id}
                and (not where.states or row.state in where.states)
                and where.driver in {"", row.driver}
                and where.desired in {None, row.desired}
            ),
        )

    async def observe(
        self, simulator_id: str, generation: int, observation: Observation
    ) -> SimulatorRow | None:
        """Write what was seen under a generation; None if somebody has looked under a newer one, or it is no step."""
        now = self._tables.answer()
        row = self._tables.simulators.get(simulator_id)
        if (
            row is None
            or not row.observed_generation <= generation <= row.generation
            or observation.state not in SIMULATOR_TRANSITIONS[row.state]
        ):
            return None
        seen = {
            name: value for name, value in msgspec.structs.asdict(observation).items() if value is not None
        }
        if observation.state is not row.state:
            seen["changed_at"] = now
        if observation.state in FINAL_SIMULATOR_STATES:
            seen |= {"claimed_by": "", "claimed_until": None}
        return self._put(row, observed_generation=generation, **seen)

    async def beat(self, simulator_ids: Collection[str]) -> None:
        """Note that these simulators have answered."""
        now = self._tables.answer()
        for row in [row for row in self._live() if row.id in simulator_ids]:
            self._put(row, heartbeat_at=now, is_unreachable=False)

    async def claim(self, simulator_id: str, pod: str, hold_s: float) -> bool:
        """Give the work on a simulator to a pod for a while, or for a while longer; False if another one has it."""
        now = self._tables.answer()
        row = next((row for row in self._live() if row.id == simulator_id), None)
        if row is None or not _is_free(row, pod, now):
            return False
        self._put(row, claimed_by=pod, claimed_until=now + timedelta(seconds=hold_s))
        return True

    async def claim_work(self, pod: str, hold_s: float, limit_count: int = 50) -> tuple[SimulatorRow, ...]:
        """Claim simulators with which something is to be done, and that nobody works on; the oldest first."""
        now = self._tables.answer()
        until = now + timedelta(seconds=hold_s)
        moving = {SimulatorState.REQUESTED, SimulatorState.STARTING, SimulatorState.STOPPING}
        free = [
            row
            for row in self._live()
            if (row.observed_generation < row.generation or row.state in moving) and _is_free(row, pod, now)
        ]
        return tuple(self._put(row, claimed_by=pod, claimed_until=until) for row in free[:limit_count])

    async def release_claim(self, simulator_id: str, pod: str) -> bool:
        """Give a claim back; False if the pod has none."""
        self._tables.answer()
        row = self._tables.simulators.get(simulator_id)
        if row is None or not pod or row.claimed_by != pod:
            return False
        self._put(row, claimed_by="", claimed_until=None)
        return True

    def _live(self) -> builtins.list[SimulatorRow]:
        return [row for row in self._tables.simulators.values() if row.state not in FINAL_SIMULATOR_STATES]

    def _put(self, row: SimulatorRow, **changes: object) -> SimulatorRow:
        changed = replace(row, **changes)
        self._tables.simulators[row.id] = changed
        return changed


def _is_free(row: SimulatorRow, pod: str, now: datetime) -> bool:
    return row.claimed_by in {"", pod} or (row.claimed_until is not None and row.claimed_until <= now)
