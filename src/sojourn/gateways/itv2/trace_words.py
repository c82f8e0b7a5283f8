"""Entries of the flight recorder in the specification's words, such as ``Arm partition 1 away code ***, 6/9``.

Sees what the recorder kept: packets whose secrets are masked already. Knows nothing of sessions and terminals.
"""

from __future__ import annotations

from sojourn.core.recorder import Entry, summary
from sojourn.gateways.itv2.messages import Packet
from sojourn.gateways.itv2.wire import words_of_message


def words_of(entry: Entry) -> tuple[str, str]:
    """Return the name of what an entry holds, and one line about it; a packet's ends with ``sender/receiver``."""
    what = entry[3]
    if not isinstance(what, Packet):
        return summary(entry)
    words = (words_of_message(what.message), f"{what.sender}/{what.receiver}")
    return type(what.message).__name__, ", ".join(filter(None, words))
