"""Place: the servers of one pool at one node, those that nobody uses by their settings, and who waits there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sojourn.errors import SojournError
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.nodes import Node
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.vector import Vector


class Place:
    """The servers of one pool at one node.

    Life: made when the pool first needs the node, kept with the pool. Always true: a server is in ``servers`` from
    its login to its loss; in ``idle`` exactly while nobody uses it.
    """

    __slots__ = (
        "connecting",
        "failing_since",
        "failures",
        "idle",
        "last_error",
        "node",
        "retry_at",
        "servers",
        "waiting",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.servers: set[ServerSession] = set()
        self.idle: dict[Vector, list[ServerSession]] = {}
        self.waiting: deque[ClientSession] = deque()
        self.connecting = 0
        self.failures = 0
        self.failing_since = 0.0
        self.retry_at = 0.0
        self.last_error: SojournError | None = None

    @property
    def idle_count(self) -> int:
        """Return how many servers nobody uses."""
        return sum(map(len, self.idle.values()))

    def any_idle(self) -> ServerSession | None:
        """Take a free server, whatever its settings."""
        for vector, servers in self.idle.items():
            if servers:
                server = servers.pop()
                if not servers:
                    del self.idle[vector]
                return server
        return None

    def drop_idle(self, server: ServerSession) -> bool:
        """Take one server out of the free ones."""
        servers = self.idle.get(server.vector)
        if servers is None or server not in servers:
            return False
        servers.remove(server)
        if not servers:
            del self.idle[server.vector]
        return True
