"""``sojourn itv2 history``, ``anonymise`` and ``replay``."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from history_lab import START_MS, event
from typer.testing import CliRunner, Result

from sojourn.cli.main import app
from sojourn.gateways.itv2.events import Kind
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.history.store import Batch, Store
from sojourn.gateways.itv2.messages import Packet, Poll
from sojourn.gateways.itv2.wire import encode_packet, encode_tlink, frame

VECTORS = Path(__file__).parent.parent / "gateways" / "itv2" / "itv2_vectors.json"


def itv2(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["itv2", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The history of a daemon that is running."""
    path = tmp_path / "itv2.sqlite3"
    store = Store(HistorySettings(file=str(path)))
    store.open()
    store.write(
        Batch(
            [
                event(at_ms=START_MS, zone=1, detail={"zone_label": "=Front"}),
                event("shop", START_MS + 1, Kind.ARMED, partition=1, user=2, detail={"user_label": "Ana"}),
                event(
                    at_ms=START_MS + 2,
                    kind=Kind.COMMAND,
                    detail={"asker": "phone", "result": "accepted\x1b[2J"},
                ),
            ]
        )
    )
    yield path
    store.close()


@pytest.fixture
def kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host whose clocks are 5:45 h ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("kathmandu")
def test_the_table_has_names_and_no_terminal_controls(file: Path) -> None:
    """A label or a reason may come from outside; times are those of --since, with their offset."""
    result = itv2("history", "--file", file)
    assert result.exit_code == 0, result.output
    newest, middle, oldest = result.stdout.splitlines()[1:]
    assert "accepted" in newest
    assert "\x1b" not in newest
    assert "2 Ana" in middle
    assert "2026-01-01 05:45:00.000+05:45" in oldest
    assert "1 =Front" in oldest


def test_the_table_tells_details_in_words(tmp_path: Path) -> None:
    """What is empty is not told; yes and no are words."""
    path = tmp_path / "itv2.sqlite3"
    store = Store(HistorySettings(file=str(path)))
    store.open()
    detail = {
        "result": "accepted",
        "reason": "",
        "mode": "away",
        "is_open": False,
        "is_forced": True,
        "drift_s": 0,
    }
    store.write(Batch([event(kind=Kind.COMMAND, detail=detail)]))
    store.close()
    result = itv2("history", "--file", path)
    words = "result accepted, mode away, is open no, is forced yes, drift s 0"
    assert result.stdout.splitlines()[1].endswith(words)
    exported = itv2("history", "--file", path, "--format", "jsonl")
    assert json.loads(exported.stdout)["detail"] == detail
    assert json.loads(exported.stdout)["time"].endswith("Z")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--since", "2026-01-01T00:00:00.001+00:00"], 2),
        (["--until", "2026-01-01T00:00:00.001Z"], 1),
        (["--since", "0s"], 0),
        (["--zone", "1"], 1),
        (["--zone", "=front"], 1),
        (["--user", "ana"], 1),
        (["--user", "2", "--partition", "1"], 1),
        (["--kind", "armed", "--kind", "zone_opened"], 2),
        (["--panel", "shop"], 1),
        (["--asker", "phone"], 1),
        (["--source", "replay"], 0),
    ],
)
def test_a_search_by_what_people_remember(file: Path, options: list[str], count: int) -> None:
    """Numbers or names; ages or times."""
    result = itv2("history", "--file", file, "--format", "jsonl", *options)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == count


def test_the_export_is_csv_that_spreadsheets_may_open(file: Path) -> None:
    """The oldest in front, if one wants that; no formulas."""
    result = itv2("history", "--file", file, "--format", "csv", "--oldest-first")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["panel"] for row in rows] == ["house", "shop", "house"]
    assert rows[0]["zone_label"] == "'=Front"


def test_more_than_fits_is_told(file: Path) -> None:
    """Nobody should take a page for everything."""
    result = itv2("history", "--file", file, "--limit", 2)
    assert len(result.stdout.splitlines()) == 3
    assert "there is more" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--since", "yesterday"], "wanted an age such as 6h"),
        (["--kind", "explosion"], "zone_opened"),
    ],
)
def test_a_bad_option_is_told_with_what_is_wanted(file: Path, options: list[str], words: str) -> None:
    """Exit code 2."""
    result = itv2("history", "--file", file, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_no_history_is_one_line(tmp_path: Path) -> None:
    """And no traceback."""
    result = itv2("history", "--file", tmp_path / "none")
    assert result.exit_code == 1
    assert "there is no such file" in result.stderr
    assert "Traceback" not in result.output


def capture(path: Path, *wires: str) -> Path:
    lines = [json.dumps({"at_s": n, "direction": "in", "hex": wire}) for n, wire in enumerate(wires)]
    path.write_text("\n".join(lines))
    return path


def test_a_capture_is_anonymised_and_then_replayed(tmp_path: Path) -> None:
    """From what was on the wire to what a bug report may have."""
    vector = next(one for one in json.loads(VECTORS.read_text())["vectors"] if one["id"] == "V64")
    lines = [
        {"at_s": n, "direction": "in" if step["from"] == "panel" else "out", "hex": step["wire"]}
        for n, step in enumerate(vector["expect"]["steps"])
    ]
    raw, code, clear = (tmp_path / name for name in ("raw", "code", "clear"))
    raw.write_text("\n".join(map(json.dumps, lines)))
    code.write_text(vector["input"]["type2_access_code"])
    result = itv2("anonymise", raw, "--key-file", code)
    assert result.exit_code == 0, result.output
    assert b"123456789012".hex() not in result.stdout
    clear.write_text(result.stdout)
    result = itv2("replay", clear)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == len(lines) + 1
    assert "RequestAccess" in result.stdout


def test_what_can_not_be_read_makes_an_exit_code(tmp_path: Path) -> None:
    """For scripts that look through captures."""
    good = encode_tlink(b"1", frame(encode_packet(Packet(0, 0, Poll())))).hex()
    bad = encode_tlink(b"1", frame(bytes.fromhex("00000239"))).hex()
    result = itv2("replay", capture(tmp_path / "capture", good, bad))
    assert result.exit_code == 1
    assert "1 of 2 packets could not be read" in result.stderr
    result = itv2("anonymise", capture(tmp_path / "capture", good, "7f31327e04017f"))
    assert result.exit_code == 1


def test_several_captures_are_replayed_each_under_its_name(tmp_path: Path) -> None:
    """Whoever has a folder of them; one that cannot be read is named."""
    good = encode_tlink(b"1", frame(encode_packet(Packet(0, 0, Poll())))).hex()
    bad = encode_tlink(b"1", frame(bytes.fromhex("00000239"))).hex()
    fine, worse = capture(tmp_path / "fine", good), capture(tmp_path / "worse", good, bad)
    result = itv2("replay", fine, worse, fine)
    assert result.exit_code == 1
    heads = [line for line in result.stdout.splitlines() if line.endswith(":")]
    assert heads == [f"{fine}:", f"{worse}:", f"{fine}:"]
    assert f"1 of 2 packets could not be read in {worse}" in " ".join(result.stderr.split())
    assert itv2("replay", fine, fine).exit_code == 0
