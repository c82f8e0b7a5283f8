"""A trace as plain text, as JSON lines, or as a Mermaid sequence diagram.

Knows no gateway: only who said what to whom, and when.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator

import msgspec

from sojourn.admin.view import SessionRow, Trace, TraceEntry

_ARROWS = {"in": "->", "out": "<-", "state": "==", "error": "!!"}
_LEG_ARROWS = {"in": "<<", "out": ">>", "state": "==", "error": "!!"}
"""Behind the gateway, which stands between its peer at the left and those at the right."""
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
        lines.append(f"ended after {session.ended - session.started:.3f} s: {outcome(session)}")
    return "\n".join(printable(line) for line in lines) + "\n"


def entry_text(entry: TraceEntry, started: float) -> str:
    """Write one entry on one line."""
    size = f" ({entry.size_bytes} bytes)" if entry.size_bytes else ""
    text = f" {entry.text}" if entry.text else ""
    arrow, party = _ARROWS[entry.kind], ""
    if entry.is_leg:
        arrow, party = _LEG_ARROWS[entry.kind], f"{other_end(entry)}: "
    return printable(f"{entry.at - started:+10.3f} s {arrow} {party}{entry.name}{text}{size}")


def other_end(entry: TraceEntry) -> str:
    """Return whom an entry comes from or goes to, besides the gateway; empty for what is said to nobody."""
    return entry.target if entry.kind == "out" else entry.source


def trace_jsonl(trace: Trace) -> str:
    """Write a trace as JSON lines: the session, then one line per entry."""
    return msgspec.json.Encoder().encode_lines([trace.session, *trace.entries]).decode()


def trace_mermaid(trace: Trace) -> str:
    """Write a trace as a Mermaid sequence diagram of all who took part."""
    diagram = MermaidLines(trace)
    lines = [*diagram.head(), *(line for entry in trace.entries for line in diagram.of(entry))]
    return "\n".join([*lines, *diagram.end(trace.session)]) + "\n"


class MermaidLines:
    """A Mermaid sequence diagram that grows: at any time the lines so far are one.

    Life: made of a trace as it is at the beginning; parties that are met later are declared where they are met, and so
    stand at the right.
    """

    def __init__(self, trace: Trace) -> None:
        self._session = trace.session
        self._parties = _short_names(parties_of(trace.entries, trace.session), trace.session)

    def head(self) -> Iterator[str]:
        """Yield the first line and the parties that are known."""
        yield "sequenceDiagram"
        for name, party in self._parties.items():
            yield self._declared(name, party)

    def of(self, entry: TraceEntry) -> Iterator[str]:
        """Yield the lines of one entry."""
        for name in ends(entry, self._session):
            if name not in self._parties:
                self._parties[name] = f"P{len(self._parties)}"
                yield self._declared(name, self._parties[name])
        source, target = (self._parties[name] for name in ends(entry, self._session))
        label = _label(f"{entry.name} {entry.text}".strip())
        match entry.kind:
            case "in" | "out":
                yield f"    {source}->>{target}: {label}"
            case "state":
                yield f"    Note over {source}: {label}"
            case "error" if source != target:
                yield f"    {source}-x{target}: {label}"
            case "error":
                yield f"    Note over P,S: error - {label}"

    def end(self, session: SessionRow) -> Iterator[str]:
        """Yield how the session ended, if it did."""
        if session.ended is not None:
            yield f"    Note over P,S: {_label(outcome(session))}"

    def _declared(self, name: str, party: str) -> str:
        session, label = self._session, name
        if name == session.gateway:
            label = f"{name} {session.id}"
        elif party == "P" and name != session.peer:
            label = f"{name} {session.peer}"
        return f"    participant {party} as {_label(label)}"


def outcome(session: SessionRow) -> str:
    """Say how a session ended, once where state and reason are the same word."""
    return ", ".join(dict.fromkeys(word for word in (session.state, session.reason) if word))


def parties_of(entries: Iterable[TraceEntry], session: SessionRow) -> list[str]:
    """Return who took part, from left to right: the peers as they came, the gateway, and those behind it as met."""
    peers: dict[str, None] = {}
    behind: dict[str, None] = {}
    for entry in entries:
        for name in ends(entry, session):
            if name != session.gateway:
                (behind if entry.is_leg else peers)[name] = None
    if not peers:
        peers[session.peer] = None
    return [*peers, session.gateway, *(name for name in behind if name not in peers)]


def _short_names(parties: list[str], session: SessionRow) -> dict[str, str]:
    """Return short names for all who took part: S the gateway, P its first peer, then P2, P3 ... from left to right."""
    others = (name for name in parties if name != session.gateway)
    names = {name: f"P{number if number > 1 else ''}" for number, name in enumerate(others, 1)}
    return {name: names.get(name, "S") for name in parties}


def ends(entry: TraceEntry, session: SessionRow) -> tuple[str, str]:
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
