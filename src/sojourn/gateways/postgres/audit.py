"""Audit: what we believe of sessions, compared with what their servers say.

For ``AUDIT`` at the console, and for the setting ``audit``, which compares after every change of a session. Costs a
query each time; nothing of it runs otherwise.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from sojourn.core.events import EventKind
from sojourn.gateways.postgres import recovery
from sojourn.gateways.postgres.console.incident_rows import AuditRow
from sojourn.gateways.postgres.messages import TransactionStatus
from sojourn.gateways.postgres.replies import Hidden
from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.snapshot import differences, parse_snapshot, snapshot_sql
from sojourn.gateways.postgres.states import Busy, Holds, ServerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.pool import Pool
    from sojourn.gateways.postgres.server_session import ServerSession

POSTGRES_AUDIT = EventKind("postgres.audit", ("node", "difference", "about"), level="warning")
"""A session holds something else on its server than we believe; the value itself is not told."""


_SENTENCE: Final = re.compile(
    r"(setting|prepared statement|channel|cursor|temporary object|advisory lock)s? ?(.*?): (.*)", re.DOTALL
)


async def audit(pools: Iterable[Pool]) -> list[AuditRow]:
    """Compare every server of ``pools`` that is at rest: with its client's session, or with nobody's."""
    questions = [
        _of_client(server) if server.client is not None else _of_nobody(pool, server)
        for pool in pools
        for server in pool.servers()
        if _is_at_rest(server)
    ]
    return [row for rows in await asyncio.gather(*questions) for row in rows]


def _is_at_rest(server: ServerSession) -> bool:
    client = server.client
    if server.fifo or server.status != TransactionStatus.IDLE or server.closing or server.cancels:
        return False
    if client is None:
        return server.state == ServerState.IDLE
    return not client.ended and client.is_idle


async def _of_client(server: ServerSession) -> list[AuditRow]:
    """Ask behind what the client has sent; what it sends now comes behind our question."""
    client = server.client
    assert client is not None  # noqa: S101 - the caller has looked, and nothing has been awaited
    answered: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    def take(hidden: Hidden) -> None:
        if not answered.done():
            answered.set_result(recovery.audit(client, server, hidden))

    server.run(snapshot_sql(client.holding.custom_names), Hidden(take))
    return [_row(server, client, sentence) for sentence in await answered]


async def _of_nobody(pool: Pool, server: ServerSession) -> list[AuditRow]:
    """Ask a free server, which holds nothing but the settings that we know of; nobody gets it meanwhile."""
    if not pool.place(server.node).drop_idle(server):
        return []
    answered: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    expected = SessionState(server.vector)

    def take(hidden: Hidden) -> None:
        if server.state != ServerState.CLOSED:
            pool.give_back(server)
        if not answered.done():
            answered.set_result(
                ["the server did not answer"]
                if hidden.error is not None
                else differences(expected, parse_snapshot(hidden.results))
            )

    server.run(snapshot_sql(expected.custom_names), Hidden(take))
    return [_row(server, None, sentence) for sentence in await answered]


def _row(server: ServerSession, client: ClientSession | None, sentence: str) -> AuditRow:
    found = _SENTENCE.fullmatch(sentence)
    kind, name, what = found.groups() if found is not None else ("", "", sentence)
    return AuditRow(
        client=client.number if client is not None else 0,
        database=server.pool.name,
        user=server.pool.user,
        node=server.node.name,
        kind=kind,
        name=name,
        tracked=None if "not tracked" in what else "yes",
        actual=what,
    )


def check(client: ClientSession, server: ServerSession) -> None:
    """Compare a session that has just changed, before its next request; a difference is told, or pins as well."""
    client.busy |= Busy.WAITING
    holding = client.holding

    def take(hidden: Hidden) -> None:
        if client.server is not server:
            return
        if hidden.error is None:
            snapshot = parse_snapshot(hidden.results)
            found = differences(holding, snapshot)
            events = client.gateway.server.events
            for sentence in found:
                events.emit(POSTGRES_AUDIT, client, server.node.name, sentence, client.about)
            if found and client.pool.gateway.settings.audit == "pin":
                holding.take_snapshot(snapshot)
                client.vector = server.vector = holding.vector
                client.holds |= Holds.SESSION
                client.note("pinned by the audit")
        client.show_pins()
        client.attached(server)
        if client.server is server and not client.busy & Busy.WAITING:
            client.settle(server.status)

    server.run(snapshot_sql(holding.custom_names), Hidden(take))
