"""Conversations of clients with a relay, as turns: what a client says before it waits for what it is owed.

Made for the two laws: cutting changes nothing, and neither does damage elsewhere. Statements are those of
``scripted_server``.
"""

from __future__ import annotations

from sojourn.gateways.postgres import wire

_PARSE, _SYNC, _FLUSH = wire.parse, wire.sync(), wire.flush()


def unnamed(text: str, *values: bytes | None, describes: bytes = b"") -> bytes:
    """Return Parse, Bind, perhaps Describe, Execute, Sync."""
    return (
        wire.parse(b"", text.encode()) + wire.bind(b"", b"", values) + describes + wire.execute(b"") + _SYNC
    )


def bound(name: bytes, *values: bytes | None, describes: bytes = b"") -> bytes:
    """Return Bind, perhaps Describe, Execute, Sync of a named statement."""
    return wire.bind(b"", name, values) + describes + wire.execute(b"") + _SYNC


_PORTAL = wire.describe_portal(b"")
_LINES = wire.copy_data(b"1\n") + wire.copy_data(b"2\n")

CONVERSATIONS: dict[str, tuple[bytes, ...]] = {
    "simple": (wire.query("select 1"), wire.query(""), wire.query("rows 3")),
    "several statements": (wire.query("select 1; rows 2; notice x; select 2"), wire.query("select 3;")),
    "an error among several": (wire.query("select 1; fail; select 2"), wire.query("select 3")),
    "transaction": tuple(map(wire.query, ("begin", "select 1", "fail", "select 2", "rollback", "select 3"))),
    "extended, unnamed": (unnamed("select a", b"v", None, describes=_PORTAL), unnamed("rows 3")),
    "unnamed again without Parse": (
        wire.parse(b"", b"select a") + wire.describe_statement(b"") + _SYNC,
        bound(b"", b"1"),
        bound(b"", b"2", describes=_PORTAL),
        wire.query("select 1"),
        bound(b"", b"3"),
    ),
    "prepared": (
        wire.parse(b"s1", b"select a") + wire.describe_statement(b"s1") + _SYNC,
        bound(b"s1", b"1"),
        bound(b"s1", b"2", describes=_PORTAL),
        wire.describe_statement(b"s1") + _SYNC,
        wire.close_statement(b"s1") + _SYNC,
        bound(b"s1", b"3"),
    ),
    "prepared twice": (
        wire.parse(b"s1", b"select a") + _SYNC,
        wire.parse(b"s1", b"select b") + bound(b"s1", b"1"),
        wire.close_statement(b"s1") + wire.parse(b"s1", b"select b") + bound(b"s1", b"1"),
        bound(b"s1", b"2"),
    ),
    "prepared, one batch": (wire.parse(b"s1", b"select a") + bound(b"s1", b"1"), bound(b"s1", b"2")),
    "closed what is not there": (
        wire.close_statement(b"nobody") + wire.close_portal(b"nothing") + _SYNC,
        wire.describe_statement(b"nobody") + _SYNC,
        wire.describe_portal(b"nothing") + _SYNC,
    ),
    "deallocate": (
        wire.parse(b"s1", b"select a") + _SYNC,
        bound(b"s1", b"1"),
        wire.query("deallocate s1"),
        bound(b"s1", b"2"),
        wire.query("deallocate s1"),
        wire.query("select 1"),
    ),
    "pipeline of requests": (
        unnamed("select a") + unnamed("rows 2") + wire.query("select 1") + unnamed("select b"),
    ),
    "pipeline with errors": (
        unnamed("select a")
        + unnamed("fail parse")
        + unnamed("select b")
        + wire.query("fail")
        + unnamed("select c"),
        unnamed("fail bind") + unnamed("fail") + wire.query("select 1"),
    ),
    "one batch of many": (
        b"".join(
            wire.parse(b"", b"select %d" % number) + wire.bind(b"", b"") + wire.execute(b"")
            for number in range(3)
        )
        + _SYNC,
    ),
    "error in the midst of a batch": (
        wire.parse(b"s1", b"select a")
        + wire.bind(b"", b"s1")
        + wire.execute(b"")
        + wire.parse(b"", b"fail parse")
        + wire.bind(b"", b"")
        + wire.execute(b"")
        + wire.parse(b"s2", b"select b")
        + bound(b"s2"),
        bound(b"s1"),
        bound(b"s2"),
        bound(b""),
        wire.query("select 1"),
    ),
    "error, then a statement that is known": (
        wire.parse(b"s1", b"select a") + _SYNC,
        wire.parse(b"", b"fail parse") + wire.close_statement(b"s1") + wire.parse(b"s1", b"select a") + _SYNC,
        bound(b"s1"),
    ),
    "flush": (
        wire.parse(b"s1", b"select a") + wire.describe_statement(b"s1") + _FLUSH,
        wire.bind(b"", b"s1", [b"1"]) + _FLUSH,
        wire.execute(b"") + _FLUSH,
        _SYNC,
        _FLUSH,
        wire.query("select 1"),
    ),
    "flush, then errors": (
        wire.parse(b"", b"select a") + _FLUSH,
        wire.bind(b"", b"nobody") + _FLUSH,
        wire.parse(b"s1", b"select b") + wire.bind(b"", b"s1") + wire.execute(b"") + _FLUSH,
        _SYNC,
        wire.query("select 1"),
    ),
    "portals": (
        wire.query("begin"),
        wire.parse(b"", b"rows 5") + wire.bind(b"p", b"") + wire.execute(b"p", 2) + _SYNC,
        wire.execute(b"p", 2) + _SYNC,
        wire.execute(b"p", 2) + wire.close_portal(b"p") + _SYNC,
        wire.execute(b"p", 2) + _SYNC,
        wire.query("commit"),
    ),
    "copy in": (wire.query("copy in"), _LINES, wire.copy_done(), wire.query("select 1")),
    "copy in at one go": (
        wire.query("copy in"),
        _LINES + wire.copy_done(),
        wire.query("copy in"),
        wire.copy_fail("no"),
    ),
    "copy in that fails": (
        wire.query("copy in"),
        wire.copy_data(b"bad") + _LINES + wire.copy_done(),
        wire.query("select 1"),
    ),
    "copy in, extended": (
        wire.parse(b"", b"copy in") + wire.bind(b"", b"") + wire.execute(b"") + _FLUSH,
        _LINES + wire.copy_done() + _SYNC,
        unnamed("copy in"),
        _LINES + wire.copy_done() + _SYNC,
        unnamed("select 1"),
    ),
    "copy in, extended, that fails": (
        unnamed("copy in"),
        wire.copy_data(b"bad") + _LINES + wire.copy_done() + _SYNC,
        unnamed("select 1"),
    ),
    "copy in the midst of several": (
        wire.query("select 1; copy in; select 2"),
        _LINES + wire.copy_done(),
        wire.query("select 3"),
    ),
    "copy out": (wire.query("copy out"), unnamed("copy out"), wire.query("select 1; copy out; select 2")),
    "stray copy data": (
        _LINES + wire.copy_done() + wire.query("select 1"),
        wire.copy_fail("x") + wire.query("select 2"),
    ),
    "late errors": (
        wire.query("late 3"),
        unnamed("late 2"),
        wire.query("begin; late 2"),
        wire.query("rollback"),
    ),
    "notices and notifications": (
        wire.query("notice x"),
        wire.query("notify y"),
        unnamed("notify z"),
        wire.query("select 1"),
    ),
    "settings": (
        wire.query("set application_name to 'one'"),
        wire.query("select 1"),
        wire.query("begin; set application_name to 'two'; set work_mem to '1MB'"),
        wire.query("rollback"),
        unnamed("set search_path to 'a'"),
        wire.query("select 2"),
        wire.query("begin; set local work_mem to '2MB'; select 3; commit; select 4"),
    ),
}
"""By name; together they end in every state from which something can go on."""

LARGE: dict[str, tuple[bytes, ...]] = {
    "large values": (
        wire.parse(b"s1", b"select a") + _SYNC,
        bound(b"s1", b"v" * 100_000),
        unnamed("select b", b"w" * 1_300_000),
        wire.query("select 1"),
    ),
    "large rows": (
        wire.query("rows 3 70000"),
        unnamed("rows 2 1200000"),
        wire.query("rows 1 1100000; select 1"),
    ),
    "large statements": (
        wire.query("select " + "x" * 90_000),
        wire.parse(b"s1", b"select " + b"y" * 80_000) + bound(b"s1", b"1"),
        wire.query("select 1"),
    ),
    "large copy": (
        wire.query("copy in"),
        wire.copy_data(b"c" * 150_000) * 2 + wire.copy_done(),
        wire.query("select 1"),
    ),
}
"""Messages of more than 64 KiB and of more than 1 MiB."""


def prepared_elsewhere() -> bytes:
    """Return what another client does first, so that names mean something else on the server."""
    return (
        wire.parse(b"s1", b"select other")
        + wire.parse(b"s2", b"select b")
        + wire.parse(b"", b"select theirs")
        + _SYNC
    )
