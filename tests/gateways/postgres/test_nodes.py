"""Nodes: what their word is worth, and what becomes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import WireError
from sojourn.gateways.postgres import nodes
from sojourn.gateways.postgres.nodes import Evidence, Node, judge, lsn, lsn_text

NOW = 1_000.0


def says(timeline, *, recovery=False, system=7):
    return Evidence(recovery, timeline, 100, system, NOW)


def judged(node, evidence, newest=0, system=7, primary=None):
    return judge(node, evidence, newest_timeline=newest, system_identifier=system, primary=primary)


def primary_on(timeline):
    node = Node("one", "10.0.0.1:5432")
    node.note(says(timeline))
    node.apply(nodes.ACCEPTED, NOW, "primary")
    return node


def test_every_state_has_an_answer_to_every_event_but_returning():
    """Specification 6.4: the table is whole; only a node that is being left can be returned to."""
    events = (nodes.ACCEPTED, nodes.REPLICATES, nodes.DISTRUSTED, nodes.LOST, nodes.DRAINED)
    for state in nodes.STATES:
        for event in events:
            assert nodes.TRANSITIONS[state, event] in nodes.STATES
    assert [state for state, event in nodes.TRANSITIONS if event == nodes.RETURNED] == [nodes.DRAINING]


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([nodes.ACCEPTED], nodes.PRIMARY),
        ([nodes.REPLICATES], nodes.REPLICA),
        ([nodes.ACCEPTED, nodes.LOST], nodes.DOWN),
        ([nodes.ACCEPTED, nodes.LOST, nodes.DISTRUSTED], nodes.FENCED),
        ([nodes.DISTRUSTED, nodes.REPLICATES], nodes.REPLICA),
        ([nodes.REPLICATES, nodes.DRAINED, nodes.REPLICATES], nodes.DRAINING),
        ([nodes.REPLICATES, nodes.DRAINED, nodes.LOST], nodes.DRAINING),
        ([nodes.REPLICATES, nodes.DRAINED, nodes.RETURNED], nodes.UNKNOWN),
        ([nodes.REPLICATES, nodes.DRAINED, nodes.ACCEPTED], nodes.PRIMARY),
        ([nodes.REPLICATES, nodes.RETURNED], nodes.REPLICA),
    ],
)
def test_a_node_becomes_what_the_table_says(events, state):
    """Specification 6.4: node states."""
    node = Node("one", "10.0.0.1:5432")
    for event in events:
        node.apply(event, NOW, event)
    assert node.state == state


def test_a_change_of_state_is_dated_and_mere_news_is_not():
    """Specification 6.4: states carry evidence and time."""
    node = Node("one", "10.0.0.1:5432")
    assert node.apply(nodes.REPLICATES, NOW, "first")
    assert not node.apply(nodes.REPLICATES, NOW + 1, "second")
    assert (node.changed_at, node.evidence) == (NOW, "second")
    assert "one at 10.0.0.1:5432 REPLICA" in repr(node)


def test_a_claim_on_an_older_timeline_is_fenced():
    """Specification 3.3 point 6: timeline fencing."""
    verdict = judged(Node("two", ""), says(1), newest=2)
    assert verdict.event == nodes.DISTRUSTED
    assert "timeline 1 is older than 2" in verdict.why


def test_a_second_primary_on_the_same_timeline_is_the_one_that_is_fenced():
    """Of two primaries that nothing tells apart, the one in use is kept."""
    first = primary_on(3)
    assert judged(Node("two", ""), says(3), newest=3, primary=first).event == nodes.DISTRUSTED
    assert judged(first, says(3), newest=3, primary=first).event == nodes.CLAIMS


def test_a_claim_on_a_newer_timeline_is_heard_though_there_is_a_primary():
    """A promotion begins a new timeline; the old primary may not have noticed yet."""
    assert judged(Node("two", ""), says(4), newest=3, primary=primary_on(3)).event == nodes.CLAIMS


def test_a_node_that_was_fenced_on_a_timeline_stays_so_until_it_has_a_newer_one():
    """A rival is not believed just because the primary went away."""
    node = Node("two", "")
    node.fenced_timeline = 3
    assert judged(node, says(3), newest=3).event == nodes.DISTRUSTED
    assert judged(node, says(4), newest=3).event == nodes.CLAIMS
    assert judged(node, says(3, recovery=True), newest=3).event == nodes.REPLICATES


@pytest.mark.parametrize("recovery", [True, False])
def test_a_server_of_another_cluster_is_fenced_whatever_it_says(recovery):
    """The system identifier is a cluster's own; a wrong address must not lead to somebody else's data."""
    verdict = judged(Node("two", ""), says(9, recovery=recovery, system=8), newest=1)
    assert verdict.event == nodes.DISTRUSTED
    assert "system identifier 8, wanted 7" in verdict.why


def test_an_unknown_system_identifier_is_no_mismatch():
    """Patroni does not tell it, and nobody knows the cluster's before its first primary."""
    assert judged(Node("two", ""), says(1, system=0)).event == nodes.CLAIMS
    assert judged(Node("two", ""), says(1, system=8), system=0).event == nodes.CLAIMS


def test_where_a_replica_stood_is_kept_when_it_becomes_primary():
    """Specification 3.3 point 3: the new timeline cannot begin before it."""
    node = Node("two", "")
    node.note(Evidence(True, 1, 500, 7, NOW, replay_lsn=400))
    node.note(Evidence(False, 2, 900, 7, NOW))
    assert (node.promoted_timeline, node.promoted_lsn) == (1, 400)


@given(st.integers(0, 2**64 - 1))
def test_a_position_survives_writing_and_reading(position):
    """PostgreSQL section 8.20: pg_lsn."""
    assert lsn(lsn_text(position)) == position


@pytest.mark.parametrize(
    "text", ["", "/", "0", "1/", "/1", "g/1", "1/-1", "1/+1", "1/0x1", "1_0/1", " 1/1", "123456789/0", "٣/1"]
)
def test_anything_else_is_no_position(text):
    """PostgreSQL section 8.20: two hexadecimal numbers of up to 8 digits."""
    with pytest.raises(WireError):
        lsn(text)
