"""The bodies of TACACS+ packets: readable bytes to messages and back, both directions side by side.

Shape: a fixed part, then (where there are arguments) one length byte for each, then the texts in the order
of their lengths. A length of 0 means that the field is absent; the lengths have to add up to the body, which
is also how a wrong key shows.
What it does not know on purpose: keys, packets, and whether a number such as a status makes sense.

Texts: ``port`` and ``rem_addr`` come from the device and have to be printable US-ASCII. ``user``, ``args``
and ``server_msg`` carry what people type; they are read as UTF-8, and byte by byte (Latin-1) where they are
not UTF-8, because refusing them would let anybody at a login prompt make the server believe that the
device's key is wrong. Control characters in them stay: a shown text has to be escaped by what shows it.

Hot path: plain ints, structs bound once, one decode for all texts of a body.
Source: RFC 8907 sections 3.7, 5.1 to 5.3, 6.1, 6.2, 7.1 and 7.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.tacacs.messages import (
    AcctReply,
    AcctRequest,
    AuthenContinue,
    AuthenReply,
    AuthenStart,
    AuthorReply,
    AuthorRequest,
    Message,
    PacketType,
)

MIN_ARG_BYTES = 2
"""An argument is at least a name of one character and its separator."""

_START = struct.Struct("!8B")
_AUTHEN_REPLY = struct.Struct("!BBHH")
_CONTINUE = struct.Struct("!HHB")
_AUTHOR_REQUEST = struct.Struct("!8B")
_AUTHOR_REPLY = struct.Struct("!BBHH")
_ACCT_REQUEST = struct.Struct("!9B")
_ACCT_REPLY = struct.Struct("!HHB")


class FieldError(WireError):
    """One field breaks its rule in a body whose lengths add up: whatever else is wrong, the key is right."""


KNOWN_COUNT = 4_096
"""Users at their places that are remembered in readable form; 0.3 us and 200 bytes less per login."""
_KNOWN: dict[bytes, tuple[str, str, str]] = {}


def decode_authen_start(body: bytes) -> AuthenStart:
    """Read the body of an authentication START.

    Raises: WireError. Source: RFC 8907 section 5.1.
    """
    try:
        action, priv_lvl, authen_type, service, user_len, port_len, rem_addr_len, data_len = (
            _START.unpack_from(body)
        )
    except struct.error:
        raise _too_short(body, _START, "5.1") from None
    texts_end = 8 + user_len + port_len + rem_addr_len
    if len(body) != texts_end + data_len:
        raise _sum_is_wrong(body, texts_end + data_len, "5.1")
    who = body[4:texts_end]
    user, port, rem_addr = _KNOWN.get(who) or _read_who(who, user_len, port_len)
    return AuthenStart(action, priv_lvl, authen_type, service, user, port, rem_addr, body[texts_end:])


def _read_who(who: bytes, user_len: int, port_len: int) -> tuple[str, str, str]:
    """Read user, port and rem_addr of a START, and keep them: the same people come from the same places again.

    Shape: ``who`` is the START from its four lengths to the end of its texts; the data behind is not part of it.
    """
    # Latin-1 keeps one character per byte, so that the lengths of the wire cut the text.
    texts = who[4:].decode("latin-1")
    user, place = texts[:user_len], texts[user_len:]
    if not texts.isascii():
        user = _typed_text(user)
        _check_ascii(place, "5.1")
    if not place.isprintable():
        raise _not_printable("5.1")
    if len(_KNOWN) >= KNOWN_COUNT:
        _KNOWN.clear()
    _KNOWN[who] = known = (user, place[:port_len], place[port_len:])
    return known


def decode_authen_reply(body: bytes) -> AuthenReply:
    """Read the body of an authentication REPLY.

    Raises: WireError. Source: RFC 8907 section 5.2.
    """
    try:
        status, flags, server_msg_len, data_len = _AUTHEN_REPLY.unpack_from(body)
    except struct.error:
        raise _too_short(body, _AUTHEN_REPLY, "5.2") from None
    data_start = 6 + server_msg_len
    if len(body) != data_start + data_len:
        raise _sum_is_wrong(body, data_start + data_len, "5.2")
    return AuthenReply(status, flags, _typed_text(body[6:data_start].decode("latin-1")), body[data_start:])


def decode_authen_continue(body: bytes) -> AuthenContinue:
    """Read the body of an authentication CONTINUE.

    Raises: WireError. Source: RFC 8907 section 5.3.
    """
    try:
        user_msg_len, data_len, flags = _CONTINUE.unpack_from(body)
    except struct.error:
        raise _too_short(body, _CONTINUE, "5.3") from None
    data_start = 5 + user_msg_len
    if len(body) != data_start + data_len:
        raise _sum_is_wrong(body, data_start + data_len, "5.3")
    return AuthenContinue(body[5:data_start], body[data_start:], flags)


def decode_author_request(body: bytes, *, bare_args: bool = False, empty_args: bool = False) -> AuthorRequest:
    """Read the body of an authorization REQUEST.

    Args:
        bare_args: accept arguments without ``=`` or ``*`` (the device quirk ``arg-without-separator``).
        empty_args: leave out arguments of length 0 instead of refusing them (``zero-length-arg``).
    Raises: WireError. Source: RFC 8907 sections 6.1 and 8.1.
    """
    try:
        method, priv_lvl, authen_type, service, user_len, port_len, rem_addr_len, arg_cnt = (
            _AUTHOR_REQUEST.unpack_from(body)
        )
    except struct.error:
        raise _too_short(body, _AUTHOR_REQUEST, "6.1") from None
    texts_start = 8 + arg_cnt
    arg_lens = body[8:texts_start]
    port_end = user_len + port_len
    args_start = port_end + rem_addr_len
    if len(body) != texts_start + args_start + sum(arg_lens):
        raise _sum_is_wrong(body, texts_start + args_start + sum(arg_lens), "6.1")
    texts = body[texts_start:].decode("latin-1")
    user = texts[:user_len]
    args = _cut_args(texts, args_start, arg_lens, bare_args, empty_args)
    if not texts.isascii():
        user = _typed_text(user)
        args = [_typed_text(arg) for arg in args]
        _check_ascii(texts[user_len:args_start], "6.1")
    if not texts[user_len:args_start].isprintable():
        raise _not_printable("6.1")
    return AuthorRequest(
        method,
        priv_lvl,
        authen_type,
        service,
        user,
        texts[user_len:port_end],
        texts[port_end:args_start],
        tuple(args),
    )


def decode_author_reply(body: bytes) -> AuthorReply:
    """Read the body of an authorization REPLY.

    Raises: WireError. Source: RFC 8907 section 6.2.
    """
    try:
        status, arg_cnt, server_msg_len, data_len = _AUTHOR_REPLY.unpack_from(body)
    except struct.error:
        raise _too_short(body, _AUTHOR_REPLY, "6.2") from None
    texts_start = 6 + arg_cnt
    arg_lens = body[6:texts_start]
    args_start = server_msg_len + data_len
    if len(body) != texts_start + args_start + sum(arg_lens):
        raise _sum_is_wrong(body, texts_start + args_start + sum(arg_lens), "6.2")
    texts = body[texts_start:].decode("latin-1")
    args = _cut_args(texts, args_start, arg_lens, bare_args=False, empty_args=False)
    return AuthorReply(
        status,
        tuple([_typed_text(arg) for arg in args]),
        _typed_text(texts[:server_msg_len]),
        _typed_text(texts[server_msg_len:args_start]),
    )


def decode_acct_request(body: bytes, *, bare_args: bool = False, empty_args: bool = False) -> AcctRequest:
    """Read the body of an accounting REQUEST.

    Args: as of :func:`decode_author_request`.
    Raises: WireError. Source: RFC 8907 sections 7.1 and 8.1.
    """
    try:
        flags, method, priv_lvl, authen_type, service, user_len, port_len, rem_addr_len, arg_cnt = (
            _ACCT_REQUEST.unpack_from(body)
        )
    except struct.error:
        raise _too_short(body, _ACCT_REQUEST, "7.1") from None
    texts_start = 9 + arg_cnt
    arg_lens = body[9:texts_start]
    port_end = user_len + port_len
    args_start = port_end + rem_addr_len
    if len(body) != texts_start + args_start + sum(arg_lens):
        raise _sum_is_wrong(body, texts_start + args_start + sum(arg_lens), "7.1")
    texts = body[texts_start:].decode("latin-1")
    user = texts[:user_len]
    args = _cut_args(texts, args_start, arg_lens, bare_args, empty_args)
    if not texts.isascii():
        user = _typed_text(user)
        args = [_typed_text(arg) for arg in args]
        _check_ascii(texts[user_len:args_start], "7.1")
    if not texts[user_len:args_start].isprintable():
        raise _not_printable("7.1")
    return AcctRequest(
        flags,
        method,
        priv_lvl,
        authen_type,
        service,
        user,
        texts[user_len:port_end],
        texts[port_end:args_start],
        tuple(args),
    )


def decode_acct_reply(body: bytes) -> AcctReply:
    """Read the body of an accounting REPLY.

    Raises: WireError. Source: RFC 8907 section 7.2.
    """
    try:
        server_msg_len, data_len, status = _ACCT_REPLY.unpack_from(body)
    except struct.error:
        raise _too_short(body, _ACCT_REPLY, "7.2") from None
    data_start = 5 + server_msg_len
    if len(body) != data_start + data_len:
        raise _sum_is_wrong(body, data_start + data_len, "7.2")
    texts = body[5:].decode("latin-1")
    return AcctReply(status, _typed_text(texts[:server_msg_len]), _typed_text(texts[server_msg_len:]))


def decode_body(
    packet_type: int, seq_no: int, body: bytes, *, bare_args: bool = False, empty_args: bool = False
) -> Message:
    """Read a readable body; the packet's type and place in its session say which message it is.

    Odd sequence numbers come from the client, even ones from the server.
    Args: as of :func:`decode_author_request`.
    Raises: WireError.
    """
    if packet_type == PacketType.AUTHOR:
        if seq_no & 1:
            return decode_author_request(body, bare_args=bare_args, empty_args=empty_args)
        return decode_author_reply(body)
    if packet_type == PacketType.AUTHEN:
        if seq_no == 1:
            return decode_authen_start(body)
        return decode_authen_continue(body) if seq_no & 1 else decode_authen_reply(body)
    if packet_type == PacketType.ACCT:
        if seq_no & 1:
            return decode_acct_request(body, bare_args=bare_args, empty_args=empty_args)
        return decode_acct_reply(body)
    raise WireError(f"packet type {packet_type}", "type 1, 2 or 3", "RFC 8907 section 4.1")


def encode_body(message: Message) -> bytes:
    """Write the body of any message, readable.

    Raises: LocalProtocolError if a value does not fit its field, or a text cannot be written as UTF-8.
    """
    try:
        return _ENCODERS[type(message)](message)
    except (struct.error, ValueError):
        # The error's own text could quote a password.
        raise LocalProtocolError(
            f"{type(message).__name__} with a value that does not fit its field",
            "numbers of one byte, texts of at most 255 bytes, arguments of 2 to 255 bytes",
            "RFC 8907 sections 5 to 7",
        ) from None


def _encode_authen_start(message: AuthenStart) -> bytes:
    user, port, rem_addr = message.user.encode(), message.port.encode(), message.rem_addr.encode()
    fixed = _START.pack(
        message.action,
        message.priv_lvl,
        message.authen_type,
        message.service,
        len(user),
        len(port),
        len(rem_addr),
        len(message.data),
    )
    return b"".join((fixed, user, port, rem_addr, message.data))


def _encode_authen_reply(message: AuthenReply) -> bytes:
    server_msg = message.server_msg.encode()
    data = message.data
    return _AUTHEN_REPLY.pack(message.status, message.flags, len(server_msg), len(data)) + server_msg + data


def _encode_authen_continue(message: AuthenContinue) -> bytes:
    user_msg, data = message.user_msg, message.data
    return _CONTINUE.pack(len(user_msg), len(data), message.flags) + user_msg + data


def _encode_author_request(message: AuthorRequest) -> bytes:
    user, port, rem_addr = message.user.encode(), message.port.encode(), message.rem_addr.encode()
    arg_lens, args = _pack_args(message.args)
    fixed = _AUTHOR_REQUEST.pack(
        message.authen_method,
        message.priv_lvl,
        message.authen_type,
        message.service,
        len(user),
        len(port),
        len(rem_addr),
        len(arg_lens),
    )
    return b"".join((fixed, arg_lens, user, port, rem_addr, args))


def _encode_author_reply(message: AuthorReply) -> bytes:
    server_msg, data = message.server_msg.encode(), message.data.encode()
    if not message.args:
        return _AUTHOR_REPLY.pack(message.status, 0, len(server_msg), len(data)) + server_msg + data
    arg_lens, args = _pack_args(message.args)
    fixed = _AUTHOR_REPLY.pack(message.status, len(arg_lens), len(server_msg), len(data))
    return b"".join((fixed, arg_lens, server_msg, data, args))


def _encode_acct_request(message: AcctRequest) -> bytes:
    user, port, rem_addr = message.user.encode(), message.port.encode(), message.rem_addr.encode()
    arg_lens, args = _pack_args(message.args)
    fixed = _ACCT_REQUEST.pack(
        message.flags,
        message.authen_method,
        message.priv_lvl,
        message.authen_type,
        message.service,
        len(user),
        len(port),
        len(rem_addr),
        len(arg_lens),
    )
    return b"".join((fixed, arg_lens, user, port, rem_addr, args))


def _encode_acct_reply(message: AcctReply) -> bytes:
    server_msg, data = message.server_msg.encode(), message.data.encode()
    return _ACCT_REPLY.pack(len(server_msg), len(data), message.status) + server_msg + data


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    AuthenStart: _encode_authen_start,
    AuthenReply: _encode_authen_reply,
    AuthenContinue: _encode_authen_continue,
    AuthorRequest: _encode_author_request,
    AuthorReply: _encode_author_reply,
    AcctRequest: _encode_acct_request,
    AcctReply: _encode_acct_reply,
}


def _cut_args(texts: str, position: int, arg_lens: bytes, bare_args: bool, empty_args: bool) -> list[str]:
    """Cut the arguments off ``texts`` from ``position`` on, refusing what the quirks do not allow."""
    args: list[str] = []
    for arg_len in arg_lens:
        end = position + arg_len
        arg = texts[position:end]
        position = end
        if arg_len < MIN_ARG_BYTES or ("=" not in arg and "*" not in arg):
            if not arg_len and empty_args:
                continue
            if not arg_len or not bare_args:
                raise FieldError(
                    f"argument {len(args) + 1} of {arg_len} bytes that is no pair",
                    "name=value or name*value of 2 to 255 bytes",
                    "RFC 8907 section 6.1",
                )
        args.append(arg)
    return args


@lru_cache(maxsize=1024)
def _pack_args(args: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return the length bytes and the joined arguments; raise ValueError where a length is not 2 to 255.

    Remembered, because a policy answers with the same few sets of pairs all day (0.6 us saved per reply).
    """
    encoded = [arg.encode() for arg in args]
    lengths = bytes(map(len, encoded))
    if lengths and min(lengths) < MIN_ARG_BYTES:
        raise ValueError
    return lengths, b"".join(encoded)


def _typed_text(latin: str) -> str:
    """Read what a person typed as UTF-8 where it is that, and byte by byte where not."""
    if latin.isascii():
        return latin
    try:
        return latin.encode("latin-1").decode()
    except UnicodeDecodeError:
        return latin


def _check_ascii(text: str, section: str) -> None:
    """Refuse what a device, not a person, has put into ``port`` or ``rem_addr`` against the rule."""
    if not text.isascii():
        raise _not_printable(section)


def _not_printable(section: str) -> FieldError:
    return FieldError(
        "port or rem_addr with other characters",
        "printable US-ASCII",
        f"RFC 8907 sections 3.7 and {section}",
    )


def _too_short(body: bytes, fixed: struct.Struct, section: str) -> WireError:
    return WireError(
        f"a body of {len(body)} bytes", f"at least {fixed.size} bytes", f"RFC 8907 section {section}"
    )


def _sum_is_wrong(body: bytes, wanted: int, section: str) -> WireError:
    return WireError(
        f"a body of {len(body)} bytes", f"{wanted} bytes by its length fields", f"RFC 8907 section {section}"
    )
