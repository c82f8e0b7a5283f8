"""Logins of clients: libpq against every method, and scripted clients that break the rules."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from login_talk import LoginServer, Scripted

from sojourn.core.secret import Secret
from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.errors import ConnectionLost, LocalProtocolError, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.auth import Credentials, login_client, md5_hash, no_rule
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.scram import KeyCache, derive_keys, parse_verifier

WORD = "pencil \u00e9"
SALT = b"0123456789abcdef"
VERIFIER = derive_keys(WORD.encode(), SALT, 4096).verifier.text()
HASH = md5_hash("ana", WORD.encode())
FAILED = 'password authentication failed for user "ana"'


async def log_in(server, **more):
    parameters = {"host": "127.0.0.1", "port": server.port, "user": "ana", "dbname": "shop"} | more
    connection = await psycopg.AsyncConnection.connect(**parameters)
    await connection.close()


async def refused(server, **more):
    with pytest.raises(psycopg.OperationalError) as caught:
        await log_in(server, **more)
    return str(caught.value)


@pytest.fixture
def authority(tmp_path):
    return ThrowAwayAuthority(tmp_path)


def login(talk, method, secret, user="ana", **more):
    """Run a login of a scripted client."""

    async def find(name):
        assert name == user
        return Secret(secret) if secret is not None else None

    coroutine = login_client(talk, user, "shop", method=method, find_secret=find, **more)
    return asyncio.run(coroutine)


@pytest.mark.parametrize(
    ("method", "stored", "learned"),
    [
        ("scram-sha-256", VERIFIER, "scram"),
        ("scram-sha-256", WORD, "password"),
        ("md5", VERIFIER, "scram"),
        ("md5", HASH, "md5"),
        ("md5", WORD, "password"),
        ("password", VERIFIER, "password"),
        ("password", HASH, "password"),
        ("password", WORD, "password"),
    ],
)
def test_libpq_logs_in_by_every_method_with_every_stored_secret(run, method, stored, learned):
    """Right passwords come in and teach us what fits; wrong ones and unknown users hear the same words."""

    async def scenario():
        async with LoginServer(method, {"ana": Secret(stored)}).running() as server:
            await log_in(server, password=WORD)
            await log_in(server, password=WORD)
            assert FAILED in await refused(server, password="wrong")
            server.secrets.clear()
            assert FAILED in await refused(server, password=WORD)
            server.secrets["ana"] = Secret("")
            assert FAILED in await refused(server, password=WORD)
        return server

    server = run(scenario())
    credentials = server.outcomes[0]
    assert credentials == server.outcomes[1]
    known = {name for name in ("password", "scram", "md5") if getattr(credentials, name) is not None}
    assert known == {learned}
    if learned == "password":
        assert credentials.password.reveal() == WORD
    if learned == "md5":
        assert credentials.md5.reveal() == HASH
    if learned == "scram":
        assert credentials.scram == derive_keys(WORD.encode(), SALT, 4096)
    assert [error.sqlstate for error in server.outcomes[2:]] == ["28P01"] * 3
    assert WORD not in repr(server.outcomes)


def test_an_md5_hash_is_no_use_for_scram(run):
    """As PostgreSQL: such a user is refused like one who is not there."""

    async def scenario():
        async with LoginServer("scram-sha-256", {"ana": Secret(HASH)}).running() as server:
            assert FAILED in await refused(server, password=WORD)
            assert FAILED in await refused(server, password=HASH)

    run(scenario())


def test_libpq_that_requires_channel_binding_gets_it_over_tls(run, authority):
    """SCRAM-SHA-256-PLUS with tls-server-end-point, and none without TLS."""
    identity = authority.issue("server", ("127.0.0.1",))
    required = {"password": WORD, "channel_binding": "require"}
    tls = {"sslmode": "verify-full", "sslrootcert": str(authority.ca_file)}

    async def scenario():
        async with LoginServer("scram-sha-256", {"ana": Secret(VERIFIER)}, identity).running() as server:
            await log_in(server, **required, **tls)
            await log_in(server, password=WORD, channel_binding="disable", **tls)
            assert "channel binding" in await refused(server, **required, sslmode="disable")
        return server

    server = run(scenario())
    assert b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0" in server.sent[0]
    assert b"PLUS" not in server.sent[2]
    assert server.outcomes[0] == server.outcomes[1]


def test_a_certificate_names_the_user(run, authority):
    """The method cert: whoever has another certificate, or none, is refused."""
    identity = authority.issue("server", ("127.0.0.1",))
    ana, bob = (authority.issue(name, (name,)) for name in ("ana", "bob"))

    def files(owner):
        return {"sslcert": str(owner.certificate_file), "sslkey": str(owner.private_key_file)}

    async def scenario():
        server = LoginServer("cert", {"ana": Secret(WORD)}, identity, authority.ca_file)
        async with server.running():
            await log_in(server, sslmode="require", **files(ana))
            certificate_failed = 'certificate authentication failed for user "ana"'
            assert certificate_failed in await refused(server, sslmode="require", **files(bob))
            assert certificate_failed in await refused(server, sslmode="disable")
        return server.outcomes

    outcomes = run(scenario())
    assert outcomes[0] == Credentials("ana", password=Secret(WORD))
    assert outcomes[1].sqlstate == "28000"


def test_trust_asks_nothing_and_knows_what_is_stored():
    """A verifier is good for no login of ours; a password or an md5 hash is."""
    assert login(Scripted(), "trust", WORD) == Credentials("ana", password=Secret(WORD))
    assert login(Scripted(), "trust", HASH) == Credentials("ana", md5=Secret(HASH))
    assert login(Scripted(), "trust", VERIFIER) == Credentials("ana")
    assert login(Scripted(), "trust", None).is_empty


def test_a_map_decides_which_user_a_certificate_may_be():
    """hba option map=: the certificate's name is looked up instead of compared."""
    talk = Scripted(is_tls=True, certificate_names=("ana.corp",))
    assert (
        login(talk, "cert", None, allows_certificate=lambda name, user: name == f"{user}.corp").user == "ana"
    )
    with pytest.raises(Refusal):
        login(talk, "cert", None, allows_certificate=lambda *names: not names)
    with pytest.raises(Refusal):
        login(Scripted(certificate_names=("ana",)), "cert", None)


def test_rules_refuse_with_28000_and_say_whom():
    """The sqlstate of PostgreSQL; the words that users search for."""
    with pytest.raises(Refusal) as caught:
        login(Scripted(), "reject", WORD)
    assert caught.value.sqlstate == "28000"
    error = no_rule(Scripted(is_tls=True), "ana", "shop")
    assert error.message.startswith(
        'no pg_hba.conf entry for host "192.0.2.1", user "ana", database "shop", SSL'
    )
    assert "[local]" in no_rule(Scripted(address="unix"), "ana", "shop").message
    with pytest.raises(LocalProtocolError):
        login(Scripted(), "hba", WORD)


def test_a_client_that_ends_or_talks_of_something_else_is_no_wrong_password():
    """libpq without a password closes; a query in place of an answer breaks the protocol."""
    for script, error in (
        ((), ConnectionLost),
        ((wire.terminate(),), ConnectionLost),
        ((wire.query("SELECT 1"),), WireError),
        ((wire.sasl_response(b"pencil"),), WireError),
        ((wire.sasl_response(b"pen\0cil\0"),), WireError),
        ((wire.password_message(b"x" * 70_000),), WireError),
    ):
        for method in ("password", "md5"):
            with pytest.raises(error):
                login(Scripted(*script), method, HASH)


def test_a_mechanism_that_was_not_offered_is_refused():
    """-PLUS without TLS is not on the list."""
    talk = Scripted(wire.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"))
    with pytest.raises(Refusal) as caught:
        login(talk, "scram-sha-256", VERIFIER)
    assert caught.value.sqlstate == "08P01"


def test_a_client_may_wait_for_an_empty_challenge():
    """RFC 4422 section 3.3: no initial response."""
    talk = Scripted(
        wire.sasl_initial_response("SCRAM-SHA-256", None),
        wire.sasl_response(b"n,,n=,r=abc"),
    )
    with pytest.raises(ConnectionLost):
        login(talk, "scram-sha-256", VERIFIER)
    assert talk.sent[1] == wire.authentication_sasl_continue(b"")
    assert b"r=abc" in talk.sent[2]


def test_passwords_that_are_not_utf8_or_empty_are_refused_like_wrong_ones():
    """What we keep of a client must be a text; nobody's empty password is right."""
    for password, stored in ((b"\xff", md5_hash("ana", b"\xff")), (b"", md5_hash("ana", b""))):
        with pytest.raises(Refusal) as caught:
            login(Scripted(wire.password_message(password)), "password", stored)
        assert caught.value.message == FAILED


def test_a_costly_verifier_is_checked_beside_the_loop_and_only_once():
    """Above ``INLINE_ITERATIONS_COUNT`` a thread computes; the keys are kept for the next login."""
    keys = KeyCache()
    stored = derive_keys(b"pencil", SALT, 20_000).verifier.text()
    for password in (b"pencil", b"wrong"):
        try:
            login(Scripted(wire.password_message(password)), "password", stored, keys=keys)
        except Refusal:
            assert password == b"wrong"
    assert len(keys) == 1
    assert keys.find(b"pencil", SALT, 20_000).verifier == parse_verifier(stored)


@given(st.lists(st.binary(max_size=60), max_size=3), st.sampled_from(["password", "md5", "scram-sha-256"]))
@settings(max_examples=150, deadline=None)
def test_random_answers_end_in_a_refusal_or_a_wire_error(bodies, method):
    """Bad input of the issue: never anything else, and never a login."""
    talk = Scripted(*(wire.sasl_response(body) for body in bodies))
    with pytest.raises((Refusal, WireError, ConnectionLost)):
        login(talk, method, HASH)


@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_random_sasl_messages_end_in_a_refusal_or_a_wire_error(first, final, is_plus):
    """Damaged SCRAM inside well-formed SASL messages."""
    mechanism = "SCRAM-SHA-256-PLUS" if is_plus else "SCRAM-SHA-256"
    script = wire.sasl_initial_response(mechanism, first), wire.sasl_response(final)
    with pytest.raises((Refusal, WireError)):
        login(Scripted(*script, is_tls=is_plus, channel_binding=b"hash"), "scram-sha-256", VERIFIER)
