"""``sojourn probe`` against a server that says yes to one password and to everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sojourn.cli.main import app
from sojourn.cli.probe import command_args
from sojourn.gateways.tacacs.messages import (
    AcctReply,
    AcctStatus,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    Message,
)
from sojourn.gateways.tacacs.wire import TacacsFraming, decode_body, encode_body, encode_packet, obfuscate

KEY = "k" * 32


def answer(message: Message) -> Message:
    """Decide as the test's server."""
    if isinstance(message, AuthenStart):
        return AuthenReply(AuthenStatus.PASS if message.data == b"right" else AuthenStatus.FAIL)
    if isinstance(message, AuthorRequest):
        return AuthorReply(AuthorStatus.PASS_ADD, ("priv-lvl=15",))
    return AcctReply(AcctStatus.SUCCESS)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the one packet of a session."""
    data = b""
    while True:
        packets, _, _ = TacacsFraming().split(data)
        if packets:
            break
        more = await reader.read(4096)
        if not more:
            break
        data += more
    for packet in packets:
        number, key = packet.session_id, KEY.encode()
        body = obfuscate(packet.body, key, number, packet.version, packet.seq_no)
        reply = encode_body(answer(decode_body(packet.type, packet.seq_no, body)))
        writer.write(encode_packet(packet.version, packet.type, packet.seq_no + 1, 0, number, reply, key))
    writer.close()
    await writer.wait_closed()


@pytest.fixture
def address(background: Any) -> str:
    """Start the server and give its address."""
    found: list[str] = []

    async def start() -> Callable[[], Awaitable[None]]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found.append(f"127.0.0.1:{port}")

        async def stop() -> None:
            server.close()
            await server.wait_closed()

        return stop

    background.start(start)
    return found[0]


def probe(address: str, *arguments: str, password: str = "right") -> Result:
    """Probe as ana, with password and key from the environment."""
    options = ["--user", "ana", "--password-env", "P", "--key-env", "K"]
    return CliRunner().invoke(
        app, ["probe", "tacacs", address, *options, *arguments], env={"P": password, "K": KEY}
    )


def test_login_authorization_and_accounting_are_tried_in_turn(address: str) -> None:
    """Exit code 0 and one row a step when the server says yes to everything."""
    result = probe(address, "--authorize", "", "--authorize", "show version", "--account", "show version")
    assert result.exit_code == 0, result.stderr
    rows = result.output.splitlines()[1:]
    assert [row.split("  ")[0].strip() for row in rows] == [
        "login pap",
        "authorize (session)",
        "authorize show version",
        "account START show version",
        "account STOP show version",
    ]
    assert "priv-lvl=15" in rows[1]


def test_a_refusal_is_exit_code_1(address: str) -> None:
    """A script learns that the password was wrong; it sees neither password nor key."""
    result = probe(address, password="wrong-password")
    assert result.exit_code == 1
    assert "FAIL" in result.output
    assert "wrong-password" not in result.output
    assert KEY not in result.output


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    """Exit code 1, no traceback."""
    result = probe("127.0.0.1:1", "--timeout-s", "2")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--tls"], ["--type", "kerberos"], ["--password-file", "x"], ["--authorize"]]
)
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    """Nothing is sent."""
    assert probe("127.0.0.1:1", *arguments).exit_code == 2
    assert probe("127.0.0.1:port").exit_code == 2


def test_a_command_is_cut_into_pairs_as_a_device_does() -> None:
    """RFC 8907 section 6.1: cmd is the first word, each further one a cmd-arg; empty is the session."""
    assert command_args("shell", "show ip route") == (
        "service=shell",
        "cmd=show",
        "cmd-arg=ip",
        "cmd-arg=route",
    )
    assert command_args("shell", "") == ("service=shell", "cmd=")
