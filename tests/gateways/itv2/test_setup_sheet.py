"""The set-up sheet: the sections of each integration group, and ``sojourn itv2 setup-sheet``."""

from __future__ import annotations

import re

import pytest
from itv2_lab import ID, TYPE_2
from typer.testing import CliRunner

from sojourn.cli.main import app
from sojourn.gateways.itv2.sections import sections_of
from sojourn.gateways.itv2.setup_sheet import Place, markdown, rows_of

TABLE = {
    1: (422, 423, 425, 426, 428, 429, 431, 700, 691, 434, 449),
    2: (422, 450, 452, 453, 455, 456, 458, 701, 692, 461, 476),
    3: (422, 477, 479, 480, 482, 483, 485, 702, 693, 488, 503),
    4: (422, 504, 506, 507, 509, 510, 512, 703, 694, 515, 530),
}
"""itv2-protocol.md section 1.1, its rows as columns."""


@pytest.mark.parametrize("group", TABLE)
def test_the_sections_are_those_of_the_manual(group):
    """Section 1.1."""
    s = sections_of(group)
    found = (
        *(
            s.integration_id,
            s.type1_code,
            s.options,
            s.polling,
            s.server_address,
            s.server_port,
            s.server_name,
        ),
        *(s.type2_code, s.notifications, s.zones),
    )
    numbers = tuple(int(one) for text in found for one in re.findall(r"\[(\d+)\]", text.replace("[851]", "")))
    assert numbers == TABLE[group]


def test_an_address_is_written_as_keypads_take_it_and_a_port_in_hex():
    """Section 1.1: address and name must not both be set."""
    rows = {row.section: row.enter for row in rows_of(sections_of(2), Place("192.0.2.7", 3072))}
    assert rows["[851][455]"] == "192.000.002.007"
    assert rows["[851][456]"] == "0C00"
    assert rows["[851][458]"] == "(empty)"
    rows = {row.section: row.enter for row in rows_of(sections_of(), Place("alarm.example.net", 3073))}
    assert rows["[851][428]"] == "000.000.000.000"
    assert rows["[851][429]"] == "0C01"
    assert rows["[851][431]"] == "alarm.example.net"


def test_type_1_leaves_bit_4_off():
    """Section 1.1: a panel whose bit and code do not fit each other fails in the handshake."""
    type_1 = {row.section: row.enter for row in rows_of(sections_of(), Place("h"), has_type_1=True)}
    type_2 = {row.section: row.enter for row in rows_of(sections_of(), Place("h"))}
    assert (type_1["[851][425]"], type_2["[851][425]"]) == ("--3-5---", "--345---")
    assert "[851][423]" in type_1
    assert "[851][423]" not in type_2


def test_firmware_4_1_has_other_sections():
    """Section 1.1, last paragraph but one."""
    sections = [row.section for row in rows_of(sections_of(firmware="4.1"), Place("h"))]
    assert sections[:5] == ["[851][651]", "[851][652]", "[851][664]", "[851][693]", "[851][697]"]


def test_the_command_prints_a_configured_panels_sheet(tmp_path):
    """The issue: ``sojourn itv2 setup-sheet``; no code is on it."""
    config = tmp_path / "sojourn.toml"
    config.write_text(
        f'[itv2]\npublic_address = "192.0.2.10"\n[[itv2.panels]]\nname = "house"\nintegration_id = "{ID}"\n'
        f'type2_code = "{TYPE_2}"\nintegration_group = 3\n'
    )
    result = CliRunner().invoke(
        app, ["itv2", "setup-sheet", "house", "--format", "markdown", "--config", str(config)]
    )
    assert result.exit_code == 0
    assert "| [851][482] | Server address | `192.000.002.010` | 192.0.2.10 |" in result.output
    assert TYPE_2 not in result.output
    table = CliRunner().invoke(app, ["itv2", "setup-sheet", "--group", "2", "--config", str(config)])
    assert "[851][455]" in table.output
    assert "3072" in table.output
    wrong = CliRunner().invoke(app, ["itv2", "setup-sheet", "barn", "--config", str(config)])
    assert wrong.exit_code == 1
    assert "no panel is named 'barn'" in wrong.output


def sheet(tmp_path, text, *arguments):
    config = tmp_path / "sojourn.toml"
    config.write_text(text)
    return CliRunner().invoke(app, ["itv2", "setup-sheet", "--config", str(config), *arguments])


def test_an_address_that_no_panel_can_reach_is_told_with_what_to_set(tmp_path):
    """A first configuration listens on loopback: its sheet would send the installer for nothing."""
    loopback = '[[itv2.listeners]]\naddress = "127.0.0.1:3072"\n'
    told = sheet(tmp_path, loopback)
    assert told.exit_code == 0
    assert "no panel can reach 127.0.0.1" in told.stderr
    assert "public_address" in told.stderr
    assert "no panel can reach" not in sheet(tmp_path, loopback, "--address", "192.0.2.7").stderr
    assert (
        "no panel can reach"
        not in sheet(tmp_path, f'[itv2]\npublic_address = "192.0.2.7"\n{loopback}').stderr
    )
    assert [Place(host).is_loopback for host in ("localhost", "::1", "127.9.9.9", "panels.example")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_sheet_can_be_printed():
    """Markdown: a heading and a table."""
    text = markdown("Group 1", tuple(rows_of(sections_of(), Place("192.0.2.7"))))
    assert text.startswith("# Group 1\n\n| section | what | enter | remarks |\n|---|---|---|---|\n")
