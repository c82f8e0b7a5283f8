"""Our side of ``itv2.py``: the gateway for alarm panels as a daemon runs it, with history, MQTT, JSON log and recorder.

Knows nothing of measuring. Run as a program (``itv2_daemon.py FOLDER PANELS BROKER [ENTRIES]``) it serves on a port of
127.0.0.1, which it prints, and writes its log and its history into FOLDER. BROKER is the port of one whose user is
``gateway``; 0: nothing is published. ENTRIES is the flight recorder's ring per session, 0 = off.
"""

from __future__ import annotations

import sys
from pathlib import Path

import servers
from itv2_panels import BROKER_PASSWORD, TYPE2_CODE, integration_id

from sojourn.core.logs import LogView
from sojourn.core.loop import run, settle
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings, LogSettings, RecorderSettings
from sojourn.gateways.itv2.config import Itv2Limits, Itv2Settings, PanelSettings
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.mqtt.config import MqttSettings


def settings_of(folder: Path, panels_count: int, broker_port: int) -> Itv2Settings:
    """Return panels with keys of their own, and everything else as it is by default."""
    return Itv2Settings(
        limits=Itv2Limits(connections_per_peer_count=10_000),
        history=HistorySettings(file=str(folder / "history.sqlite3")),
        mqtt=MqttSettings(
            url=f"mqtt://127.0.0.1:{broker_port}", username="gateway", password=Secret(BROKER_PASSWORD)
        )
        if broker_port
        else None,
        panels=tuple(
            PanelSettings(
                name=f"panel-{number}", integration_id=integration_id(number), type2_code=Secret(TYPE2_CODE)
            )
            for number in range(panels_count)
        ),
    )


async def _serve(folder: Path, panels_count: int, broker_port: int, recorder: RecorderSettings) -> None:
    server = Server(recorder=recorder)
    log = LogView(
        LogSettings(level="info", format="json", file=str(folder / "sojourn.log")), server.events.unix_time
    )
    server.events.add_view(log)
    address = ListenerSettings(address="127.0.0.1:0", backlog_count=4_096)
    server.add(Itv2Gateway(settings_of(folder, panels_count, broker_port)), [address])
    await server.start()
    settle()
    try:
        await servers.serve_until_parent_ends(int(server.listeners[0].address.rpartition(":")[2]))
    finally:
        await server.stop(timeout_s=0)
        log.close()


if __name__ == "__main__":
    servers.take_core(servers.SERVER_CORE)
    servers.allow_many_files()
    recorder = servers.recorder_of(sys.argv[4:])
    sys.exit(run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), recorder)))
