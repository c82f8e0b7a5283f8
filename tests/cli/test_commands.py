"""Commands that need no server: run, check, config, decode, tacacs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from sojourn import __version__
from sojourn.cli.main import app
from sojourn.core.secret import Secret
from sojourn.gateways.tacacs.passwords import new_seal_key, unseal, verify_password

KEY = "k" * 32
CONFIGURATION = f"""\
[tacacs]
seal_key = "${{env:SEAL_KEY}}"
[[tacacs.listeners]]
address = "127.0.0.1:0"
[[tacacs.accounting.files]]
name = "records"
path = "records.jsonl"
[[tacacs.devices]]
name = "core-1"
networks = ["192.0.2.0/24"]
groups = ["core"]
[[tacacs.devices.secrets]]
value = "{KEY}"
[[tacacs.users]]
name = "ana"
groups = ["operators"]
[[tacacs.rules]]
name = "operators-show"
device_groups = ["core"]
user_groups = ["operators"]
services = ["shell"]
commands = ["show"]
"""


def sojourn(*arguments: str, given: str | None = None, **environ: str) -> Result:
    """Run one command in this process."""
    return CliRunner().invoke(app, list(arguments), input=given, env=environ)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration file, and an environment in which nothing else is found."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.toml"
    monkeypatch.setenv("SEAL_KEY", new_seal_key().reveal())
    file.write_text(CONFIGURATION)
    return str(file)


def commands(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with what is typed for it."""
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *names, name)
    yield names, command


def test_help_is_shown_as_it_is_written() -> None:
    """A word in square brackets is markup to whoever draws the help, and gone."""
    for names, command in commands(typer.main.get_command(app)):
        texts = [command.help or "", *(getattr(parameter, "help", "") or "" for parameter in command.params)]
        words = {word for text in texts for word in text.split()}
        shown = sojourn(*names, "--help", COLUMNS="1000").output
        assert not {word for word in words if word not in shown}, names


def test_no_arguments_show_the_help() -> None:
    """Someone who types only the name learns what there is."""
    result = sojourn()
    assert result.exit_code == 0
    for command in ("run", "check", "config", "sessions", "trace", "decode", "probe", "tacacs", "drain"):
        assert command in result.output


def test_the_version_is_printed() -> None:
    """--version says what is installed."""
    assert sojourn("--version").output == f"sojourn {__version__}\n"


def test_the_installed_command_exists() -> None:
    """The entry point works as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from sojourn.cli.main import main; main()", "decode", "tacacs", "zz"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: found other characters, wanted hexadecimal digits")
    assert "Traceback" not in done.stderr


def test_check_says_that_all_is_well(config: str) -> None:
    """Exit code 0."""
    result = sojourn("check", "--config", config)
    assert (result.exit_code, result.output) == (0, f"{config}: no problems\n")


@pytest.mark.parametrize("command", [["check"], ["run"], ["config", "show"]])
def test_every_problem_of_the_configuration_is_printed_and_nothing_starts(
    tmp_path: Path, command: list[str]
) -> None:
    """Exit code 2, one line for each problem, no traceback."""
    file = tmp_path / "bad.toml"
    file.write_text('[log]\nlevel = "loud"\n[admin]\nadress = ""\n')
    result = sojourn(*command, "--config", str(file))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [f"{file}:2", f"{file}:4"]
    assert lines[2] == "2 problems; nothing was started."


def test_a_running_server_is_found_whatever_else_is_wrong_with_the_file(tmp_path: Path) -> None:
    """It runs on the configuration that it has read before; only where its socket is must be sound."""
    file = tmp_path / "bad.toml"
    file.write_text(f'[admin]\nsocket = "{tmp_path}/absent.sock"\n[log]\nlevel = "loud"\n')
    result = sojourn("sessions", "list", "--config", str(file))
    assert result.exit_code == 1
    assert "absent.sock: No such file or directory" in result.stderr
    file.write_text('[admin]\nadress = ""\n[log]\nlevel = "loud"\n')
    result = sojourn("sessions", "list", "--config", str(file))
    assert result.exit_code == 2
    assert "admin.adress" in result.stderr
    assert "log.level" not in result.stderr


def test_a_variable_may_name_the_configuration(config: str) -> None:
    """SOJOURN_CONFIG is the same as --config; ./sojourn.toml is found without either."""
    assert "core-1" in sojourn("config", "show", SOJOURN_CONFIG=config).output
    Path(config).rename("sojourn.toml")
    assert "core-1" in sojourn("config", "show").output


def test_config_show_masks_secrets(config: str) -> None:
    """What is printed may be sent to somebody who helps."""
    result = sojourn("config", "show", "--config", config, SOJOURN__LOG__LEVEL="debug")
    assert 'level = "debug"' in result.output
    assert 'value = "***"' in result.output
    assert KEY not in result.output


def test_config_example_can_be_checked(tmp_path: Path) -> None:
    """The example that the command prints is a configuration without problems."""
    file = tmp_path / "sojourn.toml"
    file.write_text(sojourn("config", "example").output)
    assert sojourn("check", "--config", str(file)).exit_code == 0
    assert sojourn("config", "reference").output.startswith("# Settings\n")


@pytest.mark.parametrize("bad", ["--limit=0", "--state=asleep", "--nonsense"])
def test_bad_usage_is_exit_code_2(bad: str) -> None:
    """A shell script can tell bad usage from failure."""
    assert sojourn("sessions", "list", bad).exit_code == 2


def test_decode_reads_packets_from_standard_input() -> None:
    """Hex from a capture, with spaces and line ends, gives the header in words."""
    result = sojourn("decode", "tacacs", given="c0 01 01 01 00 00 00 2a\n00 00 00 00\n")
    assert result.exit_code == 0
    assert "session_id   0x0000002a" in result.output


def test_decode_takes_a_key_from_a_variable_or_a_file(tmp_path: Path) -> None:
    """A key is never an argument."""
    (tmp_path / "key").write_text(KEY + "\n")
    for option in (["--key-env", "K"], ["--key-file", str(tmp_path / "key")]):
        assert sojourn("decode", "tacacs", "c001010100000000" + "00000000", *option, K=KEY).exit_code == 0
    assert sojourn("decode", "tacacs", "00", "--key-env", "ABSENT").exit_code == 2
    assert sojourn("decode", "tacacs", "00", "--key-env", "K", "--key-file", "x", K=KEY).exit_code == 2


def test_decode_reads_itv2_packets_with_an_access_code() -> None:
    """Clear packets need none; with a code it is never an argument."""
    poll = "7e060504060016aa7f"
    result = sojourn("decode", "itv2", given=f"{poll}\n{poll}\n")
    assert result.exit_code == 0
    assert result.output.count("message      Poll") == 2
    assert sojourn("decode", "itv2", poll, "--key-env", "K", K="87654321").exit_code == 0
    assert sojourn("decode", "itv2", poll, "--key-env", "ABSENT").exit_code == 2
    assert sojourn("decode", "itv2", "zz").exit_code != 0


def explain(config: str, *arguments: str) -> Result:
    """Ask why ana may or may not do something on core-1."""
    return sojourn("tacacs", "explain", "--config", config, "--user", "ana", *arguments)


def test_explain_names_the_deciding_rule(config: str) -> None:
    """Exit code 0 means permit; a device is found by name or by address."""
    for device in ("core-1", "192.0.2.77"):
        result = explain(config, "--device", device, "--cmd", "show interfaces")
        assert result.exit_code == 0
        assert "operators-show" in result.output
        assert "permit" in result.output


def test_explain_says_why_nothing_matched(config: str) -> None:
    """Exit code 1 means deny."""
    result = explain(config, "--device", "core-1", "--cmd", "reload", "--at", "2026-01-01T12:00")
    assert result.exit_code == 1
    assert "(none)" in result.output
    assert "deny" in result.output


def test_explain_needs_a_known_device_and_a_readable_time(config: str) -> None:
    """What cannot be answered is said in one line."""
    result = explain(config, "--device", "nowhere")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        1,
        "error: no device is named or contains 'nowhere'",
    )
    assert explain(config, "--device", "core-1", "--at", "noon").exit_code == 2


def test_hash_password_prints_a_hash_of_what_it_was_given(tmp_path: Path) -> None:
    """From a variable, a file or standard input, never from the arguments."""
    (tmp_path / "p").write_text("pass word\n")
    for option in (
        ["--password-env", "P"],
        ["--password-file", str(tmp_path / "p")],
        ["--password-file", "-"],
    ):
        result = sojourn("tacacs", "hash-password", *option, given="pass word\n", P="pass word")
        assert result.exit_code == 0
        assert verify_password(result.output.strip(), b"pass word")


def test_hash_password_without_a_terminal_says_what_to_use() -> None:
    """A script does not hang on a prompt that nobody sees."""
    result = sojourn("tacacs", "hash-password", given="")
    assert result.exit_code == 2
    assert "--password-env" in result.output


def test_hash_password_seals_for_one_user(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seal key comes from the configuration."""
    key = new_seal_key().reveal()
    monkeypatch.setenv("SEAL_KEY", key)
    common = ["tacacs", "hash-password", "--sealed", "--config", config, "--password-env", "P"]
    result = sojourn(*common, "--user", "ana", P="chap secret")
    assert unseal(result.output.strip(), Secret(key), "ana") == b"chap secret"
    assert sojourn(*common, P="chap secret").exit_code == 2


def test_import_writes_a_private_file_and_lists_what_has_no_place(tmp_path: Path) -> None:
    """Keys are in the new file, so only its owner may read it; an existing file is never overwritten."""
    old, new = tmp_path / "tac_plus.conf", tmp_path / "sojourn.toml"
    old.write_text(f'key = "{KEY}"\nno_such_thing = 1\nuser = ana {{\n  login = cleartext "pass word"\n}}\n')
    result = sojourn("tacacs", "import", str(old), "--output", str(new))
    assert result.exit_code == 0
    assert f"{old}:2: " in result.stderr
    assert new.stat().st_mode & 0o777 == 0o600
    assert 'name = "ana"' in new.read_text()
    assert "pass word" not in new.read_text()
    assert sojourn("tacacs", "import", str(old), "--output", str(new)).exit_code == 1
    assert 'name = "ana"' in sojourn("tacacs", "import", str(old)).stdout


def test_import_seals_challenge_secrets_with_a_key_of_ours(tmp_path: Path) -> None:
    """A CHAP secret must stay recoverable, but not readable."""
    old, key = tmp_path / "tac_plus.conf", new_seal_key().reveal()
    old.write_text(f'key = "{KEY}"\nuser = ana {{\n  chap = cleartext "chap secret"\n}}\n')
    result = sojourn("tacacs", "import", str(old), "--seal-key-env", "S", S=key)
    assert result.exit_code == 0
    assert "sealed:" in result.stdout
    assert "${env:S}" in result.stdout
    assert "chap secret" not in result.output
    assert sojourn("tacacs", "import", str(old), "--seal-key-env", "S", S="no key").exit_code == 2
