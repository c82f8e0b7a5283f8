"""The other end of TACACS+: a device's side of every exchange, for ``sojourn probe tacacs``, demos and tests.

One client speaks to one server: over a connection for each session, or over one kept open for many sessions at
once, in the clear with a shared secret or over TLS 1.3. It asks and reports; it decides nothing and keeps nothing.
What it does not know on purpose: configuration, terminals, and how a server decides.

Source: RFC 8907 sections 4.3 (single connection), 4.4, 5.4, 6 and 7; RFC 9887 sections 3 and 5.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from sojourn.core.clock import Clock
from sojourn.errors import BackendUnavailable, ConnectionLost, RemoteProtocolError, SojournError, WireError
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.messages import (
    AcctReply,
    AcctRequest,
    AcctStatus,
    Action,
    AuthenContinue,
    AuthenMethod,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    ContinueFlag,
    Flag,
    Message,
    PacketType,
    Service,
    Version,
    name_of,
)
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

LAST_CLIENT_SEQ_NO = 253
"""The last odd number whose reply still fits: sequence numbers never wrap (RFC 8907 section 4.1)."""

Answer = Callable[[AuthenReply], bytes | None]
"""What the user types at a prompt; None means that the user gives up (ABORT)."""

_QUESTIONS = frozenset({AuthenStatus.GETUSER, AuthenStatus.GETPASS, AuthenStatus.GETDATA})
_MINOR_ONE = frozenset({AuthenType.PAP, AuthenType.CHAP, AuthenType.MSCHAP, AuthenType.MSCHAPV2})
_GOOD = frozenset({"PASS", "PASS_ADD", "PASS_REPL", "SUCCESS"})
_PACKET_TYPE: dict[type[Message], int] = {
    AuthenStart: PacketType.AUTHEN,
    AuthenContinue: PacketType.AUTHEN,
    AuthorRequest: PacketType.AUTHOR,
    AcctRequest: PacketType.ACCT,
}


class Outcome(msgspec.Struct, frozen=True):
    """How an exchange ended: the server's status by its name (``ABORTED`` if the client gave up) and what it cost."""

    status: str
    server_msg: str = ""
    args: tuple[str, ...] = ()
    seconds: float = 0.0
    packets: int = 0

    @property
    def passed(self) -> bool:
        """Whether the server said yes."""
        return self.status in _GOOD


def client_tls_context(ca_file: str, certificate_file: str, key_file: str) -> ssl.SSLContext:
    """Make the TLS side of a device: TLS 1.3 only, the server verified, our own certificate shown.

    Source: RFC 9887 sections 3.1 and 3.4.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file)
    return context


class _Link:
    """One connection to the server: sends packets, and hands each reply to the session that waits for it.

    Made by the client; ends when the server closes, sends what cannot be cut into packets, or on :meth:`close`.
    Always true: a session waits for at most one reply, since the exchange is in lock-step.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, framing: TacacsFraming) -> None:
        self._reader = reader
        self._writer = writer
        self._framing = framing
        self._waiting: dict[int, asyncio.Future[Packet]] = {}
        self._ended: SojournError | None = None
        self.refuses_sessions = False

    @property
    def takes_sessions(self) -> bool:
        """Whether a new session may start here."""
        return self._ended is None and not self.refuses_sessions

    def holds(self, session_id: int) -> bool:
        """Say whether a session of this number waits here."""
        return session_id in self._waiting

    def send(self, packet: bytes) -> None:
        """Write one packet. Raises: the reason why the connection ended, if it has."""
        if self._ended is not None:
            raise self._ended
        self._writer.write(packet)

    async def exchange(self, session_id: int, packet: bytes) -> Packet:
        """Send one packet of a session and wait for the reply to it; the caller holds the deadline."""
        self.send(packet)
        reply = asyncio.get_running_loop().create_future()
        self._waiting[session_id] = reply
        try:
            return await reply
        finally:
            self._waiting.pop(session_id, None)

    async def deliver_replies(self) -> None:
        """Read until the connection ends, and tell every session that still waits why it did."""
        reason: SojournError = ConnectionLost("closed by the server")
        buffer = b""
        try:
            while data := await self._reader.read(65_536):
                packets, consumed, _ = self._framing.split(buffer + data)
                buffer = (buffer + data)[consumed:]
                for packet in packets:
                    # A reply that nobody waits for came too late or belongs to no session: nothing hangs on it.
                    waiting = self._waiting.get(packet.session_id)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(packet)
        except WireError as error:
            reason = error
        except OSError as error:
            reason = ConnectionLost(type(error).__name__)
        finally:
            self._end(reason)

    async def close(self) -> None:
        """Close the connection, within a second."""
        self._end(ConnectionLost("closed by us"))
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
                return
        self._writer.transport.abort()

    def _end(self, reason: SojournError) -> None:
        if self._ended is None:
            self._ended = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(reason)
        self._writer.close()


class _Exchange:
    """One session from the client's side: its numbers and the link it runs on."""

    def __init__(self, version: int, packet_type: int, session_id: int, link: _Link) -> None:
        self.version = version
        self.packet_type = packet_type
        self.session_id = session_id
        self.link = link
        self.seq_no = 1
        self.packets = 0


class TacacsClient:
    """A device's side of TACACS+ towards one server.

    Use as ``async with TacacsClient(...) as client``: on leaving, its connections are closed and its tasks have
    ended. Every method opens one session, waits for its end and returns an :class:`Outcome`.

    Args:
        host: the server's address or name; over TLS also the name that its certificate must carry, and the SNI.
        tcp_port: 49 in the clear, 300 over TLS.
        key: the shared secret; None over TLS.
        tls: a context of :func:`client_tls_context`; None for obfuscation with ``key``.
        server_name: the certificate's name, where it is not ``host``.
        single_connect: ask to keep one connection open for all sessions.
        port: the line that the user is on, as sent in every request.
        rem_addr: where the user comes from, as sent in every request.
        timeout_s: the longest that one session may take, connecting included.
        new_session_id: where session numbers come from; anything but a CSPRNG is for replaying captures only.
    Raises: every method raises BackendUnavailable if there is no connection or no reply in time, ConnectionLost
        if the connection ends inside the session, and RemoteProtocolError if the reply breaks a rule, above all
        if it cannot be read with our key.
    """

    def __init__(
        self,
        host: str,
        tcp_port: int = 49,
        *,
        key: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        single_connect: bool = False,
        port: str = "tty0",
        rem_addr: str = "127.0.0.1",
        timeout_s: float = 10.0,
        max_length_bytes: int = 65_536,
        new_session_id: Callable[[], int] = lambda: secrets.randbits(32),
        clock: Clock = time.monotonic,
    ) -> None:
        self._host = host
        self._tcp_port = tcp_port
        self._key = key
        self._tls = tls
        self._server_name = server_name or host
        self._single_connect = single_connect
        self._port = port
        self._rem_addr = rem_addr
        self._timeout_s = timeout_s
        self._framing = TacacsFraming(max_length_bytes)
        self._new_session_id = new_session_id
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._links: set[_Link] = set()
        self._shared: _Link | None = None
        self._choosing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in tuple(self._links):
            await self._close(link)
        # The body's own error leaves as it is, not wrapped in a group: the readers have no errors of their own.
        await self._tasks.__aexit__(None, None, None)

    @property
    def connections_count(self) -> int:
        """How many connections are open."""
        return len(self._links)

    async def login(
        self,
        user: str,
        password: str,
        *,
        authen_type: int = AuthenType.ASCII,
        more_answers: Sequence[str] = (),
        service: int = Service.LOGIN,
        priv_lvl: int = 0,
    ) -> Outcome:
        """Log a user in by any type.

        Args:
            more_answers: what the user types at the prompts after the password (ASCII only), such as a
                one-time code; when they run out, the login is aborted.
        Source: RFC 8907 section 5.4.2.
        """
        data = b"" if authen_type == AuthenType.ASCII else _proof(authen_type, user, password)
        start = self._start(Action.LOGIN, authen_type, service, user, priv_lvl, data)
        return await self.converse(start, _typing(user, (password, *more_answers)))

    async def enable(self, user: str, password: str, priv_lvl: int = 15) -> Outcome:
        """Ask for a higher privilege level, answering its prompts. Source: RFC 8907 section 5.4.2.6."""
        start = self._start(Action.LOGIN, AuthenType.ASCII, Service.ENABLE, user, priv_lvl, b"")
        return await self.converse(start, _typing(user, (password,)))

    async def change_password(self, user: str, old_password: str, new_password: str) -> Outcome:
        """Change a password: the old one is asked for by GETDATA, the new one by GETPASS.

        Source: RFC 8907 section 5.4.2.7.
        """

        def answer(question: AuthenReply) -> bytes | None:
            answers = {
                AuthenStatus.GETUSER: user,
                AuthenStatus.GETDATA: old_password,
                AuthenStatus.GETPASS: new_password,
            }
            return answers[question.status].encode()

        return await self.converse(
            self._start(Action.CHPASS, AuthenType.ASCII, Service.LOGIN, user, 0, b""), answer
        )

    async def abort(self, user: str, reason: str = "") -> Outcome:
        """Begin an ASCII login and give up at its first prompt. Source: RFC 8907 section 5.4.3."""
        start = self._start(Action.LOGIN, AuthenType.ASCII, Service.LOGIN, user, 0, b"")
        return await self.converse(start, lambda _question: None, abort_reason=reason)

    async def converse(self, start: AuthenStart, answer: Answer, *, abort_reason: str = "") -> Outcome:
        """Run one authentication session: send START, answer every question, return the verdict."""
        began = self._clock()
        async with _Deadline(self, began):
            version = Version.ONE if start.authen_type in _MINOR_ONE else Version.DEFAULT
            exchange, reply = await self._begin(version, start)
            try:
                while isinstance(reply, AuthenReply) and reply.status in _QUESTIONS:
                    text = answer(reply)
                    if exchange.seq_no >= LAST_CLIENT_SEQ_NO:
                        raise RemoteProtocolError(
                            "questions without end", "a verdict before sequence number 255", "RFC 8907 section 4.1"
                        )
                    exchange.seq_no += 2
                    if text is None:
                        farewell = AuthenContinue(b"", abort_reason.encode(), ContinueFlag.ABORT)
                        exchange.link.send(self._packet(exchange, farewell))
                        exchange.packets += 1
                        return Outcome("ABORTED", "", (), self._clock() - began, exchange.packets)
                    reply = await self._exchange(exchange, AuthenContinue(text))
            finally:
                await self._finish(exchange)
        return self._outcome(reply, began, exchange)

    async def authorize(
        self, user: str, args: Sequence[str], *, priv_lvl: int = 15, authen_type: int = AuthenType.ASCII
    ) -> Outcome:
        """Ask what a user may do: ``("service=shell", "cmd=")`` for a session, more for a command.

        Source: RFC 8907 section 6.
        """
        request = AuthorRequest(
            AuthenMethod.TACACSPLUS,
            priv_lvl,
            authen_type,
            Service.LOGIN,
            user,
            self._port,
            self._rem_addr,
            tuple(args),
        )
        return await self._pair(request)

    async def account(
        self,
        flags: int,
        user: str,
        args: Sequence[str],
        *,
        priv_lvl: int = 15,
        authen_type: int = AuthenType.ASCII,
    ) -> Outcome:
        """Hand in one accounting record; ``flags`` are those of ``AcctFlag``. Source: RFC 8907 section 7."""
        request = AcctRequest(
            flags,
            AuthenMethod.TACACSPLUS,
            priv_lvl,
            authen_type,
            Service.LOGIN,
            user,
            self._port,
            self._rem_addr,
            tuple(args),
        )
        return await self._pair(request)

    def _start(
        self, action: int, authen_type: int, service: int, user: str, priv_lvl: int, data: bytes
    ) -> AuthenStart:
        return AuthenStart(action, priv_lvl, authen_type, service, user, self._port, self._rem_addr, data)

    async def _pair(self, request: AuthorRequest | AcctRequest) -> Outcome:
        began = self._clock()
        async with _Deadline(self, began):
            exchange, reply = await self._begin(Version.DEFAULT, request)
            await self._finish(exchange)
        return self._outcome(reply, began, exchange)

    async def _begin(self, version: int, message: Message) -> tuple[_Exchange, Message]:
        """Find a connection for a new session and send its first packet."""
        packet_type = _PACKET_TYPE[type(message)]
        if self._single_connect:
            # No second packet may leave before the first reply has said whether the connection stays open, so
            # whoever opens it keeps the lock until then.
            async with self._choosing:
                if self._shared is None or not self._shared.takes_sessions:
                    link = await self._connect()
                    exchange = _Exchange(version, packet_type, self._new_session_id(), link)
                    reply, granted = await self._first(exchange, message, Flag.SINGLE_CONNECT)
                    self._shared = link if granted else None
                    self._single_connect = granted
                    return exchange, reply
                link = self._shared
        else:
            link = await self._connect()
        session_id = self._new_session_id()
        while link.holds(session_id):
            session_id = self._new_session_id()
        exchange = _Exchange(version, packet_type, session_id, link)
        reply, _ = await self._first(exchange, message, 0)
        return exchange, reply
