"""Alarm panels for ``itv2.py``, and somebody at the broker who sees what becomes of their packets, as one program.

``itv2_panels.py PORT BROKER PANELS`` connects them and prints ``ready`` when the server has read all that it wants to
know. Then a line on standard input is an order: ``events SECONDS PER_S`` opens and restores zones and prints a
:class:`Events` as JSON; ``quit`` ends it. In between the panels answer polls and questions, and are silent otherwise.

The panels are as small as they can be: they are the load, and share a core with the broker. They hold to the rules of
the wire, stop-and-wait included.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import deque

import aiomqtt
import msgspec
import servers

from sojourn.core.loop import run
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.encryption import FrameCipher, type2_key

TYPE2_CODE = "0123456789ABCDEFFEDCBA9876543210"
BROKER_PASSWORD = "of the bench"  # noqa: S105 - for a minute, on loopback
ZONES_COUNT = 16
"""What a house has."""
QUIET_S = 4.0
"""Nobody was asked anything for so long: the server knows everything; longer than a replay's end."""
_WITHIN_S = 120.0
_CONNECTING_COUNT = 50
_INITIALIZER = bytes(range(16))
_LABEL_BYTES = 56
_TAIL_S = 2.0
"""For the last messages to come through the broker."""


class Events(msgspec.Struct):
    """What was sent, what of it was seen at the broker, and how long that took from the packet's write, in ms."""

    sent_count: int
    seen_count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def integration_id(number: int) -> str:
    """Return a panel's ID."""
    return f"{number + 1:012}"


class BenchPanel(asyncio.Protocol):
    """One panel.

    Always true: at most one packet of its own is not acknowledged; the rest waits in line.
    """

    def __init__(self, number: int, load: Load) -> None:
        self._header = integration_id(number).encode()
        self._load = load
        self._framing = wire.TLinkFraming()
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._incoming: FrameCipher | None = None
        self._outgoing: FrameCipher | None = None
        self._sent = 0
        self._taken = 0
        self._waiting: deque[m.Message] = deque()
        self._is_unacknowledged = False
        self.is_open = asyncio.get_running_loop().create_future()
        self.zones = [0] * ZONES_COUNT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session."""
        self._transport = transport  # type: ignore[assignment]  # of a stream, as create_connection promises
        opening = m.OpenSession(
            command_sequence=75,
            device_type=2,
            device_id=0x0329,
            firmware=0x0543,
            protocol=0x0223,
            tx_buffer_bytes=512,
            rx_buffer_bytes=512,
            unknown=1,
            encryption_type=m.EncryptionType.TYPE_2,
        )
        self._write(m.Packet(0, 0, opening))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """No panel of the bench is ever thrown out."""
        if not self._load.is_over:
            sys.exit(f"panel {self._header.decode()} was thrown out")

    def data_received(self, data: bytes) -> None:
        """Answer."""
        packets, consumed, _ = self._framing.split(self._rest + data)
        self._rest = (self._rest + data)[consumed:]
        for packet in packets:
            payload = packet.payload if self._incoming is None else self._incoming.decrypt(packet.payload)
            self._take(wire.decode_packet(wire.unframe(payload)))

    def tell(self, message: m.Message) -> None:
        """Send a notification as soon as the one before is acknowledged."""
        self._waiting.append(message)
        self._next()

    def _next(self) -> None:
        if self._waiting and not self._is_unacknowledged:
            self._is_unacknowledged = True
            self._sent = self._sent + 1 & 0xFF
            self._write(m.Packet(self._sent, self._taken, self._waiting.popleft()))

    def _write(self, packet: m.Packet) -> None:
        assert self._transport is not None
        data = wire.frame(wire.encode_packet(packet))
        if self._outgoing is not None:
            data = self._outgoing.encrypt(data)
        self._transport.write(wire.encode_tlink(self._header, data))

    def _acknowledge(self) -> None:
        self._write(m.Packet(self._sent, self._taken, m.SimpleAck()))

    def _take(self, packet: m.Packet) -> None:
        message = packet.message
        if packet.receiver == self._sent:
            self._is_unacknowledged = False
        if isinstance(message, m.SimpleAck):
            if self._outgoing is not None and not self.is_open.done():
                self.is_open.set_result(None)
            elif self._outgoing is None and self._incoming is None and self._sent == 1:
                self._incoming = FrameCipher(type2_key(TYPE2_CODE, _INITIALIZER))
                self.tell(m.RequestAccess(command_sequence=77, initializer=_INITIALIZER))
            self._next()
            return
        self._taken = packet.sender
        if isinstance(message, m.OpenSession):
            self.tell(m.CommandResponse(command_sequence=message.command_sequence))
        elif isinstance(message, m.RequestAccess):
            self._outgoing = FrameCipher(type2_key(TYPE2_CODE, message.initializer))
            self.tell(m.CommandResponse(command_sequence=message.command_sequence))
        elif isinstance(message, m.Command) and not isinstance(message, m.CommandResponse):
            self._load.asked_at = time.monotonic()
            self.tell(self._answer(message))
        else:
            self._acknowledge()
            self._next()

    def _answer(self, asked: m.Command) -> m.Message:
        if isinstance(asked, m.RequestCapabilities):
            return m.SystemCapabilities(zones=ZONES_COUNT, users=8, partitions=1, fobs=0, tags=0, outputs=0)
        if isinstance(asked, m.RequestPartitionStatus):
            return m.PartitionStatus(partition=asked.partition, status=b"\x02\x00\x00")
        if isinstance(asked, m.RequestZoneStatus):
            first = asked.first
            return m.ZoneStatus(first=first, statuses=tuple(self.zones[first - 1 : first - 1 + asked.count]))
        if isinstance(asked, m.RequestLabels):
            numbers = range(asked.first, asked.last + 1)
            return m.Labels(
                collection=asked.collection,
                first=asked.first,
                last=asked.last,
                width=_LABEL_BYTES,
                labels=tuple(f"Label number {number}" for number in numbers),
            )
        return m.CommandError(nacked_word=asked.word, code=m.NackCode.INVALID_COMMAND)


class Load:
    """All panels, and what is under way between them and the broker."""

    def __init__(self) -> None:
        self.panels: list[BenchPanel] = []
        self.asked_at = time.monotonic()
        self.is_over = False
        self._under_way: dict[tuple[int, int], tuple[bool, float]] = {}
        self._seen_ms: list[float] = []

    async def connect(self, port: int, count: int) -> None:
        """Connect all panels, and wait until the server has no more questions."""
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(_CONNECTING_COUNT)

        async def open_one(number: int) -> None:
            async with gate:
                _, panel = await loop.create_connection(lambda: BenchPanel(number, self), "127.0.0.1", port)
                self.panels.append(panel)
                await panel.is_open

        async with asyncio.timeout(_WITHIN_S), asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(open_one(number))
        self.panels.sort(key=lambda panel: panel._header)  # noqa: SLF001 - our own
        self.asked_at = time.monotonic()
        while (quiet_s := time.monotonic() - self.asked_at) < QUIET_S:  # noqa: ASYNC110 - it is the silence that counts
            await asyncio.sleep(QUIET_S - quiet_s)

    async def watch(self, client: aiomqtt.Client) -> None:
        """Note when a zone's state comes through the broker."""
        async for message in client.messages:
            _, panel, _, zone = message.topic.value.split("/")
            key = int(panel.rpartition("-")[2]), int(zone)
            waiting = self._under_way.get(key)
            assert isinstance(message.payload, bytes)
            if (
                waiting is None
                or message.retain
                or msgspec.json.decode(message.payload)["open"] is not waiting[0]
            ):
                continue
            self._seen_ms.append((time.perf_counter() - waiting[1]) * 1e3)
            del self._under_way[key]

    async def events(self, seconds: float, per_s: float) -> Events:
        """Open and restore zones at that rate, evenly, at panels by chance."""
        chance = random.Random(0)  # noqa: S311 - which door opens is no secret
        self._under_way.clear()
        self._seen_ms.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        sent = 0
        while (now := loop.time()) < began + seconds:
            while sent < (now - began) * per_s:
                number, zone = chance.randrange(len(self.panels)), chance.randrange(ZONES_COUNT) + 1
                if (number, zone) in self._under_way:
                    continue
                panel = self.panels[number]
                is_open = panel.zones[zone - 1] = panel.zones[zone - 1] ^ 1
                self._under_way[number, zone] = (bool(is_open), time.perf_counter())
                panel.tell(m.ZoneLifestyle(zone=zone, state=is_open))
                sent += 1
            await asyncio.sleep(0.001)
        took = loop.time() - began
        await asyncio.sleep(_TAIL_S)
        seen = sorted(self._seen_ms) or [0.0]
        return Events(
            sent, len(self._seen_ms), took, seen[len(seen) // 2], seen[int(len(seen) * 0.99)], seen[-1]
        )


async def _main(port: int, broker_port: int, count: int) -> None:
    load = Load()
    async with (
        aiomqtt.Client("127.0.0.1", broker_port, username="watcher", password=BROKER_PASSWORD) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await load.connect(port, count)
        await client.subscribe("sojourn/+/zone/+")
        watching = tasks.create_task(load.watch(client))
        print("ready", flush=True)
        while (order := (await asyncio.to_thread(sys.stdin.readline)).split()) and order[0] == "events":
            done = await load.events(float(order[1]), float(order[2]))
            print(msgspec.json.encode(done).decode(), flush=True)
        load.is_over = True
        watching.cancel()


if __name__ == "__main__":
    servers.take_core(servers.LOAD_CORE)
    servers.allow_many_files()
    with contextlib.suppress(KeyboardInterrupt):
        run(_main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
