"""The alarm panels of the demo: a house that lives through a day in a minute, and a workshop that waits for orders.

The panels dial the daemon as real ones would. Whoever watches compares what the panel was acknowledged with what the
history holds, and listens at the broker where there is one. Knows nothing of how the gateway works.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings
from sojourn.embedded.mosquitto import MosquittoServer, MqttUser
from sojourn.errors import SojournError
from sojourn.gateways.itv2.config import Itv2Settings, PanelSettings
from sojourn.gateways.itv2.history import Entry, History, HistoryQuery, HistorySettings
from sojourn.gateways.itv2.messages import Message, ZoneLifestyle, ZoneState
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.peer import PanelIdentity, PanelProgramme, SimulatedPanel, ZoneProgramme
from sojourn.gateways.itv2.peer.script import find_script, load_script, play

if TYPE_CHECKING:
    from sojourn.demo.screen import Screen
    from sojourn.demo.site import Site

NAME: Final = "house"
ID: Final = "123456789012"
WORKSHOP: Final = "workshop"
WORKSHOP_ID: Final = "234567890123"
WORKSHOP_ZONES: Final = (
    ZoneProgramme("Door", 1),
    ZoneProgramme("Gate", 2),
    ZoneProgramme("Window left", 3),
    ZoneProgramme("Window right", 3),
    ZoneProgramme("Motion", 5),
    ZoneProgramme("Smoke", 8),
)
SCRIPT: Final = "a_day.toml"
TOPIC: Final = "sojourn"
WITHIN_S: Final = 20.0
NIGHT_S: Final = 10.0
"""Between two days in the house, after the first one was shown."""
AFTERWARDS_S: Final = 2.0
"""How long what was pulled after the last step may take to be seen."""
PAGE_COUNT: Final = 1000
_MOVES: Final = {"zone_opened": ZoneState.OPEN, "zone_closed": ZoneState.RESTORED}


class Moment(NamedTuple):
    """Something that happened in the house, and what was seen of it. ``states``: of the partition, at the broker."""

    what: str
    stored_count: int
    replayed_count: int
    states: list[str]


class DayResult(NamedTuple):
    """The day, and whether every move of a zone that was acknowledged is in the history once, in its place."""

    moments: list[Moment]
    acknowledged_count: int
    stored_count: int
    is_right: bool
    has_broker: bool


class AlarmHouse:
    """The panels' side and the gateway's side of a made-up house and a workshop.

    Life: as long as the demo's directory. ``broker`` is None where there is no MQTT broker.
    """

    def __init__(self, directory: Path) -> None:
        self.script = load_script(find_script(SCRIPT))
        self.broker: MosquittoServer | None = None
        self._history = directory / "itv2.sqlite3"
        self._code = Secret(secrets.token_hex(16))
        self._gateway = MqttUser("gateway", Secret(secrets.token_urlsafe(24)))
        self.watcher = MqttUser("watcher", Secret(secrets.token_urlsafe(24)), (f"read {TOPIC}/#",))

    async def start_broker(self) -> None:
        """Start a broker. Raises: SojournError or ImportError where there can be none."""
        import aiomqtt  # noqa: F401, PLC0415 - optional: who watches needs it

        broker = MosquittoServer(users=(self._gateway, self.watcher))
        await broker.start()
        self.broker = broker

    async def stop_broker(self) -> None:
        """Stop the broker, if there is one."""
        if self.broker is not None:
            await self.broker.stop()

    def settings(self, address: str) -> Itv2Settings:
        """Return the gateway's settings: this panel, and the broker."""
        mqtt = None
        if self.broker is not None:
            mqtt = MqttSettings(
                url=self.broker.url,
                username=self._gateway.name,
                password=self._gateway.password,
                topic_prefix=TOPIC,
            )
        return Itv2Settings(
            listeners=(ListenerSettings(address=address),),
            panels=tuple(
                PanelSettings(name=name, integration_id=number, type2_code=self._code)
                for name, number in ((NAME, ID), (WORKSHOP, WORKSHOP_ID))
            ),
            history=HistorySettings(file=str(self._history)),
            mqtt=mqtt,
        )

    def panel(self, host: str, port: int) -> SimulatedPanel:
        """Return the house's panel."""
        identity = PanelIdentity(ID, type_2_code=self._code)
        script = self.script
        return SimulatedPanel(identity, host, port, programme=script.programme, speed=script.speed)

    def workshop(self, host: str, port: int) -> SimulatedPanel:
        """Return the workshop's panel, in which nothing happens but what is ordered."""
        identity = PanelIdentity(WORKSHOP_ID, type_2_code=self._code)
        programme = PanelProgramme(WORKSHOP_ZONES, ("Workshop",))
        return SimulatedPanel(identity, host, port, programme=programme)


class _Day:
    """What is noted while the day goes on. Units: ``times_ms`` is unix time."""

    def __init__(self) -> None:
        self.whats: list[str] = []
        self.times_ms: list[int] = []
        self.states: list[list[str]] = []

    def say(self, what: str) -> None:
        """Begin a moment."""
        self.whats.append(what)
        self.times_ms.append(int(time.time() * 1000))
        self.states.append([])

    def saw(self, state: str) -> None:
        """Note a state that the broker told, if it is another than before."""
        before = next((states[-1] for states in reversed(self.states) if states), "")
        if self.states and state != before:
            self.states[-1].append(state)


async def show_alarm_day(site: Site, screen: Screen, history: History) -> None:
    """Let the house live through its day and show it; days go on, and the workshop is there meanwhile.

    Args:
        history: of the gateway in this process.
    """
    house = site.alarm
    try:
        async with (
            house.panel(site.host, site.itv2_port) as panel,
            house.workshop(site.host, site.itv2_port),
        ):
            result = await _live(house, panel, history)
            screen.show_alarm_day(site, result)
            while True:
                await asyncio.sleep(NIGHT_S)
                await play(panel, house.script)
    except (SojournError, OSError, TimeoutError) as error:
        screen.complain(f"the alarm panel failed: {type(error).__name__}: {error}")


async def _live(house: AlarmHouse, panel: SimulatedPanel, history: History) -> DayResult:
    day = _Day()
    await panel.connected(WITHIN_S)
    async with _watching(house, day):
        await play(panel, house.script, day.say)
        await panel.acknowledged(WITHIN_S)
        await asyncio.sleep(AFTERWARDS_S)
    await history.flush()
    query = HistoryQuery(panels=(NAME,), is_oldest_first=True, limit_count=PAGE_COUNT)
    entries = (await history.search(query)).entries
    return _result(day, list(panel.record.acknowledgements), entries, has_broker=house.broker is not None)


@asynccontextmanager
async def _watching(house: AlarmHouse, day: _Day) -> AsyncIterator[None]:
    """Listen at the broker meanwhile, where there is one."""
    if house.broker is None:
        yield
        return
    import aiomqtt  # noqa: PLC0415 - optional

    async def listen(client: aiomqtt.Client) -> None:
        with suppress(aiomqtt.MqttError):  # the broker ends with the demo
            async for message in client.messages:
                _hear(day, str(message.topic), bytes(message.payload))

    user = house.watcher
    client = aiomqtt.Client(
        "127.0.0.1", house.broker.port, username=user.name, password=user.password.reveal()
    )
    async with client, asyncio.TaskGroup() as tasks:
        await client.subscribe(f"{TOPIC}/{NAME}/#")
        listening = tasks.create_task(listen(client))
        try:
            yield
        finally:
            listening.cancel()


def _hear(day: _Day, topic: str, payload: bytes) -> None:
    if topic.endswith("/availability"):
        if payload == b"offline":
            day.saw("unavailable")
    elif topic.endswith("/partition/1"):
        with suppress(json.JSONDecodeError):
            day.saw(str(json.loads(payload).get("state")))


def _result(
    day: _Day, acknowledged: list[Message], entries: tuple[Entry, ...], *, has_broker: bool
) -> DayResult:
    moments = []
    for index, what in enumerate(day.whats):
        begins, ends = day.times_ms[index], (*day.times_ms, 1 << 62)[index + 1]
        mine = [entry for entry in entries if begins <= entry.at_ms < ends]
        replayed = sum(entry.source == "replay" for entry in mine)
        moments.append(Moment(what, len(mine), replayed, day.states[index]))
    moved = [(one.zone, one.state) for one in acknowledged if isinstance(one, ZoneLifestyle)]
    stored = [
        (entry.zone, _MOVES[entry.kind])
        for entry in entries
        if entry.kind in _MOVES and entry.source != "pull"
    ]
    return DayResult(moments, len(acknowledged), len(entries), moved == stored, has_broker)
