"""Runs the examples as a reader would: a process of its own, real sockets, Ctrl-C at the end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WITHIN_S = 20.0

Dial = Callable[[], socket.socket]


@contextlib.contextmanager
def running(name: str) -> Iterator[tuple[str, int]]:
    """Start an example on a free port, yield where it listens, stop it and want a clean end."""
    program = [sys.executable, str(EXAMPLES / name), "127.0.0.1:0"]
    out = subprocess.DEVNULL
    with subprocess.Popen(program, stdout=out, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"listener\.started.*address=([\d.]+):(\d+)", line):
                    break
            else:
                pytest.fail(f"{name} ended with {process.wait()} and never listened")
            yield found[1], int(found[2])
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        assert process.wait(WITHIN_S) == 0, rest
        assert "server.stopped" in rest
        assert "Traceback" not in rest


@pytest.fixture
def dial(request: pytest.FixtureRequest) -> Iterator[Dial]:
    """Start the example that the test's module is about; each call is one more connection to it."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(running(request.module.EXAMPLE))

        def connect() -> socket.socket:
            sock = socket.create_connection(address, timeout=WITHIN_S)
            return stack.enter_context(sock)

        yield connect
