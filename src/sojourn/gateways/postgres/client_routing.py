"""Where the requests of one client go: gathers for ``routing`` what chunks, roles and sessions say.

Only clients whose statements are looked at come here (``Busy.ROUTED``): those that a rule concerns, and those that
have used a hint or ``SET sojourn.role`` once. What a server holds already stays there: transactions, pins, sessions.
Knows no pool and no replica; those are chosen when the server is taken. Source: postgres-proxy.md section 6.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from sojourn.gateways.postgres import recovery, wire
from sojourn.gateways.postgres.classifier import Classifier
from sojourn.gateways.postgres.messages import Frontend, Refusal, TransactionStatus
from sojourn.gateways.postgres.replies import DROP, Expect, Hidden
from sojourn.gateways.postgres.routing import (
    ROLE_SETTING,
    RULES,
    LsnFloor,
    Route,
    Rule,
    choose,
    hint_of,
    parse_lsn,
    role_setting,
    rule_of,
    session_mode,
)
from sojourn.gateways.postgres.scan import EXTENDED_NAMED, EXTENDED_UNNAMED, SIMPLE, classify
from sojourn.gateways.postgres.states import HOLDS_PLACE, Busy, Holds

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.config import PostgresSettings
    from sojourn.gateways.postgres.server_session import ServerSession

_HEADER_BYTES = 5
_ENDS: Final = (Frontend.SYNC, Frontend.QUERY, Frontend.FUNCTION_CALL)
_SHORT: Final = (SIMPLE, EXTENDED_NAMED, EXTENDED_UNNAMED)
_LONGEST_ROLE_STATEMENT_BYTES: Final = 256
_ROLE: Final = re.compile(
    rb"\s*(?:set\s+(?:session\s+)?sojourn\.role\s*(?:=|\sto\s)\s*(?:'([^']*)'|(\w+))"
    rb"|(reset)\s+sojourn\.role|(show)\s+sojourn\.role)\s*;?\s*\Z",
    re.IGNORECASE,
)
_RESETS_ALL: Final = re.compile(rb"\s*reset\s+all\b", re.IGNORECASE)
_BEGINS: Final = re.compile(rb"\s*(?:begin|start)\b", re.IGNORECASE)
_WRITES: Final = re.compile(
    rb"\s*(?:insert|update|delete|merge|create|alter|drop|truncate|grant|revoke|reindex|vacuum|refresh|listen|unlisten"
    rb"|notify|copy\b[^(]*?\bfrom)\b",
    re.IGNORECASE,
)
"""What a replica refuses for sure; asking it first would cost a round trip, and COPY data may be on the way already."""
_WORDS: Final = {Route.PRIMARY: "primary", Route.REPLICA: "replica", None: "default"}
_FLOOR_SQL: Final = b"SELECT pg_catalog.pg_current_wal_insert_lsn()"


class RoutingPolicy:
    """What one set of settings says of routing; lives as long as they do.

    Args:
        settings: ``[postgres]``.
    """

    __slots__ = ("_default", "_users", "is_read_only", "reads_own_writes")

    def __init__(self, settings: PostgresSettings) -> None:
        routing = settings.routing
        self._default = rule_of("", routing.default)
        self._users = {user.name: RULES[user.route] for user in settings.users if user.route}
        self.is_read_only: Callable[[bytes], bool] | None = None
        if routing.classifier:
            self.is_read_only = Classifier(routing.allowed_functions).is_read_only
        self.reads_own_writes = routing.read_your_writes

    def rule(self, user: str) -> int:
        """Return the rule for a user."""
        return self._users.get(user, self._default)


def enter(client: ClientSession, *, is_session: bool) -> None:
    """Let routing begin for a client that logs in, where a rule or its own startup packet asks for it.

    Args:
        client: its user and vector are known; the role is taken out of the vector, for no server knows it.
        is_session: it keeps its server, so that only the choice of that one is ours.
    Raises: Refusal for a role that is none.
    """
    policy = client.gateway.routing
    wished = client.vector.get(ROLE_SETTING)
    if wished is not None:
        client.vector = client.vector.without(ROLE_SETTING)
        client.role = client.first_role = role_setting(wished if isinstance(wished, str) else wished.decode())
    rule = policy.rule(client.user)
    if client.role is not None or rule != Rule.PRIMARY:
        switch_on(client)
    if is_session:
        client.route = choose(b"", role=client.role, rule=rule)


def switch_on(client: ClientSession) -> None:
    """Look at every statement of a client from now on."""
    client.busy |= Busy.ROUTED
    policy = client.gateway.routing
    if policy.reads_own_writes and client.floor is None:
        client.floor = LsnFloor()


def take(client: ClientSession, data: bytes) -> bool:
    """Take a chunk of a client whose statements are looked at; False: it goes message by message.

    What is one plain request goes the short way from here, once its route is known.
    """
    busy = client.busy
    if busy & ~(Busy.ROUTED | Busy.TRACKED) or client.is_batch_open:
        return False
    server = client.server
    if server is not None and client.status == TransactionStatus.IDLE and not client.holds & HOLDS_PLACE:
        if client.route == Route.REPLICA and server.fifo and _route(client, data) == Route.PRIMARY:
            client.holds |= Holds.NEXT
            client.wait(data)
            return True
        if client.route == Route.PRIMARY and client.floor is not None:
            client.holds |= Holds.FLOOR
    if busy & Busy.TRACKED or client.config.failover.arms_commit_outcome or classify(data) not in _SHORT:
        return False
    if server is None:
        decide(client, data)
    client.busy &= ~Busy.ROUTED
    client.data_received(data)
    client.busy |= Busy.ROUTED
    return True


def concerns(client: ClientSession, kind: int, known: tuple[bytes, ...]) -> bool:
    """Say whether a message that needs a server has to be looked at; the first hint switches that on."""
    if client.busy & Busy.ROUTED:
        return True
    if kind == Frontend.QUERY:
        hint = hint_of(known[0])
    elif kind == Frontend.PARSE:
        hint = hint_of(known[1])
    else:
        return False
    if hint is None:
        return False
    switch_on(client)
    return True


def decide(client: ClientSession, data: bytes) -> None:
    """Set where the client's next server is to be.

    Args:
        client: it has no server.
        data: what it sends, from a message's first byte on.
    """
    client.route = Route.PRIMARY if client.is_route_forced else _route(client, data)
    client.is_route_forced = False
    if client.floor is not None and client.route == Route.PRIMARY:
        client.holds |= Holds.FLOOR


def _route(client: ClientSession, data: bytes) -> int:
    policy = client.gateway.routing
    rule = policy.rule(client.user)
    isolation = client.vector.get("default_transaction_isolation") or ""
    text = isolation if isinstance(isolation, str) else isolation.decode(errors="replace")
    session = session_mode(
        client.reported.values.get("default_transaction_read_only", ""), text.strip("' \"").lower()
    )
    if client.busy & Busy.DEFERRED and client.prefix:
        texts: Iterator[bytes] = iter((client.prefix[0][5:-1],))
    else:
        texts = _texts(client, data)
    sql = next(texts, b"")
    while True:
        route = choose(sql, role=client.role, rule=rule, session=session, is_read_only=policy.is_read_only)
        if route == Route.PRIMARY or _BEGINS.match(sql):
            return route  # what follows a BEGIN belongs to it
        if _WRITES.match(sql):
            return Route.PRIMARY
        following = next(texts, None)
        if following is None:
            return route
        sql = following


def _texts(client: ClientSession, data: bytes) -> Iterator[bytes]:
    """Yield the SQL of what a chunk asks for, as far as it has come; empty where it is not known."""
    pos, size = 0, len(data)
    parsed: dict[bytes, bytes] = {}
    while size - pos >= _HEADER_BYTES:
        kind = data[pos]
        end = pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
        body = data[pos + 5 : end]
        if kind == Frontend.QUERY:
            yield body.rstrip(b"\0")
        elif kind == Frontend.PARSE:
            name, _, rest = body.partition(b"\0")
            text = parsed[name] = rest.partition(b"\0")[0]
            yield text
        elif kind == Frontend.BIND:
            name = body.partition(b"\0")[2].partition(b"\0")[0]
            if name not in parsed:
                yield _known_text(client, name)
        elif kind == Frontend.FUNCTION_CALL:
            yield b""
        elif kind == Frontend.DESCRIBE and body[:1] == b"S" and body[1:-1] not in parsed:
            yield _known_text(client, body[1:-1])
        pos = end


def _known_text(client: ClientSession, name: bytes) -> bytes:
    """Return the SQL of a statement that was parsed before."""
    if name:
        statement = (client.prepared or {}).get(name)
        return b"" if statement is None else statement.text
    unnamed = client.unnamed
    return b"" if unnamed is None else unnamed[6 : unnamed.index(0, 6)]


# The role


def answers(client: ClientSession, text: bytes) -> bool:
    """Answer ``SET sojourn.role`` and its like, of which no server knows; False: it is not that, or not the time.

    Where answers are still under way the statement goes to the server, that takes any setting with a dot, and counts
    when its tag comes back.
    """
    if (
        len(text) > _LONGEST_ROLE_STATEMENT_BYTES
        or client.status == TransactionStatus.FAILED
        or client.is_batch_open
    ):
        return False
    found = _ROLE.match(text)
    if found is None or (client.server is not None and client.server.fifo):
        return False
    if found[4]:
        answer = (
            wire.row_description((ROLE_SETTING,))
            + wire.data_row((_WORDS[client.role],))
            + wire.command_complete(b"SHOW")
        )
    else:
        try:
            _set_role(client, found)
            answer = wire.command_complete(b"RESET" if found[3] else b"SET")
        except Refusal as refusal:
            answer = wire.error_response(refusal.sqlstate, refusal.message, hint=refusal.hint)
    client.write(answer + wire.ready_for_query(client.status))
    return True


def _set_role(client: ClientSession, found: re.Match[bytes]) -> None:
    """Carry out SET or RESET.

    Raises: Refusal for a role that is none.
    """
    if found[3]:
        role = client.first_role
    else:
        role = role_setting((found[1] if found[1] is not None else found[2]).decode(errors="replace"))
    client.role = role
    if role is not None:
        switch_on(client)


def completed(client: ClientSession, tag: bytes, text: bytes) -> bool:
    """Take the tag of SET, RESET or DISCARD ALL; True: it was about the role and about nothing else."""
    if tag == b"DISCARD ALL" or (tag == b"RESET" and _RESETS_ALL.match(text)):
        client.role = client.first_role
        return False
    found = _ROLE.match(text) if len(text) <= _LONGEST_ROLE_STATEMENT_BYTES else None
    if found is None:
        return False
    try:
        _set_role(client, found)
    except Refusal as refusal:
        client.note(refusal.message)
    return True


# After an answer


def goes_on(client: ClientSession, server: ServerSession, status: int) -> bool:
    """Do what waited for the last answer; True: it is seen to when the server goes back.

    Args:
        client: ``holds`` has Holds.NEXT or Holds.FLOOR.
        server: it owes nothing.
        status: of the last ReadyForQuery.
    """
    if client.holds & Holds.NEXT:
        client.holds &= ~Holds.NEXT
        if status == TransactionStatus.IDLE and not client.holds and not client.is_batch_open:
            client.detach(server)
        _resume(client)
        return True
    if status != TransactionStatus.IDLE or client.is_batch_open:
        return False
    client.holds &= ~Holds.FLOOR
    floor = client.floor
    if floor is None or client.route != Route.PRIMARY:
        return False

    def known(hidden: Hidden) -> None:
        if hidden.error is None and hidden.results and hidden.results[0]:
            floor.advance(parse_lsn(hidden.results[0][0][0] or b""), server.node.timeline)
        if client.server is server and not server.fifo:
            client.settle(server.status)

    server.run(_FLOOR_SQL, Hidden(known))
    return True


def _resume(client: ClientSession) -> None:
    """Go on with what was kept."""
    client.busy &= ~Busy.WAITING
    client.waits_since = 0.0
    kept, client.kept = client.kept, None
    client.resume_reading()
    for data in kept or ():
        if client.ended:
            return
        client.data_received(data)


# A write on a replica


def is_on_replica(client: ClientSession, server: ServerSession) -> bool:
    """Say whether what a client sent to its server cannot have written, because that was in recovery."""
    return client.route == Route.REPLICA and server.reported.values.get("in_hot_standby", "on") == "on"


def repeats(client: ClientSession, server: ServerSession) -> bool:
    """Take a replica's refusal to write; True: the primary is going to answer, and the client sees nothing of this.

    Only for the one request under way, outside a transaction, of which the client has seen nothing: the replica has
    done nothing either.
    """
    fifo = server.fifo
    is_alone = client.status == TransactionStatus.IDLE and not (
        client.is_batch_open or server.sent or client.partial or client.skip
    )
    if client.route != Route.REPLICA or client.holds & HOLDS_PLACE or not is_alone or client.request == [b""]:
        return False
    head = fifo[0]
    if isinstance(head, bytes):
        if len(fifo) != 1:
            return False
        request = head
    else:
        kept = client.request or ()
        request = b"".join(kept)
        ends = sum(isinstance(one, bytes) or (type(one) is Expect and one.kind in _ENDS) for one in fifo)
        if ends != 1 or any(isinstance(one, Hidden) for one in fifo):
            return False
        for one in fifo:
            if (
                type(one) is Expect
                and one.kind == Frontend.CLOSE
                and one.action == DROP
                and one.statement is not None
            ):
                server.prepared.setdefault(one.name, one.statement)  # the server did not come to it
        for name in _parsed_names(request):
            client.forget_statement(name)  # the primary is asked for it again
    client.gateway.count_loss("misrouted")
    fifo.clear()
    server.naming.clear()
    fifo.append(Hidden(lambda _: _elsewhere(client, server, request)))
    return True


def _elsewhere(client: ClientSession, server: ServerSession, request: bytes) -> None:
    """Send to the primary what a replica refused."""
    if client.server is not server:
        return
    recovery.forget_request(client)
    client.is_route_forced = True
    client.detach(server)
    client.data_received(request)


def _parsed_names(request: bytes) -> list[bytes]:
    """Return the names that the Parse messages of a whole request give."""
    messages, _ = wire.split(request)
    return [body[: body.index(0)] for kind, body in messages if kind == Frontend.PARSE and body[0]]
