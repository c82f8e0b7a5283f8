"""A trace as plain text or as a Mermaid sequence diagram.

Knows no gateway: only who said what to whom, and when.
"""

from __future__ import annotations

import datetime
import re

from sojourn.admin.view import SessionRow, Trace, TraceEntry

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
        lines.append(f"ended after {session.ended - session.started:.3f} s: {_outcome(session)}")
    return "\n".join(printable(line) for line in lines) + "\n"


def entry_text(entry: TraceEntry, started: float) -> str:
    """Write one entry on one line."""
    size = f" ({entry.size_bytes} bytes)" if entry.size_bytes else ""
    text = f" {entry.text}" if entry.text else ""
    return printable(f"{entry.at - started:+10.3f} s {_ARROWS[entry.kind]} {entry.name}{text}{size}")


def trace_mermaid(trace: Trace) -> str:
    """Write a trace as a Mermaid sequence diagram between the peer and the gateway."""
    session = trace.session
    parties = _parties(trace)
    labels = {session.gateway: f"{session.gateway} {session.id}"}
    labels |= {name: f"{name} {session.peer}" for name, party in parties.items() if party == "P"}
    labels[session.peer] = session.peer
    lines = ["sequenceDiagram"]
    lines += [
        f"    participant {party} as {_label(labels.get(name, name))}" for name, party in parties.items()
    ]
    for entry in trace.entries:
        label = _label(f"{entry.name} {entry.text}".strip())
        source, target = (parties[name] for name in _ends(entry, session))
        match entry.kind:
            case "in" | "out":
                lines.append(f"    {source}->>{target}: {label}")
            case "state":
                lines.append(f"    Note over {source}: {label}")
            case "error":
                lines.append(f"    Note over P,S: error - {label}")
    if session.ended is not None:
        lines.append(f"    Note over P,S: {_label(_outcome(session))}")
    return "\n".join(lines) + "\n"


def _outcome(session: SessionRow) -> str:
    """Say how a session ended, once where state and reason are the same word."""
    return ", ".join(dict.fromkeys(word for word in (session.state, session.reason) if word))


def _parties(trace: Trace) -> dict[str, str]:
    """Return short names for all who speak: S the gateway, P the peer, and P2, P3 ... where there are more."""
    gateway = trace.session.gateway
    names = [name for entry in trace.entries for name in _ends(entry, trace.session)]
    peers = [name for name in dict.fromkeys(names) if name != gateway] or [trace.session.peer]
    return {name: f"P{number if number > 1 else ''}" for number, name in enumerate(peers, 1)} | {gateway: "S"}


def _ends(entry: TraceEntry, session: SessionRow) -> tuple[str, str]:
    """Return who said an entry to whom; where nobody told, it is the peer and the gateway."""
    is_in, is_out = entry.kind == "in", entry.kind == "out"
    source = entry.source or (session.peer if is_in else session.gateway)
    return source, entry.target or (session.peer if is_out else session.gateway)


def printable(text: str) -> str:
    """Write control characters as escapes: what a peer sent must not steer the terminal that shows it."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _label(text: str) -> str:
    """Leave only characters that mean nothing to Mermaid."""
    return _NOT_PLAIN.sub("_", text)[:_LONGEST_LABEL_CHARACTERS] or "_"


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
