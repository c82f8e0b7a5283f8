"""The marker ``debian``: skip by name on a person's machine, fail on CI, refuse what nobody would install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDY = """
import pytest

@pytest.mark.debian("not-a-package-of-debian")
def test_needs_it():
    raise AssertionError("ran without its package")

def test_needs_nothing():
    pass
"""
LAZY = """
import pytest

def test_stays_in_bed():
    pytest.skip("too early")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository with our conftest and a list that names a package which no Debian has."""
    for folder in ("tests", "tools"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["debian(*packages): see conftest"]\n'
    )
    (tmp_path / "tools" / "apt-packages.txt").write_text("# some\nnot-a-package-of-debian\n")
    return tmp_path


def pytest_in(tree: Path, source: str, *arguments: str, ci: bool) -> subprocess.CompletedProcess[str]:
    (tree / "tests" / "test_it.py").write_text(source)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "SOJOURN_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests", *arguments],
        check=False,
        cwd=tree,
        env={**kept, "SOJOURN_CI": "1" if ci else "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_missing_package_skips_its_test_and_is_named(tree: Path, workers: tuple[str, ...]) -> None:
    """Issue 2: where it may not install, exactly those tests are skipped, and named at the end."""
    done = pytest_in(tree, NEEDY, *workers, ci=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "not-a-package-of-debian: 1 test not run" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_on_ci_a_missing_package_is_a_failure(tree: Path, workers: tuple[str, ...]) -> None:
    """Issue 2: on CI nothing is skipped."""
    done = pytest_in(tree, NEEDY, *workers, ci=True)
    assert done.returncode == 1, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
    assert "not-a-package-of-debian: 1 test not run" in done.stdout


@pytest.mark.parametrize("source", [LAZY, 'import pytest\npytest.importorskip("no_such_module")\n'])
def test_on_ci_a_skip_for_any_other_reason_is_a_failure(tree: Path, source: str) -> None:
    """A test or a whole module that steps aside on CI would never be run by anybody."""
    done = pytest_in(tree, source, ci=True)
    assert done.returncode != 0
    assert "skipped, though SOJOURN_CI=1" in done.stdout


def test_a_package_that_the_list_does_not_name_is_refused(tree: Path) -> None:
    """What `make test` does not install would be skipped everywhere."""
    done = pytest_in(tree, NEEDY.replace("not-a-package", "also-not-a-package"), ci=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(
        "also-not-a-package-of-debian.*apt-packages.txt does not list", done.stderr + done.stdout
    )
