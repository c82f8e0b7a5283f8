"""Cancel: whose keys are whose, and how a cancel request finds its statement and no other.

The key that a client gets is ours. Its first byte names the worker that gave it, so that any worker of a shared port
can pass a request on. A server to which a request is under way is given to nobody until that has ended.
Source: postgres-proxy.md section 6.6; PostgreSQL, "Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import TYPE_CHECKING

from sojourn.gateways.postgres import dial, lost_transaction, recovery, verified_replay, wire
from sojourn.gateways.postgres.config import split_address
from sojourn.gateways.postgres.messages import SQLSTATE, Refusal
from sojourn.gateways.postgres.states import Busy

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

_KEY_BYTES = {0: 4, 2: 32}
"""Length of a key by minor protocol version; longer keys came with 3.2."""
_CANCELED = Refusal(SQLSTATE.QUERY_CANCELED, "canceling statement due to user request", severity="ERROR")
_FIRST_PID = 1 << 24
"""Below it are the operating system's own (pid_max is at most 2**22), so that ours are never taken for them."""


_LAST_PID = 0x7FFF_FFFF
"""A PID is a positive 32-bit number on the wire."""


class CancelKeys:
    """The clients that may be cancelled, by PID and key.

    Life: one per worker. Always true: a client is in it from its login to its end.
    """

    def __init__(self, worker_index: int = 0) -> None:
        self._worker_index = worker_index
        self._clients: dict[int, list[ClientSession]] = {}
        self._next = _FIRST_PID + worker_index

    def give(self, client: ClientSession, *, minor: int, pid: int = 0) -> None:
        """Give a client its PID and key; ``pid`` is the server's own in session mode."""
        size = _KEY_BYTES.get(minor, 4)
        client.secret = bytes((self._worker_index,)) + secrets.token_bytes(size - 1)
        if not pid:
            self._next = self._next + 1 if self._next < _LAST_PID else _FIRST_PID
            pid = self._next
        client.pid = pid
        self._clients.setdefault(pid, []).append(client)

    def take(self, client: ClientSession) -> None:
        """Forget a client."""
        same = self._clients.get(client.pid)
        if same is not None and client in same:
            same.remove(client)
            if not same:
                del self._clients[client.pid]

    def find(self, pid: int, key: bytes) -> ClientSession | None:
        """Return whose PID and key these are; the time it takes tells nothing of the key."""
        for client in self._clients.get(pid, ()):
            if hmac.compare_digest(client.secret, key):
                return client
        return None

    def worker_of(self, key: bytes) -> int:
        """Return the worker that gave a key."""
        return key[0] if key else 0


async def cancel(client: ClientSession, *, timeout_s: float) -> None:
    """Cancel what a client is waiting for: on its server, or in the queue for one.

    A client that waits for nothing is left alone. Failures are silent, as the protocol has no answer.
    """
    replay = verified_replay.of(client)
    if replay is not None:
        replay.cancel(_CANCELED)
        return
    if client.busy & Busy.WAITING and client.server is None:
        if not client.kept or not client.pool.forget_waiting(client):
            return  # it waits for something that cannot be cancelled: its state on a new server, a COMMIT's fate
        client.pool.reject(client, _CANCELED)
        recovery.rebuild(client)
        return
    if client.busy & Busy.WAITING:
        # What runs on its server is ours and prepares it for what the client asked for.
        kept, client.kept = client.kept, []
        if kept:
            lost_transaction.reject(client, _CANCELED, b"".join(kept))
        return
    server = client.server
    if server is None or not server.fifo or server.cancels:
        return
    server.cancels += 1
    try:
        async with asyncio.timeout(timeout_s):
            await _send(server)
    except dial.FAILURES:
        return
    finally:
        server.cancels -= 1
        server.pool.cancel_done(server)


async def abandon(server: ServerSession, *, timeout_s: float) -> None:
    """Cancel what a server does for nobody any more; its connection may be closed meanwhile."""
    try:
        async with asyncio.timeout(timeout_s):
            await _send(server)
    except dial.FAILURES:
        return


async def _send(server: ServerSession) -> None:
    """Send the server's own key on a connection of its own, and wait until the server closes it."""
    room = server.pool.room
    talk = await dial.connect(
        split_address(server.node.address),
        tls=room.tls,
        is_tls_required=room.is_tls_required,
        timeout_s=server.pool.gateway.settings.timeouts.cancel_wait_timeout_s,
    )
    try:
        talk.send(wire.cancel_request(server.pid, server.key))
        await talk.receive_byte()
    finally:
        talk.abort()
