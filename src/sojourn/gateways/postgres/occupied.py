"""Let go of a database that somebody drops, renames or copies: a server that a pool keeps idle is a user of it too.

PostgreSQL refuses such a command while others are connected, after having waited five seconds for them to leave. It
looks at the permission first, so that whoever waits may do it. The sweep finds who waits.
Knows nothing of other workers and their pools. Source: PostgreSQL, "DROP DATABASE", "CREATE DATABASE" and "ALTER
DATABASE".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sojourn.gateways.postgres.lexer import identifier, tokens
from sojourn.gateways.postgres.owed import text_of
from sojourn.gateways.postgres.replies import Expect

if TYPE_CHECKING:
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession

_WAITS_S = 0.1
"""A command that is refused, or has nobody to wait for, has its answer earlier."""
_COMMAND = re.compile(rb"\s*(?:drop|alter|create)\s+database\b", re.IGNORECASE)
_TEXT_LIMIT_BYTES = 4096


def leave(pools: Iterable[Pool], now: float) -> None:
    """Close what is idle in the databases that a command waits for; what is in use is closed when it is free."""
    pools = tuple(pools)
    for pool in pools:
        for server in pool.servers():
            if server.fifo and server.client is not None and now - server.began > _WAITS_S:
                names = wanted(server)
                for other in pools if names else ():
                    if other.room is pool.room and other.dbname.encode() in names:
                        other.reconnect("its database is to be dropped, renamed or copied")


def wanted(server: ServerSession) -> set[bytes]:
    """Return the names in the command that a server carries out, if that is one about databases."""
    head, client = server.fifo[0], server.client
    text = b""
    if isinstance(head, bytes) and client is not None:
        text = text_of(client, head)
    elif isinstance(head, Expect):
        text = head.statement.text if head.statement is not None else head.text
    if _COMMAND.match(text) is None:
        return set()
    return {name for name in map(identifier, tokens(text[:_TEXT_LIMIT_BYTES])) if name}
