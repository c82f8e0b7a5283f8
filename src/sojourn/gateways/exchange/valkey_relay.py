"""RelayLine: what other pods say to this one, over one connection of publish/subscribe that notices its own death.

Theory of operation. A subscription that is silent looks like one whose server is gone (redis-py #2089, #2417); so
silence is broken by a ping, and a ping without an answer ends the connection. After each reconnect everything is
subscribed again, and every listener is told that there was a gap. Each frame has a number under the publisher's mark,
so that a frame lost on the way (a server drops subscribers that read too slowly) is noticed at the next one.

A command to another pod is a message on that pod's own channel, its answer one on ours: delivered at most once.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from sojourn.core.backoff import Backoff
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.exchange.bus import CommandHandler, RelayListener
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.valkey_connection import NAME, ValkeyConnection, ValkeyDoor

HEAD: Final = struct.Struct(">QQ")
"""Before each frame: the publisher's mark, and the frame's number among those of its session."""

_SUBSCRIBE_COUNT: Final = 500
"""Channels per command when everything is subscribed again; a server answers each of them by itself."""

Publish = Callable[[str, bytes], "asyncio.Future[Any]"]
"""Sends a message on a channel; the future gets how many took it."""


class _Request(msgspec.Struct, array_like=True, tag="q"):
    number: int
    channel: str
    session: str
    timeout_s: float
    body: bytes


class _Reply(msgspec.Struct, array_like=True, tag="r"):
    number: int
    outcome: Literal["done", "busy", "failed"]
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Request | _Reply).decode


class _Channel:
    """One channel that is, or is to be, subscribed."""

    __slots__ = ("confirmed", "is_on", "last", "listeners")

    def __init__(self) -> None:
        self.listeners: list[RelayListener] = []
        self.is_on = False
        self.confirmed: list[asyncio.Future[None]] = []
        self.last: tuple[int, int] | None = None


class RelaySubscription:
    """One listener of one channel."""

    __slots__ = ("_channel", "_line", "_listener")

    def __init__(self, line: RelayLine, channel: str, listener: RelayListener) -> None:
        self._line: RelayLine | None = line
        self._channel = channel
        self._listener = listener

    def close(self) -> None:
        """End it; does nothing the second time."""
        line, self._line = self._line, None
        if line is not None:
            line.unsubscribe(self._channel, self._listener)


class RelayLine:
    """The connection that brings frames, commands, answers and news.

    Args:
        settings: of ``[exchange.valkey]``.
        door: makes the connections.
        publish: sends; over the command line.
        own_channel: on which commands and answers for this pod come.
        news_channel: on which changes among the pods are told.
        on_news: called for each of those, and after every reconnect.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        door: ValkeyDoor,
        publish: Publish,
        *,
        own_channel: str,
        news_channel: str,
        on_news: Callable[[], None],
    ) -> None:
        self.is_up = False
        self.cause = "not connected yet"
        self.reconnects_count = 0
        self.handler: CommandHandler | None = None
        self._settings = settings
        self._door = door
        self._publish = publish
        self._own_channel = own_channel
        self._news_channel = news_channel
        self._on_news = on_news
        self._mark = secrets.randbits(63)
        self._numbers = itertools.count(secrets.randbits(48))
        self._published: dict[str, int] = {}
        self._channels: dict[str, _Channel] = {}
        self._asked: dict[int, asyncio.Future[_Reply]] = {}
        self._connection: ValkeyConnection | None = None
        self._is_sharded = False
        self._unconfirmed: dict[str, int] = {}
        self._to_send: list[tuple[str, str]] = []
        self._has_to_send = asyncio.Event()
        self._carried_out = 0
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Connect, listen and connect again, until cancelled."""
        backoff = Backoff(self._settings.reconnect_s, self._settings.reconnect_max_s)
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                try:
                    async with asyncio.timeout(self._settings.timeout_s):
                        connection = await self._connect()
                    await self._converse(connection, backoff)
                except TimeoutError:
                    self.cause = "no answer in time"
                except BackendUnavailable as error:
                    self.cause = error.cause
                finally:
                    await self._lose()
                await asyncio.sleep(next(backoff))

    async def subscribe(self, name: str, listener: RelayListener) -> RelaySubscription:
        """Listen to a channel; returns when the server has confirmed it.

        Raises: BackendUnavailable, LimitExceeded.
        """
        channel = self._channels.get(name)
        if channel is None:
            if len(self._channels) >= self._settings.channels_count:
                raise LimitExceeded(
                    "sessions of other pods", len(self._channels) + 1, self._settings.channels_count
                )
            channel = self._channels[name] = _Channel()
        channel.listeners.append(listener)
        try:
            if not channel.is_on:
                await self._confirmation(name, channel)
        except BaseException:
            self.unsubscribe(name, listener)
            raise
        return RelaySubscription(self, name, listener)

    def unsubscribe(self, name: str, listener: RelayListener) -> None:
        """End what :meth:`subscribe` began."""
        channel = self._channels.get(name)
        if channel is not None and listener in channel.listeners:
            channel.listeners.remove(listener)
            if not channel.listeners:
                del self._channels[name]
                self._order("UNSUBSCRIBE", name)

    def publish(self, name: str, frame: bytes) -> asyncio.Future[Any]:
        """Send the next frame of a channel.

        Raises: LimitExceeded, BackendUnavailable.
        """
        self._check_size(frame)
        number = self._published[name] = self._published.get(name, 0) + 1
        return self._publish(name, HEAD.pack(self._mark, number) + frame)

    def end_publishing(self, name: str) -> None:
        """Forget how many frames a channel has had; the next one begins a new count, which listeners call a gap."""
        self._published.pop(name, None)

    async def ask(self, channel: str, pod: str, session: str, command: bytes, timeout_s: float) -> bytes:
        """Send a command on a pod's own channel and return the answer; see :class:`Relay`."""
        self._check_size(command)
        if not self.is_up:
            raise BackendUnavailable(NAME, 0.0, "answers of other pods do not arrive at the moment")
        if len(self._asked) >= self._settings.waiting_count:
            raise BackendUnavailable(
                f"pod {pod}", 0.0, f"{len(self._asked)} commands wait for answers already"
            )
        number = next(self._numbers)
        reply: asyncio.Future[_Reply]
        reply = self._asked[number] = asyncio.get_running_loop().create_future()
        request = _encode(_Request(number, self._own_channel, session, timeout_s, command))
        try:
            async with asyncio.timeout(timeout_s):
                if not await self._publish(channel, request):
                    raise BackendUnavailable(f"pod {pod}", 0.0, "it does not listen")
                answer = await reply
        except TimeoutError as error:
            raise BackendUnavailable(f"pod {pod}", timeout_s, "no answer in time") from error
        finally:
            del self._asked[number]
        if answer.outcome != "done":
            raise BackendUnavailable(f"pod {pod}", 0.0, f"the command was not carried out: {answer.outcome}")
        return answer.body

    async def _connect(self) -> ValkeyConnection:
        connection = self._door.connection()
        try:
            facts = await connection.open()
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._is_sharded = facts.has_sharded
        return connection

    async def _converse(self, connection: ValkeyConnection, backoff: Backoff) -> None:
        """Subscribe everything, then read until the connection fails.

        Raises: BackendUnavailable, always.
        """
        self._to_send.clear()
        wanted = [self._own_channel, self._news_channel, *self._channels]
        self._unconfirmed = dict.fromkeys(wanted, 1)
        expected = set(wanted)
        # In a cluster that shards, one command may name only channels of one slot.
        step = 1 if self._is_sharded else _SUBSCRIBE_COUNT
        starts = range(0, len(wanted), step)
        subscribe = self._verb("SUBSCRIBE")
        await connection.send(*((subscribe, *wanted[start : start + step]) for start in starts))
        async with asyncio.TaskGroup() as both:
            sending = both.create_task(self._send_orders(connection))
            try:
                await self._read(connection, expected, backoff)
            except BackendUnavailable as error:
                failure = error  # raised outside: a TaskGroup would wrap it
            finally:
                sending.cancel()
        raise failure

    async def _read(self, connection: ValkeyConnection, expected: set[str], backoff: Backoff) -> None:
        """Take what comes; break a silence with a ping.

        Args:
            expected: channels whose confirmation makes the line complete again.
        Raises: BackendUnavailable, always.
        """
        is_asked = False
        while True:
            silence_s = self._settings.timeout_s if is_asked else self._settings.ping_every_s
            try:
                async with asyncio.timeout(silence_s):
                    push = await connection.next_push()
            except TimeoutError:
                if is_asked:
                    raise BackendUnavailable(NAME, silence_s, "the relay's connection is dead") from None
                is_asked = True
                await connection.send(("PING",))
                continue
            is_asked = False
            if isinstance(push, list) and len(push) == 3:  # noqa: PLR2004  kind, channel and what there is to say
                self._take(push[0], push[1].decode(), push[2], expected)
                if self.is_up:
                    backoff.reset()

    def _take(self, kind: bytes, name: str, body: Any, expected: set[str]) -> None:
        if kind in (b"smessage", b"message"):
            if name == self._own_channel:
                self._take_message(body)
            elif name == self._news_channel:
                self._on_news()
            else:
                self._take_frame(name, body)
        elif kind in (b"ssubscribe", b"subscribe"):
            self._take_confirmation(name)
            if name in expected:
                expected.remove(name)
                if not expected:
                    self._complete()

    def _take_confirmation(self, name: str) -> None:
        """Note that a channel is on, if no later order for the same channel is under way."""
        left = self._unconfirmed.get(name, 1) - 1
        if left > 0:
            self._unconfirmed[name] = left
            return
        self._unconfirmed.pop(name, None)
        channel = self._channels.get(name)
        if channel is not None:
            channel.is_on = True
            for confirmed in channel.confirmed:
                if not confirmed.done():
                    confirmed.set_result(None)
            channel.confirmed.clear()

    def _complete(self) -> None:
        """All is subscribed again: whoever listened before may have missed something."""
        self.is_up, self.cause = True, ""
        self._on_news()
        if self.reconnects_count:
            for channel in list(self._channels.values()):
                channel.last = None
                for listener in tuple(channel.listeners):
                    _tell(listener.on_gap)
        self.reconnects_count += 1

    def _take_frame(self, name: str, body: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None or len(body) < HEAD.size:
            return
        mark, number = HEAD.unpack_from(body)
        has_gap = channel.last is not None and channel.last != (mark, number - 1)
        channel.last = mark, number
        frame = body[HEAD.size :]
        for listener in tuple(channel.listeners):
            if has_gap:
                _tell(listener.on_gap)
            _tell(listener.on_frame, frame)

    def _take_message(self, body: bytes) -> None:
        try:
            message = _decode(body)
        except msgspec.MsgspecError:
            return  # of a pod that speaks another version: who asked will not get an answer
        if isinstance(message, _Reply):
            reply = self._asked.get(message.number)
            if reply is not None and not reply.done():
                reply.set_result(message)
        elif self.handler is None or self._carried_out >= self._settings.commands_count:
            self._reply(message, _Reply(message.number, "busy", b""))
        elif self._tasks is not None:
            self._carried_out += 1
            self._tasks.create_task(self._carry_out(message, self.handler))

    async def _carry_out(self, request: _Request, handler: CommandHandler) -> None:
        reply = _Reply(request.number, "failed", b"")
        try:
            async with asyncio.timeout(request.timeout_s):
                reply = _Reply(request.number, "done", await handler(request.session, request.body))
        except TimeoutError:
            return  # nobody waits for it any more
        except Exception as error:  # noqa: BLE001  one command's bug must not end the relay of all
            context = {"message": "a command of another pod failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self._carried_out -= 1
        self._reply(request, reply)

    def _reply(self, request: _Request, reply: _Reply) -> None:
        try:
            self._publish(request.channel, _encode(reply)).add_done_callback(_forget)
        except BackendUnavailable:
            return  # who asked has a deadline

    async def _confirmation(self, name: str, channel: _Channel) -> None:
        """Wait until the server has confirmed a channel."""
        if self._connection is None:
            raise BackendUnavailable(NAME, 0.0, "the relay is away")
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not channel.confirmed:
            self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1
            self._order("SUBSCRIBE", name)
        channel.confirmed.append(confirmed)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await confirmed
        except TimeoutError as error:
            raise BackendUnavailable(NAME, self._settings.timeout_s, "no answer in time") from error

    def _order(self, verb: str, name: str) -> None:
        if self._connection is not None:
            self._to_send.append((verb, name))
            self._has_to_send.set()

    async def _send_orders(self, connection: ValkeyConnection) -> None:
        """Send what is to be subscribed and unsubscribed, in order; the reader sees it if the connection is lost."""
        while True:
            await self._has_to_send.wait()
            self._has_to_send.clear()
            orders, self._to_send = self._to_send, []
            try:
                await connection.send(*((self._verb(verb), name) for verb, name in orders))
            except BackendUnavailable:
                return

    async def _lose(self) -> None:
        """Close the connection; what waits for something on it fails."""
        connection, self._connection = self._connection, None
        self.is_up = False
        lost = "the relay's connection was lost"
        for channel in self._channels.values():
            channel.is_on = False
            for confirmed in channel.confirmed:
                if not confirmed.done():
                    confirmed.set_exception(BackendUnavailable(NAME, 0.0, lost))
            channel.confirmed.clear()
        for reply in self._asked.values():
            if not reply.done():
                reply.set_exception(BackendUnavailable(NAME, 0.0, lost))
                reply.exception()  # its asker may still wait for the server to take the request
        if connection is not None:
            await connection.close()

    def _verb(self, verb: str) -> str:
        return f"S{verb}" if self._is_sharded else verb

    def _check_size(self, body: bytes) -> None:
        if len(body) > self._settings.frame_bytes:
            raise LimitExceeded("bytes of a frame for other pods", len(body), self._settings.frame_bytes)


def _tell(listen: Callable[..., None], *what: bytes) -> None:
    """Call a listener; its bug must not end the relay of all others."""
    try:
        listen(*what)
    except Exception as error:  # noqa: BLE001  as the docstring says
        context = {"message": "a listener of the relay failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _forget(answer: asyncio.Future[Any]) -> None:
    """Take note of an answer that nobody needs, so that its error is not called unseen."""
    if not answer.cancelled():
        answer.exception()
