"""The example file, the reference page and the masked listing."""

from __future__ import annotations

import re

import pytest

from sojourn.config import SojournSettings, example, load_text, reference_markdown, show
from sojourn.errors import ConfigError

CONFIGURATION = """\
[log]
file = "a \\"quoted\\" path\\u007f\\n"
[admin]
token = "0123456789abcdef0123456789abcdef"
[[tacacs.listeners]]
address = "127.0.0.1:49"
[[tacacs.devices]]
name = "core-1"
networks = ["192.0.2.0/24"]
[[tacacs.devices.secrets]]
value = "s3cret-s3cret-s3cret"
since = 2026-01-01
[[tacacs.directories]]
name = "ldap"
urls = ["ldaps://ldap.example.net"]
bind_dn = "uid={user}"
group_map = { "cn=admins,dc=example" = "admins" }
[[tacacs.rules]]
name = "all"
[tacacs.rules.when]
days = ["mon"]
"""


def test_the_example_file_loads_and_means_the_defaults() -> None:
    """A new operator may start from it as it is."""
    assert load_text(example(), "sojourn.toml", {}) == SojournSettings()


def test_the_example_file_with_every_line_in_use_names_every_setting_rightly() -> None:
    """Removing every "#" leaves only what cannot be made up: the secrets' files."""
    text = re.sub(r"^#(?=\S)", "", example(), flags=re.MULTILINE)
    with pytest.raises(ConfigError) as caught:
        load_text(text, "sojourn.toml", {})
    assert {one.found.split(": ")[-1] for one in caught.value.problems} == {"No such file or directory"}


def test_every_setting_has_help() -> None:
    """A setting without words cannot be used."""
    bare = [
        line for line in reference_markdown().splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert bare == []


def test_the_reference_page_has_units_defaults_and_choices() -> None:
    """One row says all about a setting."""
    page = reference_markdown()
    assert "## `[[tacacs.devices.secrets]]`" in page
    assert "| `finished_keep_s` | a number of at least 0, in seconds | `300.0` |" in page
    assert '| `level` | one of "debug", "error", "info", "warning" | `"info"` |' in page


def test_the_listing_is_toml_that_loads_again_with_secrets_masked() -> None:
    """What is shown can be pasted into a report."""
    settings = load_text(CONFIGURATION, "sojourn.toml", {})
    listing = show(settings)
    assert "s3cret" not in listing
    assert "0123456789" not in listing
    again = load_text(listing.replace('"***"', '"0123456789abcdef"'), "listing", {})
    assert show(again) == listing
    assert again.log == settings.log
    assert again.tacacs is not None
    assert settings.tacacs is not None
    assert again.tacacs.directories == settings.tacacs.directories
    assert again.tacacs.rules == settings.tacacs.rules
