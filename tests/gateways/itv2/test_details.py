"""What the settings say of zones and partitions: names and whereabouts that a panel does not tell."""

from __future__ import annotations

import msgspec
from itv2_hub_lab import ADMIN, IN_ALARM, READY, HubLab, running

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Rejected
from sojourn.gateways.itv2.commands import ReadSections
from sojourn.gateways.itv2.hub_config import PanelProfile, PartitionDetails, ZoneDetails

PROFILE = PanelProfile(
    name="house",
    integration_id="123456789012",
    installer_code=Secret("1234"),
    zone_details=(
        ZoneDetails(number=1, label="Main door", partitions=(1,)),
        ZoneDetails(number=2, partitions=(2,)),
        ZoneDetails(number=5, label="Loft", partitions=(2,), device_class="motion"),
    ),
    partition_details=(PartitionDetails(number=2, label="Annex"),),
)


def two_partitions(profile: PanelProfile = PROFILE) -> HubLab:
    lab = HubLab(profile)
    lab.session.partitions[2] = READY
    lab.session.partition_labels[2] = ""
    return lab


def names(lab: HubLab) -> dict[int, tuple[str, str]]:
    """The names of zones and where they are from."""
    return {
        number: (zone.label.value, zone.label.source)
        for number, zone in lab.panel.state.zones.items()
        if zone.label is not None
    }


def test_the_panels_own_names_go_first(run):
    """A name of the settings is for what has none in the panel; a zone that is named is there."""

    async def conversation():
        async with running(two_partitions()) as lab:
            assert names(lab) == {
                1: ("Front Door", "pull"),
                2: ("Hall", "pull"),
                3: ("Kitchen", "pull"),
                5: ("Loft", "settings"),
            }
            assert lab.partition(1).label.value == "House"
            assert lab.partition(2).label.value == "Annex"

    run(conversation())


def test_names_are_there_where_the_panel_tells_none_at_all(run):
    """Some refuse the question; then every zone is there, and those of the settings have their names."""

    async def conversation():
        lab = two_partitions()
        refusal = Rejected(m.NackCode.INVALID_COMMAND, is_nack=True)
        answer = lab.session.answer
        lab.session.answer = lambda command: (
            refusal if isinstance(command, m.RequestLabels) else answer(command)
        )
        async with running(lab):
            assert names(lab) == {1: ("Main door", "settings"), 5: ("Loft", "settings")}
            assert len(lab.panel.state.zones) == 8

    run(conversation())


def test_an_alarm_is_told_of_the_partition_that_the_zone_is_in(run):
    """Attribution without reading sections: the zone of the other partition is not behind this one's alarm."""

    async def conversation():
        async with running(two_partitions()) as lab:
            lab.session.zones[1] = lab.session.zones[5] = m.ZoneFlag.ALARM
            lab.session.partitions[2] = IN_ALARM
            lab(m.AlarmMemory(partition=2, flag=1))
            await lab.pass_s(2)
            assert lab.partition(2).alarm_zones.value == (5,)
            lab(m.ZoneLifestyle(zone=2, state=1))
            assert lab.watcher.events[-1].partition == 2

    run(conversation())


def test_sections_do_not_overrule_the_settings(run):
    """Where the operator says it, it stays; where nobody says it, programming does."""

    async def conversation():
        async with running(two_partitions()) as lab:
            lab.session.sections = {
                (1, 1): bytes([1] * 8),
                (200, 1): bytes([1, 1]),
                (201, 1): bytes([0b1111_1111]),
                (202, 1): bytes([0]),
            }
            outcome = await lab.panel.carry_out(ReadSections(), ADMIN, "1")
            assert (outcome.result, outcome.reason) == ("accepted", "")
            found = {number: zone.partitions.value for number, zone in lab.panel.state.zones.items()}
            assert (found[1], found[2], found[3], found[5]) == ((1,), (2,), (1,), (2,))

    run(conversation())


def test_what_the_settings_say_does_not_get_old(run):
    """A panel out of sight may have other statuses, but its zones are where they were."""

    async def conversation():
        async with running(two_partitions()) as lab:
            lab.panel.lost("silence")
            assert lab.zone(5).label.is_stale is False
            assert lab.zone(5).partitions.is_stale is False
            assert lab.zone(1).label.is_stale is True

    run(conversation())


def test_a_reload_brings_other_details(run):
    """Also for a panel that is out of sight; what the settings say no more is asked of the panel."""

    async def conversation():
        async with running(two_partitions()) as lab:
            details = (ZoneDetails(number=2, partitions=(1,)), ZoneDetails(number=5, label="Attic"))
            lab.hub.add(msgspec.structs.replace(PROFILE, zone_details=details, partition_details=()))
            assert lab.zone(2).partitions.value == (1,)
            assert (lab.zone(5).label.value, lab.zone(5).partitions) == ("Attic", None)
            assert lab.zone(1).partitions is None
            assert lab.zone(1).label.value == "Front Door"
            assert lab.partition(2).label is None
            assert lab.watcher.configurations == 1

    run(conversation())


def test_a_state_of_the_last_run_takes_the_details_of_this_one(run):
    """Whoever renames a zone and starts anew sees the new name before the panel is back."""

    async def conversation():
        async with running(two_partitions()) as lab:
            saved = lab.panel.saved()
        details = (ZoneDetails(number=5, label="Attic"),)
        again = HubLab(msgspec.structs.replace(PROFILE, zone_details=details))
        assert again.panel.restore(saved)
        assert again.zone(5).label.value == "Attic"
        assert again.zone(1).partitions is None

    run(conversation())


def test_device_classes_are_those_of_the_settings():
    """Home Assistant's; where nothing is said, the zone's definition is asked."""
    assert [PROFILE.device_class_of(zone) for zone in (1, 5, 9)] == ["", "motion", ""]
