"""A ``Talk`` over asyncio streams, and a server that lets clients log in and does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.core.secret import Secret
from sojourn.errors import ConnectionLost, SojournError, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import Credentials, login_client
from sojourn.gateways.postgres.messages import Refusal, SSLRequest, StartupMessage
from sojourn.gateways.postgres.scram import KeyCache


class Talking:
    """One peer over streams; remembers what was sent to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_tls = False
        self.channel_binding = b""
        self.address = "127.0.0.1"
        self.certificate_names: tuple[str, ...] = ()
        self.sent = b""

    def send(self, data: bytes) -> None:
        self.sent += data
        self.writer.write(data)

    async def receive(self) -> tuple[int, bytes]:
        head = await self.exactly(5)
        return head[0], await self.exactly(int.from_bytes(head[1:], "big") - 4)

    async def exactly(self, count: int) -> bytes:
        try:
            return await self.reader.readexactly(count)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionLost(type(error).__name__) from error

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


class Scripted:
    """A peer whose messages are known beforehand; or made by a function of what was sent last."""

    def __init__(self, *script, is_tls=False, channel_binding=b"", address="192.0.2.1", certificate_names=()):
        self.script = list(script)
        self.is_tls = is_tls
        self.channel_binding = channel_binding
        self.address = address
        self.certificate_names = certificate_names
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def receive(self) -> tuple[int, bytes]:
        if not self.script:
            raise ConnectionLost("the script is over")
        item = self.script.pop(0)
        data = item(self.sent[-1]) if callable(item) else item
        (message,), rest = wire.split(data)
        assert not rest
        return message


def end_point(certificate: bytes) -> bytes:
    """Return the tls-server-end-point data of a certificate in DER that is signed with SHA-256."""
    return hashlib.sha256(certificate).digest()


@dataclass
class LoginServer:
    """Where clients log in by one method; keeps what each login taught, or the error that ended it."""

    method: str
    secrets: dict[str, Secret]
    identity: tuple[Path, Path] | None = None
    client_ca_file: Path | None = None
    keys: KeyCache = field(default_factory=KeyCache)
    port: int = 0
    outcomes: list[Credentials | SojournError] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    async def find(self, user: str) -> Secret | None:
        return self.secrets.get(user)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LoginServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talking(reader, writer)
        try:
            startup = await self._startup(talk)
            user, database = startup.parameters["user"], startup.parameters.get("database", "")
            self.outcomes.append(
                await login_client(
                    talk, user, database, method=self.method, find_secret=self.find, keys=self.keys
                )
            )
            talk.send(wire.authentication_ok())
            for name, value in (("server_version", "18.0"), ("client_encoding", "UTF8")):
                talk.send(wire.parameter_status(name, value))
            talk.send(wire.backend_key_data(1, b"1234") + wire.ready_for_query())
            await talk.reader.read()
        except Refusal as error:
            self.outcomes.append(error)
            talk.send(wire.error_response(error.sqlstate, error.message, severity="FATAL"))
        except (ConnectionLost, WireError) as error:
            self.outcomes.append(error)
        finally:
            self.sent.append(talk.sent)
            await talk.close()

    async def _startup(self, talk: Talking) -> StartupMessage:
        while True:
            head = await talk.exactly(4)
            packet = wire.startup_packet(head + await talk.exactly(int.from_bytes(head, "big") - 4))
            if isinstance(packet, StartupMessage):
                return packet
            if not isinstance(packet, SSLRequest) or self.identity is None:
                talk.writer.write(b"N")
                continue
            await self._start_tls(talk, *self.identity)

    async def _start_tls(self, talk: Talking, certificate_file: Path, private_key_file: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate_file, private_key_file)
        if self.client_ca_file is not None:
            context.load_verify_locations(self.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        talk.writer.write(b"S")
        await talk.writer.start_tls(context)
        talk.is_tls = True
        certificate = await asyncio.to_thread(certificate_file.read_text)
        talk.channel_binding = end_point(ssl.PEM_cert_to_DER_cert(certificate))
        subject = dict(part[0] for part in (talk.writer.get_extra_info("peercert") or {}).get("subject", ()))
        talk.certificate_names = tuple(subject.values())
