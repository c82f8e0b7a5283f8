"""What the load sends, ready made: a thousand sessions' packets built once, so that sending costs no thought.

An *exchange* is one session: its packets in order and how long each answer has to be. Knows nothing of sockets.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sojourn.gateways.tacacs.messages import (
    Action,
    AuthenContinue,
    AuthenMethod,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    Flag,
    Message,
    PacketType,
    Service,
    Version,
)
from sojourn.gateways.tacacs.wire import (
    Packet,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

KEY = b"bench-key-of-thirty-two-letters!"
USERS: tuple[tuple[str, str], ...] = tuple((f"operator{n}", f"correct horse {n} staple") for n in range(8))
"""Names and passwords, of one length each."""

EXCHANGES_COUNT = 1_024
ECHO_BODY_BYTES = 40
ECHO_SESSIONS_COUNT = 64
"""Sessions that one connection of the lanes' load talks in, all of them open all the time."""

_HEADER = struct.Struct("!BBBBII")
_COMMANDS = ("interfaces", "version", "inventory", "processes", "logging", "arp", "vlan")


class Exchange(NamedTuple):
    """One session: what the client sends, step by step, and how many bytes come back at each step."""

    session_id: int
    packets: tuple[bytes, ...]
    answer_bytes: tuple[int, ...]


Check = Callable[[bytes], None]
"""Looks at the answers to one step of a batch; raises AssertionError if one is not what it must be."""


class Traffic(NamedTuple):
    """All exchanges of a kind, and the check of their last answers."""

    exchanges: Sequence[Exchange]
    check: Check


def echo_traffic(exchange: Exchange | None = None) -> Traffic:
    """Return exchanges of one packet that comes back as it was.

    Args:
        exchange: one whose packet sizes the echoed ones shall have; by default 40 bytes of body.
    """
    sizes = (ECHO_BODY_BYTES,) if exchange is None else tuple(len(p) - _HEADER.size for p in exchange.packets)
    exchanges = [
        Exchange(
            session_id,
            tuple(_HEADER.pack(0xC0, 1, 1, 0, session_id, size) + bytes(size) for size in sizes),
            tuple(_HEADER.size + size for size in sizes),
        )
        for session_id in range(ECHO_SESSIONS_COUNT)
    ]

    def check(answers: bytes) -> None:
        for packet in _cut(answers):
            assert not any(packet.body), "an echo that differs from what was sent"

    return Traffic(exchanges, check)


def pap_traffic(*, single_connect: bool) -> Traffic:
    """Return PAP logins: one packet, one PASS."""
    return _traffic(
        lambda user, password, _: (
            AuthenStart(
                Action.LOGIN, 1, AuthenType.PAP, Service.LOGIN, user, "tty10", "192.0.2.77", password.encode()
            ),
        ),
        Version.ONE,
        PacketType.AUTHEN,
        (AuthenReply(AuthenStatus.PASS),),
        single_connect=single_connect,
    )


def ascii_traffic(*, single_connect: bool) -> Traffic:
    """Return ASCII logins with the name in the START: START, GETPASS, CONTINUE, PASS."""
    return _traffic(
        lambda user, password, _: (
            AuthenStart(Action.LOGIN, 1, AuthenType.ASCII, Service.LOGIN, user, "tty10", "192.0.2.77"),
            AuthenContinue(password.encode()),
        ),
        Version.DEFAULT,
        PacketType.AUTHEN,
        (AuthenReply(AuthenStatus.GETPASS, 1, "Password: "), AuthenReply(AuthenStatus.PASS)),
        single_connect=single_connect,
    )


def command_traffic(*, single_connect: bool) -> Traffic:
    """Return authorizations of single commands, all of them permitted."""
    return _traffic(
        lambda user, _, number: (
            AuthorRequest(
                AuthenMethod.TACACSPLUS,
                1,
                AuthenType.ASCII,
                Service.LOGIN,
                user,
                "tty10",
                "192.0.2.77",
                (
                    "service=shell",
                    "cmd=show",
                    f"cmd-arg={_COMMANDS[number % len(_COMMANDS)]}",
                    "cmd-arg=<cr>",
                ),
            ),
        ),
        Version.DEFAULT,
        PacketType.AUTHOR,
        (AuthorReply(AuthorStatus.PASS_ADD),),
        single_connect=single_connect,
    )


def _traffic(
    requests_of: Callable[[str, str, int], tuple[Message, ...]],
    version: int,
    packet_type: int,
    answers: tuple[Message, ...],
    *,
    single_connect: bool,
) -> Traffic:
    """Build the packets of many sessions, and the check that every exchange ended with the last answer."""
    answer_bytes = tuple(_HEADER.size + len(encode_body(answer)) for answer in answers)
    flags = Flag.SINGLE_CONNECT if single_connect else 0
    session_ids = random.Random(8907).sample(range(1, 2**32), EXCHANGES_COUNT)  # noqa: S311 - not a secret here
    exchanges: list[Exchange] = []
    for number, (session_id, (user, password)) in enumerate(
        zip(session_ids, itertools.cycle(USERS), strict=False)
    ):
        packets = tuple(
            encode_packet(version, packet_type, 2 * step + 1, flags, session_id, encode_body(request), KEY)
            for step, request in enumerate(requests_of(user, password, number))
        )
        exchanges.append(Exchange(session_id, packets, answer_bytes))

    def check(data: bytes) -> None:
        for packet in _cut(data):
            body = obfuscate(packet.body, KEY, packet.session_id, packet.version, packet.seq_no)
            answer = decode_body(packet.type, packet.seq_no, body)
            assert answer == answers[-1], f"wanted {answers[-1]!r}, got {answer!r}"

    return Traffic(exchanges, check)


def _cut(data: bytes) -> list[Packet]:
    packets: list[Packet] = []
    at = 0
    while at < len(data):
        version, kind, seq_no, flags, session_id, length = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        assert end <= len(data), "an answer longer than it may be"
        packets.append(Packet(version, kind, seq_no, flags, session_id, data[at + _HEADER.size : end]))
        at = end
    return packets
