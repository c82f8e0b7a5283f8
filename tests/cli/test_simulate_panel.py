"""``sojourn simulate panel`` and ``sojourn probe itv2``: a panel that a person starts, against the real gateway."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from itv2_simulator_lab import ID, TYPE_1, TYPE_2, identity, simulator_lab
from rich.console import Console

from sojourn.cli.simulate_panel_screen import PanelScreen, Prompt
from sojourn.core.secret import Secret
from sojourn.gateways.itv2.commands import ArmPartition
from sojourn.gateways.itv2.config import Timing
from sojourn.gateways.itv2.messages import ArmingMode
from sojourn.gateways.itv2.peer import SimulatedPanel

WITHIN_S = 30.0


@asynccontextmanager
async def sojourn(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from sojourn.cli.main import main; main()",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def outcome(*arguments: str, stdin: str = "") -> tuple[int | None, str, str]:
    """Exit code, output and errors of one command."""
    async with sojourn(*arguments) as process, asyncio.timeout(WITHIN_S):
        out, err = await process.communicate(stdin.encode())
        return process.returncode, out.decode(), err.decode()


SCRIPT = """
title = "short"
speed = 20.0
[[step]]
at = 2
do = "open zone 5"
say = "a window"
[[step]]
at = 4
do = "close zone 5"
"""


def test_a_script_is_lived_through_and_acknowledged(run, tmp_path: Path) -> None:
    """One panel, by lines: the handshake in words, what the script says, and how much was acknowledged."""

    async def main() -> None:
        script = tmp_path / "short.toml"
        script.write_text(SCRIPT)
        async with simulator_lab(tmp_path) as lab:
            code, out, err = await outcome(
                "simulate",
                "panel",
                "--server",
                f"127.0.0.1:{lab.port}",
                "--script",
                str(script),
                "--type2-code-file",
                "-",
                stdin=f"{TYPE_2}\n",
            )
            assert code == 0, err
            assert out.splitlines()[0] == "a window"
            assert out.splitlines()[1].endswith("messages acknowledged, 0 lost in full queues")
            assert f"{ID}: connected" in err
            assert TYPE_2 not in out + err
            assert [one.zone for one in await lab.history("zone_opened")] == [5]

    run(main())


def test_many_panels_live_in_one_process(run, tmp_path: Path) -> None:
    """``--count``: consecutive ids, the same script for each, said once."""

    async def main() -> None:
        script = tmp_path / "short.toml"
        script.write_text(SCRIPT)
        async with simulator_lab(tmp_path, count=3) as lab:
            arguments = ("--server", f"127.0.0.1:{lab.port}", "--script", str(script), "--count", "3")
            code, out, err = await outcome(
                "simulate", "panel", *arguments, "--type2-code-file", "-", stdin=f"{TYPE_2}\n"
            )
            assert (code, out.count("a window")) == (0, 1), err
            for number in range(3):
                assert [one.zone for one in await lab.history("zone_opened", number=number)] == [5]

    run(main())


def test_without_a_script_a_panel_stays_until_ctrl_c(run, tmp_path: Path) -> None:
    """A quiet end: exit code 0."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab:
            server = f"127.0.0.1:{lab.port}"
            async with sojourn("simulate", "panel", "--server", server, "--type2-code-file", "-") as process:
                assert process.stdin is not None
                process.stdin.write(f"{TYPE_2}\n".encode())
                process.stdin.write_eof()
                await lab.until(lambda: lab.panel().phase == "connected")
                process.send_signal(signal.SIGINT)
                async with asyncio.timeout(WITHIN_S):
                    await process.communicate()
                assert process.returncode == 0

    run(main())


def test_orders_come_from_a_pipe_and_the_servers_are_printed(run, tmp_path: Path) -> None:
    """``--lines``: for scripts in a shell; it ends when the pipe does and all is acknowledged."""

    async def main() -> None:
        (tmp_path / "code").write_text(TYPE_2)
        (tmp_path / "code").chmod(0o600)
        async with simulator_lab(tmp_path) as lab:
            server = ("--server", f"127.0.0.1:{lab.port}", "--type2-code-file", str(tmp_path / "code"))
            async with sojourn("simulate", "panel", "--lines", *server) as process, asyncio.timeout(WITHIN_S):
                assert process.stdin is not None
                assert process.stdout is not None
                await lab.until(lambda: lab.panel().phase == "connected")
                await lab.order(ArmPartition(1, ArmingMode.AWAY, Secret("1234")))
                said = (await process.stdout.readline()).decode()
                assert said == "the server orders: Arm partition 1 away code ***\n"
                process.stdin.write(b"disarm 1234\nopen zone 5\ndance\n")
                process.stdin.write_eof()
                out, err = await process.communicate()
            assert process.returncode == 0, err
            first, second, third, last = out.decode().splitlines()
            assert (first, second) == ("disarm: done", "open: done")
            assert third.startswith("found 'dance', wanted one of")
            assert last.endswith("messages acknowledged, 0 lost in full queues")
            assert [(one.zone, one.source) for one in await lab.history("zone_opened")] == [(5, "live")]

    run(main())


@pytest.mark.parametrize("what", ["script", "lines"])
def test_who_cannot_connect_ends_with_an_error_in_words(run, tmp_path: Path, what: str) -> None:
    """A script that waits for ever looks as if it worked."""

    async def main() -> None:
        (tmp_path / "code").write_text(TYPE_2)
        (tmp_path / "code").chmod(0o600)
        nobody = (
            "--server",
            "127.0.0.1:9",
            "--timeout-s",
            "0.5",
            "--type2-code-file",
            str(tmp_path / "code"),
        )
        options = ("--script", "burglary.toml") if what == "script" else ("--lines",)
        code, out, err = await outcome("simulate", "panel", *options, *nobody)
        assert code == 1
        assert (
            f"error: the server at 127.0.0.1:9 unavailable after 0.500 s: panel {ID} has not connected" in err
        )
        assert "cannot dial" in err.splitlines()[-1]
        assert not out

    run(main())


def test_a_burglary_is_live_from_its_first_step_at_any_speed(run, tmp_path: Path) -> None:
    """What a panel says before it was quiet for two seconds is old news to a server, and raises no alarm."""

    async def main() -> None:
        async with simulator_lab(tmp_path, timing={"replay_quiet_s": Timing().replay_quiet_s}) as lab:
            code, _, err = await outcome(
                "simulate",
                "panel",
                "--server",
                f"127.0.0.1:{lab.port}",
                *("--script", "burglary.toml", "--speed", "400"),
                *("--type2-code-file", "-"),
                stdin=f"{TYPE_2}\n",
            )
            assert code == 0, err
            for kind in ("zone_opened", "armed", "disarmed"):
                assert {one.source for one in await lab.history(kind)} == {"live"}

    run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--id", "123"), "12 digits"),
        (("--script", "nowhere"), "a_day.toml"),
        (("--type1-code-file", "-"), "without --type1"),
        (("--server", "there:x"), "wanted a number"),
        (("--count", "2", "--interactive"), "one panel at a time"),
        (("--lines",), "file or variable"),
    ],
)
def test_bad_arguments_get_one_clear_line(run, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, and no code in the words."""

    async def main() -> None:
        options = () if "--type1-code-file" in arguments else ("--type2-code-file", "-")
        code, _, err = await outcome("simulate", "panel", *options, *arguments, stdin=f"{TYPE_2}\n")
        assert code == 2, err
        assert said in " ".join(err.replace("│", " ").split())
        assert TYPE_2 not in err

    run(main())


def test_a_code_that_is_none_is_not_shown(run) -> None:
    """House rule: secrets appear nowhere."""

    async def main() -> None:
        code, _, err = await outcome("simulate", "panel", "--type2-code-file", "-", stdin="notacode99\n")
        assert code == 2
        assert "32 hex digits" in err
        assert "notacode99" not in err

    run(main())


@pytest.mark.parametrize("encryption_type", [1, 2])
def test_a_probe_tells_every_step(run, tmp_path: Path, encryption_type: int) -> None:
    """All the way: exit code 0."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab:
            which = ("--type1", "--type1-code-file") if encryption_type == 1 else ("--type2-code-file",)
            code, out, err = await outcome(
                "probe",
                "itv2",
                f"127.0.0.1:{lab.port}",
                "--id",
                ID,
                *which,
                "-",
                stdin=f"{TYPE_1 if encryption_type == 1 else TYPE_2}\n",
            )
            assert code == 0, out + err
            for words in ("1 OpenSession", "8 response", "12 connected", "poll", "end"):
                assert words in out
            assert "RequestLabels" not in repr(lab.told)

    run(main())


def test_a_probe_says_what_is_wrong(run, tmp_path: Path) -> None:
    """A wrong code, an unknown id, and nobody there: exit code 1, one error and what to try next."""

    async def main() -> None:
        async with simulator_lab(tmp_path, timing={"step_timeout_s": 1.0}) as lab:
            address = f"127.0.0.1:{lab.port}"
            probe = ("probe", "itv2", address, "--type2-code-file", "-")
            code, _, err = await outcome(*probe, "--id", ID, stdin="F" * 32 + "\n")
            assert code == 1
            assert "next: compare this code" in err
            code, _, err = await outcome(*probe, "--id", identity(9).integration_id, stdin=f"{TYPE_2}\n")
            assert code == 1
            assert "next: is this id configured" in err
        code, _, err = await outcome(*probe, "--id", ID, stdin=f"{TYPE_2}\n")
        assert code == 1
        assert "cannot dial" in err
        assert "next: does the server run there" in err

    run(main())


def test_the_screen_shows_the_house_and_takes_orders() -> None:
    """What is typed is done, what is not understood is said; ``quit`` ends it."""
    panel = SimulatedPanel(identity(), "127.0.0.1", 9, seed=1)
    prompt = Prompt()
    screen = PanelScreen(panel, prompt)
    prompt.type("open 5\rarm awau\x7fy\rhelp\rdance\r\x15arm st")
    screen.obey()
    output = io.StringIO()
    Console(file=output, width=100).print(screen.draw())
    text = output.getvalue()
    assert "Kitchen Window  open" in text
    assert "not ready" in text
    assert "\nnot ready, or armed already" in text
    assert "found 'dance', wanted one of" in " ".join(text.split())
    assert text.rstrip().endswith("> arm st_")
    prompt.type("\x15quit\n")
    screen.obey()
    assert prompt.is_over
