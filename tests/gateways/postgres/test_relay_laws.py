"""The law of the relay: however the network cuts a conversation, the same bytes come out at both ends."""

from __future__ import annotations

import asyncio

import pytest
from relay_conversations import CONVERSATIONS, LARGE, prepared_elsewhere
from relay_lab import Cutter, RelayLab, fresh, relay_lab

MODES = ("session", "transaction")
NOT_CUT = Cutter()
SAMPLES_COUNT = 12


def run(
    lab: RelayLab,
    turns: tuple[bytes, ...],
    *,
    client_cut: tuple[int, ...] = (),
    server_cut: tuple[int, ...] = (),
    is_slow: bool = False,
    is_shared: bool = False,
) -> tuple[bytes, bytes]:
    """Hold one conversation and return what reached the client and the server.

    Args:
        lab: whose servers are scripted.
        turns: of the client.
        client_cut: places in what the client says, counted over all turns.
        server_cut: the same in what the server says.
        is_slow: the server answers between two pieces of the client.
        is_shared: another client has used the server before.
    """
    with fresh(lab) as client:
        if is_shared:
            lab.client().say(prepared_elsewhere())
        transport = lab.transports[0]
        before = len(transport.written)
        ours, theirs = Cutter(*client_cut), Cutter(*server_cut)
        for turn in turns:
            for piece in ours.cut(turn):
                client.feed(piece)
                if is_slow:
                    lab.pump(theirs)
            lab.pump(theirs)
        lab.check_rest()
        assert lab.failures == []
        assert lab.endings == []
        return client.transport.data, b"".join(transport.written[before:])


def cases(conversations: dict[str, tuple[bytes, ...]]):
    """Return every conversation in every mode, and in transaction mode on a server that has known others."""
    return [
        pytest.param(mode, turns, is_shared, id=f"{mode}{' shared' * is_shared}: {name}")
        for name, turns in conversations.items()
        for mode, is_shared in (("session", False), ("transaction", False), ("transaction", True))
    ]


@pytest.mark.parametrize(("mode", "turns", "is_shared"), cases(CONVERSATIONS))
def test_cutting_at_any_place_changes_nothing(mode, turns, is_shared):
    """postgres-proxy.md section 6.2: parts of messages are the same as wholes, in both directions."""

    async def check():
        async with relay_lab(mode) as lab:
            whole = run(lab, turns, is_shared=is_shared)
            assert whole[0]
            said = sum(map(len, turns))
            for place in range(1, said):
                assert run(lab, turns, client_cut=(place,), is_shared=is_shared) == whole, place
                if mode == "transaction" and place % 2:
                    slow = run(lab, turns, client_cut=(place,), is_shared=is_shared, is_slow=True)
                    assert slow[0] == whole[0], place
            for place in range(1, len(whole[0]), 3 if is_shared else 1):
                assert run(lab, turns, server_cut=(place,), is_shared=is_shared) == whole, place
            for place in range(1, said, 7):
                both = run(
                    lab, turns, client_cut=(place,), server_cut=(place, place + 3), is_shared=is_shared
                )
                assert both == whole, place

    asyncio.run(check())


def places_of(data: bytes, count: int) -> list[int]:
    """Return places in a long stream: around the borders of its messages, and some in between."""
    found = set(range(1, len(data), max(1, len(data) // count)))
    pos = 0
    while pos < len(data):
        found.update(range(pos - 1, pos + 20))
        pos += 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
    return sorted(place for place in found if 0 < place < len(data))


@pytest.mark.parametrize(("mode", "turns", "is_shared"), cases(LARGE))
def test_cutting_long_messages_changes_nothing(mode, turns, is_shared):
    """postgres-proxy.md section 6.2: long messages are never put together, and come out as they went in."""

    async def check():
        async with relay_lab(mode) as lab:
            whole = run(lab, turns, is_shared=is_shared)
            for place in places_of(b"".join(turns), SAMPLES_COUNT):
                assert run(lab, turns, client_cut=(place,), is_shared=is_shared) == whole, place
                slow = run(lab, turns, client_cut=(place, place + 70_000), is_shared=is_shared, is_slow=True)
                assert slow[0] == whole[0], place
            for place in places_of(whole[0], SAMPLES_COUNT):
                cut = run(lab, turns, server_cut=(place, place + 70_000), is_shared=is_shared)
                assert cut == whole, place

    asyncio.run(check())
