"""What a server still owes: the queue of replies that are under way, and what becomes of each.

An entry is one of three, in the order in which the server will answer:

* ``bytes``: a chunk of a client that is one whole request with one ReadyForQuery; everything up to that goes to the
  client as it is. The usual case, and the reason why it has no object of its own: the chunk is kept anyway, for the
  tag of SET and its like, for a repeat after a failover and for the query log.
* ``Expect``: one message of a request that is followed message by message, because something in it was inserted,
  rewritten or left out, or because it came in parts.
* ``Hidden``: a query of our own, of which the client sees nothing.

Knows no sockets and no clock. Source: postgres-proxy.md section 6.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sojourn.gateways.postgres.messages import Frontend

if TYPE_CHECKING:
    from sojourn.gateways.postgres.statements import Statement

FORWARD = 0
DROP = 1
SYNTHETIC = 2
"""The server never saw the message: its answer is ready and is sent when its turn comes."""
REFUSED = 3
"""The server was sent what must fail instead, so that it skips to Sync; the client is told ``data`` for its error."""


class Expect:
    """The answer to one message.

    Always true: ``data`` is set exactly for SYNTHETIC and REFUSED; ``kind`` is the frontend message's type; ``text`` of
    an unnamed Parse is the Parse that was the client's unnamed statement before.
    """

    __slots__ = ("action", "data", "index", "kind", "name", "statement", "text")

    def __init__(
        self,
        kind: int,
        action: int = FORWARD,
        *,
        data: bytes = b"",
        name: bytes = b"",
        statement: Statement | None = None,
        text: bytes = b"",
    ) -> None:
        self.kind = kind
        self.action = action
        self.data = data
        self.name = name
        self.statement = statement
        self.text = text
        self.index = 0


class Naming:
    """Those entries of a server's queue that parse or close a statement.

    Life: as its server. Always true: an entry is found from when it is put into the queue until it is taken out, by
    name in a time that does not grow with the queue; of several about one name the latest is found.
    """

    __slots__ = ("_at_server", "_of_client", "_parses", "parsed_count", "unnamed")

    def __init__(self) -> None:
        self._of_client: dict[bytes, Expect] = {}
        self._at_server: dict[bytes, Expect] = {}
        self._parses: dict[Statement, Expect] = {}
        self.parsed_count = 0
        """Names that a client will have when all of it is answered."""
        self.unnamed: Expect | None = None
        """The latest that parses the unnamed statement, or closes it by our order."""

    def add(self, one: Expect) -> None:
        """Take an entry that was put into the queue."""
        is_parse = one.kind == Frontend.PARSE
        if not one.name:
            if is_parse or one.action == DROP:
                self.unnamed = one
            return
        if one.action != DROP:
            before = self._of_client.get(one.name)
            self._of_client[one.name] = one
            self.parsed_count += is_parse - (before is not None and before.kind == Frontend.PARSE)
        if one.action != SYNTHETIC:
            if not is_parse:
                self._at_server[one.name] = one
            elif one.statement is not None:
                self._at_server[one.text] = self._parses[one.statement] = one

    def remove(self, one: Expect) -> None:
        """Take note that an entry was taken out of the queue."""
        if self.unnamed is one:
            self.unnamed = None
        if self._of_client.get(one.name) is one:
            del self._of_client[one.name]
            self.parsed_count -= one.kind == Frontend.PARSE
        key = one.text if one.kind == Frontend.PARSE else one.name
        if self._at_server.get(key) is one:
            del self._at_server[key]
        if one.statement is not None and self._parses.get(one.statement) is one:
            del self._parses[one.statement]

    def clear(self) -> None:
        """Forget all: the queue is empty."""
        self.unnamed = None
        if self._of_client or self._at_server:
            self._of_client.clear()
            self._at_server.clear()
            self._parses.clear()
            self.parsed_count = 0

    def of_client(self, name: bytes) -> Expect | None:
        """Return the latest that the client sent about a name of its own."""
        return self._of_client.get(name)

    def at_server(self, name: bytes) -> Expect | None:
        """Return the latest that the server was sent about a name there."""
        return self._at_server.get(name)

    def parse_of(self, statement: Statement) -> Expect | None:
        """Return the latest Parse of a statement that the server was sent."""
        return self._parses.get(statement)


class Hidden:
    """One query of our own: its rows, its error, and who is told.

    Life: put into the queue with the bytes that it answers; ended by its ReadyForQuery, or by the loss of the server.
    Shape: ``results`` has one list of rows per statement, a row one list of values in text format.
    """

    __slots__ = ("error", "results", "rows", "then")

    def __init__(self, then: Callable[[Hidden], None] | None = None) -> None:
        self.then = then
        self.rows: list[list[bytes | None]] = []
        self.results: list[list[list[bytes | None]]] = []
        self.error: dict[str, str] | None = None

    def end(self) -> None:
        """Tell who asked; once."""
        then, self.then = self.then, None
        if then is not None:
            then(self)


Entry = bytes | Expect | Hidden
