"""What became of a COMMIT whose answer was lost: asked by transaction id, and believed only where that is sound.

Before a COMMIT the engine sends ``OUTCOME_PROBE_SQL`` in the same write and keeps the answer (it *arms* the commit).
After the loss it asks the primary of the moment ``outcome_sql`` and lets ``decide`` judge. Pure: sends nothing.

Why a transaction id may not be enough: a new timeline leaves the old one at some position of the log. Where the
transaction had begun to write before that position, the new primary knows its id and will give it to nobody else. Where
it had not, the same number may belong to another transaction there, and the honest answer is "unknown". (One that wrote
temporary tables alone leaves no trace in the log; a server's loss takes those in any case, so either answer holds.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sojourn.errors import WireError
from sojourn.gateways.postgres import nodes
from sojourn.gateways.postgres.nodes import Node

Rows = Sequence[Sequence[bytes | None]]

OUTCOME_PROBE_SQL: Final = (
    "SELECT CASE WHEN NOT r THEN pg_catalog.pg_current_xact_id_if_assigned() END,"
    " CASE WHEN NOT r THEN pg_catalog.pg_current_wal_insert_lsn() END,"
    " CASE WHEN NOT r THEN"
    " pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END"
    " FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS s"
)
"""Sent before COMMIT, its answer hidden from the client; any role may ask it. Not to be sent inside a failed
transaction, where it would only fail too. In recovery it answers nothing instead of failing the transaction."""

COMMITTED: Final = "committed"
ABORTED: Final = "aborted"
IN_PROGRESS: Final = "in progress"
"""The server has not decided yet: ask again until a deadline, then it is UNKNOWN."""
UNKNOWN: Final = "unknown"


class ArmedCommit(NamedTuple):
    """What was known of a transaction right before its COMMIT.

    Units: ``xid`` is the 64-bit id with its epoch, 0 if the transaction had written nothing; ``lsn`` is the end of the
    log at that moment, in bytes.
    """

    xid: int
    lsn: int
    timeline: int


def armed_commit(rows: Rows) -> ArmedCommit | None:
    """Read the answer to ``OUTCOME_PROBE_SQL``; None if it does not arm anything (a server in recovery).

    Raises: WireError if a server answers something else.
    """
    try:
        ((xid, lsn, timeline),) = rows
        if lsn is None or timeline is None:
            return None
        return ArmedCommit(int(xid or b"0"), nodes.lsn(lsn.decode()), int(timeline, 16))
    except ValueError:
        raise WireError(
            "another answer to the outcome probe", "id, position and timeline", "OUTCOME_PROBE_SQL"
        ) from None


def outcome_sql(xid: int) -> str:
    """Ask what became of a transaction; any role may.

    An id that the server has not given out yet is answered with SQLSTATE 22023: hand ``decide`` no rows then.
    """
    return f"SELECT pg_catalog.pg_xact_status('{xid:d}'::pg_catalog.xid8)"


def history_sql(timeline: int) -> str:
    """Ask a primary where its timelines began: the text for ``switch_position``.

    The role needs EXECUTE on ``pg_read_file(text)``, which superusers have. Without it ``promoted_position`` may do.
    On a replication connection, ``TIMELINE_HISTORY`` gives the same text to a role with REPLICATION.
    """
    return f"SELECT pg_catalog.pg_read_file('pg_wal/{timeline:08X}.history')"


def switch_position(history: str, timeline: int) -> int:
    """Read where a timeline was left, from the history file of a later one; 0 if it is no ancestor of that.

    Source: PostgreSQL section 26.3.6: lines of timeline, position and reason, separated by tabs; ``#`` comments.
    """
    for line in history.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == str(timeline):
            try:
                return nodes.lsn(words[1])
            except WireError:
                return 0
    return 0


def promoted_position(node: Node, timeline: int) -> int:
    """Say up to where a node had certainly followed a timeline before its promotion; 0 if that is not known.

    It is what the monitor saw when the node was still a replica: a lower bound of where the new timeline begins, and
    it needs no rights.
    """
    return node.promoted_lsn if node.promoted_timeline == timeline else 0


def decide(
    rows: Rows, *, armed: ArmedCommit, new_timeline: int, switch_lsn: int, is_switch_exact: bool = False
) -> str:
    """Judge the outcome of an armed COMMIT: COMMITTED, ABORTED, IN_PROGRESS or UNKNOWN.

    Args:
        rows: the primary's answer to ``outcome_sql``; empty if it answered with an error.
        new_timeline: the timeline of that primary.
        switch_lsn: where ``armed.timeline`` was left, or a lower bound of that; 0 for unknown. Of no meaning on the
            same timeline: a server that came back knows what it had decided.
        is_switch_exact: ``switch_lsn`` is no bound but the place itself. COMMIT's record lies behind
            ``armed.lsn``: where the timeline was left before that, it is not there.
    Source: specification 3.3 point 3.
    """
    if armed.xid == 0:
        return COMMITTED  # nothing was written that could be lost
    # A timeline that left exactly at ``lsn`` has all that the transaction wrote before, so that it knows the id.
    if new_timeline != armed.timeline and (new_timeline < armed.timeline or switch_lsn < armed.lsn):
        is_before = new_timeline > armed.timeline and 0 < switch_lsn <= armed.lsn
        return ABORTED if is_switch_exact and is_before else UNKNOWN
    answer = rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 else None
    status = (answer or b"").decode(errors="replace")
    return status if status in (COMMITTED, ABORTED, IN_PROGRESS) else UNKNOWN
