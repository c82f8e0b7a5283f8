"""Journal: what a client has asked for in its transaction, and digests of what it was answered.

Kept with ``failover.verified_replay`` only, from BEGIN to the end of the transaction: while there is one the client's
bytes go the long way, and its answers pass by here. Says also which transactions may be run again, by cautious rules on
the text of their statements. Runs nothing again: that is ``verified_replay``. Source: postgres-proxy.md section 6.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres import lexer, wire
from sojourn.gateways.postgres.messages import Frontend, TransactionStatus
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.retry import Request
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement

REPLAYS_COUNT: Final = 3
"""Replays of one transaction: what kills one server after the other is not sent for ever."""
PLAIN_BEGIN: Final = re.compile(
    rb"\s*(?:begin(?:\s+(?:work|transaction))?|start\s+transaction)\b[\w\s,]*;?\s*\Z", re.IGNORECASE
)
ONLY_SETS: Final = re.compile(rb"\s*set\s+(?:local|transaction)\b[^;]*;?\s*\Z", re.IGNORECASE)
"""A statement that belongs to the beginning of a transaction: it reads nothing."""

_DIGEST_BYTES: Final = 16
_REQUEST_BYTES: Final = 150
"""What one more request costs besides its bytes: two objects and their places in lists."""
_REPEATED: Final = frozenset(b"QPBDECSH")
_ENDS: Final = (Frontend.QUERY, Frontend.SYNC)
_ENDED_BY_SERVER: Final = frozenset(("25P03", "25P04", "57P05"))
"""The last words of a server that has ended the session for its own slowness: idle_in_transaction_session_timeout and
its like. To run the transaction again would be to evade them."""
_MAY_BE_REPEATED: Final = re.compile(
    rb"(?:select|with|values|table|insert|update|delete|merge|show|savepoint|release|declare|fetch|move|close|lock"
    rb"|notify|set\s+(?:local|constraints)|rollback\s+(?:(?:work|transaction)\s+)?to)\b",
    re.IGNORECASE,
)
_REACHES_OUT: Final = re.compile(
    rb"\b(?:\w*advisory\w*|set_config|temp|temporary|pg_temp\w*|dblink\w*|lo_\w+|loread|lowrite|nextval|setval|currval"
    rb"|lastval|isolation|transaction_isolation|hold|pg_(?:terminate|cancel|reload|rotate|promote|switch|create|drop"
    rb"|logical|replication|file|stat_reset|backup|wal_replay)\w*)\b|u&\"",
    re.IGNORECASE,
)
"""Words of what a rollback does not take back, or another server does not have; in strings they count too."""


class Journal:
    """One transaction of one client, as far as it has come.

    Life: made at its BEGIN; ended by its end, by what is too long for it or cannot be run again, or by a loss that has
    another answer. Always true: ``digests`` has one entry for each of ``requests`` that is answered, in order;
    ``forward`` is the client's own ``write``.
    """

    __slots__ = (
        "_hash",
        "_is_ending",
        "_owes_opening",
        "_parts",
        "_resent_at",
        "_size",
        "_unmarked_bytes",
        "before",
        "begins_within",
        "client",
        "digests",
        "forward",
        "opening",
        "replays_count",
        "requests",
        "unnamed",
    )

    def __init__(
        self,
        client: ClientSession,
        opening: list[bytes],
        *,
        owes_opening: bool = False,
        parts: Iterable[bytes] | None = None,
    ) -> None:
        self.client = client
        self.opening = opening
        """Whole Query messages: BEGIN, and what of the beginning was answered before."""
        self.begins_within = parts is not None
        """The first of ``requests`` is a batch that has BEGIN in it, by its first Execute."""
        self.requests: list[bytes] = []
        self.digests: list[bytes] = []
        self.before: dict[bytes, Statement] | None = None
        """The client's prepared statements at the beginning; None if they have not changed."""
        self.unnamed = client.unnamed
        self.replays_count = 0
        self._owes_opening = owes_opening
        self._parts = list(parts or ())
        self._is_ending = False
        self._resent_at = -1
        self._size = sum(map(len, self._parts))
        self.forward = client.write
        self._take_over()

    def _take_over(self) -> None:
        """Let the client's bytes, and its answers, come by here from now on."""
        self._hash = blake2b(digest_size=_DIGEST_BYTES)
        self._unmarked_bytes = 0
        client = self.client
        client.journal = self
        client.busy |= Busy.JOURNAL
        client.write = self.write

    def drop(self) -> None:
        """Keep nothing any more."""
        client = self.client
        client.journal = None
        client.busy &= ~Busy.JOURNAL
        client.write = self.forward

    # What the walks tell

    def write(self, data: bytes) -> None:
        """Pass on what the client is sent."""
        self._hash.update(data)
        self._unmarked_bytes += len(data)
        self.forward(data)

    def keep(self, kind: int, part: bytes, *, is_whole: bool) -> None:
        """Keep a message of the client, or its beginning."""
        if kind not in _REPEATED or (kind == Frontend.QUERY and self._parts):
            # A Query without a Sync before it is skipped if the batch fails: then nothing answers it.
            self.drop()
            return
        if kind in (Frontend.PARSE, Frontend.CLOSE) and self.before is None:
            self.before = dict(self.client.prepared or {})
        self._is_ending = kind in _ENDS
        self.keep_rest(part, is_whole=is_whole)

    def keep_rest(self, part: bytes, *, is_whole: bool) -> None:
        """Keep a further part of the last message."""
        self._parts.append(part)
        self._size += len(part)
        if is_whole and self._is_ending:
            self._is_ending = False
            self.requests.append(b"".join(self._parts))
            self._parts.clear()
            self._size += _REQUEST_BYTES
        if self._size > self.client.config.failover.verified_replay_bytes:
            self.drop()

    def has_begun(self, text: bytes) -> bool:
        """Say whether a BEGIN was done before; here, whatever comes goes to the server."""
        del text
        return False

    def answered(self, status: int) -> None:
        """Take note that a request is answered: all of it has been written."""
        digest = self._hash.digest()
        self._hash = blake2b(digest_size=_DIGEST_BYTES)
        self._unmarked_bytes = 0
        if not self._owes_opening:
            self.digests.append(digest)
        self._owes_opening = False
        if status == TransactionStatus.IDLE or len(self.digests) > len(self.requests):
            self.drop()

    # At a loss

    @property
    def unanswered(self) -> bytes:
        """Return what was sent and not answered, up to a message that had come in part."""
        return b"".join((*self.requests[len(self.digests) :], *self._parts))

    @property
    def beginnings_count(self) -> int:
        """Return how many answered requests belong to the beginning of the transaction."""
        answered = self.requests[: len(self.digests)]
        return next(
            (index for index, one in enumerate(answered) if not _is_beginning(one)),
            len(answered),
        )

    def allows(self, server: ServerSession, owed: list[Request]) -> bool:
        """Say whether the transaction may be run again.

        Args:
            server: that is lost.
            owed: what it had not answered.
        """
        client = self.client
        fatal = (server.fatal or {}).get("C", "")
        strings = client.reported.values.get("standard_conforming_strings")
        is_sent_twice = bool(owed) and self._resent_at == len(self.digests)
        is_counted_right = sum(one.is_whole for one in owed) == len(self.requests) - len(self.digests)
        if (
            client.status != TransactionStatus.IN_TRANSACTION
            or not is_counted_right
            or self._unmarked_bytes
            or client.discards
            or is_sent_twice
            or self.replays_count >= REPLAYS_COUNT
            or fatal in _ENDED_BY_SERVER
            or strings == "off"  # they end elsewhere then
            or client.holding.losses()
            or client.has_long_statement
            or client.has_long_unnamed
        ):
            return False
        statements = self._statements()
        if self.begins_within:
            next(statements, None)
        return all(map(may_be_repeated, statements))

    def _statements(self) -> Iterator[bytes]:
        """Yield what was executed behind the beginning, or may have been; parsed before or in the transaction."""
        first = self.beginnings_count
        before = self.before if self.before is not None else self.client.prepared or {}
        messages, _ = wire.split(b"".join((*self.requests[first:], *self._parts)))
        for kind, body in messages:
            if kind == Frontend.QUERY:
                yield from lexer.split_statements(body[:-1])
            elif kind == Frontend.PARSE:
                yield from lexer.split_statements(body.partition(b"\0")[2].partition(b"\0")[0])
            elif kind == Frontend.BIND:
                statement = before.get(body.partition(b"\0")[2].partition(b"\0")[0])
                if statement is not None:
                    yield from lexer.split_statements(statement.text)

    def resume(self, *, is_resending: bool) -> None:
        """Go on with the same transaction at another server, where all that was answered has been answered again.

        Args:
            is_resending: what is unanswered is going to be sent again, by the client's usual way.
        """
        count = len(self.digests)
        del self.requests[count:]
        self._parts.clear()
        self._is_ending = False
        self._size = sum(map(len, self.requests)) + _REQUEST_BYTES * count
        self._resent_at = count if is_resending else -1
        self._take_over()


def begin(client: ClientSession, opening: Iterable[bytes], *, owes_opening: bool) -> None:
    """Begin to keep a transaction, where that is asked for.

    Args:
        client: whose it is.
        opening: whole Query messages that have begun it.
        owes_opening: the client is still to see the answer.
    """
    if client.config.failover.verified_replay:
        Journal(client, list(opening), owes_opening=owes_opening)


def executes(client: ClientSession, server: ServerSession, text: bytes) -> bool:
    """Take note of an Execute; True: it is a BEGIN that is done already, and has to be answered here.

    A batch whose first command is BEGIN, as some drivers send it, is kept from its own beginning.
    """
    if client.journal is not None:
        return client.journal.has_begun(text)
    if (
        client.config.failover.verified_replay
        and client.status == TransactionStatus.IDLE
        and PLAIN_BEGIN.match(text)
        and not server.sent
        and not any(type(one) is bytes for one in server.fifo)
    ):
        parts = client.request or ()
        messages, _ = wire.split(b"".join(parts))
        kinds = bytes(kind for kind, _ in messages)
        if kinds.count(Frontend.EXECUTE) <= 1 and not any(kind in _ENDS for kind in kinds) and parts != [b""]:
            Journal(client, [wire.query(text)], parts=parts)
    return False


def begin_tag(text: bytes) -> bytes:
    """Return the tag with which a server answers a plain BEGIN or START TRANSACTION."""
    return b"BEGIN" if text.lstrip()[:1].lower() == b"b" else b"START TRANSACTION"


def digest_of() -> blake2b:
    """Return what takes a digest of one answer, as a journal does."""
    return blake2b(digest_size=_DIGEST_BYTES)


def may_be_repeated(statement: bytes) -> bool:
    """Say whether a statement has no effect, as far as its text tells, but in its transaction and its answer."""
    return bool(_MAY_BE_REPEATED.match(statement)) and not _REACHES_OUT.search(statement)


def _is_beginning(request: bytes) -> bool:
    return request[0] == Frontend.QUERY and bool(ONLY_SETS.match(request[5:-1]))
