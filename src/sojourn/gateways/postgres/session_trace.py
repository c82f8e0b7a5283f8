"""What the trace of a client's session tells of its servers: which one did what, how it ended, and who came next.

Servers are called by their node; the PID is in the words, since a node's connections come and go. Nothing here runs for
a statement that is neither slow, failed nor sampled.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.core.recorder import Direction, Leg
from sojourn.gateways.postgres.messages import Backend

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.server_session import ServerSession

_READY_BYTES: Final = 6
_TAG_HEAD_BYTES: Final = 5


def statement_ended(  # noqa: PLR0917 - the parts of one line, in their order
    client: ClientSession,
    server: ServerSession | None,
    text: str,
    took_s: float,
    sqlstate: str,
    answer: bytes,
) -> None:
    """Write a statement into the trace, and its end, as they went: from the client to a server and back.

    Args:
        client: whose statement it was.
        server: that carried it out, if it was one.
        text: the statement as it may be shown.
        took_s: until its end; 0 for an error, which has the time since its request began.
        sqlstate: of its error; empty = none.
        answer: the last bytes of the server's answer, or none.
    """
    trace, connection = client.trace, client.connection
    if trace is None:
        return
    now = connection.clock()
    if server is not None and sqlstate:
        took_s = max(monotonic() - server.began, 0.0)
    # What was noted since then is before it: a trace is in the order of its entries.
    began = max(now - took_s, trace[-1][0]) if trace else now - took_s
    trace.append((began, Direction.IN, 0, text))
    took = f"{took_s * 1000:.1f} ms"
    if server is None:
        kind, words = (Direction.ERROR, f"error {sqlstate}") if sqlstate else (Direction.STATE, took)
        trace.append((now, kind, 0, words))
    else:
        party = server.node.name
        trace.append((began, Direction.OUT, 0, Leg(party, "statement", f"pid {server.pid}")))
        if sqlstate:
            trace.append((now, Direction.ERROR, 0, Leg(party, f"error {sqlstate}", took)))
        else:
            trace.append((now, Direction.IN, 0, Leg(party, tag_of(answer) or "done", took)))
        trace.append((now, Direction.OUT, 0, f"error {sqlstate}" if sqlstate else "answer"))
    if len(trace) > connection.trace_limit:
        del trace[: len(trace) // 2]


def tag_of(answer: bytes) -> str:
    """Return the last command's tag, such as ``SELECT 12``, of an answer up to its ReadyForQuery; empty = none."""
    end = len(answer) - _READY_BYTES
    start = answer.rfind(b"%c\0\0" % Backend.COMMAND_COMPLETE, 0, max(end, 0))
    if start < 0 or start + 1 + int.from_bytes(answer[start + 1 : start + _TAG_HEAD_BYTES], "big") != end:
        return ""
    return answer[start + _TAG_HEAD_BYTES : end - 1].decode("ascii", "replace")


def lent(client: ClientSession, server: ServerSession, waited_s: float) -> None:
    """Write that a client goes on at a server: after a loss, or after a wait that is as long as a slow statement."""
    slow_ms = client.gateway.settings.query_log.slow_ms
    if client.is_moving:
        client.is_moving = False
        client.note_sent(
            server.node.name, "goes on here", f"pid {server.pid}, after {waited_s * 1000:.0f} ms"
        )
    elif client.login_waiter is not None:
        client.note_sent(server.node.name, "first server", f"pid {server.pid}")
    elif slow_ms and waited_s * 1000 >= slow_ms:
        client.note_sent(server.node.name, "lent", f"pid {server.pid}, after {waited_s * 1000:.0f} ms")
