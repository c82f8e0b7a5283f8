"""``sojourn probe postgres`` against a server, and against a port where nobody listens."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from sojourn.cli.main import app
from sojourn.embedded.postgres import PostgresServer


@pytest.fixture(scope="module")
def server():
    """Give a server that lasts for the module."""
    with asyncio.Runner() as runner:
        postgres = PostgresServer(version=16, port=0)
        runner.run(postgres.start())
        try:
            yield postgres
        finally:
            runner.run(postgres.stop())


def probe(address, *arguments, password="wrong"):
    """Run the command in this process."""
    options = ("--user", "postgres", "--password-env", "P", *arguments)
    return CliRunner().invoke(app, ["probe", "postgres", address, *options], env={"P": password})


def test_it_says_who_answers_and_how_fast(server):
    """A direct connection: the PID told at the login is the backend's own."""
    password = server.dsn().split(":")[2].split("@")[0]
    result = probe(f"127.0.0.1:{server.port}", "--rounds", "3", password=password)
    assert result.exit_code == 0, result.output
    assert "postgres@postgres, no TLS" in result.output
    assert "PostgreSQL 16" in result.output
    assert "primary" in result.output
    assert "as told at the login" in result.output
    assert "of 3" in result.output


def test_a_refusal_is_told_with_its_sqlstate(server):
    """The exit code says that it failed, and the password is not shown."""
    result = probe(f"127.0.0.1:{server.port}", password="not-the-password")
    assert result.exit_code == 1
    assert "28P01" in result.output
    assert "not-the-password" not in result.output


def test_nobody_there_is_an_error_and_no_traceback():
    """Port 1 of the loopback interface has no listener."""
    result = probe("127.0.0.1:1", "--timeout-s", "2")
    assert result.exit_code == 1
    assert "error:" in result.output


def test_a_port_that_is_no_number_is_refused():
    """The command line is wrong: exit code 2."""
    result = probe("127.0.0.1:postgres")
    assert result.exit_code == 2
    assert "wanted a number" in result.output
