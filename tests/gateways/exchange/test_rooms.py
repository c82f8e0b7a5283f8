"""Rooms: made when somebody needs them, gone when nobody does, and not a moment before."""

from __future__ import annotations

import asyncio

import pytest
from exchange_lab import ExchangeLab

from sojourn.errors import BackendUnavailable


def test_a_room_that_is_swept_away_before_its_guest_is_in_is_opened_again(run):
    """Between the answer and the guest there are turns of the loop, in which a sweep may find an idle room."""

    async def scenario():
        lab = ExchangeLab()
        await lab.start()
        await lab.pods[0].keeper.open(lab.session)
        keeper = lab.pods[1].keeper
        coming = asyncio.ensure_future(keeper.open(lab.session))
        await asyncio.sleep(0)
        keeper._opening[lab.session].add_done_callback(lambda _: keeper.sweep(lab.clock()))
        room = await coming
        assert keeper.rooms[lab.session] is room
        assert room.role is not None
        await lab.end()

    run(scenario())


def test_a_pod_that_leaves_does_not_keep_a_guest_waiting_for_an_owner(run):
    """Section 5.6: it owns nothing more, so who waits there waits for nothing, and the drain waits for them."""

    async def scenario():
        lab = ExchangeLab()
        await lab.start()
        keeper = lab.pods[0].keeper
        keeper.is_draining = True
        async with asyncio.timeout(2):
            with pytest.raises(BackendUnavailable):
                await keeper.open(lab.session)
        assert not keeper.rooms
        await lab.end()

    run(scenario())
