"""Password hashes, sealed secrets and one-time codes."""

from __future__ import annotations

import base64
import subprocess
import sys
from datetime import UTC, datetime

import bcrypt
import pyotp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.core.secret import Secret
from sojourn.gateways.tacacs.passwords import (
    DUMMY_HASH,
    MAX_PASSWORD_BYTES,
    SEAL_PREFIX,
    check_hash_format,
    check_seal_key,
    check_sealed,
    check_totp_secret,
    hash_password,
    new_seal_key,
    seal,
    totp_step,
    unseal,
    verify_password,
)

# Made with other software: argon2 from the vectors of its reference implementation, bcrypt and des-crypt by
# libcrypt, the others by "openssl passwd".
FOREIGN = {
    "argon2i": (
        "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        b"password",
    ),
    "argon2id": (
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        b"password",
    ),
    "bcrypt": ("$2a$06$DCq7YPn5Rq63x1Lad4cll.i/xNsSmPmQWmglhOrBSzs3aKd7HewIa", b"Hello world!"),
    "sha512-crypt": (
        (
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJu"
            "esI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
        ),
        b"Hello world!",
    ),
    "sha256-crypt": ("$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", b"Hello world!"),
    "md5-crypt": ("$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", b"password"),
    "des-crypt": ("abNANd1rDfiNc", b"secret"),
}


STRANGE = [b"", b"\0", b"a\0b", b"\xff\xfe", b"x" * 100, b"x" * (MAX_PASSWORD_BYTES + 1)]


@pytest.mark.parametrize("name", FOREIGN)
def test_hashes_of_other_software_verify(name):
    """Users move here with the hashes they have: argon2, bcrypt and the crypt formats."""
    hashed, password = FOREIGN[name]
    assert check_hash_format(hashed) is None
    assert verify_password(hashed, password)
    assert not verify_password(hashed, password + b"x" if name != "des-crypt" else b"x" + password)


def test_our_own_hash_is_argon2id_and_verifies():
    """New hashes are argon2id with a fresh salt."""
    hashed = hash_password("correct horse")
    assert hashed.startswith("$argon2id$")
    assert hashed != hash_password("correct horse")
    assert verify_password(hashed, b"correct horse")
    assert not verify_password(hashed, b"correct horsE")


def test_the_dummy_hash_costs_what_a_new_hash_costs_and_fits_nothing():
    """An unknown user costs as much as a known one: same algorithm, same parameters."""
    assert DUMMY_HASH.split("$")[:4] == hash_password("x").split("$")[:4]
    assert check_hash_format(DUMMY_HASH) is None
    assert not verify_password(DUMMY_HASH, b"")


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("password", STRANGE)
def test_no_password_is_too_strange_to_be_refused(name, password):
    """The data of a packet is arbitrary bytes; none may raise."""
    hashed, right = FOREIGN[name]
    assert verify_password(hashed, password) == (password == right)


def test_bcrypt_reads_72_bytes_as_it_always_did():
    """Hashes made by other software of longer passwords still fit."""
    hashed = bcrypt.hashpw(b"y" * 72, bcrypt.gensalt(4)).decode()
    assert verify_password(hashed, b"y" * 80)


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "hunter2",
        "plain text",
        "$argon2id$v=19$m=1",
        "$argon2d$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$2b$31$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkY8jIucDrjc8deX1s.a",
        "$2b$06$tooshort",
        "$6$saltstring",
        FOREIGN["sha512-crypt"][0].replace("$salt", "$rounds=900000000$salt"),
        "$5$saltstring$short",
        "$1$saltsalt$",
        "$y$j9T$abc$def",
        "{SSHA}abcdef",
    ],
)
def test_a_hash_that_cannot_be_verified_is_found_at_configuration_time(hashed):
    """The operator reads what is wrong, and never the hash itself; verification never raises either."""
    problem = check_hash_format(hashed)
    assert problem is not None
    assert not hashed or hashed not in problem
    if "m=4194304" not in hashed and "rounds=9" not in hashed and "$2b$31" not in hashed:
        assert not verify_password(hashed, b"hunter2")


@given(st.text(max_size=60), st.text(min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_a_sealed_secret_unseals_for_its_user_only(secret, user):
    """The user's name is associated data: a line copied to another user is worthless."""
    key = new_seal_key()
    sealed = seal(secret, key, user)
    assert sealed.startswith(SEAL_PREFIX)
    assert unseal(sealed, key, user) == secret.encode()
    assert unseal(sealed, key, user + "x") is None
    assert unseal(sealed, new_seal_key(), user) is None


def test_a_damaged_seal_is_none_and_not_an_exception():
    """Every byte is authenticated."""
    key = new_seal_key()
    sealed = seal("chap secret", key, "ana")
    raw = base64.b64decode(sealed.removeprefix(SEAL_PREFIX))
    for index in range(len(raw)):
        damaged = raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]
        assert unseal(SEAL_PREFIX + base64.b64encode(damaged).decode(), key, "ana") is None
    for text in ("", "sealed:", SEAL_PREFIX, SEAL_PREFIX + "!", SEAL_PREFIX + "AAAA", "sealed:v2:AAAA"):
        assert unseal(text, key, "ana") is None


def test_a_secret_sealed_otherwise_is_found_at_configuration_time():
    """Another key, another user, or no seal at all; the words show none of it."""
    key = new_seal_key()
    assert check_sealed(Secret(seal("s", key, "ana")), key, "ana") is None
    for wrong in (seal("s", key, "ben"), seal("s", new_seal_key(), "ana"), "plain-text"):
        problem = check_sealed(Secret(wrong), key, "ana")
        assert problem is not None
        assert wrong not in problem


def test_two_seals_of_one_secret_differ():
    """A fresh nonce each time."""
    key = new_seal_key()
    assert seal("same", key, "ana") != seal("same", key, "ana")


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"x" * 31).decode(), "ü" * 32])
def test_a_bad_seal_key_is_named_in_words_and_not_shown(key):
    """The key is a secret too."""
    problem = check_seal_key(Secret(key))
    assert problem is not None
    assert not key or key not in problem
    with pytest.raises(ValueError, match="32 bytes"):
        seal("x", Secret(key), "ana")


def test_totp_codes_of_rfc_6238_are_known():
    """RFC 6238 appendix B, SHA-1, the last six digits."""
    secret = Secret(base64.b32encode(b"12345678901234567890").decode())
    for seconds, code in ((59, b"287082"), (1111111109, b"081804"), (20000000000, b"353130")):
        assert totp_step(secret, code, datetime.fromtimestamp(seconds, UTC)) == seconds // 30


def test_a_code_fits_one_step_before_and_after_and_no_further():
    """RFC 6238 section 5.2: the window is one step to either side."""
    secret = Secret(pyotp.random_base32())
    now = datetime(2026, 3, 1, 12, 0, 15, tzinfo=UTC)
    present = int(now.timestamp()) // 30
    totp = pyotp.TOTP(secret.reveal())
    for offset in (-1, 0, 1):
        assert totp_step(secret, totp.generate_otp(present + offset).encode(), now) == present + offset
    for offset in (-2, 2):
        assert totp_step(secret, totp.generate_otp(present + offset).encode(), now) is None
    for strange in (b"", b"12345", b"1234567", b"\xff" * 6):
        assert totp_step(secret, strange, now) is None


def test_bad_totp_secrets_are_found_at_configuration_time():
    """Base32, and not too short."""
    assert check_totp_secret(Secret(pyotp.random_base32())) is None
    assert check_totp_secret(Secret("not base32!")) is not None
    assert check_totp_secret(Secret("MFRGG")) is not None


def test_the_libraries_import_without_warnings():
    """No deprecated module such as the old ``crypt`` is behind them."""
    code = "import sojourn.gateways.tacacs.passwords as p; p.hash_password('x')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
