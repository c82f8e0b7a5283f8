"""Who may say what when in TACACS+: sequence numbers, keys, versions, and how sessions share a connection.

``TacacsCodec`` is the connection's side: it finds the key that fits and turns packets into messages. ``TacacsSession``
is one exchange. Knows nothing of users, rules or sinks; what the messages mean is the handlers' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sojourn.core.session import Reason, Session
from sojourn.errors import LocalProtocolError, RemoteProtocolError, WireError
from sojourn.gateways.tacacs.masking import mask_args
from sojourn.gateways.tacacs.messages import (
    AcctReply,
    AcctStatus,
    Action,
    AuthenContinue,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorStatus,
    ContinueFlag,
    Flag,
    Message,
    PacketType,
    ReplyFlag,
    Version,
)
from sojourn.gateways.tacacs.pairs import service_of
from sojourn.gateways.tacacs.wire import (
    FieldError,
    Packet,
    decode_authen_start,
    decode_author_request,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.gateways.tacacs.accounting import Accounting
    from sojourn.gateways.tacacs.accounting.record import RecordMaker
    from sojourn.gateways.tacacs.config import Device, TacacsSettings
    from sojourn.gateways.tacacs.devices import DeviceTable, KeyRing
    from sojourn.gateways.tacacs.policy import Policy
    from sojourn.gateways.tacacs.users import Users

MessageT = TypeVar("MessageT", bound=Message)

MAX_SEQ_NO = 255
KEY_NOTE_INTERVAL_S = 1.0
"""A key's last use is stamped this often at most: once per session would cost 0.2 us of each."""

CACHED_REQUESTS_COUNT = 4_096
CACHED_BODY_BYTES = 512

# Names of this module: a look into a class costs the hot path 30 ns each.
_AUTHEN, _AUTHOR, _DEFAULT = PacketType.AUTHEN, PacketType.AUTHOR, Version.DEFAULT

_VERSIONS = {
    AuthenType.ASCII: Version.DEFAULT,
    AuthenType.PAP: Version.ONE,
    AuthenType.CHAP: Version.ONE,
    AuthenType.MSCHAP: Version.ONE,
    AuthenType.MSCHAPV2: Version.ONE,
}
_BODIES: dict[int, bytes] = {}


def constant(message: MessageT) -> MessageT:
    """Encode a reply that is said again and again once and for all; it must live, unchanged, as long as the process."""
    _BODIES[id(message)] = encode_body(message)
    return message


_ERRORS = {
    PacketType.AUTHEN: AuthenReply(AuthenStatus.ERROR),
    PacketType.AUTHOR: AuthorReply(AuthorStatus.ERROR),
    PacketType.ACCT: AcctReply(AcctStatus.ERROR),
}


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that one configuration decides, made at once and never changed; a session keeps its own.

    ``accounting``, ``records`` and ``emit`` are the gateway's and outlive snapshots: a record is stored wherever
    the present configuration says.
    """

    settings: TacacsSettings
    devices: DeviceTable
    keys: KeyRing
    users: Users
    policy: Policy
    accounting: Accounting
    records: RecordMaker
    emit: Callable[..., None]
    requests: dict[bytes, Any]
    """Authorization requests by their bodies: devices ask the same again and again, and reading costs 1.4 us."""
    known: dict[int, tuple[str, tuple[str, ...]]]
    """Of the requests in there, by ``id``: the service and the arguments as they may be shown."""


class TacacsSession(Session):
    """One authentication, authorization or accounting exchange.

    Always true: ``seq_no`` is the number of the last packet in either direction; the client may send exactly when
    it is even. Source: RFC 8907 section 4.1.
    """

    version: int = 0
    type: int = 0
    seq_no: int = 0
    device: Device = None  # type: ignore[assignment]  # the codec fills it in with the first packet

    def take(self, message: Any) -> None:
        """Take a CONTINUE; an ABORT ends the session whatever it waits for (RFC 8907 section 5.4.3)."""
        if type(message) is AuthenContinue and message.flags & ContinueFlag.ABORT:
            self.finish(reason=Reason.ABORTED)
        else:
            Session.take(self, message)

    async def ask_user(self, status: int, prompt: str, *, echo: bool = True) -> bytes:
        """Ask the user for something and return what was typed.

        Raises: TimeoutError after the prompt's deadline; ConnectionLost.
        """
        question = AuthenReply(status, 0 if echo else ReplyFlag.NOECHO, prompt)
        answer = await self.ask(question, AuthenContinue, within_s=self.config.settings.prompt_timeout_s)
        return bytes(answer.user_msg)


class TacacsCodec:
    """Packets to messages for one connection, remembering the key that fits.

    Life: made with the connection. Always true: once ``is_mismatched`` no session is opened on the connection any
    more (RFC 8907 sections 4.4 and 10.5.2); a session is spoken to with the key of its first packet, also while a
    device changes keys in the midst of others.
    """

    __slots__ = (
        "_connection",
        "_held",
        "_is_negotiating",
        "_key",
        "_keys",
        "_noted",
        "_unencrypted",
        "_wants_single_connect",
        "is_mismatched",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unencrypted = Flag.UNENCRYPTED if connection.peer.is_tls else 0
        self._key: bytes | None = None
        self._keys: KeyRing | None = None
        self._held: dict[Hashable, bytes] = {}
        self._noted = 0.0
        self._wants_single_connect = False
        self._is_negotiating = True
        self.is_mismatched = False

    # Receiving

    def decode(self, session: TacacsSession, packet: Packet) -> Any:
        """Return the message in ``packet``.

        Raises: WireError, with the rule that is broken; the gateway's farewell answers it.
        """
        seq_no = packet.seq_no
        if session.seq_no:
            self._check_order(session, packet)
            session.seq_no = seq_no
        else:
            session.version, session.type, session.seq_no = packet.version, packet.type, seq_no
            session.device = self._connection.peer.context
            if seq_no != 1:
                raise WireError(f"a first packet with seq_no {seq_no}", "seq_no 1", "RFC 8907 section 4.1")
            if self._is_negotiating:
                self._wants_single_connect = bool(packet.flags & Flag.SINGLE_CONNECT)
        if packet.flags & 1 != self._unencrypted:
            self.is_mismatched = True
            raise self._flag_error()
        if packet.type not in _ERRORS:
            raise WireError(f"packet type {packet.type}", "1, 2 or 3", "RFC 8907 section 4.1")
        message = self._open(session, packet, packet.type, seq_no)
        version = session.version
        if type(message) is AuthenStart:
            if _VERSIONS.get(message.authen_type, version) != version:
                self._refuse_version(session, message)
        elif version != _DEFAULT and session.type != _AUTHEN:
            self._refuse_version(session, message)
        return message

    def _check_order(self, session: TacacsSession, packet: Packet) -> None:
        seq_no = packet.seq_no
        if seq_no != session.seq_no + 1 or not seq_no & 1:
            # An ERROR takes the next number, where there is one for us.
            session.seq_no = seq_no if seq_no & 1 else MAX_SEQ_NO
            raise WireError(f"seq_no {seq_no}", "our last one plus 1", "RFC 8907 section 4.1")
        if packet.seq_no == MAX_SEQ_NO:
            session.seq_no = MAX_SEQ_NO
            raise WireError("seq_no 255", "a session that ends before", "RFC 8907 section 4.1")
        if packet.type != session.type or packet.version != session.version:
            session.seq_no = packet.seq_no
            raise WireError("another type or version", "those of the first packet", "RFC 8907 section 4.1")

    def _flag_error(self) -> WireError:
        if self._unencrypted:
            return WireError("a packet without UNENCRYPTED", "the flag set over TLS", "RFC 9887 section 4")
        return WireError("a packet with UNENCRYPTED", "an obfuscated body", "RFC 8907 section 4.5")

    def _open(self, session: TacacsSession, packet: Packet, packet_type: int, seq_no: int) -> Any:
        if self._unencrypted:
            return self._decode_body(session, packet, packet.body)
        key = self._key
        if key is not None and session.config.keys is self._keys and not self._held:
            if session.started - self._noted > KEY_NOTE_INTERVAL_S:
                self._note(session, key)
            body = obfuscate(packet.body, key, packet.session_id, packet.version, seq_no)
            try:
                if session.device.quirks:
                    return self._decode_body(session, packet, body)
                if packet_type == _AUTHOR:
                    return session.config.requests.get(body) or _remember(session.config, body)
                if packet_type == _AUTHEN and seq_no == 1:
                    return decode_authen_start(body)
                return decode_body(packet_type, seq_no, body)
            except WireError:
                if seq_no != 1:
                    self.is_mismatched = True
                    raise
        elif seq_no != 1:
            return self._open_later(session, packet)
        return self._try_keys(session, packet)

    def _open_later(self, session: TacacsSession, packet: Packet) -> Any:
        """Open a packet of a session that began with another key or configuration than the latest one."""
        key = self._held.get(session.key, self._key) or b""
        body = obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)
        try:
            return self._decode_body(session, packet, body)
        except WireError:
            self.is_mismatched = True
            raise

    def _try_keys(self, session: TacacsSession, packet: Packet) -> Any:
        """Find the key that fits, the most recently successful first: rotation needs no moment of truth."""
        keys = session.config.keys
        candidates = keys.candidates(session.device)
        error: WireError | None = None
        for key in candidates:
            body = obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)
            try:
                message = self._decode_body(session, packet, body)
            except FieldError:
                # The lengths add up, so the key is right: the session ends, the connection goes on.
                self._use(session, key)
                raise
            except WireError as mismatch:
                error = error or mismatch
                continue
            self._use(session, key)
            return message
        self.is_mismatched = True
        if error is None or len(candidates) != 1:
            raise WireError(
                f"a body that none of {len(candidates)} keys of device {session.device.name} opens",
                "one of its keys",
                "RFC 8907 section 4.5",
            )
        raise error

    def _use(self, session: TacacsSession, key: bytes) -> None:
        """Take ``key`` for the connection; sessions that run keep the one that they began with."""
        previous, held = self._key, self._held
        if previous is not None and (held or previous != key):
            others = (each for each in self._connection.table.live if each != session.key)
            keys = {each: held.get(each, previous) for each in others}
            self._held = {each: other for each, other in keys.items() if other != key}
        self._key, self._keys = key, session.config.keys
        self._note(session, key)

    def _note(self, session: TacacsSession, key: bytes) -> None:
        self._noted = session.started
        keys = session.config.keys
        keys.note_used(
            session.device,
            keys.index_of(session.device, key),
            session.gateway.server.events.unix_time(session.started),
        )

    @staticmethod
    def _decode_body(session: TacacsSession, packet: Packet, body: bytes) -> Any:
        quirks = session.device.quirks
        if not quirks:
            return decode_body(packet.type, packet.seq_no, body)
        return decode_body(
            packet.type,
            packet.seq_no,
            body,
            bare_args="arg-without-separator" in quirks,
            empty_args="zero-length-arg" in quirks,
        )

    @staticmethod
    def _refuse_version(session: TacacsSession, message: Any) -> None:
        """Refuse a minor version that does not go with the request (RFC 8907 section 4.1, table 1)."""
        if type(message) is AuthenStart:
            if message.action != Action.LOGIN and message.authen_type != AuthenType.ASCII:
                return  # answered as unsupported, whatever its version
        elif "minor-version-on-author" in session.device.quirks:
            return
        raise RemoteProtocolError(
            f"minor version {session.version & 0x0F} on {type(message).__name__}",
            "the minor version of the request's kind",
            "RFC 8907 section 4.1",
        )

    # Sending

    def encode(self, session: TacacsSession, message: Any) -> bytes:
        """Return the packet of our next message in the session."""
        if type(message) is Packet:
            return encode_packet(
                message.version, message.type, message.seq_no, self._unencrypted, message.session_id, b""
            )
        seq_no = session.seq_no + 1
        if seq_no & 1 or seq_no > MAX_SEQ_NO:
            raise LocalProtocolError(
                f"seq_no {seq_no} of ours", "an even one below 255", "RFC 8907 section 4.1"
            )
        session.seq_no = seq_no
        body = _BODIES.get(id(message)) or encode_body(message)
        flags = self._unencrypted
        if self._is_negotiating:
            flags |= self._negotiate()
        key = self._key or self._first_key()
        if self._held:
            key = self._held.get(session.key, key)
        return encode_packet(session.version, session.type, seq_no, flags, session.key, body, key)  # type: ignore[arg-type]  # the key of a TACACS+ session is its session_id

    def _first_key(self) -> bytes | None:
        """Return the key to answer with where none has fitted yet: the one most likely to be the device's."""
        candidates = self._connection.gateway.config.keys.candidates(self._connection.peer.context)
        return candidates[0] if candidates and not self._unencrypted else None

    def _negotiate(self) -> int:
        """Answer the offer of single-connection mode in our first packet; return the flag if it is granted."""
        is_granted = (
            self._wants_single_connect
            and not self.is_mismatched
            and self._connection.peer.context.single_connect
        )
        self._is_negotiating = False
        self._connection.table.negotiated(multi=is_granted)
        return Flag.SINGLE_CONNECT if is_granted else 0

    def error_packet(self, packet: Packet) -> bytes | None:
        """Return the ERROR that refuses a packet for which no session may open; None where none can be said.

        It is no reply to the connection's first packet, and so says nothing of single-connection mode.
        """
        error = _ERRORS.get(packet.type)
        key = self._key or self._first_key()
        if error is None or packet.seq_no != 1 or (key is None and not self._unencrypted):
            return None
        body = encode_body(error)
        return encode_packet(packet.version, packet.type, 2, self._unencrypted, packet.session_id, body, key)


def _remember(config: Snapshot, body: bytes) -> Any:
    """Decode an authorization request and keep it for the next time; it is never changed after that."""
    request = decode_author_request(body)
    if len(body) <= CACHED_BODY_BYTES:
        if len(config.requests) >= CACHED_REQUESTS_COUNT:
            config.known.clear()
            config.requests.clear()
        config.requests[body] = request
        config.known[id(request)] = (service_of(request.args), mask_args(request.args))
    return request


def error_reply(session: TacacsSession) -> Any:
    """Return the session's ERROR, or None where it is not our turn to speak.

    A type that is unknown is answered with its own header and no body (RFC 8907 section 3.6).
    """
    if not session.seq_no & 1 or session.seq_no >= MAX_SEQ_NO:
        return None
    known = _ERRORS.get(session.type)
    if known is not None:
        return known
    return Packet(session.version, session.type, session.seq_no + 1, 0, session.key, b"")  # type: ignore[arg-type]  # as above
