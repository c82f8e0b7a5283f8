"""``sojourn simulate exchange``: a simulator that a person starts, and what is to be seen of it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from exchange_sim_lab import channel_to, eventually, submit_of, taking

from sojourn.gateways.exchange.sim.link import ask_status

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@asynccontextmanager
async def simulate(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from sojourn.cli.main import main; main()",
        "simulate",
        "exchange",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def test_a_program_reads_where_it_is(run: Run, tmp_path: Path) -> None:
    """Into a pipe: one line of JSON, and an end on Ctrl-C without a word."""
    settings = tmp_path / "settings.json"
    settings.write_text('{"simulator": "mine", "market": {"seed": 3}}')
    prices = tmp_path / "prices.csv"
    prices.write_text("time_s,symbol,price\n0,AAPL,171\n")

    async def main() -> None:
        async with simulate("--settings", str(settings), "--replay", str(prices), "--speed", "2") as process:
            line = msgspec.json.decode(await process.stdout.readline())
            assert (await ask_status(line["address"])).simulator == line["simulator"] == "mine"
            process.send_signal(signal.SIGINT)
            assert await process.communicate() == (b"", b"")
            assert process.returncode == 0

    run(main())


def answers(path: Path) -> bool:
    """Say whether somebody listens: the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_a_person_sees_the_market_and_what_was_traded(run: Run, tmp_path: Path) -> None:
    """On a terminal, or when asked to: quotes, cash and the last events."""

    place = tmp_path / "sim.sock"

    async def main() -> None:
        # Not a terminal: what is drawn again and again there is drawn once here, at the end.
        async with simulate("--interactive", "--listen", f"unix:{place}", "--seed", "4") as process:
            await eventually(lambda: answers(place))
            async with channel_to(f"unix:{place}") as channel:
                await channel.call("SubmitOrder", submit_of(taking("t", quantity=3)), 5.0)
            process.send_signal(signal.SIGTERM)
            output, errors = await process.communicate()
        shown = output.decode()
        assert "sim.sock" in shown.replace("\n", "")  # a long path goes on in the next line
        for words in ("AAPL", "TSLA", "bid", "owner of epoch 1", "3 of 3", "filled"):
            assert words in shown, words
        assert errors == b"the simulator has ended\n"
        assert process.returncode == 0

    run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "192.0.2.1:1"], b"192.0.2.1:1"),
        (["--speed", "-1"], b"speed"),
        (["--settings", "/nowhere.json"], b"nowhere.json"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: list[str], said: bytes) -> None:
    """Exit code 2, and no traceback."""

    async def main() -> None:
        async with simulate(*arguments) as process:
            output, errors = await process.communicate()
        assert (process.returncode, output) == (2, b"")
        assert said in errors
        assert b"Traceback" not in errors

    run(main())
