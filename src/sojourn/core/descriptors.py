"""File descriptors: every connection is one, and a process may only open so many (RLIMIT_NOFILE).

Beyond the limit connections are closed unread; the loop that accepts them tells nobody. Knows nothing of connections.
"""

from __future__ import annotations

import contextlib
import resource


def allow(wanted_count: int) -> int:
    """Raise this process's own limit to ``wanted_count``, as far as it may; return how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted_count
    reachable = wanted_count if hard == resource.RLIM_INFINITY else min(wanted_count, hard)
    if soft < reachable:
        with contextlib.suppress(OSError, ValueError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            soft = reachable
    return soft
