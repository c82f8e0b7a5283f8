"""Who takes part in a client's session, as its trace tells it, through the loss of a server and the next one.

Real servers, a real driver. Source: ISSUE 6, a diagram across the parties that took part.
"""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest
from failover_lab import running_failover_lab
from psycopg import errors


def legs(way, connection):
    """Return the legs of the client's trace: from whom to whom, what, and in short."""
    (client,) = [
        one for one in way.server.managers["postgres"].sessions() if one.pid == connection.info.backend_pid
    ]
    entries = way.server.registry.in_words(client, client.trace)
    return [(one.direction, one.source, one.target, one.name, one.summary) for one in entries if one.is_leg]


def test_a_failover_is_a_story_of_two_servers(run):
    """An error at the first node, its loss, the state made again at the second one, which goes on."""

    async def scene():
        async with running_failover_lab() as lab:
            way = await lab.gateway("session")
            connection = await way.connect(autocommit=True)
            with pytest.raises(errors.DivisionByZero):
                await connection.execute("SELECT 7 / 0")
            await connection.execute("SET work_mem = '7MB'")
            await connection.execute("CREATE TEMP TABLE note AS SELECT 1 AS a")
            told = legs(way, connection)
            assert ("out", "postgres", "db-1") in {one[:3] for one in told}
            assert ("error", "db-1", "postgres", "error 22012") in {one[:4] for one in told}
            assert "7 / 0" not in repr(told)
            await lab.crash()
            await lab.promote()
            with suppress(psycopg.Error):
                await connection.execute("SELECT 1")
            await way.until_rebuilt(connection)
            assert (await (await connection.execute("SHOW work_mem")).fetchone()) == ("7MB",)
            told = [one[:4] for one in legs(way, connection)]
            lost = told.index(("error", "db-1", "postgres", "server lost"))
            after = told[lost + 1 :]
            assert ("out", "postgres", "db-2", "goes on here") in after
            assert ("out", "postgres", "db-2", "make its state again") in after
            assert after[-1][1] == "db-2" or after[-1][2] == "db-2"
            await connection.close()

    run(scene())
