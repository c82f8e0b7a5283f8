"""A day of a panel that was written apart from us: what a view is told, in order, and what commands do to the house."""

from __future__ import annotations

from pathlib import Path

from itv2_simulator_lab import simulator_lab

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import commands as c
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.messages import ArmingMode
from sojourn.gateways.itv2.peer.zones import NEVER

MASTER = Secret("1234")
INSTALLER = Secret("5555")


class Diary:
    """A view that writes down the statuses of partition 1."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.kinds: list[str] = []
        self.sources: set[str] = set()

    def changed(self, _panel, changes):
        self.statuses += [one.value.value for one in changes if one.field == "status" and one.number == 1]

    def happened(self, _panel, events):
        self.kinds += [event.kind for event in events]
        self.sources |= {event.source for event in events}

    def phase_changed(self, _panel): ...

    def configuration_changed(self, _panel): ...


def test_a_day_is_told_in_order_and_nothing_twice(run, tmp_path: Path) -> None:
    """Arming, delay, entry, alarm, disarming: every status once, and no other between them."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path) as lab,
            lab.connected(speed=20, programme={"entry_delay_s": 30.0}) as panel,
        ):
            diary = Diary()
            lab.gateway.hub.subscribe(diary)
            panel.arm(1, ArmingMode.AWAY, user=2)
            await lab.until(lambda: lab.partition().status.value == "armed_away")
            await panel.until(lambda: panel.house.partitions[1].exit_ends_s == NEVER)
            panel.open_zone(1)
            await lab.until(lambda: lab.partition().status.value == "triggered")
            await lab.until(lambda: lab.partition().alarm_zones.value == (1,))
            panel.disarm(1, user=2)
            await lab.until(lambda: lab.partition().status.value == "disarmed")
            await lab.until(lambda: lab.zone(1).alarm_memory.value)
            told = [
                one
                for number, one in enumerate(diary.statuses)
                if diary.statuses[number - 1 : number] != [one]
            ]
            assert told == diary.statuses
            assert [one for one in told if one != "armed_away"] == [
                "arming",
                "pending",
                "triggered",
                "disarmed",
            ]
            assert diary.kinds.count(Kind.ALARM) == 1
            assert diary.kinds.count(Kind.ARMED) == 1
            assert diary.kinds.count(Kind.DISARMED) == 1
            assert "replay" not in diary.sources

    run(main())


def test_open_zones_are_bypassed_and_the_rest_is_armed(run, tmp_path: Path) -> None:
    """Section 12: enter, bypass, leave, arm; at the end all bypasses are cleared."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected(speed=40) as panel:
            panel.open_zone(5)
            await lab.until(lambda: lab.zone(5).open.value)
            outcome = await lab.order(c.BypassAndArm(1, ArmingMode.AWAY))
            assert outcome.result == "accepted", outcome
            assert panel.house.programming is None
            await lab.until(lambda: lab.partition().status.value == "armed_away")
            assert lab.zone(5).bypassed.value
            assert (await lab.order(c.DisarmPartition(1))).result == "accepted"
            await lab.until(lambda: lab.partition().status.value == "disarmed")
            assert (await lab.order(c.ClearBypasses(1))).result == "accepted"
            await lab.until(lambda: not lab.zone(5).bypassed.value)

    run(main())


def test_programming_says_what_the_zones_are(run, tmp_path: Path) -> None:
    """Section 9.5: definitions and partitions, read once and only when asked for."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            assert lab.zone(1).definition is None
            outcome = await lab.order(c.ReadSections(installer_code=INSTALLER))
            assert outcome.result == "accepted", outcome
            for number, zone in panel.house.zones.items():
                if number in lab.panel().state.zones:
                    assert lab.zone(number).definition.value == zone.definition
                    assert lab.zone(number).partitions.value == (1,)
            assert lab.partition().is_enabled.value
            await lab.until(lambda: lab.partition().ready.value == "ready")

    run(main())


def test_a_user_is_written_and_disabled_again(run, tmp_path: Path) -> None:
    """Section 9.6: the panel resets the rest with the code, so the rest comes after it."""

    async def main() -> None:
        async with simulator_lab(tmp_path, user_writes=True) as lab, lab.connected() as panel:
            write = c.WriteUser(
                7, code=Secret("7531"), attributes=4, partitions=(1,), label="Guest", master_code=MASTER
            )
            outcome = await lab.order(write)
            assert outcome.result == "accepted", outcome
            assert (outcome.data.label, outcome.data.attributes, outcome.data.partitions) == (
                "Guest",
                4,
                (1,),
            )
            assert panel.house.users[7].code == "7531"
            outcome = await lab.order(c.WriteUser(7, is_enabled=False, master_code=MASTER))
            assert outcome.data.is_enabled is False
            assert panel.house.programming is None

    run(main())


def test_guessing_ends_before_the_panel_locks_its_keypads(run, tmp_path: Path) -> None:
    """Users-and-history section 6 point 10."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected():
            for _ in range(3):
                assert (await lab.order(c.DisarmPartition(1, Secret("9999")))).code == 17
            outcome = await lab.order(c.DisarmPartition(1, MASTER))
            assert outcome.reason.startswith("no access codes are sent for")

    run(main())
