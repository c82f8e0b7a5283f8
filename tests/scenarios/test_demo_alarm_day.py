"""The demo's alarm panel: a day in the daemon, quicker than in the demo, with a real broker."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from sojourn.app import Daemon
from sojourn.core.events import Event
from sojourn.core.server import SERVER_STARTED
from sojourn.demo.alarm_day import DayResult, show_alarm_day
from sojourn.demo.screen import Screen
from sojourn.demo.site import Site
from sojourn.gateways.itv2.config import Timing
from sojourn.gateways.itv2.gateway import Itv2Gateway

NARROW = 80
SPEED = 30.0


class Visitor(Screen):
    """Somebody who waits for the day's end."""

    def __init__(self) -> None:
        self.output = io.StringIO()
        self.day: asyncio.Future[DayResult] = asyncio.get_running_loop().create_future()
        super().__init__(Console(file=self.output, width=NARROW))

    def show_alarm_day(self, site: Site, result: DayResult) -> None:
        super().show_alarm_day(site, result)
        self.day.set_result(result)

    def complain(self, text: str) -> None:
        self.day.set_exception(AssertionError(text))


async def day_of(site: Site, visitor: Visitor) -> DayResult:
    """Run a daemon for the panel alone."""
    site.leave_usual_places()
    site.alarm.script = msgspec.structs.replace(site.alarm.script, speed=SPEED)
    settings = site.settings()
    assert settings.itv2 is not None
    # At this speed there is hardly a pause of the two seconds that end a replay.
    itv2 = msgspec.structs.replace(settings.itv2, timing=Timing(replay_quiet_s=0.2))
    settings = msgspec.structs.replace(settings, tacacs=None, itv2=itv2)
    daemon = Daemon(settings, lambda: settings)
    started = asyncio.Event()

    def watch(batch: Sequence[Event]) -> None:
        if any(event.kind is SERVER_STARTED for event in batch):
            started.set()

    daemon.server.events.add_view(watch)
    gateway = daemon.server.gateways[Itv2Gateway.name]
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(daemon.serve())
        await started.wait()
        site.itv2_port = int(daemon.server.listeners[0].address.rpartition(":")[2])
        living = tasks.create_task(show_alarm_day(site, visitor, gateway.history))
        try:
            return await visitor.day
        finally:
            living.cancel()
            serving.cancel()


@pytest.mark.debian("mosquitto")
def test_a_house_lives_through_a_day_and_all_of_it_is_seen(run, tmp_path: Path) -> None:
    """Issue, must show 1: arming, entry, alarm, trouble, outage and replay; in the history and on MQTT."""

    async def main() -> None:
        visitor = Visitor()
        site = Site(tmp_path)
        await site.alarm.start_broker()
        try:
            result = await day_of(site, visitor)
        finally:
            await site.alarm.stop_broker()
        assert result.is_right
        assert any(moment.replayed_count for moment in result.moments)
        states = {state for moment in result.moments for state in moment.states}
        assert states >= {"armed_away", "disarmed", "triggered", "unavailable"}
        assert "each move of a zone is stored once" in visitor.output.getvalue()
        assert all(len(line) <= NARROW for line in visitor.output.getvalue().splitlines())

    run(main())


def test_a_demo_without_a_broker_goes_on(run, tmp_path: Path) -> None:
    """The history alone is shown then."""

    async def main() -> None:
        visitor = Visitor()
        result = await day_of(Site(tmp_path), visitor)
        assert result.is_right
        assert "MQTT" not in visitor.output.getvalue()

    run(main())
