"""What the tests of the launchers share: a directory that all can enter, and watching processes end."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Only root can show what root does; for anybody else these tests do not exist, rather than being skipped.
collect_ignore = [] if os.geteuid() == 0 else ["test_as_root.py"]

ENDED_WITHIN_S = 20.0


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Give a directory that any user may enter and read; pytest's own belongs to one user alone."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def ended() -> Callable[[dict[int, int]], bool]:
    """Give a function that waits until processes, by pid and pidfd, are gone: zombies count as gone."""

    def wait(watched: dict[int, int]) -> bool:
        until = time.monotonic() + ENDED_WITHIN_S
        for descriptor in watched.values():
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            is_gone = bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))
            if not is_gone:
                return False
        for descriptor in watched.values():
            os.close(descriptor)
        return True

    return wait


@pytest.fixture
def watch() -> Callable[[int], dict[int, int]]:
    """Give a function that takes hold of a process and all its descendants, as pidfds by pid."""

    def take(pid: int) -> dict[int, int]:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    text = (entry / "stat").read_text()
                except OSError:
                    continue
                parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
        wanted = {pid}
        while more := {child for child, parent in parents.items() if parent in wanted} - wanted:
            wanted |= more
        watched = {}
        for one in wanted:
            try:
                watched[one] = os.pidfd_open(one)
            except ProcessLookupError:
                continue
        return watched

    return take
