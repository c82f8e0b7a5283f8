"""The TACACS+ gateway: names framing, codec, sessions and handlers for the core, and swaps configurations.

Boring on purpose: rules of the wire are in ``session``, decisions in ``handlers``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sojourn.core.events import EventKind
from sojourn.core.gateway import Gateway
from sojourn.core.panel import AdminPanel, Trouble
from sojourn.core.recorder import Direction, Leg
from sojourn.core.table import Mode
from sojourn.errors import RemoteProtocolError
from sojourn.gateways.tacacs.accounting import Accounting
from sojourn.gateways.tacacs.accounting.record import RecordMaker
from sojourn.gateways.tacacs.devices import DeviceTable, KeyRing
from sojourn.gateways.tacacs.directory import Directories
from sojourn.gateways.tacacs.handlers import router
from sojourn.gateways.tacacs.login_state import LoginState
from sojourn.gateways.tacacs.panel import DecisionLog, TacacsPanel
from sojourn.gateways.tacacs.password_overlay import PasswordOverlay
from sojourn.gateways.tacacs.policy import Decision, Policy
from sojourn.gateways.tacacs.session import Snapshot, TacacsCodec, TacacsSession, error_reply
from sojourn.gateways.tacacs.trace_words import decision_leg, words_of
from sojourn.gateways.tacacs.users import Users
from sojourn.gateways.tacacs.wire import TacacsFraming

if TYPE_CHECKING:
    from sojourn.core.connection import Connection
    from sojourn.core.peer import Peer
    from sojourn.core.server import Server
    from sojourn.core.session import Session
    from sojourn.gateways.tacacs.config import TacacsSettings

SINK_ALARM = EventKind("tacacs.sink_alarm", ("sink", "what"), level="error")
"""The health of an accounting sink changed."""
KEY_WARNING = EventKind("tacacs.key_warning", ("device", "key", "what"), level="warning")
"""A device key is too old, too short or shared; the key itself is never shown, only its place."""

TOLD_LOCKS_COUNT = 3
"""Locked users that are named where there is little room."""

_SECTION = "RFC 8907 section 10.5.1"


class TacacsGateway(Gateway):
    """A TACACS+ server: RFC 8907 on plain TCP, RFC 9887 on TLS.

    Args:
        settings: ``[tacacs]``, without problems.
    """

    name: ClassVar[str] = "tacacs"
    router = router
    session_class = TacacsSession
    session_key = attrgetter("session_id")
    body_of = attrgetter("body")
    first_mode = Mode.NEGOTIATING
    config: Snapshot
    inbox_limit_count = 1
    pauses_when_full = False

    def __init__(self, settings: TacacsSettings) -> None:
        self._settings = settings
        self._directories: list[Directories] = []
        self._apply_limits(settings)

    def _apply_limits(self, settings: TacacsSettings) -> None:
        self.framing = TacacsFraming(settings.max_length_bytes)
        self.limits = settings.limits
        self.session_timeout_s = settings.session_timeout_s
        self.max_sessions_per_connection_count = settings.max_sessions_per_connection_count

    async def start(self, server: Server) -> None:
        """Open the accounting sinks and make the first snapshot."""
        await super().start(server)
        file = self._settings.passwords_file
        overlay = PasswordOverlay(Path(file)) if file else None
        self.login_state = LoginState(server.clock, overlay)
        self._records = RecordMaker(socket.gethostname())
        self.accounting = Accounting(self._settings.accounting, server.clock, on_alarm=self._alarm)
        await self.accounting.start()
        self._decisions = DecisionLog()
        server.events.add_view(self._decisions.take)
        self._swap(self._settings)

    async def stop(self) -> None:
        """Store what waits in the sinks, close directories."""
        await self.accounting.close()
        for directories in self._directories:
            directories.close()

    def reload(self, config: TacacsSettings) -> None:
        """Swap the snapshot; what is remembered of passwords, lock-outs and keys goes on where it still holds."""
        self._swap(config)
        self._settings = config
        self._apply_limits(config)
        self.server.spawn(self.accounting.reconfigure(config.accounting))

    def _swap(self, settings: TacacsSettings) -> None:
        """Build all of the new snapshot, then put it in the place of the old one: what fails changes nothing."""
        server, previous = self.server, getattr(self, "config", None)
        directories = Directories(settings.directories, server.offload, server.breakers, server.clock)
        snapshot = Snapshot(
            settings,
            DeviceTable(settings.devices),
            KeyRing(settings, previous.keys if previous is not None else None),
            Users(settings, self.login_state, server.offload, directories, server.clock),
            Policy(settings),
            self.accounting,
            self._records,
            server.events.emit,
            {},
            {},
        )
        replaced, self._directories, self.config = self._directories, [directories], snapshot
        for old in replaced:
            old.close()
        for view in self.config.keys.snapshot(server.events.unix_time(server.clock())):
            for warning in view.warnings:
                server.events.emit(KEY_WARNING, None, view.device, view.index, warning)

    def _alarm(self, sink: str, what: str) -> None:
        self.server.events.emit(SINK_ALARM, None, sink, what)

    # Questions of the core

    def admit(self, peer: Peer) -> None:
        """Let configured devices in: by certificate over TLS, else by the longest matching prefix.

        Raises: RemoteProtocolError for all others, before a byte is read.
        """
        if peer.is_tls:
            device = self.config.devices.find_by_certificate(peer.certificate_names)
            found = f"a certificate for {', '.join(peer.certificate_names) or 'nobody'}"
        else:
            device = self.config.devices.find(peer.address)
            found = f"a connection from {peer.address}"
            if device is not None and not device.secrets:
                device = None
                found += ", a device without secrets"
        if device is None:
            raise RemoteProtocolError(found, "a configured device", _SECTION)
        peer.context = device

    def codec(self, connection: Connection) -> TacacsCodec:
        """Return the connection's codec; ``refuse`` needs it as well."""
        codec = TacacsCodec(connection)
        connection.state = codec
        return codec

    def refuse(self, connection: Connection, packet: Any, why: str) -> bytes | None:  # noqa: ARG002 - the contract
        """Answer with the type's ERROR, so that the device turns to its next server at once."""
        answer: bytes | None = connection.state.error_packet(packet)
        return answer

    def farewell(self, session: Session, error: BaseException) -> Any:  # noqa: ARG002 - the answer tells nothing of it
        """Answer ERROR, never FAIL: the server could not decide. A key that does not fit ends the connection too."""
        if session.connection.state.is_mismatched:
            session.connection.table.drain()
        return error_reply(session)  # type: ignore[arg-type]  # the core opens sessions of our class

    # What the operator sees

    def words_for(self, entry: Any) -> tuple[str, str]:
        """Return name and summary of a flight recorder entry by the specification's words, secrets masked."""
        return words_of(entry)

    def leg(self, what: Any) -> Leg | None:
        """Return a decision of the rules in words; it is kept as it is, on the hot path."""
        return decision_leg(what) if isinstance(what, Decision) else super().leg(what)

    def parties(self, session: Session, direction: int) -> tuple[str, str]:
        """Return from whom to whom an entry goes; the peer is called by its device's name."""
        peer = session.connection.peer
        ours, theirs = self.name, peer.context.name if peer.context is not None else str(peer)
        return {Direction.IN: (theirs, ours), Direction.OUT: (ours, theirs)}.get(direction, (ours, ours))

    def panel(self) -> AdminPanel:
        """Return the page with devices, decisions, lock-outs and sinks."""
        return TacacsPanel(self, self._decisions).panel()

    def troubles(self) -> Iterable[Trouble]:
        """Yield sinks that do not store and users who are locked out."""
        for sink in self.accounting.snapshot():
            if sink.health in {"down", "trial"}:
                text = f"Accounting sink {sink.name} is {sink.health}; {sink.waiting_count} records wait"
                yield Trouble("error", text, link="#/gateways/tacacs")
        if locked := self.login_state.lockout.locked():
            names = ", ".join(lock.user for lock in locked[:TOLD_LOCKS_COUNT])
            more = f" and {len(locked) - TOLD_LOCKS_COUNT} more" if len(locked) > TOLD_LOCKS_COUNT else ""
            yield Trouble(
                "warning", f"Locked out after wrong passwords: {names}{more}", link="#/gateways/tacacs"
            )

    def counters(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Yield the state of sinks and lock-outs."""
        for sink in self.accounting.snapshot():
            labels = {"sink": sink.name}
            yield "sojourn_tacacs_sink_stored_total", labels, sink.stored_count
            yield "sojourn_tacacs_sink_waiting", labels, sink.waiting_count
            yield "sojourn_tacacs_sink_is_up", labels, float(sink.health == "up")
        for key in self.config.keys.snapshot(self.server.events.unix_time(self.server.clock())):
            labels = {"device": key.device, "key": str(key.index)}
            if key.age_days is not None:
                yield "sojourn_tacacs_key_age_days", labels, key.age_days
            yield "sojourn_tacacs_key_last_used_timestamp_seconds", labels, key.last_used or 0.0
        yield "sojourn_tacacs_locked_users", {}, len(self.login_state.lockout.locked())
