"""A trace as plain text or as a Mermaid sequence diagram.

Knows no gateway: only who said what to whom, and when.
"""

from __future__ import annotations

import datetime
import re

from sojourn.admin.view import Trace, TraceEntry

_ARROWS = {"in": "->", "out": "<-", "state": "==", "error": "!!"}
_NOT_PLAIN = re.compile(r"[^\w .,:=@/\[\]()'+*-]")
_LONGEST_LABEL_CHARACTERS = 120


def trace_text(trace: Trace) -> str:
    """Write a trace for a terminal: one line per entry, with the seconds since the session's start."""
    session = trace.session
    begun = _moment(session.started)
    lines = [
        f"session {session.id}  {session.gateway}  {session.peer}  {session.about}".rstrip(),
        f"begun {begun}",
    ]
    lines += [entry_text(entry, session.started) for entry in trace.entries]
    if session.ended is not None:
        lines.append(
            f"ended after {session.ended - session.started:.3f} s: {session.state}, {session.reason}"
        )
    return "\n".join(printable(line) for line in lines) + "\n"


def entry_text(entry: TraceEntry, started: float) -> str:
    """Write one entry on one line."""
    size = f" ({entry.size_bytes} bytes)" if entry.size_bytes else ""
    text = f" {entry.text}" if entry.text else ""
    return printable(f"{entry.at - started:+10.3f} s {_ARROWS[entry.kind]} {entry.name}{text}{size}")


def trace_mermaid(trace: Trace) -> str:
    """Write a trace as a Mermaid sequence diagram between the peer and the gateway."""
    session = trace.session
    lines = [
        "sequenceDiagram",
        f"    participant P as {_label(session.peer)}",
        f"    participant S as {_label(session.gateway)} {_label(session.id)}",
    ]
    for entry in trace.entries:
        label = _label(f"{entry.name} {entry.text}".strip())
        match entry.kind:
            case "in":
                lines.append(f"    P->>S: {label}")
            case "out":
                lines.append(f"    S->>P: {label}")
            case "state":
                lines.append(f"    Note over S: {label}")
            case "error":
                lines.append(f"    Note over P,S: error - {label}")
    if session.ended is not None:
        lines.append(f"    Note over P,S: {_label(f'{session.state} {session.reason}'.strip())}")
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """Write control characters as escapes: what a peer sent must not steer the terminal that shows it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _label(text: str) -> str:
    """Leave only characters that mean nothing to Mermaid."""
    return _NOT_PLAIN.sub("_", text)[:_LONGEST_LABEL_CHARACTERS] or "_"


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
