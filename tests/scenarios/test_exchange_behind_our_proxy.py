"""The database of the exchange gateway behind our own postgres gateway: its primary dies, and no user session notices.

Real servers with synchronous replication, real WebSockets and simulators; events are kept in that database only.

Source: exchange-session-service.md sections 5.1 and 5.7; issue 4.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from exchange_pod_lab import PodLab, becomes, joined, new_session, soon, told
from failover_lab import running_failover_lab

from sojourn.gateways.exchange.rows import Page, SessionFilter

USERS = ("ana", "bob")


class Trader:
    """A user who places one order after the other, and hears what becomes of each."""

    def __init__(self, talk):
        self.talk = talk
        self.bought = 0
        self.is_enough = False

    async def trade(self):
        """Go on until told otherwise."""
        while not self.is_enough:
            assert (await self.talk.insist(1))["d"]["status"] == "filled"
            self.bought += 1
            await asyncio.sleep(0.02)

    async def check(self):
        """Every event has come, once and in order, over the one connection."""
        await self.talk.hear("ev", o=2 * self.bought)
        offsets = [frame["o"] for frame in self.talk.frames if frame["t"] == "ev"]
        assert offsets == list(range(1, 2 * self.bought + 1))
        assert {frame["t"] for frame in self.talk.frames} <= {
            "welcome",
            "snapshot",
            "ok",
            "sim",
            "md",
            "pf",
            "ev",
            "hb",
        }
        assert (await self.talk.ask("snapshot"))["t"] == "ok"


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_primary_dies_and_no_user_session_notices(mode, run, tmp_path):
    """WebSockets stay, orders go on, every event comes once and in order, and the new primary has all of them."""

    async def scenario():
        async with running_failover_lab() as failover:
            way = await failover.gateway(mode)
            dsn = f"postgresql://postgres@127.0.0.1:{way.port}/postgres"
            lab = PodLab(tmp_path, dsn)
            store = msgspec.structs.replace(
                lab.settings().store,
                statement_cache_count=0 if mode == "transaction" else 100,
                deadline_s=20.0,  # a loaded machine may need some seconds for a failover
            )
            async with (
                lab.pod(store=store) as pod,
                lab.client("ana") as http,
                lab.client("bob") as bobs,
                joined(http, pod) as ana,
                joined(bobs, pod) as bob,
            ):
                traders = [Trader(talk) for talk in (ana, bob)]
                before = []
                for trader in traders:
                    await trader.talk.start()
                    session = trader.talk.welcome["session"]
                    before.append(await becomes(pod, session, state="active"))
                trading = [asyncio.ensure_future(trader.trade()) for trader in traders]
                await soon(lambda: all(trader.bought >= 5 for trader in traders))
                await failover.crash()
                at_crash = [trader.bought for trader in traders]
                await soon(lambda: all(t.bought > at + 3 for t, at in zip(traders, at_crash, strict=True)))
                await failover.promote()
                at_end = [trader.bought for trader in traders]
                await soon(lambda: all(t.bought > at + 3 for t, at in zip(traders, at_end, strict=True)))
                for trader in traders:
                    trader.is_enough = True
                await asyncio.gather(*trading)
                for trader in traders:
                    await trader.check()
                after = await pod.gateway.store.sessions.list(SessionFilter(), Page())
                assert {row.id: (row.state, row.owner_epoch) for row in after} == {
                    row.id: ("active", row.owner_epoch) for row in before
                }
                ((written,),) = await failover.direct(
                    f"SELECT count(*) FROM {lab.schema}.session_events WHERE type = 'order'"
                )
                assert written == sum(2 * trader.bought for trader in traders)
                assert await new_session(http, pod) == before[0].id
                async with joined(http, pod, before[0].id, resume={"epoch": 1, "events": 0}) as late:
                    assert late.welcome["recovered"] == 2 * traders[0].bought
                assert not told(pod, "housekeeping_failed")

    run(scenario())
