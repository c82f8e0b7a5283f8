"""The sessions of a :class:`~sojourn.gateways.exchange.memory_store.MemoryStore`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from sojourn.gateways.exchange.lifecycle import (
    DevicePolicy,
    DeviceRefusal,
    EndReason,
    SessionEvent,
    SessionState,
    Timeouts,
    admit_device,
    session_sources,
)
from sojourn.gateways.exchange.memory_store.tables import MemoryTables, page_of
from sojourn.gateways.exchange.rows import (
    Activity,
    Opened,
    Owned,
    Page,
    Refusal,
    RefusalReason,
    SessionFilter,
    SessionRow,
    Touch,
)


class MemorySessions:
    """The sessions; see :class:`~sojourn.gateways.exchange.storage.SessionTable`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    async def open(
        self,
        subject: str,
        device: str,
        *,
        policy: DevicePolicy,
        timeouts: Timeouts,
        limit_count: int = 0,
        attributes: Mapping[str, str] | None = None,
    ) -> Opened | Refusal:
        """Return the subject's live session, joined by this device, or a new one."""
        tables = self._tables
        now = tables.answer()
        row = next((row for row in self._live() if row.subject == subject), None)
        if row is not None:
            decision = admit_device(policy, row.state, row.devices, device)
            if isinstance(decision, DeviceRefusal):
                return Refusal(RefusalReason(decision.value), policy.devices_count)
            row = self._put(
                row, devices=decision.devices, policy=str(policy), active_at=max(row.active_at, now)
            )
            return Opened(row, is_new=False, replaced=decision.replaced)
        if limit_count and sum(1 for _ in self._live()) >= limit_count:
            return Refusal(RefusalReason.SESSIONS_LIMIT, limit_count)
        row = SessionRow(
            id=tables.ids(),
            subject=subject,
            state=SessionState.NEW,
            devices=(device,),
            policy=str(policy),
            attributes=dict(attributes or {}),
            links_count=0,
            quality="",
            created_at=now,
            active_at=now,
            detached_at=now,
            expires_at=timeouts.expires_at(now),
            owner_pod="",
            owner_epoch=0,
            ended_at=None,
            ended_reason=None,
            ended_detail="",
        )
        tables.sessions[row.id] = row
        return Opened(row, is_new=True)

    async def get(self, session_id: str) -> SessionRow | None:
        """Return a session, ended ones too; None if there is none."""
        self._tables.answer()
        return self._tables.sessions.get(session_id)

    async def find(self, subject: str) -> SessionRow | None:
        """Return the live session of a subject; None if it has none."""
        self._tables.answer()
        return next((row for row in self._live() if row.subject == subject), None)

    async def list(self, where: SessionFilter, page: Page) -> tuple[SessionRow, ...]:
        """Return a page of the sessions that match, the newest first."""
        self._tables.answer()
        return page_of(
            page,
            (
                row
                for row in self._tables.sessions.values()
                if where.subject in {"", row.subject}
                and (not where.states or row.state in where.states)
                and where.owner_pod in {"", row.owner_pod}
                and where.device in {"", *row.devices}
            ),
        )

    async def attach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that a connection has come; None if the session has ended or is not the owner's."""
        now = self._tables.answer()
        row = self._owned(session_id, owner_epoch, SessionEvent.ATTACH)
        return row and self._put(
            row, state=SessionState.ACTIVE, detached_at=None, active_at=max(row.active_at, now)
        )

    async def detach(self, session_id: str, owner_epoch: int) -> SessionRow | None:
        """Note that the last connection has gone; None if there was none, it has ended or is not the owner's."""
        now = self._tables.answer()
        row = self._owned(session_id, owner_epoch, SessionEvent.DETACH)
        return row and self._put(
            row, state=SessionState.DETACHED, detached_at=row.detached_at or now, links_count=0
        )

    async def drop_device(self, session_id: str, device: str) -> SessionRow | None:
        """Free the place of a device in a live session; None if there is no such session."""
        self._tables.answer()
        row = self._live_row(session_id)
        return row and self._put(row, devices=tuple(one for one in row.devices if one != device))

    async def end(self, session_id: str, reason: EndReason, detail: str = "") -> SessionRow | None:
        """End a session and want its simulators stopped; of all who ask exactly one gets the row."""
        now = self._tables.answer()
        row = self._live_row(session_id)
        if row is None:
            return None
        for simulator in self._tables.wanted_simulators(session_id):
            self._tables.want_stopped(simulator, now)
        return self._put(
            row,
            state=SessionState.ENDED,
            ended_at=now,
            ended_reason=reason,
            ended_detail=detail,
            links_count=0,
            detached_at=row.detached_at or now,
        )

    async def end_if_due(self, session_id: str, timeouts: Timeouts) -> SessionRow | None:
        """End a session whose time is up, as expired, unless something has happened in it meanwhile."""
        now = self._tables.answer()
        row = self._live_row(session_id)
        expiry = row.expiry(timeouts) if row else None
        if expiry is None or not expiry.is_due(now):
            return None
        return await self.end(session_id, EndReason.EXPIRED, expiry.cause.value)

    async def due(
        self,
        timeouts: Timeouts,
        *,
        within_s: float = 0.0,
        owner_pod: str | None = None,
        limit_count: int = 500,
    ) -> tuple[SessionRow, ...]:
        """Return live sessions whose time will be up within so many seconds."""
        at = self._tables.answer() + timedelta(seconds=within_s)
        found = []
        for row in self._live():
            expiry = row.expiry(timeouts)
            if expiry is not None and expiry.is_due(at) and owner_pod in {None, row.owner_pod}:
                found.append(row)
        return tuple(found[:limit_count])

    async def take_over(
        self, session_ids: Collection[str], pod: str, *, least_epoch: int = 0
    ) -> dict[str, int]:
        """Make a pod the owner of sessions and return their new epochs; those that have ended are left out."""
        self._tables.answer()
        rows = [row for row in map(self._live_row, {*session_ids}) if row]
        taken = [
            self._put(row, owner_pod=pod, owner_epoch=max(row.owner_epoch + 1, least_epoch)) for row in rows
        ]
        return {row.id: row.owner_epoch for row in taken}

    async def release(self, session_id: str, pod: str, owner_epoch: int) -> bool:
        """Leave a session without an owner, if the pod still is the owner under that epoch."""
        self._tables.answer()
        row = self._live_row(session_id)
        if row is None or (row.owner_pod, row.owner_epoch) != (pod, owner_epoch):
            return False
        self._put(row, owner_pod="")
        return True

    async def owned_by(self, pod: str) -> tuple[Owned, ...]:
        """Return the live sessions of a pod."""
        self._tables.answer()
        return tuple(Owned(row.id, row.owner_epoch) for row in self._live() if pod and row.owner_pod == pod)

    async def touch(self, touches: Sequence[Touch]) -> frozenset[str]:
        """Write many owners' notes and return the sessions that were not theirs, or have ended."""
        now = self._tables.answer()
        refused = set()
        for touch in {touch.session_id: touch for touch in touches}.values():
            row = self._live_row(touch.session_id)
            if row is None or row.owner_epoch != touch.owner_epoch:
                refused.add(touch.session_id)
                continue
            detached_at, state = row.detached_at, touch.state or row.state
            if touch.state is SessionState.ACTIVE:
                detached_at = None
            elif touch.state is SessionState.DETACHED and row.state is SessionState.ACTIVE:
                detached_at = now
            elif touch.state is SessionState.DETACHED:
                state = row.state  # nothing has come yet that could go
            self._put(
                row,
                active_at=max(row.active_at, touch.active_at),
                state=state,
                detached_at=detached_at,
                links_count=touch.links_count,
                quality=touch.quality,
            )
        return frozenset(refused)

    async def note(self, activities: Sequence[Activity]) -> None:
        """Write activity that was seen by any pod; activity never goes back in time."""
        self._tables.answer()
        for activity in activities:
            row = self._live_row(activity.session_id)
            if row is not None:
                self._put(row, active_at=max(row.active_at, activity.active_at))

    async def forget(self, ended_before: datetime, limit_count: int = 500) -> int:
        """Delete what has ended before a moment, with its simulators and events; return how many sessions."""
        self._tables.answer()
        rows = (row for row in self._tables.sessions.values() if row.ended_at and row.ended_at < ended_before)
        old = [row.id for row in sorted(rows, key=lambda row: row.ended_at or ended_before)][:limit_count]
        for session_id in old:
            self._tables.forget_session(session_id)
        return len(old)

    def _live(self) -> Iterator[SessionRow]:
        return (row for row in self._tables.sessions.values() if row.is_live)

    def _live_row(self, session_id: str) -> SessionRow | None:
        row = self._tables.sessions.get(session_id)
        return row if row and row.is_live else None

    def _owned(self, session_id: str, owner_epoch: int, event: SessionEvent) -> SessionRow | None:
        row = self._tables.sessions.get(session_id)
        mine = row is not None and row.owner_epoch == owner_epoch and row.state in session_sources(event)
        return row if mine else None

    def _put(self, row: SessionRow, **changes: object) -> SessionRow:
        changed = replace(row, **changes)
        self._tables.sessions[row.id] = changed
        return changed
