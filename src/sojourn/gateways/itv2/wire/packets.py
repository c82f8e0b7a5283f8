"""ITv2 packets: two sequence numbers, and unless it is a SimpleAck a word with its body.

Source: itv2-protocol.md section 4.
"""

from __future__ import annotations

import msgspec

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2.messages import Packet, SimpleAck
from sojourn.gateways.itv2.wire.catalogue import decode_message, encode_message

_SEQUENCES_BYTES = 2
_ACK = SimpleAck()


class WireOptions(msgspec.Struct, frozen=True, gc=False):
    """Where panels or sources disagree.

    ``raw_digits``: 0704 carries its code as one digit a byte instead of BCD (section 9.4).
    """

    raw_digits: bool = False


_DEFAULT = WireOptions()


def decode_packet(data: bytes, options: WireOptions = _DEFAULT) -> Packet:
    """Read what a frame carries; an unknown word, a longer body or one that cannot be read is no error.

    Raises: WireError if it is too short for its sequence numbers or for a word.
    """
    if len(data) == _SEQUENCES_BYTES:
        return Packet(data[0], data[1], _ACK)
    if len(data) < _SEQUENCES_BYTES:
        raise WireError(f"a packet of {len(data)} bytes", "2 bytes or more", "itv2-protocol.md section 4")
    return Packet(data[0], data[1], decode_message(data[2:], has_raw_digits=options.raw_digits))


def encode_packet(packet: Packet, options: WireOptions = _DEFAULT) -> bytes:
    """Write what a frame carries.

    Raises: LocalProtocolError if a value does not fit its field.
    """
    try:
        sequences = bytes((packet.sender, packet.receiver))
    except ValueError:
        raise LocalProtocolError(
            "a sequence number outside a byte", "0 to 255", "itv2-protocol.md section 5.1"
        ) from None
    return sequences + encode_message(packet.message, has_raw_digits=options.raw_digits)
