"""CHAP, MS-CHAPv1 and MS-CHAPv2 against the vectors printed in their RFCs."""

from __future__ import annotations

import pytest

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.tacacs import mschap

MD4_SUITE = {
    b"": "31d6cfe0d16ae931b73c59d7e0c089c0",
    b"a": "bde52cb31de33e46245e05fbdbd6fb24",
    b"abc": "a448017aaf21d8525fc10ae87aa6729d",
    b"message digest": "d9130a8164549fe818874806e1c7014b",
    b"abcdefghijklmnopqrstuvwxyz": "d79e1c308aa5bbcdeea8ed63df412da9",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "043f8582f241db351ce627e153e7f0e4",
    b"1234567890" * 8: "e33b4ddc9c38f2199c3e7b164fcc0536",
}

V2_CHALLENGE = bytes.fromhex("5b5d7c7d7b3f2f3e3c2c602132262628")
V2_PEER_CHALLENGE = bytes.fromhex("21402324255e262a28295f2b3a337c7e")
V2_NT_RESPONSE = bytes.fromhex("82309ecd8d708b5ea08faa3981cd83544233114a3d85d6df")


@pytest.mark.parametrize(("message", "digest"), MD4_SUITE.items(), ids=range(len(MD4_SUITE)))
def test_md4_gives_the_digests_of_its_own_rfc(message, digest):
    """RFC 1320 appendix A.5: the test suite."""
    assert mschap.md4(message).hex() == digest


def test_an_mschap_v1_response_is_that_of_its_rfc():
    """RFC 2433 appendix B.2: password MyPw, challenge 102DB5DF085D3041."""
    password_hash = mschap.nt_hash(b"MyPw")
    assert password_hash.hex() == "fc156af7edcd6c0edde3337d427f4eac"
    response = mschap.challenge_response(bytes.fromhex("102db5df085d3041"), password_hash)
    assert response.hex() == "4e9d3c8f9cfd385d5bf4d3246791956ca4c351ab409a3d61"


def test_an_mschap_v2_response_is_that_of_its_rfc():
    """RFC 2759 section 9.2: user User, password clientPass."""
    assert mschap.nt_hash(b"clientPass").hex() == "44ebba8d5312b8d611474411f56989ae"
    answer = mschap.nt_response_v2(V2_CHALLENGE, V2_PEER_CHALLENGE, "User", b"clientPass")
    assert answer == V2_NT_RESPONSE


def test_a_domain_before_the_name_does_not_change_the_mschap_v2_response():
    """RFC 2759 section 4: the name enters the computation without its domain."""
    answer = mschap.nt_response_v2(V2_CHALLENGE, V2_PEER_CHALLENGE, "CORP\\User", b"clientPass")
    assert answer == V2_NT_RESPONSE


def test_a_chap_response_fits_its_own_secret_only():
    """RFC 8907 section 5.4.2.3: identifier, challenge, MD5 of identifier, secret and challenge."""
    data = mschap.chap_data(7, b"0123456789abcdef", b"right")
    assert mschap.verify_chap(data, b"right")
    assert not mschap.verify_chap(data, b"wrong")


def test_an_mschap_v1_response_fits_its_own_secret_only():
    """RFC 8907 section 5.4.2.4: the NT response counts."""
    data = mschap.mschap_v1_data(7, b"01234567", "pässwörd".encode())
    assert len(data) == 58
    assert mschap.verify_mschap_v1(data, "pässwörd".encode())
    assert not mschap.verify_mschap_v1(data, b"password")


def test_an_mschap_v1_response_with_only_the_lm_part_is_refused():
    """RFC 2433 section 5: flag 0 asks for the LM response, which gives the password away."""
    data = mschap.mschap_v1_data(7, b"01234567", b"right")[:-1] + b"\0"
    assert not mschap.verify_mschap_v1(data, b"right")


def test_an_mschap_v2_response_fits_its_own_user_and_secret_only():
    """RFC 8907 section 5.4.2.5: the user's name is part of what is answered."""
    data = mschap.mschap_v2_data(7, V2_CHALLENGE, V2_PEER_CHALLENGE, user="User", secret=b"clientPass")
    assert len(data) == 66
    assert mschap.verify_mschap_v2(data, "User", b"clientPass")
    assert not mschap.verify_mschap_v2(data, "user", b"clientPass")
    assert not mschap.verify_mschap_v2(data, "User", b"clientpass")


def test_a_chap_challenge_under_eight_bytes_is_refused():
    """RFC 8907 section 5.4.2.3: the challenge is what is left between identifier and response."""
    with pytest.raises(WireError, match="found CHAP data of 24 bytes, wanted at least 25 bytes"):
        mschap.verify_chap(mschap.chap_data(1, bytes(7), b"right"), b"right")
    assert mschap.verify_chap(mschap.chap_data(1, bytes(7), b"right"), b"right", min_challenge_bytes=4)


@pytest.mark.parametrize("length", [0, 1, 57, 59, 66])
def test_an_mschap_v1_challenge_that_is_not_eight_bytes_is_refused(length):
    """RFC 8907 section 5.4.2.4: reject any other length of challenge or response."""
    with pytest.raises(WireError, match=r"section 5\.4\.2\.4"):
        mschap.verify_mschap_v1(bytes(length), b"right")


@pytest.mark.parametrize("length", [0, 1, 58, 65, 67])
def test_an_mschap_v2_challenge_that_is_not_sixteen_bytes_is_refused(length):
    """RFC 8907 section 5.4.2.5: reject any other length of challenge or response."""
    with pytest.raises(WireError, match=r"section 5\.4\.2\.5"):
        mschap.verify_mschap_v2(bytes(length), "user", b"right")


def test_our_own_challenges_have_the_right_lengths():
    """RFC 8907 sections 5.4.2.4 and 5.4.2.5: a client that breaks them is our bug."""
    with pytest.raises(LocalProtocolError):
        mschap.mschap_v1_data(1, bytes(7), b"right")
    with pytest.raises(LocalProtocolError):
        mschap.mschap_v2_data(1, bytes(16), bytes(8), user="user", secret=b"right")
