"""The code tables of itv2-protocol.md section 10 in words."""

from __future__ import annotations

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import words


def numbers_of(namespace):
    return [value for name, value in vars(namespace).items() if name.isupper()]


def test_every_number_has_words():
    """Sections 10.1 to 10.3."""
    assert set(numbers_of(m.ArmingMode)) == set(words.MODES)
    assert set(numbers_of(m.ArmingMethod)) == set(words.METHODS)
    assert len({words.nack_words(code) for code in numbers_of(m.NackCode)}) == 24
    for code in numbers_of(m.ResponseCode):
        assert "with code" not in words.response_words(code)
    for code in numbers_of(m.NackCode):
        assert "with code" not in words.nack_words(code)


def test_the_same_number_means_another_thing_to_another_command():
    """Section 10.2: "several meanings share a number; depends on the command"."""
    assert words.response_words(4, m.Word.ARM) == "not ready: some or all partitions failed to arm"
    assert words.response_words(4) == "the panel could not do all of it"
    assert words.response_words(1, m.Word.EXIT_CONFIGURATION) == "the panel cannot leave programming"


def test_unknown_numbers_have_words_too():
    """Section 14 rule 4: never fail because of an unknown value."""
    assert words.mode_words(10) == "mode 10"
    assert words.method_words(9) == "method 9"
    assert words.response_words(200) == "the panel refuses with code 200"
    assert words.nack_words(200) == "the communicator refuses with code 200"
    assert words.definition_words(200) == "definition 200"
    assert words.definition_words(49) == "flood"


def test_versions_are_shown_as_their_hex_digits():
    """Section 15 point 12."""
    assert words.version_words(0x0543) == "5.43"
    assert words.version_words(0x0203) == "2.03"


def test_nothing_is_armed_by_a_mode_that_is_none():
    """0 disarms, 10 is unassigned, 255 is what a panel says when it does not know."""
    assert {0, 10, 255}.isdisjoint(words.ARMABLE.values())
    assert len(words.ARMABLE) == 17
