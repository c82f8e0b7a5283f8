"""Listener: a bound address, and what survives there.

TCP and unix sockets without TLS are accepted by the loop itself, which is cheapest. TLS and PROXY listeners accept
here, so that limits are asked before a handshake costs a millisecond and the PROXY header is read before TLS begins.
Knows nothing of sessions or protocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sojourn.core.connection import Connection
from sojourn.core.events import EventKind
from sojourn.core.peer import Peer
from sojourn.core.tls import peer_names
from sojourn.errors import ConfigError, Problem, WireError
from sojourn.sansio.proxy_protocol import ProxyHeader, ProxyHeaderParser

if TYPE_CHECKING:
    from sojourn.core.manager import ConnectionManager
    from sojourn.core.settings import ListenerSettings

LISTENING = EventKind("listener.started", ("gateway", "address", "tls"))
ACCEPT_FAILED = EventKind("listener.accept_failed", ("address", "error"), level="error")
"""Accepting failed for want of descriptors or memory; the listener pauses shortly and goes on."""
HANDSHAKE_FAILED = EventKind("listener.handshake_failed", ("peer", "error"), level="warning")

TLS_HANDSHAKE = 0x16
"""Content type of the record that begins every TLS connection. Source: RFC 8446 section 5.1."""

_READ_BYTES = 65_536
_ACCEPT_BATCH_COUNT = 64
_ACCEPT_PAUSE_S = 0.1
_SHORT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class AcceptedConnection(Connection):
    """A connection that finds out by itself who its peer is, once the transport exists."""

    __slots__ = ("_listener", "_proxy_header", "_reserved")

    def __init__(
        self, listener: Listener, header: ProxyHeader | None = None, *, reserved: str | None = None
    ) -> None:
        super().__init__(listener.manager)
        self._listener = listener
        self._proxy_header = header
        self._reserved = reserved

    def release(self) -> None:
        """Give back the place that was kept during the handshake; does nothing the second time."""
        if self._reserved is not None:
            self.manager.release(self._reserved)
            self._reserved = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Fill in the peer, then ask for admission."""
        self.peer = self._listener.peer_of(transport, self._proxy_header)
        self.is_checked = self._reserved is not None and self._proxy_header is None
        self.has_token = self._reserved is not None
        self.release()
        super().connection_made(transport)


def parse_address(address: str) -> tuple[str, int] | Path:
    """Return host and port, or the path of a ``unix:`` address.

    Raises: ConfigError with what was found and wanted.
    """
    if address.startswith("unix:"):
        return Path(address.removeprefix("unix:"))
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the largest port
        raise ConfigError(
            [
                Problem(
                    "configuration",
                    0,
                    "listeners",
                    "address",
                    repr(address),
                    "host:port, [v6]:port or unix:/path",
                )
            ]
        )
    return host or "0.0.0.0", int(port)  # noqa: S104 - written as ':49', all interfaces are asked for


class Listener:
    """One bound address of one gateway.

    Life: bound by the server's start, closed first at its drain. Always true: whatever accepting raises, the
    listener goes on listening.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        manager: ConnectionManager,
        context: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self.settings = settings
        self.manager = manager
        self.address = settings.address
        self._context = context
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._spare: int | None = None
        self._path: Path | None = None
        self._inode = 0
        self._trusted = tuple(_network(network) for network in settings.trusted_proxies)

    @property
    def is_unix(self) -> bool:
        """Say whether the listener is a unix socket."""
        return self._path is not None

    async def start(self) -> None:
        """Bind and accept.

        Raises: OSError where the address cannot be bound, with the address in its text.
        """
        target = parse_address(self.settings.address)
        try:
            sock = self._bind(target)
        except OSError as error:
            raise OSError(error.errno, f"{self.settings.address}: {error.strerror}") from error
        if isinstance(target, tuple):
            host, port = sock.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket = sock
        loop = self.manager.loop
        if self._context is None and not self.settings.proxy_protocol:
            backlog = self.settings.backlog_count
            if self._path is None:
                self._server = await loop.create_server(
                    lambda: AcceptedConnection(self), sock=sock, backlog=backlog
                )
            else:
                self._server = await loop.create_unix_server(
                    lambda: AcceptedConnection(self), sock=sock, backlog=backlog
                )
        else:
            sock.listen(self.settings.backlog_count)
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            loop.add_reader(sock.fileno(), self._accept)
        self.manager.events.emit(
            LISTENING, None, self.manager.gateway.name, self.address, self._context is not None
        )

    def _bind(self, target: tuple[str, int] | Path) -> socket.socket:
        if isinstance(target, Path):
            _remove_stale(target)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.bind(str(target))
                self._path, self._inode = target, target.lstat().st_ino
                # Nobody can connect before listen(); a changed umask would reach the files of other threads.
                target.chmod(int(self.settings.unix_mode, 8))
            except OSError:
                sock.close()
                raise
            return sock
        host, port = target
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.settings.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        return sock

    async def close(self) -> None:
        """Stop accepting; connections that were accepted stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        elif self._socket is not None:
            self.manager.loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket = None
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        if self._path is not None:
            with contextlib.suppress(OSError):  # it is gone, or not ours to delete any more
                if self._path.lstat().st_ino == self._inode:
                    self._path.unlink()
            self._inode = 0

    # Own accept: TLS and PROXY

    def _accept(self) -> None:
        sock = self._socket
        if sock is None:
            return
        for _ in range(_ACCEPT_BATCH_COUNT):
            try:
                accepted, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT_OF_RESOURCES:
                    self._pause_accepting(sock, error)
                    return
                continue  # that one peer went away between connect and accept
            accepted.setblocking(False)
            self._admit(accepted, address)

    def _pause_accepting(self, sock: socket.socket, error: OSError) -> None:
        """Out of descriptors: give the next peer a close instead of silence, then wait a moment."""
        self.manager.events.emit(ACCEPT_FAILED, None, self.address, error.strerror or "error")
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                sock.accept()[0].close()
        loop = self.manager.loop
        loop.remove_reader(sock.fileno())
        loop.call_later(_ACCEPT_PAUSE_S, self._accept_again, sock)

    def _accept_again(self, sock: socket.socket) -> None:
        if self._socket is not sock:
            return
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.manager.loop.add_reader(sock.fileno(), self._accept)

    def _admit(self, accepted: socket.socket, address: Any) -> None:
        """Ask for the limits before anything is read; who the peer is may only be known after the handshake."""
        peer = Peer("unix") if self.is_unix else Peer(_plain(address[0]), address[1], self.address)
        error = self.manager.refusal_by_limits(peer)
        if error is None and self.settings.proxy_protocol and not self._is_trusted(peer):
            error = WireError(
                f"a connection from {peer.address}", "one from trusted_proxies", "PROXY protocol"
            )
        if error is not None:
            self.manager.refused(peer, error)
            accepted.close()
            return
        self.manager.reserve(peer.address)
        self.manager.spawn(self._welcome(accepted, peer))

    def _is_trusted(self, peer: Peer) -> bool:
        return self.is_unix or any(ipaddress.ip_address(peer.address) in network for network in self._trusted)

    async def _welcome(self, accepted: socket.socket, peer: Peer) -> None:
        """Read the PROXY header and do the TLS handshake, both within the handshake's deadline."""
        tls = self.settings.tls
        timeout_s = (
            tls.handshake_timeout_s if tls is not None else self.manager.gateway.limits.first_byte_timeout_s
        )
        loop = self.manager.loop
        connection: AcceptedConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                header = await self._read_proxy_header(accepted) if self.settings.proxy_protocol else None
                if self._context is not None:
                    await self._expect_handshake(accepted)
                connection = AcceptedConnection(self, header, reserved=peer.address)
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._context() if self._context is not None else None,
                    ssl_handshake_timeout=timeout_s if self._context is not None else None,
                )
        except Exception as error:  # noqa: BLE001 - one peer's handshake ends nothing else, whatever it raises
            self.manager.events.emit(HANDSHAKE_FAILED, None, peer.address, _handshake_words(error))
        finally:
            if connection is None:
                accepted.close()
                self.manager.release(peer.address)
            else:
                connection.release()

    async def _expect_handshake(self, accepted: socket.socket) -> None:
        """Look at the first byte without taking it: OpenSSL would wait for more of what can never become TLS.

        Raises: WireError if the peer speaks in the clear; EOFError if it says nothing and goes.
        """
        loop = self.manager.loop
        readable = loop.create_future()
        loop.add_reader(accepted.fileno(), _settle, readable)
        try:
            await readable
        finally:
            loop.remove_reader(accepted.fileno())
        first = accepted.recv(1, socket.MSG_PEEK)
        if not first:
            raise EOFError("the connection was closed before the handshake")
        if first[0] != TLS_HANDSHAKE:
            accepted.recv(_READ_BYTES)  # what is unread at the close would turn it into a reset
            raise WireError(f"first byte {first[0]:#04x}", "a TLS handshake (0x16)", "RFC 8446 section 5.1")

    async def _read_proxy_header(self, accepted: socket.socket) -> ProxyHeader:
        parser = ProxyHeaderParser()
        loop = self.manager.loop
        while True:
            data = await loop.sock_recv(accepted, parser.wanted())
            if not data:
                raise EOFError("the connection was closed inside the PROXY header")
            header = parser.feed(data)
            if header is not None:
                return header

    def peer_of(self, transport: asyncio.BaseTransport, header: ProxyHeader | None) -> Peer:
        """Return who is at the other end, by socket, PROXY header and certificate."""
        if self.is_unix:
            peer = Peer("unix", 0, self.address)
        else:
            name = transport.get_extra_info("peername")
            peer = Peer(_plain(name[0]), name[1], self.address) if name else Peer("gone", 0, self.address)
        if header is not None and header.source is not None:
            peer.via, peer.address, peer.port = peer.address, _plain(header.source.host), header.source.port
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            peer.is_tls = True
            peer.certificate_names = peer_names(tls)
        return peer


def _plain(host: str) -> str:
    """Return an IPv4 address that came through an IPv6 socket as what it is."""
    return host.removeprefix("::ffff:")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        wanted = "a network such as 192.0.2.0/24"
        raise ConfigError(
            [Problem("configuration", 0, "listeners", "trusted_proxies", repr(text), wanted)]
        ) from error


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _remove_stale(path: Path) -> None:
    """Remove the socket that a process left behind which was killed; never another kind of file."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            # Not blocking: a socket whose queue is full would hold us here.
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError:
                pass  # somebody may well be there; the bind tells
            finally:
                probe.close()


def _handshake_words(error: BaseException) -> str:
    """Return why a handshake failed, in words without file and line of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    return str(error) or type(error).__name__
