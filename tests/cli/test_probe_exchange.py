"""``sojourn probe exchange`` against a pod of the gateway, and against a port where nobody listens."""

from __future__ import annotations

import json
import urllib.request
from types import SimpleNamespace

import pytest
from exchange_pod_lab import PodLab, running_postgres
from typer.testing import CliRunner

from sojourn.cli.main import app


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def pod(postgres, background, tmp_path):
    """Give a pod that runs in a loop of its own."""
    lab = PodLab(tmp_path, postgres.dsn())
    found = SimpleNamespace(lab=lab)

    async def start():
        running = lab.pod()
        found.url = (await running.__aenter__()).url
        return lambda: running.__aexit__(None, None, None)

    background.start(start)
    return found


def probe(address, token, *arguments):
    """Run the command in this process."""
    return CliRunner().invoke(
        app, ["probe", "exchange", address, "--token-env", "T", *arguments], env={"T": token}
    )


def asked(pod, method, path, body=None):
    """Ask the pod something as the user."""
    headers = {"Authorization": f"Bearer {pod.lab.token()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(pod.url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_it_says_what_works_and_how_fast(pod):
    """Readiness, session, WebSocket, answer, resume, end; and the session is over afterwards."""
    result = probe(pod.url, pod.lab.token())
    assert result.exit_code == 0, result.output
    lines = [line.split()[0] for line in result.output.splitlines()]
    assert lines == ["step", "readyz", "session", "welcome", "answer", "resume", "end"]
    assert "pod pod-1: " in result.output
    assert "of ana" in result.output
    assert "0 lost" in result.output
    (session,) = asked(pod, "GET", "/v1/sessions")["sessions"]
    assert (session["state"], session["devices"]) == ("ended", ["sojourn-probe"])


@pytest.mark.parametrize("encoding", [[], ["--msgpack"]])
def test_with_a_simulator_it_trades_one_order(pod, encoding):
    """A simulator of its own, one share at the market, the order's events."""
    result = probe(pod.url.removeprefix("http://"), pod.lab.token(), "--simulator", *encoding)
    assert result.exit_code == 0, result.output
    assert "inproc, 1 symbols" in result.output
    assert "buy 1 AAA: filled, filled 1" in result.output
    assert "2 told, the last at offset 2" in result.output
    assert "after a cut: full, 0 lost" in result.output


def test_a_session_that_the_user_has_elsewhere_is_left_alone(pod):
    """A probe must not take a person's session over, nor end it."""
    made = asked(pod, "POST", "/v1/sessions", {"device": "phone"})
    result = probe(pod.url, pod.lab.token())
    assert result.exit_code == 1
    assert made["id"] in result.output
    assert "phone, which is left alone" in result.output
    assert "next: " in result.output
    assert asked(pod, "GET", f"/v1/sessions/{made['id']}")["state"] != "ended"


@pytest.mark.parametrize(
    ("token", "code", "advice"),
    [
        ({"lifetime_s": -600.0}, "invalid_token (401)", "sojourn token issue"),
        ({"scopes": ("other",)}, "forbidden (403)", "exchange.auth.user_scope"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(pod, token, code, advice):
    """The server's own words, and the next step; the token is not shown."""
    text = pod.lab.token(**token)
    result = probe(pod.url, text)
    assert result.exit_code == 1
    assert code in result.output
    assert advice in result.output
    assert text not in result.output
    assert result.output.splitlines()[1].startswith("readyz")


def test_a_token_comes_from_a_file_or_from_standard_input(pod, tmp_path):
    """Never from an argument, which others can read."""
    file = tmp_path / "token"
    file.write_text(pod.lab.token() + "\n")
    file.chmod(0o600)
    of_file = CliRunner().invoke(app, ["probe", "exchange", pod.url, "--token-file", str(file)])
    assert of_file.exit_code == 0, of_file.output
    of_input = CliRunner().invoke(
        app, ["probe", "exchange", pod.url, "--token-file", "-"], input=pod.lab.token() + "\n"
    )
    assert of_input.exit_code == 0, of_input.output


def test_nobody_there_is_an_error_with_a_next_step():
    """Port 1 of the loopback interface has no listener."""
    result = probe("127.0.0.1:1", "t", "--timeout-s", "0.2")
    assert result.exit_code == 1
    assert "unavailable" in result.output
    assert "is it http://127.0.0.1:1" in result.output


@pytest.mark.parametrize(("address", "wanted"), [("host:http", "a number"), ("ftp://host", "http or https")])
def test_an_address_that_is_none_is_refused(address, wanted):
    """The command line is wrong: exit code 2."""
    result = probe(address, "t")
    assert result.exit_code == 2
    assert wanted in " ".join(result.output.split())


def test_certificates_that_cannot_be_read_are_refused(tmp_path):
    """As every file that is named: before anything is tried."""
    result = probe("[::1]", "t", "--ca-file", str(tmp_path / "none.pem"))
    assert result.exit_code == 2
    assert "ca_file" in result.output


def test_there_is_no_token_option():
    """What is typed is in the list of processes and in the shell's history."""
    result = CliRunner().invoke(app, ["probe", "exchange", "--help"])
    assert "--token-file" in result.output
    assert "--token " not in result.output
