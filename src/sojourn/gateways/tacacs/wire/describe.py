"""TACACS+ packets in words, for ``sojourn decode tacacs``.

Shows the header, and with a key (or over TLS) every field of the body by the specification's names.
Secret fields stay masked. Knows nothing of terminals: it returns lines of text.
"""

from __future__ import annotations

from sojourn.errors import WireError
from sojourn.gateways.tacacs.messages import (
    AcctFlag,
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
    ReplyFlag,
    Service,
)
from sojourn.gateways.tacacs.wire.bodies import decode_body
from sojourn.gateways.tacacs.wire.packets import HEADER_BYTES, Packet, TacacsFraming, obfuscate
from sojourn.sansio.names import flag_names, name_of

_REQUEST: dict[str, type] = {"authen_method": AuthenMethod, "authen_type": AuthenType, "service": Service}
_NAMES: dict[type[Message], dict[str, type]] = {
    AuthenStart: {"action": Action, "authen_type": AuthenType, "service": Service},
    AuthenReply: {"status": AuthenStatus},
    AuthenContinue: {},
    AuthorRequest: _REQUEST,
    AuthorReply: {"status": AuthorStatus},
    AcctRequest: _REQUEST,
    AcctReply: {"status": AcctStatus},
}
_FLAGS: dict[type[Message], type] = {
    AuthenReply: ReplyFlag,
    AuthenContinue: ContinueFlag,
    AcctRequest: AcctFlag,
}


def packets_from_hex(text: str, max_length_bytes: int = 65_536) -> list[Packet]:
    """Read packets written as hexadecimal digits; spaces, line ends and colons between them do not matter.

    Raises: WireError if the text is not hexadecimal or is not made of whole packets.
    """
    try:
        data = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        raise WireError("other characters", "hexadecimal digits, two for each byte", "the input") from None
    framing = TacacsFraming(max_length_bytes)
    packets: list[Packet] = []
    while data:
        whole, consumed, wanted_bytes = framing.split(data)
        if not whole:
            raise WireError(f"{len(data)} bytes at the end", f"{wanted_bytes} bytes", "RFC 8907 section 4.1")
        packets += whole
        data = data[consumed:]
    return packets


def describe(
    packet: Packet, key: bytes | None = None, *, bare_args: bool = False, empty_args: bool = False
) -> list[str]:
    """Return a packet in words, one field a line: the header, then the body as far as it can be read.

    Args:
        packet: as it came from the wire.
        key: what the body is obfuscated with; without it only a body in the clear is shown.
        bare_args: as of :func:`decode_body`.
        empty_args: as of :func:`decode_body`.
    """
    lines = [
        f"version      {packet.version >> 4:#x}.{packet.version & 0xF}",
        f"type         {packet.type} {name_of(PacketType, packet.type)}",
        f"seq_no       {packet.seq_no} ({'client' if packet.seq_no & 1 else 'server'})",
        f"flags        {packet.flags:#04x} {flag_names(Flag, packet.flags)}",
        f"session_id   {packet.session_id:#010x}",
        f"length       {len(packet.body)} (packet of {HEADER_BYTES + len(packet.body)} bytes)",
    ]
    if not packet.body:
        return [*lines, "body         none"]
    if packet.flags & Flag.UNENCRYPTED:
        body = packet.body
    elif key is None:
        return [*lines, "body         obfuscated; a key is needed to read it"]
    else:
        body = obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)
    try:
        message = decode_body(packet.type, packet.seq_no, body, bare_args=bare_args, empty_args=empty_args)
    except WireError as error:
        reason = "" if packet.flags & Flag.UNENCRYPTED else "; is the key right?"
        return [*lines, f"body         unreadable: {error}{reason}"]
    return lines + _describe_message(message)


def _describe_message(message: Message) -> list[str]:
    kind = type(message)
    names = _NAMES[kind]
    lines = [f"message      {kind.__name__}"]
    for field, value in message.shown_fields().items():
        if field == "args" and isinstance(value, tuple):
            lines += [f"  arg {number:<10}{arg!r}" for number, arg in enumerate(value, 1)]
        elif field == "flags" and isinstance(value, int):
            lines.append(f"  {field:<14}{value:#04x} {flag_names(_FLAGS[kind], value)}")
        elif field in names and isinstance(value, int):
            lines.append(f"  {field:<14}{value} {name_of(names[field], value)}")
        elif field in message.secret_fields:
            lines.append(f"  {field:<14}{value or 'empty'}")
        else:
            lines.append(f"  {field:<14}{value!r}")
    return lines
