"""ITv2 bytes to messages and back: TLink packets, frames, and the messages in them.

Pure: no sockets, no clock, no keys. Import everything from here.
"""

from sojourn.gateways.itv2.wire.catalogue import decode_message, encode_message
from sojourn.gateways.itv2.wire.describe import words_of_message
from sojourn.gateways.itv2.wire.frame import crc16, decode_length, encode_length, frame, unframe
from sojourn.gateways.itv2.wire.packets import WireOptions, decode_packet, encode_packet
from sojourn.gateways.itv2.wire.tlink import (
    DEFAULT_LIMIT_BYTES,
    TLinkFraming,
    TLinkPacket,
    encode_tlink,
    stuff,
    unstuff,
)
from sojourn.gateways.itv2.wire.word_names import word_name

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "TLinkFraming",
    "TLinkPacket",
    "WireOptions",
    "crc16",
    "decode_length",
    "decode_message",
    "decode_packet",
    "encode_length",
    "encode_message",
    "encode_packet",
    "encode_tlink",
    "frame",
    "stuff",
    "unframe",
    "unstuff",
    "word_name",
    "words_of_message",
]
