"""A panel for tests that write any bytes they like: the handshake by the rules, and after it whatever a test says.

Built on the gateway's own codec, from the other end; the simulator in ``peer`` is the one that can disagree with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.encryption import FrameCipher, type2_key

WITHIN_S: Final = 10.0
"""How long a test waits for what has to happen; far above what it takes, so that a busy machine is no failure."""
TYPE2_CODE: Final = "0123456789ABCDEFFEDCBA9876543210"
PANEL_RANDOM: Final = bytes(range(16))
STEPS: Final = (1, 3, 5, 7, 9, 11)
"""What a panel does in the handshake, by the numbers of itv2-protocol.md section 7."""
_CHUNK_BYTES: Final = 65_536


class WirePanel:
    """One connection of one panel.

    Life: :meth:`dial`, then :meth:`shake_hands`, then packets; :meth:`hang_up`.
    """

    def __init__(self, integration_id: str, *, code: str = TYPE2_CODE) -> None:
        self.header = integration_id.encode()
        self.code = code
        self.sent = 0
        self.taken = 0
        self.outgoing: FrameCipher | None = None
        self.incoming: FrameCipher | None = None
        self._framing = wire.TLinkFraming(1 << 17)
        self._rest = b""
        self._packets: list[m.Packet] = []
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def dial(self, port: int) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    async def hang_up(self) -> None:
        """Close."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):  # the server was faster
                await self._writer.wait_closed()

    # Bytes

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._writer is not None
        self._writer.write(data)

    async def flush(self) -> None:
        """Wait until what was written may be followed by more."""
        assert self._writer is not None
        await self._writer.drain()

    def wrapped(self, body: bytes) -> bytes:
        """Return what a frame carries with everything around it."""
        framed = wire.frame(body)
        if self.outgoing is not None:
            framed = self.outgoing.encrypt(framed)
        return wire.encode_tlink(self.header, framed)

    async def next(self) -> m.Packet | None:
        """Return the server's next packet; None: it has closed."""
        while not self._packets:
            assert self._reader is not None
            try:
                data = await asyncio.wait_for(self._reader.read(_CHUNK_BYTES), WITHIN_S)
            except ConnectionError:
                return None
            if not data:
                return None
            found, consumed, _ = self._framing.split(self._rest + data)
            self._rest = (self._rest + data)[consumed:]
            for packet in found:
                self._packets.append(wire.decode_packet(self._opened(packet.payload)))
        packet = self._packets.pop(0)
        if not isinstance(packet.message, m.SimpleAck):
            self.taken = packet.sender
        return packet

    def _opened(self, payload: bytes) -> bytes:
        """Return what a frame carries; in clear text where the server has begun anew."""
        if self.incoming is not None:
            try:
                return wire.unframe(self.incoming.decrypt(payload))
            except WireError:
                pass
        return wire.unframe(payload)

    async def closed(self) -> None:
        """Say that nothing more comes, and read until the server has closed."""
        assert self._writer is not None
        self._writer.write_eof()
        while await self.next() is not None:
            pass

    # Packets

    def send(self, message: m.Message) -> int:
        """Send something that is acknowledged; return its number."""
        self.sent = self.sent + 1 & 0xFF
        self.write(self.wrapped(wire.encode_packet(m.Packet(self.sent, self.taken, message))))
        return self.sent

    def tell_raw(self, body: bytes) -> None:
        """Send a word and its body with the next number, whatever they say; nothing is an acknowledgement."""
        self.sent = self.sent + 1 & 0xFF
        self.write(self.wrapped(bytes((self.sent, self.taken)) + body))

    def acknowledge(self) -> None:
        """Acknowledge what was read last."""
        self.write(self.wrapped(wire.encode_packet(m.Packet(self.sent, self.taken, m.SimpleAck()))))

    async def until(self, is_it: Callable[[m.Packet], bool]) -> m.Packet | None:
        """Read up to such a packet; acknowledge commands and polls on the way. None: the server has closed."""
        while (packet := await self.next()) is not None:
            if is_it(packet):
                return packet
            if not isinstance(packet.message, m.SimpleAck):
                self.acknowledge()
        return None

    async def acknowledged(self, number: int) -> bool:
        """Wait until the server has acknowledged a packet; False: it has closed."""
        return await self.until(lambda packet: packet.receiver == number) is not None

    async def tell(self, message: m.Message) -> bool:
        """Send a notification and wait for its acknowledgement; False: the server has closed."""
        return await self.acknowledged(self.send(message))

    # The handshake

    def open_session(self, *, encryption_type: int = m.EncryptionType.TYPE_2) -> m.OpenSession:
        """Return what a panel begins with."""
        return m.OpenSession(
            command_sequence=75,
            device_type=2,
            device_id=0x0329,
            firmware=0x0543,
            protocol=0x0223,
            tx_buffer_bytes=512,
            rx_buffer_bytes=512,
            unknown=1,
            encryption_type=encryption_type,
        )

    async def shake_hands(self, up_to: int = STEPS[-1]) -> None:
        """Do the panel's steps by their numbers up to one, and read what the server says between them.

        Source: itv2-protocol.md section 7.
        """
        self.sent = self.taken = 0
        self.outgoing = self.incoming = None
        for step in STEPS:
            if step > up_to:
                return
            await self._do(step)

    async def _do(self, step: int) -> None:
        if step == 1:
            self.write(self.wrapped(wire.encode_packet(m.Packet(0, 0, self.open_session()))))
            await self._expect(m.CommandResponse)
        elif step == 3:
            self.acknowledge()
            self._echo = await self._expect(m.OpenSession)
        elif step == 5:
            self.send(m.CommandResponse(command_sequence=self._echo.command_sequence))
            await self._expect(m.SimpleAck)
        elif step == 7:
            self.incoming = FrameCipher(type2_key(self.code, PANEL_RANDOM))
            self.send(m.RequestAccess(command_sequence=77, initializer=PANEL_RANDOM))
            await self._expect(m.CommandResponse)
        elif step == 9:
            self.acknowledge()
            self._access = await self._expect(m.RequestAccess)
            self.outgoing = FrameCipher(type2_key(self.code, self._access.initializer))
        else:
            self.send(m.CommandResponse(command_sequence=self._access.command_sequence))
            await self._expect(m.SimpleAck)

    async def _expect(self, kind: type[m.Message]) -> m.Message:
        packet = await self.next()
        assert packet is not None, "the server has closed"
        assert isinstance(packet.message, kind), packet
        return packet.message
