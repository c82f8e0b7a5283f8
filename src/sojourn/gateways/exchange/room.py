"""SessionRoom: one session on one pod: its view, its links, and what this pod is to it.

A pod owns a session, or follows the pod that does, or is between the two. Links do not notice: they talk to the room,
and the room to its role. Knows no HTTP, no gRPC and no SQL.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from sojourn.core.recorder import Direction, Leg, Through
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Ahead, Page
from sojourn.gateways.exchange.links import ClientLink, Command, Refused
from sojourn.gateways.exchange.messages import Close, Code, Ended, Err, Replaced
from sojourn.gateways.exchange.view import SessionView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sojourn.gateways.exchange.event_log import LogEvent
    from sojourn.gateways.exchange.rows import Desired, Json, SessionRow
    from sojourn.gateways.exchange.services import PodServices

PAGE_COUNT: Final = 500
LIFELINES_COUNT: Final = 3
"""Connections of a session that have a lifeline of their own in its trace; all others share one."""
READS_COUNT: Final = 3
"""How often a log is read from its beginning, should that be deleted meanwhile."""


class Role(Protocol):
    """What a pod is to a session."""

    async def carry_out(self, command: Command) -> Any:
        """Do what a client wants. Raises: as :meth:`SessionRoom.carry_out`."""

    async def want(self, desired: Desired, spec: Json | None) -> Any:
        """Want a simulator, or want none. Raises: as :meth:`SessionRoom.want`."""

    def links_changed(self) -> None:
        """Take note that a link has come or gone, or that the user was active."""

    def tick(self, now_s: float) -> bool:
        """Tell others what is new; say whether there is more to tell later."""

    async def stop(self) -> None:
        """End the role; the room stays."""


class SessionRoom:
    """One session on this pod.

    Life: opened by the keeper of rooms when a link, a lease or a drain needs it; closed by it when it has no link and
    this pod is not the owner, or when the session ends. Always true: at most one role.

    Args:
        row: of the session, as it was when the room was opened.
        services: of the pod.
        record: puts a line into the flight recorder: direction, size, what.
    """

    def __init__(
        self, row: SessionRow, services: PodServices, record: Callable[[int, int, Any], None]
    ) -> None:
        self.session_id = row.id
        self.subject = row.subject
        self.pod = services.pod
        self.services = services
        self.devices: tuple[str, ...] = row.devices
        self.devices_at_us = moment_us(row)
        """As of which moment these are its devices."""
        self.view = SessionView(services.log_bounds.log(0, 0))
        self.role: Role | None = None
        self.changing = asyncio.Lock()
        """Held while the role is taken, given up or looked for: one change at a time."""
        self.visitors_count = 0
        """Clients on their way in, or in: the room stays."""
        self.has_been_joined = False
        """A link has come since that was written last."""
        self.ended = ""
        self.active_ms = 0
        """When its user was last active, seen by this pod; 0 = not since that was told."""
        self._record = record
        self._numbers: dict[str, int] = {}
        """Which lifelines of the trace its connections have, by their ids; one that comes takes the first free."""

    def __repr__(self) -> str:
        return f"<SessionRoom {self.session_id} {type(self.role).__name__}>"

    @property
    def links(self) -> tuple[ClientLink, ...]:
        """The links that have said hello."""
        return tuple(self.view.links)

    # What links call

    def joined(self, link: ClientLink) -> Err | None:
        """Take a link, unless its device is none of the session's."""
        if self.ended:
            return Err(Code.FORBIDDEN, f"the session has ended: {self.ended}")
        if link.device not in self.devices:
            return Err(Code.WRONG_DEVICE, "the session is not this device's")
        self.was_active(link)
        self.has_been_joined = True
        if self.role is not None:
            self.role.links_changed()
        self.services.keeper.has_news(self)
        return None

    def left(self, link: ClientLink) -> None:
        """Take note that a link is gone."""
        self.record_state(f"link {link.conn} closed with {link.closed}")
        self._numbers.pop(link.conn, None)
        if self.role is not None:
            self.role.links_changed()
        self.services.keeper.has_news(self)

    def was_active(self, link: ClientLink) -> None:
        """Take note that the user did something."""
        del link
        self.active_ms = self.services.wall_ms()

    async def refresh(self, link: ClientLink) -> None:
        """Make the mirror as new as the durable log."""
        del link
        await self.catch_up()

    async def carry_out(self, link: ClientLink, command: Command) -> Any:
        """Do what a client wants and return what it is told.

        Raises: Refused, BackendUnavailable, LimitExceeded or TimeoutError.
        """
        del link
        return await self.do(command)

    async def do(self, command: Command) -> Any:
        """Do what a client wants that may have no link. Raises: as :meth:`carry_out`."""
        if self.role is None:
            raise Refused(Code.UNAVAILABLE, "the session is moving to another server", 0.5)
        return await self.role.carry_out(command)

    async def want(self, desired: Desired, spec: Json | None) -> tuple[str, bool]:
        """Want a simulator, or want none; return its id, empty for none, and whether that changed anything.

        Raises: Refused, BackendUnavailable.
        """
        if self.role is None:
            raise Refused(Code.UNAVAILABLE, "the session is moving to another server", 0.5)
        simulator, is_changed = await self.role.want(desired, spec)
        return simulator, is_changed

    def record(self, link: ClientLink, direction: int, size_bytes: int, frame: Any) -> None:
        """Put a frame into the flight recorder."""
        number = self._numbers.get(link.conn) or self._number(link)
        self._record(direction, size_bytes, frame if number == 1 else Through(self._lifeline(number), frame))

    def _number(self, link: ClientLink) -> int:
        taken = set(self._numbers.values())
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self._numbers[link.conn] = number
        return number

    def _lifeline(self, number: int) -> str:
        """Return how the trace calls a connection; the first one is its user."""
        return f"{self.subject} ({number if number <= LIFELINES_COUNT else 'others'})"

    def note_sent(self, party: str, name: str, text: str = "") -> None:
        """Put into the flight recorder what a party other than the clients was asked or told."""
        self._record(Direction.OUT, 0, Leg(party, name, text))

    def note_received(self, party: str, name: str, text: str = "", *, is_error: bool = False) -> None:
        """Put into the flight recorder what a party other than the clients asked or answered, or that it failed."""
        self._record(Direction.ERROR if is_error else Direction.IN, 0, Leg(party, name, text))

    def note_news(self, news: Any) -> None:
        """Put into the flight recorder what a simulator told; words are made of it when somebody looks."""
        self._record(Direction.IN, 0, news)

    def record_state(self, text: str) -> None:
        """Put what happens to the session on this pod into the flight recorder."""
        self._record(Direction.STATE, 0, text)

    # The log

    async def catch_up(self) -> None:
        """Tell the links what the durable log has and the mirror has not.

        Where that cannot be continued the mirror begins anew, and every link gets a snapshot.

        Raises: BackendUnavailable.
        """
        logs, view = self.services.logs, self.view
        while True:
            log = view.log
            page = await logs.read_after(self.session_id, log.epoch, log.last, PAGE_COUNT)
            if view.log is not log:
                continue  # somebody else has begun it anew meanwhile
            if not isinstance(page, Page):
                if not isinstance(page, Ahead):
                    await self._begin_anew()
                return  # the log has lost what we have: its owner will mend it
            for event in page.events:
                if event.offset == view.log.last + 1:
                    view.publish(event)
            if not page.events or view.log.last >= page.last:
                return

    async def _begin_anew(self) -> None:
        """Take the whole of what the durable log has.

        Raises: BackendUnavailable, also where the log is trimmed faster than it is read.
        """
        logs, view = self.services.logs, self.view
        for _ in range(READS_COUNT):
            end = await logs.log_end(self.session_id)
            if end is None:
                return
            log = self.services.log_bounds.log(end.epoch, end.first - 1)
            events: list[LogEvent] = []
            while log.last < end.last:
                page = await logs.read_after(self.session_id, end.epoch, log.last, PAGE_COUNT)
                if not isinstance(page, Page) or not page.events:
                    break
                for event in page.events:
                    log.append(event)
                events += page.events
            if log.last >= end.last:
                view.last_simulator, view.last_seq = end.simulator, end.seq
                view.take_orders(())
                for event in events:
                    if event.offset > end.last and event.simulator:
                        view.last_simulator, view.last_seq = event.simulator, event.seq
                    if event.simulator in ("", view.last_simulator):
                        view.note(event)
                view.restart(log)
                return
        raise BackendUnavailable("the session's log", 0.0, "it is trimmed faster than it is read")

    # What happens to the session

    def take_devices(self, devices: Sequence[str], newest: str, at_us: int) -> None:
        """Let go of the devices that are not the session's any more; they are told who has it.

        What was so before what is known, and only comes later, changes nothing.
        """
        if at_us < self.devices_at_us:
            return
        self.devices_at_us = at_us
        self.devices = tuple(devices)
        for link in self.links:
            if link.device not in self.devices:
                link.answer(Replaced(newest))
                link.close(Close.REPLACED, "replaced by another device")

    def disconnect(self) -> int:
        """Send every link away to come back, and return how many there were; the session stays."""
        links = self.links
        for link in links:
            link.close(Close.RESTART, "come back and resume")
        return len(links)

    def give_up(self, why: str) -> None:
        """Send every link away to come back elsewhere: this pod finds no place for the session."""
        self._record(Direction.ERROR, 0, why)
        for link in self.links:
            link.close(Close.RESTART, "come back and resume")

    def end(self, reason: str) -> None:
        """Tell every link that the session is over; it is for ever."""
        if self.ended:
            return
        self.ended = reason
        self.record_state(f"ended: {reason}")
        for link in self.links:
            link.answer(Ended(reason))
            link.close(Close.SESSION_ENDED, reason)


def moment_us(row: SessionRow) -> int:
    """Return the moment as of which a row is true, in microseconds since 1970: it grows with each device that comes."""
    return int(row.active_at.timestamp() * 1_000_000)
