"""What Patroni says of a cluster: an optional second opinion over its REST interface.

It names the leader a moment before that server has finished its promotion, and knows nothing of what clients see; so
its word makes the monitor ask the servers, and never makes a primary. Knows nothing of incidents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import aiohttp
import msgspec

from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, LimitExceeded, SojournError, WireError
from sojourn.gateways.postgres.nodes import Node

ANSWER_LIMIT_BYTES: Final = 1024 * 1024
LEADER_ROLES: Final = frozenset({"leader", "master", "primary"})
RUNNING: Final = "running"


class Member(msgspec.Struct, frozen=True, gc=False):
    """One server as Patroni describes it; it leaves out what it does not know.

    Source: Patroni's documentation, "REST API", GET /cluster.
    """

    name: str
    role: str = ""
    state: str = ""
    host: str = ""
    port: int = 0

    @property
    def address(self) -> str:
        """The server's address as the settings write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_leader(self) -> bool:
        """It holds the leader lock and runs; whether it has finished its promotion only itself can say."""
        return self.role in LEADER_ROLES and self.state == RUNNING


class _Answer(msgspec.Struct, frozen=True, gc=False):
    members: tuple[Member, ...] = ()


_DECODER = msgspec.json.Decoder(_Answer)


def read_cluster(body: bytes) -> tuple[Member, ...]:
    """Read the answer to GET /cluster.

    Raises: WireError if it is none.
    """
    try:
        return _DECODER.decode(body).members
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise WireError(
            "another answer", "JSON with the members of a cluster", "Patroni GET /cluster"
        ) from None


class Patroni:
    """The REST interfaces of one cluster, any of which can speak for all.

    Life: made with the monitor; holds no connection between two questions. Always true: the one that answered last is
    asked first.

    Args:
        urls: such as ``http://10.0.0.1:8008``, one per node.
        timeout_s: how long one of them may take.
    """

    def __init__(self, urls: Sequence[str], *, timeout_s: float, clock: Clock = monotonic) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock

    async def members(self) -> tuple[Member, ...]:
        """Ask for the cluster's members.

        Raises: BackendUnavailable if none of the interfaces answers.
        """
        began = self._clock()
        failures = []
        async with aiohttp.ClientSession(timeout=self._timeout) as http:
            for url in tuple(self._urls):
                try:
                    members = read_cluster(await _get(http, f"{url}/cluster"))
                except (aiohttp.ClientError, OSError, SojournError) as error:
                    failures.append(f"{url}: {type(error).__name__}")
                else:
                    self._urls.remove(url)
                    self._urls.insert(0, url)
                    return members
        raise BackendUnavailable("Patroni", self._clock() - began, ", ".join(failures))

    async def leader(self, nodes: Iterable[Node]) -> Node | None:
        """Ask which node holds the leader lock; None if nobody does, or nobody answers."""
        try:
            members = await self.members()
        except BackendUnavailable:
            return None
        return next((node for node, member in match(members, nodes).items() if member.is_leader), None)


def match(members: Iterable[Member], nodes: Iterable[Node]) -> dict[Node, Member]:
    """Find the node that each member is: by address, or else by name."""
    members = tuple(members)
    by_address = {member.address: member for member in members}
    by_name = {member.name: member for member in members}
    found = {node: by_address.get(node.address) or by_name.get(node.name) for node in nodes}
    return {node: member for node, member in found.items() if member is not None}


async def _get(http: aiohttp.ClientSession, url: str) -> bytes:
    """Fetch a small document.

    Raises: LimitExceeded for one that is not small, BackendUnavailable for any status but 200.
    """
    async with http.get(url, allow_redirects=False) as response:
        if response.status != 200:  # noqa: PLR2004  HTTP's OK
            raise BackendUnavailable("Patroni", 0.0, f"status {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > ANSWER_LIMIT_BYTES:
                raise LimitExceeded("Patroni's answer in bytes", len(body), ANSWER_LIMIT_BYTES)
        return bytes(body)
