"""The file sink on real files: whole lines or none, whatever disk, crash, logrotate and operators do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from sojourn.errors import BackendUnavailable
from sojourn.gateways.tacacs.accounting.files import FileLines
from sojourn.gateways.tacacs.accounting.sinks import Accounting
from sojourn.gateways.tacacs.config import Accounting as AccountingSettings
from sojourn.gateways.tacacs.config import FileSink


def ids_in(path: Path) -> list[str]:
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b"", "the last line is torn"
    return [msgspec.json.decode(line)["record_id"] for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "accounting.jsonl"


@pytest.fixture
def lines(path: Path):
    """An open sink that syncs each batch and never rotates."""
    path.parent.mkdir()
    sink = FileLines(FileSink(name="audit", path=str(path), rotate_bytes=0))
    sink.open()
    yield sink
    sink.close()


def test_each_record_is_one_line_that_only_we_may_read(lines: FileLines, path: Path, make_record) -> None:
    """Records tell who did what: mode 0600."""
    records = [make_record() for _ in range(3)]
    lines.store(records)
    lines.store(records[:1])
    assert ids_in(path) == [record.record_id for record in (*records, records[0])]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_of_a_line_is_moved_aside(lines: FileLines, path: Path, make_record) -> None:
    """A torn line was never acknowledged and must not swallow the next one."""
    lines.store([make_record()])
    lines.close()
    with path.open("ab") as file:
        file.write(b'{"record_id":"torn')
    lines.open()
    lines.store([make_record()])
    assert len(ids_in(path)) == 2
    torn = path.with_name("accounting.jsonl.torn")
    assert torn.read_bytes() == b'{"record_id":"torn\n'
    assert torn.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_nothing_but_a_torn_line_is_mended(path: Path, make_record) -> None:
    """The very first write may be the one that the crash cut."""
    path.parent.mkdir()
    path.write_bytes(b"x" * 200_000)
    sink = FileLines(FileSink(name="audit", path=str(path)))
    sink.store([make_record()])
    sink.close()
    assert len(ids_in(path)) == 1
    assert path.with_name("accounting.jsonl.torn").stat().st_size == 200_001


def test_a_file_that_was_moved_away_keeps_its_lines_and_gets_a_successor(
    lines: FileLines, path: Path, make_record
) -> None:
    """Logrotate renames and tells nobody."""
    lines.store([make_record()])
    path.rename(path.with_suffix(".1"))
    lines.store([make_record()])
    lines.store([make_record()])
    assert [len(ids_in(path.with_suffix(".1"))), len(ids_in(path))] == [2, 1]


def test_lines_that_went_down_with_a_deleted_file_are_written_again(
    lines: FileLines, path: Path, make_record
) -> None:
    """Stored means that somebody can read it."""
    lines.store([make_record()])
    path.unlink()
    record = make_record()
    lines.store([record])
    assert ids_in(path) == [record.record_id]


def test_a_deleted_directory_is_an_error_and_its_return_is_noticed(
    run, tmp_path: Path, make_record, alarms
) -> None:
    """ERROR to the device, an alarm for us, recovery without being told."""

    async def scenario() -> None:
        path = tmp_path / "mount" / "a.jsonl"
        path.parent.mkdir()
        settings = AccountingSettings(files=(FileSink(name="audit", path=str(path)),))
        async with Accounting(settings, on_alarm=alarms) as accounting:
            await accounting.store(make_record())
            shutil.rmtree(path.parent)
            with pytest.raises(BackendUnavailable, match="No such file"):
                await accounting.store(make_record())
            assert accounting.snapshot()[0].health == "down"
            path.parent.mkdir()
            await alarms.wait_for("audit", "available again")
            record = make_record()
            await accounting.store(record)
            assert ids_in(path) == [record.record_id]

    run(scenario())


def test_a_missing_directory_at_the_start_is_a_problem_of_this_sink_only(
    run, tmp_path: Path, make_record, alarms
) -> None:
    """The other sinks go on; the device is told that not all have stored."""

    async def scenario() -> None:
        good, bad = tmp_path / "good.jsonl", tmp_path / "missing" / "bad.jsonl"
        files = (FileSink(name="good", path=str(good)), FileSink(name="bad", path=str(bad)))
        async with Accounting(AccountingSettings(files=files), on_alarm=alarms) as accounting:
            assert alarms.heard == [("bad", "unavailable: No such file or directory")]
            with pytest.raises(BackendUnavailable):
                await accounting.store(make_record())
        assert len(ids_in(good)) == 1

    run(scenario())


@pytest.mark.usefixtures("lines")
def test_a_second_process_cannot_take_the_same_file(path: Path) -> None:
    """Two owners would cut off each other's lines when one of them rolls back."""
    other = FileLines(FileSink(name="other", path=str(path)))
    with pytest.raises(BackendUnavailable, match="in use"):
        other.open()


def test_only_a_regular_file_is_taken(tmp_path: Path) -> None:
    """A directory, a device or a pipe stores nothing that can be read again."""
    with pytest.raises(BackendUnavailable, match="regular"):
        FileLines(FileSink(name="null", path="/dev/null")).open()
    with pytest.raises(IsADirectoryError):
        FileLines(FileSink(name="directory", path=str(tmp_path))).open()


def test_files_are_rotated_by_size_and_only_the_newest_are_kept(path: Path, make_record) -> None:
    """Numbers grow, so that a rotation is one rename."""
    path.parent.mkdir()
    sink = FileLines(FileSink(name="audit", path=str(path), rotate_bytes=1, keep_files_count=2))
    records = [make_record() for _ in range(5)]
    for record in records:
        sink.store([record])
    sink.close()
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["accounting.jsonl", "accounting.jsonl.00000003", "accounting.jsonl.00000004"]
    kept = [ids_in(path.with_name(name))[0] for name in (*names[1:], names[0])]
    assert kept == [record.record_id for record in records[2:]]


def test_a_rotation_that_fails_is_a_warning_and_not_an_error(run, path: Path, make_record, alarms) -> None:
    """Growing beyond the limit is better than not storing."""
    blocker = path.with_name("accounting.jsonl.00000001")
    blocker.mkdir(parents=True)

    async def scenario() -> None:
        sink = FileSink(name="audit", path=str(path), rotate_bytes=1, keep_files_count=1)
        async with Accounting(AccountingSettings(files=(sink,)), on_alarm=alarms) as accounting:
            for _ in range(3):
                await accounting.store(make_record())
            assert accounting.snapshot()[0].warning.startswith("rotation failed")
            blocker.rmdir()
            await accounting.store(make_record())
        assert [what for _, what in alarms.heard][-1] == "warning cleared"
        assert len(alarms.heard) == 2

    run(scenario())


def test_a_change_of_settings_hands_the_file_over_without_losing_a_line(
    run, path: Path, make_record, alarms
) -> None:
    """Reload under load: the new sink opens the file only after the old one has let it go."""
    path.parent.mkdir()

    async def scenario() -> None:
        def settings(rotate_bytes: int) -> AccountingSettings:
            return AccountingSettings(
                files=(FileSink(name="audit", path=str(path), rotate_bytes=rotate_bytes),)
            )

        acknowledged = []
        is_over = False

        async def device(accounting: Accounting) -> None:
            while not is_over:
                record = make_record()
                await accounting.store(record)
                acknowledged.append(record.record_id)

        async with Accounting(settings(10**9), on_alarm=alarms) as accounting, asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(device(accounting))
            for change in range(1, 6):
                await accounting.reconfigure(settings(10**9 + change))
            is_over = True
        assert alarms.heard == []
        assert sorted(ids_in(path)) == sorted(acknowledged)
        assert len(acknowledged) > 10

    run(scenario())


FULL_DISK = """
    import asyncio, pathlib, resource, sys, uvloop
    from sojourn.gateways.tacacs.accounting import Accounting, RecordMaker
    from sojourn.gateways.tacacs.config import Accounting as Settings, FileSink
    from sojourn.gateways.tacacs.messages import AcctRequest
    from sojourn.errors import BackendUnavailable

    path, fsync, limit = pathlib.Path(sys.argv[1]), sys.argv[2], 3000
    request = AcctRequest(2, 6, 15, 1, 1, "ana", "tty1", "192.0.2.1", ("cmd=show",))
    maker, acknowledged, rung = RecordMaker("n"), [], []

    def make():
        return maker.make(request, device="d", device_address="::1", session_id=1)

    async def main():
        again = asyncio.Event()
        def alarm(sink, what):
            rung.append(what)
            if what == "available again":
                again.set()
        settings = Settings(files=(FileSink(name="audit", path=str(path), fsync=fsync),))
        async with Accounting(settings, on_alarm=alarm) as accounting:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            errors = 0
            while not errors:
                records = [make() for _ in range(3)]
                storing = [accounting.store(one) for one in records]
                done = await asyncio.gather(*storing, return_exceptions=True)
                errors += sum(isinstance(one, BackendUnavailable) for one in done)
                acknowledged.extend(a.record_id for a, outcome in zip(records, done) if outcome is None)
            size = path.stat().st_size
            assert size < limit, size
            assert path.read_bytes().endswith(b"\\n")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            await again.wait()
            record = make()
            await accounting.store(record)
            acknowledged.append(record.record_id)
        assert rung == ["unavailable: File too large", "available again"], rung
        print("\\n".join(acknowledged))

    uvloop.run(main())
"""


@pytest.mark.parametrize("fsync", ["batch", "never"])
def test_a_disk_that_fills_up_in_the_middle_of_a_batch_leaves_no_half_line(path: Path, fsync: str) -> None:
    """The kernel writes what fits and then refuses; RLIMIT_FSIZE makes it so without a full disk."""
    path.parent.mkdir()
    program = textwrap.dedent(FULL_DISK)
    command = [sys.executable, "-c", program, str(path), fsync]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert ids_in(path) == done.stdout.split()
    assert len(ids_in(path)) > 3


STORE_FOREVER = """
    import asyncio, os, sys, uvloop
    from sojourn.gateways.tacacs.accounting import Accounting, RecordMaker
    from sojourn.gateways.tacacs.config import Accounting as Settings, FileSink
    from sojourn.gateways.tacacs.messages import AcctRequest

    request = AcctRequest(2, 6, 15, 1, 1, "ana", "tty1", "192.0.2.1", ("cmd=show",))

    async def main():
        maker = RecordMaker("n")
        path, fsync = sys.argv[1:]
        sink = FileSink(name="audit", path=path, fsync=fsync, rotate_bytes=200_000, keep_files_count=1000)
        async with Accounting(Settings(files=(sink,))) as accounting:
            async def device(number):
                while True:
                    record = maker.make(request, device="d", device_address="::1", session_id=number)
                    await accounting.store(record)
                    os.write(1, record.record_id.encode() + b"\\n")
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(device(number))

    uvloop.run(main())
"""


@pytest.mark.parametrize("fsync", ["batch", "never"])
def test_what_was_acknowledged_before_a_kill_is_in_the_file(path: Path, make_record, fsync: str) -> None:
    """Kill -9 at any moment: SUCCESS was true, and the next start goes on behind it."""
    path.parent.mkdir()
    program = textwrap.dedent(STORE_FOREVER)
    command = [sys.executable, "-c", program, str(path), fsync]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(1500)]
        process.kill()
        acknowledged += process.stdout.readlines()
    told = [line.decode().strip() for line in acknowledged if line.endswith(b"\n")]
    assert len(told) >= 1500
    sink = FileLines(FileSink(name="audit", path=str(path)))
    sink.store([make_record()])
    sink.close()
    files = [entry for entry in path.parent.iterdir() if not entry.name.endswith(".torn")]
    stored = [record_id for file in files for record_id in ids_in(file)]
    assert len(stored) == len(set(stored))
    assert set(told) <= set(stored)
