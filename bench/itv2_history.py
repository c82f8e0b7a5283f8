"""What the panels' history costs: events per second, CPU per event and the wait for a commit.

    python bench/itv2_history.py [--folder /var/lib/sojourn] [--synchronous normal]

Each panel appends one event, waits until it is stored and appends the next, as stop and wait makes it do. The disk is
measured first, because the wait is mostly its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from pathlib import Path

import uvloop

from sojourn.core.events import Events
from sojourn.gateways.itv2.events import Kind, PanelEvent
from sojourn.gateways.itv2.history import History, HistorySettings, packet_digest

DIGEST = packet_digest(b"\0\0" + bytes(range(30)))
DETAIL: dict[str, str | int | float | bool] = {"zone_label": "Front door", "partition_label": "House"}


async def measure(folder: Path, synchronous: str, panels_count: int, seconds: float, pause_s: float) -> str:
    """Have so many panels append for some time, and say what it cost."""
    settings = HistorySettings(file=str(folder / f"{panels_count}.sqlite3"), synchronous=synchronous)  # type: ignore[arg-type]
    history = History(settings, Events(time.monotonic))
    await history.open()
    waits: list[float] = []
    ends = time.monotonic() + seconds

    async def panel(name: str) -> None:
        at_ms = 1_767_225_600_000
        while (began := time.monotonic()) < ends:
            at_ms += 1
            event = PanelEvent(
                panel=name,
                at_ms=at_ms,
                source="live",
                kind=Kind.ZONE_OPENED,
                partition=1,
                zone=3,
                detail=DETAIL,
            )
            waiting = history.append(name, [event], DIGEST)
            if waiting is None or not await waiting:
                raise RuntimeError(history.trouble)
            waits.append(time.monotonic() - began)
            if pause_s:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    cpu_s, began = time.process_time(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(panels_count):
            group.create_task(panel(f"panel-{number}"))
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    snapshot = history.snapshot()
    await history.close()
    waits.sort()
    count = len(waits)
    return (
        f"{panels_count:5} panels: {count / took_s:8.0f} events/s, {cpu_s / count * 1e6:6.1f} us CPU per event, "
        f"wait p50 {waits[count // 2] * 1e3:6.2f} ms, p99 {waits[count * 99 // 100] * 1e3:6.2f} ms, "
        f"{count / snapshot.batches_count:6.1f} events per commit"
    )


def disk(folder: Path) -> str:
    """Say what one flush of 4 KiB costs here."""
    waits = []
    with (folder / "disk").open("wb", buffering=0) as file:
        for _ in range(100):
            began = time.monotonic()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            waits.append(time.monotonic() - began)
    waits.sort()
    return f"fdatasync of 4 KiB: p50 {waits[50] * 1e3:.2f} ms, p99 {waits[98] * 1e3:.2f} ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; by default a temporary folder"
    )
    parser.add_argument("--synchronous", choices=("full", "normal"), default="full")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pause-s", type=float, default=0.0, help="between two events of a panel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(disk(folder))
        for panels_count in (1, 20, 500):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                print(
                    runner.run(
                        measure(folder, options.synchronous, panels_count, options.seconds, options.pause_s)
                    )
                )


if __name__ == "__main__":
    main()
