"""A panel without a wire: it answers commands as itv2-protocol.md says, and a hub around it with hand-driven clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sojourn.core.events import Events
from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Answer, Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.commands import Asker
from sojourn.gateways.itv2.hub import PanelHub
from sojourn.gateways.itv2.hub_config import LockoutSettings, PanelProfile, StateSettings
from sojourn.gateways.itv2.panels import Panel
from sojourn.testing.clock import ManualClock

WALL_START_MS = 1_790_000_000_000
QUICK = StateSettings(programming_pause_s=0.001, lead_in_within_s=0.01)
ADMIN = Asker("ana", frozenset({"admin"}))
OPENING = m.OpenSession(
    device_type=2,
    device_id=0x0329,
    firmware=0x0543,
    protocol=0x0223,
    tx_buffer_bytes=512,
    rx_buffer_bytes=512,
    unknown=1,
    encryption_type=2,
)
READY = bytes((m.PartitionFlag.READY, 0))
ARMED_AWAY = bytes((m.PartitionFlag.ARMED | m.PartitionFlag.AWAY, 0))
IN_ALARM = bytes(
    (m.PartitionFlag.ARMED | m.PartitionFlag.AWAY, m.PartitionFlag2.ALARM | m.PartitionFlag2.SIREN)
)


@dataclass
class FakeUser:
    code: str = "AAAA"
    attributes: int = 0
    partitions: int = 1
    label: str = ""


@dataclass(eq=False)
class FakeSession:
    """Answers like a panel; ``asked`` has every command that it got. ``refuse`` answers for a word instead."""

    zones: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(1, 9), 0))
    zone_labels: dict[int, str] = field(default_factory=lambda: {1: "Front Door", 2: "Hall", 3: "Kitchen"})
    partitions: dict[int, bytes] = field(default_factory=lambda: {1: READY})
    partition_labels: dict[int, str] = field(default_factory=lambda: {1: "House", 2: "Partition 2"})
    users: dict[int, FakeUser] = field(
        default_factory=lambda: {
            1: FakeUser("1234", label="Master"),
            2: FakeUser("5678", label="Anna"),
            3: FakeUser(),
            4: FakeUser(),
        }
    )
    sections: dict[tuple[int, ...], bytes] = field(default_factory=dict)
    max_partitions: int = 2
    opening: m.OpenSession | None = OPENING
    width: int = 0
    asked: list[m.Command | m.Unknown] = field(default_factory=list)
    refuse: dict[int, list[Answer]] = field(default_factory=dict)
    on_command: Callable[[m.Command | m.Unknown], None] | None = None
    mode: int | None = None
    gate: asyncio.Event | None = None

    @property
    def words(self) -> list[int]:
        return [one.word for one in self.asked]

    def of(self, kind: type[m.Message]) -> list[m.Message]:
        return [one for one in self.asked if isinstance(one, kind)]

    def note_sent(self, party: str, name: str, text: str = "") -> None:
        """A fake keeps no trace."""

    def note_received(self, party: str, name: str, text: str = "", *, is_error: bool = False) -> None:
        """As above."""

    async def execute(self, command: m.Command | m.Unknown, *, within_s: float | None = None) -> Answer:  # noqa: ARG002 - a fake answers at once
        self.asked.append(command)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.on_command is not None:
            self.on_command(command)
        word = command.number if isinstance(command, m.Unknown) else command.word
        if self.refuse.get(word):
            return self.refuse[word].pop(0)
        return self.answer(command)

    def answer(self, command: m.Command | m.Unknown) -> Answer:  # noqa: PLR0911 - one line for each word
        match command:
            case m.RequestCapabilities():
                return Done(
                    m.SystemCapabilities(
                        zones=len(self.zones),
                        users=len(self.users),
                        partitions=self.max_partitions,
                        fobs=0,
                        tags=0,
                        outputs=0,
                    )
                )
            case m.RequestLabels():
                labels = {
                    m.Collection.ZONES: self.zone_labels,
                    m.Collection.PARTITIONS: self.partition_labels,
                    m.Collection.USERS: {number: user.label for number, user in self.users.items()},
                }[command.collection]
                names = tuple(labels.get(one, "") for one in range(command.first, command.last + 1))
                return Done(
                    m.Labels(
                        collection=command.collection,
                        first=command.first,
                        last=command.last,
                        width=56,
                        labels=names,
                    )
                )
            case m.RequestPartitionStatus():
                status = self.partitions.get(command.partition, bytes(2))
                return Done(m.PartitionStatus(partition=command.partition, status=status))
            case m.RequestZoneStatus():
                if command.width != self.width:
                    return Rejected(m.NackCode.INVALID_LENGTH, is_nack=True)
                statuses = tuple(
                    self.zones.get(one, 0) for one in range(command.first, command.first + command.count)
                )
                return Done(m.ZoneStatus(first=command.first, statuses=statuses))
            case m.Arm() if not command.code or self._is_right(command.code):
                return Done()
            case m.Disarm() if self._is_right(command.code):
                return Done()
            case m.EnterConfiguration():
                if self.mode is not None:
                    return Rejected(m.ResponseCode.BUSY)
                if not self._is_right(command.code):
                    return Rejected(m.ResponseCode.INVALID_ACCESS_CODE)
                self.mode = command.mode
                return Done()
            case m.ExitConfiguration():
                was, self.mode = self.mode, None
                return Rejected(m.ResponseCode.NOT_IN_PROGRAMMING) if was is None else Done()
            case m.BypassZone():
                if self.mode != m.ProgrammingMode.USER_BYPASS:
                    return Rejected(m.ResponseCode.NOT_IN_PROGRAMMING)
                bits = self.zones[command.zone] & ~m.ZoneFlag.BYPASSED
                self.zones[command.zone] = bits | (m.ZoneFlag.BYPASSED if command.is_bypassed else 0)
                return Done()
            case m.Arm() | m.Disarm():
                return Rejected(m.ResponseCode.INVALID_ACCESS_CODE)
            case _:
                return self._programming(command)

    def _is_right(self, code: str) -> bool:
        return code in {"5555", *(user.code for user in self.users.values())} and code.isdigit()

    def _programming(self, command: m.Command | m.Unknown) -> Answer:  # noqa: PLR0911 - as above
        if isinstance(command, (m.SectionRead, m.SectionWrite)) and self.mode != m.ProgrammingMode.INSTALLER:
            return Rejected(m.ResponseCode.NOT_IN_PROGRAMMING)
        if isinstance(command, m.SectionRead):
            address = command.section.address
            data = self.sections.get(address, bytes(command.section.count or 1))
            return Done(m.SectionData(section=command.section, data=data))
        if isinstance(command, m.Unknown):
            return Rejected(m.NackCode.INVALID_COMMAND, is_nack=True)
        if self.mode != m.ProgrammingMode.ACCESS_CODES:
            return Rejected(m.ResponseCode.NOT_IN_PROGRAMMING)
        first = command.first
        match command:
            case m.WriteCodes():
                user = self.users[first]
                if user.code.startswith("A") != command.codes[0].startswith("A"):
                    user.attributes = 0
                user.code = command.codes[0]
                return Done()
            case m.WriteAttributes():
                self.users[first].attributes = command.attributes[0]
                return Done()
            case m.WritePartitions():
                self.users[first].partitions = command.partitions[0]
                return Done()
            case m.WriteLabels():
                self.users[first].label = command.labels[0]
                return Done()
        some = [self.users[number] for number in range(first, first + command.count)]
        match command:
            case m.ReadCodes():
                return Done(m.Codes(first=first, width=2, codes=tuple(user.code for user in some)))
            case m.ReadAttributes():
                return Done(m.Attributes(first=first, width=1, attributes=tuple(u.attributes for u in some)))
            case m.ReadPartitions():
                return Done(m.Partitions(first=first, width=1, partitions=tuple(u.partitions for u in some)))
            case m.ReadUserTypes():
                types = tuple(int(user.code.isdigit()) for user in some)
                return Done(m.UserTypes(first=first, width=1, types=types))
        return Rejected(m.NackCode.INVALID_COMMAND, is_nack=True)


class Watcher:
    """A view that remembers."""

    def __init__(self) -> None:
        self.changes = []
        self.events = []
        self.phases = []
        self.configurations = 0

    def changed(self, _panel, changes):
        self.changes += changes

    def happened(self, _panel, events):
        self.events += events

    def phase_changed(self, panel):
        self.phases.append(panel.phase)

    def configuration_changed(self, _panel):
        self.configurations += 1

    def statuses(self, partition=1):
        return [one.value.value for one in self.changes if one.field == "status" and one.number == partition]

    def kinds(self):
        return [event.kind for event in self.events]


class HubLab:
    """One hub with one panel and a fake session; time passes when a test says so."""

    def __init__(
        self,
        profile: PanelProfile | None = None,
        *,
        settings: StateSettings = QUICK,
        lockout: LockoutSettings | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.stored = []
        self.core_events = Events(self.clock)
        self.hub = PanelHub(
            settings,
            lockout or LockoutSettings(),
            clock=self.clock,
            wall_ms=self.wall_ms,
            events=self.core_events,
            store=lambda _, events: self.stored.extend(events),
        )
        self.watcher = Watcher()
        self.hub.subscribe(self.watcher)
        self.panel: Panel = self.hub.add(profile or PanelProfile(name="house", integration_id="123456789012"))
        self.watcher.__init__()
        self.session = FakeSession()
        self._is_restless = False

    def wall_ms(self) -> int:
        return WALL_START_MS + round((self.clock() - 1_000.0) * 1_000)

    def __call__(self, *messages: m.Message, source="live"):
        """Let the panel say something."""
        return [event for one in messages for event in self.panel.take(one, source, self.wall_ms())]

    async def connect(self) -> None:
        self.panel.connected(self.session)
        await self.panel.pull()
        await self.settle()
        self.session.asked.clear()
        self.watcher.__init__()

    async def panel_back(self) -> None:
        """Connect again, and remember what that changed."""
        self.watcher.__init__()
        self.panel.connected(self.session)
        await self.panel.pull()
        await self.settle()

    @staticmethod
    def code(digits: str) -> Secret:
        return Secret(digits)

    async def settle(self) -> None:
        """Let everything happen that needs no time to pass."""
        self.hub.look()
        for _ in range(200):
            await asyncio.sleep(0)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for what takes some turns of the loop, or a wait of milliseconds in the settings."""
        for _ in range(5_000):
            if holds():
                return
            await asyncio.sleep(0.001)
        raise TimeoutError

    async def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settle()

    def partition(self, number: int = 1):
        return self.panel.state.partitions[number]

    def zone(self, number: int):
        return self.panel.state.zones[number]

    def emitted(self, kind):
        self.core_events.flush()
        return [event.values for event in self.core_events.recent if event.kind is kind]


@asynccontextmanager
async def running(lab: HubLab, *, is_connected: bool = True) -> AsyncIterator[HubLab]:
    """Run the hub, by default with the panel connected and read."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lab.hub.run())
        await asyncio.sleep(0)
        try:
            if is_connected:
                await lab.connect()
            yield lab
        finally:
            task.cancel()


def timed_out() -> UnknownOutcome:
    return UnknownOutcome("the panel did not answer the command in time")
