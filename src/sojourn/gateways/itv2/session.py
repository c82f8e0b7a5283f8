"""One panel's sitting: sequence numbers, acknowledgements, the pending command, and the times that all of it may take.

Theory of operation. A panel's packet is numbered, and it sends no other before that one is acknowledged. In an open
session each packet is handled inline: it acknowledges ours, may answer the pending command, and otherwise is a
notification, which the panel's state takes and the history stores before the packet is acknowledged. So what was
acknowledged survives a kill. The handshake is a conversation with a task of its own (:mod:`handshake`); commands come
from tasks of others, one at a time (:meth:`PanelSession.execute`). Timers are stamps that the sweep compares.

What it does not know on purpose: what messages mean for a panel's state, and which interfaces there are.

Source: itv2-protocol.md sections 5, 7, 11, 12 and 14.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sojourn.core.events import EventKind
from sojourn.core.gateway import HANDLER_FAILED
from sojourn.core.router import Router
from sojourn.core.session import Reason, Session, raised_at
from sojourn.gateways.itv2.asking import ACK, Asking
from sojourn.gateways.itv2.codec import BUFFER_BYTES, FRAME_BYTES, Damaged, Itv2Codec, Received
from sojourn.gateways.itv2.doctor import Step, Symptom
from sojourn.gateways.itv2.handlers import HandshakeFailed, answer_to, result_of
from sojourn.gateways.itv2.handshake import shake_hands
from sojourn.gateways.itv2.history import packet_digest
from sojourn.gateways.itv2.listening import Listeners, Notification, Notifications
from sojourn.gateways.itv2.masking import unread_hex
from sojourn.gateways.itv2.messages import (
    Command,
    DateTimeBroadcast,
    EndSession,
    Message,
    MultipleMessages,
    OpenSession,
    Packet,
    PanelTime,
    Poll,
    ProgrammingLead,
    SimpleAck,
    Unknown,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.answers import Answer
    from sojourn.gateways.itv2.config import Itv2Settings, PanelSettings
    from sojourn.gateways.itv2.events import PanelEvent, Source
    from sojourn.gateways.itv2.gateway import Itv2Gateway
    from sojourn.gateways.itv2.panels import Panel

PACKET_DROPPED: Final = EventKind("itv2.packet_dropped", ("panel", "peer", "why"), level="warning")
"""A packet that could not be read was dropped; the connection goes on."""
MESSAGE_UNREAD: Final = EventKind("itv2.message_unread", ("panel", "word", "why", "hex"), level="debug")
"""A message without a known layout, in hex with what may be a code masked; it was acknowledged."""
POLL_UNANSWERED: Final = EventKind("itv2.poll_unanswered", ("panel", "count"), level="warning")
"""The panel did not acknowledge a poll; it is tried again."""
HISTORY_LATE: Final = EventKind("itv2.history_late", ("panel",), level="warning")
"""A packet was acknowledged before its events were stored: the history took too long."""

_SIMPLE_ACK: Final = SimpleAck()


class Phase:
    """Where a session stands."""

    HANDSHAKE = "handshake"
    REPLAY = "replay"
    OPEN = "open"
    ENDING = "ending"


class PanelSession(Session):
    """One connection of one panel, from its accept to its end.

    Life: opened with the connection, before a byte is read. Always true: ``sent`` is the number of our last packet that
    is no SimpleAck, ``taken`` that of the panel's last packet that we acknowledged; what has not been acknowledged has
    ``owed`` as its number. Units: stamps are monotonic seconds, 0 = none.
    Source: itv2-protocol.md section 5.1.
    """

    codec: Itv2Codec = None  # type: ignore[assignment]  # the gateway fills in these three when it opens the session
    asking: Asking = None  # type: ignore[assignment]
    listeners: Listeners = None  # type: ignore[assignment]
    panel: Panel | None = None
    settings_of_panel: PanelSettings | None = None
    opening: OpenSession | None = None
    phase: str = Phase.HANDSHAKE
    step: int = Step.OPEN_SESSION
    symptom: str = ""
    detail: str = ""
    why: str = ""
    """Why it ended, for people."""

    sent: int = 0
    taken: int = 0
    is_unacknowledged: bool = False
    owed: int | None = None
    owed_until: float = 0.0
    storing_count: int = 0
    is_over: bool = False
    last_number: int = -1
    last_digest: bytes = b""
    command_sequence: int = 0
    damaged_count: int = 0
    panel_time: PanelTime | None = None

    heard_at: float = 0.0
    spoke_at: float = 0.0
    owed_since: float = 0.0
    quiet_since: float = 0.0
    """When the panel had last something to say, or to wait for."""
    slowest_s: float = 0.0
    """The slowest answer of the handshake: what the line takes to and fro, and the panel."""
    replayed_count: int = 0
    replay_until: float = 0.0
    """When the replay is over at the latest; 0 = it is."""
    ending_until: float = 0.0
    polls_count: int = 0

    reader: asyncio.Task[None] | None = None
    """Reads configuration and statuses after the replay."""

    @property
    def home(self) -> Itv2Gateway:
        """Return the gateway as what it is."""
        return self.gateway  # type: ignore[return-value]  # it opens no other sessions

    @property
    def settings(self) -> Itv2Settings:
        """Return the settings of the moment in which the session was opened."""
        return self.config  # type: ignore[no-any-return]  # the gateway's own

    # Arrivals

    def take(self, message: Any) -> None:
        """Take a packet while a task of the session runs: there is no inbox for panels."""
        self.arrive(message)

    def arrive(self, packet: Received | Damaged) -> None:
        """Handle one packet, or note one that could not be read."""
        if self.ended:
            return
        if isinstance(packet, Damaged):
            self._damaged(packet)
            return
        self.damaged_count = 0
        self.heard_at = self.connection.clock()
        if self.is_unacknowledged and packet.receiver == self.sent:
            self.is_unacknowledged = False
            if self.phase == Phase.HANDSHAKE:
                self.slowest_s = max(self.slowest_s, self.heard_at - self.spoke_at)
            self.polls_count = 0
            if self.pending:
                self.pending.complete(ACK, None)
        if self.phase == Phase.HANDSHAKE or type(packet.message) is OpenSession:
            self._shake_hands(packet)
            return
        assert self.panel is not None  # noqa: S101 - no handshake ends without one
        self.panel.last_heard_ms = self.home.wall_ms()
        if type(packet.message) is not SimpleAck:
            self._receive(packet)
        elif self.phase == Phase.ENDING and not self.is_unacknowledged:
            self.finish(reason=Reason.DRAINED)

    def _damaged(self, packet: Damaged) -> None:
        """Drop a packet; too many in a row end the session."""
        self.damaged_count += 1
        self.home.server.events.emit(PACKET_DROPPED, self, self.about, str(self.connection.peer), packet.why)
        self.note(f"dropped: {packet.why}")
        if self.damaged_count >= self.settings.limits.damaged_count:
            self.fail(HandshakeFailed(Symptom.GARBAGE, packet.why))
        elif self.phase == Phase.HANDSHAKE and self.task is not None:
            Session.take(self, packet)

    def _shake_hands(self, packet: Received) -> None:
        """Hand a packet to the conversation; an OpenSession begins it, also in an open session."""
        if self.task is not None:
            Session.take(self, packet)
            return
        if not isinstance(packet.message, OpenSession):
            self.home.identify(self, None)
            raise HandshakeFailed(Symptom.OUT_OF_ORDER, f"a {type(packet.message).__name__}")
        if self.phase != Phase.HANDSHAKE:
            self._leave("the panel started over")
        elif self.opening is None:
            self.deadline = self.started + self.settings.timing.handshake_timeout_s
        panel = self.home.identify(self, packet.message)
        assert self.settings_of_panel is not None  # noqa: S101 - ``identify`` has found them
        self.run(self._handshake(packet, panel, self.settings_of_panel), ends=False)

    async def _handshake(self, first: Received, panel: Panel, settings: PanelSettings) -> None:
        await shake_hands(self, first, settings)
        self.panel = panel
        self.phase = Phase.REPLAY
        self.deadline = 0.0
        now = self.heard_at = self.quiet_since = self.connection.clock()
        self.replay_until = now + self.settings.timing.replay_max_s
        self.home.arrived(self, panel)
        self._take_rest()

    def _take_rest(self) -> None:
        """Handle what came in one piece with the last step, when the conversation's task is over."""
        rest, self.inbox = self.inbox or (), None
        for packet in rest:
            if isinstance(packet, Received):
                self.connection.loop.call_soon(self._arrive_late, packet)
        self.connection.inbox_has_room()

    def _arrive_late(self, packet: Received) -> None:
        """Handle a packet as the connection would, whose batch is over."""
        try:
            self.arrive(packet)
        except Exception as error:  # noqa: BLE001 - whatever it raises ends this session, nothing else
            self.fail(error)

    def _receive(self, packet: Received) -> None:
        """Handle a packet that has to be acknowledged.

        The same number and body twice is the same packet, though it may acknowledge a newer one of ours.
        Source: itv2-protocol.md sections 5.1, last rule, and 14, rule 3.
        """
        digest = packet_digest(packet.raw)
        if packet.sender == self.last_number and digest == self.last_digest:
            if self.owed is None:
                self.heard(packet)
                self.acknowledge()
            return
        self.last_number, self.last_digest = packet.sender, digest
        if self.phase == Phase.REPLAY:
            if self._is_replay_over(self.heard_at):
                self._end_replay()
            self.replayed_count += 1
        self.quiet_since = self.heard_at
        panel, history = self.panel, self.home.history
        assert panel is not None  # noqa: S101 - as in ``arrive``
        is_repeat = history is not None and history.is_repeat(panel.name, digest)
        events: list[PanelEvent] = []
        answer: Message | None = None
        message = packet.message
        parts = message.messages if isinstance(message, MultipleMessages) else (message,)
        # What is stored already may be news all the same where the panel is not at the beginning of its queue.
        for part in parts if not is_repeat or self.source == "live" else ():
            if self.asking.takes(part):
                continue
            if isinstance(part, EndSession):
                self.is_over = True
            elif (result := result_of(part)) is not None:
                answer = answer_to(part, result)  # type: ignore[arg-type]  # results are of commands only
            else:
                events += self._notice(panel, part)
        stored = None
        if history is not None:
            stored = history.when_stored() if is_repeat else history.append(panel.name, events, digest)
        if answer is not None and not self.is_over:
            self.answer(packet, answer)
        elif stored is not None and not stored.done():
            self._owe(packet, stored)
        else:
            self._acknowledge_packet(packet)

    @property
    def source(self) -> Source:
        """Say what a notification is: news, or from a queue, or of a panel that is not ours any more."""
        is_ours = self.panel is not None and self.panel.session is self
        return "live" if is_ours and not self.replay_until else "replay"

    def _notice(self, panel: Panel, message: Message) -> list[PanelEvent]:
        """Let the panel's state and the listeners have a notification; return what has to be stored."""
        source = self.source
        at_ms = self.home.wall_ms()
        if isinstance(message, Unknown):
            why = message.why or "no public layout"
            shown = unread_hex(message.number, message.body)
            self.home.server.events.emit(
                MESSAGE_UNREAD, self, panel.name, f"{message.number:04X}", why, shown
            )
        if isinstance(message, (DateTimeBroadcast, ProgrammingLead)):
            self.panel_time = message.time
        if self.listeners:
            self.listeners.tell(Notification(message, source, at_ms))
        try:
            return panel.take(
                message, source, at_ms, _time_words(self.panel_time) if source == "replay" else None
            )
        except Exception as error:  # noqa: BLE001 - a panel that is not acknowledged would send the same for ever
            self.home.server.events.emit(
                HANDLER_FAILED,
                self,
                type(error).__name__,
                raised_at(error),
                str(self.connection.peer),
                self.about,
            )
            return []

    # Acknowledgements

    def heard(self, packet: Received) -> None:
        """Let the next packet of ours acknowledge this one."""
        self.taken = packet.sender
        self.last_number, self.last_digest = packet.sender, packet_digest(packet.raw)

    def acknowledge(self) -> None:
        """Acknowledge what was heard."""
        self.reply(Packet(self.sent, self.taken, _SIMPLE_ACK))

    def _acknowledge_packet(self, packet: Packet) -> None:
        """Acknowledge now, or together with a packet before it that is not stored yet."""
        if self.owed is not None:
            self.owed = packet.sender
            return
        self.owed = packet.sender
        self._pay()

    def _owe(self, packet: Packet, stored: asyncio.Future[bool]) -> None:
        """Acknowledge a packet when its events are stored, or when that takes too long."""
        if self.owed is None:
            self.owed_since = self.connection.clock()
            self.owed_until = self.owed_since + self.settings.history.ack_wait_s
        self.owed = packet.sender
        self.storing_count += 1
        stored.add_done_callback(self._stored)

    def _stored(self, _stored: asyncio.Future[bool]) -> None:
        self.storing_count -= 1
        if not self.storing_count:
            self._pay()

    def _pay(self) -> None:
        """Acknowledge what is owed; that is the end if the panel said END_SESSION."""
        if self.owed is None or self.ended or self.connection.closed:
            return
        self.taken, self.owed = self.owed, None
        self.acknowledge()
        if self.owed_since:
            # The panel's silence was ours, and a slow disk makes its queue no shorter.
            self.quiet_since = self.connection.clock()
            if self.replay_until:
                self.replay_until += self.quiet_since - self.owed_since
            self.owed_since = 0.0
        if self.is_over:
            self.why = "the panel ended the session"
            self.finish(reason=Reason.ABORTED)

    # Sending

    def start_over(self, packet: Received) -> OpenSession:
        """Begin the sequences and the keys anew with the panel's OpenSession; return that."""
        opening: OpenSession = packet.message  # type: ignore[assignment]  # the callers have looked
        now = self.connection.clock()
        self.codec.start_over()
        # What a panel can send it can take: its OpenSession goes back as it came, whatever it says of its buffer.
        self.codec.limit_bytes = max(opening.rx_buffer_bytes, BUFFER_BYTES, len(packet.raw) + FRAME_BYTES)
        self.opening = opening
        self.step = Step.OPEN_SESSION
        self.sent = self.taken = 0
        self.last_number, self.last_digest = -1, b""
        self.slowest_s = 0.0
        self.replayed_count = 0
        self.is_unacknowledged = self.is_over = False
        self.why = ""
        self.spoke_at = now
        self.note_command_sequence(opening)
        return opening

    def say(self, message: Message) -> None:
        """Send something that has to be acknowledged, with the next number."""
        number = self.sent + 1 & 0xFF
        self.reply(Packet(number, self.taken, message))
        self.sent = number
        self.is_unacknowledged = True
        self.spoke_at = self.connection.clock()

    def answer(self, packet: Received, message: Message) -> None:
        """Answer a command of the panel; that acknowledges it as well."""
        self.heard(packet)
        self.say(message)

    def note_command_sequence(self, command: Command) -> None:
        """Go on counting behind the panel's last command; the numbers are shared by both ends."""
        self.command_sequence = command.command_sequence

    def next_command_sequence(self) -> int:
        """Return the number of our next command. Source: itv2-protocol.md section 5.3."""
        self.command_sequence = self.command_sequence + 1 & 0xFF
        return self.command_sequence

    @property
    def random_bytes(self) -> Callable[[int], bytes]:
        """Return where randomness comes from."""
        return self.home.random_bytes

    # Whoever asks and listens

    async def execute(self, command: Command | Unknown, *, within_s: float | None = None) -> Answer:
        """Send a command and return the panel's answer; commands of others go first, none is ever sent twice.

        A command without a layout goes as ``Unknown``; its body begins with a command sequence, which is set here.

        Args:
            command: its command sequence is given here.
            within_s: from the acknowledgement to the answer; ``answer_timeout_s`` by default.
        Returns: ``UnknownOutcome`` where the panel did not say, whatever the reason. Then: read the status.
        Raises: LocalProtocolError if a value does not fit its field, or the command the panel's buffer; it was not
            sent then.
        """
        limit_s = self.settings.timing.answer_timeout_s if within_s is None else within_s
        return await self.asking.ask(command, limit_s)

    def notifications(self) -> Notifications:
        """Return what the panel tells from now on, until the session ends; a slow reader loses the oldest."""
        return self.listeners.listen()

    # Times

    def sweep(self, now: float) -> None:
        """Enforce the deadlines that have passed, end the replay, and break our own silence."""
        Session.sweep(self, now)
        if self.ended or self.phase == Phase.HANDSHAKE or self.connection.closed:
            return
        timing = self.settings.timing
        if self.owed is not None and now >= self.owed_until:
            self.home.server.events.emit(HISTORY_LATE, self, self.about)
            self._pay()
        if self.phase == Phase.ENDING:
            if now >= self.ending_until:
                self.finish(reason=Reason.DRAINED)
        elif now - self.heard_at >= timing.silence_timeout_s:
            self.why = f"the panel said nothing for {timing.silence_timeout_s:.0f} s"
            self.fail(TimeoutError(self.why))
        elif self.phase == Phase.REPLAY and self._is_replay_over(now):
            self._end_replay()
        else:
            self._poll(now)

    def _is_replay_over(self, now: float) -> bool:
        """Say whether the panel is quiet, or has talked for too long; while it waits for us it is neither.

        What is queued comes at once behind each acknowledgement. So the first pause says that the queue is empty, and
        that what comes behind it is news, however much the panel has to say.
        Source: itv2-protocol.md section 11.
        """
        if self.owed is not None:
            return False
        timing = self.settings.timing
        pause_s = timing.replay_quiet_s
        if self.replayed_count:
            pause_s = min(pause_s, timing.replay_pause_s + 2 * self.slowest_s)
        return now - self.quiet_since >= pause_s or now >= self.replay_until

    def _end_replay(self) -> None:
        """Let commands through, and read configuration and statuses: nothing of a replay says how things stand."""
        self.phase = Phase.OPEN
        self.replay_until = 0.0
        self.panel_time = None
        self.asking.open()
        assert self.panel is not None  # noqa: S101 - no replay without one
        self.note("the replay is over")
        self.reader = self.home.server.spawn(self.home.read_all(self, self.panel))

    def _poll(self, now: float) -> None:
        """Poll the panel when we have said nothing for long; acknowledgements do not count. Only polls are sent again.

        Source: itv2-protocol.md sections 5.2 and 11.
        """
        timing = self.settings.timing
        if self.asking.is_busy:
            return
        is_late = self.is_unacknowledged and now - self.spoke_at >= timing.ack_timeout_s
        if is_late and 0 < self.polls_count <= timing.poll_retries_count:
            self.home.server.events.emit(POLL_UNANSWERED, self, self.about, self.polls_count)
        elif now - self.spoke_at < timing.poll_every_s:
            return
        else:
            self.polls_count = 0
        self.polls_count += 1
        self.say(Poll())

    # Ending

    def drain(self) -> None:
        """Tell the panel that the session ends, once; it is over with the acknowledgement, or soon after.

        Source: itv2-protocol.md section 12.
        """
        if self.phase == Phase.HANDSHAKE:
            self.why = self.why or "the server stops"
            self.finish(reason=Reason.DRAINED)
        elif self.phase != Phase.ENDING:
            self.why = self.why or "the server stops"
            self._stop_commands()
            self.phase = Phase.ENDING
            self.ending_until = self.connection.clock() + self.settings.timing.end_timeout_s
            self.say(EndSession())

    def farewell(self) -> Packet | None:
        """Return what a panel is told at the end, if it can be told anything."""
        if self.phase in (Phase.HANDSHAKE, Phase.ENDING) or self.connection.closed:
            return None
        self.sent = self.sent + 1 & 0xFF
        return Packet(self.sent, self.taken, EndSession())

    def _leave(self, why: str) -> None:
        """Take an open session back to the handshake: the panel knows nothing of it any more."""
        self.why = why
        self._stop_commands()
        self.phase = Phase.HANDSHAKE
        self.owed = None
        self.owed_since = 0.0
        self.damaged_count = 0
        self.symptom = ""
        now = self.connection.clock()
        self.deadline = now + self.settings.timing.handshake_timeout_s
        self.home.left(self, why)

    def _stop_commands(self) -> None:
        """Let nothing more be asked; whoever waits for an answer is told that there will be none."""
        if self.reader is not None:
            self.reader.cancel()
            self.reader = None
        self.asking.close(self.why)

    def _end(self, reason: str, cancel: asyncio.Task[None] | None = None) -> None:
        """End as every session does; then tell the panel, whoever listens, and whoever waits to send."""
        was_shaking = self.phase == Phase.HANDSHAKE
        self.why = (
            self.why or (self.connection.closed and f"connection lost: {self.connection.closed}") or reason
        )
        if self.reader is not None:
            self.reader.cancel()
            self.reader = None
        Session._end(self, reason, cancel)  # noqa: SLF001 - the one way out, as the core's own
        self.asking.open()
        self.listeners.end()
        self.home.session_ended(self, reason, was_shaking=was_shaking)


router = Router()


@router.on(Received)
def on_packet(session: PanelSession, packet: Received) -> None:
    """Handle a packet of an open session, or the first of all."""
    session.arrive(packet)


@router.on(Damaged)
def on_damaged(session: PanelSession, packet: Damaged) -> None:
    """Note a packet that could not be read."""
    session.arrive(packet)


def _time_words(time: PanelTime | None) -> str | None:
    """Return a panel's local time as it is stored; valid or not."""
    if time is None:
        return None
    return f"{time.year:04}-{time.month:02}-{time.day:02} {time.hour:02}:{time.minute:02}:{time.second:02}"
