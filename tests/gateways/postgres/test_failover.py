"""The incident machine of one cluster, its clock moved by hand."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import failover, incidents, nodes
from sojourn.gateways.postgres.config import FailoverSettings
from sojourn.gateways.postgres.failover import BUSY, REFUSED, SILENT, ClusterState
from sojourn.gateways.postgres.nodes import Evidence, Node
from sojourn.testing.clock import ManualClock


class Stage:
    """A cluster of named nodes, and everything its observers were told."""

    def __init__(self, *names, **settings):
        self.clock = ManualClock()
        members = [Node(name, f"{name}:5432") for name in names]
        self.cluster = ClusterState(
            "main",
            members,
            FailoverSettings(**settings),
            clock=self.clock,
            wall_clock=self.clock.wall_clock(),
        )
        self.node = {node.name: node for node in members}
        self.told = []
        self.states = []
        self.wanted = []
        self.cluster.on_primary.append(lambda node: self.told.append(("primary", node.name)))
        self.cluster.on_lost.append(lambda node, _: self.told.append(("lost", node.name)))
        self.cluster.on_given_up.append(lambda why: self.told.append(("given up", why)))
        self.cluster.on_state.append(lambda _, new, __: self.states.append(new))
        self.cluster.on_poll_wanted.append(lambda node: self.wanted.append(node.name))

    def sees(self, name, timeline, *, recovery=False, system=7, ago_s=0.0, **more):
        evidence = Evidence(recovery, timeline, 1_000, system, self.clock() - ago_s, **more)
        self.cluster.saw(self.node[name], evidence)

    def fails(self, name, kind=REFUSED):
        self.cluster.failed(self.node[name], "gone", kind)

    def settles(self):
        self.cluster.answered(self.cluster.primary)
        self.cluster.settled()

    def passes(self, seconds):
        self.clock.advance(seconds)
        self.cluster.tick()

    @property
    def writable(self):
        node = self.cluster.writable()
        return node and node.name

    def state_of(self, name):
        return self.node[name].state

    def forget(self):
        self.told.clear()
        self.states.clear()
        self.wanted.clear()


@pytest.fixture
def pair():
    """Give a primary and a replica on timeline 1, at peace."""
    stage = Stage("one", "two")
    stage.sees("two", 1, recovery=True)
    stage.sees("one", 1)
    stage.settles()
    assert stage.cluster.state == incidents.NORMAL
    stage.forget()
    stage.clock.advance(60)
    return stage


def test_the_table_leads_from_every_state_back_to_normal():
    """Specification 6.4: NORMAL -> SUSPECT -> BUFFERING -> SWITCHING -> DRAINING -> NORMAL."""
    ways = {
        state: {new for (old, _), new in incidents.TRANSITIONS.items() if old == state}
        for state in incidents.STATES
    }
    for start in incidents.STATES:
        reached, todo = set(), [start]
        while todo:
            for new in ways[todo.pop()] - reached:
                reached.add(new)
                todo.append(new)
        assert reached == set(incidents.STATES)


def test_a_promoted_replica_takes_over_after_the_primary_was_lost(pair):
    """Specification 6.4: the whole way, and what observers hear of it."""
    pair.cluster.suspect(pair.node["one"], "connection reset")
    assert pair.wanted == ["one"]
    assert pair.writable is None
    pair.fails("one")
    assert pair.state_of("one") == nodes.DOWN
    pair.clock.advance(4)
    pair.sees("two", 2)
    assert pair.writable == "two"
    pair.cluster.answered(pair.node["two"])
    pair.clock.advance(1)
    pair.cluster.settled()
    assert pair.states == [
        incidents.SUSPECT, incidents.BUFFERING, incidents.SWITCHING, incidents.DRAINING, incidents.NORMAL,
    ]  # fmt: skip
    assert pair.told == [("lost", "one"), ("primary", "two")]
    (incident,) = pair.cluster.history
    assert (incident.outcome, incident.why) == ("failover", "connection reset")
    assert (incident.old_primary, incident.old_timeline) == ("one", 1)
    assert (incident.new_primary, incident.new_timeline) == ("two", 2)
    assert (incident.unwritable_s, incident.duration_s) == (4.0, 5.0)
    assert pair.cluster.incident is None


def test_the_old_primary_that_comes_back_is_fenced_until_it_replicates(pair):
    """Specification 3.3 point 6: writes are refused to a server whose timeline is older than the newest seen."""
    pair.fails("one")
    pair.sees("two", 2)
    pair.settles()
    pair.sees("one", 1)
    assert pair.state_of("one") == nodes.FENCED
    assert pair.writable == "two"
    pair.fails("one")
    pair.sees("one", 1)
    assert pair.state_of("one") == nodes.FENCED
    pair.sees("one", 2, recovery=True)
    assert pair.state_of("one") == nodes.REPLICA
    assert pair.cluster.readable() == [pair.node["one"]]


def test_a_primary_that_crashed_and_came_back_goes_on_at_once(pair):
    """The same node on the same timeline: nothing to wait for but the word of the others."""
    pair.fails("one")
    pair.clock.advance(1)
    pair.sees("one", 1)
    assert pair.writable is None  # the replica may have been promoted meanwhile
    assert pair.wanted[-1] == "two"
    pair.clock.advance(0.01)
    pair.sees("two", 1, recovery=True)
    assert pair.writable == "one"
    pair.settles()
    (incident,) = pair.cluster.history
    assert incident.outcome == "restart"
    assert pair.told == [("lost", "one"), ("primary", "one")]


def test_a_primary_that_comes_back_does_not_win_against_a_promotion(pair):
    """Between two polls of the replica it was promoted, and the old primary restarted."""
    pair.fails("one")
    pair.sees("one", 1)
    pair.clock.advance(0.01)
    pair.sees("two", 2)
    assert pair.writable == "two"
    pair.sees("one", 1)
    assert pair.state_of("one") == nodes.FENCED
    assert pair.told == [("lost", "one"), ("primary", "two")]


def test_a_replica_that_does_not_answer_delays_a_restart_by_one_poll_at_most(pair):
    """Time bounds: poll_timeout_s."""
    pair.fails("one")
    pair.sees("one", 1)
    pair.passes(1.9)
    assert pair.writable is None
    pair.passes(0.2)
    assert pair.writable == "one"


def test_a_replica_that_is_down_delays_a_restart_not_at_all(pair):
    """A node that refuses connections now was not promoted."""
    pair.fails("two")
    pair.fails("one")
    pair.sees("one", 1)
    assert pair.writable == "one"


def test_a_claimant_that_vanishes_again_is_forgotten(pair):
    """A claim holds only as long as its maker answers."""
    pair.fails("one")
    pair.sees("one", 1)
    pair.clock.advance(0.01)
    pair.fails("one")
    pair.clock.advance(0.01)
    pair.sees("two", 1, recovery=True)
    assert pair.writable is None


def test_a_claimant_that_turns_out_a_replica_is_forgotten():
    """Its second word is the one that counts."""
    stage = Stage("one", "two")
    stage.sees("two", 1)
    stage.clock.advance(0.01)
    stage.sees("two", 2, recovery=True)
    stage.clock.advance(0.01)
    stage.fails("one")
    stage.passes(5)
    assert stage.writable is None


def test_a_lone_primary_that_restarts_needs_nobodys_word():
    """A cluster of one node."""
    stage = Stage("one")
    stage.sees("one", 1)
    stage.settles()
    stage.fails("one")
    assert stage.writable is None
    stage.sees("one", 1)
    assert stage.writable == "one"


def test_a_false_alarm_is_over_with_the_first_answer_to_a_later_question(pair):
    """Specification 6.3: one lost connection alone does not mean node failure."""
    pair.cluster.suspect(pair.node["one"], "connection reset")
    pair.sees("one", 1, ago_s=0.001)  # asked before the suspicion
    assert pair.cluster.state == incidents.SUSPECT
    pair.clock.advance(0.01)
    pair.sees("one", 1)
    assert pair.cluster.state == incidents.NORMAL
    assert pair.told == [("primary", "one")]
    assert (pair.cluster.false_alarms_count, list(pair.cluster.history)) == (1, [])


def test_a_full_server_is_alive(pair):
    """53300 is the answer of a server that runs."""
    pair.cluster.suspect(pair.node["one"], "connection reset")
    pair.fails("one", BUSY)
    assert pair.cluster.state == incidents.NORMAL
    assert pair.state_of("one") == nodes.PRIMARY


def test_a_silent_primary_stays_writable_until_the_suspicion_has_lasted(pair):
    """suspect_timeout_s: an overloaded server is slow, not dead."""
    pair.fails("one", SILENT)
    assert (pair.cluster.state, pair.writable) == (incidents.SUSPECT, "one")
    pair.passes(2.9)
    assert pair.cluster.state == incidents.SUSPECT
    pair.passes(0.1)
    assert (pair.cluster.state, pair.writable) == (incidents.BUFFERING, None)
    assert pair.state_of("one") == nodes.DOWN


def test_a_silent_primary_whose_connections_break_is_not_writable(pair):
    """The next attach would break as well."""
    pair.fails("one", SILENT)
    pair.cluster.suspect(pair.node["one"], "connection reset")
    assert pair.writable is None


def test_a_primary_found_in_recovery_is_lost(pair):
    """A demoted primary answers every poll, and takes no writes."""
    pair.sees("one", 1, recovery=True)
    assert pair.states == [incidents.SUSPECT, incidents.BUFFERING]
    assert pair.told == [("lost", "one")]
    assert pair.state_of("one") == nodes.REPLICA


def test_a_promotion_beside_a_living_primary_fences_it_at_once(pair):
    """The stale primary has not been told; its clients move all the same."""
    pair.sees("two", 2)
    assert pair.states == [incidents.SWITCHING]
    assert pair.state_of("one") == nodes.FENCED
    assert pair.told == [("lost", "one"), ("primary", "two")]
    pair.settles()
    assert pair.cluster.history[0].outcome == "failover"


def test_a_replica_on_a_newer_timeline_fences_the_primary(pair):
    """Somebody else is primary, though nobody here can reach it."""
    pair.sees("two", 2, recovery=True)
    assert pair.state_of("one") == nodes.FENCED
    assert pair.cluster.state == incidents.BUFFERING
    assert pair.wanted == ["one", "two"]
    pair.sees("one", 1)
    assert pair.state_of("one") == nodes.FENCED


def test_a_second_primary_on_the_same_timeline_is_fenced_and_stays_fenced(pair):
    """Keep the one we have; the newcomer is not believed when the first one dies either."""
    pair.sees("two", 1)
    assert (pair.state_of("two"), pair.writable) == (nodes.FENCED, "one")
    pair.fails("one")
    pair.fails("two")
    pair.sees("two", 1)
    pair.passes(5)
    assert (pair.state_of("two"), pair.writable) == (nodes.FENCED, None)


def test_the_same_data_on_another_host_is_accepted_when_the_first_host_is_gone(pair):
    """Shared storage moves without a promotion; while the first host is only suspected, nobody is accepted."""
    pair.cluster.suspect(pair.node["one"], "connection reset")
    pair.sees("two", 1)
    assert pair.writable is None
    pair.fails("one")
    assert pair.writable == "two"


def test_another_clusters_server_is_never_used(pair):
    """System identifiers differ."""
    pair.sees("two", 5, system=8)
    assert pair.state_of("two") == nodes.FENCED
    pair.sees("two", 5, recovery=True, system=8)
    assert (pair.state_of("two"), pair.cluster.readable()) == (nodes.FENCED, [])
    assert pair.writable == "one"


def test_a_stranger_met_before_the_first_primary_is_fenced_with_it():
    """Nobody knows the cluster's identifier before its first primary."""
    stage = Stage("one", "two")
    stage.sees("two", 1, recovery=True, system=8)
    assert stage.state_of("two") == nodes.REPLICA
    stage.sees("one", 1)
    assert (stage.writable, stage.state_of("two")) == ("one", nodes.FENCED)


def test_the_first_primary_waits_until_every_node_was_asked():
    """A daemon that starts after a failover must not believe the stale primary that answers first."""
    stage = Stage("one", "two")
    stage.sees("one", 1)
    assert stage.writable is None
    stage.clock.advance(0.1)
    stage.sees("two", 2)
    assert stage.writable is None
    stage.sees("one", 1)
    assert stage.writable == "two"
    stage.sees("one", 1)
    assert stage.state_of("one") == nodes.FENCED
    stage.settles()
    assert list(stage.cluster.history) == []


def test_waiting_ends_after_the_buffering_time_and_goes_on_when_a_primary_is_found(pair):
    """buffering_timeout_s: those who wait get an error through on_given_up."""
    pair.fails("one")
    pair.passes(29.9)
    assert pair.cluster.state == incidents.BUFFERING
    pair.passes(0.1)
    assert pair.cluster.state == incidents.GIVEN_UP
    assert pair.told[-1][0] == "given up"
    pair.passes(100)
    assert [word for word, _ in pair.told].count("given up") == 1
    pair.sees("two", 2)
    assert pair.writable == "two"
    pair.settles()
    assert pair.cluster.history[0].unwritable_s == 130.0


def test_a_primary_found_and_lost_again_does_not_prolong_the_wait(pair):
    """The bound holds for the incident, not for each of its parts."""
    pair.fails("one")
    pair.passes(20)
    pair.sees("two", 2)
    pair.fails("two")
    assert pair.cluster.state == incidents.BUFFERING
    pair.passes(10)
    assert pair.cluster.state == incidents.GIVEN_UP


def test_a_new_primary_that_never_answers_again_is_lost(pair):
    """SWITCHING is bounded as well."""
    pair.fails("one")
    pair.sees("two", 2)
    pair.passes(3)
    assert (pair.cluster.state, pair.state_of("two")) == (incidents.BUFFERING, nodes.DOWN)


def test_the_monitors_second_look_is_an_answer_too(pair):
    """Without any client, an incident must end."""
    pair.fails("one")
    pair.sees("two", 2)
    pair.clock.advance(0.05)
    pair.sees("two", 2)
    assert pair.cluster.state == incidents.DRAINING
    pair.passes(failover.DRAIN_LIMIT_S)
    assert pair.cluster.state == incidents.NORMAL


def test_a_loss_while_the_last_incident_drains_is_a_new_incident(pair):
    """Two failovers in a row are two lines in the history."""
    pair.fails("one")
    pair.sees("two", 2)
    pair.cluster.answered(pair.node["two"])
    pair.fails("two")
    assert pair.cluster.state == incidents.BUFFERING
    pair.sees("one", 3)
    pair.settles()
    assert [incident.new_primary for incident in pair.cluster.history] == ["two", "one"]


def test_where_clients_are_not_held_they_are_told_at_once():
    """is_enabled = false: clients see the loss; the primary is looked for all the same."""
    stage = Stage("one", "two", is_enabled=False)
    stage.sees("two", 1, recovery=True)
    stage.sees("one", 1)
    stage.settles()
    stage.cluster.suspect(stage.node["one"], "connection reset")
    assert stage.writable == "one"
    stage.fails("one")
    stage.passes(0)
    assert stage.cluster.state == incidents.GIVEN_UP
    stage.sees("two", 2)
    assert stage.writable == "two"


def test_an_unmonitored_cluster_has_one_primary_for_good():
    """Without a monitoring login there is no evidence, and no incident."""
    stage = Stage("one")
    stage.cluster.assume(stage.node["one"])
    stage.cluster.suspect(stage.node["one"], "connection reset")
    stage.passes(100)
    assert (stage.cluster.state, stage.writable, stage.wanted) == (incidents.NORMAL, "one", [])


def test_replicas_serve_reads_through_the_incident_and_laggards_do_not_after_it():
    """Specification 6.7: compare timelines as well as positions."""
    stage = Stage("one", "two", "three")
    for name in ("two", "three"):
        stage.sees(name, 1, recovery=True)
    stage.sees("one", 1)
    stage.settles()
    stage.fails("one")
    assert [node.name for node in stage.cluster.readable()] == ["two", "three"]
    stage.sees("two", 2)
    assert stage.cluster.readable() == []
    stage.sees("three", 2, recovery=True)
    assert [node.name for node in stage.cluster.readable()] == ["three"]


def test_lag_is_counted_from_the_primarys_last_position(pair):
    """Specification 6.4: REPLICA(lag, lsn)."""
    pair.sees("two", 1, recovery=True, replay_lsn=900, lag_s=1.5)
    assert (pair.node["two"].lag_bytes, pair.node["two"].lag_s) == (100, 1.5)


def test_a_silent_replica_is_down_after_the_same_time_as_a_primary(pair):
    """A replica's loss is no incident, but whoever uses it hears of it."""
    pair.sees("two", 1, recovery=True)
    pair.fails("two", SILENT)
    assert pair.state_of("two") == nodes.REPLICA
    pair.clock.advance(3.1)
    pair.fails("two", SILENT)
    assert pair.state_of("two") == nodes.DOWN
    assert pair.told == [("lost", "two")]
    assert pair.cluster.state == incidents.NORMAL


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("sees"),
            st.sampled_from("abc"),
            st.integers(1, 3),
            st.booleans(),
            st.sampled_from([0, 7, 7, 7, 8]),
        ),
        st.tuples(st.just("fails"), st.sampled_from("abc"), st.sampled_from([REFUSED, SILENT, BUSY])),
        st.tuples(st.just("passes"), st.sampled_from([0.01, 1.0, 10.0])),
        st.tuples(st.sampled_from(["suspect", "switch"]), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["settles", "ordered", "abandon"])),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_only_one_node_is_writable_and_it_is_not_stale(steps):
    """Specification 3.3 point 6 and 6.4: the invariants, under any order of events."""
    stage = Stage("a", "b", "c")
    cluster = stage.cluster
    in_recovery = set()
    for kind, *words in steps:
        if kind == "sees":
            name, timeline, recovery, system = words
            (in_recovery.add if recovery else in_recovery.discard)(name)
            stage.sees(name, timeline, recovery=recovery, system=system)
        elif kind in ("fails", "passes"):
            getattr(stage, kind)(*words)
        elif kind == "suspect":
            cluster.suspect(stage.node[words[0]], "lost")
        elif kind == "switch":
            with contextlib.suppress(BackendUnavailable):
                cluster.begin_switchover(stage.node[words[0]])
        elif kind == "settles" and cluster.primary:
            stage.settles()
        elif kind == "ordered":
            cluster.promotion_ordered()
        elif kind == "abandon":
            cluster.abandon_switchover("enough")
        primaries = [node for node in cluster.nodes if node.state == nodes.PRIMARY]
        assert len(primaries) <= 1
        writable = cluster.writable()
        if writable is not None:
            assert primaries == [writable] == [cluster.primary]
            assert writable.name not in in_recovery
            assert writable.timeline >= cluster.newest_timeline
            assert writable.system_identifier in (0, cluster.system_identifier)
        assert (cluster.state == incidents.NORMAL) <= (
            cluster.incident is None and cluster.primary is not None
        )
        assert all(node.state == nodes.REPLICA for node in cluster.readable())
        if cluster.state in (incidents.NORMAL, incidents.SWITCHING, incidents.DRAINING):
            assert writable is not None
    # However it came to this: a cluster in which all is well again is seen to be well.
    system = cluster.system_identifier or 7
    for _ in range(2):
        stage.clock.advance(0.1)
        for name in "bca":
            stage.sees(name, 9, recovery=name != "a", system=system)
    assert stage.writable == "a"
    stage.settles()
    assert cluster.state == incidents.NORMAL
