"""What a request shows of who sends it: tokens, tickets, origins."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from sojourn.web.credentials import (
    TOKEN_PARAMETERS,
    bearer_of,
    check_origin,
    is_bearer,
    new_ticket,
    offered_protocols,
    refuse_token_in_url,
    ticket_key,
    ticket_of,
)
from sojourn.web.problems import Refusal


def request(path="/", **headers):
    """Return a request without a connection."""
    return make_mocked_request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_the_bearer_token_is_taken_from_its_header_only():
    """RFC 6750 section 2.1; the scheme in any case, exactly one token."""
    assert bearer_of(request(Authorization="bearer abc.def")) == "abc.def"
    for headers in (
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer a b"},
        {"Authorization": "Bearer a\x0bb"},
    ):
        with pytest.raises(Refusal) as caught:
            bearer_of(request(**headers))
        assert caught.value.headers()["WWW-Authenticate"] == 'Bearer realm="sojourn"'


@pytest.mark.parametrize(
    ("text", "is_good"),
    [("a.b-c_d~e+f/g==", True), ("", False), ("a b", False), ("a=b", False), ("ä", False)],
)
def test_what_can_stand_behind_bearer(text, is_good):
    """RFC 6750 section 2.1: b64token."""
    assert is_bearer(text) == is_good


@pytest.mark.parametrize("name", ["token", "access_token", "Access_Token", "jwt", "TOKEN"])
def test_a_token_in_a_url_is_refused_even_if_it_is_good(name):
    """RFC 6750 section 5.3: URLs are logged; the answer says what to do and repeats nothing."""
    with pytest.raises(Refusal) as caught:
        refuse_token_in_url(request(f"/v1/sessions?{name}=SeCrEt", Authorization="Bearer good"))
    assert caught.value.kind.name == "token_in_url"
    assert b"SeCrEt" not in caught.value.body()
    assert "SeCrEt" not in str(caught.value)


def test_who_takes_tickets_as_subprotocols_only_may_refuse_them_in_urls():
    """What is a secret in a URL is the gateway's to say."""
    shown = request("/ws?ticket=abc")
    refuse_token_in_url(shown)
    with pytest.raises(Refusal):
        refuse_token_in_url(shown, TOKEN_PARAMETERS | {"ticket"})


def test_web_pages_come_from_listed_origins_only():
    """RFC 6455 section 10.2; programs that are no browsers send no origin."""
    check_origin(request(), ())
    check_origin(request(Origin="https://desk.test"), ("https://desk.test",))
    for origin in ("https://evil.test", "null", "https://desk.test.evil.test", "", "https://desk.test/"):
        with pytest.raises(Refusal) as caught:
            check_origin(request(Origin=origin), ("https://desk.test",))
        assert caught.value.kind.status == 403


def test_a_ticket_is_found_among_subprotocols():
    """RFC 6455 section 4.1, item 10: proxies log URLs and not this header."""
    found = request(Sec_WebSocket_Protocol="session.v1.json, ticket.abc")
    assert offered_protocols(found) == ("session.v1.json", "ticket.abc")
    assert ticket_of(found) == "abc"
    assert ticket_of(request(Sec_WebSocket_Protocol="session.v1.json")) is None
    assert ticket_of(request("/?ticket=def")) is None


def test_tickets_are_kept_under_what_is_no_ticket():
    """Who reads a store of tickets can use none of them; what cannot be a ticket is not even looked for."""
    ticket, key = new_ticket()
    assert key == ticket_key(ticket)
    assert ticket not in key
    assert new_ticket()[0] != ticket
    for other in ("", "a" * 42, "a" * 44, "ä" * 43, ticket + "\n"):
        assert ticket_key(other) is None
