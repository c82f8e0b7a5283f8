"""One simulator as a process: ``python -m sojourn.gateways.exchange.sim.main``, settings as JSON on standard input.

When it can be reached it prints one line of JSON, ``{"address": ..., "simulator": ..., "run": ..., "pid": ...}``, and
nothing more. It ends on SIGTERM, when it is drained, and when its owner is silent for too long. Exit codes: 0 ended
as it should, 2 settings that are wrong, every problem on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sojourn.core.loop import run
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.market.prices import Replay, read_replay
from sojourn.gateways.exchange.sim.settings import ServiceSettings, read_settings

if TYPE_CHECKING:
    from sojourn.gateways.exchange.sim.service import SimulatorService

SETTINGS_BYTES: Final = 1024 * 1024
"""Longest settings: two hundred instruments, with room."""
BAD_SETTINGS: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the end; return the exit code."""
    parser = argparse.ArgumentParser(description="A simulated exchange for one user session, over gRPC.")
    parser.add_argument("--settings", metavar="FILE", help="JSON; by default standard input")
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end with this process, which has started us"
    )
    options = parser.parse_args(arguments)
    if options.parent is not None and not die_with(options.parent):
        return 0
    try:
        settings = read_file(options.settings)
        replay = read_prices(settings)
        run(serve(settings, replay, print_ready))
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's own words
        return BAD_SETTINGS
    return 0


async def serve(
    settings: ServiceSettings,
    replay: dict[str, Replay],
    on_ready: Callable[[SimulatorService], Awaitable[None]],
) -> None:
    """Serve one simulator until it ends, or a signal ends it; a second one does so at once.

    Args:
        settings: of the process.
        replay: prices that the market follows, by symbol.
        on_ready: called when it can be reached; goes on beside it, and is canceled at the end.
    Raises: ConfigError.
    """
    # Loaded here: a program that only reads settings does not need gRPC.
    from sojourn.gateways.exchange.sim.service import SimulatorService  # noqa: PLC0415 - as above

    try:
        service = SimulatorService(settings, replay)
    except ValueError as error:
        raise ConfigError([Problem("settings", 0, "market", "", str(error), "a market")]) from None
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def end() -> None:
        if service.ended_because and task is not None:
            task.cancel()
        service.stop("told to")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await _serve(service, on_ready)
    except asyncio.CancelledError:
        if not service.ended_because:
            raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _serve(service: SimulatorService, on_ready: Callable[[SimulatorService], Awaitable[None]]) -> None:
    ready = asyncio.Event()

    async def go_on_beside() -> None:
        await ready.wait()
        await on_ready(service)

    try:
        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(go_on_beside())
            try:
                await service.run(lambda _: ready.set())
            finally:
                beside.cancel()
    except* ConfigError as group:
        raise group.exceptions[0] from None


async def print_ready(service: SimulatorService) -> None:
    """Say where the simulator can be reached, and nothing more after that."""
    line = {
        "address": service.address,
        "simulator": service.settings.simulator,
        "run": service.desk.run,
        "pid": os.getpid(),
    }
    # Not print: standard output may be a pipe whose reader has gone.
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        return


def read_prices(settings: ServiceSettings) -> dict[str, Replay]:
    """Read the prices that the market is to follow; empty if it follows none.

    Raises: ConfigError if the file is not in the directory for such files, or is none.
    """
    name = settings.market.replay_file
    if not name:
        return {}
    if not settings.replay_directory or name != Path(name).name or name in (".", ".."):
        wanted = "the name of a file in the directory for such files (replay_directory)"
        raise ConfigError([Problem("settings", 0, "market", "replay_file", repr(name), wanted)])
    path = Path(settings.replay_directory, name)
    try:
        with path.open(encoding="utf-8", errors="backslashreplace", newline="") as lines:
            return read_replay(lines, name)
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    "settings", 0, "market", "replay_file", error.strerror or "an error", "a file of prices"
                )
            ]
        ) from None


def die_with(parent: int) -> bool:
    """Tie our life to the process that has started us; False if it is gone already."""
    from sojourn.embedded.guard import PR_SET_PDEATHSIG, prctl  # noqa: PLC0415 - a gateway may do so only late

    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def read_file(file: str | None) -> ServiceSettings:
    """Read the settings from a file, or from standard input. Raises: ConfigError."""
    if file is None:
        text, name = sys.stdin.buffer.read(SETTINGS_BYTES + 1), "standard input"
    else:
        name = file
        try:
            with Path(file).open("rb") as opened:
                text = opened.read(SETTINGS_BYTES + 1)
        except OSError as error:
            raise ConfigError([Problem(file, 0, "", "", error.strerror or "an error", "a file")]) from None
    if len(text) > SETTINGS_BYTES:
        raise ConfigError([Problem(name, 0, "", "", "too much", f"at most {SETTINGS_BYTES} bytes")])
    return read_settings(text, name)


if __name__ == "__main__":
    sys.exit(main())
