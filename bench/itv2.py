"""What 500 alarm panels cost one daemon: CPU per event and per idle panel, memory per panel, and how late MQTT is.

The daemon runs with history (durable), MQTT, JSON log and flight recorder, as in production; the broker is Debian's
Mosquitto, and somebody at it sees what becomes of each packet. Run from the repository root:
``python bench/itv2.py [--quick] [--panels N] [--per-s RATE] [--strict]``; see ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import measure
import msgspec
from itv2_panels import BROKER_PASSWORD, Events

from sojourn.core.secret import Secret
from sojourn.embedded.mosquitto import MosquittoServer, MqttUser

MEMORY_GATE_KIB: Final = 40.0
LATE_GATE_MS: Final = 200.0
"""Home Assistant sees a door within this time of the panel's packet."""
_HERE: Final = Path(__file__).parent
_SETTLE_S: Final = 1.0
_IDLE_SHARE: Final = 0.015
"""Of a core: a daemon that uses less has nothing left to do; telling the broker of new panels is paced, and more."""
_IDLE_TRIES_COUNT: Final = 120


class Figures(NamedTuple):
    """Of one run. Units are in the names; memory is that of the whole process."""

    panels: int
    connect_cpu_ms_per_panel: float
    idle_cpu_ms_per_panel_minute: float
    event_cpu_us: float
    event_loop_us: float
    events: Events
    connected_kib: float
    busy_kib: float


@contextlib.contextmanager
def panels(port: int, broker_port: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """Have panels connected for the length of the block; orders go to its standard input."""
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "itv2_panels.py"), str(port), str(broker_port), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the panels could not connect"
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate("quit\n", timeout=20)


def order_events(process: subprocess.Popen[str], seconds: float, per_s: float) -> Events:
    """Have the panels open and restore zones."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"events {seconds} {per_s}\n")
    process.stdin.flush()
    return msgspec.json.decode(process.stdout.readline(), type=Events)


def wait_until_idle(daemon: measure.ServerProcess) -> None:
    """Wait until the daemon has done what is left of its work, such as telling the broker of new panels."""
    for _ in range(_IDLE_TRIES_COUNT):
        before = daemon.cpu_ns()
        time.sleep(_SETTLE_S)
        if daemon.cpu_ns() - before < _IDLE_SHARE * _SETTLE_S * 1e9:
            return
    raise AssertionError("the daemon does not come to rest")


def run_once(
    folder: Path, broker_port: int, count: int, given: argparse.Namespace, *, has_mqtt: bool = True
) -> Figures:
    """Start a daemon and panels, and measure everything once."""
    folder.mkdir()
    told_port = broker_port if has_mqtt else 0
    with measure.serving("itv2_daemon.py", str(folder), str(count), str(told_port)) as daemon:
        before = daemon.cpu_ns()
        with panels(daemon.port, broker_port, count) as load:
            wait_until_idle(daemon)
            connect_ns = daemon.cpu_ns() - before
            connected = daemon.rss_bytes()
            before = daemon.cpu_ns()
            time.sleep(given.idle_s)
            idle_ns = daemon.cpu_ns() - before
            order_events(load, 1.0, given.per_s)
            time.sleep(_SETTLE_S)
            before, loop_before = daemon.cpu_ns(), daemon.loop_cpu_ns()
            events = order_events(load, given.seconds, given.per_s)
            event_ns, loop_ns = daemon.cpu_ns() - before, daemon.loop_cpu_ns() - loop_before
            busy = daemon.rss_bytes()
    return Figures(
        count,
        connect_ns / 1e6 / count,
        idle_ns / 1e6 / count / given.idle_s * 60,
        event_ns / 1e3 / events.sent_count,
        loop_ns / 1e3 / events.sent_count,
        events,
        connected / 1024,
        busy / 1024,
    )


def read_options() -> argparse.Namespace:
    """Read the command line; ``--help`` and mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="10 s idle and 3 s of events: a look, not a result"
    )
    parser.add_argument("--panels", type=int, default=500, help="panels at once; 500 without it")
    parser.add_argument(
        "--per-s", type=float, default=250.0, help="events of all panels per second; 250 without it"
    )
    parser.add_argument(
        "--idle-s", type=float, default=0.0, help="length of the silence; 90 without it: two polls"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="length of the events; 15 without it")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a gate is not kept")
    given = parser.parse_args()
    given.idle_s = given.idle_s or (10.0 if given.quick else 90.0)
    given.seconds = given.seconds or (3.0 if given.quick else 15.0)
    return given


async def measure_all(given: argparse.Namespace) -> tuple[Figures, Figures, Figures]:
    """Measure one panel, which is the daemon itself, then many, then many of which nothing is published."""
    users = [MqttUser(name, Secret(BROKER_PASSWORD)) for name in ("gateway", "watcher")]
    alone = argparse.Namespace(**vars(given) | {"idle_s": 0.1, "seconds": 1.0, "per_s": 20.0})
    bare = argparse.Namespace(**vars(given) | {"idle_s": 0.1})
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as folder:
        async with MosquittoServer(users=users) as broker:
            one = await asyncio.to_thread(run_once, Path(folder) / "one", broker.port, 1, alone)
        async with MosquittoServer(users=users) as broker:
            many = await asyncio.to_thread(run_once, Path(folder) / "many", broker.port, given.panels, given)
            silent = await asyncio.to_thread(
                run_once, Path(folder) / "silent", broker.port, given.panels, bare, has_mqtt=False
            )
    return one, many, silent


def main() -> int:
    """Measure, print, write, and judge."""
    given = read_options()
    with measure.alone():
        one, many, silent = asyncio.run(measure_all(given))
    more = many.panels - one.panels
    connected_kib = (many.connected_kib - one.connected_kib) / more
    busy_kib = (many.busy_kib - one.busy_kib) / more
    events = many.events
    print(f"{many.panels} panels, {events.sent_count} events in {events.seconds:.1f} s, all with one daemon")
    storing_us = many.event_cpu_us - many.event_loop_us
    mqtt_us = many.event_loop_us - silent.event_loop_us
    print(f"CPU per event                  {many.event_cpu_us:8.0f} us")
    print(f"  session, state, history call {silent.event_loop_us:8.0f} us, measured without a broker")
    print(f"  MQTT                         {mqtt_us:8.0f} us, what a broker adds to the event loop")
    print(f"  storing                      {storing_us:8.0f} us, in threads beside the event loop")
    print(f"CPU per idle panel and minute  {many.idle_cpu_ms_per_panel_minute:8.3f} ms")
    print(
        f"CPU to connect and be read     {many.connect_cpu_ms_per_panel:8.2f} ms per panel,"
        f" {silent.connect_cpu_ms_per_panel:.2f} ms without a broker"
    )
    print(f"memory per panel, connected    {connected_kib:8.1f} KiB")
    print(f"memory per panel, after events {busy_kib:8.1f} KiB")
    print(
        f"packet to MQTT subscriber      {events.p50_ms:8.1f} ms median, {events.p99_ms:.1f} ms p99,"
        f" {events.max_ms:.1f} ms at most; {events.sent_count - events.seen_count} not seen"
    )
    gates = [
        measure.Gate("memory per panel, KiB", max(connected_kib, busy_kib), MEMORY_GATE_KIB),
        measure.Gate("p99 from packet to MQTT subscriber, ms", events.p99_ms, LATE_GATE_MS),
        measure.Gate("events that no subscriber saw", events.sent_count - events.seen_count, 0),
    ]
    measure.write_results(
        "itv2",
        {
            "panels": many.panels,
            "events": events,
            "event_cpu_us": many.event_cpu_us,
            "event_loop_us": many.event_loop_us,
            "event_loop_without_mqtt_us": silent.event_loop_us,
            "idle_cpu_ms_per_panel_minute": many.idle_cpu_ms_per_panel_minute,
            "connect_cpu_ms_per_panel": many.connect_cpu_ms_per_panel,
            "connect_without_mqtt_cpu_ms_per_panel": silent.connect_cpu_ms_per_panel,
            "connected_kib_per_panel": connected_kib,
            "busy_kib_per_panel": busy_kib,
        },
        gates,
    )
    return 1 if given.strict and not all(gate.is_kept for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(main())
