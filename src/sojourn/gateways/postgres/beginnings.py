"""The beginning of a transaction: as long as nothing was read or written in it, it can begin again elsewhere.

BEGIN, SET LOCAL and SET TRANSACTION are kept until the first statement with data is answered; a server that is lost
before that costs the client nothing but time. With ``is_deferring_begin`` BEGIN is answered here and no server is
taken before there is work for it. Source: postgres-proxy.md sections 6.6 (deferred BEGIN) and 6.8.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import journal, wire
from sojourn.gateways.postgres.messages import Frontend, TransactionStatus
from sojourn.gateways.postgres.replies import DROP, Expect
from sojourn.gateways.postgres.states import Busy, Holds

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession

_PLAIN_END = re.compile(
    rb"\s*(commit|end|rollback|abort)(?:\s+(?:work|transaction))?\s*;?\s*\Z", re.IGNORECASE
)
_ACCESS_MODE = re.compile(rb"\bread\s+(only|write)\b", re.IGNORECASE)


def is_read_only(prefix: list[bytes] | None) -> bool:
    """Say whether the statements that began a transaction made it READ ONLY; the last one that says so counts."""
    modes = [mode for one in prefix or () for mode in _ACCESS_MODE.findall(one)]
    return bool(modes) and modes[-1].lower() == b"only"


def opens(client: ClientSession, message: bytes, text: bytes) -> None:
    """Take note of a BEGIN that goes to the server."""
    server = client.server
    if (
        client.status == TransactionStatus.IDLE
        and server is not None
        and not server.fifo
        and journal.PLAIN_BEGIN.match(text)
    ):
        client.prefix = [message]
        client.has_data = False
        client.beginnings_owed = 0
        client.busy |= Busy.BEGINNING
        client.holds |= Holds.BEGINNING
        journal.begin(client, [message], owes_opening=True)


def goes_on(client: ClientSession, message: bytes, text: bytes) -> None:
    """Take note of a statement that comes before any with data, or of the first with data."""
    if (
        client.prefix is not None
        and client.status == TransactionStatus.IN_TRANSACTION
        and journal.ONLY_SETS.match(text)
    ):
        client.prefix.append(message)
    else:
        client.has_data = True


def answers(client: ClientSession, text: bytes) -> bool:
    """Answer a BEGIN, or the end of one that no server has seen; False: it is the server's."""
    if client.server is not None or not client.config.is_deferring_begin:
        return False
    if client.busy & Busy.DEFERRED:
        end = _PLAIN_END.match(text)
        if end is None:
            return False
        client.busy &= ~Busy.DEFERRED
        client.prefix = None
        client.status = TransactionStatus.IDLE
        tag = b"COMMIT" if end[1].lower() in (b"commit", b"end") else b"ROLLBACK"
    elif (
        client.status == TransactionStatus.IDLE
        and not client.is_batch_open
        and journal.PLAIN_BEGIN.match(text)
    ):
        client.busy |= Busy.DEFERRED
        client.prefix = [wire.query(text)]
        client.has_data = False
        client.status = TransactionStatus.IN_TRANSACTION
        tag = journal.begin_tag(text)
    else:
        return False
    client.write(wire.command_complete(tag) + wire.ready_for_query(client.status))
    return True


def deferred(client: ClientSession) -> list[tuple[bytes, Expect]]:
    """Return the beginning that was answered before, for the server that the transaction now has."""
    client.busy = client.busy & ~Busy.DEFERRED | Busy.BEGINNING
    client.holds |= Holds.BEGINNING
    client.beginnings_owed = len(
        client.prefix or ()
    )  # whose ReadyForQuery do not answer what comes behind them
    journal.begin(client, client.prefix or (), owes_opening=False)
    return [(message, Expect(Frontend.QUERY, DROP, text=message[5:-1])) for message in client.prefix or ()]
