"""Run somebody else's own test suite directly and through the gateway, and compare test by test.

    python tests/conformance/run_suite.py sqlalchemy               # its dialect suite and its PostgreSQL tests
    python tests/conformance/run_suite.py sqlalchemy --long        # also engine, SQL and ORM tests
    python tests/conformance/run_suite.py asyncpg
    python tests/conformance/run_suite.py FOLDER tests/test_x.py   # any checkout whose tests obey PGHOST and so on

Suites come from their source distributions on PyPI and are kept in ``.venv/suites``. The server is Debian's 15, which
has the extensions that they want. Each test's outcome is written to ``bench/results/suite-NAME.json``. The exit code
is 1 if session mode differs from direct other than by design, or if in transaction mode fewer than 99.3 % of what
passes directly pass, those apart that differ by design. If anything differs, the suite is run directly once more: a
test that wavers there by itself is no difference.
"""

# ruff: noqa: T201 - a program: it prints its results
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from postgres_lab import DIRECT, SESSION, TARGETS, TRANSACTION, Lab, Target, running_lab  # noqa: E402 - found by the line above
from postgres_suites import TRANSACTION_SHARE, Suite, asyncpg, differing, in_folder, outcomes, sqlalchemy  # noqa: E402 - as above

RESULTS = ROOT / "bench" / "results"
PART_WITHIN_S = 900.0
_SETTINGS = {"default_text_search_config": "pg_catalog.english"}


def run_once(suite: Suite, target: Target, report: Path) -> dict[str, str]:
    """Run a suite against one target, part by part, and return every test's outcome."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", "-p", "no:valkey", "-p", "no:xdist", "-o", "junit_family=xunit1"]
    if suite.uses_url:
        command += ["--maxfail=100000", "--dburi", target.dsn(suite.uses_url)]
    found: dict[str, str] = {}
    with report.with_suffix(".log").open("w") as log:
        for part in suite.tests:
            report.unlink(missing_ok=True)
            try:
                subprocess.run(
                    [*command, part],
                    check=False,
                    cwd=suite.folder,
                    env=target.environment(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=PART_WITHIN_S,
                )
            except subprocess.TimeoutExpired:
                print(f"{target.name}: {part} was not done in {PART_WITHIN_S:.0f} s; its tests are missing")
            if report.exists():
                found |= outcomes(report)
    return found


def prepare(lab: Lab, suite: Suite) -> None:
    """Give the suite an empty database."""
    lab.fresh_database(lab.direct.database)
    if suite.objects:
        done = lab.direct.psql(suite.objects, "--set=ON_ERROR_STOP=1")
        assert done.returncode == 0, done.stderr


def judge(direct: dict[str, str], through: dict[str, str], way: str, by_design: Mapping[str, str]) -> bool:
    """Print how a way did in terms of direct, and tell whether that is good enough."""
    different = [name for name in differing(direct, through) if name not in by_design]
    passed = sum(outcome == "passed" for outcome in direct.values())
    kept = sum(through.get(name) == "passed" for name, outcome in direct.items() if outcome == "passed")
    meant = sum(direct.get(name) == "passed" and name in by_design for name in differing(direct, through))
    share = (kept + meant) / max(1, passed)
    is_good = not different if way == SESSION else share >= TRANSACTION_SHARE
    print(
        f"{'PASS' if is_good else 'FAIL'}  {way}: {kept} of {passed} that pass directly, "
        f"{meant} differ by design ({share:.2%})"
    )
    for name in differing(direct, through):
        if name in by_design:
            print(f"      {name}: by design; {by_design[name]}")
    for name in different:
        print(f"      {name}: {direct.get(name, 'missing')} directly, {through.get(name, 'missing')} through")
    return is_good


def compare(name: str, suite: Suite, ways: Sequence[str], folder: Path) -> bool:
    """Run a suite every way and judge."""
    all_outcomes: dict[str, dict[str, str]] = {}
    with running_lab(folder, is_debian=True, settings=_SETTINGS) as lab:
        for way in (DIRECT, *(way for way in ways if way != DIRECT)):
            prepare(lab, suite)
            target = lab.target(way)
            all_outcomes[way] = run_once(suite, target, folder / f"{way}.xml")
            counts = {
                kind: sum(one == kind for one in all_outcomes[way].values())
                for kind in ("passed", "failed", "skipped")
            }
            print(f"{way}: {counts}", flush=True)
        # What two direct runs do not agree on tells nothing about us.
        if any(differing(all_outcomes[DIRECT], all_outcomes[way]) for way in all_outcomes):
            prepare(lab, suite)
            again = run_once(suite, lab.direct, folder / "again.xml")
            for one in differing(all_outcomes[DIRECT], again):
                print(f"      wavers by itself: {one}")
                for known in all_outcomes.values():
                    known.pop(one, None)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"suite-{name}.json").write_text(json.dumps(all_outcomes, indent=1, sort_keys=True) + "\n")
    for log in folder.glob("*.log"):
        (RESULTS / f"suite-{name}-{log.name}").write_bytes(log.read_bytes())
    verdicts = [
        judge(all_outcomes[DIRECT], all_outcomes[way], way, suite.by_design) for way in ways if way != DIRECT
    ]
    return all(verdicts)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", help="sqlalchemy, asyncpg, or a folder")
    parser.add_argument("tests", nargs="*", help="only these, in pytest's words")
    parser.add_argument("--long", action="store_true", help="more of SQLAlchemy's tests")
    parser.add_argument("--way", action="append", choices=TARGETS, default=[], help=f"not all of {TARGETS}")
    given = parser.parse_args()
    if given.suite == "sqlalchemy":
        suite = sqlalchemy(is_long=given.long)
    elif given.suite == "asyncpg":
        suite = asyncpg()
    else:
        suite = in_folder(Path(given.suite).resolve())
    if given.tests:
        suite = suite._replace(tests=tuple(given.tests))
    name = Path(given.suite).name
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="sojourn-suite-") as folder:
        is_good = compare(name, suite, given.way or (SESSION, TRANSACTION), Path(folder))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
