"""``examples/tacacs_lab.py``: a server, a switch and a user in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "examples" / "tacacs_lab.py"


def test_the_lab_logs_in_explains_and_draws() -> None:
    """It says what came back, which rule decided, and what went over the wire, with no password in it."""
    done = subprocess.run([sys.executable, str(LAB)], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in (
        "login              PASS",
        "cmd=show           PASS_ADD",
        "cmd=reload         FAIL ask netops",
        "deny, FAIL: rule nothing-else denies it",
        "sequenceDiagram",
        "S->>P: AuthenReply GETPASS NOECHO 'Password: '",
    ):
        assert line in done.stdout
    assert "user_msg" not in done.stdout
