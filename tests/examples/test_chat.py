"""``examples/chat.py``: one session on many connections, many sessions on one connection."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket

EXAMPLE = "chat.py"


def heard(line: bytes) -> tuple[bytes, bytes]:
    """Split ``room who: text`` into room and text; who is an address with a port that nobody can know."""
    room, _, rest = line.partition(b" ")
    return room, rest.partition(b": ")[2]


def test_two_connections_in_one_room_share_one_session(dial: Callable[[], socket]) -> None:
    """``Gateway.find_session`` attaches who names a room that is open."""
    with dial().makefile("rwb", 0) as ana, dial().makefile("rwb", 0) as ben:
        ana.write(b"lobby hello\n")
        assert ana.readline() == b"lobby you: hello\n"
        ben.write(b"lobby hi ana\n")
        assert ben.readline() == b"lobby you: hi ana\n"
        assert heard(ana.readline()) == (b"lobby", b"hi ana\n")


def test_one_connection_can_be_in_two_rooms_that_do_not_hear_each_other(dial: Callable[[], socket]) -> None:
    """The session's key is in the packet: one connection carries several sessions."""
    with dial().makefile("rwb", 0) as ana, dial().makefile("rwb", 0) as ben:
        ana.write(b"lobby one\nattic two\n")
        assert [ana.readline(), ana.readline()] == [b"lobby you: one\n", b"attic you: two\n"]
        ben.write(b"attic three\nlobby four\n")
        assert [ben.readline(), ben.readline()] == [b"attic you: three\n", b"lobby you: four\n"]
        assert [heard(ana.readline()), heard(ana.readline())] == [
            (b"attic", b"three\n"),
            (b"lobby", b"four\n"),
        ]


def test_a_room_outlives_the_connection_that_opened_it(dial: Callable[[], socket]) -> None:
    """``Session.lose``: the session goes on with the connections that are left."""
    first, second = dial(), dial()
    with first.makefile("rwb", 0) as ana, second.makefile("rwb", 0) as ben:
        ana.write(b"lobby hello\n")
        assert ana.readline()
        ben.write(b"lobby hi\n")
        assert ben.readline()
        assert ana.readline()
    first.close()
    with second.makefile("rwb", 0) as ben, dial().makefile("rwb", 0) as eva:
        eva.write(b"lobby anybody?\n")
        assert eva.readline() == b"lobby you: anybody?\n"
        assert heard(ben.readline()) == (b"lobby", b"anybody?\n")


def test_a_seventeenth_room_is_refused_in_words(dial: Callable[[], socket]) -> None:
    """The connection's limit of sessions holds, and the sixteen go on."""
    with dial().makefile("rwb", 0) as ana:
        ana.write(b"".join(b"room-%d here\n" % number for number in range(17)))
        lines = [ana.readline() for _ in range(17)]
        assert lines[15] == b"room-15 you: here\n"
        assert lines[16].startswith(b"refused: 16 sessions are open")
        ana.write(b"room-3 again\n")
        assert ana.readline() == b"room-3 you: again\n"
