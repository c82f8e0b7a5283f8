"""Field cursors: what the writer writes the reader reads; what is missing is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import LocalProtocolError, WireError
from sojourn.sansio.fields import FieldReader, FieldWriter

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
fields = st.one_of(
    *[st.tuples(st.just(kind), st.integers(0, 256**size - 1)) for kind, size in SIZES.items()],
    st.tuples(st.just("bytes"), st.binary(max_size=20)),
    st.tuples(st.just("text"), st.text(max_size=20)),
)


def encoded_length(kind, value):
    """The bytes that a field takes."""
    if kind in SIZES:
        return SIZES[kind]
    return len(value.encode() if kind == "text" else value)


def read(reader, kind, value):
    """Read the field that was written from this value."""
    if kind in SIZES:
        return getattr(reader, kind)()
    return getattr(reader, kind)(encoded_length(kind, value))


@given(st.lists(fields, max_size=20))
def test_what_the_writer_writes_the_reader_reads(written):
    """The law of every codec."""
    writer = FieldWriter("test")
    for kind, value in written:
        getattr(writer, kind)(value)
    reader = FieldReader(writer.finish(), "test")
    assert len(writer) == reader.remaining
    assert [read(reader, kind, value) for kind, value in written] == [value for _, value in written]
    reader.expect_end()


@given(st.lists(fields, min_size=1, max_size=20), st.data())
def test_a_message_cut_anywhere_gives_values_or_a_wire_error(written, data):
    """Never another exception, and the cursor never passes the end."""
    writer = FieldWriter("test")
    for kind, value in written:
        getattr(writer, kind)(value)
    whole = writer.finish()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    reader = FieldReader(cut, "test")
    try:
        for kind, value in written:
            read(reader, kind, value)
    except WireError:
        assert cut != whole
    else:
        assert cut == whole
    assert 0 <= reader.position <= len(cut)


@given(st.binary(max_size=40), st.lists(st.sampled_from([*SIZES, "bytes", "text", "rest"]), max_size=10))
def test_random_bytes_give_values_or_a_wire_error(data, kinds):
    """Whatever is read from whatever came."""
    reader = FieldReader(data, "test")
    try:
        for kind in kinds:
            getattr(reader, kind)(*([3] if kind in {"bytes", "text"} else []))
        reader.expect_end()
    except WireError:
        pass


def test_a_field_cut_short_is_named():
    """Found, wanted and the section; the cursor stays."""
    reader = FieldReader(b"\x01\x02\x03", "RFC 8907 section 5.1")
    assert reader.u8() == 1
    with pytest.raises(WireError) as short:
        reader.u32("the session id")
    assert short.value.found == "2 bytes at offset 1"
    assert short.value.wanted == "4 bytes of the session id"
    assert short.value.source == "RFC 8907 section 5.1"
    assert reader.position == 1


def test_a_negative_length_is_not_a_slice_from_the_end():
    """Lengths computed from the wire may be wrong in any direction."""
    with pytest.raises(WireError):
        FieldReader(b"abc", "test").bytes(-1)


def test_text_that_is_no_text_is_refused_without_showing_it():
    """The field may be a password: neither the error nor its cause holds the bytes."""
    reader = FieldReader(b"secret\xff", "test")
    with pytest.raises(WireError) as bad:
        reader.text(7, "the password")
    assert "secret" not in str(bad.value)
    assert bad.value.__suppress_context__
    assert bad.value.found == "a byte at offset 6 that is not utf-8"
    assert reader.rest() == b"secret\xff"


def test_what_is_left_over_is_refused():
    """A message that goes on after its last field breaks its rule."""
    reader = FieldReader(b"\x00\x01", "test")
    reader.u8()
    with pytest.raises(WireError, match="1 bytes at offset 1"):
        reader.expect_end()


@pytest.mark.parametrize(
    ("kind", "value"), [("u8", 256), ("u8", -1), ("u16", 65536), ("u32", 2**32), ("u64", -1)]
)
def test_a_number_that_does_not_fit_is_our_bug(kind, value):
    """Never truncated in silence."""
    with pytest.raises(LocalProtocolError):
        getattr(FieldWriter("test"), kind)(value)


def test_a_text_that_cannot_be_written_is_our_bug():
    """The same for characters."""
    with pytest.raises(LocalProtocolError):
        FieldWriter("test").text("é", "ascii")
