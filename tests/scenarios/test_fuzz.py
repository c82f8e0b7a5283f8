"""A tenth of the big fuzz run through a live server; ``bench/fuzz_tacacs.py`` does all of it."""

from __future__ import annotations

import sys

import tacacs_fuzz

SHARE = 10
MEMORY_BYTES = 24 * 1024 * 1024
OBJECTS_COUNT = 2_000


def test_noise_and_damaged_packets_leave_nothing_behind(run, tmp_path, capsys):
    """Any byte stream gives an answer or a close: no traceback, no stuck session, no growth from half to half."""
    figures, events = run(
        tacacs_fuzz.fuzz(
            tmp_path,
            tacacs_fuzz.FULL_PACKETS_COUNT // SHARE,
            tacacs_fuzz.FULL_NOISE_BYTES // SHARE,
            seed=8907,
        )
    )
    first, second = figures
    with capsys.disabled():
        sys.stdout.write(f"\n{first}\n{second}\n{dict(events)}\n")
    # The laboratory itself checks for bugs, and that sessions, tasks and connections are gone.
    assert events["session.failed"] > 1_000
    assert events["connection.failed"] > 100
    assert second.rss_bytes - first.rss_bytes < MEMORY_BYTES
    # What the flight recorder keeps of the last sessions is bounded; nothing else is kept.
    assert second.objects - first.objects < OBJECTS_COUNT
