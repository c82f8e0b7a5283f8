"""Captures that the daemon writes: anonymised files within bounds, which disturb nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from itv2_lab import ID, SERVER_RANDOM, TYPE_2, Lab, ScriptedPanel, itv2_lab, panel_settings

from sojourn.config.soundness_itv2 import file_problems
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.capture import CapturingCodec, read_packet
from sojourn.gateways.itv2.config import CaptureSettings, Itv2Settings
from sojourn.gateways.itv2.wire import TLinkFraming
from sojourn.testing.capture import read_capture, replay

OTHER_ID = "210987654321"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "captures"
    place.mkdir()
    yield place
    place.chmod(0o700)


def capturing(folder: Path, **fields: Any) -> CaptureSettings:
    return CaptureSettings(directory=str(folder), **fields)


def captures(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def said(file: Path) -> list[tuple[str, m.Packet]]:
    """Who said what, as the codec reads it."""
    found: list[tuple[str, m.Packet]] = []
    for one in replay(read_capture(file), TLinkFraming, read_packet):
        assert isinstance(one.message, m.Packet), one
        found.append((one.direction, one.message))
    return found


async def hangs_up(lab: Lab, panel: ScriptedPanel) -> None:
    panel.writer.close()
    await lab.settle()


def test_without_the_table_no_connection_is_captured(run, tmp_path):
    """Off by default."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            await lab.connected()
            assert not isinstance(lab.session.codec, CapturingCodec)

    run(conversation())


def test_a_session_is_in_its_file_from_the_first_packet_on_and_tells_nothing_of_the_panel(
    run, tmp_path, folder
):
    """users-and-history section 6, number 8: it decodes, in clear, and ids, names and keys are others."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder)) as lab:
            panel = await lab.connected()
            panel.say(m.Text(text="Front Door"))
            await panel.acknowledged()
            (file,) = captures(folder)
            kinds = [(way, type(packet.message)) for way, packet in said(file)]
            assert kinds[:2] == [("in", m.OpenSession), ("out", m.CommandResponse)]
            assert ("in", m.RequestAccess) in kinds
            assert kinds[-2:] == [("in", m.Text), ("out", m.SimpleAck)]
            text = file.read_text().lower()
            for secret in (
                ID.encode(),
                SERVER_RANDOM,
                bytes.fromhex(TYPE_2),
                "Front Door".encode("utf-16-be"),
            ):
                assert secret.hex() not in text
            assert "house" not in file.name
            assert ID not in file.name

    run(conversation())


def test_only_its_user_may_read_a_capture(run, tmp_path, folder):
    """An anonymised capture still tells when doors were opened."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder)) as lab:
            await lab.connected()
            (file,) = captures(folder)
            assert file.stat().st_mode & 0o777 == 0o600

    run(conversation())


def test_each_connection_has_a_file_and_one_that_says_nothing_has_none(run, tmp_path, folder):
    """Port scans leave no files."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder)) as lab:
            silent = await lab.dial()
            await hangs_up(lab, silent)
            assert captures(folder) == []
            for _ in range(2):
                await hangs_up(lab, await lab.connected())
            assert len(captures(folder)) == 2

    run(conversation())


def test_only_the_named_panels_are_captured(run, tmp_path, folder):
    """A site with many panels looks at the one that makes trouble."""

    async def conversation():
        async with itv2_lab(
            tmp_path,
            has_pull=False,
            panels=(panel_settings(), panel_settings(name="barn", integration_id=OTHER_ID)),
            capture=capturing(folder, panels=("barn",)),
        ) as lab:
            await lab.connected()
            assert captures(folder) == []
            await lab.connected(header=OTHER_ID.encode())
            assert len(captures(folder)) == 1

    run(conversation())


def test_panels_that_are_not_there_cannot_be_captured() -> None:
    """A name that is written wrongly would capture nothing."""
    settings = Itv2Settings(
        panels=(panel_settings(),), capture=CaptureSettings(directory="x", panels=("hose",))
    )
    assert list(settings.problems()) == [("capture.panels", "'hose'", "names of panels")]


def test_the_folder_must_be_there(tmp_path, folder):
    """``sojourn check`` says so; a daemon would say it at the first packet."""
    for place, problems_count in ((folder, 0), (tmp_path / "gone", 1)):
        found = list(file_problems(Itv2Settings(panels=(panel_settings(),), capture=capturing(place))))
        assert len(found) == problems_count
        assert all(one.key == "directory" for one in found)


def test_the_oldest_files_make_room(run, tmp_path, folder):
    """Bounds: files_count files, none older than keep_days; files of others stay."""

    async def conversation():
        other = folder / "notes.txt"
        other.touch()
        async with itv2_lab(
            tmp_path, has_pull=False, capture=capturing(folder, files_count=2, keep_days=1.0)
        ) as lab:
            now_s = lab.gateway.wall_ms() / 1000
            for name, age_s in (("itv2-a.jsonl", 90_000), ("itv2-b.jsonl", 300), ("itv2-c.jsonl", 200)):
                (folder / name).touch()
                os.utime(folder / name, (now_s - age_s, now_s - age_s))
            await lab.connected()
            names = [file.name for file in captures(folder)]
            assert len(names) == 3
            assert {"itv2-c.jsonl", "notes.txt"} < set(names)

    run(conversation())


def test_a_file_that_would_get_too_long_ends_and_the_panel_is_served(run, tmp_path, folder):
    """Bound: file_bytes."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder, file_bytes=65_536)) as lab:
            panel = await lab.connected()
            for _ in range(400):
                panel.say(m.Text(text="x" * 100))
                await panel.acknowledged()
            (file,) = captures(folder)
            assert 60_000 < file.stat().st_size <= 65_536
            assert said(file)
            (told,) = lab.events("itv2.capture_failed")
            assert told["file"] == str(file)
            assert "65536" in told["cause"]

    run(conversation())


def test_a_folder_that_is_gone_is_told_once_and_the_panel_is_served(run, tmp_path, folder):
    """A capture must not disturb what it looks at."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder / "gone")) as lab:
            panel = await lab.connected()
            panel.say(m.Text(text="x"))
            await panel.acknowledged()
            (told,) = lab.events("itv2.capture_failed")
            assert "No such file" in told["cause"]

    run(conversation())


def test_a_file_that_was_deleted_does_not_come_back(run, tmp_path, folder):
    """What was deleted to make room would be back with whatever rights."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False, capture=capturing(folder)) as lab:
            panel = await lab.connected()
            captures(folder)[0].unlink()
            panel.say(m.Text(text="x"))
            await panel.acknowledged()
            assert captures(folder) == []
            assert len(lab.events("itv2.capture_failed")) == 1

    run(conversation())


def test_a_reload_begins_captures_of_new_connections_and_ends_those_of_old_ones(run, tmp_path, folder):
    """Nobody restarts a daemon to look at one panel."""

    async def conversation():
        async with itv2_lab(tmp_path, has_pull=False) as lab:
            settings = lab.gateway.config
            await lab.connected()
            lab.gateway.reload(Itv2Settings(panels=settings.panels, capture=capturing(folder)))
            panel = await lab.connected()
            (file,) = captures(folder)
            size_bytes = file.stat().st_size
            lab.gateway.reload(settings)
            panel.say(m.Text(text="x"))
            await panel.acknowledged()
            assert file.stat().st_size == size_bytes

    run(conversation())
