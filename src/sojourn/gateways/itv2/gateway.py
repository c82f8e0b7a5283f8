"""Itv2Gateway: panels dial in, their state is kept, and the interfaces look at it; puts the parts together.

Decides who may connect and which of two connections of a panel stays, and has the doctor tell why a handshake failed.
Boring on purpose: rules of the wire are in ``session`` and ``handshake``, what messages mean in the hub.

Source: itv2-protocol.md sections 1, 7.5, 11 and 14.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from sojourn.core.clock import WallClock, utc_now
from sojourn.core.correlation import PendingTable
from sojourn.core.events import EventKind
from sojourn.core.gateway import HANDLER_FAILED, Gateway
from sojourn.core.recorder import Direction
from sojourn.core.session import Reason, in_words, raised_at
from sojourn.core.table import Mode
from sojourn.errors import LimitExceeded, SojournError
from sojourn.gateways.itv2.admin_panel import admin_panel
from sojourn.gateways.itv2.asking import Asking
from sojourn.gateways.itv2.capture_files import CaptureFolder
from sojourn.gateways.itv2.codec import Itv2Codec, OtherHeader, shown
from sojourn.gateways.itv2.doctor import (
    HANDSHAKE_FAILED,
    Case,
    Step,
    Symptom,
    firmware_words,
    sentence_of,
    silence_at,
    type_words,
    unknown_type,
)
from sojourn.gateways.itv2.failures import FailureCount
from sojourn.gateways.itv2.findings import troubles_of
from sojourn.gateways.itv2.handlers import RANDOM_BYTES, HandshakeFailed
from sojourn.gateways.itv2.history import History
from sojourn.gateways.itv2.http.failures import Failures
from sojourn.gateways.itv2.hub import PanelHub
from sojourn.gateways.itv2.listening import Listeners
from sojourn.gateways.itv2.panels import Panel
from sojourn.gateways.itv2.sections import sections_of, sections_of_panel
from sojourn.gateways.itv2.session import PanelSession, Phase, router
from sojourn.gateways.itv2.trace_words import words_of
from sojourn.gateways.itv2.wire import TLinkFraming, WireOptions

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.panel import AdminPanel, Trouble
    from sojourn.core.peer import Peer
    from sojourn.core.server import Server
    from sojourn.core.session import Session
    from sojourn.gateways.itv2.config import CaptureSettings, Itv2Settings, PanelSettings
    from sojourn.gateways.itv2.events import PanelEvent
    from sojourn.gateways.itv2.messages import OpenSession
    from sojourn.gateways.itv2.mqtt.publisher import MqttPublisher
    from sojourn.gateways.itv2.state import Change

PANEL_CONNECTED: Final = EventKind("itv2.panel_connected", ("panel", "peer", "firmware", "encryption"))
"""The handshake is done."""
PANEL_LOST: Final = EventKind("itv2.panel_lost", ("panel", "why"), level="warning")
"""The session of a panel ended; its state is stale until it is back."""
PANEL_REPLACED: Final = EventKind("itv2.panel_replaced", ("panel", "old", "new"), level="warning")
"""A newer connection of the same panel took the place of the one before."""
PANEL_LEARNT: Final = EventKind("itv2.panel_learnt", ("integration_id", "peer", "encryption", "firmware"))
"""A panel that is not configured called while the gateway learns; it got no answer."""

ID_DIGITS: Final = 12
LEARNT_COUNT: Final = 32
"""Unknown panels that are remembered while the gateway learns."""


class Learnt(msgspec.Struct, frozen=True):
    """A panel that called while the gateway learnt, for the operator to configure; it is not trusted with anything."""

    integration_id: str
    encryption_type: int
    firmware: str
    peer: str
    at_ms: int


def _never(_packet: Any) -> None:
    """Stand for a key of packets: the connection is the session, and idle is not what it is when it is silent."""


class Itv2Gateway(Gateway):
    """A server for the integration protocol of DSC PowerSeries Neo panels.

    Args:
        settings: ``[itv2]``, without problems.
        random_bytes: where our half of each key comes from.
        wall_clock: what is told and stored.
    """

    name: ClassVar[str] = "itv2"
    router = router
    session_class = PanelSession
    session_key = staticmethod(_never)
    body_of = attrgetter("payload")
    first_mode = Mode.SINGLE
    trace_limit_count = 48  # a panel's session lasts for months, beside hundreds of others: 0.16 KiB an entry
    config: Itv2Settings
    history: History | None
    hub: PanelHub
    failures: Failures

    def __init__(
        self,
        settings: Itv2Settings,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        wall_clock: WallClock = utc_now,
    ) -> None:
        self.config = settings
        self.random_bytes = random_bytes
        self.history = None
        self.mqtt: MqttPublisher | None = None
        self._wall_clock = wall_clock
        self._works: set[asyncio.Task[Any]] = set()
        self._symptoms: Counter[str] = Counter()
        self._learnt: dict[str, Learnt] = {}
        self._learning_until = 0.0
        self._apply(settings)

    def _apply(self, settings: Itv2Settings) -> None:
        self.framing = TLinkFraming(settings.limits.packet_bytes)
        self.limits = settings.limits
        self._settings_by_id = {panel.integration_id: panel for panel in settings.panels}

    # Life

    async def start(self, server: Server) -> None:
        """Open the history, take the last known states as stale, and begin to keep them true.

        Raises: ConfigError for a history that cannot be used.
        """
        await super().start(server)
        settings = self.config
        self._failures = FailureCount(server.clock)
        self._failures_by_id = FailureCount(server.clock)
        self._replacements = FailureCount(server.clock)
        self.failures = Failures(server.events.unix_time)
        server.events.add_view(self.failures)
        self.history = History(
            settings.history, server.events, clock=server.clock, wall_clock=self._wall_clock
        )
        await self.history.open()
        self.hub = PanelHub(
            settings.state,
            settings.lockout,
            clock=server.clock,
            wall_ms=self.wall_ms,
            events=server.events,
            store=self._store,
        )
        states = self.history.load_states()
        for profile in settings.panels:
            panel = self._add(profile)
            if profile.name in states:
                panel.restore(states[profile.name])
        self.hub.subscribe(_StateKeeper(self.history))
        self.hub.subscribe(_Teller(self))
        self._spawn(self.hub.run())
        if settings.mqtt is not None:
            self._begin_mqtt()

    def _begin_mqtt(self) -> None:
        """Publish to the broker; its library is loaded by a daemon that has one and by no other."""
        from sojourn.gateways.itv2.mqtt.publisher import MqttPublisher  # noqa: PLC0415 - the docstring says why

        assert self.config.mqtt is not None  # noqa: S101 - the caller has looked
        self.mqtt = MqttPublisher(
            self.hub, self.config.mqtt, self.server.events, device_class=self._device_class
        )
        self._spawn(self.mqtt.run())

    async def leave(self, timeout_s: float) -> None:
        """Let commands that are under way come to their end: one that is cut short leaves a panel in programming."""
        await self.hub.leave(min(timeout_s, self.config.timing.finish_timeout_s))

    async def stop(self) -> None:
        """End what ``start`` began; the sessions have ended."""
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        if hasattr(self, "failures"):
            self.server.events.remove_view(self.failures)
        if self.history is not None:
            await self.history.close()

    def _add(self, profile: PanelSettings) -> Panel:
        """Add a panel, or give one that is there its new settings; one that never came has a diagnosis too."""
        known = self.hub.panels.get(profile.name)
        panel = self.hub.add(profile)
        if panel is not known:
            panel.diagnosis = sentence_of(Symptom.NEVER_CAME, self._case_of(profile))
        return panel

    def reload(self, config: Itv2Settings) -> None:
        """Put new settings in force; sessions whose panel or keys are gone are asked to end by ``readmit``."""
        super().reload(config)
        self._apply(config)
        names = {panel.name for panel in config.panels}
        for name in tuple(self.hub.panels):
            if name not in names:
                self.hub.remove(name)
        for profile in config.panels:
            self._add(profile)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self.server.spawn(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    def wall_ms(self) -> int:
        """Return the time as it is told and stored, in unix ms."""
        return int(self._wall_clock().timestamp() * 1000)

    def _store(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Store what came in no packet, such as the end of a delay."""
        if self.history is not None:
            self.history.append(panel.name, events)

    def _device_class(self, name: str, zone: int) -> str:
        panel = self.hub.panels.get(name)
        return "" if panel is None else panel.settings.device_class_of(zone)

    # Learning

    def learn(self, seconds: float) -> None:
        """Remember panels that are not configured and call within ``seconds``; 0 ends it. They get no answer.

        Then: show ``learnt`` to the operator, who adds what is his to the configuration.
        """
        self._learnt.clear()
        self._learning_until = self.server.clock() + seconds

    @property
    def learning_left_s(self) -> float:
        """Return for how long the gateway still learns; 0 = it does not."""
        return max(0.0, self._learning_until - self.server.clock())

    @property
    def learnt(self) -> tuple[Learnt, ...]:
        """Return the panels that called while the gateway learnt, the newest last."""
        return tuple(self._learnt.values())

    # Questions of the core

    def admit(self, peer: Peer) -> None:
        """Let everybody in but an address with too many failed handshakes.

        Raises: LimitExceeded for that one.
        """
        limits = self.config.limits
        count = self._failures.count(peer.address, limits.failures_window_s)
        if limits.failures_count and count >= limits.failures_count:
            raise LimitExceeded(f"failed handshakes of {peer.address}", count, limits.failures_count)

    def readmit(self, connection: Connection) -> bool:
        """Let a connection stay whose panel is configured with the same keys, also in its handshake."""
        session = connection.table.live.get(None)
        old = session.settings_of_panel if isinstance(session, PanelSession) else None
        if not isinstance(session, PanelSession) or old is None:
            return True
        new = self._settings_by_id.get(old.integration_id)
        if new is not None and new.has_same_keys(old):
            return True
        session.why = "its settings have changed"
        return False

    def codec(self, connection: Connection) -> Itv2Codec:
        """Return the connection's codec, which writes a capture where that is configured."""
        codec = Itv2Codec() if self.config.capture is None else self._capturing_codec(self.config.capture)
        connection.state = codec
        return codec

    def _capturing_codec(self, settings: CaptureSettings) -> Itv2Codec:
        server = self.server
        folder = CaptureFolder(settings, server.events, clock=server.clock, wall_clock=self._wall_clock)
        return folder.codec(self._is_captured)

    def _is_captured(self, header: bytes) -> bool:
        """Say whether a packet with this header is to be captured now."""
        capture = self.config.capture
        if capture is None:
            return False
        panel = self._settings_by_id.get(header.decode("ascii", "replace"))
        return not capture.panels or (panel is not None and panel.name in capture.panels)

    def connected(self, connection: Connection) -> None:
        """Open the session before the first byte, so that silence has somebody who notices."""
        session = connection.new_session()
        assert isinstance(session, PanelSession)  # noqa: S101 - as ``session_class`` says
        link = connection.transport.get_extra_info("socket")
        if link is not None:
            with contextlib.suppress(OSError):  # a unix socket has none, one that is gone needs none
                link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        session.codec = connection.state
        session.asking = Asking(session)
        session.listeners = Listeners(self.config.limits.notifications_count)
        session.pending = PendingTable()
        session.deadline = session.started + self.config.timing.step_timeout_s

    def farewell(self, session: Session, error: BaseException) -> Any:  # noqa: ARG002 - it tells nothing of it
        """Say END_SESSION where a session was open."""
        assert isinstance(session, PanelSession)  # noqa: S101 - as ``session_class`` says
        return session.farewell()

    def session_failed(self, session: Session, error: BaseException, reason: str) -> None:
        """Have the doctor tell of a failed handshake; anything else as it is."""
        assert isinstance(session, PanelSession)  # noqa: S101 - as ``session_class`` says
        if isinstance(error, HandshakeFailed):
            self._diagnose(session, error.symptom, error.detail)
        elif session.phase == Phase.HANDSHAKE and isinstance(error, TimeoutError):
            self._diagnose(session, self._silence(session), f"step {session.step} of 12")
        elif session.phase == Phase.HANDSHAKE and isinstance(error, OtherHeader):
            self._diagnose(session, Symptom.OTHER_ID, "")
        else:
            session.why = session.why or in_words(error)
            super().session_failed(session, error, reason)

    def broken(self, connection: Connection, error: SojournError) -> bytes | None:
        """Have the doctor tell of bytes that are no packets at all."""
        session = connection.table.live.get(None)
        found = getattr(error, "found", "")
        if isinstance(session, PanelSession) and session.phase == Phase.HANDSHAKE:
            if "HTTP" not in found:
                symptom = Symptom.TOO_LONG
            else:
                symptom = Symptom.POWERSERIES_PRO if "(POST" in found else Symptom.HTTP
            self._diagnose(session, symptom, found)
            return None
        return super().broken(connection, error)

    # Questions of sessions

    def settings_of(self, integration_id: str) -> PanelSettings:
        """Return the settings of a configured panel as they are now."""
        return self._settings_by_id[integration_id]

    def identify(self, session: PanelSession, opening: OpenSession | None) -> Panel:
        """Return the panel that speaks, before it is answered.

        Raises: HandshakeFailed if it is not configured, or no panel at all.
        """
        header = session.codec.header
        session.opening = opening or session.opening
        text = header.decode("ascii", "replace")
        if len(header) != ID_DIGITS or not (text.isascii() and text.isdigit()):
            session.about = shown(header)
            raise HandshakeFailed(Symptom.NOT_A_PANEL)
        session.about = text
        panel, settings = self.hub.by_id.get(text), self._settings_by_id.get(text)
        if panel is None or settings is None:
            if opening is not None:
                self._learn_of(session, text, opening)
            raise HandshakeFailed(Symptom.UNKNOWN_ID)
        session.about = panel.name
        session.settings_of_panel = settings
        session.codec.options = WireOptions(raw_digits=settings.raw_digits)
        if panel.session is None:
            panel.phase = "handshake"
        return panel

    def _learn_of(self, session: PanelSession, integration_id: str, opening: OpenSession) -> None:
        if not self.learning_left_s:
            return
        firmware, peer = firmware_words(opening.firmware), str(session.connection.peer)
        self._learnt.pop(integration_id, None)
        if len(self._learnt) < LEARNT_COUNT:
            self._learnt[integration_id] = Learnt(
                integration_id, opening.encryption_type, firmware, peer, self.wall_ms()
            )
            encryption = type_words(opening.encryption_type)
            self.server.events.emit(PANEL_LEARNT, session, integration_id, peer, encryption, firmware)

    def arrived(self, session: PanelSession, panel: Panel) -> None:
        """Give a panel its new session; the newest connection wins, once its handshake is done.

        Raises: HandshakeFailed if the panel was taken out of the configuration meanwhile, or two panels with one id
            take each other's place again and again.
        Source: itv2-protocol.md section 11.
        """
        if self.hub.by_id.get(panel.id) is not panel:
            session.phase = Phase.HANDSHAKE
            raise HandshakeFailed(Symptom.UNKNOWN_ID)
        old, peer = panel.session, session.connection.peer
        if isinstance(old, PanelSession) and old is not session:
            self._count_replacement(old, peer)
        opening = session.opening
        assert opening is not None  # noqa: S101 - no handshake without one
        self._failures.forget(peer.address)
        self._failures_by_id.forget(panel.id)
        if self.history is not None:
            self.history.session_began(panel.name)
        panel.diagnosis = ""
        panel.connected(session)
        self.server.events.emit(
            PANEL_CONNECTED,
            session,
            panel.name,
            str(peer),
            firmware_words(opening.firmware),
            type_words(opening.encryption_type),
        )
        if isinstance(old, PanelSession) and old is not session and not old.ended:
            self.server.events.emit(PANEL_REPLACED, session, panel.name, str(old.connection.peer), str(peer))
            old.why = "a newer connection of the panel took its place"
            old.close(Reason.CLOSED)

    def _count_replacement(self, old: PanelSession, peer: Peer) -> None:
        """Count that a session whose panel answers is to give way: a panel dials again when its connection is dead.

        Raises: HandshakeFailed if that happens too often, for the one that came last.
        """
        timing, limits = self.config.timing, self.config.limits
        if self.server.clock() - old.heard_at > timing.poll_every_s + timing.ack_timeout_s:
            return
        key, window_s = old.codec.header.decode("ascii"), limits.failures_window_s
        if limits.replacements_count and self._replacements.count(key, window_s) >= limits.replacements_count:
            raise HandshakeFailed(Symptom.TWO_AT_ONCE, f"{old.connection.peer} and {peer}")
        self._replacements.add(key, window_s)

    async def read_all(self, session: PanelSession, panel: Panel) -> None:
        """Read configuration and statuses after a replay; a bug in there ends the session and nothing else."""
        try:
            await panel.pull()
        except Exception as error:  # noqa: BLE001 - whatever it is, the panel dials again
            self.server.events.emit(
                HANDLER_FAILED,
                session,
                type(error).__name__,
                raised_at(error),
                str(session.connection.peer),
                "",
            )
            session.close(Reason.INTERNAL)

    def left(self, session: PanelSession, why: str) -> None:
        """Tell a panel that its session is over, if it was its session."""
        panel = session.panel
        session.panel = None
        if panel is not None and panel.session is session:
            self.server.events.emit(PANEL_LOST, session, panel.name, why)
            panel.lost(why, session)

    def session_ended(self, session: PanelSession, reason: str, *, was_shaking: bool) -> None:
        """Tell a panel that its session is over; of one that hung up in the handshake, what that means."""
        has_hung_up = was_shaking and reason == Reason.CONNECTION_LOST and not session.symptom
        # Who connects and goes without a word, as load balancers do, is worth no line.
        if has_hung_up and session.connection.bytes_in:
            self._diagnose(session, self._silence(session), f"hung up at step {session.step} of 12")
        panel = self.hub.by_id.get(session.codec.header.decode("ascii", "replace")) if was_shaking else None
        if panel is not None and panel.session is None:
            panel.phase = "disconnected"
        self.left(session, session.why)

    # The doctor

    def _silence(self, session: PanelSession) -> str:
        opening = session.opening
        if opening is None and session.connection.bytes_in:
            return Symptom.GARBAGE
        if opening is not None and opening.encryption_type not in RANDOM_BYTES:
            return unknown_type(opening.encryption_type)
        if opening is None or session.step == Step.OPEN_SESSION:
            return Symptom.SAID_NOTHING if opening is None else Symptom.TOO_SLOW
        return silence_at(session.step, opening.encryption_type, opening.firmware)

    def _diagnose(self, session: PanelSession, symptom: str, detail: str) -> None:
        """Tell why a handshake failed, and count it."""
        session.symptom = symptom
        peer = session.connection.peer
        integration_id = session.codec.header.decode("ascii", "replace")
        settings = self._settings_by_id.get(integration_id)
        opening = session.opening
        case = Case(
            panel="" if settings is None else settings.name,
            integration_id=integration_id if integration_id.isdigit() else "",
            peer=str(peer),
            sections=sections_of() if settings is None else sections_of_panel(settings),
            encryption_type=0 if opening is None else opening.encryption_type,
            firmware=0 if opening is None else opening.firmware,
            detail=detail,
        )
        sentence = sentence_of(symptom, case)
        self._symptoms[symptom] += 1
        session.why = sentence
        session.note(sentence)
        self.server.events.emit(
            HANDSHAKE_FAILED, session, case.panel or case.integration_id, str(peer), sentence
        )
        panel = self.hub.by_id.get(integration_id)
        if panel is not None:
            panel.diagnosis = sentence
            self._failures_by_id.add(integration_id, self.config.limits.failures_window_s)
        if symptom != Symptom.TWO_AT_ONCE:  # whoever has the keys is no guesser
            self._count_failure(peer.address, case)

    def _count_failure(self, address: str, case: Case) -> None:
        limits = self.config.limits
        count = self._failures.add(address, limits.failures_window_s)
        if count == limits.failures_count:
            case = msgspec.structs.replace(case, peer=address, detail=str(count))
            sentence = sentence_of(Symptom.TOO_MANY_FAILURES, case)
            self.server.events.emit(HANDSHAKE_FAILED, None, case.panel, address, sentence)

    def _case_of(self, settings: PanelSettings) -> Case:
        return Case(
            panel=settings.name,
            integration_id=settings.integration_id,
            sections=sections_of_panel(settings),
        )

    # What the operator sees

    def words_for(self, entry: Any) -> tuple[str, str]:
        """Return name and summary of a flight recorder entry, secrets masked."""
        return words_of(entry)

    def parties(self, session: Session, direction: int) -> tuple[str, str]:
        """Return from whom to whom an entry goes; the peer is called by its panel's name."""
        ours, theirs = self.name, session.about or str(session.connection.peer)
        return {Direction.IN: (theirs, ours), Direction.OUT: (ours, theirs)}.get(direction, (ours, ours))

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield what is connected, what failed and why, and what the parts count."""
        if not hasattr(self, "hub"):
            return
        for panel in self.hub.panels.values():
            labels = {"panel": panel.name}
            yield "sojourn_itv2_panel_is_connected", labels, float(panel.session is not None)
            count = self._failures_by_id.count(panel.id, self.config.limits.failures_window_s)
            yield "sojourn_itv2_panel_recent_failures", labels, count
        for symptom, count in self._symptoms.items():
            yield "sojourn_itv2_handshake_failures_total", {"symptom": symptom}, count
        if self.history is not None:
            yield from self.history.counters()
        if self.mqtt is not None:
            yield "sojourn_itv2_mqtt_is_connected", {}, float(self.mqtt.is_connected)
            yield "sojourn_itv2_mqtt_published_total", {}, self.mqtt.published_count
            yield "sojourn_itv2_mqtt_dropped_total", {}, self.mqtt.dropped_count
            yield "sojourn_itv2_mqtt_commands_total", {}, self.mqtt.commands_count

    def panel(self) -> AdminPanel | None:
        """Return what operators ask over the admin API; nothing before the panels are there."""
        return admin_panel(self) if hasattr(self, "hub") else None

    def troubles(self) -> Iterable[Trouble]:
        """Yield alarms, panels that are away or in trouble, and parts that do not work."""
        return troubles_of(self) if hasattr(self, "hub") else ()

    def dependencies(self) -> Iterable[tuple[str, str]]:
        """Yield how the history is: without it panels are served all the same."""
        if self.history is not None:
            yield "history", f"degraded: {self.history.trouble}" if self.history.is_degraded else "ok"


class _Teller:
    """The view that writes into the trace of a panel's session who else is told what happened."""

    def __init__(self, gateway: Itv2Gateway) -> None:
        self._gateway = gateway

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Nothing: values follow from what happened."""

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Write it once for each party, however much happened at once."""
        if panel.session is not None and events:
            kinds = ", ".join(dict.fromkeys(one.kind for one in events))
            panel.session.note_sent("history", kinds)
            mqtt = self._gateway.mqtt
            if mqtt is not None and mqtt.is_connected:
                panel.session.note_sent("MQTT", kinds)

    def phase_changed(self, panel: Panel) -> None:
        """Nothing: it is in the trace."""

    def configuration_changed(self, panel: Panel) -> None:
        """Nothing: it comes of what the panel has told."""


class _StateKeeper:
    """The view that has the states of panels stored."""

    def __init__(self, history: History) -> None:
        self._history = history

    def changed(self, panel: Panel, _changes: Sequence[Change]) -> None:
        """Store the state soon."""
        self._history.save_state(panel.name, panel.saved)

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Nothing: events are stored with their packet."""

    def phase_changed(self, panel: Panel) -> None:
        """Store the state of a panel that is gone at once: it will not change for a while."""
        if panel.phase == "disconnected":
            self._history.save_state(panel.name, panel.saved, at_once=True)

    def configuration_changed(self, panel: Panel) -> None:
        """Store the state soon."""
        self._history.save_state(panel.name, panel.saved)
