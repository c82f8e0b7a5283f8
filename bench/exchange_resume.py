"""A thousand random faults under trading users: is an event lost, doubled or moved, an order lost or executed twice.

``python bench/exchange_resume.py [--faults 1000] [--sessions 20] [--pods 3] [--seed N]``. Three service processes, an
embedded PostgreSQL, an embedded Valkey, a simulator process per session; users trade over WebSockets to random pods.
Clients are cut and clogged, services killed and drained, the Valkey killed with and without its data, simulators'
connections cut and simulators frozen. In the end what each client was told is compared with what its simulator says.
Exit status 1 if the law is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import measure
from exchange_faults import KINDS, SHARES, Desk, Director
from exchange_network import Line
from exchange_pods import Cluster, Simulator
from exchange_traders import Trader, all_at_work, client_of
from exchange_truth import Truth, Verdict, ask_run, ask_truth, judge
from measure import Gate
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sojourn.core.loop import run

TABLES: Final[dict[str, dict[str, Any]]] = {
    # Short times, so that in ten minutes happens what would take hours.
    "limits": {"drain_timeout_s": 15.0},
    "pod": {"drain_wait_s": 0.3, "drain_window_s": 1.5},
    "valkey": {"lease_s": 5.0, "renew_every_s": 1.5, "timeout_s": 1.0, "reconnect_max_s": 1.0},
    "simulator_link": {
        "heartbeat_s": 1.0,
        "heartbeat_timeout_s": 1.0,
        "attach_timeout_s": 4.0,
        "reconnect_max_s": 2.0,
    },
    "links": {
        "heartbeat_every_s": 3.0,
        "heartbeat_timeout_s": 10.0,
        "reconnect_max_s": 4.0,
        # A client that reads nothing is closed (4008) before it has missed its heartbeats.
        "skip_bytes": 4_096,
        "events_only_bytes": 8_192,
        "close_bytes": 65_536,
        "stalled_s": 1.5,
    },
    "simulators": {"driver": "process"},
    "simulators.market": {
        "step_ms": 100,
        "cash": "10000000",
        "instruments": [{"symbol": one, "price": "100", "shares": 100_000} for one in ("AAA", "BBB", "CCC")],
    },
}
AT_ONCE_COUNT: Final = 4
"""Users that come at the same time: each starts a process."""
AFTER_S: Final = 90.0
LINE_EVERY_S: Final = 15.0
"""How often a line says how far it is, where there is no terminal."""
NOTES_COUNT: Final = 20


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=0, help="how many; 1000 without it")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--pods", type=int, default=3)
    parser.add_argument(
        "--pace", type=float, default=0.7, help="seconds between two orders of one hand of a user"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the orders")
    parser.add_argument("--only", choices=KINDS, action="append", help="a kind of fault; repeatable")
    parser.add_argument("--quick", action="store_true", help="60 faults: a look, not a result")
    parser.add_argument("--strict", action="store_true", help="nothing: a broken law is an error anyway")
    parser.add_argument("--keep", metavar="FOLDER", default="", help="copy the pods' logs there")
    arguments = parser.parse_args()
    arguments.faults = arguments.faults or (60 if arguments.quick else 1000)
    arguments.seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    return run(_run(arguments))


def counts_of(faults_count: int, only: Sequence[str] | None) -> dict[str, int]:
    """Return how many faults of each kind there are."""
    shares = {kind: share for kind, share in SHARES.items() if not only or kind in only}
    whole = sum(shares.values())
    counts = {kind: int(faults_count * share / whole) for kind, share in shares.items()}
    counts[max(counts, key=lambda kind: counts[kind])] += faults_count - sum(counts.values())
    return {kind: counts.get(kind, 0) for kind in KINDS}


class Bench:
    """One run."""

    def __init__(self, arguments: argparse.Namespace, console: Console, cluster: Cluster) -> None:
        self.arguments = arguments
        self.console = console
        self.cluster = cluster
        self.desks: list[Desk] = []

    async def run(self) -> bool:
        """Trade, break, compare; say whether the law is kept."""
        arguments, cluster, console = self.arguments, self.cluster, self.console
        chance = random.Random(arguments.seed)  # noqa: S311 - of a test
        async with AsyncExitStack() as stack:
            began_s = time.monotonic()
            await self._open(stack, chance)
            before = await self._simulators()
            console.print(
                f"{len(cluster.pods)} services, {len(self.desks)} sessions trade after"
                f" {time.monotonic() - began_s:.1f} s; seed {arguments.seed}"
            )
            director = Director(cluster, self.desks, chance, counts_of(arguments.faults, arguments.only))
            began_s = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for desk in self.desks:
                    tasks.create_task(desk.trader.trade())
                showing = tasks.create_task(self._show(director))
                try:
                    await director.run()
                finally:
                    for desk in self.desks:
                        desk.trader.is_trading = False
                    showing.cancel()
            lasted_s = time.monotonic() - began_s
            unsettled = await self._settle()
            after = await self._simulators()
            verdict = await self._judge(after)
            verdict.notes += unsettled
            for one in before:
                if one not in after:
                    verdict.notes.append(f"the simulator {one} was not there in the end")
            return self._tell(director, verdict, lasted_s)

    async def _open(self, stack: AsyncExitStack, chance: random.Random) -> None:
        """Let every user come, some at a time: each makes a process."""
        cluster = self.cluster
        for number in range(self.arguments.sessions):
            own = random.Random(chance.random())  # noqa: S311 - of a test
            line = await stack.enter_async_context(Line(lambda: cluster.pods, own))
            name = f"user-{number}"
            client = await stack.enter_async_context(client_of([line.url], cluster.token(name), name))
            self.desks.append(Desk(Trader(name, client, own, pace_s=self.arguments.pace), line))
        await stack.enter_async_context(all_at_work([desk.trader for desk in self.desks], AT_ONCE_COUNT))

    async def _simulators(self) -> dict[tuple[str, str, int, str], Simulator]:
        """Return each simulator by who it is: session, id, process, run."""
        found = {}
        for one in await self.cluster.simulators():
            found[one.session, one.id, one.pid, await ask_run(one.endpoint)] = one
        return found

    async def _settle(self) -> list[str]:
        """Let every user finish; return who could not."""

        async def settle(desk: Desk) -> str:
            trader = desk.trader
            try:
                async with asyncio.timeout(AFTER_S):
                    await trader.settle()
            except Exception as error:  # noqa: BLE001 - whatever it is, the law is not kept
                state = trader.live.state
                return f"{trader.name} ({trader.session}) did not finish: {type(error).__name__}: {error}; {state}"
            return ""

        return [note for note in await asyncio.gather(*map(settle, self.desks)) if note]

    async def _judge(self, simulators: dict[tuple[str, str, int, str], Simulator]) -> Verdict:
        by_session = {one.session: one for one in simulators.values()}
        whole = Verdict()
        for desk in self.desks:
            one = by_session[desk.trader.session]
            truth: Truth = await ask_truth(one.endpoint, one.session, one.id)
            whole.add(judge(desk.trader, truth))
        return whole

    # Words

    async def _show(self, director: Director) -> None:
        """Show how far it is."""
        total = sum(director.counts.values())
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[more]}"),
        )
        is_terminal, told_s = self.console.is_terminal, time.monotonic()
        with Progress(*columns, console=self.console, transient=True, disable=not is_terminal) as progress:
            task = progress.add_task("faults", total=total, more="")
            while True:
                more = self._state()
                progress.update(task, completed=sum(director.done.values()), more=more)
                if not is_terminal and time.monotonic() - told_s > LINE_EVERY_S:
                    told_s = time.monotonic()
                    self.console.print(f"{sum(director.done.values())}/{total} faults; {more}")
                await asyncio.sleep(0.25)

    def _state(self) -> str:
        traders = [desk.trader for desk in self.desks]
        events = sum(len(trader.events) for trader in traders)
        reconnects = sum(trader.live.stats.reconnects_count for trader in traders)
        live = sum(trader.live.state == "live" for trader in traders)
        pods = len(self.cluster.well)
        return f"{events} events, {reconnects} reconnects, {live} live, {pods} pods"

    def _tell(self, director: Director, verdict: Verdict, lasted_s: float) -> bool:
        """Print all; return whether the law is kept."""
        console = self.console
        console.print(_faults_table(director))
        traders = [desk.trader for desk in self.desks]
        resumed, unresumed = self._judge_greetings(director)
        orders = sum(len(trader.placed) for trader in traders)
        stats = [trader.live.stats for trader in traders]
        console.print(
            f"{sum(director.done.values())} faults in {lasted_s:.0f} s;"
            f" {verdict.events} events, {orders} orders acknowledged,"
            f" {sum(trader.resent_count for trader in traders)} sent again on purpose,"
            f" {sum(one.repeated_count for one in stats)} again because of a fault,"
            f" {sum(trader.unanswered_count for trader in traders)} times without an answer in time"
        )
        reasons = ", ".join(f"{count} {why}" for why, count in resumed.items() if " " in why)
        console.print(
            f"came back: {resumed['full']} full, {resumed['partial']} partial, {resumed['none']} none,"
            f" of which {resumed['documented']} as documented ({reasons or 'no reason'});"
            f" longest away {max(one.longest_away_s for one in stats):.1f} s"
        )
        console.print(f"connections ended: {_most(trader.ends for trader in traders)}")
        console.print(f"orders declined: {_most(trader.declined for trader in traders)}")
        complaints = [line for pod in self.cluster.pods for line in pod.complaints()]
        for line in complaints[:NOTES_COUNT]:
            console.print(f"pod: {line[:400]}", markup=False, highlight=False)
        for note in (unresumed + verdict.notes)[:NOTES_COUNT]:
            console.print(f"note: {note}", markup=False, highlight=False)
        gates = [
            Gate("events lost", verdict.lost, 0),
            Gate("events doubled", verdict.doubled, 0),
            Gate("events reordered", verdict.moved, 0),
            Gate("events that never happened", verdict.foreign, 0),
            Gate("breaches of the protocol", verdict.broken, 0),
            Gate("orders executed twice", verdict.executed_twice, 0),
            Gate("acknowledged orders that are missing", verdict.missing_orders, 0),
            Gate("sessions not resumed without a documented reason", resumed["undocumented"], 0),
            Gate("clients that did not finish, simulators that ended, and the like", len(verdict.notes), 0),
            Gate("complaints of the services", len(complaints), 0),
        ]
        is_kept = all(gate.is_kept for gate in gates)
        measure.write_results("exchange_resume", self._content(director, verdict, resumed, lasted_s), gates)
        console.print(
            f"\n{'PASS' if is_kept else 'FAIL'}: {sum(director.done.values())} faults, {verdict.lost} lost,"
            f" {verdict.doubled} doubled, {verdict.moved} reordered",
            style="green" if is_kept else "red",
        )
        return is_kept

    def _content(
        self, director: Director, verdict: Verdict, resumed: Counter[str], lasted_s: float
    ) -> dict[str, Any]:
        return {
            "seed": self.arguments.seed,
            "sessions": len(self.desks),
            "pods": len(self.cluster.pods),
            "seconds": round(lasted_s, 1),
            "faults": dict(director.done),
            "events": verdict.events,
            "orders": verdict.orders,
            "resumed": dict(resumed),
        }

    def _judge_greetings(self, director: Director) -> tuple[Counter[str], list[str]]:
        """Count how connections were continued, and tell of each that was not without a documented reason."""
        resumed: Counter[str] = Counter()
        notes = []
        for desk in self.desks:
            trader = desk.trader
            for greeting in trader.greetings[1:]:
                resumed[greeting.resumed] += 1
                if greeting.resumed == "none":
                    why = director.excuse(trader.session, greeting.at_s)
                    resumed["documented" if why else "undocumented"] += 1
                    resumed[why] += 1
                    if not why:
                        notes.append(
                            f"{trader.name} ({trader.session}) was not resumed by {greeting.pod}"
                            f" at {greeting.at_s:.1f}: {_around(director, greeting.at_s)}"
                        )
        return resumed, notes


def _around(director: Director, at_s: float) -> str:
    """Return which faults were under way at a moment."""
    near = [one for one in director.faults if one.at_s - 1 < at_s < one.at_s + 20 and one.hit_count != 1]
    return ", ".join(f"{one.kind} ({one.how}) {at_s - one.at_s:.1f} s before" for one in near)


def _faults_table(director: Director) -> Table:
    table = Table(
        "kind of fault",
        "how",
        "faults",
        "median, s",
        "longest, s",
        title="until the clients it hit were live",
    )
    by_kind: dict[tuple[str, str], list[float]] = {}
    for one in director.faults:
        by_kind.setdefault((one.kind, one.how), []).append(one.away_s)
    for (kind, how), away in sorted(by_kind.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1])):
        table.add_row(kind, how, str(len(away)), f"{statistics.median(away):.1f}", f"{max(away):.1f}")
    return table


def _most(counters: Any) -> str:  # noqa: ANN401 - of counters
    whole: Counter[str] = Counter()
    for one in counters:
        whole.update(one)
    return ", ".join(f"{count} {what}" for what, count in whole.most_common(8)) or "none"


def _keep(cluster: Cluster, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pod in cluster.pods:
        shutil.copy(pod.log, folder)


async def _run(arguments: argparse.Namespace) -> int:
    console = Console(soft_wrap=True)
    async with Cluster(arguments.pods, TABLES) as cluster:
        bench = Bench(arguments, console, cluster)
        try:
            is_kept = await bench.run()
        finally:
            if arguments.keep:
                _keep(cluster, Path(arguments.keep))
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
