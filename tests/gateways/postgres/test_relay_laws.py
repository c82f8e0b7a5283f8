"""The law of the relay: however the network cuts a conversation, the same bytes come out at both ends."""

from __future__ import annotations

import asyncio

import pytest
from relay_conversations import CONVERSATIONS, LARGE, prepared_elsewhere
from relay_lab import Cutter, RelayLab, fresh, relay_lab

MODES = ("session", "transaction")
NOT_CUT = Cutter()
SAMPLES_COUNT = 40


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
                slow = run(lab, turns, client_cut=(place,), is_shared=is_shared, is_slow=True)
                assert slow[0] == whole[0], place
            for place in range(1, len(whole[0])):
                assert run(lab, turns, server_cut=(place,), is_shared=is_shared) == whole, place
            for place in range(1, said, 7):
                both = run(lab, turns, client_cut=(place,), server_cut=(place, place + 3), is_shared=is_shared)
                assert both == whole, place

    asyncio.run(check())
