"""The whole daemon as operators meet it: a process, a configuration file, commands and signals."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, configuration, following, running_daemon, sojourn
from prometheus_client.parser import text_string_to_metric_families
from tacacs_lab import (
    KEY,
    PASSWORD,
    SEAL_KEY,
    WRONG_KEY,
    Wire,
    author,
    command,
    hashed,
    pap,
    record,
    start,
    typed,
)

from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, AuthenType, AuthorStatus
from sojourn.gateways.tacacs.peer import TacacsClient

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Give a running daemon with one device and the user ana."""
    with running_daemon(tmp_path) as one:
        yield one


@contextlib.asynccontextmanager
async def open_session(port: int) -> Any:
    """Begin an ASCII login and leave it at the question for the password; give its wire and session_id."""
    async with Wire(port) as wire:
        reply = await wire.ask(start(AuthenType.ASCII))
        assert reply.status == AuthenStatus.GETPASS
        yield wire, reply.session_id


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Make a blocking call while the wire stays open."""
    return await asyncio.to_thread(call, *arguments)


def read(url: str) -> tuple[int, str]:
    """Get a page; return its status and text."""
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# Commands


def test_a_configuration_is_checked_before_it_runs(tmp_path: Path) -> None:
    """A sound one is exit code 0; what should be mended is a warning, not a failure."""
    text = configuration(tmp_path) + '[[tacacs.devices]]\nname = "old"\nnetworks = ["192.0.2.1"]\n'
    text += f'secrets = [{{ value = "{KEY.decode()[:20]}", since = 2001-01-01 }}]\n'
    (tmp_path / "sojourn.toml").write_text(text)
    done = sojourn(tmp_path, "check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'sojourn.toml'}: no problems\n"
    assert done.stderr.splitlines() == [
        "warning: tacacs: key 1 of device old: older than 365 days",
        "warning: tacacs: key 1 of device old: shorter than 32 characters",
    ]


def test_sessions_are_listed_shown_and_closed(daemon: DaemonProcess, run: Run) -> None:
    """An open session is found by its user, and ends when it is told to."""

    async def scene() -> None:
        async with open_session(daemon.port) as (wire, _):
            listed = await in_thread(daemon.sojourn, "sessions", "list", "--state", "open", "--search", "ana")
            (row,) = listed.stdout.splitlines()[1:]
            session_id = row.split()[0]
            assert row.split()[1:5] == ["tacacs", wire_address(wire), "ana", "open"]
            shown = await in_thread(daemon.sojourn, "sessions", "show", session_id)
            assert ["about", "ana"] in [line.split() for line in shown.stdout.splitlines()]
            closed = await in_thread(daemon.sojourn, "sessions", "close", session_id)
            assert (closed.returncode, closed.stdout) == (0, f"session {session_id} was told to end\n")
            shown = await in_thread(daemon.sojourn, "sessions", "show", session_id)
            assert "closed by the operator" in shown.stdout
            again = await in_thread(daemon.sojourn, "sessions", "close", session_id)
            assert again.returncode == 1

    run(scene())
    order = daemon.wait_for("admin.order", what="close session tacacs-1", outcome="done")
    assert order["who"].startswith("local user ")
    assert daemon.wait_for("admin.order", 2, what="close session tacacs-1")["outcome"] == "refused: Not Found"


def wire_address(wire: Wire) -> str:
    """Return how the server calls a wire's end."""
    host, port = wire.writer.get_extra_info("sockname")
    return f"{host}:{port}"


def test_sessions_are_watched_until_ctrl_c(daemon: DaemonProcess, run: Run) -> None:
    """Every look is printed, and Ctrl-C is a clean end."""

    async def scene() -> int:
        async with open_session(daemon.port):
            with following(daemon.folder, "sessions", "watch", "--interval-s", "0.1") as watch:
                assert watch.stdout is not None
                line = ""
                while "tacacs-1" not in line:
                    line = await in_thread(watch.stdout.readline)
                    assert line, "the watch ended by itself"
                watch.send_signal(signal.SIGINT)
                return int(await in_thread(watch.wait, 20))

    assert run(scene()) == 0


def test_a_trace_is_printed_in_every_form(daemon: DaemonProcess, run: Run) -> None:
    """The specification's words, the device's name, and no password in any of them."""

    async def scene() -> None:
        async with open_session(daemon.port) as (wire, session_id):
            with following(daemon.folder, "trace", "tacacs-1", "--follow") as follow:
                assert follow.stdout is not None
                first = await in_thread(follow.stdout.readline)
                assert "-> AuthenStart LOGIN ASCII" in first
                wire.send(wire.packet(typed(PASSWORD), session_id, 3))
                assert (await wire.receive()).status == AuthenStatus.PASS
                rest = await in_thread(follow.stdout.read)
                assert await in_thread(follow.wait, 20) == 0
        assert [line.split()[3] for line in rest.splitlines()] == [
            "AuthenReply",
            "AuthenContinue",
            *("local", "local"),  # the question to the local users, and their answer
            "AuthenReply",
        ]

    run(scene())
    text = daemon.sojourn("trace", "tacacs-1").stdout
    assert "<- AuthenReply GETPASS NOECHO 'Password: ' (28 bytes)" in text
    mermaid = daemon.sojourn("trace", "tacacs-1", "--mermaid").stdout
    assert mermaid.startswith("sequenceDiagram\n    participant P as lab 127.0.0.1:")
    assert "    S->>P: AuthenReply PASS\n" in mermaid
    trace = json.loads(daemon.sojourn("trace", "tacacs-1", "--json").stdout)
    assert trace["session"]["about"] == "ana"
    assert [(entry["source"], entry["target"]) for entry in trace["entries"][:2]] == [
        ("lab", "tacacs"),
        ("tacacs", "lab"),
    ]
    assert PASSWORD not in text + mermaid + json.dumps(trace)


# Reload


MORE = """
[[tacacs.devices]]
name = "second"
networks = ["127.0.0.2"]
secrets = [{ value = "${file:device.key}" }]

[[tacacs.rules]]
name = "new-ping"
users = ["ben"]
commands = ["ping"]
"""


@pytest.mark.parametrize("way", ["command", "signal"])
def test_a_reload_reaches_the_next_session_of_a_live_connection(
    daemon: DaemonProcess, run: Run, way: str
) -> None:
    """A new device, a new user and a new rule hold at once; the connection stays."""
    port = daemon.port

    def reload() -> None:
        text = configuration(daemon.folder, users=("ana", "ben"), more=MORE)
        (daemon.folder / "sojourn.toml").write_text(text)
        if way == "signal":
            daemon.signal(signal.SIGHUP)
        else:
            done = daemon.sojourn("reload")
            assert (done.returncode, done.stdout) == (0, "the new configuration is in force\n"), done.stderr
        daemon.wait_for("server.reloaded")

    async def scene() -> None:
        async with TacacsClient("127.0.0.1", port, key=KEY, single_connect=True) as lab:
            ping = ("service=shell", "cmd=ping", "cmd-arg=<cr>")
            assert (await lab.login("ben", PASSWORD, authen_type=AuthenType.PAP)).status == "FAIL"
            assert (await lab.authorize("ben", ping)).status == "FAIL"
            async with Wire(port, "127.0.0.2") as stranger:
                await stranger.until_closed()
            await in_thread(reload)
            assert (await lab.login("ben", PASSWORD, authen_type=AuthenType.PAP)).status == "PASS"
            assert (await lab.authorize("ben", ping)).status == "PASS_ADD"
            async with Wire(port, "127.0.0.2") as second:
                assert (await second.ask(pap())).status == AuthenStatus.PASS
            assert lab.connections_count == 1

    run(scene())
    daemon.wait_for("tacacs.authentication", 3)


BROKEN = """
[[tacacs.rules]]
name = "broken"
commands = ["/(/"]
user_groups = ["nobody-is-in-it"]
"""


@pytest.mark.parametrize("way", ["command", "signal"])
def test_a_bad_reload_changes_nothing_and_names_every_problem(
    daemon: DaemonProcess, run: Run, way: str
) -> None:
    """The old configuration stays; each problem is an event, and the command prints them all."""
    (daemon.folder / "sojourn.toml").write_text(configuration(daemon.folder, users=("ben",), more=BROKEN))
    if way == "signal":
        daemon.signal(signal.SIGHUP)
    else:
        done = daemon.sojourn("reload")
        assert done.returncode == 2
        *problems, end = done.stderr.splitlines()
        assert len(problems) == 2
        assert all(re.search(r"sojourn\.toml:\d+: tacacs\.rules\[1\]\.", problem) for problem in problems)
        assert end == "2 problems; the old configuration stays in force."
    daemon.wait_for("config.refused", 2)
    text = " ".join(one["problem"] for one in daemon.events if one["event"] == "config.refused")
    assert "rules[1].commands[0]" in text
    assert "rules[1].user_groups[0]" in text
    assert not [one for one in daemon.events if one["event"] in {"server.reloaded", "server.loop_error"}]

    async def scene() -> None:
        async with Wire(daemon.port) as wire:
            assert (await wire.ask(pap("ana"))).status == AuthenStatus.PASS

    run(scene())


# Start and end


def test_a_bad_configuration_starts_nothing(tmp_path: Path) -> None:
    """Exit code 2, every problem at once with file and line, and no socket left."""
    text = configuration(tmp_path, more=BROKEN).replace('format = "json"', 'format = "yaml"')
    (tmp_path / "sojourn.toml").write_text(text)
    done = sojourn(tmp_path, "run", "--config", str(tmp_path / "sojourn.toml"))
    assert done.returncode == 2
    *problems, end = done.stderr.splitlines()
    assert all(problem.startswith(f"{tmp_path / 'sojourn.toml'}:") for problem in problems)
    assert ["log.format" in problem for problem in problems] == [True] + [False] * (len(problems) - 1)
    assert end.endswith("nothing was started.")
    assert not (tmp_path / "control.sock").exists()


def test_an_address_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """Exit code 2, the address and what is wrong with it; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = configuration(tmp_path).replace(
            '[[tacacs.listeners]]\naddress = "127.0.0.1:0"',
            f'[[tacacs.listeners]]\naddress = "127.0.0.1:{port}"',
        )
        (tmp_path / "sojourn.toml").write_text(text)
        done = sojourn(tmp_path, "run", "--config", str(tmp_path / "sojourn.toml"))
    assert done.returncode == 2
    problem, end = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert "ddress already in use" in problem
    assert f"127.0.0.1:{port}" in problem
    assert end == "1 problem; nothing was started."
    assert not (tmp_path / "control.sock").exists()


def test_a_missing_tls_file_starts_nothing(tmp_path: Path) -> None:
    """Check and run find the same problems."""
    files = f'certificate_file = "{tmp_path}/no.pem", private_key_file = "{tmp_path}/no.key"'
    tls = f'tls = {{ {files}, client_ca_file = "{tmp_path}/no.ca" }}\n'
    text = configuration(tmp_path).replace("[[tacacs.devices]]", f"{tls}\n[[tacacs.devices]]", 1)
    (tmp_path / "sojourn.toml").write_text(text)
    for words in (("check",), ("run", "--config", str(tmp_path / "sojourn.toml"))):
        done = sojourn(tmp_path, *words)
        assert done.returncode == 2
        first, second, third, end = done.stderr.splitlines()
        assert "tacacs.listeners[0].tls.certificate_file: found" in first
        assert "tacacs.listeners[0].tls.private_key_file: found" in second
        assert "tacacs.listeners[0].tls.client_ca_file: found" in third
        assert end == "3 problems; nothing was started."


def test_a_second_daemon_is_refused(daemon: DaemonProcess) -> None:
    """One server per control socket; the first goes on."""
    done = sojourn(daemon.folder, "run", "--config", str(daemon.folder / "sojourn.toml"))
    assert done.returncode == 2
    assert "control.sock, on which a server listens" in done.stderr
    assert daemon.sojourn("sessions", "list").returncode == 0


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    """What kill -9 leaves behind does not keep the next one from starting."""
    (tmp_path / "sojourn.toml").write_text(configuration(tmp_path))
    first = DaemonProcess(tmp_path)
    first.wait_for("server.started")
    first.kill()
    assert (tmp_path / "control.sock").exists()
    with running_daemon(tmp_path) as second:
        assert second.sojourn("sessions", "list").returncode == 0


@pytest.mark.parametrize("way", ["command", "SIGTERM"])
def test_a_drain_lets_open_sessions_finish(tmp_path: Path, run: Run, way: str) -> None:
    """While it drains it is not ready but healthy; when the last session has ended it exits with 0."""
    with running_daemon(tmp_path) as daemon:

        def order() -> None:
            if way == "command":
                assert daemon.sojourn("drain").stdout == "draining\n"
            else:
                daemon.signal(signal.SIGTERM)
            daemon.wait_for("server.draining")

        async def scene() -> None:
            assert read(f"{daemon.admin}/readyz")[0] == 200
            async with open_session(daemon.port) as (wire, session_id):
                await in_thread(order)
                assert (await in_thread(read, f"{daemon.admin}/readyz")) == (503, '{"ok":false}')
                assert (await in_thread(read, f"{daemon.admin}/healthz")) == (200, '{"ok":true}')
                wire.send(wire.packet(typed(PASSWORD), session_id, 3))
                assert (await wire.receive()).status == AuthenStatus.PASS

        run(scene())
        assert daemon.wait() == 0
        assert daemon.events[-1]["event"] == "server.stopped"
        assert not (tmp_path / "control.sock").exists()


# What is seen from outside


DIRECTORY = """
[[tacacs.directories]]
name = "dead"
urls = ["ldap://127.0.0.1:1"]
bind_dn = "uid={user}"
timeout_s = 1.0
"""


def test_the_metrics_are_what_prometheus_reads(tmp_path: Path, run: Run) -> None:
    """Counters of connections, sessions, events, circuit breakers and sinks, with the values that were caused."""
    with running_daemon(tmp_path, configuration(tmp_path, more=DIRECTORY)) as daemon:

        async def scene() -> None:
            async with Wire(daemon.port) as wire:
                assert (await wire.ask(pap())).status == AuthenStatus.PASS
            async with Wire(daemon.port) as wire:
                assert (await wire.ask(pap("stranger"))).status == AuthenStatus.ERROR
            async with Wire(daemon.port) as wire:
                assert (await wire.ask(record())).status == AcctStatus.SUCCESS

        run(scene())
        status, text = read(f"{daemon.admin}/metrics")
    assert status == 200
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["sojourn_connections_opened_total", "tacacs"] == 3
    assert values["sojourn_sessions_opened_total", "tacacs"] == 3
    assert values["sojourn_sessions", "tacacs"] == 0
    assert values["sojourn_events_total", "tacacs.authentication"] == 2
    assert values["sojourn_circuit_breaker_state", "ldap://127.0.0.1:1"] == 0
    assert values["sojourn_tacacs_sink_stored_total", "records"] == 1
    assert values["sojourn_tacacs_sink_is_up", "records"] == 1
    assert values["process_open_fds",] > 0


def test_no_secret_is_seen_anywhere(tmp_path: Path, run: Run) -> None:
    """Every kind of login, right and wrong; then neither log, trace nor metrics hold a password, a key or a hash."""
    typed_in_a_command = "typed-in-a-command"
    wrong = "wrong-but-still-private"
    with running_daemon(tmp_path) as daemon:

        async def scene() -> None:
            async with TacacsClient("127.0.0.1", daemon.port, key=KEY) as lab:
                for kind in (
                    AuthenType.ASCII,
                    AuthenType.PAP,
                    AuthenType.CHAP,
                    AuthenType.MSCHAP,
                    AuthenType.MSCHAPV2,
                ):
                    assert (await lab.login("ana", PASSWORD, authen_type=kind)).status == "PASS"
                for kind in (AuthenType.PAP, AuthenType.ASCII, AuthenType.CHAP):
                    assert (await lab.login("ana", wrong, authen_type=kind)).status == "FAIL"
                await lab.enable("ana", wrong)
                await lab.change_password("ana", wrong, wrong)
            async with Wire(daemon.port) as wire:
                request = command("username", "bob", "password", "0", typed_in_a_command)
                assert (await wire.ask(request)).status == AuthorStatus.FAIL
            async with Wire(daemon.port) as wire:
                request = author("service=shell", f"cmd=enable secret {typed_in_a_command} <cr>")
                assert (await wire.ask(request)).status == AuthorStatus.FAIL
            async with Wire(daemon.port) as wire:
                stored = record("task_id=1", f"cmd=snmp-server community {typed_in_a_command} <cr>")
                assert (await wire.ask(stored)).status == AcctStatus.SUCCESS
            async with Wire(daemon.port, key=WRONG_KEY) as wire:
                wire.send(wire.packet(pap(), 7))
                await wire.reader.read()

        run(scene())
        status, metrics = read(f"{daemon.admin}/metrics")
        sessions = json.loads(daemon.sojourn("sessions", "list", "--json").stdout)["sessions"]
        assert len(sessions) >= 14
        traces = "".join(read_trace(tmp_path, session["id"]) for session in sessions)
    log = "".join(daemon.lines)
    assert status == 200
    assert len(daemon.events) > 14
    assert typed_in_a_command in (tmp_path / "records.jsonl").read_text()
    secrets = [PASSWORD, wrong, typed_in_a_command, KEY.decode(), WRONG_KEY.decode(), SEAL_KEY.reveal()]
    secrets += [hashed(PASSWORD), "$argon2", "sealed:"]
    secrets += [base64.b64encode(text.encode()).decode() for text in (PASSWORD, wrong, KEY.decode())]
    for where, text in (
        ("log", log),
        ("traces", traces),
        ("metrics", metrics),
        ("list", json.dumps(sessions)),
    ):
        for secret in secrets:
            assert secret not in text, f"{secret!r} in the {where}"
    assert "password 0 ***" in traces
    assert '"cmd-arg=***"' in log


def read_trace(folder: Path, session_id: str) -> str:
    """Ask the control socket for a trace in every form, without the price of a command each."""
    texts = []
    for form in ("json", "text", "mermaid"):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(folder / "control.sock"))
            path = f"/api/v1/sessions/{session_id}/trace?format={form}"
            control.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: control.recv(65_536), b"")).decode()
        assert " 200 OK" in answer
        texts.append(answer)
    return "".join(texts)
