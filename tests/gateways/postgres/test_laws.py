"""The shared laws of every codec, tried on this one: cutting, damage, oversize, round trip."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.describe import described
from sojourn.gateways.postgres.messages import MAX_MESSAGE_BYTES
from sojourn.gateways.postgres.trace_words import FROM_CLIENT, FROM_SERVER, fields_of
from sojourn.testing import laws

LIMIT_BYTES = 10_000


class TypedFraming:
    """``wire.split`` in the shape that the laws know."""

    def split(self, data):
        """Split as the contract of framings says."""
        found, rest = wire.split(data)
        wanted = wire.HEADER_BYTES
        if len(rest) >= wanted:
            wanted = max(wanted, 1 + int.from_bytes(rest[1:5], "big"))
        return found, len(data) - len(rest), wanted


class StartupFraming:
    """Startup packets one after the other, as refused requests for encryption make them come."""

    def split(self, data):
        """Split as the contract of framings says."""
        length = wire.startup_length(data, LIMIT_BYTES)
        if length is None or length > len(data):
            return [], 0, length or 4
        return [data[:length]], length, 4


def reader_of(direction):
    """Return what reads one (type, body) by all decoders of a direction."""
    return lambda packet: fields_of(direction, wire.message(packet[0], packet[1]))


NAME = st.text("abü '\"", max_size=8).map(str.encode)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = st.lists(st.none() | st.binary(max_size=20), max_size=5)
OIDS = st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)
KEY = st.binary(min_size=4, max_size=256)
PID = st.integers(0, 2**32 - 1)
CLIENT = st.one_of(
    TEXT.map(wire.query),
    st.builds(wire.parse, NAME, NAME, OIDS),
    st.builds(wire.bind, NAME, NAME, VALUES),
    NAME.map(wire.describe_statement),
    NAME.map(wire.close_portal),
    st.builds(wire.execute, NAME, st.integers(-(2**31), 2**31 - 1)),
    st.binary(max_size=30).map(wire.copy_data),
    TEXT.map(wire.copy_fail),
    st.sampled_from([wire.sync(), wire.flush(), wire.terminate(), wire.copy_done()]),
)
SERVER = st.one_of(
    st.builds(wire.parameter_status, TEXT, TEXT),
    st.builds(wire.backend_key_data, PID, KEY),
    st.sampled_from(b"ITE").map(wire.ready_for_query),
    st.builds(wire.negotiate_protocol_version, st.integers(0, 9), st.lists(TEXT, max_size=3)),
    st.builds(wire.error_response, st.just("42601"), TEXT, detail=TEXT, where=TEXT),
    st.builds(wire.notification_response, PID, TEXT, TEXT),
    TEXT.map(wire.command_complete),
    st.lists(TEXT, max_size=4).map(wire.row_description),
    VALUES.map(wire.data_row),
    OIDS.map(wire.parameter_description),
    st.lists(TEXT.filter(bool), max_size=3).map(wire.authentication_sasl),
    st.sampled_from([wire.authentication_ok(), wire.parse_complete(), wire.no_data()]),
)
STARTUP = st.one_of(
    st.just(wire.ssl_request()),
    st.just(wire.gssenc_request()),
    st.builds(wire.cancel_request, PID, KEY),
    st.builds(
        wire.startup_message,
        st.dictionaries(TEXT.filter(bool), TEXT, max_size=4),
        st.tuples(st.just(3), st.integers(0, 9)),
    ),
)
BAD_END = b"D\0\0\0\x03"
SIDES = [(FROM_CLIENT, CLIENT), (FROM_SERVER, SERVER)]


def stream(messages):
    """Several messages one after the other, perhaps with a bad end."""
    return st.tuples(st.lists(messages, max_size=6).map(b"".join), st.sampled_from([b"", BAD_END])).map(
        b"".join
    )


@pytest.mark.parametrize("messages", [CLIENT, SERVER], ids=["client", "server"])
def test_any_cutting_gives_the_same_messages(messages):
    """First law of framing."""
    laws.any_cutting_gives_the_same_packets(TypedFraming(), stream(messages))


def test_any_cutting_gives_the_same_startup_packets():
    """The same for what has no type."""
    laws.any_cutting_gives_the_same_packets(StartupFraming(), st.lists(STARTUP, max_size=3).map(b"".join))


@pytest.mark.parametrize(("direction", "messages"), SIDES, ids=["client", "server"])
def test_damaged_and_random_bytes_give_a_message_or_a_wire_error(direction, messages):
    """Second law: nothing else is raised, whatever came; every decoder is tried."""
    read = reader_of(direction)
    laws.damage_gives_a_message_or_a_wire_error(TypedFraming(), messages, read, examples_count=500)
    laws.random_bytes_give_packets_or_a_wire_error(TypedFraming(), read)


@pytest.mark.parametrize(
    ("direction", "kinds"), [(FROM_CLIENT, b"BCDEFPQfp"), (FROM_SERVER, b"ACEGKNRSTVZtvD")]
)
def test_random_bodies_give_a_message_or_a_wire_error(direction, kinds):
    """The same behind a good type and a short length, where random bytes seldom get."""
    for kind in kinds:
        prefix = bytes((kind, 0, 0, 0, 12))
        laws.random_bytes_give_packets_or_a_wire_error(
            TypedFraming(), reader_of(direction), prefix=prefix, examples_count=30
        )


def test_damaged_and_random_startup_packets_give_a_value_or_a_wire_error():
    """The first bytes of a stranger."""
    laws.damage_gives_a_message_or_a_wire_error(
        StartupFraming(), STARTUP, wire.startup_packet, examples_count=300
    )
    laws.random_bytes_give_packets_or_a_wire_error(
        StartupFraming(), wire.startup_packet, prefix=b"\0\0\0\x20\0\3\0\0"
    )


def test_oversize_is_refused_from_its_header():
    """A gigabyte that was promised is not waited for."""
    laws.oversize_is_refused_from_its_header(
        TypedFraming(), b"Q" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")
    )
    laws.oversize_is_refused_from_its_header(TypedFraming(), b"Q\xff\xff\xff\xff")
    laws.oversize_is_refused_from_its_header(StartupFraming(), (LIMIT_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("encode", "read", "values"),
    [
        (lambda value: wire.parse(*value), wire.parse_fields, st.tuples(NAME, NAME, OIDS)),
        (wire.data_row, wire.row_values, VALUES),
        (lambda value: wire.parameter_status(*value), wire.parameter, st.tuples(TEXT, TEXT)),
        (lambda value: wire.backend_key_data(*value), wire.key_data, st.tuples(PID, KEY)),
        (lambda value: wire.notification_response(*value), wire.notification, st.tuples(PID, TEXT, TEXT)),
        (wire.row_description, wire.column_names, st.lists(TEXT, max_size=5)),
        (
            lambda value: wire.negotiate_protocol_version(*value),
            wire.negotiated,
            st.tuples(st.integers(0, 9), st.lists(TEXT, max_size=3)),
        ),
    ],
    ids=[
        "Parse",
        "DataRow",
        "ParameterStatus",
        "BackendKeyData",
        "Notification",
        "RowDescription",
        "Negotiate",
    ],
)
def test_what_is_encoded_is_read_back(encode, read, values):
    """Third law: our encoder and our decoder agree on every value."""
    laws.what_is_encoded_is_read_back(encode, lambda packet: read(packet[1]), TypedFraming(), values)


def test_startup_packets_are_read_back():
    """The same for a client's first words."""
    values = st.builds(
        wire.StartupMessage,
        st.just(3),
        st.integers(0, 0xFFFF),
        st.dictionaries(TEXT.filter(bool), TEXT, max_size=4),
    )
    laws.what_is_encoded_is_read_back(
        lambda value: wire.startup_message(value.parameters, (value.major, value.minor)),
        wire.startup_packet,
        StartupFraming(),
        values,
    )


@pytest.mark.parametrize(("direction", "messages"), SIDES, ids=["client", "server"])
def test_everything_that_we_write_can_be_described_in_printable_lines(direction, messages):
    """``sojourn decode postgres`` reads what we send, and no text of a peer reaches a terminal raw."""

    def law(data):
        for lines in described(data, direction):
            assert all(line.isprintable() for line in lines)

    laws.damage_gives_a_message_or_a_wire_error(
        TypedFraming(), messages, lambda packet: law(wire.message(packet[0], packet[1]))
    )
