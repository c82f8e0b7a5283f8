"""From text and environment to settings, or to every problem at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load, load_text
from sojourn.errors import ConfigError, Problem

SECRET = "hunter2-hunter2-hunter2"


def problems_of(text: str, **environ: str) -> list[Problem]:
    """Load what must not load, and return why."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "sojourn.toml", environ)
    assert SECRET not in str(caught.value)
    return list(caught.value.problems)


def found_of(text: str, **environ: str) -> list[tuple[int, str, str, str]]:
    """Return line, table, key and found of every problem."""
    return [(one.line, one.table, one.key, one.found) for one in problems_of(text, **environ)]


def test_no_file_and_no_environment_give_the_defaults() -> None:
    """Everything has a default; a gateway that is not configured is not there."""
    assert load(None, {}) == SojournSettings()


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    """Wrong values, unknown keys and missing keys of all tables come in one error."""
    text = """\
lgo = 1
[log]
level = "loud"
[offload]
threads_count = 0
timeout_s = "long"
[tacacs]
prompt_timeout_s = nan
[[tacacs.devices]]
netwroks = ["192.0.2.0/24"]
single_connect = 1
[[tacacs.devices]]
name = "core 1"
secrets = [
  { value = "x", since = 2026-01-01 },
  { since = "yesterday" },
]
"""
    assert found_of(text) == [
        (1, "", "lgo", "an unknown key"),
        (3, "log", "level", '"loud"'),
        (5, "offload", "threads_count", "0"),
        (6, "offload", "timeout_s", '"long"'),
        (8, "tacacs", "prompt_timeout_s", "NaN"),
        (9, "tacacs.devices[0]", "name", "nothing"),
        (10, "tacacs.devices[0]", "netwroks", "an unknown key"),
        (11, "tacacs.devices[0]", "single_connect", "1"),
        (13, "tacacs.devices[1]", "name", '"core 1"'),
        (16, "tacacs.devices[1].secrets[1]", "value", "nothing"),
        (16, "tacacs.devices[1].secrets[1]", "since", '"yesterday"'),
    ]


def test_a_misspelt_key_is_answered_with_the_nearest_known_one() -> None:
    """An operator who mistypes is told what was probably meant."""
    (problem,) = problems_of("[log]\nlevle = 'info'")
    assert problem.wanted == "'level', perhaps"


def test_the_words_say_what_is_wanted() -> None:
    """Bounds, choices and kinds are in the text."""
    (problem,) = problems_of("[offload]\nthreads_count = 5000")
    assert str(problem) == (
        "sojourn.toml:2: offload.threads_count: found 5000, wanted a whole number from 1 to 256"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [("[log]\nlevel = ", 2), ("\n\na = 'x", 3), ("a = 1\na = 2", 2), ("a = [1,\n2\n", 2), ("=", 1)],
)
def test_broken_toml_is_one_problem_with_its_line(text: str, line: int) -> None:
    """A text that is no TOML says where it stops being it."""
    (problem,) = problems_of(text)
    assert (problem.line, problem.wanted) == (line, "valid TOML")


def test_endless_nesting_is_a_problem_and_no_crash() -> None:
    """Any text gives settings or a ConfigError."""
    (problem,) = problems_of("a = " + "[" * 100_000)
    assert problem.wanted == "valid TOML"


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file and a file in another encoding are configuration problems, not crashes."""
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml", {})
    (tmp_path / "latin.toml").write_bytes(b'[log]\nfile = "\xe4"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml:2: .*not UTF-8"):
        load(tmp_path / "latin.toml", {})


def test_a_byte_order_mark_is_ignored() -> None:
    """Editors on Windows write one."""
    assert load_text("\ufeff[log]\nlevel = 'debug'", "x", {}).log.level == "debug"


def test_the_environment_overrides_the_file() -> None:
    """Double underscores nest, numbers are items, texts are read as what is declared."""
    text = """\
[log]
level = "info"
[[tacacs.listeners]]
address = "127.0.0.1:49"
[[tacacs.devices]]
name = "core-1"
networks = ["192.0.2.1"]
"""
    environ = {
        "SOJOURN__LOG__LEVEL": "debug",
        "SOJOURN__RECORDER__FINISHED_KEEP_S": "7",
        "SOJOURN__TACACS__LISTENERS__0__ADDRESS": "127.0.0.1:4949",
        "SOJOURN__TACACS__LISTENERS__1__ADDRESS": "[::1]:4949",
        "SOJOURN__TACACS__LISTENERS__1__REUSE_PORT": "yes",
        "SOJOURN__TACACS__DEVICES__0__NETWORKS": "192.0.2.0/24, 2001:db8::/32",
        "SOJOURN__TACACS__DEVICES__0__SECRETS": '[{value = "0123456789abcdef", since = 2026-01-01}]',
        "SOJOURN__TACACS__DEVICES__0__NAME": "42",
        "SOJOURN__TACACS__DEVICES__0__SECRETS__0__VALUE": SECRET,
        "SOJOURN_SERVICE_HOST": "10.0.0.1",
    }
    settings = load_text(text, "sojourn.toml", environ)
    assert settings.log.level == "debug"
    assert settings.recorder.finished_keep_s == 7.0
    assert settings.tacacs is not None
    assert [one.address for one in settings.tacacs.listeners] == ["127.0.0.1:4949", "[::1]:4949"]
    assert settings.tacacs.listeners[1].reuse_port
    (device,) = settings.tacacs.devices
    assert (device.name, device.networks) == ("42", ("192.0.2.0/24", "2001:db8::/32"))
    assert device.secrets[0].value.reveal() == SECRET
    assert str(device.secrets[0].since) == "2026-01-01"


def test_a_problem_of_the_environment_names_the_variable() -> None:
    """A wrong override is found by its own name, not by a line of the file."""
    text = "[[tacacs.listeners]]\n"
    environ = {
        "SOJOURN__LOG__LEVEL": "loud",
        "SOJOURN__TACACS__LISTENERS__7__ADDRESS": "x",
        "SOJOURN__LOG__LEVEL__X": "x",
        "SOJOURN__TACACS__USERS__0__DISABLED": "false",
        "SOJOURN____X": "1",
    }
    assert {(one.file, one.key, one.found) for one in problems_of(text, **environ)} == {
        ("environment variable SOJOURN__LOG__LEVEL", "level", '"loud"'),
        ("environment variable SOJOURN__TACACS__LISTENERS__7__ADDRESS", "", "item 7 of a list of 1"),
        ("environment variable SOJOURN__LOG__LEVEL__X", "", "a name inside a single value"),
        ("environment variable SOJOURN__TACACS__USERS__0__DISABLED", "name", "nothing"),
        ("environment variable SOJOURN____X", "", "an empty name between underscores"),
    }


def with_secret(value: str) -> str:
    """Return a configuration whose one secret is written so."""
    return f'[admin]\ntoken = "{value}"\n'


def secret_of(settings: SojournSettings) -> str:
    """Return the one secret."""
    assert settings.admin.token is not None
    return settings.admin.token.reveal()


def test_a_secret_comes_from_a_file_from_the_environment_or_literally(tmp_path: Path) -> None:
    """One trailing newline of the file is not part of it; a relative path starts at the configuration."""
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(SECRET + "\n\n")
    config = tmp_path / "sojourn.toml"
    for written, meant in {
        "${file:key}": SECRET + "\n",
        f"${{file:{file}}}": SECRET + "\n",
        "${env:KEY}": "from the environment",
        "as it stands here": "as it stands here",
        "$${not a reference": "${not a reference",
    }.items():
        config.write_text(with_secret(written))
        assert secret_of(load(config, {"KEY": "from the environment"})) == meant


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("${env:ABSENT}", "no environment variable ABSENT"),
        ("${file:/absent}", "/absent: No such file or directory"),
        ("${file:/dev/null}", "/dev/null, which is no regular file"),
        ("${vault:x}", "a reference of the unknown kind 'vault'"),
        ("${file:x", "a reference that does not end"),
    ],
)
def test_a_reference_to_nothing_is_a_problem(written: str, found: str) -> None:
    """A secret that cannot be read stops the start and says which."""
    assert found_of(with_secret(written)) == [(2, "admin", "token", found)]


def test_a_secret_file_that_everybody_may_read_is_a_problem_unless_allowed(tmp_path: Path) -> None:
    """A key that every user of the machine can read is none."""
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(0o644)
    text = with_secret(f"${{file:{file}}}")
    (problem,) = problems_of(text)
    assert "readable by everybody (mode 0644)" in problem.found
    assert secret_of(load_text("secrets_may_be_world_readable = true\n" + text, "x", {})) == SECRET
    assert secret_of(load_text(text, "x", {"SOJOURN__SECRETS_MAY_BE_WORLD_READABLE": "true"})) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        f'[tacacs]\ndevices = "{SECRET}"',
        f'[[tacacs.devices]]\nname = "d"\nsecrets = ["{SECRET}"]',
        f'[[tacacs.devices]]\nname = "d"\nsecrets = "{SECRET}"',
        f'[[tacacs.devices]]\nname = "d"\nsecrets = [{{vaule = "{SECRET}"}}]',
        '[log]\nlevel = "${env:KEY}"',
        f'[log]\nlevel = "x\n{SECRET}"',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_echoed(text: str) -> None:
    """Problems go to logs and terminals; what might be a secret does not."""
    assert problems_of(text, KEY=SECRET)


def test_a_reference_may_stand_for_an_ordinary_value() -> None:
    """A whole text may be a reference; a part of one stays as it is."""
    settings = load_text('[log]\nlevel = "${env:LEVEL}"\nfile = "a/${env:LEVEL}"', "x", {"LEVEL": "error"})
    assert (settings.log.level, settings.log.file) == ("error", "a/${env:LEVEL}")


def test_what_only_several_fields_show_is_reported_too() -> None:
    """An address for the whole network without a token is found by the table's own check."""
    assert found_of('[admin]\naddress = "0.0.0.0:9300"') == [
        (2, "admin", "address", "'0.0.0.0:9300' and no token")
    ]


def test_variables_with_bytes_that_are_no_text_are_problems() -> None:
    """Python gives such bytes as lone surrogates, which no later part could write."""
    bad = os.fsdecode(b"\xff")
    assert [one.found for one in problems_of("", SOJOURN__LOG__FILE=bad)] == ["bytes that are not UTF-8"]
    (problem,) = problems_of(with_secret("${env:KEY}"), KEY=bad)
    assert problem.found == "environment variable KEY with bytes that are not UTF-8"
