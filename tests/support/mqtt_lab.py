"""A broker, somebody who watches it, and panels that do what a test says."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
from aiomqtt.client import ProtocolVersion

from sojourn.core.clock import monotonic
from sojourn.core.events import EventKind, Events
from sojourn.core.secret import Secret
from sojourn.embedded.mosquitto import MosquittoServer, MqttUser
from sojourn.gateways.itv2.commands import Asker, Outcome, PanelCommand
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.publisher import MqttPublisher
from sojourn.gateways.itv2.state import Change, PanelState, PartitionState, Value, ZoneState

WITHIN_S = 10.0
GATEWAY = MqttUser("gateway", Secret("gateway's word"), ("readwrite sojourn/#", "readwrite homeassistant/#"))
WATCHER = MqttUser("watcher", Secret("watcher's word"))


def value(what: Any, at_ms: int = 1_000) -> Value[Any]:
    """Return a live value."""
    return Value(what, at_ms)


class LabPanel:
    """A panel as MQTT sees one; commands are noted and answered as the test says."""

    def __init__(self, name: str, zones: int = 2) -> None:
        self.name = name
        self.phase = "connected"
        self.diagnosis = ""
        self.connected_since_ms = 1_000
        self.last_heard_ms = 2_000
        self.state = PanelState(
            zones={
                number: ZoneState(
                    label=value(f"Door {number}"),
                    definition=value(1),
                    open=value(False),
                    bypassed=value(False),
                )
                for number in range(1, zones + 1)
            },
            partitions={1: PartitionState(label=value("House"), status=value("disarmed"), mode=value(0))},
            firmware=value("5.43"),
        )
        self.asked: list[tuple[PanelCommand, Asker, str]] = []
        self.outcome = Outcome("", "accepted")
        self.is_asked = asyncio.Event()
        self.wait_for: asyncio.Event | None = None

    async def carry_out(self, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
        """Note the command."""
        self.asked.append((command, asker, request_id))
        self.is_asked.set()
        if self.wait_for is not None:
            await self.wait_for.wait()
        return Outcome(request_id, self.outcome.result, self.outcome.reason, self.outcome.code)


class LabEvents(Events):
    """Events that a test can wait for."""

    def __init__(self) -> None:
        super().__init__(monotonic)
        self._news = asyncio.Event()

    def emit(self, kind: EventKind, session: Any, *values: Any) -> None:
        """Note what happened."""
        super().emit(kind, session, *values)
        self._news.set()

    def of(self, kind: EventKind) -> list[tuple[Any, ...]]:
        """Return the values of all events of a kind."""
        return [event.values for event in self._waiting if event.kind is kind]

    async def until(self, kind: EventKind, count: int = 1) -> list[tuple[Any, ...]]:
        """Wait until so many of a kind have happened, and return them."""
        async with asyncio.timeout(WITHIN_S):
            while len(found := self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return found


class LabHub:
    """Panels and one view."""

    def __init__(self, *panels: LabPanel) -> None:
        self.panels = {panel.name: panel for panel in panels}
        self.views: list[Any] = []

    def subscribe(self, view: Any) -> None:
        """Take a view."""
        self.views.append(view)

    def unsubscribe(self, view: Any) -> None:
        """Forget it."""
        self.views.remove(view)

    def set(self, panel: LabPanel, scope: str, number: int, **values: Any) -> None:
        """Change values, and tell."""
        part = {
            "zone": panel.state.zones.get(number),
            "partition": panel.state.partitions.get(number),
            "panel": panel.state,
        }[scope]
        changes = []
        for field, what in values.items():
            setattr(part, field, value(what))
            changes.append(Change(panel.name, scope, number, field, value(what)))  # type: ignore[arg-type]
        self.each(lambda view: view.changed(panel, changes))

    def set_phase(self, panel: LabPanel, phase: str) -> None:
        """Change the phase, and tell."""
        panel.phase = phase
        self.each(lambda view: view.phase_changed(panel))

    def happen(self, panel: LabPanel, *events: PanelEvent) -> None:
        """Let something happen."""
        self.each(lambda view: view.happened(panel, events))

    def configure(self, panel: LabPanel) -> None:
        """Tell that zones or partitions came, went or have other names."""
        self.each(lambda view: view.configuration_changed(panel))

    def each(self, tell: Callable[[Any], object]) -> None:
        """Tell every view."""
        for view in self.views:
            tell(view)


class Watcher:
    """Somebody at the broker: knows the last body of every topic, and all that was not retained."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._news = asyncio.Event()
        self.last: dict[str, bytes] = {}
        self.kept: set[str] = set()
        """Topics whose last message came as a retained one."""
        self.all: list[tuple[str, bytes, bool]] = []

    async def watch(self) -> None:
        """Take what comes until cancelled."""
        async for message in self._client.messages:
            topic, body = message.topic.value, bytes(message.payload)  # type: ignore[arg-type]
            self.all.append((topic, body, message.retain))
            self.last[topic] = body
            self.kept.discard(topic)
            if message.retain:
                self.kept.add(topic)
            self._news.set()

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait until something is so, and return it."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not (found := what()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not seen; {sorted(self.last)[:40]}") from None
        return found

    async def body(self, topic: str, **wanted: Any) -> dict[str, Any]:
        """Wait until a topic's JSON has these values, and return it."""

        def found() -> dict[str, Any] | None:
            body = json.loads(self.last.get(topic) or b"{}")
            return body if body and all(body.get(key) == one for key, one in wanted.items()) else None

        return await self.until(found)

    async def text(self, topic: str, wanted: str) -> None:
        """Wait until a topic says this."""
        await self.until(lambda: self.last.get(topic) == wanted.encode())

    async def publish(self, topic: str, body: str, *, retain: bool = False) -> None:
        """Publish."""
        await self._client.publish(topic, body, qos=1, retain=retain)

    def configs(self) -> dict[str, dict[str, Any]]:
        """Return what is announced to Home Assistant now."""
        return {
            topic: json.loads(body)
            for topic, body in self.last.items()
            if topic.startswith("homeassistant/") and topic.endswith("/config") and body
        }


def broker(**options: Any) -> MosquittoServer:
    """Return a broker that lets gateway and watcher in."""
    return MosquittoServer(users=(GATEWAY, WATCHER), **options)


def settings(server: MosquittoServer, **more: Any) -> MqttSettings:
    """Return settings of a gateway at this broker, impatient enough for tests."""
    given: dict[str, Any] = {
        "url": server.url,
        "username": GATEWAY.name,
        "password": GATEWAY.password,
        "reconnect_s": 0.05,
        "reconnect_max_s": 0.2,
        **more,
    }
    found = MqttSettings(**given)
    assert not list(found.problems())
    return found


@asynccontextmanager
async def watching(
    server: MosquittoServer, *topics: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Watcher]:
    """Watch topics, by default all."""
    client = aiomqtt.Client(
        "127.0.0.1",
        server.port,
        username=WATCHER.name,
        password=WATCHER.password.reveal(),
        protocol=ProtocolVersion.V5,
        tls_context=tls,
        max_queued_incoming_messages=0,
    )
    async with client:
        watcher = Watcher(client)
        await client.subscribe([(topic, 1) for topic in topics or ("#",)])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watcher.watch())
            yield watcher
            task.cancel()


@asynccontextmanager
async def publishing(hub: Any, given: MqttSettings, **more: Any) -> AsyncIterator[MqttPublisher]:
    """Run a publisher; ``publisher._events`` is of :class:`LabEvents`."""
    publisher = MqttPublisher(hub, given, LabEvents(), **more)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(publisher.run())
        yield publisher
        task.cancel()


def event(panel: LabPanel, kind: str, **more: Any) -> PanelEvent:
    """Return something that happened just now."""
    return PanelEvent(panel=panel.name, at_ms=int(time.time() * 1000), source="live", kind=kind, **more)


def counted(events: Sequence[tuple[str, bytes, bool]], topic: str) -> list[dict[str, Any]]:
    """Return the bodies that came on a topic."""
    return [json.loads(body) for one, body, _ in events if one == topic and body]
