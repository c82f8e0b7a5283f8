"""Other people's test suites: where they come from, what of them is run, and what pytest's report says of them.

Knows nothing of gateways; ``conformance/run_suite.py`` runs them.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from xml.etree import ElementTree as ET

SUITES = Path(__file__).resolve().parents[2] / ".venv" / "suites"
TRANSACTION_SHARE = 0.993
"""How much of what passes directly must pass in transaction mode."""

_SQLALCHEMY_OBJECTS = """
CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext;
"""


_STAYS = "ends its server's process, and wants to be thrown out; clients of ours stay"
_ASYNCPG_BY_DESIGN = {
    "tests.test_execute.TestExecuteMany::test_executemany_server_failure_during_writes": _STAYS,
    "tests.test_execute.TestExecuteScript::test_execute_script_interrupted_by_server": _STAYS,
    "tests.test_pool.TestPool::test_pool_min_size_restored_after_idle_connection_loss": _STAYS,
    "tests.test_pool.TestPool::test_pool_remote_close": _STAYS,
    "tests.test_copy.TestCopyTo::test_copy_records_to_table_no_stmt_cache": (
        "lists pg_prepared_statements, which in transaction mode has other clients' too"
    ),
}


class Suite(NamedTuple):
    """Where a suite is and what of it is run.

    Args:
        objects: SQL that its database needs before.
        uses_url: SQLAlchemy is told where to go by ``--dburi``, others by libpq's environment.
        by_design: tests that want what the gateway does not do, and why it does not.
    """

    folder: Path
    tests: tuple[str, ...]
    objects: str = ""
    uses_url: str = ""
    by_design: Mapping[str, str] = MappingProxyType({})


def source_of(name: str) -> Path:
    """Return the unpacked source distribution of an installed package, of the same version."""
    place = SUITES / f"{name}-{version(name)}"
    if not place.exists():
        SUITES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = ("download", "--quiet", "--no-deps", f"--no-binary={name}", f"--dest={folder}")
            subprocess.run([sys.executable, "-m", "pip", *command, f"{name}=={version(name)}"], check=True)
            (archive,) = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(SUITES, filter="data")
    return place


def sqlalchemy(*, is_long: bool) -> Suite:
    """Return SQLAlchemy's dialect suite, with more where there is time."""
    tests = ("test/dialect/test_suite.py", "test/dialect/postgresql")
    if is_long:
        tests += ("test/engine", "test/sql", "test/orm/test_transaction.py", "test/orm/test_query.py")
    return Suite(source_of("sqlalchemy"), tests, _SQLALCHEMY_OBJECTS, "postgresql+psycopg")


def asyncpg() -> Suite:
    """Return asyncpg's own tests; its source must not hide the installed package, which is compiled."""
    place = source_of("asyncpg")
    if (place / "asyncpg").exists():
        (place / "asyncpg").rename(place / "asyncpg.source")
    return in_folder(place)._replace(by_design=_ASYNCPG_BY_DESIGN)


def in_folder(folder: Path) -> Suite:
    """Return all tests of a folder, each file a part: one that hangs takes no other with it."""
    return Suite(
        folder, tuple(str(path.relative_to(folder)) for path in sorted(folder.glob("tests/**/test_*.py")))
    )


def outcomes(report: Path) -> dict[str, str]:
    """Read pytest's report: each test's name and whether it passed, failed or was skipped."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        bad = kinds & {"failure", "error"}
        found[name] = "failed" if bad else "skipped" if "skipped" in kinds else "passed"
    return found


def differing(direct: dict[str, str], through: dict[str, str]) -> list[str]:
    """Return the tests whose outcomes are not those of the direct run."""
    # SQLAlchemy writes the target's address nowhere in a name, so that names can be compared as they are.
    return sorted(name for name in direct | through if direct.get(name) != through.get(name))
