"""Bytes for people: sixteen to a row, with their place in front and their characters behind.

Knows nothing of what the bytes mean: who dumps a message with secret fields blanks them first.
"""

from __future__ import annotations

ROW_BYTES = 16
"""As ``hexdump -C`` and every protocol analyser have it."""

_VISIBLE = bytes(byte if chr(byte).isascii() and chr(byte).isprintable() else 0x2E for byte in range(256))


def hexdump(data: bytes | bytearray | memoryview, *, limit_bytes: int = 256) -> str:
    """Return rows of offset, hexadecimal and ASCII, without a newline at the end.

    Args:
        data: the bytes; an empty one gives an empty text.
        limit_bytes: how many are shown; a last row says how many more there are.
    """
    shown = bytes(data[:limit_bytes])
    rows = [_row(start, shown[start : start + ROW_BYTES]) for start in range(0, len(shown), ROW_BYTES)]
    if len(data) > len(shown):
        more = len(data) - len(shown)
        rows.append(f"{len(shown):08x}  ... {more} more byte{'s' if more > 1 else ''}")
    return "\n".join(rows)


def _row(start: int, part: bytes) -> str:
    left, right = part[:8].hex(" "), part[8:].hex(" ")
    return f"{start:08x}  {left:<23}  {right:<23}  |{part.translate(_VISIBLE).decode('ascii')}|"
