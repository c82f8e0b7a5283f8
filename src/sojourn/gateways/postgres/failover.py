"""Failover of one cluster: who takes writes, and what is going on while nobody does.

Monitor and engine report what they see and lose; this decides when clients wait, for which node they go on, and when
waiting has been long enough. Pure: it knows no connection, no client and no task, takes its clock as an argument and
acts only when called. Whoever is to hear of it puts a callable into one of the ``on_`` lists.

Three rules carry it. A promotion (a timeline newer than the last primary's) is believed at once. Any other claim to be
primary is believed when every other node that answers was asked after the claim was made, so that a primary that comes
back from a crash does not win against a replica promoted meanwhile. A primary once believed is fenced as soon as
anything newer is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from sojourn.core.clock import Clock, WallClock, monotonic, utc_now
from sojourn.errors import BackendUnavailable
from sojourn.gateways.postgres import nodes
from sojourn.gateways.postgres.incidents import (
    ALIVE,
    ANSWERED,
    BUFFERING,
    DRAINING,
    FOUND,
    GIVEN_UP,
    GONE,
    NORMAL,
    PLANNED,
    SETTLED,
    SUSPECT,
    SUSPICION,
    SWITCHING,
    TIMED_OUT,
    TRANSITIONS,
    Incident,
)
from sojourn.gateways.postgres.nodes import Evidence, Node

DRAIN_LIMIT_S: Final = 5.0
"""How long an incident stays open after the new primary has answered, if the engine does not say that it settled."""

HISTORY_COUNT: Final = 100

REFUSED: Final = "refused"
"""Nobody listens there, or the server says that it takes no connections (57P03): it is down now."""
SILENT: Final = "silent"
"""No answer, or one that says nothing of the server's health: time will tell."""
BUSY: Final = "busy"
"""The server lives but has no place for us (53300)."""
DENIED: Final = "denied"
"""The server lives but does not let the monitor in: no reason to leave a primary, and none to trust a replica."""


class FailoverTimes(Protocol):
    """The part of the failover settings that matters here."""

    @property
    def is_enabled(self) -> bool:
        """False: clients are not held, a loss is told at once."""

    @property
    def poll_timeout_s(self) -> float:
        """How long a claim waits for the word of nodes that do not answer."""

    @property
    def suspect_timeout_s(self) -> float:
        """How long a node may be silent before it counts as lost."""

    @property
    def buffering_timeout_s(self) -> float:
        """How long clients are held."""


class ClusterState:
    """The nodes of one cluster, its primary, and the incident that is going on.

    Life: made with the gateway, driven by the monitor (``saw``, ``failed``, ``tick``) and the engine (``suspect``,
    ``answered``, ``settled``), gone with the gateway. It begins in BUFFERING, because no primary is known yet; this
    first search is no incident. Always true: at most one node is PRIMARY; ``writable`` is that node or None; observers
    are called after the state is whole, in the order of what happened, and may call back.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Node],
        settings: FailoverTimes,
        *,
        clock: Clock = monotonic,
        wall_clock: WallClock = utc_now,
    ) -> None:
        self.name = name
        self.nodes = tuple(members)
        self.settings = settings
        self.primary: Node | None = None
        """The last node that was believed; whether it may be written to is for ``writable`` to say."""
        self.is_monitored = True
        self.state = BUFFERING
        self.since = clock()
        self.incident: Incident | None = None
        self.history: deque[Incident] = deque(maxlen=HISTORY_COUNT)
        self.false_alarms_count = 0
        self.incidents_count = 0
        self.newest_timeline = 0
        self.system_identifier = 0
        self.on_primary: list[Callable[[Node], None]] = []
        """A writable primary is known (again); also after a false alarm."""
        self.on_lost: list[Callable[[Node, str], None]] = []
        """A node that was in use is not to be used any more: its connections are worth closing."""
        self.on_state: list[Callable[[str, str, str], None]] = []
        """The incident machine moved: old state, new state, why."""
        self.on_node: list[Callable[[Node, str], None]] = []
        """A node's state changed: the node, its old state."""
        self.on_given_up: list[Callable[[str], None]] = []
        """Waiting was long enough: those who wait get their error (57P03); the argument says why."""
        self.on_poll_wanted: list[Callable[[Node], None]] = []
        """A node should be asked at once."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._accepted_timeline = 0
        self._candidate: Node | None = None
        self._claimed_at = 0.0
        self._deadline = self.since + (settings.buffering_timeout_s if settings.is_enabled else 0.0)
        self._news: deque[partial[None]] = deque()
        self._is_telling = False

    # What the engine asks

    def writable(self) -> Node | None:
        """Return the node that takes new transactions, None while clients have to wait (or GIVEN_UP: be refused).

        A primary that merely did not answer a poll in time stays writable until it is lost; one whose connections
        broke does not, because the next attach would break as well.
        """
        if self.state == SUSPECT:
            is_hard = self.incident is not None and self.incident.is_hard and self.settings.is_enabled
            return None if is_hard else self.primary
        return self.primary if self.state in (NORMAL, SWITCHING, DRAINING) else None

    def readable(self) -> list[Node]:
        """Return the replicas on the newest timeline; those that stayed behind at a promotion serve no reads."""
        return [
            node
            for node in self.nodes
            if node.state == nodes.REPLICA and not 0 < node.timeline < self.newest_timeline
        ]

    @property
    def is_quiet(self) -> bool:
        """Nothing is going on: polls may be slow."""
        return self.state == NORMAL and self._candidate is None

    def assume(self, node: Node) -> None:
        """Take a node for the primary for good: for a cluster that nobody can monitor.

        From now on no report of a lost connection is an incident; the clients of that connection see the loss.
        """
        self.is_monitored = False
        self._apply(node, nodes.ACCEPTED, "configured, not monitored")
        self.primary, self.state, self.since = node, NORMAL, self._clock()
        self._announce(self.on_primary, node)
        self._tell()

    # What the monitor reports

    def saw(self, node: Node, evidence: Evidence) -> None:
        """Take what a node said of itself."""
        sure = self.primary if self.state in (NORMAL, SWITCHING, DRAINING) else None
        node.note(evidence)
        verdict = nodes.judge(
            node,
            evidence,
            newest_timeline=self.newest_timeline,
            system_identifier=self.system_identifier,
            primary=sure,
        )
        if verdict.event == nodes.CLAIMS:
            self._claim(node, evidence, verdict.why)
        else:
            if node is self._candidate:
                self._candidate = None
            if verdict.event == nodes.REPLICATES:
                node.fenced_timeline = 0
                self._heard_of(evidence.timeline, node)
                if self.primary is not None:
                    node.lag_bytes = max(0, self.primary.lsn - node.replay_lsn)
            elif not evidence.is_in_recovery:
                node.fenced_timeline = max(node.fenced_timeline, evidence.timeline)
            self._move(node, verdict.event, verdict.why)
        self._weigh()
        self._tell()

    def failed(self, node: Node, why: str, kind: str = SILENT) -> None:
        """Take that a node could not be asked.

        Args:
            kind: REFUSED, SILENT, BUSY or DENIED.
        """
        now = node.asked_at = self._clock()
        if kind == BUSY or (kind == DENIED and node is self.primary):
            node.evidence = why
            if node is self.primary:
                self._fire(ALIVE, why)
        elif node is self.primary and node.state == nodes.PRIMARY:
            node.evidence = why
            self._suspect(why, is_hard=kind == REFUSED)
            if kind == REFUSED:
                self._move(node, nodes.LOST, why)
        elif kind == REFUSED or now - node.seen_at > self.settings.suspect_timeout_s:
            self._move(node, nodes.LOST, why)
        else:
            node.evidence = why
        self._weigh()
        self._tell()

    def tick(self, now: float | None = None) -> None:
        """Apply the time bounds; to be called several times a second while an incident lasts."""
        now = self._clock() if now is None else now
        lasted_s = now - self.since
        primary = self.primary
        if self.state in (SUSPECT, SWITCHING) and primary and lasted_s >= self.settings.suspect_timeout_s:
            self._move(primary, nodes.LOST, f"no answer for {lasted_s:.1f} s")
        elif self.state == BUFFERING and now >= self._deadline:
            if self.incident and not self.incident.is_final and self._is_leaving(primary):
                self.abandon_switchover("the target was not promoted in time")
            else:
                self._fire(TIMED_OUT, f"no primary after {lasted_s:.1f} s")
        elif self.state == DRAINING and lasted_s >= DRAIN_LIMIT_S:
            self._fire(SETTLED, "enough time to settle")
        self._weigh()
        self._tell()

    # What the engine reports

    def suspect(self, node: Node, why: str) -> None:
        """Take that a connection to a node was lost or refused; the node is asked at once.

        An administrator who ends one session (57P01) is no reason to call this.
        """
        if not self.is_monitored:
            return
        if node is self.primary and node.state == nodes.PRIMARY:
            self._suspect(why, is_hard=True)
        self._want_poll(node)
        self._tell()

    def answered(self, node: Node) -> None:
        """Take that a connection to the new primary is ready."""
        if node is self.primary:
            self._fire(ANSWERED, f"{node.name} answers")
        self._tell()

    def settled(self) -> None:
        """Take that everybody who waited has been served and nothing of the old primary is left."""
        self._fire(SETTLED, "nobody waits any more")
        self._tell()

    # What the operator asks for

    def begin_switchover(self, target: Node) -> None:
        """Hold new transactions until ``target`` is primary; those that run go on at the old one.

        Then: when they have ended, promote ``target`` (:func:`.monitor.hand_over` does); its new timeline ends the
        incident. Without one, the old primary goes on after ``buffering_timeout_s``.
        Raises: BackendUnavailable if there is no primary to leave, or the target is no replica that could take over.
        """
        old = self.primary
        if old is None or self.state != NORMAL:
            raise BackendUnavailable(self.name, 0.0, f"the cluster is {self.state}")
        if target not in self.readable():
            raise BackendUnavailable(target.name, 0.0, f"{target.name} is {target.state}")
        self._open(f"switchover to {target.name}", is_planned=True)
        self._apply(old, nodes.DRAINED, f"switchover to {target.name}")
        self._fire(PLANNED, f"switchover to {target.name}")
        self._tell()

    def promotion_ordered(self) -> None:
        """Take that the target was told to promote itself: from now on the old primary is never gone back to."""
        if self.incident is not None and self.incident.is_planned:
            self.incident.is_final = True

    def abandon_switchover(self, why: str) -> None:
        """Go back to the old primary, which is asked first; what the target refused to do leaves a way back."""
        old = self.primary
        if self.state not in (BUFFERING, GIVEN_UP) or old is None or not self._is_leaving(old):
            return
        if self.incident is not None:
            self.incident.is_final = False
        self._deadline = self._clock() + self.settings.suspect_timeout_s
        self._apply(old, nodes.RETURNED, f"switchover abandoned: {why}")
        self._want_poll(old)
        self._tell()

    def forsake_switchover(self, why: str) -> None:
        """Take that nobody leads the switchover any more: go back, but leave an ordered promotion its time."""
        if self.state == BUFFERING and self.incident is not None and self.incident.is_final:
            self.incident.is_final = False
        else:
            self.abandon_switchover(why)

    # How it moves

    def _claim(self, node: Node, evidence: Evidence, why: str) -> None:
        """Take a claim to be primary that nothing known speaks against."""
        if node is self.primary and node.state == nodes.PRIMARY:
            self._apply(node, nodes.ACCEPTED, why)
            self._learn_from(node)
            if self.state == SUSPECT and self.incident and evidence.seen_at >= self.incident.began:
                self._candidate = None
                self._fire(ALIVE, why)
            elif self.state == SWITCHING and evidence.seen_at > self.since:
                self._fire(ANSWERED, why)
        elif self._accepted_timeline and evidence.timeline > self._accepted_timeline:
            self._accept(node, why)
        elif self._is_leaving(node):
            node.evidence = f"{why}, being left"
        elif self._candidate is None or evidence.timeline > self._candidate.timeline:
            self._candidate, self._claimed_at = node, evidence.seen_at
            node.evidence = f"{why}, the others are being asked"
            for other in self.nodes:
                if other is not node:
                    self._want_poll(other)

    def _heard_of(self, timeline: int, replica: Node) -> None:
        """Take that a replica follows a timeline: a primary on an older one is stale, whoever the new one is."""
        self.newest_timeline = max(self.newest_timeline, timeline)
        primary = self.primary
        if primary is None or primary is replica or primary.timeline >= timeline:
            return
        if primary.state == nodes.PRIMARY:
            primary.fenced_timeline = primary.timeline
            self._move(
                primary, nodes.DISTRUSTED, f"stale primary: {replica.name} follows timeline {timeline}"
            )
            for node in self.nodes:
                self._want_poll(node)

    def _weigh(self) -> None:
        """Accept the candidate if everybody else has been asked since, or had the time to answer."""
        candidate = self._candidate
        if candidate is None or self.state not in (BUFFERING, GIVEN_UP):
            return
        if candidate.timeline < self.newest_timeline or candidate.asked_at > candidate.seen_at:
            self._candidate = None  # it lost its case, or does not answer any more
            return
        if self._clock() - self._claimed_at <= self.settings.poll_timeout_s and any(
            other.state != nodes.DOWN and other.asked_at < self._claimed_at
            for other in self.nodes
            if other is not candidate
        ):
            return
        self._accept(candidate, f"primary on timeline {candidate.timeline}")

    def _accept(self, node: Node, why: str) -> None:
        """Make a node the primary, and fence what speaks against it."""
        was_left = self._is_leaving(self.primary)
        old, self.primary, self._candidate = self.primary, node, None
        node.fenced_timeline = 0
        if self.state == DRAINING:
            self._fire(SETTLED, f"{node.name} is {why}")
        if self.state == NORMAL:
            self._open(f"{node.name} is {why}", is_planned=False, old=old)
        self._apply(node, nodes.ACCEPTED, why)
        if old is not None and old is not node:
            if was_left:
                self._apply(old, nodes.RETURNED, f"left for {node.name}")
                self._announce(self.on_lost, old, f"left for {node.name}")
                self._want_poll(old)
            elif old.state == nodes.PRIMARY:
                old.fenced_timeline = old.timeline
                self._apply(old, nodes.DISTRUSTED, f"stale: {node.name} is {why}")
                self._announce(self.on_lost, old, f"stale: {node.name} is {why}")
        self._learn_from(node)
        if self.incident is not None:
            self.incident.found = self._clock()
            self.incident.new_primary, self.incident.new_timeline = node.name, node.timeline
        self._fire(FOUND, f"{node.name} is {why}")

    def _suspect(self, why: str, *, is_hard: bool) -> None:
        """Begin to doubt the primary, or doubt it harder."""
        if self.state == DRAINING:
            self._fire(SETTLED, why)
        if self.state == NORMAL:
            self._open(why, is_planned=False)
            if self.incident is not None:
                self.incident.is_hard = is_hard
            self._fire(SUSPICION, why)
        elif self.state == SUSPECT and self.incident is not None and is_hard:
            self.incident.is_hard = True

    def _move(self, node: Node, event: str, why: str) -> None:
        """Apply an event that may take a node out of use; the primary's loss moves the incident machine."""
        was = node.state
        self._apply(node, event, why)
        if was in (nodes.PRIMARY, nodes.REPLICA) and node.state != was:
            self._announce(self.on_lost, node, why)
            if node is self.primary:
                self._suspect(why, is_hard=True)
                self._fire(GONE, why)

    def _apply(self, node: Node, event: str, why: str) -> None:
        was = node.state
        if node.apply(event, self._clock(), why):
            self._announce(self.on_node, node, was)

    def _open(self, why: str, *, is_planned: bool, old: Node | None = None) -> None:
        """Begin an incident."""
        old = old or self.primary
        self.incidents_count += 1
        self.incident = Incident(
            number=self.incidents_count,
            why=why,
            began_at=self._wall_clock(),
            began=self._clock(),
            old_primary=old.name if old else "",
            old_timeline=old.timeline if old else 0,
            is_planned=is_planned,
        )

    def _fire(self, event: str, why: str) -> None:
        """Move the incident machine, keep the record, and note whom to tell."""
        new = TRANSITIONS.get((self.state, event))
        if new is None:
            return
        old, self.state, self.since = self.state, new, self._clock()
        incident = self.incident
        if incident is not None:
            incident.steps.append((new, self.since))
        self._announce(self.on_state, old, new, why)
        if new == BUFFERING:
            self._hold(incident)
        elif new == GIVEN_UP:
            self._announce(self.on_given_up, why)
        elif new == NORMAL and incident is not None:
            self._end(incident, is_false_alarm=event == ALIVE)
        if event in (ALIVE, FOUND) and self.primary is not None:
            self._announce(self.on_primary, self.primary)

    def _hold(self, incident: Incident | None) -> None:
        """Begin to hold clients; a primary that was found and lost again does not prolong what they wait."""
        if incident is None or not incident.lost:
            may_hold = self.settings.is_enabled or (incident is not None and incident.is_planned)
            limit_s = self.settings.buffering_timeout_s if may_hold else 0.0
            self._deadline = self.since + limit_s
        if incident is not None:
            incident.lost = incident.lost or self.since

    def _end(self, incident: Incident, *, is_false_alarm: bool) -> None:
        self.incident = None
        incident.close(self.since)
        if is_false_alarm:
            self.false_alarms_count += 1
        else:
            self.history.append(incident)

    def _is_leaving(self, node: Node | None) -> bool:
        """Say whether a switchover is about to leave this node."""
        return (
            node is not None
            and node is self.primary
            and node.state == nodes.DRAINING
            and self.incident is not None
            and self.incident.is_planned
        )

    def _learn_from(self, primary: Node) -> None:
        """Take timeline and identity of the cluster from its primary, and fence whoever is of another one."""
        self._accepted_timeline = primary.timeline
        self.newest_timeline = max(self.newest_timeline, primary.timeline)
        if not self.system_identifier and primary.system_identifier:
            self.system_identifier = primary.system_identifier
            for node in self.nodes:
                if node.system_identifier not in (0, self.system_identifier):
                    self._move(node, nodes.DISTRUSTED, "another cluster's data")

    def _want_poll(self, node: Node) -> None:
        self._announce(self.on_poll_wanted, node)

    def _announce(self, observers: Sequence[Callable[..., None]], *news: object) -> None:
        self._news.extend(partial(observer, *news) for observer in observers)

    def _tell(self) -> None:
        """Call the observers; what they cause is told after what caused it."""
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._news:
                self._news.popleft()()
        finally:
            self._is_telling = False
