"""What a panel has still to say: notifications, which outlive a connection, and answers, which do not.

Knows no connection: a line takes the first entry and gives it back where it was not acknowledged.

Source: itv2-protocol.md section 11: the queue is bounded and keeps the oldest.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from sojourn.gateways.itv2.messages import Message


class Entry(NamedTuple):
    """One message to be sent."""

    message: Message
    is_answer: bool = False


class Outbox:
    """Messages in the order in which they arose, at most ``limit_count`` notifications; what is newer is lost."""

    __slots__ = ("_entries", "_limit_count", "_notifications_count", "lost_count")

    def __init__(self, limit_count: int) -> None:
        self._entries: deque[Entry] = deque()
        self._limit_count = limit_count
        self._notifications_count = 0
        self.lost_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def notify(self, message: Message) -> None:
        """Add a notification, or lose it."""
        if self._notifications_count >= self._limit_count:
            self.lost_count += 1
            return
        self._notifications_count += 1
        self._entries.append(Entry(message))

    def answer(self, message: Message) -> None:
        """Add an answer; a server has one command at a time, so that these need no bound."""
        self._entries.append(Entry(message, is_answer=True))

    def take(self) -> Entry:
        """Return the oldest entry. Raises: IndexError if there is none."""
        entry = self._entries.popleft()
        self._notifications_count -= not entry.is_answer
        return entry

    def give_back(self, entry: Entry) -> None:
        """Put back what was taken and not acknowledged."""
        self._entries.appendleft(entry)
        self._notifications_count += not entry.is_answer

    def forget_answers(self) -> None:
        """Drop what nobody waits for any more."""
        self._entries = deque(entry for entry in self._entries if not entry.is_answer)
