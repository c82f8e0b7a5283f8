"""Every error that Sojourn raises on purpose, in one tree of eight classes.

What it does not know on purpose: protocols, sockets and configuration formats. An error says what was found,
what was wanted and where; it never carries a secret, and its text is never sent to a peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that the operator has to mend in a configuration.

    Shape: ``table`` is the dotted TOML table (``"tacacs.devices[2]"``), ``key`` the name in it (``""`` for the
    table itself), ``line`` counts from 1 and is 0 where the value does not come from a file.
    """

    file: str
    line: int
    table: str
    key: str
    found: str
    wanted: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        name = ".".join(part for part in (self.table, self.key) if part)
        return f"{where}: {name}: found {self.found}, wanted {self.wanted}"


class SojournError(Exception):
    """The root of the tree: catch it to catch everything that Sojourn raises on purpose."""


class ConfigError(SojournError):
    """The operator can fix it: holds every problem that was found, never just the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ProtocolError(SojournError):
    """A rule of a protocol was broken.

    Args:
        found: what was there, in words; never a secret.
        wanted: what the rule asks for.
        source: the section that says so, such as ``"RFC 8907 section 4.4"``.
    """

    def __init__(self, found: str, wanted: str, source: str) -> None:
        super().__init__(f"found {found}, wanted {wanted} ({source})")
        self.found = found
        self.wanted = wanted
        self.source = source


class RemoteProtocolError(ProtocolError):
    """The peer broke the rule."""


class WireError(RemoteProtocolError):
    """The peer broke the rule, visible from the bytes alone."""


class LocalProtocolError(ProtocolError):
    """We broke the rule: a bug of ours or of a gateway's author."""


class LimitExceeded(SojournError):
    """Legal, but more than configured."""

    def __init__(self, what: str, amount: float, limit: float) -> None:
        super().__init__(f"{what}: {amount} is more than the limit of {limit}")
        self.what = what
        self.amount = amount
        self.limit = limit


class ConnectionLost(SojournError):
    """The connection under a session is gone."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"connection lost: {cause}")
        self.cause = cause


class BackendUnavailable(SojournError):
    """What we depend on did not answer, or answered that it cannot.

    Args:
        backend: its configured name.
        after_s: how long we waited, in seconds; 0 where it is known at once.
        cause: why, in words; never a secret.
    """

    def __init__(self, backend: str, after_s: float, cause: str) -> None:
        waited = f" after {after_s:.3f} s" if after_s else ""
        super().__init__(f"{backend} unavailable{waited}: {cause}")
        self.backend = backend
        self.after_s = after_s
        self.cause = cause
