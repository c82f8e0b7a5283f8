"""The ciphers' rules that no vector shows; the keys themselves are vectors V57 to V63."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.encryption import FrameCipher, type1_make, type1_open, type1_wrap_key, type2_key

KEY = bytes(range(16))
CODE = "0123456789ABCDEFFEDCBA9876543210"
random32 = st.binary(min_size=32, max_size=32)


@given(st.binary(min_size=2, max_size=200), st.binary(min_size=1, max_size=16))
def test_a_frame_survives_the_cipher_with_either_padding(packet, filler):
    """Section 8.3: zeros from us, filler and a count from the panel; the length decides."""
    frame = wire.frame(packet)
    cipher = FrameCipher(KEY)
    assert wire.unframe(cipher.decrypt(cipher.encrypt(frame))) == packet
    pad = 16 - len(frame) % 16
    panel_padded = frame + (filler * 16)[: pad - 1] + bytes((pad,))
    assert wire.unframe(cipher.decrypt(cipher.encrypt(panel_padded))) == packet


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_what_is_not_whole_blocks_is_refused(size):
    """Section 8.3: the packet is dropped, and the cipher goes on with the next."""
    cipher = FrameCipher(KEY)
    with pytest.raises(WireError, match=f"found {size} encrypted bytes"):
        cipher.decrypt(bytes(size))
    frame = wire.frame(b"\4\4")
    assert cipher.decrypt(FrameCipher(KEY).encrypt(frame)).startswith(frame)


def test_a_wrong_key_shows_as_a_wrong_frame():
    """Section 7.5: that is how a wrong Type 2 code is noticed."""
    encrypted = FrameCipher(KEY).encrypt(wire.frame(b"\4\4\6\0"))
    with pytest.raises(WireError):
        wire.unframe(FrameCipher(KEY[::-1]).decrypt(encrypted))


@given(random32, st.integers(0, 47), st.integers(1, 255))
def test_a_damaged_type_1_initializer_is_refused_or_gives_a_key(random, place, value):
    """Section 8.2: half of the random bytes are checked, so most damages show."""
    initializer = bytearray(type1_make(random, "87654321")[0])
    initializer[place] ^= value
    with pytest.raises(WireError, match="wrong check bytes"):
        type1_open(bytes(initializer), "87654321")


@pytest.mark.parametrize("size", [0, 15, 17, 47, 49])
def test_an_initializer_of_another_length_is_refused(size):
    """Section 7.2: 16 bytes for Type 2, 48 for Type 1."""
    with pytest.raises(WireError, match=f"an initializer of {size} bytes"):
        type2_key(CODE, bytes(size))
    with pytest.raises(WireError, match=f"an initializer of {size} bytes"):
        type1_open(bytes(size), "87654321")


def test_a_code_that_cannot_be_one_is_our_own_error_and_is_not_shown():
    """Section 8: configuration has checked it before."""
    for code in ("tulip" * 8, CODE[:-2], CODE + "00", ""):
        with pytest.raises(LocalProtocolError) as caught:
            type2_key(code, bytes(16))
        assert "tulip" not in str(caught.value)
        assert caught.value.__cause__ is None
    for wrap in ("tulip123", "1234567", ""):
        with pytest.raises(LocalProtocolError) as caught:
            type1_wrap_key(wrap)
        assert "tulip" not in str(caught.value)
    with pytest.raises(LocalProtocolError):
        type1_make(bytes(31), "87654321")
    with pytest.raises(LocalProtocolError):
        FrameCipher(bytes(15))
