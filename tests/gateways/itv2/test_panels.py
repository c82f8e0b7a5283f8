"""Panels between sessions, views and time: itv2-protocol.md sections 11 and 12."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from itv2_hub_lab import (
    ADMIN,
    ARMED_AWAY,
    IN_ALARM,
    OPENING,
    READY,
    FakeSession,
    HubLab,
    Watcher,
    running,
    timed_out,
)

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.commands import DisarmPartition, Refresh
from sojourn.gateways.itv2.desk import COMMAND_FAILED
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.hub import VIEW_FAILED
from sojourn.gateways.itv2.hub_config import PanelProfile
from sojourn.gateways.itv2.panels import PULL_INCOMPLETE, WORK_FAILED
from sojourn.gateways.itv2.state import PanelState, Status, Value

AWAY = m.Arming(partition=1, mode=m.ArmingMode.AWAY, method=1, user=2)


def values_of(state):
    for holder in (*state.zones.values(), *state.partitions.values(), state):
        for name in holder.__struct_fields__:
            value = getattr(holder, name)
            if isinstance(value, Value) and name != "is_stale":
                yield name, value


def test_the_pull_reads_everything_and_says_where_it_is(run):
    """Section 12, start of session: capabilities, labels by 4, partitions, zones."""

    async def conversation():
        lab = HubLab()
        async with running(lab, is_connected=False):
            lab.panel.connected(lab.session)
            assert lab.panel.phase == "replay"
            assert await lab.panel.pull()
            assert lab.watcher.phases == ["replay", "reading configuration", "reading status", "connected"]
            zones = [one for one in lab.session.of(m.RequestLabels) if one.collection == m.Collection.ZONES]
            assert [(one.first, one.last) for one in zones] == [(1, 4), (5, 8)]
            assert lab.panel.state.capabilities.value.zones == 8
            assert {number: zone.label.value for number, zone in lab.panel.state.zones.items()} == {
                1: "Front Door",
                2: "Hall",
                3: "Kitchen",
            }
            assert sorted(lab.panel.state.partitions) == [1]
            assert lab.partition().label.value == "House"
            assert lab.panel.state.firmware.value == "5.43"
            assert not any(value.is_stale for _, value in values_of(lab.panel.state))
            assert lab.watcher.configurations == 1

    run(conversation())


def test_a_panel_that_refuses_00_is_asked_with_01(run):
    """Section 15 point 8: "00, fall back to 01 on NACK 1", and remembered."""

    async def conversation():
        lab = HubLab()
        lab.session.width = 1
        async with running(lab):
            assert lab.zone(1).open.value is False
            await lab.pass_s(301)
            assert [one.width for one in lab.session.of(m.RequestZoneStatus)] == [1]

    run(conversation())


def test_questions_fit_the_panels_buffer(run):
    """Section 7.1: 512 bytes; 4 labels of 56 bytes need 234 of them, and 255 zones 255."""

    async def conversation():
        lab = HubLab()
        lab.session.zones = dict.fromkeys(range(1, 256), 0)
        lab.session.zone_labels = {zone: f"Zone {zone}" for zone in range(1, 256)}
        async with running(lab):
            assert len(lab.panel.state.zones) == 255
            await lab.pass_s(301)
            assert [one.count for one in lab.session.of(m.RequestZoneStatus)] == [255]
        lab = HubLab()
        lab.session.opening = msgspec.structs.replace(OPENING, tx_buffer_bytes=192)
        lab.session.zones = dict.fromkeys(range(1, 256), 0)
        lab.session.zone_labels = {zone: f"Zone {zone}" for zone in range(1, 256)}
        async with running(lab, is_connected=False):
            lab.panel.connected(lab.session)
            assert await lab.panel.pull()
            assert max(one.last - one.first for one in lab.session.of(m.RequestLabels)) == 1
            assert [one.count for one in lab.session.of(m.RequestZoneStatus)] == [128, 127]

    run(conversation())


def test_a_panel_without_labels_has_all_its_zones(run):
    """Zones without names are better than none."""

    async def conversation():
        lab = HubLab()
        lab.session.zone_labels = {}
        async with running(lab):
            assert sorted(lab.panel.state.zones) == list(range(1, 9))

    run(conversation())


def test_the_settings_say_what_is_there(run):
    """For panels that name all 128 zones."""

    async def conversation():
        lab = HubLab(
            PanelProfile(name="house", integration_id="123456789012", zones=(1, 5), partitions=(1, 2))
        )
        async with running(lab):
            assert sorted(lab.panel.state.zones) == [1, 5]
            assert sorted(lab.panel.state.partitions) == [1, 2]
            lab(m.ZoneLifestyle(zone=3, state=1))
            assert sorted(lab.panel.state.zones) == [1, 5]

    run(conversation())


def test_replayed_messages_are_events_and_change_nothing(run):
    """Fault 13: "stale replay flipped states"; they never act as live, not even on views."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            before = lab.panel.saved()
            lab.watcher.__init__()
            lab.session.asked.clear()
            events = lab(
                AWAY, m.ZoneLifestyle(zone=1, state=1), m.AlarmMemory(partition=1, flag=1), source="replay"
            )
            await lab.pass_s(5)
            assert [event.kind for event in events] == [Kind.ARMED, Kind.ZONE_OPENED, Kind.ALARM_MEMORY]
            assert all(event.source == "replay" and event.is_approximate for event in events)
            assert lab.panel.saved() == before
            assert lab.watcher.events == lab.watcher.changes == lab.session.asked == []
            event = lab.panel.take(AWAY, "replay", lab.wall_ms(), "2026-09-20T23:04:00")[0]
            assert event.panel_time == "2026-09-20T23:04:00"

    run(conversation())


def test_a_lost_panel_keeps_its_state_and_everything_is_stale(run):
    """Fault 28: "all state of a panel is deleted on disconnect (entities vanish instead of unavailable)"."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab(m.ZoneLifestyle(zone=1, state=1))
            lab.watcher.__init__()
            lab.panel.lost("silence")
            assert lab.panel.phase == "disconnected"
            assert lab.zone(1).open.value is True
            assert all(value.is_stale for _, value in values_of(lab.panel.state))
            assert lab.panel.state.is_stale.value is True
            assert [(one.scope, one.field, one.value.value) for one in lab.watcher.changes] == [
                ("panel", "is_stale", True)
            ]
            assert lab.watcher.kinds() == [Kind.DISCONNECTED]
            assert lab.stored[-1].detail == {"why": "silence"}
            await lab.pass_s(600)
            assert lab.session.asked == []

    run(conversation())


def test_what_is_the_same_after_an_outage_is_fresh_with_its_old_since(run):
    """A stale value that is confirmed is told again, as no longer stale; it is no event."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            since_ms = lab.zone(2).open.since_ms
            lab.panel.lost("silence")
            lab.clock.advance(60)
            lab.session.zones[1] = m.ZoneFlag.OPEN
            lab.panel.connected(lab.session)
            lab.watcher.__init__()
            await lab.panel.pull()
            assert not any(value.is_stale for _, value in values_of(lab.panel.state))
            assert lab.zone(2).open.since_ms == since_ms
            assert lab.zone(1).open == Value(True, lab.wall_ms(), "pull")
            again = [one for one in lab.watcher.changes if one.scope == "zone" and one.field == "open"]
            assert [(one.number, one.value.value) for one in again] == [(1, True), (2, False), (3, False)]
            assert [(one.kind, one.zone, one.is_approximate) for one in lab.watcher.events] == [
                (Kind.ZONE_OPENED, 1, True)
            ]

    run(conversation())


def test_the_state_survives_a_restart_stale(run):
    """The issue, point 3."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab.session.partitions[1] = IN_ALARM
            lab.session.zones[2] = m.ZoneFlag.ALARM
            lab(AWAY)
            await lab.settle()
            data = lab.panel.saved()
        fresh = HubLab()
        assert fresh.panel.restore(data)
        assert fresh.partition().status == Value(
            Status.TRIGGERED, lab.partition().status.since_ms, "pull", is_stale=True
        )
        assert fresh.partition().alarm_zones.value == (2,)
        assert fresh.partition().changed_by.value.label == "Anna"
        assert fresh.panel.state.user_labels[2].value == "Anna"
        assert all(value.is_stale for _, value in values_of(fresh.panel.state))
        assert fresh.panel.state.is_stale.value is True
        assert fresh.watcher.configurations == 1
        assert fresh.panel.tracker.state is fresh.panel.state

    run(conversation())


def test_bytes_that_are_no_state_are_refused():
    """A damaged or foreign row of the history is no reason not to start."""
    lab = HubLab()
    data = lab.panel.saved()
    for bad in (b"", b"x", data[:-3], b"panel state 0\n" + data[14:], data[:20]):
        assert not lab.panel.restore(bad)
    assert lab.panel.state == PanelState()


def test_the_newest_session_wins_and_the_older_ones_end_means_nothing(run):
    """Fault 27: "later the first one's end unregisters it"."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            newer = FakeSession()
            lab.panel.connected(newer)
            lab.panel.lost("replaced", lab.session)
            assert lab.panel.session is newer
            await lab.panel.pull()
            assert lab.panel.phase == "connected"
            lab.panel.lost("gone", newer)
            assert lab.panel.phase == "disconnected"

    run(conversation())


def test_a_pull_that_is_not_answered_is_tried_again(run):
    """Fault 23: every wait ends; what is not known anew stays stale until it is."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab.panel.lost("silence")
            lab.panel.connected(lab.session)
            lab.session.refuse[m.Word.COMMAND_REQUEST] = [timed_out()]
            assert not await lab.panel.pull()
            assert lab.panel.phase == "connected"
            assert lab.panel.state.is_stale.value is True
            assert len(lab.emitted(PULL_INCOMPLETE)) == 1
            await lab.pass_s(16)
            assert lab.panel.state.is_stale.value is False

    run(conversation())


@pytest.mark.parametrize(
    ("hint", "asked"),
    [
        (m.EntryDelay(partition=1, flags=0x81, seconds=30), [1]),
        (m.AlarmMemory(partition=1, flag=1), [1]),
        (m.AlarmMemory(partition=0, flag=1), [1]),
        (m.AlarmMemory(partition=1, flag=0), []),
        (m.EntryDelay(partition=99, flags=0x81, seconds=30), []),
        (AWAY, []),
    ],
)
def test_where_a_replay_tells_of_an_alarm_the_panel_is_asked_that_first(run, hint, asked):
    """Section 9.2: an entry delay and alarm memory are all that is told of an alarm; it may still go on."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab.panel.lost("silence")
            lab.panel.connected(lab.session)
            lab.session.asked.clear()
            lab(hint, source="replay")
            await lab.panel.pull()
            before = [type(one) for one in lab.session.asked].index(m.RequestCapabilities)
            first = lab.session.asked[:before]
            assert [one.partition for one in first if isinstance(one, m.RequestPartitionStatus)] == asked
            assert any(isinstance(one, m.RequestZoneStatus) for one in first) == bool(asked)

    run(conversation())


def test_statuses_are_read_regularly(run):
    """Section 14 rule 9: "there is no live message for tamper/low battery/alarm known"; the first time is sooner."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            await lab.pass_s(149)
            assert lab.session.asked == []
            await lab.pass_s(151)
            assert [type(one) for one in lab.session.asked] == [m.RequestPartitionStatus, m.RequestZoneStatus]
            lab.session.asked.clear()
            await lab.pass_s(300)
            assert len(lab.session.asked) == 2

    run(conversation())


def test_panels_that_came_together_are_not_all_asked_together(run):
    """500 panels that come back after a restart: their questions are spread over half the time between two."""

    async def conversation():
        lab = HubLab()
        sessions = []
        async with running(lab, is_connected=False):
            for number in range(40):
                panel = lab.hub.add(PanelProfile(name=f"p{number}", integration_id=f"{7 * number:012}"))
                sessions.append(FakeSession())
                panel.connected(sessions[-1])
                await panel.pull()
            await lab.settle()
            asked = []
            for _ in range(32):
                for session in sessions:
                    session.asked.clear()
                await lab.pass_s(10)
                asked.append(sum(bool(session.of(m.RequestZoneStatus)) for session in sessions))
            assert not any(asked[:14])
            assert sum(asked) == 40
            assert max(asked) < 12

    run(conversation())


def test_an_alarm_is_watched_until_it_is_over(run):
    """No message tells of the siren's end, nor of a zone's."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            lab.session.partitions[1] = IN_ALARM
            lab(m.AlarmMemory(partition=1, flag=1))
            await lab.settle()
            assert lab.partition().status.value == Status.TRIGGERED
            lab.session.partitions[1] = ARMED_AWAY
            await lab.pass_s(5)
            assert lab.partition().status.value == Status.ARMED_AWAY
            assert Kind.SIREN_ENDED in lab.watcher.kinds()
            lab.session.asked.clear()
            await lab.pass_s(60)
            assert lab.session.asked == []

    run(conversation())


def test_a_storm_of_hints_is_one_question_a_second(run):
    """``pull_pause_s``: a chattering panel gets no flood back, and the last word is not missed."""

    async def conversation():
        lab = HubLab()
        async with running(lab):
            for _ in range(100):
                lab(m.TroubleStatus(partition=1, flag=1))
                await lab.settle()
            assert len(lab.session.of(m.RequestPartitionStatus)) == 1
            await lab.pass_s(1)
            assert len(lab.session.of(m.RequestPartitionStatus)) == 2
            await lab.pass_s(10)
            assert len(lab.session.of(m.RequestPartitionStatus)) == 2

    run(conversation())


def test_partitions_and_zones_vanish_with_the_configuration(run):
    """The issue, point 6: "entities appear and vanish with the panel's configuration"."""

    async def conversation():
        lab = HubLab()
        lab.session.partitions[2] = READY
        async with running(lab):
            assert sorted(lab.panel.state.partitions) == [1, 2]
            lab.panel.lost("gone")
            lab.session.partitions[2] = bytes(2)
            lab.session.zones = dict.fromkeys((1, 2), 0)
            await lab.panel_back()
            assert sorted(lab.panel.state.partitions) == [1]
            assert sorted(lab.panel.state.zones) == [1, 2]
            gone = [(one.scope, one.number) for one in lab.watcher.changes if one.value is None]
            assert gone == [("zone", 3), ("partition", 2)]
            assert lab.watcher.configurations == 1

    run(conversation())


def test_programming_that_nobody_owns_is_left_when_a_panel_connects(run):
    """Section 12: "on reconnect with status bit 08 set and no local owner, send 0701"."""

    async def conversation():
        lab = HubLab()
        lab.session.partitions[1] = bytes((m.PartitionFlag.NOT_READY, m.PartitionFlag2.PROGRAMMING))
        async with running(lab, is_connected=False):
            lab.panel.connected(lab.session)
            await lab.panel.pull()
            assert [one.partition for one in lab.session.of(m.ExitConfiguration)] == [1]

    run(conversation())


def test_a_view_that_fails_keeps_nothing_from_the_others(run):
    """A bug in one interface reaches neither the panel nor the other interfaces."""

    class Broken(Watcher):
        def changed(self, *_):
            raise KeyError("a bug")

    async def conversation():
        lab = HubLab()
        last = Watcher()
        lab.hub.subscribe(Broken())
        lab.hub.subscribe(last)
        async with running(lab):
            lab(m.ZoneLifestyle(zone=1, state=1))
            assert last.changes[-1].field == "open"
            assert lab.emitted(VIEW_FAILED)[-1] == ("house", "Broken", "KeyError")
            lab.hub.unsubscribe(last)
            last.__init__()
            lab(m.ZoneLifestyle(zone=1, state=0))
            assert last.changes == []

    run(conversation())


def test_a_bug_in_the_work_of_one_panel_ends_nothing_else(run):
    """The hub's task goes on, and so do the next questions."""

    async def conversation():
        lab = HubLab()
        async with running(lab):

            def bug(_command):
                raise ZeroDivisionError

            lab.session.on_command = bug
            lab(m.TroubleStatus(partition=1, flag=1))
            await lab.settle()
            outcome = await lab.panel.carry_out(Refresh(), ADMIN, "1")
            assert (outcome.result, outcome.reason) == ("unknown", "internal error of the gateway")
            assert set(lab.emitted(WORK_FAILED)) == {("house", "refresh", "ZeroDivisionError")}
            assert lab.emitted(COMMAND_FAILED) == [("house", "refresh", "ZeroDivisionError")]
            lab.session.on_command = None
            assert (await lab.panel.carry_out(Refresh(), ADMIN, "2")).result == "accepted"

    run(conversation())


def test_questions_wait_for_commands_and_commands_go_between_questions(run):
    """One thing at a time; a disarming does not wait for a whole refresh."""

    async def conversation():
        lab = HubLab()
        lab.session.max_partitions = 8
        lab.session.partitions = dict.fromkeys(range(1, 9), READY)
        async with running(lab):
            lab.session.gate = asyncio.Event()
            lab.clock.advance(301)
            await lab.settle()
            assert len(lab.session.asked) == 1
            task = asyncio.get_running_loop().create_task(
                lab.panel.carry_out(DisarmPartition(1, lab.code("5678")), ADMIN, "1")
            )
            await lab.settle()
            lab.session.gate.set()
            assert (await task).result == "accepted"
            assert lab.session.words.index(m.Word.DISARM) == 1

    run(conversation())


def test_a_panel_with_other_settings_is_the_same_panel():
    """A reload keeps the state; another id under the same name is another panel."""
    lab = HubLab()
    lab(m.ZoneLifestyle(zone=1, state=1))
    same = lab.hub.add(PanelProfile(name="house", integration_id="123456789012", zones=(1,)))
    assert same is lab.panel
    assert same.settings.zones == (1,)
    other = lab.hub.add(PanelProfile(name="house", integration_id="123456789013"))
    assert other is not lab.panel
    assert lab.hub.by_id == {"123456789013": other}
    lab.hub.remove("house")
    assert lab.hub.panels == lab.hub.by_id == {}


def test_a_diagnosis_is_told_once():
    """Views show the doctor's sentence."""
    lab = HubLab()
    lab.panel.diagnosis = "compare [851][700]"
    lab.panel.diagnosis = "compare [851][700]"
    assert lab.watcher.phases == ["disconnected"]


def test_a_whole_panel_is_small():
    """The issue: at most 40 KiB per panel; equal values of one moment are one object."""
    lab = HubLab()
    lab.panel.learn(m.SystemCapabilities(zones=128, users=95, partitions=8, fobs=0, tags=0, outputs=0))
    for zone in range(1, 129):
        lab(m.ZoneLifestyle(zone=zone, state=0))
    lab.panel.learn(m.ZoneStatus(first=1, statuses=(0,) * 128))
    distinct = {
        id(value)
        for zone in lab.panel.state.zones.values()
        for value in (zone.tamper, zone.fault, zone.alarm)
    }
    assert len(distinct) == 1
    lab.panel.lost("gone")
    lab.panel.connected(lab.session)
    distinct = {
        id(value)
        for zone in lab.panel.state.zones.values()
        for value in (zone.tamper, zone.fault, zone.alarm)
    }
    assert len(distinct) == 1
    assert len(lab.panel.saved()) < 4_096
