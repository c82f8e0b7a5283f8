"""Nodes of a cluster: what each claimed when last asked, and whether the claim is believed.

A server's word that it is no longer in recovery is not enough to write to it: a primary that crashed and came back
after its replica was promoted says the same. The timeline tells them apart, because every promotion begins a new one.
Pure: knows no connection, no clock and no incident; moments are handed in, and :mod:`.failover` draws the conclusions.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sojourn.errors import WireError

UNKNOWN: Final = "UNKNOWN"
PRIMARY: Final = "PRIMARY"
REPLICA: Final = "REPLICA"
FENCED: Final = "FENCED"
DOWN: Final = "DOWN"
DRAINING: Final = "DRAINING"
STATES: Final = (UNKNOWN, PRIMARY, REPLICA, FENCED, DOWN, DRAINING)

ACCEPTED: Final = "accepted as primary"
REPLICATES: Final = "is in recovery"
DISTRUSTED: Final = "distrusted"
LOST: Final = "lost"
DRAINED: Final = "being left"
RETURNED: Final = "left, or kept after all"

TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    (UNKNOWN, ACCEPTED): PRIMARY,
    (UNKNOWN, REPLICATES): REPLICA,
    (UNKNOWN, DISTRUSTED): FENCED,
    (UNKNOWN, LOST): DOWN,
    (UNKNOWN, DRAINED): DRAINING,
    (PRIMARY, ACCEPTED): PRIMARY,
    (PRIMARY, REPLICATES): REPLICA,
    (PRIMARY, DISTRUSTED): FENCED,
    (PRIMARY, LOST): DOWN,
    (PRIMARY, DRAINED): DRAINING,
    (REPLICA, ACCEPTED): PRIMARY,
    (REPLICA, REPLICATES): REPLICA,
    (REPLICA, DISTRUSTED): FENCED,
    (REPLICA, LOST): DOWN,
    (REPLICA, DRAINED): DRAINING,
    (FENCED, ACCEPTED): PRIMARY,
    (FENCED, REPLICATES): REPLICA,
    (FENCED, DISTRUSTED): FENCED,
    (FENCED, LOST): DOWN,
    (FENCED, DRAINED): DRAINING,
    (DOWN, ACCEPTED): PRIMARY,
    (DOWN, REPLICATES): REPLICA,
    (DOWN, DISTRUSTED): FENCED,
    (DOWN, LOST): DOWN,
    (DOWN, DRAINED): DRAINING,
    # A node that a switchover leaves is handed to nobody, dead or alive, until the switchover has ended; only a
    # promotion, which the cluster cannot live without, overrules it.
    (DRAINING, ACCEPTED): PRIMARY,
    (DRAINING, REPLICATES): DRAINING,
    (DRAINING, DISTRUSTED): FENCED,
    (DRAINING, LOST): DRAINING,
    (DRAINING, DRAINED): DRAINING,
    (DRAINING, RETURNED): UNKNOWN,
}
"""What a node becomes (specification 6.4); a pair that is not here changes nothing."""

CLAIMS: Final = "claims to be primary"
"""A verdict that is no event yet: :mod:`.failover` decides whether the claim is accepted."""

_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Evidence(NamedTuple):
    """What one node said of itself.

    Units: ``lsn`` (written on a primary, received on a replica) and ``replay_lsn`` are bytes since the beginning of
    the log, 0 for unknown; ``timeline`` and ``system_identifier`` are 0 for unknown; ``seen_at`` is the moment of the
    question on the monotonic clock, so that it is true of no moment before it.
    """

    is_in_recovery: bool
    timeline: int
    lsn: int
    system_identifier: int
    seen_at: float
    replay_lsn: int = 0
    lag_s: float = 0.0
    is_receiving: bool = False


class Node:
    """One server of a cluster as the gateway sees it.

    Life: made from the settings, kept until a reload removes it. Always true: ``state`` changes through
    :meth:`apply` only; ``fenced_timeline`` stays until the node returns as a replica or on a newer timeline, also when
    it is down in between. ``promoted_timeline`` and ``promoted_lsn`` say where it stood when last seen as a replica:
    the new timeline cannot have left the old one before that point.
    """

    __slots__ = (
        "address",
        "asked_at",
        "changed_at",
        "evidence",
        "fenced_timeline",
        "is_receiving",
        "lag_bytes",
        "lag_s",
        "lsn",
        "name",
        "promoted_lsn",
        "promoted_timeline",
        "replay_lsn",
        "seen_at",
        "state",
        "system_identifier",
        "timeline",
    )

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.state = UNKNOWN
        self.evidence = "not asked yet"
        self.timeline = 0
        self.lsn = 0
        self.replay_lsn = 0
        self.lag_bytes = 0
        self.lag_s = 0.0
        self.is_receiving = False
        self.system_identifier = 0
        self.fenced_timeline = 0
        self.promoted_timeline = 0
        self.promoted_lsn = 0
        self.seen_at = 0.0
        """When it last answered; 0 for never."""
        self.asked_at = 0.0
        """When it was last asked and answered or failed; 0 for never."""
        self.changed_at = 0.0

    def __repr__(self) -> str:
        return f"<Node {self.name} at {self.address} {self.state} timeline {self.timeline}: {self.evidence}>"

    def note(self, evidence: Evidence) -> None:
        """Keep the figures of what the node said; its state stays as it is."""
        self.timeline = evidence.timeline or self.timeline
        self.lsn = evidence.lsn
        self.replay_lsn = evidence.replay_lsn
        self.lag_s = evidence.lag_s
        self.is_receiving = evidence.is_receiving
        self.system_identifier = evidence.system_identifier or self.system_identifier
        self.seen_at = self.asked_at = evidence.seen_at
        if evidence.is_in_recovery:
            self.promoted_timeline = evidence.timeline
            self.promoted_lsn = evidence.replay_lsn

    def apply(self, event: str, now: float, why: str) -> bool:
        """Move the node along the table; return whether its state changed."""
        self.evidence = why
        state = TRANSITIONS.get((self.state, event), self.state)
        if state == self.state:
            return False
        self.state = state
        self.changed_at = now
        return True


class Verdict(NamedTuple):
    """What to make of one piece of evidence: an event of the table or ``CLAIMS``, and why, in words."""

    event: str
    why: str


def judge(
    node: Node, evidence: Evidence, *, newest_timeline: int, system_identifier: int, primary: Node | None
) -> Verdict:
    """Decide what a node's word is worth.

    Args:
        newest_timeline: the newest that any node of the cluster was seen on.
        system_identifier: the cluster's, 0 while it is not known.
        primary: the node that takes writes now, None when there is none or it is not sure to live.
    Source: specification 3.3 point 6 and 6.4.
    """
    own_identifier = evidence.system_identifier or node.system_identifier
    if system_identifier and own_identifier not in (0, system_identifier):
        return Verdict(
            DISTRUSTED,
            f"another cluster's data: system identifier {own_identifier}, wanted {system_identifier}",
        )
    if evidence.is_in_recovery:
        return Verdict(REPLICATES, f"in recovery on timeline {evidence.timeline}")
    if evidence.timeline < newest_timeline:
        return Verdict(
            DISTRUSTED, f"stale primary: timeline {evidence.timeline} is older than {newest_timeline}"
        )
    if primary is not None and primary is not node and evidence.timeline <= primary.timeline:
        return Verdict(DISTRUSTED, f"second primary: {primary.name} has timeline {evidence.timeline} already")
    if node.fenced_timeline and evidence.timeline <= node.fenced_timeline:
        return Verdict(DISTRUSTED, f"still on timeline {evidence.timeline}, on which it was fenced")
    return Verdict(CLAIMS, f"primary on timeline {evidence.timeline}")


def lsn(text: str) -> int:
    """Read a position in the log as PostgreSQL writes it: ``16/B374D848``.

    Raises: WireError for anything else.
    Source: PostgreSQL section 8.20, pg_lsn: two hexadecimal numbers of up to 8 digits each.
    """
    found = _LSN.fullmatch(text)
    if found is None:
        raise WireError(
            "a log position of another form", "two hexadecimal numbers and a slash", "PostgreSQL section 8.20"
        )
    return int(found[1], 16) << 32 | int(found[2], 16)


def lsn_text(position: int) -> str:
    """Write a position in the log as PostgreSQL does."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
