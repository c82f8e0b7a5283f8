"""One connection to the broker over aiomqtt; its errors become ours.

Each connection has a client of its own: aiomqtt's can be entered again, but what an earlier connection left in it comes
along. Knows nothing of panels.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, TypeVar

import aiomqtt
from aiomqtt.client import ProtocolVersion
from paho.mqtt.client import MQTT_ERR_SUCCESS, error_string
from paho.mqtt.subscribeoptions import SubscribeOptions

from sojourn.core.clock import Clock, monotonic
from sojourn.core.tls import client_context
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.outbox import Outgoing

T = TypeVar("T")

NAME: Final = "MQTT broker"
"""What errors call the backend."""

BATCH_COUNT: Final = 64
"""So many messages at most are written at once; about 64 KiB."""
_VARINT: Final = 0x80
_PUBLISH: Final = 0x30

_log = logging.getLogger("sojourn.mqtt")
_log.propagate = False
_log.setLevel(logging.CRITICAL)
_log.addHandler(logging.NullHandler())
"""aiomqtt's and paho's own lines say nothing that our events do not."""


class Received(asyncio.Queue[aiomqtt.Message]):
    """What came and waits to be read; aiomqtt drops what finds no room, this counts it."""

    dropped_count = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Take a message.

        Raises: asyncio.QueueFull.
        """
        if self.full():
            self.dropped_count += 1
        super().put_nowait(item)


class _OnItsWay(NamedTuple):
    """A message that the broker has not confirmed."""

    at: float
    outgoing: Outgoing | None


class MqttConnection:
    """An open connection: made by :func:`connected`, which also ends it.

    Theory of operation. aiomqtt connects, subscribes and receives. What is published goes past it, as its way takes a
    task's turn, a timer, an event and a system call for each message: messages without a confirmation are put together
    and handed to paho as one packet of bytes; those with one are paho's, and what is on its way is kept here. Both are
    written at the end of the loop's turn. Measured by ``bench/itv2.py``: a third of the work.

    Always true: ``room`` waits while ``inflight_count`` messages are not confirmed, or ``BATCH_COUNT`` not written.
    """

    def __init__(self, client: aiomqtt.Client, settings: MqttSettings, clock: Clock = monotonic) -> None:
        self._client = client
        self._is_5 = settings.version == "5"
        self._qos = settings.qos
        self._limit = settings.inflight_count
        self._timeout_s = settings.timeout_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._batch: list[bytes] = []
        self._batched_at = 0.0
        self._on_its_way: dict[int, _OnItsWay] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._writer = -1
        self._paho = paho = client._client  # noqa: SLF001  aiomqtt has no public word for it
        paho.on_publish = self._arrived
        paho.on_socket_register_write = self._write_soon
        paho.on_socket_unregister_write = self._written
        paho.disable_logger()  # it would format each packet for a log that nobody reads

    def publish(
        self, topic: str, body: bytes, *, qos: int, is_retained: bool, outgoing: Outgoing | None = None
    ) -> None:
        """Send a message off at the end of the loop's turn, behind those before it. Then: wait for ``room``.

        Args:
            outgoing: returned by :meth:`lost` if the broker does not confirm it; with QoS 0 it never does.
        Raises: BackendUnavailable.
        """
        if qos == 0:
            if not self._batch:
                self._batched_at = self._clock()
                self._loop.call_soon(self.flush)
            self._batch.append(_publish_packet(topic, body, is_retained=is_retained, is_5=self._is_5))
        else:
            self.flush()
            info = self._paho.publish(topic, body, qos, is_retained)
            if info.rc != MQTT_ERR_SUCCESS:
                raise BackendUnavailable(NAME, 0.0, error_string(info.rc))
            self._on_its_way[info.mid] = _OnItsWay(self._clock(), outgoing)
        if len(self._on_its_way) >= self._limit or len(self._batch) >= BATCH_COUNT:
            self._has_room.clear()

    async def room(self) -> None:
        """Wait until another message may be on its way."""
        await self._has_room.wait()

    async def watch(self) -> None:
        """Look after what is on its way.

        Raises: BackendUnavailable when the broker does not take it, or takes too long to confirm it.
        """
        while True:
            since = [self._batched_at] if self._batched_at else []
            since += [one.at for one in self._on_its_way.values()][:1]
            wait_s = min(since, default=self._clock()) + self._timeout_s - self._clock()
            if wait_s <= 0:
                raise BackendUnavailable(NAME, self._timeout_s, "it does not take what we publish")
            broken, _ = await asyncio.wait((self._broken,), timeout=wait_s)
            if broken:
                self._broken.result()

    def lost(self) -> list[Outgoing]:
        """Return what is not confirmed, in the order in which it was sent, and forget it."""
        lost = [one.outgoing for one in self._on_its_way.values() if one.outgoing is not None]
        self._on_its_way.clear()
        return lost

    def flush(self) -> None:
        """Hand over what was put together in this turn of the loop."""
        if self._batch:
            data, self._batch = b"".join(self._batch), []
            # Command 0 is none of MQTT's: paho does no more than write the bytes.
            self._paho._packet_queue(0, data, 0, 0)  # noqa: SLF001  the public way is 100 us for each message

    def _arrived(self, _paho: Any, _data: Any, number: int, *_reason: Any) -> None:
        self._on_its_way.pop(number, None)
        self._give_room()

    def _give_room(self) -> None:
        if len(self._on_its_way) < self._limit and not self._batched_at:
            self._has_room.set()

    # Writing: at the end of the turn, and by the loop only what the system does not take at once

    def _write_soon(self, _paho: Any, _data: Any, _socket: Any) -> None:
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        paho = self._paho
        try:
            paho.loop_write()
        except Exception as error:  # noqa: BLE001  as aiomqtt says: usually the connection broke
            if not self._broken.done():
                self._broken.set_exception(_lost(error))
            return
        if self._writer < 0 and paho.want_write() and (socket := paho.socket()) is not None:
            self._writer = socket.fileno()
            self._loop.add_writer(self._writer, self._write)

    def _written(self, _paho: Any, _data: Any, _socket: Any) -> None:
        if self._writer >= 0:
            self._loop.remove_writer(self._writer)
            self._writer = -1
        self._batched_at = self._clock() if self._batch else 0.0
        self._give_room()

    async def subscribe(self, *topics: str, qos: int | None = None) -> None:
        """Subscribe; with MQTT 5, a retained message stays marked as one even when it comes at once.

        Raises: BackendUnavailable, also when the broker refuses.
        """
        level = self._qos if qos is None else qos
        try:
            if self._is_5:
                options = SubscribeOptions(qos=level, retainAsPublished=True)
                codes = await _heard(self._client.subscribe([(topic, options) for topic in topics]))
            else:
                codes = await _heard(self._client.subscribe([(topic, level) for topic in topics]))
        except (aiomqtt.MqttError, OSError) as error:
            raise _lost(error) from error
        refused = [topic for topic, code in zip(topics, codes, strict=True) if _number(code) >= 0x80]  # noqa: PLR2004
        if refused:
            raise BackendUnavailable(NAME, 0.0, f"it does not let us subscribe to {', '.join(refused)}")

    async def unsubscribe(self, *topics: str) -> None:
        """Unsubscribe.

        Raises: BackendUnavailable.
        """
        try:
            await _heard(self._client.unsubscribe(list(topics)))
        except (aiomqtt.MqttError, OSError) as error:
            raise _lost(error) from error

    async def messages(self) -> AsyncIterator[aiomqtt.Message]:
        """Yield what comes, for as long as there is a connection.

        Raises: BackendUnavailable at its end.
        """
        try:
            async for message in self._client.messages:
                yield message
        except (aiomqtt.MqttError, OSError) as error:
            raise _lost(error) from error


@asynccontextmanager
async def connected(
    settings: MqttSettings, identifier: str, will: tuple[str, bytes], clock: Clock = monotonic
) -> AsyncIterator[MqttConnection]:
    """Connect, and disconnect at the end; a broker that loses us otherwise publishes the will.

    Args:
        settings: of MQTT.
        identifier: the connection's name at the broker.
        will: topic and body; retained.
        clock: monotonic seconds.

    Raises: BackendUnavailable.
    """
    context = await asyncio.to_thread(_context, settings) if settings.broker.has_tls else None
    client = _client(settings, identifier, will, context)
    try:
        try:
            await _heard(client.__aenter__())
        except (aiomqtt.MqttError, OSError) as error:
            raise _lost(error) from error
        try:
            yield MqttConnection(client, settings, clock)
        finally:
            with suppress(aiomqtt.MqttError, OSError):  # it may be gone already
                await client.__aexit__(None, None, None)
    finally:
        # A client that was cancelled or that got no answer leaves its socket with the loop.
        client._client._sock_close()  # noqa: SLF001  paho has no public word for it


def _client(
    settings: MqttSettings, identifier: str, will: tuple[str, bytes], context: ssl.SSLContext | None
) -> aiomqtt.Client:
    broker = settings.broker
    is_5 = settings.version == "5"
    versions: dict[str, Any] = {"clean_start": True} if is_5 else {"clean_session": True}
    return aiomqtt.Client(
        broker.host,
        broker.port,
        username=settings.username or None,
        password=settings.password.reveal() if settings.password else None,
        logger=_log,
        identifier=identifier,
        queue_type=Received,
        protocol=ProtocolVersion.V5 if is_5 else ProtocolVersion.V311,
        will=aiomqtt.Will(will[0], will[1], qos=settings.qos, retain=True),
        timeout=settings.timeout_s,
        keepalive=settings.keepalive_s,
        max_queued_incoming_messages=settings.received_waiting_count,
        max_inflight_messages=settings.inflight_count,
        # Without it a state waits 40 ms for the broker's delayed ACK of the message before.
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        tls_context=context,
        **versions,
    )


def _context(settings: MqttSettings) -> ssl.SSLContext:
    try:
        return client_context(
            settings.ca_file,
            settings.certificate_file,
            settings.private_key_file,
            min_version=settings.tls_min_version,
        )
    except ConfigError as error:
        raise BackendUnavailable(NAME, 0.0, f"our files for TLS: {error}") from error


async def _heard(call: Awaitable[T]) -> T:
    """Await a call of aiomqtt, and be cancelled when told so.

    Until Python 3.12 the ``wait_for`` in aiomqtt forgets a cancellation that comes together with the answer.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    answer = await call
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


def _publish_packet(topic: str, body: bytes, *, is_retained: bool, is_5: bool) -> bytes:
    """Return a PUBLISH packet with QoS 0 and without properties. Source: MQTT 5.0 and 3.1.1, section 3.3."""
    name = topic.encode()
    rest = b"%b%b%b%b" % (len(name).to_bytes(2, "big"), name, b"\0" if is_5 else b"", body)
    left = len(rest)
    length = bytearray()
    while left >= _VARINT:
        length.append(left % _VARINT | _VARINT)
        left //= _VARINT
    length.append(left)
    return b"%c%b%b" % (_PUBLISH | is_retained, bytes(length), rest)


def _number(code: Any) -> int:
    return int(getattr(code, "value", code))


def _lost(error: Exception) -> BackendUnavailable:
    """Return one line; the causes that aiomqtt hides behind its own errors are shown."""
    cause = error.__cause__ or error
    return BackendUnavailable(NAME, 0.0, " ".join(str(cause).split())[:200] or type(cause).__name__)
