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
