"""The faults that a simulated panel can be made to have, and how many times each is still to happen.

Source: itv2-protocol.md section 13, point 7.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

ALWAYS: Final = 1_000_000_000
"""So many times that it never ends by itself."""


class Fault(StrEnum):
    """What goes wrong; the value is its name in scripts."""

    SPLIT_WRITES = "split writes"
    """Each packet in two TCP writes, a moment apart."""
    MERGED_WRITES = "merged writes"
    """An acknowledgement waits for the next packet, and both come in one write."""
    GARBAGE = "garbage"
    """Bytes that are no packet come before the next one."""
    BAD_STUFFING = "bad stuffing"
    WRONG_CRC = "wrong crc"
    DUPLICATE = "duplicate"
    """The next packet is sent twice."""
    ACK_UNHEARD = "ack unheard"
    """The panel does not hear the server's next acknowledgement, and sends the packet again."""
    ACK_UNSENT = "ack unsent"
    """The panel does not acknowledge the server's next packet."""
    ANSWER_IN_MULTIPLE = "answer in multiple"
    """The next answer comes inside a 0623."""
    DATA_FOR_ACK = "data for ack"
    """The next poll is acknowledged by a data packet."""
    LATE_ANSWER = "late answer"
    """The next answer comes after 20 s."""
    NO_ANSWER = "no answer"
    """The next command is acknowledged and never answered."""
    WRONG_ID = "wrong id"
    """The next packet has another panel's header."""
    UNKNOWN_WORD = "unknown word"
    """A message that nobody knows comes before the next one."""
    WRONG_KEY = "wrong key"
    """From the next connection on the panel encrypts with another code."""
    SILENCE = "silence"
    """The panel neither sends nor hears anything more on this connection."""
    HALF_OPEN = "half open"
    """The panel forgets its connection without closing it, and dials anew."""
    TWIN = "twin"
    """The panel dials a second time while its first connection still works."""
    HTTP = "http"
    """The next connection begins as a PowerSeries Pro does."""
    ENDLESS = "endless"
    """64 KiB without an end."""


class Faults:
    """What is still to go wrong with one panel."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: dict[Fault, int] = {}

    def inject(self, fault: Fault, count: int = 1) -> None:
        """Let something go wrong so many times."""
        self._left[fault] = count

    def heal(self, fault: Fault) -> None:
        """Let it go right from now on."""
        self._left.pop(fault, None)

    def is_set(self, fault: Fault) -> bool:
        """Say whether it will go wrong."""
        return fault in self._left

    def take(self, fault: Fault) -> bool:
        """Say whether it goes wrong now, once less from then on."""
        left = self._left.get(fault, 0)
        if not left:
            return False
        if left == 1:
            del self._left[fault]
        else:
            self._left[fault] = left - 1
        return True
