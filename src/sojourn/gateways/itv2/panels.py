"""A panel as the rest of the gateway sees it: its state, which outlives its sessions, and what it is asked.

Theory of operation. A session brings what its panel says (:meth:`Panel.take`); the tracker turns it into changes and
events, which go to the views, and into wants, which wait in the panel until they are due. One task of the hub looks at
what is due: delays that end, wants, refreshes (:mod:`hub`). It starts one worker per panel, which asks the panel.
Everything that is asked takes turns with the commands of people; a command has the panel for itself until it is over.

Knows nothing of sockets, of the history's files, nor of MQTT and HTTP.

Source: itv2-protocol.md sections 11 and 12; itv2-users-and-history.md section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Final
from zlib import crc32

from sojourn.core.events import EventKind
from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import pulls, words
from sojourn.gateways.itv2.agenda import Agenda
from sojourn.gateways.itv2.answers import NOT_SENT, Answer, Done, UnknownOutcome
from sojourn.gateways.itv2.commands import Asker, Outcome, PanelCommand
from sojourn.gateways.itv2.desk import CommandDesk
from sojourn.gateways.itv2.events import Kind, PanelEvent, Source
from sojourn.gateways.itv2.hub_config import PanelProfile, StateSettings
from sojourn.gateways.itv2.lockout import Lockout
from sojourn.gateways.itv2.messages import (
    Command,
    ExitConfiguration,
    LeadPhase,
    Message,
    MultipleMessages,
    OpenSession,
    ProgrammingLead,
    Unknown,
)
from sojourn.gateways.itv2.state import PanelState, Value, from_bytes, is_busy, make_stale, to_bytes
from sojourn.gateways.itv2.tracker import Taken, Tracker, Update, Want
from sojourn.gateways.itv2.views import PanelLink, Phase

if TYPE_CHECKING:
    from sojourn.gateways.itv2.hub import PanelHub

WORK_FAILED: Final = EventKind("itv2.work_failed", ("panel", "work", "problem"), level="error")
"""A bug in what is asked of a panel; nothing of it is tried again before the next refresh."""
PULL_INCOMPLETE: Final = EventKind("itv2.pull_incomplete", ("panel", "why"), level="warning")
"""The panel did not answer a question; what is not known anew stays stale, and is asked again later."""
LOCKED: Final = EventKind("itv2.codes_locked", ("panel", "partition", "asker", "seconds"), level="warning")
"""Wrong codes, or the panel's own lock-out: no more codes are sent for a while."""


class Panel:
    """One panel and its state, which outlives its sessions.

    Life: made by the hub for each configured panel; ends with its configuration. Always true: at most one procedure or
    question of ours is with the panel; replayed messages change nothing; without a session everything is stale.
    """

    def __init__(self, hub: PanelHub, profile: PanelProfile) -> None:
        self._hub = hub
        self.settings = profile
        self.id = profile.integration_id
        self.name = profile.name
        self.state = PanelState()
        self.tracker = Tracker(profile, self.state, drift_limit_s=hub.settings.clock_drift_s)
        self.lockout = Lockout(hub.lockout_settings, hub.clock)
        self.session: PanelLink | None = None
        self.connected_since_ms = 0
        self.last_heard_ms = 0
        self.zone_width = 0
        """Last byte of the question for zones: 0, or 1 for panels that refuse 0."""
        self.lead_in_count = 0
        """How often the panel said that programming began."""
        self.programming_access: dict[int, int] = {}
        """Who is programming which partition, by the access of 0702."""
        self._phase: Phase = "disconnected"
        self._diagnosis = ""
        self.desk = CommandDesk(self, hub)
        self.turn = asyncio.Lock()
        """Whose turn with the panel it is."""
        self._agenda = Agenda(hub.clock, hub.settings.pull_pause_s)
        self._is_working = False
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        self._is_pulling = False
        self._is_new_configuration = False
        self._urgent: set[int] = set()
        """Partitions of which a replay said that they may be in alarm."""
        self.master_code: Secret | None = None
        """The one that was written through us; it is newer than the one in the settings."""
        self.scheduled_at = inf
        """When the hub looks at this panel."""

    # What people see of it

    @property
    def phase(self) -> Phase:
        """Where the connection stands."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            self._hub.tell(lambda view: view.phase_changed(self), self)

    @property
    def diagnosis(self) -> str:
        """The last sentence about the connection, for people."""
        return self._diagnosis

    @diagnosis.setter
    def diagnosis(self, sentence: str) -> None:
        if sentence != self._diagnosis:
            self._diagnosis = sentence
            self._hub.tell(lambda view: view.phase_changed(self), self)

    @property
    def hub_settings(self) -> StateSettings:
        """The settings that all panels share."""
        return self._hub.settings

    # What the session says

    def connected(self, session: PanelLink) -> None:
        """Take ``session``, whose handshake is done, in the place of any other. Then: replay, :meth:`pull`."""
        self._out_of_sight()
        self.session = session
        self.connected_since_ms = self.last_heard_ms = self._hub.wall_ms()
        opening = session.opening
        self._use(
            self.tracker.change(self.connected_since_ms, "live", lambda update: _connect(update, opening))
        )
        self.phase = "replay"

    def take(
        self, message: Message, source: Source, at_ms: int, panel_time: str | None = None
    ) -> list[PanelEvent]:
        """Take one notification; return what has to be stored before it is acknowledged."""
        self.last_heard_ms = at_ms
        if isinstance(message, MultipleMessages):
            return [
                event for part in message.messages for event in self.take(part, source, at_ms, panel_time)
            ]
        if source == "replay":
            self._urgent.update(self.tracker.alarm_hints(message))
            return self.tracker.replayed(message, at_ms, panel_time).events
        if isinstance(message, ProgrammingLead):
            self._note_lead(message)
        taken = self.tracker.notified(message, at_ms, panel_time)
        self._use(taken, is_stored=True)
        return taken.events

    def _note_lead(self, message: ProgrammingLead) -> None:
        if message.phase == LeadPhase.IN:
            self.lead_in_count += 1
            if message.partition in self.tracker.partition_numbers():
                self.programming_access[message.partition] = message.access
        else:
            self.programming_access.pop(message.partition, None)

    def lost(self, why: str, session: PanelLink | None = None) -> None:
        """Note the end of the session; ignored where ``session`` is not the present one: the newest wins."""
        if self.session is None or (session is not None and session is not self.session):
            return
        self.session = None
        self.connected_since_ms = 0
        self._out_of_sight()
        taken = self.tracker.change(self._hub.wall_ms(), "live", lambda update: _disconnect(update, why))
        self._use(taken)
        self.phase = "disconnected"

    def _out_of_sight(self) -> None:
        """Take nothing for granted from now on."""
        make_stale(self.state)
        self._urgent.clear()
        self._agenda.clear()
        self.programming_access.clear()

    # Asking

    async def pull(self) -> bool:
        """Read configuration, then statuses, then say "connected"; what is left out is asked again later.

        Partitions that the replay said may be in alarm are asked for before anything else.
        Returns: whether it is complete, and the session still the same.
        """
        session = self.session
        if session is None:
            return False
        why = await self._read_all(is_first=True)
        if self.session is not session:
            return False
        await self._leave_programming()
        self.want(Want("users"))
        self._agenda.refresh_at = self._hub.clock() + self._first_refresh_s
        self.phase = "connected"
        self.wake()
        return not why

    @property
    def _first_refresh_s(self) -> float:
        """Return when everything is asked again for the first time: after half the time or more, by the panel's id.

        Panels that came together, as all do after a restart, are not all asked together ever after.
        """
        share = crc32(self.id.encode()) / 0xFFFF_FFFF
        return self._hub.settings.refresh_every_s * (1 + share) / 2

    async def _read_all(self, *, is_first: bool) -> str:
        """Read everything; return why not, if not."""
        session = self.session
        self._is_pulling = True
        try:
            if is_first:
                self.phase = "reading configuration"
                await self._read_urgent()
            await pulls.read_configuration(self)
            if is_first:
                self.phase = "reading status"
            await pulls.read_statuses(self)
        except pulls.Incomplete as incomplete:
            if self.session is session:
                self.emit(PULL_INCOMPLETE, str(incomplete))
                self.want(Want("all", 0, round(self._hub.settings.retry_pull_s * 1_000)))
            return str(incomplete)
        finally:
            self._is_pulling = False
            if self._is_new_configuration:
                self._tell_configuration()
        if self.session is session:
            self._use(self.tracker.change(self._hub.wall_ms(), "pull", _fresh))
        return ""

    async def _read_urgent(self) -> None:
        """Ask at once for what an alarm may be about: all that a panel is can take a while.

        Raises: Incomplete.
        """
        urgent = sorted(self._urgent)
        self._urgent.clear()
        for number in urgent:
            await pulls.read_partition(self, number)
        if urgent:
            await pulls.read_zones(self)

    async def _leave_programming(self) -> None:
        """Leave what an earlier session of ours may have left open; whoever is at a keypad is refused nothing by it.

        Source: itv2-protocol.md section 12.
        """
        for number, partition in self.state.partitions.items():
            programming = partition.programming
            if programming is not None and programming.value and number not in self.programming_access:
                await self.ask(ExitConfiguration(partition=number))
                self.want(Want("partition", number))

    def keep_zones(self, numbers: Iterable[int], *, add: bool) -> None:
        """Forget zones that are not among ``numbers`` or not in use; ``add`` those that nobody has named."""

        def keep(update: Update) -> None:
            known = set(numbers)
            for number, zone in list(self.state.zones.items()):
                definition = zone.definition
                if number not in known or (definition is not None and definition.value == words.UNUSED):
                    update.forget("zone", number)
            if add:
                for number in known:
                    update.zone(number)

        self._use(self.tracker.change(self._hub.wall_ms(), "pull", keep))

    def keep_partitions(self, there: Iterable[int]) -> None:
        """Forget partitions that are not ``there``, unless programming said that they are in use."""

        def keep(update: Update) -> None:
            known = {*there, *self.settings.partitions}
            for number, partition in list(self.state.partitions.items()):
                is_enabled = partition.is_enabled
                if is_enabled.value if is_enabled is not None else number in known:
                    continue
                update.forget("partition", number)
            for number in self.settings.partitions:
                update.partition(number)

        self._use(self.tracker.change(self._hub.wall_ms(), "pull", keep))

    async def ask(self, command: Command | Unknown) -> Answer:
        """Ask when it is our turn; what is answered is in the state when this returns."""
        async with self.turn:
            if self._hub.is_leaving:
                return UnknownOutcome(f"{NOT_SENT}the server stops")
            return await self.execute(command)

    async def execute(self, command: Command | Unknown) -> Answer:
        """Send a command in a turn that the caller has; learn from the answer."""
        session = self.session
        if session is None:
            return UnknownOutcome(f"{NOT_SENT}the panel is not connected")
        answer = await session.execute(command, within_s=self._hub.settings.answer_within_s)
        if isinstance(answer, Done) and answer.message is not None:
            self.learn(answer.message)
        return answer

    def learn(self, message: Message) -> None:
        """Take an answer to a question of ours."""
        self._use(self.tracker.learn(message, self._hub.wall_ms()))

    def update(self, work: Callable[[Update], None], *, source: Source = "pull") -> None:
        """Let ``work`` set what no message says."""
        self._use(self.tracker.change(self._hub.wall_ms(), source, work))

    def emit(self, kind: EventKind, *values: object) -> None:
        """Note for the operator that something happened with this panel."""
        self._hub.events.emit(kind, None, self.name, *values)

    async def until(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait until something holds; False if it does not in time, or the session ends."""
        if holds():
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiter = (holds, future)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(within_s):
                return await future
        except TimeoutError:
            return False
        finally:
            self._waiters.remove(waiter)

    # Carrying out

    async def carry_out(self, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
        """Carry a command out once; the same ``request_id`` of the same asker again gives the same outcome.

        It is carried out to its end even if the caller does not wait for it.
        """
        return await self.desk.carry_out(command, asker, request_id)

    def code_failed(self, partition: int, asker: str) -> None:
        """Count a wrong code."""
        if self.lockout.failed(partition, asker):
            self._tell_lock(partition, asker)

    def panel_locked(self, partition: int, asker: str) -> None:
        """Note that the panel takes no codes now."""
        self.lockout.panel_locked()
        self._tell_lock(partition, asker)

    def _tell_lock(self, partition: int, asker: str) -> None:
        seconds = self.lockout.locked_for_s(partition, asker)
        self._hub.events.emit(LOCKED, None, self.name, partition, asker, seconds)

    # Keeping the state

    def saved(self) -> bytes:
        """Return the state for the next start; it holds no secrets."""
        return to_bytes(self.state)

    def restore(self, data: bytes) -> bool:
        """Take the state of the last run, stale; False if it cannot be read."""
        state = from_bytes(data)
        if state is None:
            return False
        state.is_stale = Value(True, self._hub.wall_ms(), "pull", is_stale=False)
        self.state = self.tracker.state = state
        self.tracker.change(self._hub.wall_ms(), "pull", lambda update: update.use_all_details())
        self._hub.tell(lambda view: view.configuration_changed(self), self)
        return True

    def configure(self, profile: PanelProfile) -> None:
        """Take other settings, which are those of the same panel."""
        old, self.settings = self.settings, profile
        self.tracker.use(profile)
        if (old.zone_details, old.partition_details) != (profile.zone_details, profile.partition_details):
            taken = self.tracker.change(self._hub.wall_ms(), "pull", lambda update: update.use_all_details())
            taken.is_configuration = True
            self._use(taken)
            # Names of the panel's own that they stood for.
            self.want(Want("all"))

    def _use(self, taken: Taken, *, is_stored: bool = False) -> None:
        """Tell what has changed and happened, and note what to do about it."""
        for change in taken.changes:
            if change.field.endswith("_delay_until_ms") and change.value is not None:
                self._delay(change.field.removesuffix("_until_ms"), change.number, change.value.value)
        for want in taken.wants:
            self.want(want)
        if taken.changes:
            self._hub.tell(lambda view: view.changed(self, taken.changes), self)
        if taken.events:
            if not is_stored:
                self._hub.store_events(self, taken.events)
            self._hub.tell(lambda view: view.happened(self, taken.events), self)
        if taken.is_configuration:
            self._is_new_configuration = True
            if not self._is_pulling:
                self._tell_configuration()
        for holds, future in self._waiters:
            if not future.done() and (self.session is None or holds()):
                future.set_result(self.session is not None)

    def _tell_configuration(self) -> None:
        self._is_new_configuration = False
        self._hub.tell(lambda view: view.configuration_changed(self), self)

    # What is due

    def _delay(self, field: str, number: int, until_ms: int) -> None:
        self._agenda.delay(field, number, (until_ms - self._hub.wall_ms()) / 1_000)
        self.wake()

    def want(self, want: Want) -> None:
        """Ask the panel for something when it is due; hints about the same come together."""
        if self.session is not None:
            self._agenda.want(want)
            self.wake()

    def wake(self) -> None:
        """Let the hub look when the next thing is due."""
        self._hub.at(self._agenda.next_due(may_ask=self._may_ask), self)

    @property
    def _may_ask(self) -> bool:
        return self._phase == "connected" and not self._is_working

    def fire(self) -> None:
        """Do what is due: end delays, and start to ask."""
        for field, number in self._agenda.take_delays():
            self._use(self.tracker.delay_ended(number, field, self._hub.wall_ms()))
        if self._may_ask:
            now = self._hub.clock()
            if self._agenda.refresh_at <= now:
                self._agenda.refresh_at = now + self._hub.settings.refresh_every_s
                self._agenda.want(Want("statuses"))
            if self._agenda.has_due():
                self._is_working = self._hub.spawn(self._work())
        self.wake()

    async def _work(self) -> None:
        """Ask for what is due, the most urgent first, until nothing is."""
        try:
            while self.session is not None and (want := self._agenda.take_due()) is not None:
                await self._answer_want(want)
        except pulls.Incomplete as incomplete:
            self._hub.events.emit(PULL_INCOMPLETE, None, self.name, str(incomplete))
        except Exception as error:  # noqa: BLE001 - as in _procedure
            self._hub.events.emit(WORK_FAILED, None, self.name, "refresh", type(error).__name__)
        finally:
            self._is_working = False
            self.wake()

    async def _answer_want(self, want: Want) -> None:
        """Ask what is wanted.

        Raises: Incomplete, after noting that it is wanted later.
        """
        settings = self._hub.settings
        try:
            match want.what:
                case "partition":
                    await pulls.read_partition(self, want.number)
                    self._watch(want.number)
                case "zones":
                    await pulls.read_zones(self)
                case "user":
                    await pulls.read_user_labels(self, [want.number])
                case "users":
                    await pulls.read_user_labels(self, self.tracker.user_numbers())
                case "statuses":
                    await pulls.refresh(self)
                    for number in self.state.partitions:
                        self._watch(number)
                    self._use(self.tracker.change(self._hub.wall_ms(), "pull", _fresh))
                case _:
                    await self._read_all(is_first=False)
        except pulls.Incomplete:
            what = "all" if want.what == "statuses" else want.what
            self.want(Want(what, want.number, round(settings.retry_pull_s * 1_000)))
            raise

    def _watch(self, number: int) -> None:
        """Ask again soon where something goes on whose end nobody reports."""
        partition = self.state.partitions.get(number)
        if partition is not None and is_busy(partition):
            after_ms = round(self._hub.settings.alarm_refresh_every_s * 1_000)
            self.want(Want("partition", number, after_ms))
            self.want(Want("zones", 0, after_ms))


def _connect(update: Update, opening: OpenSession | None) -> None:
    update.set("panel", 0, "is_stale", True)
    detail = {}
    if opening is not None:
        update.set("panel", 0, "firmware", words.version_words(opening.firmware))
        update.set("panel", 0, "protocol", words.version_words(opening.protocol))
        update.set("panel", 0, "encryption_type", opening.encryption_type)
        detail["firmware"] = words.version_words(opening.firmware)
    update.happened(Kind.CONNECTED, "panel", 0, {**detail})


def _disconnect(update: Update, why: str) -> None:
    update.set("panel", 0, "is_stale", True)
    update.happened(Kind.DISCONNECTED, "panel", 0, {"why": why})


def _fresh(update: Update) -> None:
    update.set("panel", 0, "is_stale", False)
