"""``--pgbouncer-ini FILE``: PgBouncer's file in place of ``[postgres]``, for run, check and config show."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sojourn.cli.main import app
from sojourn.cli.options import load_with_pgbouncer
from sojourn.config import load_text

INI = """\
[databases]
shop = host=127.0.0.1 port=5432 password=hunter2 user=shop
[pgbouncer]
listen_addr = 127.0.0.1
auth_file = userlist.txt
pkt_buf = 4096
verbose = 1
logfile = pgbouncer.log
"""
UNKNOWN = "pgbouncer.ini:9: pgbouncer.pool_mod: found an unknown key, wanted 'pool_mode', perhaps"


def sojourn(*arguments: str) -> Result:
    """Run one command in this process."""
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of PgBouncer's, its user list, and a directory without any configuration of ours."""
    monkeypatch.chdir(tmp_path)
    Path("userlist.txt").write_text('"shop" "hunter2"\n')
    Path("userlist.txt").chmod(0o600)
    path = Path("pgbouncer.ini")
    path.write_text(INI)
    return path


def test_a_good_file_has_no_problems(ini: Path) -> None:
    """What changes nothing is a warning with its reason; the exit code is 0."""
    result = sojourn("check", "--pgbouncer-ini", str(ini), "--strict")
    assert result.exit_code == 0
    assert result.stdout == "pgbouncer.ini: no problems\n"
    assert "warning: pgbouncer.ini:6: pgbouncer.pkt_buf changes nothing: " in result.stderr
    assert "hunter2" not in result.output


def test_an_unknown_key_is_a_warning_and_a_problem_if_strict(ini: Path) -> None:
    """PgBouncer would not start; here a wrong word does not keep the applications away, unless asked for."""
    ini.write_text(INI + "pool_mod = session\n")
    result = sojourn("check", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 0
    assert f"warning: {UNKNOWN}" in result.stderr
    for command in ("check", "run"):
        result = sojourn(command, "--pgbouncer-ini", str(ini), "--strict")
        assert result.exit_code == 2
        assert result.stderr == f"{UNKNOWN}\n1 problem; nothing was started.\n"


def test_wrong_values_start_nothing(ini: Path) -> None:
    """Every problem, then exit code 2, for each command."""
    ini.write_text(INI + "listen_port = http\nquery_timeout = soon\n")
    for command in (("run",), ("check",), ("config", "show")):
        result = sojourn(*command, "--pgbouncer-ini", str(ini))
        assert result.exit_code == 2
        assert "pgbouncer.ini:9: pgbouncer.listen_port: found 'http'" in result.stderr
        assert "2 problems; nothing was started." in result.stderr


def test_a_user_list_that_is_not_there_is_a_problem(ini: Path) -> None:
    """The files that the file names are looked at, as those of a configuration of ours."""
    Path("userlist.txt").unlink()
    result = sojourn("check", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 2
    assert "postgres.auth.userlist_file: found userlist.txt: no such file" in result.stderr


def test_a_user_list_that_everybody_can_read_is_warned_about(ini: Path) -> None:
    """PgBouncer does not look; passwords in it are plain as often as not."""
    Path("userlist.txt").chmod(0o644)
    result = sojourn("check", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 0
    assert "everybody can read the passwords in userlist.txt" in result.stderr


def test_show_prints_the_equivalent_toml(ini: Path) -> None:
    """What comes out can be gone on with, once the masked passwords are put in."""
    result = sojourn("config", "show", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    settings = load_text(result.stdout.replace("***", "hunter2"), "sojourn.toml", {})
    assert settings == load_with_pgbouncer(None, ini)[0]
    assert (settings.log.level, settings.log.file) == ("debug", "pgbouncer.log")


def test_everything_else_comes_from_our_own_configuration(ini: Path) -> None:
    """The file stands for ``[postgres]`` alone; a log file that we name wins over PgBouncer's."""
    Path("sojourn.toml").write_text('[log]\nfile = "ours.log"\n[admin]\naddress = "127.0.0.1:9999"\n')
    settings, warnings = load_with_pgbouncer(None, ini)
    assert settings.postgres is not None
    assert settings.admin.address == "127.0.0.1:9999"
    assert settings.log.file == "ours.log"
    assert len(warnings) == 1


def test_two_tables_for_one_gateway_are_refused(ini: Path) -> None:
    """Nobody has to guess which of the two counts."""
    Path("sojourn.toml").write_text("[postgres]\nworkers_count = 2\n")
    result = sojourn("check", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 2
    assert "sojourn.toml: postgres: found a table, wanted no [postgres]" in result.stderr


def test_a_file_that_is_not_there_is_a_problem(ini: Path) -> None:
    """Not the demo, not a traceback."""
    ini.unlink()
    result = sojourn("run", "--pgbouncer-ini", str(ini))
    assert result.exit_code == 2
    assert "pgbouncer.ini: (file): found No such file or directory" in result.stderr
