"""Every message damaged byte by byte, in every state of a session, through a live server.

Under right CRC and cipher, so that the damage reaches what is behind the codec; and as bytes on the wire. Seeded, so
that a run can be repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Final

import pytest
from itv2_wire_panel import TYPE2_CODE, WirePanel

from sojourn.core.events import Event
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.answers import Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings, PanelSettings, Timing
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.hub import PanelHub
from sojourn.gateways.itv2.session import PanelSession

BUGS: Final = frozenset(
    {
        "session.handler_failed",
        "connection.bug",
        "connection.not_started",
        "server.loop_error",
        "itv2.view_failed",
        "itv2.work_failed",
    }
)
"""Events that a healthy gateway never has."""
SEED: Final = 3072
VICTIM: Final = "111111111111"
BYSTANDER: Final = "222222222222"
DAMAGED_COUNT: Final = 24
"""Packets in a row that cannot be read before the connection is closed."""
ENDS: Final = frozenset({m.Word.OPEN_SESSION, m.Word.END_SESSION})
"""After these a session is over, or starts anew."""

CODE: Final = "91827364"
P1 = {"partition": 1}
TIME = m.PanelTime(2026, 2, 8, 19, 27, 9)
EXAMPLES: Final[tuple[m.Message, ...]] = (
    m.SimpleAck(),
    m.Unknown(number=0x0815, body=b"\1\2\3"),
    m.CommandError(nacked_word=m.Word.COMMAND_REQUEST, code=1),
    m.CommandResponse(command_sequence=1, code=17),
    m.Poll(),
    WirePanel(VICTIM).open_session(),
    m.EndSession(),
    m.SoftwareVersion(**{name: 1 for name in m.SoftwareVersion.__struct_fields__ if name != "tail"}),
    m.RequestAccess(initializer=bytes(16)),
    m.RequestAccess(initializer=bytes(48)),
    m.SystemCapabilities(zones=16, users=8, partitions=2, fobs=1, tags=1, outputs=1),
    m.MultipleMessages(messages=(m.ReadyStatus(**P1, status=2), m.ZoneLifestyle(zone=3, state=1))),
    m.Text(text="Hall"),
    m.ZoneLifestyle(zone=3, state=1),
    m.DateTimeBroadcast(time=TIME),
    m.Chime(body=b"\1\2"),
    m.ExitDelay(**P1, flags=0x81, seconds=40),
    m.EntryDelay(**P1, flags=0x81, seconds=30),
    m.Arming(**P1, mode=2, method=2, user=1),
    m.ReadyStatus(**P1, status=1),
    m.AlarmMemory(**P1, flag=1),
    m.TroubleStatus(**P1, flag=1),
    m.BypassStatus(**P1, flag=1),
    m.AccessCodeUpdated(what=1, records=1, first=1, last=2),
    m.ProgrammingLead(**P1, phase=0, user=1, access=2, mode=0, time=TIME),
    m.GlobalStatus(body=b"\1\2\3"),
    m.ZoneStatus(first=1, statuses=(0, 1, 0x81, 0x22)),
    m.PartitionStatus(**P1, status=b"\x05\x20\x00"),
    m.ZoneBypass(zone=3, is_bypassed=True),
    m.Labels(collection=m.Collection.ZONES, first=1, last=2, width=8, labels=("Hall", "Door")),
    m.CommandRequest(requested=0x0815, parameters=b"\1"),
    m.RequestCapabilities(),
    m.RequestGlobalStatus(),
    m.RequestZoneStatus(first=1, count=4),
    m.RequestPartitionStatus(**P1),
    m.RequestLabels(collection=m.Collection.ZONES, first=1, last=4),
    m.Arm(**P1, mode=2, code=CODE),
    m.Disarm(**P1, code=CODE),
    m.EnterConfiguration(**P1, mode=3, code=CODE, is_writing=True),
    m.ExitConfiguration(**P1),
    m.BypassZone(**P1, zone=3, is_bypassed=True),
    m.SectionRead(section=m.Section((1, 5), count=4, module=1, index=1)),
    m.SectionWrite(section=m.Section((1, 5)), data=b"\1"),
    m.SectionData(section=m.Section((1, 5)), data=b"\1"),
    m.ReadCodes(first=1, count=2),
    m.ReadAttributes(first=1, count=2),
    m.ReadPartitions(first=1, count=2),
    m.ReadUserTypes(first=1, count=2),
    m.Codes(first=1, width=4, codes=(CODE, "AAAAAAAA")),
    m.Attributes(first=1, width=1, attributes=(1, 2)),
    m.Partitions(first=1, width=1, partitions=(1, 3)),
    m.UserTypes(first=1, width=1, types=(1, 2)),
    m.WriteCodes(first=1, width=4, codes=(CODE, "AAAAAAAA")),
    m.WriteAttributes(first=1, width=1, attributes=(1, 2)),
    m.WritePartitions(first=1, width=1, partitions=(1, 3)),
    m.WriteLabels(first=1, labels=("Ana",)),
)


def damaged(message: m.Message, chance: random.Random) -> Iterator[bytes]:
    """Yield a word and its body with each byte changed, each byte left out, and something behind."""
    whole = wire.encode_message(message)
    for place in range(len(whole)):
        value = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        yield whole[:place] + bytes((value,)) + whole[place + 1 :]
        if place > 1:
            yield whole[:place] + whole[place + 1 :]
    yield whole + chance.randbytes(chance.randrange(1, 9))
    yield whole


class Lab:
    """A gateway on a port of its own, and a panel that must not notice what happens to the other."""

    def __init__(self, server: Server, hub: PanelHub, events: list[Event]) -> None:
        self._server = server
        self._hub = hub
        self.events = events
        self.port = int(server.listeners[0].address.rpartition(":")[2])
        self.bystander = WirePanel(BYSTANDER)
        self.doors = 0

    def flushed(self) -> list[Event]:
        """Return what has happened since the last look."""
        self._server.events.flush()
        return self.events

    async def begin(self) -> None:
        """Connect the bystander and let the server read its configuration, which it does not have."""
        await self.bystander.dial(self.port)
        await self.bystander.shake_hands()

    async def check(self) -> None:
        """Make sure that the bystander is served and that nothing shows a bug."""
        self.doors += 1
        is_served = await self.bystander.tell(m.ZoneLifestyle(zone=1, state=self.doors & 1))
        assert is_served, "the bystander is out"
        self.flushed()
        assert [event for event in self.events if event.kind.name in BUGS] == []
        assert [event.values for event in self.events if CODE in repr(event.values)] == []
        self.events.clear()

    def session_of(self, name: str) -> PanelSession:
        """Return a panel's session."""
        session = self._hub.panels[name].session
        assert isinstance(session, PanelSession)
        return session

    async def victim(self, up_to: int) -> WirePanel:
        """Return a panel that has done its steps of the handshake up to one."""
        panel = WirePanel(VICTIM)
        await panel.dial(self.port)
        await panel.shake_hands(up_to)
        return panel


@asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    """Run a gateway with two panels."""
    events: list[Event] = []
    settings = Itv2Settings(
        limits=Itv2Limits(failures_count=0, connections_per_peer_count=2_000, damaged_count=DAMAGED_COUNT),
        timing=Timing(replay_quiet_s=0.2, replay_max_s=0.4, fallback_s=0.1),
        history=HistorySettings(file=str(folder / "history.sqlite3"), synchronous="normal"),
        panels=tuple(
            PanelSettings(name=name, integration_id=number, type2_code=Secret(TYPE2_CODE))
            for name, number in (("victim", VICTIM), ("bystander", BYSTANDER))
        ),
    )
    server = Server()
    server.events.add_view(events.extend)
    gateway = Itv2Gateway(settings)
    server.add(gateway, [ListenerSettings(address="127.0.0.1:0")])
    await server.start()
    one = Lab(server, gateway.hub, events)
    try:
        await one.begin()
        await one.check()
        yield one
        await one.check()
    finally:
        await one.bystander.hang_up()
        await server.stop(timeout_s=0)


@pytest.mark.parametrize("up_to", [0, 1, 3, 5, 7, 9])
def test_a_damaged_packet_in_the_handshake_disturbs_nobody(run, tmp_path, up_to):
    """Sections 7 and 14: after each of the panel's steps; the session ends or goes on, and that is all."""

    async def main() -> None:
        chance = random.Random(SEED + up_to)
        async with lab(tmp_path) as one:
            for message in EXAMPLES:
                for body in damaged(message, chance):
                    victim = await one.victim(up_to)
                    victim.tell_raw(body)
                    victim.tell_raw(b"")
                    await victim.closed()
                    await victim.hang_up()
                await one.check()

    run(main())


@pytest.mark.parametrize("is_open", [False, True], ids=["replay", "open"])
def test_a_damaged_message_of_an_open_session_disturbs_nobody(run, tmp_path, is_open):
    """Section 14 rule 4: whatever a body says, it is acknowledged; where a command waits, it may be its answer."""

    async def main() -> None:
        chance = random.Random(SEED)
        victim = None
        async with lab(tmp_path) as one:
            for message in EXAMPLES:
                bodies = list(damaged(message, chance))
                if victim is None:
                    victim = await one.victim(11)
                    if is_open:
                        await victim.until(lambda packet: isinstance(packet.message, m.Command))
                for body in bodies:
                    victim.tell_raw(body)
                    await victim.flush()
                if any(int.from_bytes(body[:2], "big") in ENDS for body in bodies):
                    await victim.closed()
                    await victim.hang_up()
                    victim = None
                else:
                    assert await victim.tell(m.DateTimeBroadcast(time=TIME)), message
                await one.check()
            if victim is not None:
                await victim.hang_up()

    run(main())


ASKED: Final[tuple[tuple[m.Command, m.Message], ...]] = (
    (m.RequestZoneStatus(first=1, count=4), m.ZoneStatus(first=1, statuses=(0, 1, 0x81, 0x22))),
    (m.RequestPartitionStatus(**P1), m.PartitionStatus(**P1, status=b"\x05\x20\x00")),
    (m.SectionRead(section=m.Section((1, 5))), m.SectionData(section=m.Section((1, 5)), data=b"\1")),
    (m.ReadCodes(first=1, count=2), m.Codes(first=1, width=4, codes=(CODE, "AAAAAAAA"))),
    (m.Arm(**P1, mode=2, code=CODE), m.CommandResponse(code=4)),
    (m.Disarm(**P1, code=CODE), m.CommandError(nacked_word=m.Word.DISARM, code=17)),
    (m.BypassZone(**P1, zone=3, is_bypassed=True), m.MultipleMessages(messages=(m.CommandResponse(),))),
)
"""Commands and what panels answer."""


@pytest.mark.parametrize(("command", "answer"), ASKED, ids=lambda value: type(value).__name__)
def test_a_damaged_answer_is_an_answer_or_none(run, tmp_path, command, answer):
    """Section 5.4: what does not fit leaves the command waiting; whoever asked gets an outcome and never an error."""

    async def answering(victim: WirePanel, bodies: Iterator[bytes]) -> None:
        while (
            packet := await victim.until(lambda packet: isinstance(packet.message, m.Command))
        ) is not None:
            asked = packet.message
            assert isinstance(asked, m.Command)
            if type(asked) is type(command):
                victim.tell_raw(next(bodies))
            victim.send(m.CommandError(nacked_word=asked.word, code=m.NackCode.BUSY))

    async def main() -> None:
        bodies = list(damaged(answer, random.Random(SEED)))
        bodies = [body for body in bodies if int.from_bytes(body[:2], "big") not in ENDS]
        async with lab(tmp_path) as one, asyncio.TaskGroup() as tasks:
            victim = await one.victim(11)
            # The server's own questions may be of the same kind and take some.
            work = tasks.create_task(answering(victim, cycle(bodies)))
            for _ in bodies:
                outcome = await one.session_of("victim").execute(command)
                assert isinstance(outcome, Done | Rejected | UnknownOutcome)
                await one.check()
            work.cancel()
            await victim.hang_up()

    run(main())


def test_a_damaged_message_while_the_session_ends_disturbs_nobody(run, tmp_path):
    """Section 12: until the panel has acknowledged the end, it may say what it likes."""

    async def main() -> None:
        chance = random.Random(SEED)
        async with lab(tmp_path) as one:
            for message in EXAMPLES:
                victim = await one.victim(11)
                one.session_of("victim").drain()
                for body in damaged(message, chance):
                    victim.tell_raw(body)
                await victim.closed()
                await victim.hang_up()
                await one.check()

    run(main())


@pytest.mark.parametrize("up_to", [0, 3, 7, 9, 11])
def test_damaged_bytes_on_the_wire_disturb_nobody(run, tmp_path, up_to):
    """Sections 2, 3 and 8: bad stuffing, separators, lengths, CRCs and blocks are dropped one by one."""

    async def main() -> None:
        chance = random.Random(SEED + up_to)
        async with lab(tmp_path) as one:
            for message in EXAMPLES[:: 4 if up_to < 11 else 1]:
                victim = await one.victim(up_to)
                whole = victim.wrapped(wire.encode_packet(m.Packet(9, victim.taken, message)))
                places = chance.sample(range(len(whole)), min(len(whole), DAMAGED_COUNT // 2))
                for place in places:
                    data = bytearray(whole)
                    data[place] ^= chance.randrange(1, 256)
                    victim.write(bytes(data))
                victim.write(chance.randbytes(200))
                await victim.hang_up()
                await one.check()

    run(main())


def test_a_session_survives_what_is_dropped(run, tmp_path):
    """Section 2 rule 4: after a few bad packets the next good one is served."""

    async def main() -> None:
        async with lab(tmp_path) as one:
            victim = await one.victim(11)
            whole = victim.wrapped(b"\5\4" + wire.encode_message(m.Poll()))
            for place in range(1, 8):
                data = bytearray(whole)
                data[len(whole) - 1 - place] ^= 0x01
                victim.write(bytes(data))
            assert await victim.tell(m.ZoneLifestyle(zone=2, state=1))
            server_events = one.flushed()
            assert [event.kind.name for event in server_events].count("itv2.packet_dropped") == 7
            await victim.hang_up()

    run(main())


def test_noise_without_an_end_is_closed_at_the_limit(run, tmp_path):
    """Section 2 rule 5: 64 KiB without a 7F."""

    async def main() -> None:
        async with lab(tmp_path) as one:
            for up_to in (0, 11):
                victim = await one.victim(up_to)
                victim.write(victim.header + b"\x7e" + b"\x55" * 65_536)
                assert await victim.until(lambda _: False) is None
                await victim.hang_up()

    run(main())
