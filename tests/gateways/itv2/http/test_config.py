"""``[itv2.http]``: what the operator may say, and the one line about what not."""

from __future__ import annotations

import pytest
from itv2_api_lab import token

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.config import Itv2Settings
from sojourn.gateways.itv2.http.config import Itv2HttpSettings, TokenSettings

LONG = "0123456789abcdef0123"


def problems(settings):
    return [(key, wanted) for key, _, wanted in settings.problems()]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("token", "one of them")),
        ({"token": Secret(LONG), "sha256": "0" * 64}, ("token", "one of them")),
        ({"token": Secret("short")}, ("token", "20 characters or more")),
        ({"token": Secret(LONG + " ü")}, ("token", "letters, digits, - . _ ~ + / =")),
        ({"sha256": "0" * 63}, ("sha256", "64 hex digits in lower case")),
        ({"name": "mqtt", "token": Secret(LONG)}, ("name", "another; this one is an interface of its own")),
    ],
)
def test_a_token_that_is_none_is_named_and_not_shown(fields, wanted):
    """Bad input gets one clear line; secrets never appear."""
    settings = TokenSettings(**{"name": "ana", **fields})
    assert problems(settings) == [wanted]
    for _, found, _ in settings.problems():
        assert LONG not in found
        assert "short" not in found.replace("a short one", "")


def test_a_good_token_has_no_problems():
    """As ``openssl rand -hex 32`` and ``-base64`` make them."""
    assert not problems(token("ana", "read"))
    assert not problems(TokenSettings(name="ana", token=Secret("q83vASNFZ4mrze8BI0VniQ==")))


def test_two_tokens_may_not_share_a_name():
    """The audit tells who it was."""
    settings = Itv2HttpSettings(tokens=(token("ana", "read"), token("ana", "admin")))
    assert problems(settings) == [("tokens", "one each")]


def test_tokens_are_of_panels_that_there_are():
    """A misspelt panel would lock its holder out, silently."""
    settings = Itv2Settings(http=Itv2HttpSettings(tokens=(token("ana", "read", panels=("huose",)),)))
    assert problems(settings) == [("http.tokens[0].panels", "names of [[itv2.panels]]")]


def test_nobody_outside_is_listened_to_by_default():
    """Tokens and codes would go over the network in the clear."""
    assert Itv2HttpSettings().listeners[0].address.startswith("127.0.0.1:")
