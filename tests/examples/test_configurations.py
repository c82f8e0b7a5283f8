"""``examples/*.toml``: what is copied from there works, and means what its comments say."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load
from sojourn.config.soundness import file_problems, warnings_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENVIRON = {
    "EXCHANGE_DSN": "postgresql://exchange:pw@db.example.net/exchange",
    "HOME_ASSISTANT_TOKEN": "0123456789abcdef" * 4,
    "HOUSE_CODE": "1234",
    "HOUSE_TYPE2": "0123456789abcdef0123456789abcdef",
    "POD_ADDRESS": "10.0.0.5:8080",
    "SHOP_PASSWORD": "p",
    "SOJOURN_MONITOR_PASSWORD": "q",
    "VALKEY_URL": "rediss://valkey.example.net:6379/0",
}
FILES = sorted(EXAMPLES.glob("*.toml"))


def read(name: str) -> SojournSettings:
    """Return the settings of an example."""
    return load(EXAMPLES / name, ENVIRON)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_has_no_problems(file: Path) -> None:
    """`sojourn check` says so; what it warns about, an example would teach."""
    settings = read(file.name)
    assert list(file_problems(settings)) == []
    assert warnings_of(settings, datetime.datetime.now(datetime.UTC)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_commented_out_can_be_taken_in(file: Path, tmp_path: Path) -> None:
    """A line that begins with "#" and no space is a setting: with all of them it is still a configuration."""
    text = re.sub(r"^#(?=[\w\[])", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    whole = tmp_path / file.name
    whole.write_text(text, encoding="utf-8")
    assert load(whole, ENVIRON) != read(file.name)


def test_one_host_needs_nothing_of_others() -> None:
    """`exchange.toml`: database, key and simulators are our own."""
    exchange = read("exchange.toml").exchange
    assert exchange is not None
    assert (exchange.has_own_postgres, exchange.has_own_key) == (True, True)
    assert exchange.auth.dev_key_file.endswith("/exchange-data/dev-key.json")
    assert exchange.simulators.driver == "process"
    assert [one.symbol for one in exchange.simulators.market.instruments] == ["ACME", "INIT"]


def test_pods_share_a_database_and_a_valkey() -> None:
    """`exchange-pods.toml`: nothing of a session is in one pod only."""
    exchange = read("exchange-pods.toml").exchange
    assert exchange is not None
    assert exchange.store is not None
    assert exchange.valkey.url is not None
    assert not any((exchange.has_own_postgres, exchange.has_own_valkey, exchange.has_own_key))
    assert exchange.simulators.driver == "kubernetes"
