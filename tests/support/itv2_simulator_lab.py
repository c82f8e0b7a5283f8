"""The real gateway on loopback and simulated panels that dial it: two halves that share nothing but ``messages``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.itv2.commands import Asker, Outcome, PanelCommand
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings, PanelSettings, Timing
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history import Entry, HistoryQuery, HistorySettings
from sojourn.gateways.itv2.hub_config import StateSettings
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.peer import LineSettings, PanelIdentity, PanelProgramme, SimulatedPanel

ID = "123456789012"
TYPE_1 = "87654321"
TYPE_2 = "0123456789ABCDEFFEDCBA9876543210"
WITHIN_S = 8.0
OPERATOR = Asker("operator", frozenset({"read", "arm", "disarm", "bypass", "admin"}))
QUICK_LINE = LineSettings(
    handshake_retry_s=2.0, length_retry_s=0.3, retransmit_s=0.3, late_answer_s=0.5, reconnect_s=(0.05, 0.1)
)

QUICK_STATE = {
    "pull_pause_s": 0.1,
    "programming_pause_s": 0.05,
    "alarm_refresh_every_s": 0.5,
    "retry_pull_s": 0.5,
}


def identity(number: int = 0, encryption_type: int = 2, code: str = TYPE_2) -> PanelIdentity:
    return PanelIdentity(f"{int(ID) + number:012d}", encryption_type, Secret(TYPE_1), Secret(code))


class SimulatorLab:
    """A started gateway, and whatever it tells."""

    def __init__(self, server: Server, gateway: Itv2Gateway, port: int) -> None:
        self.server = server
        self.gateway = gateway
        self.port = port
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._requests_count = 0
        self._stirred = asyncio.Event()
        server.events.add_view(self._note)
        gateway.hub.subscribe(self)

    def _note(self, batch: Iterable[Any]) -> None:
        self.told += [(one.kind.name, dict(one.fields())) for one in batch]
        self._stirred.set()

    # What the hub tells its views

    def changed(self, _panel: Any, _changes: Any) -> None:
        self._stirred.set()

    happened = changed

    def phase_changed(self, _panel: Any) -> None:
        self._stirred.set()

    configuration_changed = phase_changed

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the gateway has it so."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                self._stirred.clear()
                await self._stirred.wait()

    def panel(self, number: int = 0) -> Any:
        return self.gateway.hub.panels[f"house-{number}"]

    def partition(self, number: int = 0) -> Any:
        return self.panel(number).state.partitions[1]

    def zone(self, zone: int, number: int = 0) -> Any:
        return self.panel(number).state.zones[zone]

    def events(self, name: str) -> list[dict[str, Any]]:
        self.server.events.flush()
        return [values for kind, values in self.told if kind == name]

    def simulated(self, one: PanelIdentity | None = None, **options: Any) -> SimulatedPanel:
        line = msgspec.structs.replace(QUICK_LINE, **options.pop("line", {}))
        programme = PanelProgramme(**options.pop("programme", {}))
        return SimulatedPanel(
            one or identity(), "127.0.0.1", self.port, programme=programme, line=line, seed=1, **options
        )

    @contextlib.asynccontextmanager
    async def connected(
        self, one: PanelIdentity | None = None, **options: Any
    ) -> AsyncIterator[SimulatedPanel]:
        """A panel whose replay and pull are over."""
        async with self.simulated(one, **options) as panel:
            await panel.connected()
            name = next(
                known.name
                for known in self.gateway.config.panels
                if known.integration_id == panel.identity.integration_id
            )
            await self.until(lambda: self.gateway.hub.panels[name].phase == "connected")
            yield panel

    async def order(self, command: PanelCommand, number: int = 0) -> Outcome:
        """Have the operator order something."""
        self._requests_count += 1
        async with asyncio.timeout(WITHIN_S):
            return await self.panel(number).carry_out(command, OPERATOR, f"r{self._requests_count}")

    async def history(self, *kinds: str, number: int = 0) -> list[Entry]:
        """What is stored of some kinds, the oldest first."""
        assert self.gateway.history is not None
        await self.gateway.history.flush()
        query = HistoryQuery(panels=(f"house-{number}",), kinds=kinds, is_oldest_first=True, limit_count=1000)
        return list((await self.gateway.history.search(query)).entries)


@contextlib.asynccontextmanager
async def simulator_lab(
    folder: Path,
    *,
    count: int = 1,
    timing: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    mqtt: MqttSettings | None = None,
    **panel: Any,
) -> AsyncIterator[SimulatorLab]:
    """Run a gateway that knows ``count`` panels and is quick where it may wait."""
    settings = Itv2Settings(
        listeners=(ListenerSettings(address="127.0.0.1:0"),),
        panels=tuple(
            PanelSettings(
                **{
                    "name": f"house-{number}",
                    "integration_id": identity(number).integration_id,
                    "type1_code": Secret(TYPE_1),
                    "type2_code": Secret(TYPE_2),
                    "default_code": Secret("1234"),
                    **panel,
                }
            )
            for number in range(count)
        ),
        history=HistorySettings(file=str(folder / "itv2.sqlite3"), synchronous="normal"),
        timing=Timing(**{"replay_quiet_s": 0.2, **(timing or {})}),
        state=StateSettings(**{**QUICK_STATE, **(state or {})}),
        limits=Itv2Limits(connections_per_peer_count=100),
        mqtt=mqtt,
    )
    gateway = Itv2Gateway(settings)
    server = Server()
    server.add(gateway, settings.listeners)
    await server.start()
    try:
        port = int(server.listeners[0].address.rpartition(":")[2])
        yield SimulatorLab(server, gateway, port)
    finally:
        await server.stop(timeout_s=1)
