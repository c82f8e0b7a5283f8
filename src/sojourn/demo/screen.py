"""What the person in front of the demo sees: what is under way, a table of what happened, and what to try next.

Fits a terminal of 80 columns. Knows nothing of servers and clients.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from sojourn.demo.site import HOST, Site
from sojourn.demo.traffic import Row

if TYPE_CHECKING:
    from sojourn.demo.alarm_day import DayResult
    from sojourn.demo.customers import FailoverResult
    from sojourn.demo.trader import TraderResult


TRADER = "you"
"""Whose token is proposed."""
CONSOLE = "sojourn"
"""The database that is the postgres gateway's admin console."""
ALARM_STATES_WIDTH = 24
"""Of 80 columns."""


class Screen:
    """The demo's standard output; readable in a file, too."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._is_complaining = False
        self._under_way: list[str] = []
        self._status: Status | None = None

    def say(self, text: str) -> None:
        """Print a line as it is; what is too long goes on behind the terminal's edge, so that it can be copied."""
        self._console.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show what is under way, several things at a time, and afterwards how long each took."""
        began = time.monotonic()
        self._under_way.append(what)
        self._show_under_way()
        try:
            yield
        finally:
            self._under_way.remove(what)
            self._show_under_way()
        self.say(f"{what:<48} [dim]{(time.monotonic() - began) * 1000:6.0f} ms[/]")

    def _show_under_way(self) -> None:
        """Show one line at the most: a terminal has one place for it."""
        if self._status is not None:
            self._status.stop()
        self._status = None
        if self._under_way:
            self._status = self._console.status(f"{'; '.join(self._under_way)} ...")
            self._status.start()

    def complain(self, text: str) -> None:
        """Say what went wrong, the first time; the log has the rest."""
        if not self._is_complaining:
            self._is_complaining = True
            self.say(f"[red]{escape(text)}[/]")

    def show_rows(self, site: Site, rows: Sequence[Row]) -> None:
        """Show what was asked, what was answered, and whether that was right."""
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = (
            f"\nTACACS+ on {HOST}:{site.tacacs_port}, TLS on port {site.tls_port}: what a switch just did"
        )
        for heading in ("request", "user", "answer", "as wanted", "time"):
            table.add_column(heading, justify="right" if heading == "time" else "left", no_wrap=True)
        for row in rows:
            answer = " ".join((row.outcome.status, *row.outcome.args))
            verdict = "[green]yes[/]" if row.is_right else f"[red]no: {row.wanted}[/]"
            took = f"{row.outcome.seconds * 1000:.1f} ms" if row.outcome.packets else ""
            table.add_row(row.what, row.user, escape(answer), verdict, took)
        self._console.print(table)
        right = sum(row.is_right for row in rows)
        colour = "green" if right == len(rows) else "red"
        self.say(f"[{colour}]{right} of {len(rows)} answers as wanted[/]")

    def show_failover(self, address: str, result: FailoverResult) -> None:
        """Show what clients of the database met when its primary was killed."""
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = (
            f"\nPostgreSQL on {address}: primary killed, replica promoted {result.gone_s:.1f} s later"
        )
        for heading in (
            "pool",
            "clients",
            "connected",
            "answered",
            "40001",
            "08007",
            "other",
            "wait",
            "median",
        ):
            table.add_column(heading, justify="left" if heading == "pool" else "right", no_wrap=True)
        for one in result.pools:
            counts = (one.customers_count, one.connected_count, one.answered_count)
            told = (one.not_committed_count, one.unknown_count, sum(one.others.values()))
            waits = (f"{one.longest_s:.2f} s", f"{one.median_s:.2f} s")
            table.add_row(one.pool, *map(str, counts + told), *waits)
        self._console.print(table)
        for one in result.pools:
            for what, count in one.others.items():
                self.say(f"[red]{one.pool}: {count} times {escape(what)}[/]")
        clients = sum(one.customers_count for one in result.pools)
        connected = sum(one.connected_count for one in result.pools)
        colour = "green" if result.is_right else "red"
        longest_s = max(one.longest_s for one in result.pools)
        self.say(
            f"[{colour}]{connected} of {clients} clients stayed connected; the longest wait was {longest_s:.2f} s[/]"
        )
        self.say(
            f"[{colour}]{result.restored_count} of {result.held_count} sessions with SET, PREPARE or LISTEN "
            "have them as before[/]"
        )
        self.say(
            f"[{colour}]{result.committed_count} sales were committed: {result.lost_count} lost, "
            f"{result.doubled_count} doubled[/]"
        )
        self.say("[dim]40001: not committed, try again; 08007: COMMIT sent, outcome unknown[/]")

    def show_trader(self, site: Site, result: TraderResult) -> None:
        """Show what the trader did and what it was told."""
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = f"\nExchange on {HOST}:{site.exchange_port}: a session that outlives its WebSocket"
        for heading in ("step", "what came of it", "time"):
            table.add_column(heading, justify="right" if heading == "time" else "left", no_wrap=True)
        for step in result.steps:
            table.add_row(step.what, escape(step.answer), f"{step.seconds * 1000:.0f} ms")
        self._console.print(table)
        colour = "green" if result.is_right else "red"
        self.say(
            f"[{colour}]{result.logged_count} events were logged, {result.told_count} told: {result.lost_count} lost, "
            f"{result.doubled_count} doubled, {result.disordered_count} out of order[/]"
        )

    def show_alarm_day(self, site: Site, result: DayResult) -> None:
        """Show what happened in the house, and what the history and the broker saw of it."""
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = f"\nAlarm panel on {HOST}:{site.itv2_port}: a day in a minute"
        table.add_column("in the house", ratio=1)
        table.add_column("stored", justify="right", no_wrap=True)
        if result.has_broker:
            table.add_column("MQTT: the alarm is", max_width=ALARM_STATES_WIDTH)
        for moment in result.moments:
            stored = str(moment.stored_count)
            if moment.replayed_count:
                stored += f", {moment.replayed_count} replayed"
            states = (", ".join(moment.states),) if result.has_broker else ()
            table.add_row(escape(moment.what), stored, *states)
        self._console.print(table)
        colour, verdict = ("green", "once") if result.is_right else ("red", "not just once")
        self.say(
            f"[{colour}]{result.acknowledged_count} messages acknowledged; each move of a zone is stored {verdict}[/]"
        )

    def show_next_steps(self, site: Site, link: str) -> None:
        """Show commands to type in a second terminal, and what else there is to see."""
        self.say("\n[bold]Try in a second terminal[/]")
        if site.control != site.usual_control:
            self.say(f"  export SOJOURN_SOCKET={site.control}")
        sojourn = _command()
        for line in (
            f"{sojourn} top",
            f"{sojourn} sessions list --limit 15",
            f"{sojourn} trace tacacs-2",
            f"{sojourn} trace tacacs-2 --mermaid",
            f"curl -s http://{HOST}:{site.admin_port}/metrics | grep ^sojourn",
            f"tail -f {site.log}",
            f"tail -f {site.records}",
        ):
            self.say(f"  {line}")
        if site.pair is not None:
            address = site.postgres_address
            self.say(f"  psql {site.pair.url(address)}")
            self.say(f"  psql {site.pair.url(address, CONSOLE)} -c 'SHOW POOLS'")
        if site.has_exchange:
            self.say(f"  {sojourn} token issue {TRADER} --key {site.dev_key_file}")
            self.say(f"\nThe trading desk: [bold]{site.exchange_url}/[/] asks for that token.")
        self.say("An alarm panel lives through a day in a minute: its table comes then.")
        self.show_dashboard(site, link)
        self.say("Traffic goes on at all gateways. [bold]Ctrl-C[/] stops everything.")

    def show_dashboard(self, site: Site, link: str) -> None:
        """Show where the dashboard is, with a link that lets a browser in: the one secret that is printed."""
        self.say("\n[bold]The dashboard[/], in a browser on this machine:")
        self.say(f"  {link}")
        self.say("The link works once, within 5 minutes. Another one, in a second terminal:")
        socket = "" if site.control == site.usual_control else f" --socket {site.control}"
        self.say(f"  {_command()} login-link{socket}\n")


def first_of(error: BaseException) -> BaseException:
    """Return what went wrong first where several tasks were at work."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _command() -> str:
    """Return how this very program is called from here."""
    program = Path(sys.argv[0])
    if program.name != "sojourn":
        return "sojourn"
    with contextlib.suppress(ValueError):
        return str(program.absolute().relative_to(Path.cwd()))
    return str(program)
