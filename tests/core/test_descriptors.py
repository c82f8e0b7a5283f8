"""How many connections fit into a process, and that an operator hears of it when they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, resource, signal, sys
from sojourn.core.gateway import Gateway
from sojourn.core.server import Server
from sojourn.core.settings import LimitSettings

soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
gateway = Gateway()
gateway.name, gateway.limits = "lab", LimitSettings(connections_count=connections)
server = Server()
told = []
server.events.add_view(told.extend)
server.add(gateway, ())

async def main():
    asyncio.get_running_loop().call_soon(server.ask_to_stop)
    await server.serve()

asyncio.run(main())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], any("few_descriptors" in str(event) for event in told))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "expected"),
    [
        (300, 1_000, 600, "856 False"),
        (300, 1_000, 5_000, "1000 True"),
        (900, 1_000, 100, "900 False"),
    ],
    ids=["raised as far as needed", "raised as far as it may be", "left alone"],
)
def test_a_server_sees_to_it_that_its_connections_fit_or_says_so(soft, hard, connections, expected):
    """RLIMIT_NOFILE is raised towards connections_count and a reserve; server.few_descriptors if that fails."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, connections))],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == expected, done.stderr
