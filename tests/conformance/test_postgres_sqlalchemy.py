"""SQLAlchemy's dialect suite, the part of it that its package ships, through the gateway as without it.

``run_suite.py sqlalchemy`` runs all of it, and its PostgreSQL tests, from the source distribution; that takes minutes.
Here are the parts that talk to the server most: everything but the reflection of hundreds of tables.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from postgres_lab import DIRECT, OURS, SESSION, running_lab
from postgres_suites import TRANSACTION_SHARE, outcomes

pytest.importorskip("sqlalchemy")

# The suite wants the extension citext, which the wheel's build lacks.
pytestmark = pytest.mark.debian("postgresql")

CONFTEST = """
import pytest
from sqlalchemy.testing.plugin.pytestplugin import *
from sqlalchemy.testing.plugin import pytestplugin

pytest.register_assert_rewrite("sqlalchemy.testing.assertions")
"""
REQUIREMENTS = """
from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements


class Requirements(SuiteRequirements):
    schemas = exclusions.open()
    server_side_cursors = exclusions.open()
    savepoints = exclusions.open()
    two_phase_transactions = exclusions.open()
    isolation_level = exclusions.open()
    json_type = exclusions.open()
    uuid_data_type = exclusions.open()
    temporary_tables = exclusions.open()
    returning = exclusions.open()
    autocommit = exclusions.open()
    window_functions = exclusions.open()
    ctes = exclusions.open()
    views = exclusions.open()

    def get_isolation_levels(self, config):
        return {
            "default": "READ COMMITTED",
            "supported": ["READ COMMITTED", "READ UNCOMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"],
        }
"""
SETUP = """
[sqla_testing]
requirement_cls = requirements:Requirements
profile_file = profiles.txt
[db]
default = sqlite:///:memory:
"""
WITHOUT = "not Reflection and not Reflect and not HasTable and not HasIndex and not Difficult"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Give one server for the whole module."""
    with running_lab(tmp_path_factory.mktemp("sqlalchemy"), is_debian=True) as running:
        yield running


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Give a folder in which pytest finds the suite that SQLAlchemy's package ships."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "requirements.py").write_text(REQUIREMENTS)
    (folder / "setup.cfg").write_text(SETUP)
    (folder / "pytest.ini").write_text("[pytest]\npython_files = test_*.py\n")
    (folder / "test_suite.py").write_text("from sqlalchemy.testing.suite import *\n")
    return folder


@pytest.fixture(scope="module")
def outcomes_of(lab, suite):
    """Give a function that runs the suite one way, each way once, and returns every test's outcome."""
    known = {}

    def run(way):
        if way not in known:
            lab.fresh_database(lab.direct.database)
            lab.direct.psql("CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2")
            target = lab.target(way)
            report = suite / f"{way}.xml"
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                    *(
                        "-p",
                        "no:valkey",
                        "--maxfail=100000",
                        "-o",
                        "junit_family=xunit1",
                        f"--junitxml={report}",
                    ),
                    *("--dburi", target.dsn("postgresql+psycopg"), "-k", WITHOUT, "test_suite.py"),
                ],
                check=False,
                cwd=suite,
                env=target.environment() | {"PYTHONPATH": str(suite)},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
            known[way] = outcomes(report)
        return known[way]

    return run


@pytest.mark.parametrize("way", OURS)
def test_the_dialect_suite_passes_as_without_us(outcomes_of, way):
    """Session mode: test by test the same. Transaction mode: at least 99.3 % of what passes directly."""
    direct, through = outcomes_of(DIRECT), outcomes_of(way)
    passed = {name for name, outcome in direct.items() if outcome == "passed"}
    assert len(passed) > 250
    lost = sorted(name for name in passed if through.get(name) != "passed")
    if way == SESSION:
        assert lost == []
        assert through == direct
    assert len(lost) <= (1 - TRANSACTION_SHARE) * len(passed), lost
