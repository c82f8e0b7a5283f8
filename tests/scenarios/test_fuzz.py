"""The big fuzz run through a live server; ``bench/fuzz_tacacs.py`` does the same with other seeds."""

from __future__ import annotations

import asyncio
import sys

import tacacs_fuzz
import uvloop

MEMORY_BYTES = 24 * 1024 * 1024
"""What the second half may add: the policy's remembered decisions (bounded) are still filling up by then."""
OBJECTS_COUNT = 2 * (2_000 + 500) + 100
"""Sessions that the flight recorder keeps, finished and failed, each with its connection; and the lab itself."""


def test_noise_and_damaged_packets_leave_nothing_behind(tmp_path, capsys):
    """Any byte stream gives an answer or a close: no traceback, no stuck session, no growth from half to half."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures, events = runner.run(
            tacacs_fuzz.fuzz(
                tmp_path, tacacs_fuzz.FULL_PACKETS_COUNT, tacacs_fuzz.FULL_NOISE_BYTES, seed=8907
            )
        )
    first, second = figures
    with capsys.disabled():
        sys.stdout.write(f"\n{first}\n{second}\n{dict(events)}\n")
    # The laboratory itself checks for bugs, and that sessions, tasks and connections are gone.
    assert first.packets + second.packets == 200_000
    assert first.noise_bytes + second.noise_bytes >= 10_000_000
    for name in ("session.failed", "connection.failed", "tacacs.authorization", "tacacs.authentication"):
        assert events[name] > 5_000
    assert second.rss_bytes - first.rss_bytes < MEMORY_BYTES
    assert second.objects < OBJECTS_COUNT
