"""What the dashboard costs who looks, and who is looked at: 10,000 open sessions, 1,000 events per second.

A real server with the real admin API, and headless Chromium, which stays at the overview, the list of sessions, the
events, and one session's growing diagram in turn. Run from the repository root:
``python bench/dashboard.py [--quick] [--only PAGE] [--per-s RATE] [--sessions N] [--strict]``; see ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import measure
import msgspec
from dashboard_traffic import WATCHED
from playwright.async_api import CDPSession, Page, async_playwright

BUSY_GATE_SHARE: Final = 0.5
"""Of the page's main thread, in any stay at any page."""
GROWTH_GATE_RATIO: Final = 1.1
"""Memory, and nodes, after the last round in terms of those after the first."""
SHORT_GATE_SHARE: Final = 0.05
"""Of the events that were asked for: with fewer the rest says nothing."""
_HERE: Final = Path(__file__).parent
_SETTLE_S: Final = 2.0
_FRAMES_S: Final = 2.0
_END_S: Final = 20.0
_PLACES: Final = {
    "overview": ("#/", ".gateway-card"),
    "sessions": ("#/sessions", ".virtual-line"),
    "events": ("#/events", ".virtual-line"),
    "session": ("", ".seq-row"),
}
_WATCH_TASKS: Final = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({ entryTypes: ["longtask"] });
}"""
_COUNT_FRAMES: Final = """(ms) => new Promise((resolve) => {
  let frames = 0;
  const from = performance.now();
  const turn = () => {
    frames += 1;
    if (performance.now() - from < ms) requestAnimationFrame(turn);
    else resolve((frames * 1000) / (performance.now() - from));
  };
  requestAnimationFrame(turn);
})"""


class Stay(msgspec.Struct, frozen=True):
    """One stay at one page.

    Units: shares of one core; ``longest_ms`` is the longest task of 50 ms and more, 0 where none was.
    ``thread`` is what of ``busy``, which is wall time, the main thread had a core for.
    """

    page: str
    busy: float
    thread: float
    script: float
    layout: float
    longest_ms: float
    frames_per_s: float
    daemon: float


class Rest(msgspec.Struct, frozen=True):
    """What is left of a round once the rubbish is collected; always at the same page."""

    at_s: float
    heap_bytes: float
    nodes: float
    listeners: float
    daemon_bytes: int


class Browser:
    """One page of Chromium, and its developer tools' view of it."""

    def __init__(self, page: Page, tools: CDPSession) -> None:
        self.page = page
        self._tools = tools

    async def metrics(self) -> dict[str, float]:
        """Return Chromium's own figures of the page; times in seconds since it began."""
        answer = await self._tools.send("Performance.getMetrics")
        return {one["name"]: one["value"] for one in answer["metrics"]}

    async def show(self, place: str, until: str) -> None:
        """Go to a place of the dashboard."""
        await self.page.evaluate("(place) => { location.hash = place; }", place)
        # A locator lets go of what it found; a handle would keep the page that is left in memory.
        await self.page.locator(until).first.wait_for()

    async def stay(self, name: str, seconds: float, server: measure.ServerProcess) -> Stay:
        """Look at the page that is shown, for so long."""
        await self.page.evaluate("() => { window.longTasks.length = 0; }")
        cpu_ns, started, before = server.cpu_ns(), time.monotonic(), await self.metrics()
        await asyncio.sleep(seconds)
        after, ended, used_ns = await self.metrics(), time.monotonic(), server.cpu_ns() - cpu_ns
        lasted = after["Timestamp"] - before["Timestamp"]

        def share(*names: str) -> float:
            return sum(after[one] - before[one] for one in names) / lasted

        return Stay(
            page=name,
            busy=share("TaskDuration"),
            thread=share("ThreadTime"),
            script=share("ScriptDuration"),
            layout=share("LayoutDuration", "RecalcStyleDuration"),
            longest_ms=await self.page.evaluate("Math.max(0, ...window.longTasks)"),
            frames_per_s=await self.page.evaluate(_COUNT_FRAMES, _FRAMES_S * 1000),
            daemon=used_ns / 1e9 / (ended - started),
        )

    async def rest(self, at_s: float, server: measure.ServerProcess) -> Rest:
        """Collect the rubbish at the overview and weigh what is left."""
        await self.show(*_PLACES["overview"])
        await asyncio.sleep(_SETTLE_S)
        for _ in range(3):
            await self._tools.send("HeapProfiler.collectGarbage")
        found = await self.metrics()
        return Rest(
            at_s, found["JSHeapUsedSize"], found["Nodes"], found["JSEventListeners"], server.rss_bytes()
        )


@contextlib.asynccontextmanager
async def browsing(link: Path, program: str) -> AsyncIterator[Browser]:
    """Run Chromium, logged in by the link in a file."""
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            page = await browser.new_page(viewport={"width": 1440, "height": 900})
            tools = await page.context.new_cdp_session(page)
            await tools.send("Performance.enable")
            await tools.send("HeapProfiler.enable")
            await page.goto(link.read_text())  # noqa: ASYNC240 - a line of text
            await page.locator(".gateway-card").first.wait_for()
            await page.evaluate(_WATCH_TASKS)
            yield Browser(page, tools)
        finally:
            await browser.close()


@contextlib.contextmanager
def traffic(port: int, sessions_count: int, per_s: int) -> Iterator[list[float]]:
    """Let it happen for the length of the block; the list has events and seconds after it."""
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "dashboard_traffic.py"), str(port), str(sessions_count), str(per_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    told: list[float] = []
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n", "the traffic stopped before it began"
        yield told
    finally:
        output, _ = process.communicate(timeout=_END_S)
        told += [float(word) for word in output.split()]


async def daemon_share(server: measure.ServerProcess, seconds: float) -> float:
    """Return how much of a core the daemon needs while nobody looks."""
    cpu_ns, started = server.cpu_ns(), time.monotonic()
    await asyncio.sleep(seconds)
    return (server.cpu_ns() - cpu_ns) / 1e9 / (time.monotonic() - started)


async def look_on(
    browser: Browser, server: measure.ServerProcess, options: argparse.Namespace
) -> tuple[list[Stay], list[Rest]]:
    """Stay at each page in turn, for some rounds."""
    await browser.show("#/sessions", ".virtual-line")
    await browser.page.get_by_label("Find sessions").fill(WATCHED)
    await browser.page.locator(f".virtual-line:not([hidden]):has-text('{WATCHED}')").first.click()
    await browser.page.locator(".seq-row").first.wait_for()
    await browser.page.mouse.move(0, 0)  # lists stand still under a pointer
    watched = await browser.page.evaluate("location.hash")
    names = [options.only] if options.only else list(_PLACES)
    stays: list[Stay] = []
    started = time.monotonic()
    rests = [await browser.rest(0.0, server)]
    for number in range(options.rounds):
        for name in names:
            place, until = _PLACES[name]
            await browser.show(place or watched, until)
            await asyncio.sleep(_SETTLE_S)
            rest_s = options.round_s / len(names) - _SETTLE_S - _FRAMES_S
            stays.append(await browser.stay(name, rest_s, server))
        rests.append(await browser.rest(time.monotonic() - started, server))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return stays, rests


def show(stays: list[Stay], rests: list[Rest], alone: float) -> None:
    """Print both tables."""
    print(f"\n{'page':10s} {'busy':>6s} {'thread':>7s} {'script':>7s} {'layout':>7s}"
          f" {'longest':>8s} {'frames':>7s} {'daemon':>7s}")  # fmt: skip
    for name in dict.fromkeys(one.page for one in stays):
        mine = [one for one in stays if one.page == name]
        worst = max(mine, key=lambda one: one.busy)
        print(
            f"{name:10s} {worst.busy:6.1%} {worst.thread:7.1%} {worst.script:7.1%} {worst.layout:7.1%}"
            f" {max(one.longest_ms for one in mine):5.0f} ms {min(one.frames_per_s for one in mine):5.0f}/s"
            f" {min(one.daemon for one in mine):7.1%}"
        )
    print(f"{'nobody':10s} {'':52s}{alone:7.1%}\n")
    print(f"{'after':>7s} {'heap':>9s} {'nodes':>7s} {'listeners':>10s} {'daemon':>9s}")
    for rest in rests:
        print(
            f"{rest.at_s:5.0f} s {rest.heap_bytes / 2**20:5.2f} MiB {rest.nodes:7.0f} {rest.listeners:10.0f}"
            f" {rest.daemon_bytes / 2**20:5.1f} MiB"
        )


def gates_of(stays: list[Stay], rests: list[Rest], told: list[float], per_s: int) -> list[measure.Gate]:
    """Return the promises: how busy, how flat, and that what should have happened did."""
    gates = [
        measure.Gate(f"main thread at {name}", max(one.busy for one in stays if one.page == name), BUSY_GATE_SHARE)
        for name in dict.fromkeys(one.page for one in stays)
    ]  # fmt: skip
    first, last = rests[1], rests[-1]
    return [
        *gates,
        measure.Gate("heap at the end, times after a round", last.heap_bytes / first.heap_bytes, GROWTH_GATE_RATIO),
        measure.Gate("nodes at the end, times after a round", last.nodes / first.nodes, GROWTH_GATE_RATIO),
        measure.Gate("listeners at the end, times after a round", last.listeners / first.listeners, GROWTH_GATE_RATIO),
        measure.Gate("events that did not happen, of those wanted", 1 - told[0] / (per_s * told[1]), SHORT_GATE_SHARE),
    ]  # fmt: skip


def read_options() -> argparse.Namespace:
    """Read the command line; ``--help`` and mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds of 20 s: a look, not a result")
    parser.add_argument("--rounds", type=int, default=0, help="rounds through all pages; 5 without it")
    parser.add_argument("--round-s", type=float, default=0.0, help="length of a round; 60 without it")
    parser.add_argument("--only", choices=list(_PLACES), help="stay at one page all the time")
    parser.add_argument("--sessions", type=int, default=10_000, help="sessions that are open")
    parser.add_argument("--per-s", type=int, default=1_000, help="events per second")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "/usr/bin/chromium")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.round_s = options.round_s or (20.0 if options.quick else 60.0)
    return options


async def run(options: argparse.Namespace) -> int:
    """Measure, print, write, and judge."""
    with (
        tempfile.TemporaryDirectory() as folder,
        measure.serving("dashboard_daemon.py", folder) as server,
        traffic(server.port, options.sessions, options.per_s) as told,
    ):
        await asyncio.sleep(_SETTLE_S)
        alone = await daemon_share(server, options.round_s / 4)
        async with browsing(Path(folder, "link"), options.chromium) as browser:
            stays, rests = await look_on(browser, server, options)
    show(stays, rests, alone)
    gates = gates_of(stays, rests, told, options.per_s)
    measure.write_results(
        "dashboard",
        {
            "sessions": options.sessions,
            "events_per_s": told[0] / told[1],
            "daemon_alone": alone,
            "stays": stays,
            "rests": rests,
        },
        gates,
    )
    return 1 if options.strict and not all(gate.is_kept for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(read_options())))
