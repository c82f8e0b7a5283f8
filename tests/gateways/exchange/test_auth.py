"""Who may come in: bad tokens of every kind, keys that rotate, issuers that are away, tickets, development keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import stat
import time

import pytest
from aiohttp.test_utils import make_mocked_request
from core_lab import until
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from exchange_auth_lab import (
    AUDIENCE,
    EC_KEY,
    ED_KEY,
    ISSUER,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    SHORT_RSA_KEY,
    Issuer,
    MemoryTickets,
    authenticating,
    claims,
    jwk,
    part,
    token,
)
from typer.testing import CliRunner

from sojourn.cli.token import app as token_cli
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.exchange.auth import ticket_of
from sojourn.gateways.exchange.auth_config import AuthSettings, IntrospectionSettings, KeySettings
from sojourn.gateways.exchange.dev_issuer import make_key_file, public_set, read_key_file
from sojourn.gateways.exchange.key_set import read_keys
from sojourn.gateways.exchange.principal import Principal
from sojourn.gateways.exchange.problems import Refusal
from sojourn.gateways.exchange.tickets import TicketDesk

DEV_SECRET = Secret("x" * 32)


def settings(issuer=None, **changed):
    """Return settings for the issuer's keys."""
    where = {"jwks_url": f"{issuer.url}/jwks"} if issuer is not None else {"dev_secret": DEV_SECRET}
    return AuthSettings(**{"issuer": ISSUER, "audience": AUDIENCE, **where, **changed})


def introspecting(issuer, **changed):
    """Return settings that ask the issuer."""
    asked = {
        "url": f"{issuer.url}/introspect",
        "client_id": "us",
        "client_secret": Secret("hush"),
        **changed,
    }
    return AuthSettings(issuer=ISSUER, audience=AUDIENCE, introspection=IntrospectionSettings(**asked))


async def reason_of(lab, text):
    """Return why a token is refused."""
    with pytest.raises(Refusal) as caught:
        await lab.auth.check(text)
    assert text not in str(caught.value)
    assert text.encode() not in caught.value.body()
    return caught.value.reason or caught.value.kind.name


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (RSA_KEY, "RS256", "rsa"),
        (RSA_KEY, "PS256", "rsa"),
        (EC_KEY, "ES256", "ec"),
        (ED_KEY, "EdDSA", "ed"),
        (EC_KEY, "ES256", None),
    ],
)
def test_a_token_of_the_issuer_lets_its_subject_in(run, key, algorithm, kid):
    """RFC 7519 section 7.2: subject, scopes, end and id come out of a token that is good."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            principal = await lab.auth.check(token(key, algorithm, kid))
            assert principal == Principal("ana", frozenset({"exchange", "other"}), NOW + 600, "token-1")
            assert not lab.auth.health().is_degraded

    run(go())


BAD = [
    ("expired", {"exp": NOW - 11}),
    ("not_yet_valid", {"nbf": NOW + 11}),
    ("not_yet_valid", {"iat": NOW + 11}),
    ("bad_audience", {"aud": "another"}),
    ("bad_audience", {"aud": ["another", "third"]}),
    ("bad_issuer", {"iss": "https://evil.test/"}),
    ("missing_claim", {"aud": None}),
    ("missing_claim", {"iss": None}),
    ("missing_claim", {"exp": None}),
    ("missing_claim", {"sub": None}),
    ("bad_subject", {"sub": ""}),
    ("bad_subject", {"sub": "a" * 256}),
    ("bad_subject", {"sub": "a\nb"}),
    ("malformed", {"exp": True}),
    ("malformed", {"exp": "soon"}),
    ("malformed", {"exp": 10**400}),
    ("malformed", {"nbf": -1}),
    ("bad_algorithm", {"algorithm": "RS512"}),
    ("bad_type", {"headers": {"typ": "logout+jwt"}}),
    ("unknown_key", {"kid": "nobody"}),
    ("bad_signature", {"key": OTHER_RSA_KEY}),
    ("unknown_key", {"kid": "ec"}),
    ("malformed", {"headers": {"crit": ["x"], "x": 1}}),
]


@pytest.mark.parametrize(("reason", "changed"), BAD)
def test_a_token_that_is_not_good_is_refused_with_one_word(run, reason, changed):
    """RFC 8725: every claim that counts is looked at, and the client learns which one it was."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            assert await reason_of(lab, token(**changed)) == reason

    run(go())


def test_clocks_may_differ_by_the_leeway(run):
    """leeway_s holds for the end and the beginning, and no longer."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            await lab.auth.check(token(exp=NOW - 9, nbf=NOW + 9, iat=NOW - 100))

    run(go())


def test_a_token_without_a_signature_is_no_token(run):
    """RFC 8725 section 3.1: the algorithm none, in any spelling, is not on the list."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            for algorithm in ("none", "None", "NONE", "", None, 7, ["RS256"], {"a": 1}):
                forged = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."
                assert await reason_of(lab, forged) == "bad_algorithm"

    run(go())


@pytest.mark.parametrize("with_dev_secret", [False, True])
def test_a_public_key_is_no_secret_of_an_hmac(run, with_dev_secret):
    """RFC 8725 section 2.1, key confusion: HS256 over what everybody can fetch does not verify, whatever is allowed."""

    async def go():
        async with Issuer() as issuer:
            more = {"dev_secret": DEV_SECRET} if with_dev_secret else {}
            async with authenticating(settings(issuer, **more)) as lab:
                public = RSA_KEY.public_key()
                for secret in (
                    public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                    public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
                    public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                    json.dumps(jwk(RSA_KEY, "rsa")).encode(),
                    b"",
                ):
                    signed = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims())}"
                    mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
                    wanted = "bad_signature" if with_dev_secret else "bad_algorithm"
                    assert await reason_of(lab, f"{signed}.{part(mac)}") == wanted

    run(go())


def test_garbage_is_refused_and_nothing_else_happens(run):
    """Anything at all may stand behind Bearer; the answer is 401 and never an exception."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            good = token()
            head, body, signature = good.split(".")
            for garbage in (
                "", ".", "..", "a.b.c", "....", head, f"{head}.{body}", f"{head}.{body}.", f"{head}..{signature}",
                f"{part([1])}.{body}.{signature}", f"{part(b'{')}.{body}.{signature}",
                f"{part(b'[' * 5000)}.{body}.{signature}", f"{part({'alg': 'RS256', 'kid': 7})}.{body}.{signature}",
                f"{head}.{part([])}.{signature}", good + "A", good[:-4] + "AAAA", "\udcff.a.b", "ä.ö.ü", f"{good}.",
            ):  # fmt: skip
                with pytest.raises(Refusal) as caught:
                    await lab.auth.check(garbage)
                assert caught.value.kind.status == 401

    run(go())


def test_a_long_token_is_refused_before_it_is_looked_at(run):
    """token_limit_bytes: nobody makes us decode a megabyte."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer, token_limit_bytes=1_000)) as lab:
            assert await reason_of(lab, token(extra="x" * 1_000)) == "too_long"
            assert await reason_of(lab, "a" * 1_001) == "too_long"

    run(go())


def test_a_token_may_not_live_longer_than_the_operator_allows(run):
    """token_max_age_s bounds what a stolen token is worth."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer, token_max_age_s=700)) as lab:
            await lab.auth.check(token())
            assert await reason_of(lab, token(exp=NOW + 900)) == "too_long_lived"
            assert await reason_of(lab, token(iat=None)) == "too_long_lived"

    run(go())


@pytest.mark.parametrize(
    ("scope", "found"),
    [("a b  a", {"a", "b"}), (["a", "b", 7], {"a", "b"}), (None, set()), (7, set()), ({"a": 1}, set())],
)
def test_scopes_are_words_or_a_list(run, scope, found):
    """RFC 8693 section 4.2 and what issuers do instead."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            principal = await lab.auth.check(token(scope=scope))
            assert principal.scopes == found
            assert principal.may("")
            with pytest.raises(Refusal) as caught:
                lab.auth.require(principal, "exchange.admin")
            assert caught.value.kind.status == 403
            assert "insufficient_scope" in caught.value.headers()["WWW-Authenticate"]

    run(go())


def test_a_key_that_is_new_is_fetched_when_a_token_names_it(run):
    """Rotation: an unknown kid fetches once per min_refresh_s, however many ids are made up; all wait for one fetch."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            assert issuer.asked == 1
            issuer.keys.append(jwk(OTHER_RSA_KEY, "next"))
            fresh = token(OTHER_RSA_KEY, kid="next")
            assert await reason_of(lab, fresh) == "unknown_key"  # fetched a moment ago
            lab.advance(31)
            async with asyncio.TaskGroup() as group:
                checks = [group.create_task(lab.auth.check(fresh)) for _ in range(50)]
            assert {check.result().subject for check in checks} == {"ana"}
            assert issuer.asked == 2
            for number in range(20):
                assert await reason_of(lab, token(kid=f"made-up-{number}")) == "unknown_key"
            assert issuer.asked == 2

    run(go())


def test_a_key_that_is_taken_back_takes_its_tokens_with_it(run):
    """What was verified with old keys is forgotten when the keys change."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            await lab.auth.check(token())
            issuer.keys = [jwk(EC_KEY, "ec")]
            lab.advance(301)
            await lab.auth.check(token())  # the old keys, while new ones are fetched beside
            await until(lambda: lab.auth._sources[0]._fetching is None)
            assert await reason_of(lab, token()) == "unknown_key"

    run(go())


@pytest.mark.parametrize("trouble", ["stopped", "status", "garbage", "empty", "huge"])
def test_an_issuer_that_is_away_lets_everybody_go_on(run, trouble):
    """Stale if error: known keys stay good for keep_s, new tokens of them too; readiness says degraded."""

    async def go():
        async with Issuer() as issuer, authenticating(settings(issuer)) as lab:
            match trouble:
                case "stopped":
                    await issuer._runner.cleanup()
                case "status":
                    issuer.status = 500
                case "garbage":
                    issuer.body = b"<html>"
                case "empty":
                    issuer.body = b'{"keys": []}'
                case "huge":
                    issuer.body = b" " * 300_000
            for _ in range(3):
                lab.advance(3_600)
                await lab.auth.check(token(exp=lab.wall_now + 60, iat=lab.wall_now))
                await until(lambda: lab.auth._sources[0]._fetching is None)
            assert lab.auth.health().is_degraded
            assert "key" not in lab.auth.health().cause.lower() or trouble == "empty"
            known = token(exp=lab.wall_now + 200_000, iat=lab.wall_now)
            await lab.auth.check(known)
            lab.advance(90_000)
            await lab.auth.check(known)
            with pytest.raises(Refusal) as caught:
                await lab.auth.check(token(exp=lab.wall_now + 60, iat=lab.wall_now))
            assert caught.value.kind.status == 503
            assert int(caught.value.headers()["Retry-After"]) >= 1

    run(go())


def test_an_issuer_that_comes_back_is_asked_again(run):
    """retry_s: after an outage at the start the first token that comes a second later finds keys."""

    async def go():
        async with Issuer() as issuer:
            issuer.status = 500
            async with authenticating(settings(issuer)) as lab:
                assert lab.auth.health().is_degraded
                with pytest.raises(Refusal) as caught:
                    await lab.auth.check(token())
                assert caught.value.kind.name == "auth_unavailable"
                issuer.status = 200
                lab.advance(0.5)
                with pytest.raises(Refusal):
                    await lab.auth.check(token())
                lab.advance(0.6)
                assert (await lab.auth.check(token())).subject == "ana"
                assert not lab.auth.health().is_degraded

    run(go())


def test_a_redirect_is_not_followed(run):
    """Whom we believe is configured; whoever can redirect us must not become the issuer."""

    async def go():
        async with Issuer() as issuer:
            issuer.status = 302
            async with authenticating(settings(issuer)) as lab:
                assert "302" in lab.auth.health().cause

    run(go())


def test_keys_of_other_kinds_are_left_out():
    """RFC 7517 section 4: encryption keys, shared secrets, weak and unknown ones verify nothing here."""
    good = jwk(RSA_KEY, "good", alg="PS256", use="sig", key_ops=["verify"])
    members = [
        good,
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        jwk(RSA_KEY, "enc", use="enc"),
        jwk(RSA_KEY, "ops", key_ops=["sign"]),
        jwk(RSA_KEY, "hmac", alg="HS256"),
        jwk(SHORT_RSA_KEY, "short"),
        {**jwk(EC_KEY, "curve"), "crv": "secp256k1"},
        {**jwk(EC_KEY, "bad"), "x": "AAAA"},
        {"kty": "RSA", "kid": "half"},
        jwk(RSA_KEY, "k" * 300),
        jwk(RSA_KEY, 7),
        "text",
        None,
    ]
    (found,) = read_keys(json.dumps({"keys": members}).encode())
    assert found.kid == "good"
    assert found.algorithms == {"PS256"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"keys": {}}', b'{"keys": [' + b"{}," * 99 + b"{}]}", b"\xff", b"[" * 9999]
)
def test_what_is_no_key_set_is_an_error(body):
    """A set that cannot be read leaves the keys as they were; the caller hears why."""
    with pytest.raises(ValueError, match="no "):
        read_keys(body)


def test_a_key_file_is_read_again_when_it_has_changed(run, tmp_path):
    """jwks_file: a static source rotates by replacing the file."""

    async def go():
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps({"keys": [jwk(RSA_KEY, "rsa")]}))
        async with authenticating(settings(jwks_file=str(file), dev_secret=None)) as lab:
            await lab.auth.check(token())
            file.write_text(json.dumps({"keys": [jwk(EC_KEY, "ec")]}))
            lab.advance(31)
            assert (await lab.auth.check(token(EC_KEY, "ES256", "ec"))).subject == "ana"
            file.unlink()
            lab.advance(301)
            assert (await lab.auth.check(token(EC_KEY, "ES256", "ec"))).subject == "ana"

    run(go())


def test_a_development_secret_signs_tokens_where_it_is_configured(run):
    """HS256 is for a configured development secret only, which is at least as long as its hash."""

    async def go():
        async with authenticating(settings()) as lab:
            made = token(DEV_SECRET.reveal(), "HS256", None)
            assert (await lab.auth.check(made)).subject == "ana"
            assert await reason_of(lab, token("y" * 32, "HS256", None)) == "bad_signature"

    run(go())


# Introspection


def test_a_token_that_says_nothing_is_asked_about_once(run):
    """RFC 7662: one question for many requests at once, with our credentials; then the cache answers."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer)) as lab:
            issuer.answers["opaque"] = {"active": True, **claims()}
            async with asyncio.TaskGroup() as group:
                checks = [group.create_task(lab.auth.check("opaque")) for _ in range(20)]
            assert {check.result().subject for check in checks} == {"ana"}
            assert issuer.asked == 1
            assert issuer.credentials == ["Basic dXM6aHVzaA=="]
            lab.advance(31)
            await lab.auth.check("opaque")
            assert issuer.asked == 2

    run(go())


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        ("inactive", {"active": False}),
        ("inactive", {**claims()}),
        ("inactive", {"active": "true", **claims()}),
        ("inactive", {"active": 1, **claims()}),
        ("expired", {"active": True, **claims(exp=NOW - 60)}),
        ("no_expiry", {"active": True, **claims(exp=None)}),
        ("bad_audience", {"active": True, **claims(aud="other")}),
        ("bad_issuer", {"active": True, **claims(iss="other")}),
        ("bad_subject", {"active": True, **claims(sub=None)}),
    ],
)
def test_an_answer_that_is_no_clear_yes_is_a_no(run, reason, answer):
    """RFC 7662 section 2.2: active is a boolean; what else is said is checked as in a token."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer)) as lab:
            issuer.answers["opaque"] = answer
            assert await reason_of(lab, "opaque") == reason
            assert await reason_of(lab, "opaque") == reason
            assert issuer.asked == 1

    run(go())


@pytest.mark.parametrize("trouble", [b"", b"[]", b"<html>", b" " * 70_000, 500, 401])
def test_known_tokens_go_on_while_the_server_is_away(run, trouble):
    """keep_s: a yes stays one during an outage, until the token's own end; unknown tokens get 503, not 401."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer)) as lab:
            issuer.answers["opaque"] = {"active": True, **claims()}
            await lab.auth.check("opaque")
            if isinstance(trouble, int):
                issuer.status = trouble
            else:
                issuer.body = trouble or b"{"
            lab.advance(60)
            assert (await lab.auth.check("opaque")).subject == "ana"
            assert lab.auth.health().is_degraded
            with pytest.raises(Refusal) as caught:
                await lab.auth.check("unknown")
            assert caught.value.kind.name == "auth_unavailable"
            lab.advance(600)
            assert await reason_of(lab, "opaque") == "expired"

    run(go())


def test_the_circuit_opens_when_the_server_stays_away(run):
    """A dead server is not asked by every request; the core's breaker refuses at once."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer)) as lab:
            issuer.status = 500
            for number in range(20):
                with pytest.raises(Refusal):
                    await lab.auth.check(f"unknown-{number}")
            assert issuer.asked == 5

    run(go())


def test_made_up_tokens_push_nobody_out(run):
    """A yes and a no are kept apart, both bounded."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer, cache_count=3)) as lab:
            issuer.answers["opaque"] = {"active": True, **claims()}
            await lab.auth.check("opaque")
            for number in range(10):
                await reason_of(lab, f"unknown-{number}")
            asked = issuer.asked
            await lab.auth.check("opaque")
            assert issuer.asked == asked
            assert len(lab.auth._remote._refused) == 3

    run(go())


def test_questions_under_way_are_bounded(run):
    """questions_count: a slow server does not pile requests up here."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer, questions_count=2)) as lab:
            issuer.gate.clear()
            async with asyncio.TaskGroup() as group:
                for number in range(2):
                    group.create_task(reason_of(lab, f"unknown-{number}"))
                await until(lambda: issuer.asked == 2)
                with pytest.raises(Refusal) as caught:
                    await lab.auth.check("third")
                assert caught.value.kind.status == 503
                issuer.gate.set()

    run(go())


def test_who_goes_away_does_not_stop_the_question_for_the_others(run):
    """One question for many: a cancelled request leaves it to those that still wait."""

    async def go():
        async with Issuer() as issuer, authenticating(introspecting(issuer)) as lab:
            issuer.answers["opaque"] = {"active": True, **claims()}
            issuer.gate.clear()
            async with asyncio.TaskGroup() as group:
                first = group.create_task(lab.auth.check("opaque"))
                second = group.create_task(lab.auth.check("opaque"))
                await until(lambda: issuer.asked)
                first.cancel()
                issuer.gate.set()
                assert (await second).subject == "ana"
            assert issuer.asked == 1

    run(go())


# Requests


def request(path="/", **headers):
    """Return a request without a connection."""
    return make_mocked_request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_a_ticket_works_once(run):
    """Specification 5.3: single use, short life, for the session that it was given for; stores see its hash only."""

    async def go():
        async with authenticating(settings()) as lab:
            store = MemoryTickets(lab.clock)
            desk = TicketDesk(store, 30.0)
            principal = await lab.auth.check(token(DEV_SECRET.reveal(), "HS256", None))
            ticket = await desk.give(principal, "session-1")
            assert ticket not in store.kept
            shown = request(f"/v1/ws?ticket={ticket}", Origin="https://desk.test")
            grant = await lab.auth.authenticate_handshake(shown, desk, ("https://desk.test",))
            assert grant.session == "session-1"
            assert grant.principal == principal
            with pytest.raises(Refusal) as caught:
                await lab.auth.authenticate_handshake(shown, desk, ("https://desk.test",))
            assert caught.value.kind.name == "bad_ticket"
            late = await desk.give(principal, "session-1")
            lab.advance(31)
            for bad in (late, "", "a" * 43, "a" * 44, "ä" * 43):
                with pytest.raises(Refusal):
                    await desk.take(bad)

    run(go())


def test_a_ticket_ends_with_its_token(run):
    """Who gets a ticket shortly before the end of a token does not outlive it."""

    async def go():
        async with authenticating(settings()) as lab:
            desk = TicketDesk(MemoryTickets(lab.clock), 30.0)
            principal = await lab.auth.check(token(DEV_SECRET.reveal(), "HS256", None, exp=NOW + 5))
            ticket = await desk.give(principal, "session-1")
            lab.advance(16)
            with pytest.raises(Refusal) as caught:
                await lab.auth.authenticate_handshake(request(f"/?ticket={ticket}"), desk, ())
            assert caught.value.reason == "expired"

    run(go())


def test_a_ticket_comes_as_a_subprotocol_or_in_the_query():
    """Proxies log URLs and not subprotocols: the browser's WebSocket(url, [..., "ticket.T"]) is better."""
    found = request(Sec_WebSocket_Protocol="session.v1.json, ticket.abc")
    assert ticket_of(found) == "abc"
    assert ticket_of(request("/?ticket=def")) == "def"
    assert ticket_of(request()) is None


def test_a_store_that_is_away_is_no_bad_ticket(run):
    """The caller answers 503: the ticket may be good."""

    async def go():
        store = MemoryTickets(lambda: 0.0)
        store.is_away = True
        with pytest.raises(BackendUnavailable):
            await TicketDesk(store, 30.0).take("a" * 43)

    run(go())


def test_a_handshake_without_a_ticket_shows_a_token(run):
    """Programs that are no browsers send Authorization; a refusal is counted by its reason."""

    async def go():
        async with authenticating(settings()) as lab:
            desk = TicketDesk(MemoryTickets(lab.clock), 30.0)
            good = token(DEV_SECRET.reveal(), "HS256", None)
            grant = await lab.auth.authenticate_handshake(request(Authorization=f"Bearer {good}"), desk, ())
            assert grant.session == ""
            with pytest.raises(Refusal):
                await lab.auth.authenticate_handshake(request(), desk, ())
            assert await lab.auth.authenticate(request(Authorization=f"Bearer {good}")) == grant.principal
            rows = {labels.get("reason"): value for _, labels, value in lab.auth.counters()}
            assert rows["no_token"] == 1

    run(go())


# Settings and the development issuer


@pytest.mark.parametrize(
    ("keys", "changed"),
    [
        ([], {"jwks_url": "https://login.test/jwks"}),
        ([], {"jwks_url": "http://127.0.0.1:1/jwks"}),
        ([], {"dev_key_file": "x"}),
        (["jwks_url"], {"jwks_url": "http://login.test/jwks"}),
        (["jwks_url"], {"jwks_url": "https://user:word@login.test/jwks"}),
        (["jwks_url"], {"jwks_url": "file:///etc/passwd"}),
        (["jwks_url"], {"jwks_url": "https://[::1/jwks"}),
        (["jwks_file"], {"jwks_url": "https://login.test/jwks", "jwks_file": "x"}),
        (["dev_secret"], {"dev_secret": Secret("short")}),
        (["issuer"], {"dev_key_file": "x", "issuer": ""}),
    ],
)
def test_settings_that_would_let_anybody_in_are_problems(keys, changed):
    """Keys come over https or from this machine."""
    assert [key for key, _, _ in AuthSettings(**changed).problems()] == keys


def test_settings_of_parts_are_checked_too():
    """A question about a token shows the token: only over https; keys are kept longer than until the next fetch."""
    asked = IntrospectionSettings(url="http://x.test/", client_id="a", client_secret=Secret("b"))
    assert [key for key, _, _ in asked.problems()] == ["url"]
    both = AuthSettings(introspection=asked, dev_secret=DEV_SECRET)
    assert [key for key, _, _ in both.problems()] == ["dev_secret"]
    assert [key for key, _, _ in KeySettings(keep_s=1).problems()] == ["keep_s"]


def test_the_development_issuer_makes_keys_and_tokens(run, tmp_path):
    """`sojourn token`: a key file that only its owner reads, tokens that the configured server believes."""
    file = tmp_path / "dev" / "key.json"
    cli = CliRunner()
    made = cli.invoke(token_cli, ["new-key", str(file)])
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cli.invoke(token_cli, ["new-key", str(file)]).exit_code != 0
    printed = cli.invoke(
        token_cli,
        [
            "issue",
            "ana",
            "--key",
            str(file),
            "--scope",
            "exchange",
            "--scope",
            "exchange.admin",
            "--lifetime",
            "60",
        ],
    )
    assert printed.exit_code == 0, printed.output
    public = cli.invoke(token_cli, ["jwks", "--key", str(file)]).output
    assert '"d"' not in public

    async def go():
        jwks = tmp_path / "jwks.json"
        jwks.write_text(public)
        for where in ({"dev_key_file": str(file)}, {"jwks_file": str(jwks)}):
            async with authenticating(AuthSettings(**where)) as lab:
                lab.wall_now = time.time()
                principal = await lab.auth.check(printed.output.strip())
                assert principal.subject == "ana"
                assert principal.scopes == {"exchange", "exchange.admin"}

    run(go())


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    """Who can read the key can be anybody."""
    file = tmp_path / "key.json"
    make_key_file(file)
    jwk_of_file = read_key_file(file)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others"):
        read_key_file(file)
    for content in ("", "{}", "[]", public_set(jwk_of_file).decode(), json.dumps(jwk(EC_KEY, "a"))):
        file.write_text(content)
        file.chmod(0o600)
        with pytest.raises(ConfigError):
            read_key_file(file)
    with pytest.raises(ConfigError):
        read_key_file(tmp_path / "missing")
