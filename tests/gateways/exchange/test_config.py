"""``[exchange]``: what is wrong with it is told with its place, and a tiny file is enough for one host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest

from sojourn.config import example, load_text, reference_markdown, show
from sojourn.core.breaker import Breakers
from sojourn.core.secret import Secret
from sojourn.core.settings import ListenerSettings
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.exchange.config import ONLY_AT_START, ExchangeSettings, SessionSettings
from sojourn.gateways.exchange.lifecycle import REJECT, REPLACE, DevicePolicy, PolicyKind, Timeouts
from sojourn.gateways.exchange.market.settings import STOCKS, InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.market.simulation import Simulation
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings
from sojourn.gateways.exchange.spawners.static import StaticSettings
from sojourn.gateways.exchange.storage import StoreSettings
from sojourn.testing.clock import ManualClock

TINY = """\
[[exchange.listeners]]
address = "127.0.0.1:8080"
[exchange.embedded]
directory = "/var/lib/sojourn/exchange"
"""
SCALED = """\
[[exchange.listeners]]
address = "127.0.0.1:8080"
[exchange.auth]
jwks_url = "https://login.example.net/jwks"
[exchange.store]
dsn = "postgresql://exchange:pw@db.example.net/exchange"
[exchange.valkey]
url = "rediss://valkey.example.net:6379/0"
"""


def load(text: str, **environ: str) -> ExchangeSettings:
    """Return the table of a file without problems."""
    settings = load_text(text, "sojourn.toml", environ).exchange
    assert settings is not None
    return settings


def problems(text: str) -> list[str]:
    """Return place and finding of every problem."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "sojourn.toml", {})
    return [f"{one.table}.{one.key}: {one.found}" for one in caught.value.problems]


# One host


def test_a_listener_and_a_directory_are_enough() -> None:
    """Spec 5.7: one process, a PostgreSQL of its own, child processes, a development issuer."""
    settings = load(TINY)
    assert settings.has_own_postgres
    assert settings.has_own_key
    assert not settings.has_own_valkey
    assert settings.auth.dev_key_file == "/var/lib/sojourn/exchange/dev-key.json"
    assert str(settings.embedded.postgres_directory) == "/var/lib/sojourn/exchange/postgres"
    assert settings.simulators.driver == "process"


def test_what_follows_from_the_directory_is_shown() -> None:
    """``sojourn config show`` prints what is in force; pasted back it means the same."""
    settings = load_text(TINY, "sojourn.toml", {})
    listing = show(settings)
    assert 'dev_key_file = "/var/lib/sojourn/exchange/dev-key.json"' in listing
    assert load_text(listing, "listing", {}) == settings


@pytest.mark.parametrize(
    "auth",
    [
        'jwks_url = "https://login.example.net/jwks"',
        'jwks_file = "jwks.json"',
        'dev_key_file = "other.json"',
        f'dev_secret = "{"s" * 32}"',
    ],
)
def test_no_key_is_made_where_something_says_whose_tokens_are_believed(auth: str) -> None:
    """A development key besides an issuer would be a back door."""
    settings = load(f"{TINY}[exchange.auth]\n{auth}\n")
    assert not settings.has_own_key
    assert "dev-key" not in settings.auth.dev_key_file


def test_an_auth_table_without_a_source_leaves_the_key_in_force() -> None:
    """Setting a leeway does not say whose tokens are believed."""
    settings = load(f"{TINY}[exchange.auth]\nleeway_s = 5\n")
    assert (settings.has_own_key, settings.auth.leeway_s) == (True, 5.0)


# Several pods


def test_databases_that_others_run_need_nothing_embedded() -> None:
    """Spec 5.7, the scaled column."""
    settings = load(SCALED)
    assert not settings.has_own_postgres
    assert not settings.has_own_valkey
    assert not settings.has_own_key


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[exchange]\n", ["exchange.listeners: nothing"]),
        ("[exchange]\nlisteners = []\n", ["exchange.listeners: 0 items"]),
        (
            '[[exchange.listeners]]\naddress = "[::]:80"\n',
            ["exchange.auth.jwks_url: nothing", "exchange.store: nothing"],
        ),
        (f"{TINY}postgres = false\n", ["exchange.store: nothing"]),
        (
            f'{SCALED}[exchange.embedded]\ndirectory = "/x"\nvalkey = true\n',
            [
                "exchange.embedded.postgres: true, besides [exchange.store]",
                "exchange.embedded.valkey: true, besides valkey.url",
            ],
        ),
        (f"{SCALED}[exchange.embedded]\nvalkey = true\n", ["exchange.embedded.directory: nothing"]),
        (f"{TINY}postgres_port = 5432\n", ["exchange.embedded.password: nothing"]),
        (f'{TINY}password = ""\n', ["exchange.embedded.password: an empty one"]),
        (
            TINY.replace('8080"', '8080"\nreuse_port = true'),
            ["exchange.valkey.url: nothing, while other processes may share listeners[0] (reuse_port)"],
        ),
        (f'{TINY}[exchange.simulators]\ndriver = "kubernetes"\n', ["exchange.kubernetes: nothing"]),
        (f'{TINY}[exchange.simulators]\ndriver = "static"\n', ["exchange.static: nothing"]),
        (
            f'{TINY}[exchange.static]\nendpoints = ["a:1", "unix:/run/b", "c", "d:0", "a:1"]\n',
            [
                "exchange.static.endpoints[2]: 'c'",
                "exchange.static.endpoints[3]: 'd:0'",
                "exchange.static.endpoints[4]: 'a:1' again",
            ],
        ),
        (f'{TINY}[exchange.sessions]\npolicy = "share:0"\n', ["exchange.sessions.policy: 'share:0'"]),
        (f"{TINY}[exchange.sessions]\nidle_timeout_s = 60\n", ["exchange.sessions.warning_s: 60.0"]),
        (f"{TINY}[exchange.pod]\ndrain_window_s = 27\n", ["exchange.limits.drain_timeout_s: 30.0"]),
        (f'{TINY}[exchange.pod]\nname = "a:b"\n', ['exchange.pod.name: "a:b"']),
        (
            f"{TINY}[exchange.simulators]\nowner_timeout_s = 20\n",
            ["exchange.simulators.owner_timeout_s: 20.0"],
        ),
        (
            f'{TINY}[exchange.simulators.market]\nreplay_file = "prices.csv"\n',
            ["exchange.process.replay_directory: nothing"],
        ),
        (
            f'{TINY}[exchange.simulators]\ndriver = "inproc"\nmarket = {{ replay_file = "prices.csv" }}\n',
            ["exchange.simulators.market.replay_file: 'prices.csv'"],
        ),
        (
            SCALED.replace("postgresql:", "mysql:"),
            ["exchange.store.dsn: an address of another kind"],
        ),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_place(text: str, found: list[str]) -> None:
    """Several fields together show it, so no single one does; none of it shows a secret."""
    assert problems(text) == found


# Sessions and markets


def test_policies_are_written_as_words() -> None:
    """Spec 5.2: replace, share:N, reject."""
    policies = [SessionSettings(policy=text).device_policy() for text in ("replace", "share:3", "reject")]
    assert policies == [REPLACE, DevicePolicy(PolicyKind.SHARE, 3), REJECT]


def test_the_clocks_of_a_session_come_from_the_table() -> None:
    """Spec 5.2: idle, detached and maximum age are three settings."""
    settings = load(
        f"{TINY}[exchange.sessions]\nidle_timeout_s = 100\ndetached_timeout_s = 7\nmax_age_s = 0\n"
    )
    wanted = Timeouts(idle_timeout_s=100.0, detached_timeout_s=7.0, max_age_s=0.0)
    assert settings.sessions.timeouts() == wanted


def test_instruments_are_a_list_of_tables() -> None:
    """``MarketSettings`` is what REST clients send too; a file writes it as every other list of tables."""
    text = f"""{TINY}
[exchange.simulators.market]
seed = 7
[[exchange.simulators.market.instruments]]
symbol = "ACME"
price = "12.50"
[[exchange.simulators.market.instruments]]
symbol = "INIT"
"""
    market = load(text).simulators.market
    assert market.seed == 7
    assert market.instruments == (InstrumentSettings("ACME", "12.50"), InstrumentSettings("INIT"))
    line = text.splitlines().index('price = "12.50"') + 1
    with pytest.raises(ConfigError, match=rf"sojourn\.toml:{line}: .*instruments\[0\]\.price"):
        load_text(text.replace("12.50", "12,50"), "sojourn.toml", {})
    with pytest.raises(ConfigError, match=r"found an unknown key, wanted 'symbol', perhaps"):
        load_text(text.replace("symbol", "symbl", 1), "sojourn.toml", {})


def test_the_environment_reaches_every_table() -> None:
    """SOJOURN__EXCHANGE__...: lists of tables by number, tables that the file does not have."""
    settings = load(
        TINY,
        SOJOURN__EXCHANGE__SIMULATORS__MARKET__INSTRUMENTS__0__SYMBOL="ACME",
        SOJOURN__EXCHANGE__VALKEY__URL="redis://127.0.0.1/0",
        SOJOURN__EXCHANGE__EMBEDDED__DIRECTORY="/elsewhere",
        SOJOURN__EXCHANGE__HTTP__ORIGINS="https://a.test,https://b.test",
    )
    assert settings.simulators.market.instruments == (InstrumentSettings("ACME"),)
    assert settings.valkey.url == Secret("redis://127.0.0.1/0")
    assert settings.auth.dev_key_file == "/elsewhere/dev-key.json"
    assert settings.http.origins == ("https://a.test", "https://b.test")


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("maker_fee_ppm", {"maker_fee_ppm": 2, "taker_fee_ppm": 1}),
        ("instruments[1].symbol", {"instruments": (STOCKS[0], STOCKS[0])}),
        ("instruments[0].tick", {"instruments": (InstrumentSettings("A", tick="0"),)}),
        ("instruments[0].price", {"instruments": (InstrumentSettings("A", price="0"),)}),
        ("instruments[0].price", {"instruments": (InstrumentSettings("A", price="1", tick="0.3"),)}),
    ],
)
def test_what_no_simulation_would_take_is_a_problem_of_the_file(key: str, given: dict[str, object]) -> None:
    """Else each session would find out by a simulator that fails."""
    market = msgspec.structs.replace(MarketSettings(), **given)
    assert [found for found, _, _ in market.problems()] == [key]
    with pytest.raises(ValueError):  # noqa: PT011 - which one it is shows the line above
        Simulation(market)


def test_the_default_market_is_one_that_clients_may_ask_for() -> None:
    """Limits on what clients want must not shut out what they get."""
    assert problems(f"{TINY}[exchange.simulators]\ninstruments_count = 4\nstep_min_ms = 300\n") == [
        "exchange.simulators.instruments_count: 4",
        "exchange.simulators.step_min_ms: 300",
    ]


# Documents


def test_the_example_and_the_page_have_every_table() -> None:
    """Each setting is declared once; lists of tables show an item."""
    assert "#[[exchange.simulators.market.instruments]]" in example()
    page = reference_markdown()
    assert "## `[[exchange.simulators.market.instruments]]`" in page
    assert "## `[exchange.kubernetes.pool]`" in page
    assert "| `drain_window_s` | a number of at least 0, in seconds | `20.0` |" in page


def test_parts_that_need_a_restart_are_parts() -> None:
    """A reload compares them by these names."""
    assert set(ONLY_AT_START) < set(ExchangeSettings.__struct_fields__)


def tables_of(table: msgspec.Struct, path: str = "") -> Iterator[tuple[str, msgspec.Struct]]:
    """Yield every table that has only defaults, with its place."""
    for name in table.__struct_fields__:
        value = getattr(table, name)
        if isinstance(value, msgspec.Struct) and not any(
            one.required for one in msgspec.structs.fields(value)
        ):
            yield f"{path}{name}", value
            yield from tables_of(value, f"{path}{name}.")


def test_a_table_of_which_one_line_is_written_keeps_the_other_defaults() -> None:
    """What a table is without a line of it, and what its type says, are the same; the reference shows the latter."""
    settings = ExchangeSettings(
        listeners=(ListenerSettings(),),
        store=StoreSettings(dsn=Secret("postgresql:///exchange")),
        kubernetes=KubernetesSettings(image="sojourn"),
    )
    tables = dict(tables_of(settings))
    tables |= {f"store.{name}": table for name, table in tables_of(settings.store)}
    tables |= {f"kubernetes.{name}": table for name, table in tables_of(settings.kubernetes)}
    assert {"store.breaker", "valkey.breaker", "http.per_address", "kubernetes.pool"} <= tables.keys()
    assert {name for name, table in tables.items() if table != type(table)()} == set()


def test_a_database_that_is_back_is_asked_within_seconds() -> None:
    """An outage of 13 s: no more than store.breaker.open_max_s (5) later it is up again."""
    clock = ManualClock(1000.0)
    settings = StoreSettings(dsn=Secret("postgresql:///exchange"))
    breakers = Breakers(settings.breaker, clock)
    away_until, is_up = clock() + 13.0, False
    while not is_up:
        clock.advance(0.25)
        with suppress(BackendUnavailable), breakers.guard("database"):
            if clock() < away_until:
                raise BackendUnavailable("database", 0.0, "it is away")
            is_up = True
    assert clock() - away_until <= settings.breaker.open_max_s + 0.25


def test_secrets_are_masked() -> None:
    """``sojourn config show`` may be pasted into a report."""
    listing = show(load_text(SCALED, "sojourn.toml", {}))
    assert "pw@" not in listing
    assert "valkey.example.net" not in listing


def test_settings_can_be_made_without_a_file() -> None:
    """Tests and benchmarks put them together as they are."""
    settings = ExchangeSettings(
        listeners=(ListenerSettings(),),
        store=StoreSettings(dsn=Secret("postgresql:///x")),
        static=StaticSettings(endpoints=("127.0.0.1:7400",)),
    )
    assert [key for key, _, _ in settings.problems()] == ["auth.jwks_url"]
