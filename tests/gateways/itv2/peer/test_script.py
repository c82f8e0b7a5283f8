"""Scripts and orders: what is understood, what is done, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.core.secret import Secret
from sojourn.errors import ConfigError
from sojourn.gateways.itv2.messages import Arming, ArmingMode
from sojourn.gateways.itv2.peer import Fault, PanelIdentity, SimulatedPanel
from sojourn.gateways.itv2.peer.orders import KINDS, Misread, read_order
from sojourn.gateways.itv2.peer.script import (
    SHIPPED,
    find_script,
    load_script,
    play,
    read_script,
    shipped_scripts,
)
from sojourn.gateways.itv2.peer.zones import NEVER

IDENTITY = PanelIdentity("123456789012", 2, Secret("12345678"), Secret("0" * 32))


def panel() -> SimulatedPanel:
    return SimulatedPanel(IDENTITY, "127.0.0.1", 9, seed=1)


def done(one: SimulatedPanel, *orders: str) -> list[str]:
    said = []
    for text in orders:
        order = read_order(text, zones_count=16, partitions_count=1)
        assert not isinstance(order, Misread), order
        said.append(order.do(one))
    return said


def test_orders_are_plain_words() -> None:
    """Small words may be left out."""
    one = panel()
    assert done(one, "open zone 3", "OPEN 4", "close 4", "power trouble", "tamper 5") == [""] * 5
    house = one.house
    assert [zone.number for zone in house.zones.values() if zone.is_open] == [3]
    assert not house.has_power
    assert house.zones[5].has_tamper


def test_people_arm_and_disarm_with_codes() -> None:
    """Who has the code is who did it."""
    one = panel()
    assert done(one, "arm away code 9999", "arm away 2345") == ["nobody has this code", ""]
    first = one.outbox.take().message
    assert isinstance(first, Arming)
    assert (first.mode, first.user) == (ArmingMode.AWAY, 2)
    assert done(one, "arm stay", "disarm 1111", "disarm 1234") == [
        "not ready, or armed already",
        "nobody has this code",
        "",
    ]
    assert not one.house.partitions[1].is_armed


def test_faults_have_names() -> None:
    """Section 13, point 7: each of them can be ordered."""
    for fault in Fault:
        assert not isinstance(read_order(f"fault {fault}", zones_count=1, partitions_count=1), Misread)
    one = panel()
    done(one, "wrong crc 2 times")
    assert [one.faults.take(Fault.WRONG_CRC) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "found", "wanted"),
    [
        ("opne 3", "'opne'", "open ZONE"),
        ("open the door", "'open' with something else behind it", "open ZONE"),
        ("open 17", "zone 17", "1 to 16"),
        ("arm away partition 2", "partition 2", "1 to 1"),
        ("fault nothing", "'fault'", "one of: split writes"),
        ("", "no order", "one of: "),
        ("dance", "'dance'", "one of: "),
    ],
)
def test_a_misread_order_says_what_was_wanted(text: str, found: str, wanted: str) -> None:
    """One line, with the next step in it."""
    misread = read_order(text, zones_count=16, partitions_count=1)
    assert isinstance(misread, Misread)
    assert misread.found == found
    assert misread.wanted.startswith(wanted)


@pytest.mark.parametrize("text", ["disarm 1234 now", "1234", "disrm 1234", "arm away 1234 please"])
def test_a_misread_order_does_not_repeat_codes(text: str) -> None:
    """House rule: codes are not shown."""
    assert "1234" not in repr(read_order(text, zones_count=16, partitions_count=1))


def test_every_kind_of_order_has_a_usage_of_its_own() -> None:
    """They are what a person is shown."""
    assert len({kind.usage for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("name", shipped_scripts())
def test_the_shipped_scripts_are_right(name: str) -> None:
    """Each within a minute at its own speed."""
    script = load_script(find_script(name))
    assert script.title
    assert 0 < script.length_s / script.speed <= 60


def test_scripts_are_found_by_name() -> None:
    """With or without suffix; a file of one's own goes first."""
    assert find_script("a_day") == find_script("a_day.toml") == SHIPPED / "a_day.toml"
    with pytest.raises(ConfigError, match=r"wanted a file, or one of: a_day.toml, burglary.toml"):
        find_script("nowhere.toml")


def test_every_mistake_is_told_with_its_line() -> None:
    """One line each: where, what was found, what was wanted."""
    text = """
speed = 0
[panel]
zones = 4
[[step]]
at = 5
do = "open zone 5"
[[step]]
at = 3
do = ["restore 1", "opn 2"]
"""
    with pytest.raises(ConfigError) as told:
        read_script(text, "my.toml")
    assert str(told.value).splitlines() == [
        "my.toml:2: speed: found 0, wanted 0.01 to 10000",
        "my.toml:9: step[1].at: found 3, wanted 5 or later",
        "my.toml:7: step[0].do: found zone 5, wanted 1 to 4",
        "my.toml:10: step[1].do: found 'opn', wanted open ZONE",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[step]]\nat = 'soon'\n", "s:2: step[0].at: found text, wanted a number"),
        ("[[step]]\ndo = 'open 1'\n", "s:1: step[0].at: found nothing, wanted a value"),
        ("[panel]\nzone = 3\n", "s:2: panel.zone: found an unknown key, wanted one of: zones, "),
        (
            "[[step]]\nat = 1\n\n[[step]]\nat = 1\ndoo = 1",
            "s:6: step[1].doo: found an unknown key, wanted one of: at,",
        ),
        ("speed = \n", "s:1: : found invalid value, wanted TOML"),
        ("speed = 'x'\n", "s:1: speed: found text, wanted a number"),
    ],
)
def test_a_script_of_another_shape_is_told_with_its_line(text: str, line: str) -> None:
    """The same, for what is no order."""
    with pytest.raises(ConfigError) as told:
        read_script(text, "s")
    assert str(told.value).startswith(line)


def test_a_script_is_played_at_its_speed(run, tmp_path: Path) -> None:
    """In order; what it says is said, and what does not work too."""
    file = tmp_path / "mine.toml"
    file.write_text(
        """
[[step]]
at = 100
do = "open zone 5"
say = "a window"
[[step]]
at = 200
do = ["arm away", "close zone 5"]
"""
    )
    script = load_script(file)
    said: list[str] = []

    async def main() -> None:
        one = SimulatedPanel(IDENTITY, "127.0.0.1", 9, speed=10_000.0)
        await play(one, script, said.append)
        assert one.now_s() >= 200
        assert said == ["a window", "arm: not ready, or armed already"]
        assert not one.house.zones[5].is_open
        assert one.house.deadline_s < NEVER

    run(main())


def test_an_order_reaches_the_outbox() -> None:
    """What a server will be told."""
    one = panel()
    done(one, "open 5")
    assert len(one.outbox) in {1, 2}
