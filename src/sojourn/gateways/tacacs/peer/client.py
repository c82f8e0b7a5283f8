"""A device's side of TACACS+: logs users in, asks what they may do, hands in records.

One client speaks to one server: over a connection for each session, or over one kept open for many sessions
at once, obfuscated with a shared secret or over TLS 1.3. It asks and reports; it decides nothing and keeps
nothing.
What it does not know on purpose: configuration, terminals, and how a server decides.

Source: RFC 8907 sections 4.3 (single connection), 4.4, 5.4, 6 and 7; RFC 9887 sections 3 and 4.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from sojourn.core.clock import Clock
from sojourn.errors import (
    BackendUnavailable,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    WireError,
)
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
)
from sojourn.gateways.tacacs.peer.link import Link, open_link
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)
from sojourn.sansio.names import name_of

LAST_CLIENT_SEQ_NO = 253
"""The last odd number whose reply still fits: sequence numbers never wrap (RFC 8907 section 4.1)."""

Answer = Callable[[AuthenReply], str | None]
"""What the user types at a question of the server; None means that the user gives up (ABORT)."""

_PACKET_TYPE: dict[type[Message], int] = {
    AuthenStart: PacketType.AUTHEN,
    AuthenContinue: PacketType.AUTHEN,
    AuthorRequest: PacketType.AUTHOR,
    AcctRequest: PacketType.ACCT,
}
_QUESTIONS = frozenset({AuthenStatus.GETUSER, AuthenStatus.GETPASS, AuthenStatus.GETDATA})
_MINOR_ONE = frozenset({AuthenType.PAP, AuthenType.CHAP, AuthenType.MSCHAP, AuthenType.MSCHAPV2})
_YES = frozenset({"PASS", "PASS_ADD", "PASS_REPL", "SUCCESS"})


class Outcome(msgspec.Struct, frozen=True):
    """How a session ended, and what it cost.

    ``status`` is the specification's word for the server's verdict, or ``ABORTED`` if the user gave up.
    Units: ``seconds`` on the client's clock, ``packets`` in both directions.
    """

    status: str
    server_msg: str = ""
    args: tuple[str, ...] = ()
    seconds: float = 0.0
    packets: int = 0

    @property
    def passed(self) -> bool:
        """Whether the server said yes."""
        return self.status in _YES


class _Exchange:
    """One session from the client's side: the link it runs on and its numbers."""

    __slots__ = ("link", "packet_type", "packets", "seq_no", "session_id", "version")

    def __init__(self, link: Link, version: int, packet_type: int, session_id: int) -> None:
        self.link = link
        self.version = version
        self.packet_type = packet_type
        self.session_id = session_id
        self.seq_no = 1
        self.packets = 0


class TacacsClient:
    """A device's side of TACACS+ towards one server.

    Use as ``async with TacacsClient(...) as client``: on leaving, its connections are closed and its tasks
    have ended. Every method opens one session, waits for its end and returns its :class:`Outcome`.

    Args:
        host: the server's address or name; over TLS also the SNI and the name its certificate must carry.
        tcp_port: usually 49 in the clear, 300 over TLS.
        key: the shared secret; None over TLS.
        tls: a context of :func:`sojourn.core.tls.client_context`; None for obfuscation with ``key``.
        server_name: the certificate's name, where it is not ``host``.
        single_connect: ask the server to keep one connection open for all sessions.
        port: the line that the user is on, as every request says.
        rem_addr: where the user comes from, as every request says.
        from_address: which of this machine's addresses to connect from; empty for any.
        typing_s: how long the user takes to answer a question; ``timeout_s`` goes on meanwhile.
        timeout_s: the longest that one session may take, connecting included.
        max_length_bytes: the longest reply that is read.
        new_session_id: where session ids come from; what is no CSPRNG is for replaying captures only.
        clock: what ``Outcome.seconds`` is measured with.
    Raises: BackendUnavailable, out of every method, if there is no connection or no verdict in time;
        ConnectionLost if the connection ends inside the session; RemoteProtocolError if a reply breaks a
        rule, above all if it cannot be read with our key.
    """

    def __init__(
        self,
        host: str,
        tcp_port: int,
        *,
        key: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        single_connect: bool = False,
        port: str = "tty0",
        rem_addr: str = "127.0.0.1",
        from_address: str = "",
        typing_s: float = 0.0,
        timeout_s: float = 10.0,
        max_length_bytes: int = 65_536,
        new_session_id: Callable[[], int] = lambda: secrets.randbits(32),
        clock: Clock = time.monotonic,
    ) -> None:
        if (key is None) == (tls is None):
            raise LocalProtocolError("both or neither", "either a key or TLS", "RFC 9887 section 4")
        self._host = host
        self._tcp_port = tcp_port
        self._key = key
        self._tls = tls
        self._server_name = server_name or host
        self._single_connect = single_connect
        self._port = port
        self._rem_addr = rem_addr
        self._from_address = from_address
        self._typing_s = typing_s
        self._timeout_s = timeout_s
        self._framing = TacacsFraming(max_length_bytes)
        self._new_session_id = new_session_id
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._links: set[Link] = set()
        self._shared: Link | None = None
        self._choosing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            link.end(ConnectionLost("closed by us"))
        # The body's own error leaves as it is, not wrapped in a group; the readers raise none of their own.
        await self._tasks.__aexit__(None, None, None)

    @property
    def connections_count(self) -> int:
        """How many connections are open."""
        return sum(link.is_open for link in self._links)

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
            more_answers: what the user types at questions after the password (ASCII only), such as a one-time
                code; when no answer is left, the login is aborted.
        Source: RFC 8907 section 5.4.2.
        """
        proof = b"" if authen_type == AuthenType.ASCII else _proof(authen_type, user, password)
        start = self._start(Action.LOGIN, authen_type, service, user, priv_lvl=priv_lvl, data=proof)
        return await self.converse(start, _typing(user, (password, *more_answers)))

    async def enable(self, user: str, password: str, priv_lvl: int = 15) -> Outcome:
        """Ask for a higher privilege level, and answer the questions. Source: RFC 8907 section 5.4.2.6."""
        start = self._start(Action.LOGIN, AuthenType.ASCII, Service.ENABLE, user, priv_lvl=priv_lvl)
        return await self.converse(start, _typing(user, (password,)))

    async def change_password(self, user: str, old_password: str, new_password: str) -> Outcome:
        """Change a password: the old one is asked for by GETDATA, the new one by GETPASS.

        Source: RFC 8907 section 5.4.2.7.
        """
        answers = {
            AuthenStatus.GETUSER: user,
            AuthenStatus.GETDATA: old_password,
            AuthenStatus.GETPASS: new_password,
        }
        start = self._start(Action.CHPASS, AuthenType.ASCII, Service.LOGIN, user)
        return await self.converse(start, lambda question: answers[question.status])

    async def abort(self, user: str = "", reason: str = "") -> Outcome:
        """Begin an ASCII login and give up at its first question. Source: RFC 8907 section 5.4.3."""
        start = self._start(Action.LOGIN, AuthenType.ASCII, Service.LOGIN, user)
        return await self.converse(start, lambda _question: None, abort_reason=reason)

    async def converse(self, start: AuthenStart, answer: Answer, *, abort_reason: str = "") -> Outcome:
        """Run one authentication session: send START, answer every question, return the verdict."""
        return await self._within_deadline(self._authenticate(start, answer, abort_reason))

    async def authorize(
        self, user: str, args: Sequence[str], *, priv_lvl: int = 15, authen_type: int = AuthenType.ASCII
    ) -> Outcome:
        """Ask what a user may do: ``("service=shell", "cmd=")`` for a session, or with a command.

        Source: RFC 8907 section 6.
        """
        method, service = AuthenMethod.TACACSPLUS, Service.LOGIN
        port, rem_addr = self._port, self._rem_addr
        return await self.request(
            AuthorRequest(method, priv_lvl, authen_type, service, user, port, rem_addr, tuple(args))
        )

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
        method, service = AuthenMethod.TACACSPLUS, Service.LOGIN
        port, rem_addr = self._port, self._rem_addr
        return await self.request(
            AcctRequest(flags, method, priv_lvl, authen_type, service, user, port, rem_addr, tuple(args))
        )

    async def request(self, message: AuthorRequest | AcctRequest) -> Outcome:
        """Run one session of a single request and its reply."""
        return await self._within_deadline(self._ask_once(message))

    def _start(
        self, action: int, authen_type: int, service: int, user: str, *, priv_lvl: int = 0, data: bytes = b""
    ) -> AuthenStart:
        return AuthenStart(action, priv_lvl, authen_type, service, user, self._port, self._rem_addr, data)

    async def _within_deadline(self, session: Coroutine[Any, Any, Outcome]) -> Outcome:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await session
        except TimeoutError:
            name = f"{self._host}:{self._tcp_port}"
            raise BackendUnavailable(name, self._timeout_s, "no verdict in time") from None

    async def _authenticate(self, start: AuthenStart, answer: Answer, abort_reason: str) -> Outcome:
        began = self._clock()
        version = Version.ONE if start.authen_type in _MINOR_ONE else Version.DEFAULT
        exchange, reply = await self._begin(version, start)
        try:
            while isinstance(reply, AuthenReply) and reply.status in _QUESTIONS:
                if exchange.seq_no >= LAST_CLIENT_SEQ_NO:
                    raise RemoteProtocolError(
                        "questions without end", "a verdict before seq_no 255", "RFC 8907 section 4.1"
                    )
                exchange.seq_no += 2
                await asyncio.sleep(self._typing_s)
                text = answer(reply)
                if text is None:
                    farewell = AuthenContinue(b"", abort_reason.encode(), ContinueFlag.ABORT)
                    exchange.link.send(self._packet(exchange, farewell))
                    exchange.packets += 1
                    return Outcome("ABORTED", "", (), self._clock() - began, exchange.packets)
                reply, _ = await self._exchange(exchange, AuthenContinue(text.encode()))
        finally:
            exchange.link.finish_session(exchange.session_id)
        return self._outcome(reply, began, exchange)

    async def _ask_once(self, message: AuthorRequest | AcctRequest) -> Outcome:
        began = self._clock()
        exchange, reply = await self._begin(Version.DEFAULT, message)
        exchange.link.finish_session(exchange.session_id)
        return self._outcome(reply, began, exchange)

    async def _begin(self, version: int, message: Message) -> tuple[_Exchange, Message]:
        """Find a connection for a new session, and send its first packet."""
        async with self._choosing:
            link = self._shared
            if link is None or not link.takes_sessions:
                link = None
                if self._single_connect:
                    # No second packet may leave before the first reply has said whether the connection stays
                    # open, so whoever opens it keeps the lock until then.
                    return await self._begin_on(await self._connect(), version, message, negotiates=True)
        return await self._begin_on(link or await self._connect(), version, message, negotiates=False)

    async def _begin_on(
        self, link: Link, version: int, message: Message, *, negotiates: bool
    ) -> tuple[_Exchange, Message]:
        session_id = self._new_session_id()
        while session_id in link.session_ids:
            session_id = self._new_session_id()
        link.session_ids.add(session_id)
        exchange = _Exchange(link, version, _PACKET_TYPE[type(message)], session_id)
        try:
            reply, flags = await self._exchange(exchange, message, Flag.SINGLE_CONNECT if negotiates else 0)
        except BaseException:
            link.finish_session(session_id)
            raise
        if negotiates:
            # A server that does not grant it now is not asked again.
            self._single_connect = link.stays_open = bool(flags & Flag.SINGLE_CONNECT)
            self._shared = link if link.stays_open else None
        return exchange, reply

    async def _connect(self) -> Link:
        link = await open_link(
            self._host,
            self._tcp_port,
            self._framing,
            self._tls,
            self._server_name,
            from_address=self._from_address,
        )
        self._links.add(link)
        reading = self._tasks.create_task(link.deliver_replies())
        reading.add_done_callback(lambda _task: self._links.discard(link))
        return link

    async def _exchange(
        self, exchange: _Exchange, message: Message, more_flags: int = 0
    ) -> tuple[Message, int]:
        """Send one message, and return the reply and its header's flags."""
        packet = await exchange.link.exchange(
            exchange.session_id, self._packet(exchange, message, more_flags)
        )
        exchange.packets += 2
        return self._read(exchange, packet), packet.flags

    def _packet(self, exchange: _Exchange, message: Message, more_flags: int = 0) -> bytes:
        flags = more_flags if self._tls is None else more_flags | Flag.UNENCRYPTED
        return encode_packet(
            exchange.version,
            exchange.packet_type,
            exchange.seq_no,
            flags,
            exchange.session_id,
            encode_body(message),
            self._key,
        )

    def _read(self, exchange: _Exchange, packet: Packet) -> Message:
        """Check a reply's header against what we sent, and read its body."""
        if packet.type != exchange.packet_type or packet.seq_no != exchange.seq_no + 1:
            raise RemoteProtocolError(
                f"a reply of type {packet.type} and seq_no {packet.seq_no}",
                f"type {exchange.packet_type} and seq_no {exchange.seq_no + 1}",
                "RFC 8907 section 4.1",
            )
        if not packet.body:
            raise RemoteProtocolError("a header alone", "a reply to what was asked", "RFC 8907 section 3.6")
        if bool(packet.flags & Flag.UNENCRYPTED) != (self._tls is not None):
            raise RemoteProtocolError(
                f"flags {packet.flags:#04x}",
                "UNENCRYPTED set over TLS, and only there",
                "RFC 8907 section 4.5 and RFC 9887 section 4",
            )
        body = packet.body
        if self._key is not None:
            body = obfuscate(body, self._key, packet.session_id, packet.version, packet.seq_no)
        try:
            return decode_body(packet.type, packet.seq_no, body)
        except WireError as error:
            if self._key is None:
                raise
            exchange.link.refuses_sessions = True
            raise RemoteProtocolError(
                f"a reply that our key does not make readable ({error.found})",
                "a readable reply; the shared secret differs?",
                "RFC 8907 section 4.5",
            ) from error

    def _outcome(self, reply: Message, began: float, exchange: _Exchange) -> Outcome:
        seconds, packets = self._clock() - began, exchange.packets
        if isinstance(reply, AuthorReply):
            status = name_of(AuthorStatus, reply.status)
            return Outcome(status, reply.server_msg, reply.args, seconds, packets)
        if isinstance(reply, AcctReply):
            return Outcome(name_of(AcctStatus, reply.status), reply.server_msg, (), seconds, packets)
        if isinstance(reply, AuthenReply):
            return Outcome(name_of(AuthenStatus, reply.status), reply.server_msg, (), seconds, packets)
        raise LocalProtocolError(type(reply).__name__, "a reply", "RFC 8907 section 4.1")


def _typing(user: str, answers: Sequence[str]) -> Answer:
    """Make a user who types their name when asked for it, and ``answers`` in turn at every other question."""
    left = iter(answers)
    return lambda question: user if question.status == AuthenStatus.GETUSER else next(left, None)


def _proof(authen_type: int, user: str, password: str) -> bytes:
    """Build the ``data`` of a START that carries its proof along."""
    secret, identifier = password.encode(), secrets.randbits(8)
    if authen_type == AuthenType.PAP:
        return secret
    if authen_type == AuthenType.CHAP:
        return mschap.chap_data(identifier, secrets.token_bytes(16), secret)
    if authen_type == AuthenType.MSCHAP:
        return mschap.mschap_v1_data(identifier, secrets.token_bytes(8), secret)
    if authen_type == AuthenType.MSCHAPV2:
        challenge, peer_challenge = secrets.token_bytes(16), secrets.token_bytes(16)
        return mschap.mschap_v2_data(identifier, challenge, peer_challenge, user=user, secret=secret)
    raise LocalProtocolError(f"authen_type {authen_type}", "1, 2, 3, 5 or 6", "RFC 8907 section 5.1")
