"""AdminPanel: what a gateway shows operators besides its sessions: one page of its own, and the operations behind it.

Plain values; whoever serves them over HTTP is above, and no HTTP library is known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

Scope = Literal["view", "operate", "admin"]
"""Who may: everybody who may look, who may act on sessions and devices, who may do everything."""

Serve = Callable[[Mapping[str, Any], Any], Awaitable[Any]]
"""Takes the values of path and query by their names, who asks as ``operator``, and the body as its struct or None."""


class PanelParameter(NamedTuple):
    """One parameter of an operation's query; optional, as every one is.

    An integer with bounds; or a text with a longest length, a list of words, or a pattern that all of it must fit, with
    ``wanted`` in words for people. A text that is not given is empty.
    """

    name: str
    description: str
    is_number: bool = False
    lowest: int = 0
    highest: int = 0
    default: int = 0
    longest: int = 64
    words: tuple[str, ...] = ()
    pattern: str = ""
    wanted: str = ""


class PanelOperation(NamedTuple):
    """One thing that the page asks or orders.

    Shape: ``path`` stands behind ``/api/v1/panels/{gateway}``, such as ``/devices/{name}/unlock``; a value of a path
    has at most 128 characters. ``answer`` and ``body`` are structs or what msgspec makes a schema of; no answer is
    status 204, no body takes none. With ``is_stream`` the answer is an asynchronous iterator of values; each is sent as
    it comes, until the page goes away.

    ``serve`` must not block. It returns None for what is not there, where an answer is declared; it may raise
    ``Refusal`` of ``sojourn.web.problems`` with words for the operator, LimitExceeded or BackendUnavailable.
    Every operation but a GET is in the audit log, with the values of its path and never its body; ``outcome`` says what
    came of it from the answer, where that may be a no.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    scope: Scope
    summary: str
    serve: Serve
    answer: Any = None
    body: Any = None
    query: tuple[PanelParameter, ...] = ()
    is_stream: bool = False
    outcome: Callable[[Any], str] | None = None


class AdminPanel(NamedTuple):
    """A gateway's page.

    Args:
        title: what people call the gateway.
        script: the file of its ES module, which exports ``title`` and ``mount(root, api)``.
    """

    title: str
    script: Path
    operations: tuple[PanelOperation, ...] = ()


class Trouble(NamedTuple):
    """Something that is wrong now and that an operator should see first.

    Units: ``since`` is a point on the server's monotonic clock, 0 = unknown. ``link`` is a place on the dashboard,
    such as ``#/gateways/postgres``.
    """

    severity: Literal["error", "warning"]
    text: str
    since: float = 0.0
    link: str = ""
