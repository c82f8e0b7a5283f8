"""``sojourn itv2 make-token``: what it prints works, and what it is to be kept secret is printed once."""

from __future__ import annotations

import tomllib

import msgspec
import pytest
from typer.testing import CliRunner, Result

from sojourn.cli.main import app
from sojourn.gateways.itv2.http.config import SHORTEST_TOKEN, TokenSettings
from sojourn.gateways.itv2.http.tokens import TokenTable
from sojourn.web.credentials import is_bearer


def make(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["itv2", "make-token", *arguments])


def test_a_token_is_printed_once_and_its_digest_lets_its_holder_in() -> None:
    """Standard output is the token alone, for a file; the table for the configuration does not hold it."""
    result = make("home-assistant", "--scope", "read", "-s", "arm", "--panel", "house", "--needs-code")
    assert result.exit_code == 0
    token = result.stdout.removesuffix("\n")
    assert is_bearer(token)
    assert len(token) > SHORTEST_TOKEN
    assert result.output.count(token) == 1
    told = result.stderr[result.stderr.index("[[") :]
    (table,) = tomllib.loads(told)["itv2"]["http"]["tokens"]
    holder = TokenTable([msgspec.convert(table, TokenSettings)]).find(token)
    assert holder is not None
    assert (holder.name, holder.scopes, holder.panels, holder.needs_code) == (
        "home-assistant",
        {"read", "arm"},
        {"house"},
        True,
    )


def test_two_tokens_are_two() -> None:
    """Nobody can guess one from another; without options it may read."""
    assert make("a").stdout != make("a").stdout
    assert 'scopes = ["read"]' in make("a").stderr


@pytest.mark.parametrize("arguments", [("a b",), ("mqtt",), ("a", "--scope", "everything")])
def test_what_the_configuration_would_refuse_is_refused(arguments: tuple[str, ...]) -> None:
    """One clear line, and no token that is good for nothing."""
    result = make(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
