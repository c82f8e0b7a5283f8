"""LiveStats: what a conversation has been through, for people and measurements."""

from __future__ import annotations

import msgspec


class LiveStats(msgspec.Struct):
    """Counts of one conversation, kept by whoever knows.

    Args:
        connections_count: on which we were greeted.
        events_count: taken, replayed ones included.
        recovered_count: of them, those that were replayed after a connection ended.
        lost_count: how often continuity was not given, and a snapshot stood for what was missed.
        gaps_count: how often a server broke the protocol, such as by an event that was not the next one.
        repeated_count: requests that were sent once more.
        last_why: why the last connection ended, or could not be had.
        last_away_s: from the end of a connection to the next greeting.
        longest_away_s: the longest of those.
    """

    connections_count: int = 0
    events_count: int = 0
    recovered_count: int = 0
    lost_count: int = 0
    gaps_count: int = 0
    repeated_count: int = 0
    last_why: str = ""
    last_away_s: float = 0.0
    longest_away_s: float = 0.0

    @property
    def reconnects_count(self) -> int:
        """How often it came back."""
        return max(0, self.connections_count - 1)
