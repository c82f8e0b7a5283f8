"""What messages make true: itv2-protocol.md section 9.2, and the faults of others (users-and-history section 4)."""

from __future__ import annotations

from itv2_hub_lab import ARMED_AWAY, IN_ALARM, READY, HubLab, running

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.events import KINDS, Kind
from sojourn.gateways.itv2.hub_config import PanelProfile
from sojourn.gateways.itv2.state import Status

AWAY = m.Arming(partition=1, mode=m.ArmingMode.AWAY, method=m.ArmingMethod.ACCESS_CODE, user=2)
DISARMED = m.Arming(partition=1, mode=m.ArmingMode.DISARM, method=m.ArmingMethod.ACCESS_CODE, user=1)
DELAY_40_S = m.ExitDelay(partition=1, flags=m.DelayFlag.ACTIVE | m.DelayFlag.AUDIBLE, seconds=40)
ENTRY_30_S = m.EntryDelay(partition=1, flags=m.DelayFlag.ACTIVE, seconds=30)
DURING_EXIT = bytes((m.PartitionFlag.ARMED | m.PartitionFlag.AWAY | m.PartitionFlag.EXIT_DELAY, 0))


def opened(zone, *, is_open=True):
    return m.ZoneLifestyle(zone=zone, state=int(is_open))


def test_a_ready_status_does_not_disarm(run):
    """Fault 24: "0239 forces disarmed even if the partition is armed". The panel is asked, and its word counts."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(AWAY)
            await lab.settle()
            lab(m.ReadyStatus(partition=1, status=m.Ready.FORCE))
            assert lab.partition().status.value == Status.ARMED_AWAY
            await lab.pass_s(2)
            assert lab.session.of(m.RequestPartitionStatus)[-1].partition == 1
            assert lab.watcher.statuses() == [Status.ARMING, Status.ARMED_AWAY]

    run(conversation())


def test_a_cancelled_arming_is_noticed_by_asking(run):
    """Fault 14: arming that an opened door cancels is told by 0239 alone, and must not stay "arming"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = DURING_EXIT
            lab(AWAY, DELAY_40_S)
            await lab.settle()
            assert lab.partition().status.value == Status.ARMING
            lab.session.partitions[1] = bytes((m.PartitionFlag.NOT_READY, 0))
            lab(m.ReadyStatus(partition=1, status=m.Ready.NOT_READY))
            await lab.pass_s(1)
            assert lab.partition().status.value == Status.DISARMED
            assert lab.partition().ready.value == "not_ready"

    run(conversation())


def test_the_end_of_the_exit_delay_is_told_by_our_own_clock_and_checked_a_second_later(run):
    """Section 9.2 and fault 24: the panel sends nothing; "run an own timer and pull 0812 one second after it"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = DURING_EXIT
            lab(AWAY, DELAY_40_S)
            await lab.settle()
            assert lab.partition().exit_delay_until_ms.value == lab.wall_ms() + 40_000
            lab.session.refuse[m.Word.COMMAND_REQUEST] = []
            await lab.pass_s(39)
            assert lab.partition().status.value == Status.ARMING
            lab.session.partitions[1] = ARMED_AWAY
            await lab.pass_s(1)
            assert lab.partition().status.value == Status.ARMED_AWAY
            assert lab.partition().exit_delay_until_ms.value == 0
            asked = len(lab.session.of(m.RequestPartitionStatus))
            await lab.pass_s(1)
            assert len(lab.session.of(m.RequestPartitionStatus)) > asked
            assert lab.watcher.statuses() == [Status.ARMING, Status.ARMED_AWAY]
            assert lab.watcher.kinds().count(Kind.EXIT_DELAY_ENDED) == 1

    run(conversation())


def test_armed_does_not_flash_up_before_the_exit_delay(run):
    """Section 9.2: 0232 comes at the start of the exit delay, before 0230."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = DURING_EXIT
            lab(AWAY)
            assert lab.watcher.statuses() == [Status.ARMING]
            lab(DELAY_40_S)
            await lab.settle()
            assert lab.watcher.statuses() == [Status.ARMING]

    run(conversation())


def test_arming_without_an_exit_delay_is_armed_as_soon_as_the_panel_says_so(run):
    """The delay that 0232 lets us expect ends with the panel's word, or after two seconds without it."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(AWAY)
            await lab.settle()
            assert lab.partition().status.value == Status.ARMED_AWAY
            assert Kind.EXIT_DELAY_ENDED not in lab.watcher.kinds()

    run(conversation())


def test_an_entry_delay_is_pending_and_asked_about_when_it_is_over(run):
    """Users' wish: "entry delay shown as pending"; what comes of it nobody tells."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(AWAY)
            await lab.settle()
            lab.session.partitions[1] = bytes((ARMED_AWAY[0] | m.PartitionFlag.ENTRY_DELAY, 0))
            lab(ENTRY_30_S)
            assert lab.partition().status.value == Status.PENDING
            await lab.pass_s(30)
            assert lab.partition().status.value == Status.PENDING
            lab.session.partitions[1] = IN_ALARM
            lab.session.zones[1] = m.ZoneFlag.OPEN | m.ZoneFlag.ALARM
            await lab.pass_s(6)
            assert lab.partition().status.value == Status.TRIGGERED
            assert lab.partition().alarm_zones.value == (1,)

    run(conversation())


def test_a_zone_that_opens_in_an_armed_partition_makes_us_look_for_an_alarm(run):
    """Fault 24: "alarm has no live handler", and no message says it; the zone behind it is told, too."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(AWAY)
            await lab.pass_s(2)
            lab.watcher.__init__()
            lab.session.partitions[1] = IN_ALARM
            lab.session.zones[2] = m.ZoneFlag.OPEN | m.ZoneFlag.ALARM
            lab(opened(2))
            await lab.pass_s(1)
            assert lab.partition().status.value == Status.TRIGGERED
            assert lab.partition().alarm_zones.value == (2,)
            assert lab.partition().siren.value is True
            alarms = [(one.kind, one.zone, one.source) for one in lab.watcher.events if "alarm" in one.kind]
            assert alarms == [(Kind.ALARM, None, "pull"), (Kind.ZONE_ALARM, 2, "pull")]
            assert [one.kind for one in lab.stored if one.kind == Kind.ZONE_ALARM] == [Kind.ZONE_ALARM]

    run(conversation())


def test_hints_bring_the_status_of_their_partition_and_of_the_zones(run):
    """Users-and-history section 6: 023C, 023F and 0240 are hints for targeted 0811 and 0812 pulls."""

    async def conversation():
        async with running(HubLab()) as lab:
            for hint in (
                m.AlarmMemory(partition=1, flag=1),
                m.TroubleStatus(partition=1, flag=1),
                m.BypassStatus(partition=1, flag=1),
            ):
                lab.session.asked.clear()
                lab(hint)
                await lab.pass_s(2)
                assert len(lab.session.of(m.RequestPartitionStatus)) == 1, hint
                assert len(lab.session.of(m.RequestZoneStatus)) == 1, hint

    run(conversation())


def test_alarm_memory_names_its_zones(run):
    """Which zone it was stays known after the alarm."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = bytes((m.PartitionFlag.READY, m.PartitionFlag2.ALARM_MEMORY))
            lab.session.zones[3] = m.ZoneFlag.ALARM_MEMORY
            lab(m.AlarmMemory(partition=1, flag=1))
            await lab.settle()
            assert lab.partition().alarm_zones.value == (3,)
            lab.session.partitions[1] = READY
            lab.session.zones[3] = 0
            lab(m.AlarmMemory(partition=1, flag=0))
            await lab.pass_s(2)
            assert lab.partition().alarm_zones.value == ()

    run(conversation())


def test_who_armed_has_a_name(run):
    """Users' wish: "changed by user"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            events = lab(AWAY)
            changed_by = lab.partition().changed_by.value
            assert (changed_by.user, changed_by.label, changed_by.method) == (2, "Anna", 1)
            assert events[0].user == 2
            assert events[0].detail == {
                "mode": "away",
                "method": "access code",
                "partition_label": "House",
                "user_label": "Anna",
            }

    run(conversation())


def test_a_user_whose_name_is_not_known_is_asked_for(run):
    """The name is put where it was missing."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.users[3].label = "Ben"
            lab.session.partitions[1] = ARMED_AWAY
            lab(m.Arming(partition=1, mode=2, method=1, user=3))
            assert lab.partition().changed_by.value.label == ""
            await lab.settle()
            assert lab.partition().changed_by.value.label == "Ben"

    run(conversation())


def test_a_disarming_found_by_asking_is_nobodys(run):
    """After an outage nobody knows who it was: a name of before must not stand beside it."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = ARMED_AWAY
            lab(AWAY)
            await lab.settle()
            lab.panel.lost("gone")
            lab.session.partitions[1] = READY
            await lab.connect()
            assert lab.partition().changed_by.value.user == 0
            found = [one for one in lab.stored if one.kind == Kind.DISARMED]
            assert [(one.source, one.is_approximate) for one in found] == [("pull", True)]

    run(conversation())


def test_a_pull_that_says_less_does_not_forget_the_mode(run):
    """Section 15 point 14b: armed without a mode bit: "take from the last 0232"."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.partitions[1] = bytes((m.PartitionFlag.ARMED, 0))
            lab(m.Arming(partition=1, mode=m.ArmingMode.NIGHT, method=1, user=0))
            await lab.settle()
            assert lab.partition().status.value == Status.ARMED_NIGHT
            lab(m.Arming(partition=1, mode=m.ArmingMode.GLOBAL_AWAY, method=1, user=0))
            lab.session.partitions[1] = ARMED_AWAY
            await lab.pass_s(2)
            assert lab.partition().mode.value == m.ArmingMode.GLOBAL_AWAY

    run(conversation())


def test_every_arming_mode_has_a_status():
    """Section 10.1, in NeoHub's words."""
    lab = HubLab()
    found = {}
    for mode in (*range(1, 10), *range(11, 19), 255, 10):
        lab.panel.learn(m.PartitionStatus(partition=1, status=READY))
        lab(m.Arming(partition=1, mode=mode, method=0, user=0))
        lab.panel.learn(m.PartitionStatus(partition=1, status=bytes((m.PartitionFlag.ARMED, 0))))
        found.setdefault(lab.partition().status.value, []).append(mode)
    assert found == {
        Status.ARMED_HOME: [1, 7, 11, 17],
        Status.ARMED_AWAY: [2, 3, 5, 6, 8, 12, 13, 14, 15, 16, 18, 255, 10],
        Status.ARMED_NIGHT: [4, 9],
    }


def test_every_zone_bit_is_a_value_with_since_and_source(run):
    """Section 10.6; tamper, fault and battery are never told, so they are found by the refresh."""

    async def conversation():
        async with running(HubLab()) as lab:
            before = lab.wall_ms()
            lab.session.zones[2] = 0xFF
            await lab.pass_s(301)
            zone = lab.zone(2)
            for name in (
                "open tamper fault low_battery delinquency alarm alarm_memory bypassed".split()  # noqa: SIM905 - eight words
            ):
                value = getattr(zone, name)
                assert (value.value, value.since_ms, value.source) == (True, lab.wall_ms(), "pull"), name
                assert getattr(lab.zone(1), name).since_ms <= before
            assert Kind.ZONE_TAMPER in lab.watcher.kinds()
            assert Kind.ZONE_LOW_BATTERY in lab.watcher.kinds()

    run(conversation())


def test_a_value_that_is_told_again_keeps_its_since(run):
    """``since`` is when it became so."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab(opened(1))
            since_ms = lab.zone(1).open.since_ms
            lab.clock.advance(5)
            lab.watcher.__init__()
            assert [one.kind for one in lab(opened(1))] == [Kind.ZONE_OPENED]
            assert lab.zone(1).open.since_ms == since_ms
            assert lab.watcher.changes == []

    run(conversation())


def test_a_zone_without_configuration_is_in_no_partition():
    """Fault 30: "every zone without config is put in partition 1"."""
    lab = HubLab()
    for partition in (1, 2):
        lab.panel.learn(m.PartitionStatus(partition=partition, status=READY))
    event = lab(opened(7))[0]
    assert lab.zone(7).partitions is None
    assert event.partition is None


def test_an_alarm_of_two_partitions_is_only_attributed_to_the_zones_partition():
    """Where programming was read, a zone's alarm is its own partition's."""
    lab = HubLab()
    for partition in (1, 2):
        lab.panel.learn(m.PartitionStatus(partition=partition, status=IN_ALARM))
    lab(opened(5), opened(6))
    lab.panel.update(
        lambda update: (update.set("zone", 5, "partitions", (1,)), update.set("zone", 6, "partitions", (2,)))
    )
    lab.panel.learn(m.ZoneStatus(first=5, statuses=(m.ZoneFlag.ALARM, m.ZoneFlag.ALARM)))
    assert lab.partition(1).alarm_zones.value == (5,)
    assert lab.partition(2).alarm_zones.value == (6,)


def test_numbers_that_nothing_has_are_events_without_state(run):
    """A number of any size may come; it is kept as what happened, and fills no memory."""

    async def conversation():
        async with running(HubLab()) as lab:
            events = lab(
                opened(1_000_000),
                m.Arming(partition=99, mode=2, method=0, user=7),
                m.TroubleStatus(partition=0, flag=1),
            )
            assert [event.kind for event in events] == [Kind.ZONE_OPENED, Kind.ARMED, Kind.TROUBLE]
            assert sorted(lab.panel.state.zones) == [1, 2, 3]
            assert sorted(lab.panel.state.partitions) == [1]
            assert lab.panel.state.trouble.value is True

    run(conversation())


def test_a_zone_that_speaks_is_there(run):
    """A zone without a name appears when it opens."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab(opened(5))
            assert lab.zone(5).open.value is True
            assert lab.watcher.configurations == 1

    run(conversation())


def test_the_clock_is_watched(run):
    """Users-and-history section 6 point 14, and section 6: the year may be off by one, and is then no other date."""

    async def conversation():
        async with running(
            HubLab(PanelProfile(name="house", integration_id="123456789012", time_zone="UTC"))
        ) as lab:
            # The wall clock of these tests is 2026-09-21 14:13:20 UTC.
            right = m.DateTimeBroadcast(time=m.PanelTime(2026, 9, 21, 14, 13, 25))
            wrong = m.DateTimeBroadcast(time=m.PanelTime(2025, 9, 21, 14, 13, 20))
            assert lab(right) == []
            assert lab.panel.state.clock_drift_s.value == 5
            assert lab.panel.state.clock.value == "2026-09-21T14:13:25"
            assert [event.kind for event in lab(wrong)] == [Kind.CLOCK_WRONG]
            assert lab.panel.state.clock_drift_s.value == -365 * 86_400
            assert lab(m.DateTimeBroadcast(time=m.PanelTime(2026, 0, 41, 14, 13, 20))) == []
            assert [event.kind for event in lab(right)] == [Kind.CLOCK_RIGHT]

    run(conversation())


def test_programming_by_the_installer_is_followed_by_reading_everything(run):
    """0702 out: names, zones and partitions may be others now."""

    async def conversation():
        async with running(HubLab()) as lab:
            time = m.PanelTime(2026, 9, 21, 14, 13, 20)
            lab(m.ProgrammingLead(partition=1, phase=0, user=0, access=2, mode=0, time=time))
            assert lab.partition().programming.value is True
            lab.session.zone_labels[2] = "Corridor"
            del lab.session.zone_labels[3]
            lab(m.ProgrammingLead(partition=1, phase=1, user=0, access=2, mode=0, time=time))
            await lab.pass_s(2)
            assert lab.zone(2).label.value == "Corridor"
            assert 3 not in lab.panel.state.zones
            assert lab.watcher.configurations == 1
            assert lab.watcher.phases == []

    run(conversation())


def test_an_unknown_word_is_an_event_without_its_body():
    """Its body may be anything, codes included."""
    lab = HubLab()
    event = lab(m.Unknown(number=0x0703, body=b"\x12\x34"))[0]
    assert event.kind == Kind.UNKNOWN_MESSAGE
    assert event.detail == {"word": "0703", "bytes": 2, "why": ""}


def test_a_changed_user_is_read_again(run):
    """0250: the label of a user may be another now."""

    async def conversation():
        async with running(HubLab()) as lab:
            lab.session.users[2].label = "Annika"
            lab(m.AccessCodeUpdated(what=8, records=1, first=2, last=2))
            await lab.settle()
            assert lab.panel.state.user_labels[2].value == "Annika"

    run(conversation())


def test_kinds_are_all_different():
    """They are what the history is searched by."""
    assert len(set(KINDS)) == len(KINDS) > 40
