"""What every test may use, and what happens to tests whose Debian packages are not here.

A test that needs software from Debian says so: ``@pytest.mark.debian("slapd", "ldap-utils")``. Where a
package is missing the test is skipped and the last lines of the run name the package; with ``SOJOURN_CI=1``
nothing may be skipped, for whatever reason, and a skipped test is a failed one.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
import uvloop

LISTED = Path(__file__).resolve().parent.parent / "tools" / "apt-packages.txt"


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end on a fresh uvloop, for at most 60 seconds."""

    def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(60):
                return await coroutine

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(bounded())

    return run_coroutine


def nothing_may_be_skipped() -> bool:
    """Say whether this run is one that must not skip."""
    return os.environ.get("SOJOURN_CI") == "1"


def wanted_packages(item: pytest.Item) -> list[str]:
    """Say which Debian packages a test declares, on itself or on its module."""
    return sorted({str(name) for mark in item.iter_markers("debian") for name in mark.args})


@functools.cache
def is_installed(package: str) -> bool:
    """Ask dpkg; a machine without it has no Debian packages."""
    if shutil.which("dpkg-query") is None:
        return False
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package],
        check=False,
        capture_output=True,
        text=True,
    )
    return query.stdout == "installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a package that nobody would install: the marker may name only what the list names."""
    listed = {line.partition("#")[0].strip() for line in LISTED.read_text(encoding="utf-8").splitlines()}
    for item in items:
        for package in wanted_packages(item):
            if package not in listed:
                raise pytest.UsageError(f"{item.nodeid} wants {package}, which {LISTED.name} does not list")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose packages are missing, before any fixture starts anything."""
    missing = [package for package in wanted_packages(item) if not is_installed(package)]
    if missing:
        # Properties travel with the report from a worker to the process that prints the summary.
        item.user_properties += [("missing_debian", package) for package in missing]
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where nothing may be skipped."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and nothing_may_be_skipped():
        report.outcome = "failed"
        report.longrepr = f"skipped, though SOJOURN_CI=1: {reason_of(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into a failure where nothing may be skipped."""
    report = yield
    if report.skipped and nothing_may_be_skipped():
        report.outcome = "failed"
        report.longrepr = f"skipped, though SOJOURN_CI=1: {reason_of(report)}"
    return report


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Say in words why something was skipped."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the Debian packages that were missing, and how many tests each of them cost."""
    cost: dict[str, int] = {}
    for outcome in ("skipped", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, package in getattr(report, "user_properties", ()):
                if key == "missing_debian":
                    cost[package] = cost.get(package, 0) + 1
    if cost:
        terminalreporter.section("Debian packages that are missing here")
        for package, count in sorted(cost.items()):
            terminalreporter.line(f"{package}: {count} {'test' if count == 1 else 'tests'} not run")
        terminalreporter.line(f"as root: apt-get install {' '.join(sorted(cost))}")
