"""What panels see of the history: acknowledgements, and that it never keeps them from being served."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from history_lab import stored
from itv2_lab import Lab, ScriptedPanel, itv2_lab

from sojourn.admin.core_view import CoreView
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.events import Kind

DOOR_OPENS = m.ZoneLifestyle(zone=3, state=m.ZoneState.OPEN)
DOOR_CLOSES = m.ZoneLifestyle(zone=3, state=m.ZoneState.RESTORED)
DOORS = {"kinds": (Kind.ZONE_OPENED, Kind.ZONE_CLOSED), "sources": ("live", "replay")}


def doors(folder: Path) -> list[str]:
    return [entry.kind for entry in stored(folder / "itv2.sqlite3", **DOORS)]


async def told_and_lost(lab: Lab, panel: ScriptedPanel, message: m.Message) -> None:
    """Say something, and lose the connection before its acknowledgement arrives."""
    panel.say(message)
    await lab.settle()
    panel.writer.close()
    await lab.settle()


async def back(lab: Lab) -> ScriptedPanel:
    panel = await lab.dial()
    await panel.shake_hands()
    return panel


def test_what_is_acknowledged_is_stored(run: Any, tmp_path: Path) -> None:
    """Issue 5: nothing acknowledged to a panel is missing."""

    async def scenario() -> None:
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await back(lab)
            panel.say(DOOR_OPENS)
            await panel.acknowledged()
            assert doors(tmp_path) == [Kind.ZONE_OPENED]

    run(scenario())


def test_a_packet_whose_acknowledgement_was_lost_is_stored_once(run: Any, tmp_path: Path) -> None:
    """It is acknowledged when it comes again, and nothing else happens."""

    async def scenario() -> None:
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            await told_and_lost(lab, await back(lab), DOOR_OPENS)
            panel = await back(lab)
            panel.say(DOOR_OPENS)
            await panel.acknowledged()
            panel.say(DOOR_CLOSES)
            await panel.acknowledged()
            assert doors(tmp_path) == [Kind.ZONE_OPENED, Kind.ZONE_CLOSED]

    run(scenario())


def test_a_packet_whose_acknowledgement_was_lost_is_known_after_a_restart(run: Any, tmp_path: Path) -> None:
    """The digest is in the same commit as the events."""

    async def scenario() -> None:
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            await told_and_lost(lab, await back(lab), DOOR_OPENS)
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await back(lab)
            panel.say(DOOR_OPENS)
            await panel.acknowledged()
            assert doors(tmp_path) == [Kind.ZONE_OPENED]

    run(scenario())


def test_the_same_thing_later_is_another_thing(run: Any, tmp_path: Path) -> None:
    """A poll in between proves that the first one was acknowledged."""

    async def scenario() -> None:
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await back(lab)
            panel.say(DOOR_OPENS)
            await panel.acknowledged()
            panel.say(m.Poll())
            await panel.acknowledged()
            panel.writer.close()
            await lab.settle()
            panel = await back(lab)
            panel.say(DOOR_OPENS)
            await panel.acknowledged()
            assert doors(tmp_path) == [Kind.ZONE_OPENED, Kind.ZONE_OPENED]

    run(scenario())


def test_a_full_disk_keeps_no_panel_from_being_acknowledged(run: Any, tmp_path: Path) -> None:
    """Alarms matter more than their record; readiness says that there is a gap to be feared."""

    async def scenario() -> None:
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            panel = await back(lab)
            await lab.settle()
            view = CoreView(lab.server)
            assert view.readiness().parts["itv2 history"] == "ok"
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
            try:
                for _ in range(3):
                    panel.say(DOOR_OPENS)
                    await panel.acknowledged()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            readiness = view.readiness()
            assert readiness.ok
            assert readiness.parts["itv2 history"].startswith("degraded: ")
            assert len(lab.events("itv2.history_unavailable")) == 1

    run(scenario())
