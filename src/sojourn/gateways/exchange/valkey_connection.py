"""One connection to Valkey or Redis over redis-py: RESP3, batches, pushes; its errors become ours.

Takes redis-py's :class:`Connection` and not its client, because pools, retries and reconnects behind our back are what
makes a lost connection hard to notice (redis-py #2089, #2417). Gives no deadline: who calls has one. Knows nothing of
what the commands mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus_config import ValkeySettings

NAME: Final = "Valkey"
"""What errors and the circuit call the backend."""

AWAY: Final = frozenset(
    {"CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"}
)
"""Error codes of a server that is there but cannot do its work; a new connection may lead to one that can."""

SHARDED_SINCE: Final = (7, 0)
"""The version of Redis since which there is sharded publish/subscribe; the first Valkey was 7.2."""

Command = Sequence[str | bytes | float]


class ServerFacts(msgspec.Struct, frozen=True):
    """What a server said of itself: its version, and whether it is part of a cluster."""

    version: tuple[int, int]
    is_cluster: bool

    @property
    def has_sharded(self) -> bool:
        """It has SPUBLISH and SSUBSCRIBE."""
        return self.version >= SHARDED_SINCE


class Refusal(msgspec.Struct, frozen=True):
    """A command that the server refused; ``code`` is the first word of its error, all that may be shown."""

    code: str

    @property
    def is_away(self) -> bool:
        """The server cannot do its work at all."""
        return self.code in AWAY


class ValkeyConnection:
    """One connection: opened by who made it, closed by it after the first error that is not a refusal."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def open(self) -> ServerFacts:
        """Connect, log in and ask the server what it is.

        Raises: BackendUnavailable.
        """
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py types only most of itself
        except AuthenticationError as error:
            raise BackendUnavailable(NAME, 0.0, "it refuses our user or password") from error
        except (RedisError, OSError) as error:
            raise BackendUnavailable(NAME, 0.0, f"no connection ({type(error).__name__})") from error
        # Its own handler formats every push for a log line that nobody reads.
        parser: Any = self._connection._parser  # noqa: SLF001  redis-py's PubSub does the same
        parser.set_pubsub_push_handler(_as_it_is)
        (facts,) = await self.exchange([("HELLO",)])  # whoever may connect may ask, unlike with INFO
        version = re.match(rb"(\d+)\.(\d+)", facts[b"version"]) if isinstance(facts, dict) else None
        if version is None:
            raise BackendUnavailable(NAME, 0.0, "it does not say what it is")
        return ServerFacts((int(version[1]), int(version[2])), is_cluster=facts[b"mode"] == b"cluster")

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one go and return their answers in order; a refused one has a :class:`Refusal`.

        Raises: BackendUnavailable. Then: close; it is not known which commands were carried out.
        """
        answers = []
        try:
            await self._connection.send_packed_command(_packed(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await self._connection.read_response(disconnect_on_error=False))
                except ResponseError as error:
                    answers.append(_refusal(error))
        except (RedisError, OSError) as error:
            raise BackendUnavailable(NAME, 0.0, f"connection lost ({type(error).__name__})") from error
        return answers

    async def send(self, *commands: Command) -> None:
        """Send commands whose answers come as pushes.

        Raises: BackendUnavailable.
        """
        try:
            await self._connection.send_packed_command(_packed(commands), check_health=False)
        except (RedisError, OSError) as error:
            raise BackendUnavailable(NAME, 0.0, f"connection lost ({type(error).__name__})") from error

    async def next_push(self) -> Any:
        """Wait for the next push or answer and return it; may be cancelled and called again.

        Raises: BackendUnavailable, also for a command that was refused.
        """
        try:
            return await self._connection.read_response(
                timeout=math.inf, disconnect_on_error=False, push_request=True
            )
        except ResponseError as error:
            raise BackendUnavailable(NAME, 0.0, f"refused ({_refusal(error).code})") from error
        except (RedisError, OSError) as error:
            raise BackendUnavailable(NAME, 0.0, f"connection lost ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close without waiting for the other side."""
        await self._connection.disconnect(nowait=True)


class ValkeyDoor:
    """Makes connections to the address of the settings.

    Args:
        settings: with an address.
        name: what the server calls the client in its list, beside ``sojourn``.
    """

    def __init__(self, settings: ValkeySettings, name: str) -> None:
        url = settings.url.reveal() if settings.url else ""
        scheme, separator, rest = url.partition("://")
        options: dict[str, Any] = {}
        if settings.ca_file and scheme in ("rediss", "valkeys"):
            options["ssl_ca_certs"] = settings.ca_file
        self._pool = ConnectionPool.from_url(
            scheme.replace("valkey", "redis") + separator + rest,
            protocol=3,
            client_name=re.sub(r"[^!-~]", "-", f"sojourn-{name}"),
            driver_info=None,
            socket_timeout=None,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **options,
        )

    def connection(self) -> ValkeyConnection:
        """Return a connection that is not open yet."""
        return ValkeyConnection(self._pool.make_connection())  # type: ignore[no-untyped-call]  # as above


def _packed(commands: Sequence[Command]) -> bytes:
    """Return commands as the protocol wants them, arrays of bulk strings.

    Source: RESP specification, "Sending commands to a server". redis-py's own took 40 % of the time of an append.
    """
    parts = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for each in command:
            word = each if isinstance(each, bytes) else str(each).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


def _refusal(error: ResponseError) -> Refusal:
    # redis-py takes some codes away and makes classes of them instead.
    code = {"NoScriptError": "NOSCRIPT", "OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY"}.get(
        type(error).__name__
    )
    return Refusal(code or str(error).partition(" ")[0])


async def _as_it_is(push: Any) -> Any:
    return push
