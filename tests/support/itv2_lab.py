"""A running panel gateway without a socket, and a panel written down packet by packet for its other end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from sojourn.core.peer import Peer
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.answers import Answer
from sojourn.gateways.itv2.config import Itv2Settings, PanelSettings
from sojourn.gateways.itv2.encryption import FrameCipher, type1_make, type1_open, type2_key
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history import HistoryQuery, HistorySettings
from sojourn.gateways.itv2.session import PanelSession
from sojourn.testing import ManualClock, connect
from sojourn.testing.clock import drive

ID = "123456789012"
TYPE_1 = "87654321"
TYPE_2 = "0123456789ABCDEFFEDCBA9876543210"
SERVER_RANDOM = bytes(range(0xA0, 0xB0))
PANEL_RANDOM = bytes(range(0x10, 0x20))
OPENING = m.OpenSession(
    command_sequence=0x4B,
    device_type=2,
    device_id=0x0329,
    firmware=0x0543,
    protocol=0x0223,
    tx_buffer_bytes=512,
    rx_buffer_bytes=512,
    unknown=1,
    encryption_type=2,
)


def panel_settings(**fields: Any) -> PanelSettings:
    return PanelSettings(
        **{
            "name": "house",
            "integration_id": ID,
            "type1_code": Secret(TYPE_1),
            "type2_code": Secret(TYPE_2),
            **fields,
        }
    )


class Lab:
    """A started gateway: its server, its clock, and what it has told."""

    def __init__(self, server: Server, gateway: Itv2Gateway) -> None:
        self.server = server
        self.gateway = gateway
        self.clock = drive(server)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.writers: list[asyncio.StreamWriter] = []
        server.events.add_view(
            lambda batch: self.told.extend((one.kind.name, dict(one.fields())) for one in batch)
        )

    @property
    def panel(self) -> Any:
        return self.gateway.hub.panels["house"]

    @property
    def session_or_none(self) -> PanelSession | None:
        session = self.panel.session
        return session if isinstance(session, PanelSession) else None

    @property
    def session(self) -> PanelSession:
        assert isinstance(self.panel.session, PanelSession)
        return self.panel.session

    def events(self, name: str) -> list[dict[str, Any]]:
        self.server.events.flush()
        return [values for kind, values in self.told if kind == name]

    def sentences(self) -> list[str]:
        """What the doctor has said."""
        return [one["sentence"] for one in self.events("itv2.handshake_failed")]

    async def dial(self, *, address: str = "192.0.2.7", **fields: Any) -> ScriptedPanel:
        reader, writer = connect(self.server, "itv2", peer=Peer(address, 3096, "itv2"))
        self.writers.append(writer)
        await asyncio.sleep(0)
        return ScriptedPanel(reader, writer, **fields)

    async def connected(self, **fields: Any) -> ScriptedPanel:
        """A panel whose handshake is done and whose replay is over."""
        panel = await self.dial(**fields)
        await panel.shake_hands()
        await self.settle()
        self.clock.advance(2.5)
        await self.settle()
        return panel

    async def settle(self) -> None:
        """Let everything run that can; the writer's thread as well."""
        for _ in range(3):
            for _ in range(20):
                await asyncio.sleep(0)
            if self.gateway.history is not None:
                await self.gateway.history.flush()


class ScriptedPanel:
    """The panel's end: packets out, packets in, with its own numbers and ciphers."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        header: bytes = ID.encode(),
        code: str = "",
        opening: m.OpenSession = OPENING,
        wrap: str = ID,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.header = header
        self.opening = opening
        self.is_type_1 = opening.encryption_type == 1
        self.code = code or (TYPE_1 if self.is_type_1 else TYPE_2)
        self.wrap = wrap
        self.sent = self.heard = 0
        self.incoming: FrameCipher | None = None
        self.outgoing: FrameCipher | None = None

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def packet(self, message: m.Message, sender: int | None = None, receiver: int | None = None) -> bytes:
        data = wire.frame(
            wire.encode_packet(
                m.Packet(
                    self.sent if sender is None else sender,
                    self.heard if receiver is None else receiver,
                    message,
                )
            )
        )
        if self.outgoing is not None:
            data = self.outgoing.encrypt(data)
        return wire.encode_tlink(self.header, data)

    def say(self, message: m.Message) -> bytes:
        """Send something that is to be acknowledged, with the next number; return its bytes."""
        self.sent = self.sent + 1 & 0xFF
        data = self.packet(message)
        self.raw(data)
        return data

    def acknowledge(self) -> None:
        self.raw(self.packet(m.SimpleAck()))

    async def hears(self) -> m.Packet:
        """The server's next packet."""
        async with asyncio.timeout(5):
            data = await self.reader.readuntil(b"\x7f")
        (packet,), _, _ = wire.TLinkFraming().split(data)
        payload = packet.payload if self.incoming is None else self.incoming.decrypt(packet.payload)
        found = wire.decode_packet(wire.unframe(payload))
        if not isinstance(found.message, m.SimpleAck):
            self.heard = found.sender
        return found

    async def hears_of(self, kind: type[m.Message]) -> Any:
        packet = await self.hears()
        assert type(packet.message) is kind, packet
        return packet.message

    async def hears_end(self) -> bytes:
        """What is left until the server closes."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
            return b""

    async def acknowledged(self) -> None:
        """Have our last packet acknowledged."""
        packet = await self.hears()
        assert packet.message == m.SimpleAck()
        assert packet.receiver == self.sent

    # The handshake, step by step: itv2-protocol.md section 7

    async def open_session(self, opening: m.OpenSession | None = None) -> None:
        """Steps 1 to 6."""
        await self.begin(opening)
        self.acknowledge()
        echo = await self.hears_of(m.OpenSession)
        self.say(m.CommandResponse(command_sequence=echo.command_sequence))
        await self.acknowledged()

    async def begin(self, opening: m.OpenSession | None = None) -> None:
        """Steps 1 and 2."""
        self.opening = opening or self.opening
        self.sent = self.heard = 0
        self.incoming = self.outgoing = None
        self.raw(self.packet(self.opening))
        await self.hears_of(m.CommandResponse)

    def ask_for_access(self) -> None:
        """Step 7; from here on the server encrypts."""
        if self.is_type_1:
            initializer, key = type1_make(bytes(range(3, 35)), self.wrap)
        else:
            initializer, key = PANEL_RANDOM, type2_key(self.code, PANEL_RANDOM)
        sequence = self.opening.command_sequence + 2
        self.say(m.RequestAccess(command_sequence=sequence, initializer=initializer))
        self.incoming = FrameCipher(key)

    async def accept_access(self) -> None:
        """Steps 8 to 11; from here on both encrypt."""
        await self.hears_of(m.CommandResponse)
        self.acknowledge()
        access = await self.hears_of(m.RequestAccess)
        random = access.initializer
        key = type1_open(random, self.code) if self.is_type_1 else type2_key(self.code, random)
        self.outgoing = FrameCipher(key)
        self.say(m.CommandResponse(command_sequence=access.command_sequence))

    async def shake_hands(self, opening: m.OpenSession | None = None) -> None:
        await self.open_session(opening)
        self.ask_for_access()
        await self.accept_access()
        await self.acknowledged()


def opening(**fields: Any) -> m.OpenSession:
    return msgspec.structs.replace(OPENING, **fields)


async def _nothing(*_: object) -> None:
    pass


@contextlib.asynccontextmanager
async def itv2_lab(
    folder: Path,
    *,
    panels: Iterable[PanelSettings] = (),
    random: bytes = SERVER_RANDOM,
    has_pull: bool = True,
    **fields: Any,
) -> AsyncIterator[Lab]:
    """Run a gateway with the panel ``house``, or others; without its pull a session asks for nothing by itself."""
    settings = Itv2Settings(
        panels=tuple(panels) or (panel_settings(),),
        history=HistorySettings(file=str(folder / "itv2.sqlite3"), synchronous="normal"),
        **fields,
    )
    clock = ManualClock()
    gateway = Itv2Gateway(settings, random_bytes=lambda count: random[:count], wall_clock=clock.wall_clock())
    if not has_pull:
        gateway.read_all = _nothing  # type: ignore[method-assign]
    server = Server(clock=clock)
    server.add(gateway)
    await server.start()
    lab = Lab(server, gateway)
    try:
        yield lab
    finally:
        await server.stop(timeout_s=0)
        for writer in lab.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def line(folder: Path, **fields: Any) -> AsyncIterator[tuple[Lab, ScriptedPanel]]:
    """A lab and a panel whose session is open and asks for nothing by itself."""
    async with itv2_lab(folder, has_pull=False, **fields) as lab:
        panel = await lab.connected()
        assert lab.session.phase == "open"
        yield lab, panel


async def kinds(lab: Lab) -> list[str]:
    """What is in the history, the oldest first."""
    await lab.settle()
    page = await lab.gateway.history.search(HistoryQuery(is_oldest_first=True, limit_count=100))
    return [one.kind for one in page.entries]


@contextlib.asynccontextmanager
async def asked(
    lab: Lab, command: m.Command | m.Unknown, **fields: Any
) -> AsyncIterator[asyncio.Task[Answer]]:
    """A command under way; its answer is ``.result()`` afterwards."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lab.session.execute(command, **fields))
        await asyncio.sleep(0)
        yield task
        async with asyncio.timeout(5):
            await task
