"""The gateway against a panel that was written apart from it: what they say to each other must be the specification."""

from __future__ import annotations

from pathlib import Path

import pytest
from itv2_simulator_lab import ID, identity, simulator_lab

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import commands as c
from sojourn.gateways.itv2.messages import Arm, ArmingMode, Section
from sojourn.gateways.itv2.peer import ALWAYS, Fault
from sojourn.gateways.itv2.peer.zones import NEVER

WRONG = Secret("9999")


@pytest.mark.parametrize("encryption_type", [1, 2])
def test_a_panel_of_either_type_is_connected_and_known(run, tmp_path: Path, encryption_type: int) -> None:
    """Sections 7, 8 and 12: handshake, replay, pull."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path) as lab,
            lab.connected(identity(encryption_type=encryption_type)) as panel,
        ):
            state = lab.panel().state
            assert {number: zone.label.value for number, zone in state.zones.items()} == {
                number: zone.label for number, zone in panel.house.zones.items()
            }
            assert state.partitions[1].label.value == "House"
            assert state.partitions[1].status.value == "disarmed"
            assert not state.is_stale.value

    run(main())


def test_zones_are_seen_as_they_move(run, tmp_path: Path) -> None:
    """Section 9.2: 0210 and 0239, alone or together in one packet."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            for number in (1, 3, 5):
                panel.open_zone(number)
                await lab.until(lambda number=number: lab.zone(number).open.value)
            await lab.until(lambda: lab.partition().ready.value == "not_ready")
            for number in (5, 3, 1):
                panel.restore_zone(number)
                await lab.until(lambda number=number: not lab.zone(number).open.value)
            await lab.until(lambda: lab.partition().ready.value == "ready")
            stored = [(entry.kind, entry.zone) for entry in await lab.history("zone_opened", "zone_closed")]
            assert stored == [
                ("zone_opened", 1),
                ("zone_opened", 3),
                ("zone_opened", 5),
                ("zone_closed", 5),
                ("zone_closed", 3),
                ("zone_closed", 1),
            ]

    run(main())


def test_arming_and_disarming_through_the_gateway(run, tmp_path: Path) -> None:
    """Sections 9.4 and 12: a deferred answer, the delay, who did it, and a wrong code in words."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected(speed=30) as panel:
            outcome = await lab.order(c.ArmPartition(1, ArmingMode.AWAY, Secret("2345")))
            assert outcome.result == "accepted", outcome
            await lab.until(lambda: lab.partition().status.value == "arming")
            await lab.until(lambda: lab.partition().status.value == "armed_away")
            assert lab.partition().changed_by.value.user == 2
            refused = await lab.order(c.DisarmPartition(1, WRONG))
            assert (refused.result, refused.code) == ("rejected", 17)
            assert "9999" not in refused.reason
            assert panel.house.partitions[1].is_armed
            assert (await lab.order(c.DisarmPartition(1))).result == "accepted"
            await lab.until(lambda: lab.partition().status.value == "disarmed")
            assert not panel.house.partitions[1].is_armed

    run(main())


def test_a_partition_that_is_not_ready_says_so(run, tmp_path: Path) -> None:
    """Section 10.2, code 4."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.open_zone(5)
            outcome = await lab.order(c.ArmPartition(1, ArmingMode.AWAY))
            assert (outcome.result, outcome.code) == ("rejected", 4)

    run(main())


def test_a_bypass_leaves_programming_whatever_happens(run, tmp_path: Path) -> None:
    """Section 12: 0704, 074A, 0701; also where the panel refuses the zone or the code."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            assert (await lab.order(c.BypassZones(1, (5,)))).result == "accepted"
            await lab.until(lambda: lab.zone(5).bypassed.value)
            assert panel.house.programming is None
            smoke = await lab.order(c.BypassZones(1, (7,)))
            assert (smoke.result, smoke.code) == ("rejected", 23)
            assert panel.house.programming is None
            wrong = await lab.order(c.BypassZones(1, (6,), code=WRONG))
            assert (wrong.result, wrong.code) == ("rejected", 17)
            assert panel.house.programming is None
            assert (await lab.order(c.ClearBypasses(1))).result == "accepted"
            await lab.until(lambda: not lab.zone(5).bypassed.value)
            assert not panel.house.zones[5].is_bypassed

    run(main())


def test_an_alarm_is_seen_with_its_zone(run, tmp_path: Path) -> None:
    """Issue, part 3: alarm, attribution, memory; from 023C as a hint and 0811 and 0812."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected(speed=40) as panel:
            panel.arm(1, ArmingMode.AWAY)
            await lab.until(lambda: lab.partition().status.value == "armed_away")
            await panel.until(lambda: panel.house.partitions[1].exit_ends_s == NEVER)
            panel.open_zone(5)
            await lab.until(lambda: lab.partition().status.value == "triggered")
            await lab.until(lambda: lab.partition().alarm_zones.value == (5,))
            panel.disarm(1, user=2)
            await lab.until(lambda: lab.partition().status.value == "disarmed")
            await lab.until(lambda: not lab.partition().alarm.value and lab.zone(5).alarm_memory.value)
            assert lab.partition().changed_by.value.user == 2
            stored = [(entry.kind, entry.zone) for entry in await lab.history("alarm", "zone_alarm")]
            assert sorted(stored, key=str) == [("alarm", None), ("zone_alarm", 5)]

    run(main())


def test_an_entry_delay_is_pending_and_then_an_alarm(run, tmp_path: Path) -> None:
    """Section 9.2, 0231."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path) as lab,
            lab.connected(speed=20, programme={"entry_delay_s": 30.0}) as panel,
        ):
            panel.arm(1, ArmingMode.AWAY)
            await lab.until(lambda: lab.partition().status.value == "armed_away")
            await panel.until(lambda: panel.house.partitions[1].exit_ends_s == NEVER)
            panel.open_zone(1)
            await lab.until(lambda: lab.partition().status.value == "pending")
            await lab.until(lambda: lab.partition().status.value == "triggered")
            await lab.until(lambda: lab.zone(1).alarm.value)

    run(main())


def test_trouble_and_tamper_are_seen(run, tmp_path: Path) -> None:
    """Section 9.2, 023F: a hint that trouble is there; which one is asked for."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.house.set_tamper(3, has_tamper=True)
            await lab.until(lambda: lab.partition().trouble.value)
            await lab.until(lambda: lab.zone(3).tamper.value)
            panel.house.set_tamper(3, has_tamper=False)
            await lab.until(lambda: not lab.partition().trouble.value)
            await lab.until(lambda: not lab.zone(3).tamper.value)

    run(main())


def test_sections_and_users_are_read(run, tmp_path: Path) -> None:
    """Sections 9.5 and 9.6: programming is left at the end, and writing follows its switch."""

    async def main() -> None:
        async with simulator_lab(tmp_path, user_writes=True) as lab, lab.connected() as panel:
            master = Secret("1234")
            users = await lab.order(c.ReadUsers(master_code=master))
            assert users.result == "accepted", users
            section = await lab.order(c.ReadSections((Section((1, 1), 16),), Secret("5555")))
            assert section.result == "accepted", section
            assert panel.house.programming is None

    run(main())


def test_what_happened_in_an_outage_is_replayed_into_the_history_only(run, tmp_path: Path) -> None:
    """Section 11 and issue, part 2: stored as replayed, in order, once; then the state is read anew."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.cut()
            await lab.until(lambda: lab.panel().phase == "disconnected")
            assert lab.panel().state.is_stale.value
            for _ in range(10):
                panel.open_zone(1)
                panel.restore_zone(1)
            panel.open_zone(5)
            panel.mend()
            await panel.connected()
            await lab.until(lambda: lab.panel().phase == "connected")
            assert lab.zone(5).open.value
            assert lab.zone(5).open.source == "pull"
            stored = await lab.history("zone_opened", "zone_closed")
            moved = [(entry.kind, entry.zone) for entry in stored if entry.source == "replay"]
            assert moved == [("zone_opened", 1), ("zone_closed", 1)] * 10 + [("zone_opened", 5)]
            assert all(entry.is_approximate for entry in stored if entry.source == "replay")

    run(main())


def test_a_queue_that_is_full_loses_the_newest_and_the_pull_finds_the_truth(run, tmp_path: Path) -> None:
    """Section 11: about 70 are kept, the oldest."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.cut()
            await lab.until(lambda: lab.panel().phase == "disconnected")
            for _ in range(100):
                panel.open_zone(3)
                panel.restore_zone(3)
            panel.open_zone(6)
            assert panel.outbox.lost_count > 0
            assert len(panel.outbox) == 70
            panel.mend()
            await panel.connected()
            await lab.until(lambda: lab.panel().phase == "connected")
            assert lab.zone(6).open.value
            assert not lab.zone(3).open.value

    run(main())


@pytest.mark.parametrize(
    "fault",
    [
        Fault.SPLIT_WRITES,
        Fault.MERGED_WRITES,
        Fault.GARBAGE,
        Fault.BAD_STUFFING,
        Fault.WRONG_CRC,
        Fault.DUPLICATE,
        Fault.ACK_UNHEARD,
        Fault.ACK_UNSENT,
        Fault.UNKNOWN_WORD,
        Fault.WRONG_ID,
        Fault.ENDLESS,
        Fault.HALF_OPEN,
        Fault.TWIN,
        Fault.HTTP,
    ],
)
def test_a_fault_of_one_panel_costs_no_event_and_disturbs_no_other(run, tmp_path: Path, fault: Fault) -> None:
    """Section 13, point 7: everything is stored once and in order, whether the connection survives or not."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path, count=2, timing={"step_timeout_s": 2.0}) as lab,
            lab.connected() as panel,
            lab.connected(identity(1)) as other,
        ):
            panel.open_zone(1)
            panel.inject(fault)
            if fault is Fault.HTTP:
                panel.end_session()
            for _ in range(5):
                panel.restore_zone(1)
                panel.open_zone(1)
            await lab.until(lambda: lab.panel().last_heard_ms > 0)
            await panel.acknowledged()
            stored = [entry.kind for entry in await lab.history("zone_opened", "zone_closed")]
            assert stored == ["zone_opened", *["zone_closed", "zone_opened"] * 5]
            assert other.record.connections_count == 1
            assert other.is_connected

    run(main())


@pytest.mark.parametrize("fault", [Fault.ANSWER_IN_MULTIPLE, Fault.LATE_ANSWER, Fault.SPLIT_WRITES])
def test_an_answer_arrives_however_it_comes(run, tmp_path: Path, fault: Fault) -> None:
    """Section 5.4, rule 6, and section 11: up to several seconds late."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.inject(fault)
            outcome = await lab.order(c.ArmPartition(1, ArmingMode.STAY))
            assert outcome.result == "accepted", outcome

    run(main())


def test_an_answer_that_never_comes_is_an_unknown_outcome(run, tmp_path: Path) -> None:
    """Section 14, rule 6: not sent again; the state is read anew and tells what became of it."""

    async def main() -> None:
        async with simulator_lab(tmp_path, state={"answer_within_s": 0.5}) as lab, lab.connected() as panel:
            panel.inject(Fault.NO_ANSWER)
            outcome = await lab.order(c.ArmPartition(1, ArmingMode.STAY))
            assert outcome.result == "unknown", outcome
            await lab.until(lambda: lab.partition().status.value == "arming")
            assert sum(isinstance(command, Arm) for command in panel.record.commands) == 1

    run(main())


def test_a_poll_is_acknowledged_by_data(run, tmp_path: Path) -> None:
    """Section 5.2."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path, timing={"poll_every_s": 0.3, "silence_timeout_s": 60.0}) as lab,
            lab.connected() as panel,
        ):
            heard = panel.record.heard_count
            panel.inject(Fault.DATA_FOR_ACK)
            await panel.until(lambda: panel.record.heard_count > heard + 2)
            assert panel.record.connections_count == 1
            assert lab.events("itv2.poll_unanswered") == []

    run(main())


def test_a_wrong_code_is_diagnosed_and_mending_it_connects(run, tmp_path: Path) -> None:
    """Section 7.5: a wrong Type 2 code, in a sentence with the section to compare."""

    async def main() -> None:
        async with simulator_lab(tmp_path, timing={"step_timeout_s": 1.0}) as lab:
            panel = lab.simulated()
            panel.inject(Fault.WRONG_KEY)
            async with panel:
                await lab.until(lambda: bool(lab.events("itv2.handshake_failed")))
                assert "[851][700]" in lab.events("itv2.handshake_failed")[0]["sentence"]
                assert panel.record.handshakes_count == 0
                panel.heal(Fault.WRONG_KEY)
                await panel.connected()

    run(main())


def test_an_unknown_panel_gets_no_answer(run, tmp_path: Path) -> None:
    """Section 14, rule 13."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.simulated(identity(7)) as panel:
            await lab.until(lambda: bool(lab.events("itv2.handshake_failed")))
            assert "an unknown Integration ID" in lab.events("itv2.handshake_failed")[0]["sentence"]
            assert panel.record.handshakes_count == 0

    run(main())


@pytest.mark.parametrize(
    "line",
    [{"tail": b"\1\2\3\4"}, {"offers_type_3": True}, {"tail": b"\x7e\x7f\x7d\x00", "offers_type_3": True}],
)
def test_newer_firmware_that_only_looks_different_gets_through(
    run, tmp_path: Path, line: dict[str, object]
) -> None:
    """Sections 7.1 and 7.5: the tail comes back, type 3 is waited out."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected(line=line) as panel:
            assert panel.record.handshakes_count == 1
            assert panel.record.connections_count == 1

    run(main())


def test_a_panel_that_ignores_the_grant_is_diagnosed(run, tmp_path: Path) -> None:
    """Section 7.5: firmware 5.63 after step 8."""

    async def main() -> None:
        async with (
            simulator_lab(tmp_path, timing={"step_timeout_s": 0.5}) as lab,
            lab.simulated(line={"ignores_access": True, "firmware": 0x0563}),
        ):
            await lab.until(lambda: bool(lab.events("itv2.handshake_failed")))
            assert "5.63" in lab.events("itv2.handshake_failed")[0]["sentence"]

    run(main())


def test_the_newest_connection_wins(run, tmp_path: Path) -> None:
    """Section 11: the second handshake is done before the first connection is closed."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            panel.inject(Fault.TWIN)
            await lab.until(lambda: bool(lab.events("itv2.panel_replaced")))
            await panel.connected()
            panel.open_zone(2)
            await panel.acknowledged()
            assert panel.record.connections_count == 2

    run(main())


def test_both_say_goodbye(run, tmp_path: Path) -> None:
    """Section 9.1, 060B: the panel's is acknowledged, ours is waited for."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab:
            async with lab.connected() as panel:
                panel.end_session()
                await panel.until(lambda: panel.record.words == "we ended the session")
                await panel.until(lambda: panel.record.connections_count == 2 and panel.is_connected)
            async with lab.connected() as panel:
                await lab.server.stop(timeout_s=2)
                assert any(told.words == "the server ended the session" for told in panel.record.sayings)

    run(main())


def test_a_panel_that_falls_silent_is_gone_and_comes_back(run, tmp_path: Path) -> None:
    """Section 11: half-dead connections are noticed by both ends."""

    async def main() -> None:
        timing = {"poll_every_s": 0.2, "ack_timeout_s": 0.5, "silence_timeout_s": 1.5}
        async with (
            simulator_lab(tmp_path, timing=timing) as lab,
            lab.connected(line={"silence_s": 1.0}) as panel,
        ):
            panel.inject(Fault.SILENCE)
            panel.open_zone(2)
            await lab.until(lambda: lab.panel().phase == "disconnected")
            panel.heal(Fault.SILENCE)
            await panel.connected()
            await panel.acknowledged()
            stored = [(one.kind, one.zone) for one in await lab.history("zone_opened")]
            assert stored == [("zone_opened", 2)]

    run(main())


def test_events_of_many_panels_are_stored_once_each(run, tmp_path: Path) -> None:
    """Twenty panels at once, each in its own order."""

    async def main() -> None:
        count = 20
        async with simulator_lab(tmp_path, count=count) as lab:
            panels = [lab.simulated(identity(number)) for number in range(count)]
            for panel in panels:
                await panel.__aenter__()
            try:
                for panel in panels:
                    await panel.connected()
                for number in range(1, 17):
                    for panel in panels:
                        panel.open_zone(number)
                for panel in panels:
                    await panel.acknowledged()
                for number in range(count):
                    zones = [entry.zone for entry in await lab.history("zone_opened", number=number)]
                    assert zones == list(range(1, 17))
            finally:
                for panel in panels:
                    await panel.__aexit__(None, None, None)

    run(main())


def test_nothing_secret_is_in_what_was_told(run, tmp_path: Path) -> None:
    """Section 14, rule 11."""

    async def main() -> None:
        async with simulator_lab(tmp_path) as lab, lab.connected() as panel:
            await lab.order(c.ArmPartition(1, ArmingMode.STAY, Secret("2345")))
            await lab.order(c.DisarmPartition(1, WRONG))
            panel.inject(Fault.WRONG_CRC, ALWAYS)
            lab.server.events.flush()
            words = repr(lab.told) + repr(await lab.history())
            for secret in ("2345", "9999", "0123456789ABCDEF"):
                assert secret not in words.replace(ID, "")

    run(main())
