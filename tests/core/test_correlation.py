"""Commands that wait for the answer that names them."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.core.correlation import PendingTable
from sojourn.errors import ConnectionLost, LocalProtocolError


def test_an_answer_completes_its_command_once(run):
    """The second one is unasked."""

    async def main():
        table = PendingTable()
        future = table.expect("a", 5.0, asyncio.get_running_loop())
        assert len(table) == 1
        assert table.complete("a", "answer")
        assert await future == "answer"
        assert not table.complete("a", "again")
        assert len(table) == 0

    run(main())


def test_two_commands_cannot_share_an_answer(run):
    """Unless the first was given up."""

    async def main():
        loop = asyncio.get_running_loop()
        table = PendingTable()
        first = table.expect("a", 5.0, loop)
        with pytest.raises(LocalProtocolError):
            table.expect("a", 5.0, loop)
        first.cancel()
        second = table.expect("a", 5.0, loop)
        assert table.complete("a", 1)
        assert await second == 1

    run(main())


def test_deadlines_are_enforced_by_the_sweep(run):
    """At its deadline, not before; the others wait on."""

    async def main():
        loop = asyncio.get_running_loop()
        table = PendingTable()
        short, long = table.expect("short", 5.0, loop), table.expect("long", 9.0, loop)
        table.sweep(4.9)
        assert not short.done()
        table.sweep(5.0)
        with pytest.raises(TimeoutError, match="short"):
            await short
        assert not long.done()
        assert not table.complete("short", "late")

    run(main())


def test_all_can_fail_at_once(run):
    """And nobody needs to await what failed."""

    async def main():
        loop = asyncio.get_running_loop()
        table = PendingTable()
        futures = [table.expect(number, 5.0, loop) for number in range(3)]
        futures[0].cancel()
        assert table.fail_all(ConnectionLost("gone")) == 2
        with pytest.raises(ConnectionLost):
            await futures[1]
        assert not table.fail("unknown", ConnectionLost("gone"))

    run(main())
