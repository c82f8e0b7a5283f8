"""SCRAM-SHA-256 from message to message: vectors, channel binding, and what damaged messages come to."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError, WireError
from sojourn.gateways.postgres.messages import Refusal
from sojourn.gateways.postgres.scram import (
    MAX_ITERATIONS_COUNT,
    SCRAM,
    SCRAM_PLUS,
    ClientExchange,
    KeyCache,
    ServerExchange,
    Verifier,
    derive_keys,
    normalized,
    parse_verifier,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = derive_keys(b"pencil", SALT, 4096)
CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
BOTH = CLIENT_NONCE + SERVER_NONCE
CLIENT_FIRST = b"n,,n=user,r=" + CLIENT_NONCE
SERVER_FIRST = b"r=" + BOTH + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=" + BOTH + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def login(client, server, keys=KEYS):
    """Run a whole exchange between both sides of ours."""
    challenge = client.challenge(server.first(client.mechanism, client.first()))
    assert challenge == (keys.salt, keys.iterations)
    outcome = server.final(client.final(keys))
    if outcome is not None:
        client.verify(outcome)
    return outcome


def test_the_vector_of_the_rfc_holds_for_both_sides():
    """RFC 7677 section 3."""
    server = ServerExchange(KEYS.verifier, nonce=SERVER_NONCE)
    assert server.first(SCRAM, CLIENT_FIRST) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL
    assert server.client_key == KEYS.client_key
    client = ClientExchange(user=b"user", nonce=CLIENT_NONCE)
    assert client.first() == CLIENT_FIRST
    assert client.challenge(SERVER_FIRST) == (SALT, 4096)
    assert client.final(KEYS) == CLIENT_FINAL
    client.verify(SERVER_FINAL)


def test_the_learned_key_logs_in_where_the_same_verifier_is_stored():
    """Pass-through: ClientKey is the proof XOR the ClientSignature (RFC 5802 section 3)."""
    server = ServerExchange(KEYS.verifier)
    assert login(ClientExchange(), server)
    learned = type(KEYS)(SALT, 4096, server.client_key, KEYS.verifier.server_key)
    assert login(ClientExchange(), ServerExchange(KEYS.verifier), learned)


@pytest.mark.parametrize("keys", [derive_keys(b"pencils", SALT, 4096), KEYS])
def test_a_wrong_password_and_a_user_who_is_not_there_end_alike(keys):
    """The mock has the shape of the real exchange, and no proof is right in it, not even one that is."""
    server = ServerExchange(KEYS.verifier, is_mock=True)
    assert login(ClientExchange(), server, keys) is None
    assert server.client_key == b""
    wrong = derive_keys(b"pencils", SALT, 4096)
    assert login(ClientExchange(), ServerExchange(KEYS.verifier), wrong) is None


def test_a_made_up_salt_belongs_to_the_user_and_the_process():
    """No user enumeration: asking twice gives the same salt; another process knows nothing of it."""
    one, other = KeyCache(process_key=b"a" * 32), KeyCache(process_key=b"b" * 32)
    assert one.mock_verifier("ana") == one.mock_verifier("ana")
    assert one.mock_verifier("ana").salt == one.salt_of("ana")
    salts = {one.salt_of("ana"), one.salt_of("bob"), other.salt_of("ana")}
    assert len(salts) == 3
    assert {len(salt) for salt in salts} == {16}


def test_the_cache_of_keys_is_bounded_and_forgets_the_longest_unused():
    """PBKDF2 costs a millisecond; a million users must not cost a gigabyte."""
    cache = KeyCache(size_count=2)
    for password in (b"one", b"two"):
        cache.keep(password, derive_keys(password, SALT, 1))
    assert cache.find(b"one", SALT, 1) == derive_keys(b"one", SALT, 1)
    cache.keep(b"three", derive_keys(b"three", SALT, 1))
    assert len(cache) == 2
    assert cache.find(b"two", SALT, 1) is None
    assert cache.find(b"one", SALT, 2) is None
    assert cache.find(b"one", SALT, 1) is not None


def test_channel_binding_is_used_where_both_sides_can():
    """RFC 5802 section 6: p with -PLUS, y where only the client can, n where it cannot."""
    bound = ClientExchange(channel_binding=b"hash", is_offered=True)
    assert bound.mechanism == SCRAM_PLUS
    assert bound.first().startswith(b"p=tls-server-end-point,,n=,r=")
    assert login(bound, ServerExchange(KEYS.verifier, channel_binding=b"hash"))
    unoffered = ClientExchange(channel_binding=b"hash")
    assert unoffered.first().startswith(b"y,,")
    assert login(unoffered, ServerExchange(KEYS.verifier))
    unable = ClientExchange(is_offered=True)
    assert (unable.mechanism, unable.first()[:3]) == (SCRAM, b"n,,")
    assert login(unable, ServerExchange(KEYS.verifier, channel_binding=b"hash"))


def test_an_offer_that_lost_its_plus_on_the_way_is_refused():
    """RFC 5802 section 6: flag y although -PLUS was offered is a downgrade."""
    with pytest.raises(Refusal) as caught:
        ServerExchange(KEYS.verifier, channel_binding=b"hash").first(SCRAM, b"y,,n=,r=abc")
    assert caught.value.sqlstate == "28000"


def test_another_certificate_than_ours_is_refused():
    """Somebody between the client and us has one of his own."""
    client = ClientExchange(channel_binding=b"theirs", is_offered=True)
    server = ServerExchange(KEYS.verifier, channel_binding=b"ours")
    client.challenge(server.first(SCRAM_PLUS, client.first()))
    with pytest.raises(Refusal) as caught:
        server.final(client.final(KEYS))
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize(
    ("mechanism", "data", "sqlstate"),
    [
        (SCRAM, b"", ""),
        (SCRAM, b"n,,", ""),
        (SCRAM, b"n,n=,r=abc", ""),
        (SCRAM, b"x,,n=,r=abc", ""),
        (SCRAM, b"n,,n=,r=", ""),
        (SCRAM, b"n,,n=,r=a\x01", ""),
        (SCRAM, b"n,,r=abc,n=", ""),
        (SCRAM, b"n,,n=,r=abc,,", ""),
        (SCRAM, b"n,,n=,r=" + b"a" * 1024, ""),
        (SCRAM, b"p=tls-server-end-point,,n=,r=abc", ""),
        (SCRAM_PLUS, b"n,,n=,r=abc", ""),
        (SCRAM_PLUS, b"y,,n=,r=abc", ""),
        (SCRAM_PLUS, b"p=tls-unique,,n=,r=abc", "08P01"),
        (SCRAM, b"n,a=ana,n=,r=abc", "0A000"),
        (SCRAM, b"n,,m=x,n=,r=abc", "0A000"),
    ],
)
def test_first_messages_that_break_the_rules_are_refused(mechanism, data, sqlstate):
    """RFC 5802 sections 6 and 7."""
    with pytest.raises(RemoteProtocolError) as caught:
        ServerExchange(KEYS.verifier, channel_binding=b"hash").first(mechanism, data)
    assert getattr(caught.value, "sqlstate", "") == sqlstate
    assert isinstance(caught.value, Refusal | WireError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"c=biws,r=" + BOTH,
        CLIENT_FINAL.replace(b"c=biws", b"c=eSws"),
        CLIENT_FINAL.replace(b"c=biws", b"c="),
        CLIENT_FINAL.replace(BOTH, BOTH + b"x"),
        CLIENT_FINAL[:-5] + b"=",
        CLIENT_FINAL + b"AAAA",
        CLIENT_FINAL + b",x=y",
    ],
)
def test_final_messages_that_break_the_rules_are_refused(data):
    """RFC 5802 section 7."""
    server = ServerExchange(KEYS.verifier, nonce=SERVER_NONCE)
    server.first(SCRAM, CLIENT_FIRST)
    with pytest.raises((Refusal, WireError)):
        server.final(data)
    assert server.client_key == b""


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 255), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_give_a_refusal_a_wire_error_or_a_wrong_proof(noise, place, byte, is_noise):
    """Random bytes, and valid messages with one byte damaged."""

    def damaged(message):
        if is_noise:
            return noise
        return message[: place % len(message)] + bytes([byte]) + message[place % len(message) + 1 :]

    server = ServerExchange(KEYS.verifier, nonce=SERVER_NONCE)
    try:
        server.first(SCRAM, damaged(CLIENT_FIRST))
    except (Refusal, WireError):
        server = ServerExchange(KEYS.verifier, nonce=SERVER_NONCE)
        server.first(SCRAM, CLIENT_FIRST)
    try:
        outcome = server.final(damaged(CLIENT_FINAL))
    except (Refusal, WireError):
        outcome = None
    assert (outcome is None) == (server.client_key == b"")
    client = ClientExchange(user=b"user", nonce=CLIENT_NONCE)
    try:
        client.challenge(damaged(SERVER_FIRST))
        client.final(KEYS)
        client.verify(damaged(SERVER_FINAL))
    except RemoteProtocolError:
        pass
    else:
        assert damaged(SERVER_FINAL) == SERVER_FINAL


@pytest.mark.parametrize(
    "data",
    [
        b"e=unknown-user",
        SERVER_FIRST.replace(b"i=4096", b"i=0"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=!"),
        SERVER_FIRST.replace(CLIENT_NONCE, b"other"),
        SERVER_FIRST.replace(SERVER_NONCE, b""),
    ],
)
def test_a_challenge_that_does_not_answer_ours_is_refused(data):
    """RFC 5802 section 5.1: the nonce goes on from ours."""
    with pytest.raises(RemoteProtocolError):
        ClientExchange(user=b"user", nonce=CLIENT_NONCE).challenge(data)


def test_a_server_that_does_not_know_the_verifier_is_refused():
    """RFC 5802 section 3: the client checks the ServerSignature."""
    client = ClientExchange(user=b"user", nonce=CLIENT_NONCE)
    client.challenge(SERVER_FIRST)
    client.final(KEYS)
    with pytest.raises(RemoteProtocolError, match="signature"):
        client.verify(b"v=" + base64.b64encode(bytes(32)))
    with pytest.raises(WireError):
        client.verify(b"e=other-error")


def test_a_verifier_is_read_as_postgresql_writes_it():
    """PostgreSQL, pg_authid: SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey."""
    text = KEYS.verifier.text()
    assert parse_verifier(text) == KEYS.verifier
    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    for broken in (
        "",
        "SCRAM-SHA-256$",
        text[:-1],
        text + "A",
        text.replace("4096", "0"),
        text.replace("=$", "$"),
    ):
        assert parse_verifier(broken) is None
    assert parse_verifier(text.replace("SCRAM-SHA-256$", "SCRAM-SHA-1$")) is None


def test_reprs_show_no_key():
    """Secrets never get into logs."""
    shown = repr(KEYS) + repr(KEYS.verifier)
    for secret in (KEYS.client_key, KEYS.server_key, KEYS.verifier.stored_key):
        assert repr(secret) not in shown


@pytest.mark.parametrize(
    ("password", "hashed"),
    [
        (b"plain \x01 ascii", b"plain \x01 ascii"),
        ("caf\u00e9".encode(), "caf\u00e9".encode()),
        ("cafe\u0301".encode(), "caf\u00e9".encode()),
        ("a\u00a0b\u00ad".encode(), b"a b"),
        ("bell \u00e9 \x07".encode(), "bell \u00e9 \x07".encode()),
        (b"\xff\xfe", b"\xff\xfe"),
        ("\u00ad".encode(), "\u00ad".encode()),
    ],
)
def test_passwords_are_prepared_as_postgresql_does(password, hashed):
    """RFC 4013, and PostgreSQL's rule to take as it is what SASLprep refuses."""
    assert normalized(password) == hashed


def test_misuse_and_excess_are_errors_of_ours():
    """A server cannot make us compute for minutes."""
    with pytest.raises(LimitExceeded):
        derive_keys(b"pencil", SALT, MAX_ITERATIONS_COUNT + 1)
    with pytest.raises(LocalProtocolError):
        ServerExchange(Verifier(SALT, 1, b"", b"")).final(CLIENT_FINAL)
