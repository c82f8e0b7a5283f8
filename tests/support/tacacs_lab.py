"""A TACACS+ server on loopback, and a wire to it on which tests write any bytes they like.

The wire is built from the codec alone and not from our own client: what a client of ours would never send is what
most of the rules are about.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from sojourn.core.events import Event
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings, ListenerSettings, OffloadSettings
from sojourn.gateways.tacacs.config import (
    Accounting,
    Device,
    FileSink,
    Rule,
    SharedSecret,
    TacacsSettings,
    User,
)
from sojourn.gateways.tacacs.gateway import TacacsGateway
from sojourn.gateways.tacacs.messages import (
    AcctRequest,
    Action,
    AuthenContinue,
    AuthenStart,
    AuthenType,
    AuthorRequest,
    Flag,
    Message,
    PacketType,
    Service,
    Version,
)
from sojourn.gateways.tacacs.passwords import hash_password, new_seal_key, seal
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

KEY = b"the key of the laboratory, long enough"
SECOND_KEY = b"the next key of the laboratory, as long"
WRONG_KEY = b"a key that nobody has configured here"
SEAL_KEY = new_seal_key()
PASSWORD = "correct horse"
ENABLE_PASSWORD = "enable me please"
WITHIN_S = 10.0
"""How long a test waits for what has to happen; far above what it takes, so that a busy machine is no failure."""

DEVICE = "127.0.0.1"
"""The device of the laboratory; every address below is one of its own kind."""
QUIRKY = "127.0.0.2"
NO_SINGLE_CONNECT = "127.0.0.3"
ONLY_CHAP = "127.0.0.4"
TWO_KEYS = "127.0.0.5"
NOBODY = "127.9.9.9"

_TYPES = {
    AuthenStart: PacketType.AUTHEN,
    AuthenContinue: PacketType.AUTHEN,
    AuthorRequest: PacketType.AUTHOR,
    AcctRequest: PacketType.ACCT,
}
_MINOR_ONE = {AuthenType.PAP, AuthenType.CHAP, AuthenType.MSCHAP, AuthenType.MSCHAPV2}
BUGS = {"session.handler_failed", "server.loop_error"}


class Reply(NamedTuple):
    """One packet of the server, its body readable."""

    version: int
    type: int
    seq_no: int
    flags: int
    session_id: int
    body: bytes
    message: Any

    @property
    def status(self) -> int:
        """The server's verdict or question."""
        return int(self.message.status)


@functools.cache
def hashed(password: str) -> str:
    """Return a hash of a password; made once, since it costs milliseconds."""
    return hash_password(password)


def secrets_of(*keys: bytes) -> tuple[SharedSecret, ...]:
    """Return keys as a device's secrets."""
    return tuple(SharedSecret(value=Secret(key.decode())) for key in keys)


def user(name: str, *groups: str, password: str = PASSWORD, **more: Any) -> User:
    """Return a user who can log in every way."""
    given = {
        "name": name,
        "groups": groups,
        "password": Secret(hashed(password)),
        "secret": Secret(seal(password, SEAL_KEY, name)),
        "enable": Secret(hashed(ENABLE_PASSWORD)),
    }
    return User(**given | more)


def settings(folder: Path, **more: Any) -> TacacsSettings:
    """Return the laboratory's devices, users and rules, with one file for the records."""
    given = {
        "devices": (
            Device(name="lab", networks=(DEVICE,), groups=("labs",), secrets=secrets_of(KEY)),
            Device(
                name="quirky",
                networks=(QUIRKY,),
                secrets=secrets_of(KEY),
                quirks=(
                    "minor-version-on-author",
                    "password-in-start-data",
                    "arg-without-separator",
                    "zero-length-arg",
                ),
            ),
            Device(
                name="one-by-one",
                networks=(NO_SINGLE_CONNECT,),
                secrets=secrets_of(KEY),
                single_connect=False,
            ),
            Device(name="only-chap", networks=(ONLY_CHAP,), secrets=secrets_of(KEY), authen_types=("chap",)),
            Device(name="two-keys", networks=(TWO_KEYS,), secrets=secrets_of(SECOND_KEY, KEY)),
        ),
        "users": (
            user("ana", "ops", may_change_password=True),
            user("ben", "guests", secret=None, enable=None),
        ),
        "rules": (
            Rule(name="no-reload", commands=("reload",), action="deny", message="Not on my watch."),
            Rule(name="ops-session", user_groups=("ops",), services=("shell",), add=("priv-lvl=15",)),
            Rule(name="guests-show", user_groups=("guests",), services=("shell",), commands=("show",)),
            Rule(name="ops-ppp", user_groups=("ops",), services=("ppp",), replace=("addr=192.0.2.9",)),
        ),
        "accounting": Accounting(files=(FileSink(name="records", path=str(folder / "records.jsonl")),)),
        "seal_key": SEAL_KEY,
        "limits": LimitSettings(drain_timeout_s=WITHIN_S),
    }
    return TacacsSettings(**given | more)


class Lab(NamedTuple):
    """A running server, what it said happened, and where it listens."""

    server: Server
    gateway: TacacsGateway
    events: list[Event]
    ports: list[int]
    view: Callable[[Sequence[Event]], None]

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return self.ports[0]

    @property
    def manager(self) -> Any:
        """The gateway's connections."""
        return self.server.managers["tacacs"]

    def wire(self, source: str = DEVICE, key: bytes = KEY, **more: Any) -> Wire:
        """Return a connection from this device, to be entered."""
        return Wire(self.port, source, key, **more)

    def said(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of every event of this name so far."""
        self.server.events.flush()
        return [dict(event.fields()) for event in self.events if event.kind.name == name]

    async def until_idle(self) -> None:
        """Wait until no connection, session or task is left."""
        manager = self.manager
        await eventually(
            lambda: not manager.connections and not manager.session_count and not manager.task_count
        )

    def reload(self, config: TacacsSettings) -> None:
        """Put a configuration in force as the daemon does."""
        self.gateway.reload(config)
        self.server.reload()


@asynccontextmanager
async def running(
    config: TacacsSettings,
    *,
    listeners: Sequence[ListenerSettings] = (ListenerSettings(address="127.0.0.1:0"),),
    offload: OffloadSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Lab]:
    """Run a server; at its end it must be empty and must not have met a bug of its own."""
    gateway = TacacsGateway(config)
    server = Server(offload=offload or OffloadSettings(), clock=clock)
    events: list[Event] = []
    view = events.extend
    server.events.add_view(view)
    server.add(gateway, listeners)
    await server.start()
    ports = [int(listener.address.rpartition(":")[2]) for listener in server.listeners]
    lab = Lab(server, gateway, events, ports, view)
    try:
        yield lab
    finally:
        await server.stop()
    assert [event for event in events if event.kind.name in BUGS] == []
    assert lab.manager.session_count == lab.manager.task_count == len(lab.manager.connections) == 0


async def eventually(condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """Wait until a condition holds, and return what it returned; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.002)
    return found


class Wire:
    """A device's connection, byte by byte; used with ``async with``."""

    def __init__(
        self, port: int, source: str = DEVICE, key: bytes = KEY, *, tls: Any = None, flags: int = 0
    ) -> None:
        self._port = port
        self._source = source
        self._tls = tls
        self._buffer = b""
        self._packets: list[Packet] = []
        self._ids: Iterator[int] = itertools.count(0x1000)
        self.key = key
        self.flags = flags | (Flag.UNENCRYPTED if tls else 0)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1",
            self._port,
            local_addr=None if self._tls else (self._source, 0),
            ssl=self._tls,
            server_hostname="sojourn.test" if self._tls else None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def packet(
        self,
        message: Message | bytes,
        session_id: int,
        seq_no: int = 1,
        *,
        flags: int = 0,
        version: int | None = None,
        kind: int | None = None,
        key: bytes | None = None,
    ) -> bytes:
        """Return a packet of ours; what is not said is as it should be."""
        body = message if isinstance(message, bytes) else encode_body(message)
        if kind is None:
            kind = _TYPES.get(type(message), PacketType.AUTHEN)
        if version is None:
            version = version_of(message)
        flags |= self.flags
        return encode_packet(version, kind, seq_no, flags, session_id, body, key or self.key)

    def send(self, *packets: bytes) -> None:
        """Write packets, all at once."""
        self.writer.write(b"".join(packets))

    async def receive(self, key: bytes | None = None) -> Reply:
        """Return the next packet of the server."""
        async with asyncio.timeout(WITHIN_S):
            while not self._packets:
                data = await self.reader.read(65_536)
                assert data, "closed instead of a reply"
                packets, consumed, _ = TacacsFraming().split(self._buffer + data)
                self._buffer = (self._buffer + data)[consumed:]
                self._packets += packets
        packet = self._packets.pop(0)
        body = packet.body
        if not packet.flags & Flag.UNENCRYPTED:
            body = obfuscate(body, key or self.key, packet.session_id, packet.version, packet.seq_no)
        known = packet.type in {PacketType.AUTHEN, PacketType.AUTHOR, PacketType.ACCT}
        message = decode_body(packet.type, packet.seq_no, body) if known else None
        return Reply(
            packet.version, packet.type, packet.seq_no, packet.flags, packet.session_id, body, message
        )

    async def ask(self, message: Message | bytes, session_id: int = 0, seq_no: int = 1, **more: Any) -> Reply:
        """Send one packet of a session, by default the first one of a new session, and return the reply."""
        session_id = session_id or next(self._ids)
        self.send(self.packet(message, session_id, seq_no, **more))
        reply = await self.receive()
        assert (reply.session_id, reply.seq_no) == (session_id, seq_no + 1)
        return reply

    async def until_closed(self) -> None:
        """Wait until the server closes; there must be nothing left to read."""
        async with asyncio.timeout(WITHIN_S):
            try:
                rest = await self.reader.read()
            except ConnectionResetError:
                rest = b""
        assert not self._packets
        assert rest == b"", "a reply instead of a close"


def version_of(message: Message | bytes) -> int:
    """Return the version that table 1 of RFC 8907 wants for a message."""
    if isinstance(message, AuthenStart) and message.action == Action.LOGIN:
        return Version.ONE if message.authen_type in _MINOR_ONE else Version.DEFAULT
    return Version.DEFAULT


def start(
    authen_type: int = AuthenType.ASCII, name: str = "ana", data: bytes | str = b"", **more: int
) -> AuthenStart:
    """Return the START of a login."""
    given = {"action": Action.LOGIN, "priv_lvl": 0, "service": Service.LOGIN} | more
    raw = data.encode() if isinstance(data, str) else data
    return AuthenStart(
        authen_type=authen_type, user=name, port="tty1", rem_addr="192.0.2.77", data=raw, **given
    )


def pap(name: str = "ana", password: str = PASSWORD, **more: int) -> AuthenStart:
    """Return the START of a PAP login."""
    return start(AuthenType.PAP, name, password, **more)


def typed(text: str, flags: int = 0) -> AuthenContinue:
    """Return what a user types."""
    return AuthenContinue(text.encode(), b"", flags)


def author(*args: str, name: str = "ana", **more: int) -> AuthorRequest:
    """Return an authorization request."""
    given = {"authen_method": 6, "priv_lvl": 1, "authen_type": 1, "service": 1} | more
    return AuthorRequest(user=name, port="tty1", rem_addr="192.0.2.77", args=args, **given)


def command(*words: str, name: str = "ana") -> AuthorRequest:
    """Return the authorization request for a command."""
    first, *others = words
    args = [f"cmd-arg={word}" for word in others]
    return author("service=shell", f"cmd={first}", *args, "cmd-arg=<cr>", name=name)


def record(*args: str, flags: int = 2, name: str = "ana", **more: int) -> AcctRequest:
    """Return an accounting request."""
    given = {"authen_method": 6, "priv_lvl": 1, "authen_type": 1, "service": 1} | more
    return AcctRequest(
        flags=flags, user=name, port="tty1", rem_addr="192.0.2.77", args=args or ("task_id=1",), **given
    )


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the records in the laboratory's file."""
    path = folder / "records.jsonl"
    if not path.exists():
        return []
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def tarpit() -> AsyncIterator[int]:
    """Listen on a port, accept everybody and answer nobody: a backend that hangs."""
    silent: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.append(writer)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
        for writer in silent:
            writer.transport.abort()
