"""The small programs behind the Makefile: what they decide, without installing anything."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def load(name: str) -> ModuleType:
    """Load a program of tools/ as a module; the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"sojourn_tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_list_is_read_without_its_comments() -> None:
    """One name a line; ``#`` starts a comment."""
    assert load("apt_packages").listed("# why\nslapd\n\nldap-utils  # for ldapadd\n") == [
        "slapd",
        "ldap-utils",
    ]


def test_a_package_that_is_not_installed_is_missing() -> None:
    """Whatever dpkg does not call installed is missing, and so is what it has never heard of."""
    assert load("apt_packages").missing(["not-a-package-of-debian"]) == ["not-a-package-of-debian"]


@pytest.mark.parametrize(
    ("environment", "user_id", "apt_get", "why"),
    [
        ({}, 0, "/usr/bin/apt-get", None),
        ({"SOJOURN_APT": "1"}, 0, "/usr/bin/apt-get", None),
        ({"SOJOURN_APT": "0"}, 0, "/usr/bin/apt-get", "SOJOURN_APT=0"),
        ({}, 1000, "/usr/bin/apt-get", "not root"),
        ({}, 0, None, "no apt-get here"),
    ],
)
def test_packages_are_installed_only_where_that_is_allowed(
    environment: dict[str, str], user_id: int, apt_get: str | None, why: str | None
) -> None:
    """Root, apt-get, and nobody said no."""
    assert load("apt_packages").refusal(environment, user_id, apt_get) == why


def test_services_of_new_packages_stay_down_and_the_policy_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's policy-rc.d says 101 while packages are installed, and is gone afterwards."""
    tool = load("apt_packages")
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(tool, "POLICY", policy)
    with tool.services_stay_down():
        assert subprocess.run([str(policy)], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_of_the_machines_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an administrator has put there is neither overwritten nor removed."""
    tool = load("apt_packages")
    policy = tmp_path / "policy-rc.d"
    policy.write_text("theirs")
    monkeypatch.setattr(tool, "POLICY", policy)
    with tool.services_stay_down():
        assert policy.read_text() == "theirs"
    assert policy.read_text() == "theirs"


def test_the_lock_marks_only_what_differs_between_pythons() -> None:
    """One line where all Pythons agree; else one for each, the newest standing for newer ones too."""
    lines = load("lock").constraint_lines(
        {"3.11": {"numpy": "2.4", "six": "1.17", "tomli": "2"}, "3.12": {"numpy": "2.5", "six": "1.17"}}
    )
    assert lines == [
        'numpy==2.4 ; python_version == "3.11"',
        'numpy==2.5 ; python_version >= "3.12"',
        "six==1.17",
        "tomli==2",
    ]


def test_the_lock_names_no_place() -> None:
    """Every line is a name and a version: no index address, no path, no range."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert len(pinned) > 50
    for line in pinned:
        name, _, version = line.partition(" ")[0].partition("==")
        assert name == load("lock").normalise(name)
        assert version[0].isdigit()
        assert "/" not in line


def test_a_venv_is_ready_only_where_it_was_made(tmp_path: Path) -> None:
    """Scripts in a venv hold its path, so a copy of it is made anew."""
    tool = load("make_venv")
    folder = tmp_path / "here"
    pip = folder / "lib" / "python3" / "site-packages" / "pip" / "__main__.py"
    pip.parent.mkdir(parents=True)
    pip.touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert not tool.is_ready(folder)
    assert tool.make(folder) == 0
    assert tool.is_ready(folder)
    moved = folder.rename(tmp_path / "there")
    assert not tool.is_ready(moved)
    assert tool.is_foreign(moved)
