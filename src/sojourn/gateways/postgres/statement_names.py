"""What the names of a client's prepared statements mean on the server that it has at the moment.

Every server gets the Parse that it lacks before a name is used there, and a client never sees under its name what
somebody else prepared. Names are settled when a message passes, that is before what was sent earlier is answered:
``ServerSession.naming`` tells what is under way. Source: postgres-proxy.md section 6.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.gateways.postgres import session_statements, wire
from sojourn.gateways.postgres.messages import SQLSTATE, Frontend
from sojourn.gateways.postgres.replies import DROP, REFUSED, SYNTHETIC, Expect
from sojourn.gateways.postgres.statements import (
    CLOSE_UNNAMED,
    LongParse,
    about_statement,
    names_in,
    rename_bind,
)
from sojourn.gateways.postgres.states import Holds

if TYPE_CHECKING:
    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.passage import Passage
    from sojourn.gateways.postgres.server_session import ServerSession
    from sojourn.gateways.postgres.statements import Statement

_FAILING = wire.describe_portal(b"sojourn: refused")
"""Fails wherever it is sent: no client has a portal of that name."""


# The messages that name a statement


def parse_unnamed(passage: Passage, end: int, sql_name: bytes) -> None:
    """Pass a Parse of the unnamed statement on.

    Args:
        passage: at the Parse.
        end: where the Parse ends.
        sql_name: what its text names, if that is PREPARE, EXECUTE or DEALLOCATE.
    """
    client, server = passage.client, passage.server
    if sql_name:
        _own(passage, sql_name, _meaning(client, server, sql_name))
    server.expect(Expect(Frontend.PARSE, text=client.unnamed or b""))
    parsed = passage.data[passage.pos : end]
    if end > len(passage.data):
        parsed = LongParse.of(parsed)
        client.has_long_unnamed = True
        client.show_pins()  # no other server will ever have it
    client.unnamed = server.unnamed = parsed


def parse(passage: Passage, end: int, name: bytes, body: bytes) -> None:
    """Prepare a named statement, on the server only where it is not there yet.

    Args:
        passage: at the Parse.
        end: where the Parse ends.
        name: the client's name.
        body: what follows the name, as far as it has come.
    """
    client, server = passage.client, passage.server
    known = _meaning(client, server, name)
    if known is not None:
        # PostgreSQL's own answer; it needs the name to be there.
        _own(passage, name, known)
        server.expect(Expect(Frontend.PARSE, name=name, text=name, statement=known))
        return
    limit = client.config.pool.max_prepared_statements_per_client_count
    if len(client.prepared or ()) + server.naming.parsed_count >= limit:
        refusal = wire.error_response(
            SQLSTATE.CONFIGURATION_LIMIT,
            f"a client may have {limit} prepared statements",
            hint="Close those that are not needed.",
        )
        passage.replace(end, _FAILING)
        server.expect(Expect(Frontend.PARSE, REFUSED, data=refusal, name=name))
        return
    if end > len(passage.data):
        _forbid(passage, name)
        client.has_long_statement = True
        client.show_pins()
        server.expect(Expect(Frontend.PARSE, name=name))
        return
    statement = client.gateway.statements.intern(body, names_in(client.holding.current_vector))
    answered = Expect(Frontend.PARSE, SYNTHETIC, data=wire.parse_complete(), name=name, statement=statement)
    if server.prepared.get(name) is statement:
        passage.answer(end, answered)
        return
    _make_room(passage)
    if server.will_have(name) is None:
        server.expect(Expect(Frontend.PARSE, name=name, text=name, statement=statement))
    elif server.will_have(statement.alias) is statement:
        passage.answer(end, answered)
    else:
        passage.replace(end, statement.parse(statement.alias))
        server.expect(Expect(Frontend.PARSE, name=name, text=statement.alias, statement=statement))


def bind(passage: Passage, portal: bytes, name: bytes) -> None:
    """Bind the statement that the client means."""
    client, server = passage.client, passage.server
    statement = None
    if name:
        statement = _meaning(client, server, name)
        if statement is None:
            _forbid(passage, name)
        else:
            _rename_in_bind(passage, portal, name, _name_at_server(passage, name, statement))
    else:
        use_unnamed(passage)
    if client.portals is None:
        client.portals = {}
    if statement is not None:
        client.portals[portal] = statement
    else:
        client.portals.pop(portal, None)
    server.fifo.append(Expect(Frontend.BIND, statement=statement))


def _rename_in_bind(passage: Passage, portal: bytes, name: bytes, chosen: bytes) -> None:
    if chosen == name:
        return
    pos = passage.pos
    portal_end = pos + 5 + len(portal)
    name_end = portal_end + 1 + len(name)
    head = rename_bind(passage.data[pos : name_end + 1], portal_end - pos, name_end - pos, chosen)
    passage.replace(name_end + 1, head)


def describe(passage: Passage, end: int, target: bytes) -> None:
    """Describe what the client means; ``target`` is S or P and the name."""
    client, server = passage.client, passage.server
    statement, name = None, target[1:]
    if target[:1] == b"S" and not name:
        use_unnamed(passage)
    elif target[:1] == b"S":
        statement = _meaning(client, server, name)
        if statement is None:
            _forbid(passage, name)
        else:
            chosen = _name_at_server(passage, name, statement)
            if chosen != name:
                passage.replace(end, about_statement(Frontend.DESCRIBE, chosen))
    server.fifo.append(Expect(Frontend.DESCRIBE, name=target[:1], statement=statement))


def close(passage: Passage, end: int, target: bytes) -> None:
    """Close a statement for this client only: the server keeps it for others. A portal is closed there."""
    client, server = passage.client, passage.server
    name = target[1:]
    if target[:1] == b"S" and name:
        statement = _meaning(client, server, name)
        if client.holds & Holds.SESSION and statement is not None and server.prepared.get(name) is statement:
            del server.prepared[name]
            server.expect(Expect(Frontend.CLOSE, name=name, statement=statement))
        else:
            passage.answer(end, Expect(Frontend.CLOSE, SYNTHETIC, data=wire.close_complete(), name=name))
        return
    if target[:1] == b"S":
        client.unnamed = server.unnamed = None
    server.fifo.append(Expect(Frontend.CLOSE))


def in_sql(passage: Passage, text: bytes) -> None:
    """PREPARE, EXECUTE, DEALLOCATE: let the name mean on this server what it means to the client."""
    client, server = passage.client, passage.server
    name = name_in_sql(text)
    if not name:
        return
    statement = (client.prepared or {}).get(name)
    if server.prepared.get(name) is statement:
        return
    _own(passage, name, statement)
    if not client.is_batch_open:  # else the Query would be skipped with what fails before it
        passage.insert(wire.sync(), Expect(Frontend.SYNC, DROP))


def use_unnamed(passage: Passage) -> None:
    """Let the unnamed statement on this server be this client's."""
    client, server = passage.client, passage.server
    if client.unnamed is not None and server.unnamed is client.unnamed:
        return
    if client.unnamed is not None and type(client.unnamed) is not LongParse:
        parsed = client.unnamed
        passage.insert(parsed[: 1 + int.from_bytes(parsed[1:5], "big")], Expect(Frontend.PARSE, DROP))
        server.unnamed = client.unnamed
    elif not client.holds & Holds.SESSION and server.naming.unnamed is None:
        passage.insert(CLOSE_UNNAMED, Expect(Frontend.CLOSE, DROP))
        server.unnamed = None


def name_in_sql(text: bytes) -> bytes:
    """Return the name in PREPARE, EXECUTE or DEALLOCATE; empty for all."""
    return (
        session_statements.executed_name(text)
        or session_statements.prepared_name(text)
        or session_statements.deallocated_name(text)
        or b""
    )


def forget(client: ClientSession, tag: bytes, text: bytes) -> None:
    """Take note of DEALLOCATE or DISCARD ALL, which close protocol-level statements too."""
    server = client.server
    if tag == b"DEALLOCATE":
        name = name_in_sql(text)
        client.forget_statement(name)
        if server is not None:
            server.prepared.pop(name, None)
        return
    client.prepared = None
    if server is not None:
        server.prepared.clear()
        server.unnamed = None


# What a name means, and how it comes to mean that


def _meaning(client: ClientSession, server: ServerSession, name: bytes) -> Statement | None:
    """Return what a name means to the client, also while its Parse is under way."""
    one = server.naming.of_client(name)
    if one is not None:
        return one.statement if one.kind == Frontend.PARSE else None
    return (client.prepared or {}).get(name)


def _own(passage: Passage, name: bytes, statement: Statement | None) -> None:
    """Let ``name`` on this server be exactly what it is to the client: ``statement``, or nothing."""
    server = passage.server
    there = server.will_have(name)
    if there is statement:
        return
    if there is not None:
        server.prepared.pop(name, None)
        passage.insert(
            about_statement(Frontend.CLOSE, name),
            Expect(Frontend.CLOSE, DROP, name=name, statement=there),
        )
    if statement is not None:
        passage.insert(
            statement.parse(name), Expect(Frontend.PARSE, DROP, name=name, text=name, statement=statement)
        )


def _forbid(passage: Passage, name: bytes) -> None:
    """Let PostgreSQL say that the client has no such name: nobody else's may be there under it."""
    if not passage.client.holds & Holds.SESSION:
        _own(passage, name, None)


def _name_at_server(passage: Passage, name: bytes, statement: Statement) -> bytes:
    """Return the name by which the server knows a statement; it is parsed there if need be."""
    server = passage.server
    prepared = server.prepared
    if prepared.get(name) is statement:
        chosen = name
    elif prepared.get(statement.alias) is statement:
        chosen = statement.alias
    else:
        under_way = server.naming.parse_of(statement)
        if under_way is not None:
            return under_way.text
        _make_room(passage)
        chosen = name if server.will_have(name) is None else statement.alias
        passage.insert(
            statement.parse(chosen),
            Expect(Frontend.PARSE, DROP, name=name, text=chosen, statement=statement),
        )
        return chosen
    if len(prepared) * 2 > passage.client.config.pool.max_prepared_statements_count:
        prepared[chosen] = prepared.pop(chosen)  # the least recently used comes first
    return chosen


def _make_room(passage: Passage) -> None:
    """Close the statement that was used least recently, where the server has as many as it may."""
    server = passage.server
    limit = passage.client.config.pool.max_prepared_statements_count
    while limit and len(server.prepared) >= limit:
        name = next(iter(server.prepared))
        statement = server.prepared.pop(name)
        passage.insert(
            about_statement(Frontend.CLOSE, name),
            Expect(Frontend.CLOSE, DROP, name=name, statement=statement),
        )
