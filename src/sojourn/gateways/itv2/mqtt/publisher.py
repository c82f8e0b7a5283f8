"""Keeps the broker in step with the panels, and carries out what is asked for there.

What is to be said waits in the :class:`~sojourn.gateways.itv2.mqtt.outbox.Outbox`; one task per connection empties it.
After a connect, and when Home Assistant says that it is back, everything is said again. Commands live longer than the
connection that brought them: a panel is never left in the middle of one.

Before a panel is told of for the first time, the broker is asked for what it holds of it, of other runs too: what was
said of zones that are gone is taken back, and so is all that was said of panels that are gone.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from random import random as _random
from typing import TYPE_CHECKING, Any, Final

from sojourn.core.backoff import Backoff
from sojourn.core.clock import Clock, monotonic
from sojourn.core.events import EventKind, Events
from sojourn.errors import BackendUnavailable
from sojourn.gateways.itv2.commands import Asker, Outcome, PanelCommand
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.hub import PanelHub
from sojourn.gateways.itv2.mqtt import asks, bodies
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.connection import MqttConnection, connected
from sojourn.gateways.itv2.mqtt.discovery import Discovery, is_ours
from sojourn.gateways.itv2.mqtt.outbox import Outbox, Outgoing
from sojourn.gateways.itv2.mqtt.topics import OFFLINE, ONLINE, Target, Topics
from sojourn.gateways.itv2.panels import Panel
from sojourn.gateways.itv2.state import Change

if TYPE_CHECKING:
    import aiomqtt

MQTT_CONNECTED = EventKind("itv2.mqtt_connected", ("broker",))
"""The MQTT broker let us in; everything is published anew."""
MQTT_LOST = EventKind("itv2.mqtt_lost", ("broker", "cause", "again_in_s"), level="warning")
"""The MQTT broker is not reached, refuses us or is gone; tried again later."""
MQTT_REFUSED = EventKind("itv2.mqtt_command_refused", ("topic", "reason"), level="warning")
"""A message on a command topic led to no command; what it said is not shown."""
MQTT_FAILED = EventKind("itv2.mqtt_failed", ("where", "error"), level="error")
"""A bug of ours, at the publishing of one topic or in one command; the rest goes on."""

ASKER: Final = "mqtt"
"""Who asks, for the audit; the broker does not tell which of its users published."""


class MqttPublisher:
    """The panels' view that is on MQTT.

    Life: made and run by the gateway; it subscribes to the hub while it runs. Always true: it holds no more than the
    newest state of each topic and ``events_waiting_count`` events.

    Args:
        hub: all panels.
        settings: of MQTT.
        events: where it is told what happens to the connection.
        device_class: a zone's device class by panel name and number, where the operator chose one; else empty.
        clock: monotonic seconds.
        random: for the waits between two connects.
    """

    def __init__(
        self,
        hub: PanelHub,
        settings: MqttSettings,
        events: Events,
        *,
        device_class: Callable[[str, int], str] = lambda _panel, _zone: "",
        clock: Clock = monotonic,
        random: Callable[[], float] = _random,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._events = events
        self._topics = Topics(settings.topic_prefix, settings.discovery_prefix)
        self._discovery = Discovery(settings, self._topics, device_class)
        self._outbox = Outbox(settings.events_waiting_count, settings.events_keep_s, clock)
        self._backoff = Backoff(settings.reconnect_s, settings.reconnect_max_s, random)
        self._identifier = settings.client_id or f"sojourn-{secrets.token_hex(4)}"
        self._asker = Asker(ASKER, frozenset({"read", *settings.allow}))
        self._clock = clock
        self._heard: dict[str, set[str]] = {}
        """Topics of which the broker holds something, by panel, until that is told of."""
        self._kept: dict[str, bytes] = {}
        """Topics of what we have told, by panel, packed."""
        self._swept: set[str] = set()
        """Panels of which it is known what the broker held when we came."""
        self._to_tell: dict[str, None] = {}
        """Panels of which everything is to be said, in order."""
        self._is_told = asyncio.Event()
        self._has_heard = asyncio.Event()
        self._sync = b""
        self._running_count = 0
        self.is_connected = False
        self.published_count = 0
        self.commands_count = 0

    @property
    def dropped_count(self) -> int:
        """Events and results that found no room while the broker was away."""
        return self._outbox.dropped_count

    @property
    def waiting_count(self) -> int:
        """Messages that wait for the broker."""
        return len(self._outbox)

    async def run(self) -> None:
        """Serve until cancelled; then say that we leave, and disconnect."""
        self._hub.subscribe(self)
        try:
            async with asyncio.TaskGroup() as group:
                await self._stay_connected(group)
        finally:
            self._hub.unsubscribe(self)

    # What the hub tells

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Publish zones, partitions and panels of which something is new."""
        name = panel.name
        for change in changes:
            if change.scope == "zone":
                self._outbox.put_state(
                    self._topics.zone(name, change.number), partial(bodies.zone_body, panel, change.number)
                )
            elif change.scope == "partition":
                self._outbox.put_state(
                    self._topics.partition(name, change.number),
                    partial(bodies.partition_body, panel, change.number),
                )
            else:
                self._outbox.put_state(self._topics.panel(name), partial(bodies.panel_body, panel))
                if change.field == "is_stale":
                    self._tell_availability(panel)

    def happened(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Publish what happened; nothing is kept of it at the broker."""
        topic = self._topics.event(panel.name)
        for event in events:
            self._outbox.put_event(topic, bodies.event_body(event))

    def phase_changed(self, panel: Panel) -> None:
        """Publish the phase, and whether what is said of the panel is true now."""
        self._outbox.put_state(self._topics.panel(panel.name), partial(bodies.panel_body, panel))
        self._tell_availability(panel)

    def configuration_changed(self, panel: Panel) -> None:
        """Announce what came, take back what went."""
        self._tell(panel.name)

    def _tell_availability(self, panel: Panel) -> None:
        # Behind the states that came before: nobody takes an old one for true.
        topic = self._topics.availability(panel.name)
        self._outbox.put_state(topic, partial(_availability, panel), is_last=True)

    # Connections

    async def _stay_connected(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._one_connection(group)
            except* BackendUnavailable as errors:
                cause = _first(errors).cause
            except* Exception as errors:  # noqa: BLE001  the panels' sessions must not end with their view
                cause = f"internal error ({type(_first(errors)).__name__})"
                self._events.emit(MQTT_FAILED, None, "connection", type(_first(errors)).__name__)
            again_in_s = next(self._backoff)
            self._events.emit(MQTT_LOST, None, str(self._settings.broker), cause, round(again_in_s, 1))
            await asyncio.sleep(again_in_s)

    async def _one_connection(self, group: asyncio.TaskGroup) -> None:
        """Serve one connection until it is lost.

        Raises: BackendUnavailable, alone or in a group.
        """
        will = (self._topics.status, OFFLINE.encode())
        async with connected(self._settings, self._identifier, will, self._clock) as connection:
            self._events.emit(MQTT_CONNECTED, None, str(self._settings.broker))
            began = self._clock()
            self.is_connected = True
            try:
                await self._serve(connection, group)
            except asyncio.CancelledError:
                self._leave(connection)
                raise
            finally:
                self.is_connected = False
                for outgoing in connection.lost():
                    self._outbox.put_back(outgoing)
                if self._clock() - began > self._settings.timeout_s:  # not one that throws us out at once
                    self._backoff.reset()

    async def _serve(self, connection: MqttConnection, group: asyncio.TaskGroup) -> None:
        async with asyncio.TaskGroup() as serving:
            serving.create_task(self._listen(connection, group))
            serving.create_task(self._send(connection))
            serving.create_task(connection.watch())
            serving.create_task(self._begin(connection))

    async def _begin(self, connection: MqttConnection) -> None:
        """Ask for what we must hear, say everything, and go on saying what is outdated by time alone."""
        topics = [self._topics.sync]
        if self._settings.allow:
            topics += self._topics.commands
        if self._topics.home_assistant:
            topics.append(self._topics.home_assistant)
        await connection.subscribe(*topics)
        for panel in tuple(self._hub.panels.values()):
            self._outbox.put_bulk(self._topics.availability(panel.name), partial(_availability, panel))
        self._outbox.put_bulk(self._topics.status, ONLINE.encode)
        await self._hear(connection, self._topics.availabilities)
        for name in sorted(self._heard.keys() - self._hub.panels.keys()):
            await self._sweep(connection, name)
        self._take_back_panels()
        self._tell_all()
        async with asyncio.TaskGroup() as telling:
            telling.create_task(self._tell_panels(connection))
            telling.create_task(self._refresh())

    def _leave(self, connection: MqttConnection) -> None:
        with suppress(BackendUnavailable):  # the will says the same
            # QoS 0 does not wait for what is on its way; the disconnect is behind it.
            connection.publish(self._topics.status, OFFLINE.encode(), qos=0, is_retained=True)
            connection.flush()

    # Out

    async def _send(self, connection: MqttConnection) -> None:
        """Publish what waits, for as long as there is room on the way to the broker."""
        settings = self._settings
        while True:
            await connection.room()
            outgoing = await self._outbox.take()
            try:
                body = outgoing.make()
            except Exception as error:  # noqa: BLE001  a body that cannot be made must not end the connection
                self._events.emit(MQTT_FAILED, None, outgoing.topic, type(error).__name__)
                continue
            # An empty body takes away what the broker holds, so it goes to the broker even where nothing is retained.
            is_kept = outgoing.is_state and (settings.retain or not body or self._is_always_kept(outgoing))
            # What is taken away is not said again after an outage, so it has to be confirmed.
            qos = settings.state_qos if is_kept and body else settings.qos
            try:
                connection.publish(outgoing.topic, body, qos=qos, is_retained=is_kept, outgoing=outgoing)
            except BackendUnavailable:
                self._outbox.put_back(outgoing)
                raise
            self.published_count += 1

    def _is_always_kept(self, outgoing: Outgoing) -> bool:
        """Say whether a message is worth nothing unless the broker keeps it."""
        topic = outgoing.topic
        is_availability = topic == self._topics.status or topic.endswith("/availability")
        return is_availability or bool(self._topics.config_of(topic))

    def _tell(self, panel: str) -> None:
        self._to_tell[panel] = None
        self._is_told.set()

    def _tell_all(self) -> None:
        for name in tuple(self._hub.panels):
            self._tell(name)

    async def _tell_panels(self, connection: MqttConnection) -> None:
        """Fill the last lane with all there is to say of each panel that has a need for it, as there is room."""
        while True:
            await self._is_told.wait()
            self._is_told.clear()
            while self._to_tell:
                await self._outbox.room()
                name = next(iter(self._to_tell))
                del self._to_tell[name]
                panel = self._hub.panels.get(name)
                if panel is not None:
                    await self._sweep(connection, name)
                    count = self._tell_panel(panel)
                    await asyncio.sleep(count / self._settings.again_per_s)

    def _tell_panel(self, panel: Panel) -> int:
        """Say everything there is to say of a panel, and take back what was said of what it has no more.

        Returns: how many messages that is.
        """
        name, topics = panel.name, self._topics
        makers: dict[str, Callable[[], bytes]] = {}
        for number in panel.state.partitions:
            makers[topics.partition(name, number)] = partial(bodies.partition_body, panel, number)
        for number in panel.state.zones:
            makers[topics.zone(name, number)] = partial(bodies.zone_body, panel, number)
        makers[topics.panel(name)] = partial(bodies.panel_body, panel)
        makers[topics.availability(name)] = partial(_availability, panel)
        if self._settings.discovery_prefix:
            makers |= {entity.topic: entity.body for entity in self._discovery.entities(panel)}
        for topic, make in makers.items():
            self._outbox.put_bulk(topic, make)
        gone = self._topics_at_broker(name) - makers.keys()
        if panel.state.zones or panel.state.partitions:
            for topic in gone:
                self._outbox.put_bulk(topic, bytes)
            self._kept[name] = _packed(makers)
        else:  # nobody has told us yet what it has
            self._kept[name] = _packed(gone | makers.keys())
        return len(makers)

    def _topics_at_broker(self, panel: str) -> set[str]:
        """Return topics of which the broker holds something, and forget them."""
        return self._heard.pop(panel, set()).union(_unpacked(self._kept.pop(panel, b"")))

    def _take_back_panels(self) -> None:
        """Take back what was said of panels that are gone."""
        for name in (self._kept.keys() | self._heard.keys()) - self._hub.panels.keys():
            # By its availability a panel is found again should we not come to the end.
            topics = sorted(self._topics_at_broker(name), key=lambda topic: topic.endswith("/availability"))
            for topic in topics:
                self._outbox.put_bulk(topic, bytes)
            self._swept.discard(name)

    async def _refresh(self) -> None:
        """Publish now and then when each panel was heard last; where nothing is retained, everything."""
        while True:
            await asyncio.sleep(self._settings.refresh_every_s)
            self._take_back_panels()
            if not self._settings.retain:
                self._tell_all()
            for panel in tuple(self._hub.panels.values()):
                self._outbox.put_bulk(self._topics.panel(panel.name), partial(bodies.panel_body, panel))

    async def _sweep(self, connection: MqttConnection, panel: str) -> None:
        """Learn what the broker holds of a panel, once in a run."""
        if panel not in self._swept:
            for topics in self._topics.kept_of(panel):
                await self._hear(connection, *topics)
            self._swept.add(panel)

    async def _hear(self, connection: MqttConnection, *topics: str) -> None:
        """Let the listener hear what the broker holds of these topics."""
        self._has_heard.clear()
        self._sync = secrets.token_hex(8).encode()
        await connection.subscribe(*topics, qos=0)
        connection.publish(self._topics.sync, self._sync, qos=self._settings.qos, is_retained=False)
        # A broker that keeps us from hearing ourselves costs this wait; what it tells later is still taken in.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timeout_s):
                await self._has_heard.wait()
        await connection.unsubscribe(*topics)

    # In

    async def _listen(self, connection: MqttConnection, group: asyncio.TaskGroup) -> None:
        async for message in connection.messages():
            topic = message.topic.value
            payload = bytes(message.payload)
            if topic == self._topics.sync:
                if payload == self._sync:
                    self._has_heard.set()
            elif topic == self._topics.home_assistant:
                if payload == ONLINE.encode():
                    self._tell_all()
            elif panel := self._topics.config_of(topic):
                if is_ours(payload):
                    self._heard.setdefault(panel, set()).add(topic)
            elif panel := self._topics.panel_of(topic):
                if message.retain and payload:
                    self._heard.setdefault(panel, set()).add(topic)
            else:
                self._take_command(message, topic, payload, group)

    def _take_command(
        self, message: aiomqtt.Message, topic: str, payload: bytes, group: asyncio.TaskGroup
    ) -> None:
        target = self._topics.target(topic)
        if target is None or not payload:
            return
        if message.retain:
            # A command is for now. Kept at the broker it would be carried out at every connect, and its code be read
            # by everybody who subscribes.
            self._outbox.put_state(topic, bytes)
            self._refuse(
                target, None, asks.RefusedError("a retained message is no command; it was taken away")
            )
            return
        if self._settings.version == "3.1.1":
            # Only MQTT 5 tells at once whether a message is kept; here it is made sure that none is.
            self._outbox.put_state(topic, bytes)
        ask = None
        try:
            panel = self._hub.panels.get(target.panel)
            if panel is None:
                self._events.emit(MQTT_REFUSED, None, topic, "there is no such panel")
                return
            ask = asks.read(payload, self._settings.command_bytes)
            command = asks.command(ask, target, panel, self._settings)
        except asks.RefusedError as refusal:
            self._refuse(target, ask, refusal)
            return
        if self._running_count >= self._settings.commands_count:
            self._refuse(target, ask, asks.RefusedError("too many commands at once", ask.request_id or ""))
            return
        self._running_count += 1
        self.commands_count += 1
        group.create_task(self._carry_out(panel, command, ask, target))

    def _refuse(self, target: Target, ask: asks.Ask | None, refusal: asks.RefusedError) -> None:
        topic = f"{target.panel}/{target.scope}/{target.number}" if target.number else target.panel
        self._events.emit(MQTT_REFUSED, None, topic, str(refusal))
        outcome = Outcome(refusal.request_id or secrets.token_hex(8), "rejected", str(refusal))
        self._outbox.put_event(
            self._topics.result(target.panel), bodies.result_body(outcome, asks.asked(ask, target))
        )

    async def _carry_out(self, panel: Panel, command: PanelCommand, ask: asks.Ask, target: Target) -> None:
        request_id = ask.request_id or secrets.token_hex(8)
        try:
            outcome = await panel.carry_out(command, self._asker, request_id)
        except Exception as error:  # noqa: BLE001  one command that fails must not end all others
            self._events.emit(MQTT_FAILED, None, type(command).__name__, type(error).__name__)
            outcome = Outcome(request_id, "unknown", "internal error")
        finally:
            self._running_count -= 1
        self._outbox.put_event(
            self._topics.result(panel.name), bodies.result_body(outcome, asks.asked(ask, target))
        )


def _packed(topics: Iterable[str]) -> bytes:
    """Pack topics, which are much alike: the 120 of a panel with 16 zones need 1 KiB instead of 20."""
    return zlib.compress("\n".join(topics).encode(), level=1)


def _unpacked(data: bytes) -> list[str]:
    return zlib.decompress(data).decode().split("\n") if data else []


def _first(errors: BaseExceptionGroup[Any]) -> Any:
    """Return one error of a group, which may be a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _availability(panel: Panel) -> bytes:
    is_stale = panel.state.is_stale is not None and panel.state.is_stale.value
    return (ONLINE if panel.phase == "connected" and not is_stale else OFFLINE).encode()
