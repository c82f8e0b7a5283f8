"""Send 200,000 damaged packets and 10 million bytes of noise through a live TACACS+ server, and print what happened.

``python bench/fuzz_tacacs.py [SEED]``; the seed of the tests is 8907. What is sent is made by
``tests/support/tacacs_fuzz.py``.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

# By name at run time: the packets are made by the tests, which are no package.
tacacs_fuzz = importlib.import_module("tacacs_fuzz")


def main() -> None:
    """Run it all and print a line for each half, then the events."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 8907
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures, events = runner.run(
            tacacs_fuzz.fuzz(Path(folder), tacacs_fuzz.FULL_PACKETS_COUNT, tacacs_fuzz.FULL_NOISE_BYTES, seed)
        )
    for half in figures:
        print(
            f"{half.packets} damaged packets and {half.noise_bytes} bytes of noise over {half.connections} connections:"
            f" {half.replies_bytes} bytes of answers, {half.seconds:.1f} s, {half.cpu_seconds:.1f} s of CPU,"
            f" afterwards {half.rss_bytes / 2**20:.1f} MiB and {half.objects} sessions, connections and tasks"
        )
    for name, count in sorted(events.items(), key=lambda pair: -pair[1]):
        print(f"{count:8} {name}")


main()
