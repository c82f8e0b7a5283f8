"""Packets as hexadecimal digits for logs, without the codes and keys in them.

Masked by the word alone, so that a body which could not be read is masked as well. What words without a public layout
carry is what users are asked to contribute, so it is shown unless such a word may carry a code.
Source: itv2-protocol.md sections 7.2, 9.4 to 9.7.
"""

from __future__ import annotations

from typing import Final

from sojourn.errors import WireError
from sojourn.gateways.itv2.messages import MASK, Word
from sojourn.gateways.itv2.wire import decode_length
from sojourn.gateways.itv2.wire.word_names import WORD_NAMES

_CONTROL = 0x09
_NEWS: Final = (0x02, 0x08)
"""Families of words by which panels tell what happens and how things stand; no bit makes them of one with a code."""
_ACCESS_LEVEL = 0x0400
_PASS_THROUGH = 0x0612
_LONG_PACKETS = 0x0622
_ENTER_CONFIGURATION_OLD = 0x0700
_ACCESS_CODE_WRAPPER = 0x0703

SECRET_WORDS: Final = frozenset(
    {
        _ACCESS_LEVEL,
        _PASS_THROUGH,
        _LONG_PACKETS,
        _ENTER_CONFIGURATION_OLD,
        _ACCESS_CODE_WRAPPER,
        Word.REQUEST_ACCESS,
        Word.ENTER_CONFIGURATION,
        Word.SECTION_WRITE,
        Word.SECTION_DATA,
        Word.READ_CODES,
        Word.CODES,
        Word.WRITE_CODES,
    }
)
"""Words whose bodies are never shown, as are all of 09xx: codes, initializers, sections, and what may hold any."""


def masked_hex(packet: bytes) -> str:
    """Return a packet in the clear as ``06 09 0900 ***``: sequence numbers, word, body; secret bodies masked."""
    sequences, message = packet[:2], packet[2:]
    return f"{sequences.hex(' ')} {masked_message_hex(message)}".strip()


def masked_message_hex(message: bytes) -> str:
    """Return a word and its body as of :func:`masked_hex`; the messages in an 0623 in brackets."""
    word, body = message[:2], message[2:]
    if not body:
        return word.hex()
    number = int.from_bytes(word, "big")
    if number in SECRET_WORDS or word[0] == _CONTROL:
        return f"{word.hex()} {MASK}"
    if number == Word.MULTIPLE_MESSAGES:
        return f"{word.hex()} {_several(body)}"
    return f"{word.hex()} {body.hex()}"


def unread_hex(number: int, body: bytes) -> str:
    """Return a word and a body that nobody could read, for a log: only of words that tell how things stand.

    Any other body is masked, whatever the word: it may be a message with a code whose word was damaged.
    """
    message = number.to_bytes(2, "big") + body
    is_news = number >> 8 in _NEWS and number in WORD_NAMES
    return masked_message_hex(message) if is_news or not body else f"{number:04x} {MASK}"


def _several(body: bytes) -> str:
    """Return the messages of an 0623; what cannot be cut out may be a part of anything and is masked."""
    shown: list[str] = []
    at = 0
    while at < len(body):
        try:
            length, start = decode_length(body, at)
        except WireError:
            length, start = len(body), at
        sub = body[start : start + length]
        is_whole = len(sub) == length > 1
        is_list = sub[:2] == Word.MULTIPLE_MESSAGES.to_bytes(2, "big")
        shown.append(f"[{MASK}]" if is_list or not is_whole else f"[{masked_message_hex(sub)}]")
        at = start + length if is_whole else len(body)
    return "".join(shown)
