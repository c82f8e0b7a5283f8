"""A daemon is killed in the middle of what twenty panels say: nothing acknowledged is lost, nothing is there twice.

Every panel says fifty things that can be told apart: texts with numbers, and doors that open and close in turn. Three
daemons serve them on one address and one file; the first two are killed without a chance to clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from daemon_process import DaemonProcess
from history_lab import stored, until

from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings, PanelSettings, Timing
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.history.database import open_for_reading
from sojourn.gateways.itv2.peer import LineSettings, PanelIdentity, SimulatedPanel
from sojourn.gateways.itv2.state import from_bytes

PANELS_COUNT = 20
SAID_COUNT = 50
CODE = "0123456789ABCDEF0123456789ABCDEF"
KILL_AT = (300, 650)
"""Things that are acknowledged when the daemon is killed."""

SAID = ("live", "replay")
"""Where an event comes from that the panel told by itself."""


def name_of(number: int) -> str:
    return f"panel-{number}"


def id_of(number: int) -> str:
    return f"{number + 1:012}"


def configuration(folder: Path, port: int) -> str:
    panels = "".join(
        f'[[itv2.panels]]\nname = "{name_of(n)}"\nintegration_id = "{id_of(n)}"\ntype2_code = "{CODE}"\n'
        for n in range(PANELS_COUNT)
    )
    return f"""
[log]
format = "json"

[admin]
address = "127.0.0.1:0"
socket = "{folder / "control.sock"}"

[itv2]
listeners = [{{ address = "127.0.0.1:{port}" }}]

[itv2.limits]
connections_per_peer_count = {PANELS_COUNT}

[itv2.timing]
replay_quiet_s = 0.2

[itv2.history]
file = "{folder / "itv2.sqlite3"}"
state_every_s = 0.05

{panels}
"""


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    """Run ``sojourn run`` until it serves; at the end it is killed as ``kill -9`` does."""
    process = DaemonProcess(folder)
    try:
        process.wait_for("server.started")
        yield process
    finally:
        process.kill()
    assert "Traceback" not in "".join(process.lines)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Street:
    """Twenty panels that say what they have to say."""

    def __init__(self, port: int) -> None:
        self._changed = asyncio.Event()
        line = LineSettings(reconnect_s=(0.05, 0.2), queue_count=1_000, retransmit_s=20.0)
        self.panels = [
            SimulatedPanel(
                PanelIdentity(id_of(n), type_2_code=Secret(CODE)),
                "127.0.0.1",
                port,
                line=line,
                seed=n,
                on_told=lambda _: self._changed.set(),
                on_sent=lambda _: self._changed.set(),
            )
            for n in range(PANELS_COUNT)
        ]
        self.has_begun = False

    def say(self) -> None:
        """Have every panel say its fifty things."""
        for panel in self.panels:
            for number in range(SAID_COUNT):
                panel._notify(self.thing(number))

    @staticmethod
    def thing(number: int) -> m.Message:
        if number % 2:
            return m.Text(text=f"thing {number}")
        return m.ZoneLifestyle(zone=1 + number % 16, state=number // 2 % 2)

    def acknowledged(self, panel: SimulatedPanel) -> list[m.Message]:
        """What the server has taken over of those things."""
        return [one for one in panel.record.acknowledgements if isinstance(one, m.Text | m.ZoneLifestyle)]

    async def until_acknowledged(self, count: int) -> None:
        """Wait until so many things are acknowledged, of all panels together."""
        async with asyncio.timeout(60):
            while sum(len(self.acknowledged(panel)) for panel in self.panels) < count:
                self._changed.clear()
                await self._changed.wait()


def words_of(messages: list[m.Message]) -> list[tuple[Any, ...]]:
    kinds = {m.ZoneState.OPEN: Kind.ZONE_OPENED, m.ZoneState.RESTORED: Kind.ZONE_CLOSED}
    return [
        (Kind.TEXT, one.text) if isinstance(one, m.Text) else (kinds[one.state], one.zone)  # type: ignore[attr-defined]  # of the two kinds
        for one in messages
    ]


def told(file: Path, number: int) -> list[tuple[Any, ...]]:
    """What the history has of those things, in its order."""
    kinds = (Kind.TEXT, Kind.ZONE_OPENED, Kind.ZONE_CLOSED)
    entries = stored(file, panels=(name_of(number),), kinds=kinds, sources=SAID)
    return [(one.kind, one.detail["text"] if one.kind == Kind.TEXT else one.zone) for one in entries]


def all_states_are_stored(file: Path) -> bool:
    """Say whether what was read of every panel is in the file."""
    with contextlib.closing(open_for_reading(file)) as connection:
        states = [from_bytes(row[0]) for row in connection.execute("SELECT state FROM states")]
    return len([state for state in states if state and state.zones]) == PANELS_COUNT


async def killed_in_the_middle(street: Street, folder: Path, count: int) -> None:
    """Serve until so many things are acknowledged, kill the daemon, and look into its file."""
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(lambda: stack.enter_context(daemon(folder)))
        if not street.has_begun:
            street.has_begun = True
            for panel in street.panels:
                await panel.connected()
            await until(lambda: all_states_are_stored(folder / "itv2.sqlite3"))
            street.say()
        await street.until_acknowledged(count)
    for number, panel in enumerate(street.panels):
        acknowledged = words_of(street.acknowledged(panel))
        found = told(folder / "itv2.sqlite3", number)
        # One more may be stored: the one whose acknowledgement the kill has cut off.
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) - len(acknowledged) in (0, 1)


def settings(folder: Path) -> Itv2Settings:
    return Itv2Settings(
        limits=Itv2Limits(connections_per_peer_count=PANELS_COUNT),
        timing=Timing(replay_quiet_s=0.2),
        history=HistorySettings(file=str(folder / "itv2.sqlite3")),
        panels=tuple(
            PanelSettings(name=name_of(n), integration_id=id_of(n), type2_code=Secret(CODE))
            for n in range(PANELS_COUNT)
        ),
    )


async def served_to_the_end(street: Street, folder: Path, port: int) -> None:
    """Serve in this process, where the states can be looked at: stale first, fresh when the panels have told all."""
    for panel in street.panels:
        panel.cut()
    gateway = Itv2Gateway(settings(folder))
    server = Server()
    server.add(gateway, [ListenerSettings(address=f"127.0.0.1:{port}")])
    await server.start()
    try:
        states = [panel.state for panel in gateway.hub.panels.values()]
        assert len(states) == PANELS_COUNT
        for state in states:
            assert state.is_stale is not None
            assert state.is_stale.value
            assert state.zones, "the zones of before are known"
            assert all(zone.open.is_stale for zone in state.zones.values() if zone.open is not None)
        for panel in street.panels:
            panel.mend()
        for panel in street.panels:
            await panel.acknowledged(30)
        await until(lambda: not any(panel.state.is_stale.value for panel in gateway.hub.panels.values()))
        for state in [panel.state for panel in gateway.hub.panels.values()]:
            zones = state.zones.values()
            assert not any(zone.open.is_stale for zone in zones if zone.open is not None)
    finally:
        await server.stop(timeout_s=5)


def test_kill_minus_9_loses_nothing_that_was_acknowledged_and_doubles_nothing(
    run: Callable[[Coroutine[Any, Any, Any]], Any], tmp_path: Path
) -> None:
    """Issue 5, must show 4: 1,000 events of 20 panels, two kills, a third daemon."""
    port = free_port()
    (tmp_path / "sojourn.toml").write_text(configuration(tmp_path, port))

    async def scenario() -> None:
        street = Street(port)
        async with contextlib.AsyncExitStack() as stack:
            for panel in street.panels:
                await stack.enter_async_context(panel)
            for count in KILL_AT:
                await killed_in_the_middle(street, tmp_path, count)
            await served_to_the_end(street, tmp_path, port)

    run(scenario())
    wanted = words_of([Street.thing(number) for number in range(SAID_COUNT)])
    for number in range(PANELS_COUNT):
        assert told(tmp_path / "itv2.sqlite3", number) == wanted
