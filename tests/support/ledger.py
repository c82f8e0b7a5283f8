"""A table of who wrote what, clients that write into it, and whether what they were told is true of it."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg

KNOWN_LOSSES = {"40001", "08007"}
"""What a client may be told of a write when its server is lost."""


class Writer:
    """A client that writes numbers into the ledger, one after the other, and remembers what it was told of each.

    Odd ones write single statements, even ones transactions of two; every third prepares its statements.
    """

    def __init__(self, way, number, *, pause_s=0.02):
        self.way = way
        self.number = number
        self.pause_s = pause_s
        self.acknowledged = []
        self.refused = []
        self.unknown = []
        self.states = Counter()
        self.slowest_s = 0.0
        self.acknowledged_at = []

    async def run(self, stop):
        """Write until told to stop, and prove that the socket is still the first one."""
        is_single = self.number % 2 == 1
        prepares = self.number % 3 == 0
        connection = await self.way.connect(autocommit=is_single)
        async with connection:
            fileno = connection.fileno()
            n = 0
            while not stop.is_set():
                n += 1
                began = asyncio.get_running_loop().time()
                try:
                    await connection.execute(
                        "INSERT INTO ledger SELECT %s, %s FROM pg_sleep(%s)",
                        (self.number, n, self.pause_s),
                        prepare=prepares,
                    )
                    if not is_single:
                        await connection.execute(
                            "UPDATE totals SET n = %s WHERE client = %s", (n, self.number)
                        )
                        await connection.commit()
                    self.acknowledged.append(n)
                    self.acknowledged_at.append(asyncio.get_running_loop().time())
                except psycopg.Error as error:
                    self.states[error.sqlstate] += 1
                    (self.unknown if error.sqlstate == "08007" else self.refused).append(n)
                    await connection.rollback()
                self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - began)
            assert connection.fileno() == fileno


async def make_ledger(lab, count):
    """Make the tables; the ledger has no key, so that a row that was written twice shows."""
    await lab.direct(
        "CREATE TABLE ledger (client int, n int)",
        "CREATE TABLE totals (client int PRIMARY KEY, n int)",
        f"INSERT INTO totals SELECT i, 0 FROM generate_series(0, {count}) AS i",
    )
    await lab.caught_up()


async def check_ledger(lab, writers):
    """Compare what each was told with what is there."""
    rows = Counter(await lab.direct("SELECT client, n FROM ledger"))
    assert not [row for row, count in rows.items() if count > 1]
    for writer in writers:
        there = {n for client, n in rows if client == writer.number}
        assert set(writer.acknowledged) <= there, "an acknowledged row is lost"
        assert not there & set(writer.refused), "a row is there that was said not to be"
        assert there <= set(writer.acknowledged) | set(writer.unknown)


async def until(predicate):
    """Give the loop turns until the predicate holds."""
    async with asyncio.timeout(30):
        while not predicate():  # noqa: ASYNC110 - whoever makes it true is another task
            await asyncio.sleep(0)


async def count_acknowledged(lab, writers, count):
    """Return when each has so many acknowledgements more than now."""
    wanted = {writer: len(writer.acknowledged) + count for writer in writers}
    async with asyncio.timeout(30), lab.connected() as connection:
        while any(len(writer.acknowledged) < least for writer, least in wanted.items()):
            await connection.execute("SELECT pg_sleep(0.01)")
