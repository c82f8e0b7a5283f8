"""Diagrams of more than two: who stands where, as Mermaid, as an SVG image and as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from sojourn.admin.diagram import trace_svg
from sojourn.admin.rendering import MermaidLines, parties_of, trace_mermaid, trace_text
from sojourn.admin.view import SessionRow, Trace, TraceEntry

SESSION = SessionRow(
    id="shop-1",
    gateway="shop",
    peer="192.0.2.7:4000",
    about="ana",
    state="failed",
    started=100.0,
    ended=104.0,
    reason="backend unavailable",
)


def entry(at, kind, source, target, name, text=""):  # noqa: PLR0917 - the columns of a table
    is_leg = bool({source, target} & {"store", "bank"})
    return TraceEntry(
        at=100.0 + at, kind=kind, source=source, target=target, name=name, text=text, is_leg=is_leg
    )


TRACE = Trace(
    session=SESSION,
    entries=(
        entry(0.0, "out", "shop", "bank", "is open?"),
        entry(0.1, "in", "ana", "shop", "Buy", "a lamp"),
        entry(0.2, "out", "shop", "store", "take", "1 lamp"),
        entry(0.3, "in", "store", "shop", "taken"),
        entry(0.4, "in", "ana (2)", "shop", "Look"),
        entry(2.9, "error", "bank", "shop", "no answer", "after 2500 ms"),
        entry(3.0, "state", "shop", "shop", "giving up"),
        entry(3.1, "out", "shop", "ana", "Sorry"),
    ),
)
PARTICIPANT = re.compile(r"    participant (\w+) as ([^\n]+)")
ARROW = re.compile(r"    (\w+)(->>|-x)(\w+): [^\n]+")
NOTE = re.compile(r"    Note over (\w+(?:,\w+)?): [^\n]+")


def test_peers_stand_at_the_left_and_whom_the_gateway_asks_at_the_right():
    """In the order in which they are met on their side, whoever came first of all."""
    assert parties_of(TRACE.entries, SESSION) == ["ana", "ana (2)", "shop", "bank", "store"]
    assert parties_of((), SESSION) == ["192.0.2.7:4000", "shop"]
    assert parties_of(TRACE.entries[:1], SESSION) == ["192.0.2.7:4000", "shop", "bank"]


def test_a_mermaid_diagram_declares_all_who_take_part_and_is_valid():
    """Every line is one of Mermaid's, every party is declared before it speaks, a failed leg ends in a cross."""
    first, *lines = trace_mermaid(TRACE).rstrip("\n").split("\n")
    assert first == "sequenceDiagram"
    declared = {}
    for line in lines:
        if found := PARTICIPANT.fullmatch(line):
            declared[found[1]] = found[2]
        else:
            found = ARROW.fullmatch(line) or NOTE.fullmatch(line)
            assert found, line
            ends = found[1].split(",") if NOTE.fullmatch(line) else (found[1], found[3])
            assert set(ends) <= declared.keys(), line
    assert list(declared.values()) == ["ana 192.0.2.7:4000", "ana (2)", "shop shop-1", "bank", "store"]
    names = {label: name for name, label in declared.items()}
    assert f"    {names['bank']}-x{names['shop shop-1']}: no answer after 2500 ms" in lines


def test_a_mermaid_diagram_that_grows_declares_who_joins_later():
    """``sojourn trace --follow --mermaid``: what is printed is a diagram at any time."""
    diagram = MermaidLines(Trace(session=SESSION, entries=TRACE.entries[1:2]))
    lines = [*diagram.head(), *(line for one in TRACE.entries[1:4] for line in diagram.of(one))]
    assert [line for line in lines if "participant" in line] == [
        "    participant P as ana 192.0.2.7:4000",
        "    participant S as shop shop-1",
        "    participant P2 as store",
    ]
    assert lines.index("    participant P2 as store") == lines.index("    S->>P2: take 1 lamp") - 1


def test_an_svg_image_has_a_lifeline_for_each_and_the_failed_leg_in_red():
    """Boxes from left to right as the parties; the arrow of the error goes from the party that failed."""
    root = ET.fromstring(trace_svg(TRACE))
    space = {"s": "http://www.w3.org/2000/svg"}
    boxes = [float(one.get("x")) for one in root.findall("s:rect[@class='box']", space)]
    assert len(boxes) == 5
    assert boxes == sorted(boxes)
    (line,) = root.findall(".//s:line[@class='arrow error']", space)
    bank, shop = boxes[3] + 90, boxes[2] + 90
    assert (float(line.get("x1")), float(line.get("x2"))) == (bank, shop)


@pytest.mark.parametrize(
    "line",
    [
        "+0.100 s -> Buy a lamp",
        "+0.200 s >> store: take 1 lamp",
        "+0.300 s << store: taken",
        "+2.900 s !! bank: no answer after 2500 ms",
        "+3.100 s <- Sorry",
    ],
)
def test_as_text_a_leg_names_its_party(line):
    """``->`` and ``<-`` are the peer's, ``>>`` and ``<<`` go on to the others and come back."""
    assert line in [" ".join(one.split()) for one in trace_text(TRACE).splitlines()]
