"""The flags of a client: bits that several places set, which must not mean two things."""

from __future__ import annotations

import pytest

from sojourn.gateways.postgres.client_session import Busy, Holds


@pytest.mark.parametrize("flags", [Busy, Holds], ids=lambda flags: flags.__name__)
def test_every_flag_is_a_bit_of_its_own(flags):
    """Two flags of one bit would end each other."""
    bits = [value for name, value in vars(flags).items() if name.isupper()]
    assert all(bit and not bit & (bit - 1) for bit in bits)
    assert len(set(bits)) == len(bits)
