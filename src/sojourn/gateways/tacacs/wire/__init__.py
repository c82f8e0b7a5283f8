"""TACACS+ bytes to messages and back: packets (framing, obfuscation), their bodies, and both in words.

Pure: no sockets, no clock, no keys of its own. Import everything from here.
"""

from sojourn.gateways.tacacs.wire.bodies import (
    FieldError,
    decode_acct_reply,
    decode_acct_request,
    decode_authen_continue,
    decode_authen_reply,
    decode_authen_start,
    decode_author_reply,
    decode_author_request,
    decode_body,
    encode_body,
)
from sojourn.gateways.tacacs.wire.describe import describe, packets_from_hex
from sojourn.gateways.tacacs.wire.packets import HEADER_BYTES, Packet, TacacsFraming, encode_packet, obfuscate

__all__ = [
    "HEADER_BYTES",
    "FieldError",
    "Packet",
    "TacacsFraming",
    "decode_acct_reply",
    "decode_acct_request",
    "decode_authen_continue",
    "decode_authen_reply",
    "decode_authen_start",
    "decode_author_reply",
    "decode_author_request",
    "decode_body",
    "describe",
    "encode_body",
    "encode_packet",
    "obfuscate",
    "packets_from_hex",
]
