"""A rolling restart under load: does a simulator stop, how long is a client away, do they all come back at once.

``python bench/exchange_rolling.py [--clients 300] [--sessions 60] [--pods 3]``. Sessions with several devices each, on
random pods; all get prices, one device of each session trades a little. One service process after the other gets
SIGTERM, is replaced when it has ended, and is waited for until it is ready. Exit status 1 unless no simulator was
restarted, no event lost, every client was back within 10 s, and no second saw a storm of reconnects. Results and a plot
of reconnects over time go to ``bench/results/``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import measure
import plots
import servers
from exchange_pods import Cluster, PodProcess, Simulator
from exchange_traders import Trader, all_at_work, client_of
from exchange_truth import Verdict, ask_run, ask_truth, judge
from measure import Gate
from rich.console import Console

from sojourn.core.loop import run

DRAIN_WINDOW_S: Final = 8.0
TABLES: Final[dict[str, dict[str, Any]]] = {
    "limits": {"drain_timeout_s": 20.0},
    "pod": {"drain_wait_s": 1.0, "drain_window_s": DRAIN_WINDOW_S},
    "process": {"simulators_count": 1_000},
    "simulators.market": {"step_ms": 250, "cash": "10000000"},
}
BACK_LIMIT_S: Final = 10.0
STORM_LIMIT: Final = 4.0
"""The busiest second of a drain in terms of its mean: clients of one session leave together, others by chance."""
CALM_S: Final = 5.0
"""Before the first restart, between two and behind the last."""
AFTER_S: Final = 90.0
AT_ONCE_COUNT: Final = 6
NOTES_COUNT: Final = 20


class Restart(NamedTuple):
    """One pod's: when it was told to end, when it had ended, when its successor was ready; monotonic seconds."""

    pod: str
    clients_count: int
    told_s: float
    ended_s: float
    ready_s: float


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=0, help="of all sessions; 300 without it")
    parser.add_argument("--sessions", type=int, default=0, help="each has a simulator; 60 without it")
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of who goes where and orders what")
    parser.add_argument("--quick", action="store_true", help="60 clients, 12 sessions: a look, not a result")
    parser.add_argument("--strict", action="store_true", help="nothing: what is not kept is an error anyway")
    arguments = parser.parse_args()
    arguments.clients = arguments.clients or (60 if arguments.quick else 300)
    arguments.sessions = arguments.sessions or (12 if arguments.quick else 60)
    servers.allow_many_files()
    return run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    console = Console(soft_wrap=True)
    devices_count = -(-arguments.clients // arguments.sessions)
    tables = TABLES | {"sessions": {"policy": f"share:{devices_count}"}}
    async with Cluster(arguments.pods, tables) as cluster:
        bench = Rolling(arguments, console, cluster)
        return 0 if await bench.run() else 1


class Rolling:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, console: Console, cluster: Cluster) -> None:
        self.arguments = arguments
        self.console = console
        self.cluster = cluster
        self.traders: list[Trader] = []
        self.restarts: list[Restart] = []

    async def run(self) -> bool:
        """Let clients come, restart every pod, compare; say whether all is kept."""
        async with AsyncExitStack() as stack:
            began_s = time.monotonic()
            await self._open(stack)
            before = await self._simulators()
            self.console.print(
                f"{len(self.traders)} clients of {len(before)} sessions on {len(self.cluster.pods)} services after"
                f" {time.monotonic() - began_s:.0f} s: {dict(self._places())}"
            )
            async with asyncio.TaskGroup() as tasks:
                for trader in self._hands():
                    tasks.create_task(trader.trade())
                await asyncio.sleep(CALM_S)
                for pod in self.cluster.pods:
                    await self._restart(pod)
                    await asyncio.sleep(CALM_S)
                for trader in self.traders:
                    trader.is_trading = False
            notes = await self._settle()
            after = await self._simulators()
            verdict = await self._judge(after)
            verdict.notes += notes
            return self._tell(verdict, restarted_count=len(before.keys() - after.keys()))

    async def _open(self, stack: AsyncExitStack) -> None:
        arguments, cluster = self.arguments, self.cluster
        chance = random.Random(arguments.seed)  # noqa: S311 - of a test
        for number in range(arguments.clients):
            session, device = number % arguments.sessions, number // arguments.sessions
            endpoints = [pod.url for pod in cluster.pods]
            chance.shuffle(endpoints)
            name = f"user-{session}"
            client = await stack.enter_async_context(
                client_of(endpoints, cluster.token(name), f"{name}-{device}")
            )
            own = random.Random(chance.random())  # noqa: S311 - of a test
            self.traders.append(Trader(f"{name}-{device}", client, own, pace_s=3.0, hands_count=1))
        await stack.enter_async_context(all_at_work(self.traders, AT_ONCE_COUNT))

    def _hands(self) -> list[Trader]:
        """Return the one device of each session that trades."""
        return self.traders[: self.arguments.sessions]

    def _places(self) -> Counter[str]:
        """Return how many clients are on which pod."""
        return Counter(trader.greetings[-1].pod for trader in self.traders)

    async def _simulators(self) -> dict[tuple[str, str, int, str], Simulator]:
        """Return each simulator by who it is: session, id, process, run."""
        return {
            (one.session, one.id, one.pid, await ask_run(one.endpoint)): one
            for one in await self.cluster.simulators()
        }

    async def _restart(self, pod: PodProcess) -> None:
        """Replace one process by another, which has a name of its own, as Pods of a cluster have."""
        clients_count, name, told_s = self._places()[pod.name], pod.name, time.monotonic()
        pod.is_well = False
        pod.signal(signal.SIGTERM)
        code = await pod.ended()
        assert code == 0, f"{name} ended with {code}: {pod.last_words()}"
        ended_s = time.monotonic()
        pod.start(self.cluster.new_name())
        await pod.ready(self.cluster.http)
        one = Restart(name, clients_count, told_s, ended_s, time.monotonic())
        self.restarts.append(one)
        self.console.print(
            f"{name} with {clients_count} clients: ended after {one.ended_s - told_s:.1f} s,"
            f" {pod.name} ready after {one.ready_s - told_s:.1f} s; clients are now on {dict(self._places())}"
        )

    async def _settle(self) -> list[str]:
        """Let every trader finish, and every device hear of it; return who could not."""
        last: dict[str, int] = {}

        async def settle(trader: Trader) -> str:
            try:
                async with asyncio.timeout(AFTER_S):
                    if trader in self._hands():
                        await trader.settle()
                        last[trader.session] = trader.events[-1].offset
                    else:
                        while (  # noqa: ASYNC110 - another client sets it
                            trader.session not in last or trader.events[-1].offset < last[trader.session]
                        ):
                            await asyncio.sleep(0.05)
            except Exception as error:  # noqa: BLE001 - whatever it is, something is not kept
                return f"{trader.name} did not finish: {type(error).__name__}: {error}; {trader.live.state}"
            return ""

        return [note for note in await asyncio.gather(*map(settle, self.traders)) if note]

    async def _judge(self, simulators: dict[tuple[str, str, int, str], Simulator]) -> Verdict:
        truths = {
            one.session: await ask_truth(one.endpoint, one.session, one.id) for one in simulators.values()
        }
        whole = Verdict()
        for trader in self.traders:
            whole.add(judge(trader, truths[trader.session]))
        return whole

    # Words

    def _away(self) -> list[float]:
        """Return how long each client was away, each time."""
        away = []
        for trader in self.traders:
            for lost_s in trader.lost_at_s:
                back = [one.at_s for one in trader.greetings if one.at_s > lost_s]
                away.append(min(back) - lost_s if back else AFTER_S)
        return away

    def _storm(self, reconnects: list[float]) -> float:
        """Return the busiest second of any drain, in terms of the mean of its window."""
        worst = 0.0
        for one in self.restarts:
            own = [at_s for at_s in reconnects if one.told_s <= at_s <= one.ended_s + BACK_LIMIT_S]
            seconds = Counter(int(at_s - one.told_s) for at_s in own)
            if own:
                worst = max(worst, max(seconds.values()) * DRAIN_WINDOW_S / len(own))
        return worst

    def _tell(self, verdict: Verdict, *, restarted_count: int) -> bool:
        """Print all, write it down, draw it; return whether all is kept."""
        console, traders = self.console, self.traders
        reconnects = sorted(one.at_s for trader in traders for one in trader.greetings[1:])
        resumed = Counter(one.resumed for trader in traders for one in trader.greetings[1:])
        away = self._away() or [0.0]
        complaints = [line for pod in self.cluster.pods for line in pod.complaints()]
        gates = [
            Gate("simulators restarted", restarted_count, 0),
            Gate("events lost, doubled or reordered", verdict.lost + verdict.doubled + verdict.moved, 0),
            Gate("seconds until the last client was back", max(away), BACK_LIMIT_S),
            Gate("connections not resumed", resumed["none"], 0),
            Gate("busiest second of a drain, times its mean", self._storm(reconnects), STORM_LIMIT),
            Gate("other breaches, and complaints of the services", len(verdict.notes) + len(complaints), 0),
        ]
        for line in (complaints + verdict.notes)[:NOTES_COUNT]:
            console.print(line[:400], markup=False, highlight=False)
        ends = Counter(why for trader in traders for why in trader.ends.elements())
        console.print(
            f"\n{len(reconnects)} reconnects: {dict(resumed)}; away {statistics.median(away):.2f} s in the middle,"
            f" {max(away):.2f} s at most\nconnections ended: {dict(ends)}\n{verdict.events} events told,"
            f" {sum(len(one.placed) for one in self._hands())} orders acknowledged"
        )
        self._write(reconnects, gates)
        return all(gate.is_kept for gate in gates)

    def _write(self, reconnects: list[float], gates: list[Gate]) -> None:
        began_s = self.restarts[0].told_s - CALM_S
        lasted_s = int(self.restarts[-1].ready_s + CALM_S - began_s) + 1
        seconds = Counter(int(at_s - began_s) for at_s in reconnects)
        counts = [seconds[second] for second in range(lasted_s)]
        marks = []
        for one in self.restarts:
            marks.append((one.told_s - began_s, f"SIGTERM {one.pod}"))
            marks.append((one.ready_s - began_s, "replaced"))
        measure.write_results(
            "exchange_rolling",
            {
                "clients": len(self.traders),
                "sessions": self.arguments.sessions,
                "drain_window_s": DRAIN_WINDOW_S,
                "reconnects_by_second": counts,
                "restarts": [
                    {
                        "pod": one.pod,
                        "clients": one.clients_count,
                        "told_s": round(one.told_s - began_s, 2),
                        "ended_s": round(one.ended_s - began_s, 2),
                        "ready_s": round(one.ready_s - began_s, 2),
                    }
                    for one in self.restarts
                ],
            },
            gates,
        )
        title = f"Rolling restart, {len(self.traders)} clients of {self.arguments.sessions} sessions"
        plots.draw_times(
            measure.RESULTS / "exchange_rolling.png", title, counts, marks, "reconnects per second"
        )


if __name__ == "__main__":
    sys.exit(main())
