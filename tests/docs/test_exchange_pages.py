"""What the pages about the exchange gateway list by hand is what the code has: values, states, words, close codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from sojourn.gateways.exchange import auth_config, bodies, link_config, view
from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange.config import ExchangeSettings
from sojourn.gateways.exchange.lifecycle import EndReason, ExpiryCause, SessionState, SimulatorState
from sojourn.gateways.exchange.market.engine import OrderUpdate, Quote
from sojourn.gateways.exchange.market.orders import OrderStatus, OrderType, Reject, Side, TimeInForce
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.market.simulation import Holding, Portfolio
from sojourn.gateways.exchange.messages import CLOSE_CODES, QualityReport
from sojourn.gateways.exchange.peer import asks

DOCS = Path(__file__).resolve().parents[2] / "docs"
VALUES = (DOCS / "reference/exchange-values.md").read_text(encoding="utf-8")
CLIENT = (DOCS / "howto/write-a-session-client.md").read_text(encoding="utf-8")
PAGES = (
    "explanation/exchange-sessions.md",
    "howto/choose-where-simulators-run.md",
    "howto/run-many-pods.md",
    "howto/run-on-kubernetes.md",
    "howto/trust-your-issuer.md",
    "howto/write-a-session-client.md",
    "reference/exchange-values.md",
    "tutorial/first-session.md",
)
"""Those in which settings are named without the table in front."""


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return the words in code style of the first column of every table."""
    return {
        word
        for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
        for word in re.findall(r"`([^`]+)`", row)
    }


def words_of_row(text: str, head: str) -> set[str]:
    """Return the words in code style of the second cell of a row."""
    (cell,) = re.findall(rf"^\| {re.escape(head)} \| (.+) \|$", text, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", cell))


def keys(value: dict[str, Any]) -> set[str]:
    return set(value)


UPDATE = OrderUpdate(
    account="user",
    number=1,
    request_id="a",
    symbol="AAA",
    side=Side.BUY,
    type=OrderType.LIMIT,
    time_in_force=TimeInForce.GTC,
    quantity=2,
    filled=1,
    remaining=1,
    status=OrderStatus.PARTIALLY_FILLED,
    price_e6=1,
    reason="why",
    average_price_e6=1,
    fee_e6=1,
    last_quantity=1,
    last_price_e6=1,
    last_fee_e6=1,
)


def test_every_field_of_an_order_is_on_the_page() -> None:
    """``bodies.order_value`` is the only place where an order gets its words."""
    value = bodies.order_value(UPDATE)
    text = section(VALUES, "An order as it stands")
    assert keys(value) <= first_cells(text)
    assert keys(value["last"]) <= set(re.findall(r"`(\w+)`", text))
    assert set(bodies.STATUSES.values()) <= words_of_row(text, "`status`") | {"new"} | set(
        re.findall(r"`(\w+)`", text)
    )
    assert {field.name for field in msgspec.structs.fields(t.Order)} - {"request"} <= first_cells(text)


def test_every_word_of_a_refusal_is_on_the_page_and_no_other() -> None:
    """``Reject``: the words that clients get."""
    words = {value for name, value in vars(Reject).items() if name.isupper()}
    told = set(re.findall(r"^\| `(\w+)` \| ", section(VALUES, "An order as it stands"), re.MULTILINE))
    assert words <= told
    assert told - words <= keys(bodies.order_value(UPDATE))


def test_every_field_of_a_row_is_on_the_page() -> None:
    """``bodies.row_value``."""
    row = bodies.row_value(Quote("AAA", 1, 1, 1, 1, 1, 1, 1))
    assert keys(row) == first_cells(section(VALUES, "A row of the market"))


def test_every_field_of_a_portfolio_is_on_the_page() -> None:
    """``bodies.portfolio_value``."""
    holding = Holding("AAA", *([1] * (len(Holding._fields) - 1)))
    value = bodies.portfolio_value(
        Portfolio(**dict.fromkeys(Portfolio._fields, 1) | {"holdings": (holding,)})
    )
    text = section(VALUES, "A portfolio")
    assert keys(value) == first_cells(text)
    assert keys(value["positions"][0]) == words_of_row(text, "`positions`")


def test_states_and_reasons_are_those_of_the_code() -> None:
    """``lifecycle`` and ``owner``."""
    text = section(VALUES, "States and reasons")
    assert words_of_row(text, "`state` of a session") == set(SessionState)
    assert words_of_row(text, "`reason` of `ended`, `ended_reason`") == set(EndReason)
    assert words_of_row(text, "`reason` of `warn`") == set(ExpiryCause)
    assert words_of_row(text, "`state` of a simulator over REST") == set(SimulatorState)
    assert words_of_row(text, "`what` of `degraded` and `restored`") == {view.EVENTS, view.SIMULATOR}
    grades = get_args(next(one.type for one in msgspec.structs.fields(QualityReport) if one.name == "grade"))
    assert words_of_row(text, "`grade` of `quality`") == set(grades)


@pytest.mark.parametrize("struct", [MarketSettings, InstrumentSettings])
def test_every_field_of_a_market_is_on_the_page(struct: Any) -> None:
    """``market.settings``."""
    assert {one.name for one in msgspec.structs.fields(struct)} <= first_cells(
        section(VALUES, "A market to ask for")
    )


def test_the_table_for_clients_has_every_close_code_and_what_to_do() -> None:
    """``messages.CLOSE_CODES`` is the one list."""
    rows = re.findall(
        r"^\| (\d{4})(?:, or none)? \| (.+?) \| (yes|no)", section(CLIENT, "The rules"), re.MULTILINE
    )
    told = {int(code): (name.strip("`"), answer == "yes") for code, name, answer in rows}
    del told[1006]  # nobody closes with it: what a client has where no close frame came
    assert told == {one.code: (one.name, one.comes_back) for one in CLOSE_CODES}


def test_the_client_of_the_page_knows_which_codes_and_errors_mean_what() -> None:
    """It is what people will copy."""
    (away,) = re.findall(r"^STAY_AWAY = (\{.+\})$", CLIENT, re.MULTILINE)
    assert set(map(int, re.findall(r"\d+", away))) == {one.code for one in CLOSE_CODES if not one.comes_back}
    (again,) = re.findall(r"^AGAIN = (\{.+\})$", CLIENT, re.MULTILINE)
    assert set(re.findall(r'"(\w+)"', again)) == asks._AGAIN


def paths(struct: Any, prefix: str = "") -> set[str]:
    """Return every setting of a table as ``table.key``, and its tables."""
    found: set[str] = set()
    for field in msgspec.structs.fields(struct):
        found.add(prefix + field.name)
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                found |= paths(kind, f"{prefix}{field.name}.")
    return found


TABLES = {field.name for field in msgspec.structs.fields(ExchangeSettings)}
_SETTING = re.compile(r"`(?:exchange\.)?((?:\w+\.)+\w+)(?: = [^`]+)?`")


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_a_page_names_exist(page: str) -> None:
    """A setting by another name helps nobody."""
    known = paths(ExchangeSettings)
    for name in _SETTING.findall((DOCS / page).read_text(encoding="utf-8")):
        is_file = name.endswith((".md", ".toml", ".log"))
        assert is_file or name.partition(".")[0] not in TABLES or name in known, name


def test_defaults_that_the_pages_tell_are_those_of_the_code() -> None:
    """Numbers in prose get old first."""
    links, auth = link_config.LinkSettings(), auth_config.AuthSettings()
    assert (links.heartbeat_every_s, links.hello_timeout_s, links.tick_ms, links.bad_frames_count) == (
        10,
        5,
        50,
        10,
    )
    assert (auth.ticket_ttl_s, auth.leeway_s, auth.keys.refresh_s, auth.keys.keep_s) == (30, 10, 300, 86_400)
    assert (auth.keys.min_refresh_s, auth.algorithms) == (30, ("RS256", "PS256", "ES256", "EdDSA"))
    fields = {one.name: one.default for one in msgspec.structs.fields(ExchangeSettings)}
    valkey, pod = fields["valkey"], fields["pod"]
    assert (valkey.lease_s, valkey.renew_every_s, valkey.log_keep_s) == (15, 5, 900)
    assert (valkey.log_keep_count, valkey.log_keep_bytes) == (1_000, 1_048_576)
    assert (pod.drain_wait_s, pod.drain_window_s) == (3, 20)
    assert fields["simulators"].owner_timeout_s == 300
    assert (fields["process"].dies_with_parent, fields["simulators"].driver) == (False, "process")
