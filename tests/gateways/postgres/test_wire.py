"""The rules of protocol 3.0 and 3.2 that bytes alone can break, and the exact bytes of what we write."""

from __future__ import annotations

import asyncio

import pytest

from sojourn.embedded.postgres import PostgresServer
from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import Authentication, Backend, Frontend

LIMIT = 10_000


def body(message):
    """Return the body of our own message."""
    ((_, found),), rest = wire.split(message)
    assert rest == b""
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (wire.query("SELECT 1"), b"Q\0\0\0\x0dSELECT 1\0"),
        (wire.parse(b"s", b"x", (23,)), b"P\0\0\0\x0es\0x\0\0\x01\0\0\0\x17"),
        (wire.bind(b"", b"s", [b"ab", None]), b"B\0\0\0\x17\0s\0\0\0\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\0"),
        (wire.describe_statement(b"s"), b"D\0\0\0\x07Ss\0"),
        (wire.close_portal(b""), b"C\0\0\0\x06P\0"),
        (wire.execute(b"", 7), b"E\0\0\0\x09\0\0\0\0\x07"),
        (wire.sync() + wire.flush() + wire.terminate(), b"S\0\0\0\x04H\0\0\0\x04X\0\0\0\x04"),
        (wire.sasl_initial_response("M", b"n"), b"p\0\0\0\x0bM\0\0\0\0\x01n"),
        (wire.sasl_initial_response("M", None), b"p\0\0\0\x0aM\0\xff\xff\xff\xff"),
        (wire.cancel_request(1, b"abcd"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd"),
        (wire.ssl_request() + wire.gssenc_request(), b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08\x04\xd2\x16\x30"),
        (wire.startup_message({"user": "a"}, (3, 2)), b"\0\0\0\x10\0\x03\0\x02user\0a\0\0"),
        (wire.ready_for_query(), b"Z\0\0\0\x05I"),
        (wire.ready_for_query(ord("E")), b"Z\0\0\0\x05E"),
        (wire.authentication_md5(b"salt"), b"R\0\0\0\x0c\0\0\0\x05salt"),
        (wire.authentication_sasl(["A", "B"]), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
        (wire.data_row(["a", None, b""]), b"D\0\0\0\x13\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0"),
        (
            wire.error_response("42601", "no", position=3),
            b"E\0\0\0\x21SERROR\0VERROR\0C42601\0Mno\0P3\0\0",
        ),
    ],
)
def test_we_write_what_the_formats_say(message, expected):
    """PostgreSQL documentation, "Message Formats"."""
    assert message == expected


def test_whole_messages_are_split_off_and_the_rest_is_kept():
    """The length counts itself, the type byte not."""
    assert wire.split(wire.sync() + wire.no_data() + b"Z\0\0") == ([(83, b""), (110, b"")], b"Z\0\0")
    assert wire.split(b"") == ([], b"")


@pytest.mark.parametrize("length", [0, 3, 0x40000000, 0xFFFFFFFF])
def test_an_impossible_length_is_refused_from_its_header(length):
    """The body is not waited for; good messages before it are served first."""
    bad = b"D" + length.to_bytes(4, "big")
    with pytest.raises(WireError, match="0x44"):
        wire.split(bad)
    assert wire.split(wire.sync() + bad) == ([(83, b"")], bad)


def test_a_limit_of_the_caller_is_kept():
    """A control-plane conversation has no use for a gigabyte."""
    with pytest.raises(WireError, match="to 100"):
        wire.split(b"p\0\0\0\x65", 100)


def test_a_startup_packet_waits_for_its_length_only():
    """The length is judged as soon as it is there."""
    packet = wire.startup_message({"user": "ana"})
    assert [wire.startup_length(packet[:size], LIMIT) for size in range(5)] == [None] * 4 + [len(packet)]


@pytest.mark.parametrize(
    "data", [b"\0\0\0\x07", b"\0\0\x27\x11", b"GET / HTTP/1.1", b"\x16\x03\x01\x02\0\x01"]
)
def test_a_startup_packet_of_an_odd_length_is_refused(data):
    """An HTTP client or a bare TLS handshake is seen from its first four bytes."""
    with pytest.raises(WireError):
        wire.startup_length(data, LIMIT)


@pytest.mark.parametrize(
    ("packet", "value"),
    [
        (wire.ssl_request(), wire.SSLRequest()),
        (wire.gssenc_request(), wire.GSSENCRequest()),
        (wire.cancel_request(5, b"1234"), wire.CancelRequest(5, b"1234")),
        (wire.cancel_request(2**32 - 1, bytes(256)), wire.CancelRequest(2**32 - 1, bytes(256))),
        (
            wire.startup_message({"user": "ana", "_pq_.x": "1", "options": ""}, (3, 2)),
            wire.StartupMessage(3, 2, {"user": "ana", "_pq_.x": "1", "options": ""}),
        ),
        (wire.startup_message({}), wire.StartupMessage(3, 0, {})),
        (b"\0\0\0\x0c\0\x02\0\0abcd", wire.StartupMessage(2, 0, {})),
        (wire.startup_message({"user": "a"}, (4, 0)), wire.StartupMessage(4, 0, {})),
    ],
)
def test_every_startup_packet_is_read_back(packet, value):
    """Protocol 3.2 has cancel keys of up to 256 bytes; a major version other than 3 is for the session to refuse."""
    assert wire.startup_packet(packet) == value


def test_bytes_that_are_not_utf8_survive():
    """A user name in LATIN1 is a user name."""
    name = b"\xe4".decode("utf-8", "surrogateescape")
    packet = wire.startup_message({"user": name})
    assert b"user\0\xe4\0" in packet
    assert wire.startup_packet(packet) == wire.StartupMessage(3, 0, {"user": name})


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0\0\0\x09\0\x03\0\0",
        b"\0\0\0\x08\0\x03\0\0",
        b"\0\0\0\x0a\0\x03\0\0\0x",
        b"\0\0\0\x0a\0\x03\0\0us",
        b"\0\0\0\x0e\0\x03\0\0user\0a",
        b"\0\0\0\x0a\x04\xd2\x16\x2fxx",
        b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\x01abc",
        (16 + 253).to_bytes(4, "big") + b"\x04\xd2\x16\x2e\0\0\0\x01" + bytes(257),
        b"\0\0\0\x08\x04\xd2\x16\x00",
    ],
)
def test_a_malformed_startup_packet_is_a_wire_error(packet):
    """Terminator missing, bytes behind it, keys of 3 or 257 bytes, an unknown request code."""
    with pytest.raises(WireError):
        wire.startup_packet(packet)


@pytest.mark.parametrize(
    ("read", "message", "value"),
    [
        (wire.query_text, wire.query("SELECT 1"), b"SELECT 1"),
        (wire.parse_fields, wire.parse(b"s", b"x", (23, 2**32 - 1)), (b"s", b"x", (23, 2**32 - 1))),
        (wire.target, wire.describe_statement(b"s"), (wire.STATEMENT, b"s")),
        (wire.target, wire.close_portal(b"p"), (wire.PORTAL, b"p")),
        (wire.execute_fields, wire.execute(b"p", 5), (b"p", 5)),
        (wire.copy_failure, wire.copy_fail("enough"), b"enough"),
        (wire.password, wire.password_message(b"md5abc"), b"md5abc"),
        (wire.sasl_choice, wire.sasl_initial_response("SCRAM-SHA-256", b"n,,"), ("SCRAM-SHA-256", b"n,,")),
        (wire.sasl_choice, wire.sasl_initial_response("X", None), ("X", None)),
        (wire.authentication, wire.authentication_ok(), (Authentication.OK, b"")),
        (wire.authentication, wire.authentication_cleartext(), (Authentication.CLEARTEXT_PASSWORD, b"")),
        (
            wire.authentication,
            wire.authentication_sasl_continue(b"r="),
            (Authentication.SASL_CONTINUE, b"r="),
        ),
        (wire.authentication, wire.authentication_sasl_final(b"v="), (Authentication.SASL_FINAL, b"v=")),
        (wire.parameter, wire.parameter_status("TimeZone", "UTC"), ("TimeZone", "UTC")),
        (wire.key_data, wire.backend_key_data(7, bytes(32)), (7, bytes(32))),
        (wire.negotiated, wire.negotiate_protocol_version(2, ["_pq_.a"]), (2, ["_pq_.a"])),
        (wire.transaction_status, wire.ready_for_query(ord("T")), ord("T")),
        (wire.command_tag, wire.command_complete("SELECT 1"), b"SELECT 1"),
        (wire.column_names, wire.row_description(["a", "ü"]), ["a", "ü"]),
        (wire.row_values, wire.data_row(["ü", None, b"\0"]), ["ü".encode(), None, b"\0"]),
        (wire.parameter_oids, wire.parameter_description([1, 2]), (1, 2)),
        (wire.notification, wire.notification_response(9, "jobs", "7"), (9, "jobs", "7")),
        (wire.copy_formats, wire.message(Backend.COPY_IN_RESPONSE, b"\x01\0\x01\0\x01"), (1, (1,))),
        (
            wire.function_call_fields,
            wire.message(Frontend.FUNCTION_CALL, b"\0\0\0\x05\0\0\0\x01\0\0\0\x01a\0\0"),
            (5, (b"a",)),
        ),
    ],
)
def test_what_we_write_we_read(read, message, value):
    """Both directions side by side: one layout, two functions."""
    assert read(body(message)) == value


def test_an_error_is_read_by_its_codes():
    """PostgreSQL documentation, "Error and Notice Message Fields"; empty fields are not sent."""
    message = wire.error_response("40001", "lost", severity="FATAL", detail="d", hint="", constraint="c")
    found = wire.error_fields(body(message))
    assert found == {"S": "FATAL", "V": "FATAL", "C": "40001", "M": "lost", "D": "d", "n": "c"}
    assert wire.notice_response("01000", "mind")[:1] == b"N"
    assert wire.error_fields(body(wire.notice_response("01000", "mind")))["S"] == "WARNING"


def test_a_nul_in_words_that_came_from_elsewhere_cannot_end_a_field():
    """An error's text may repeat what a user wrote."""
    message = wire.error_response("42601", "bad\0C00000")
    assert wire.error_fields(body(message))["M"] == "bad?C00000"


def test_bind_fields_are_read_and_values_do_not_show():
    """A value may be anything secret."""
    found = wire.bind_fields(body(wire.bind(b"p", b"s", [b"hunter2", None])))
    assert (found.portal, found.statement, found.values) == (b"p", b"s", (b"hunter2", None))
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "write",
    [
        lambda: wire.query("a\0b"),
        lambda: wire.password_message(b"hun\0ter2"),
        lambda: wire.startup_message({"": "x"}),
        lambda: wire.backend_key_data(1, b"abc"),
        lambda: wire.backend_key_data(1, bytes(257)),
        lambda: wire.backend_key_data(-1, b"abcd"),
        lambda: wire.cancel_request(1 << 32, b"abcd"),
        lambda: wire.authentication_md5(b"toolong"),
        lambda: wire.error_response("42601", "x", colour="red"),
        lambda: wire.bind(b"", b"", [None] * 65_536),
    ],
)
def test_what_has_no_layout_is_a_bug_of_ours(write):
    """LocalProtocolError, whose text holds no value."""
    with pytest.raises(LocalProtocolError) as caught:
        write()
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (wire.query_text, b"no end"),
        (wire.query_text, b"a\0b"),
        (wire.parse_fields, b"\0x\0\0\x02\0\0\0\x17"),
        (wire.bind_fields, b"\0\0\0\0\xff\xff\0\0"),
        (wire.bind_fields, b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        (wire.target, b"Xa\0"),
        (wire.authentication, b"\0\0\0\0x"),
        (wire.authentication, b"\0\0\0\x05abc"),
        (wire.key_data, b"\0\0\0\x01abc"),
        (wire.key_data, bytes(4 + 257)),
        (wire.negotiated, b"\0\x04\0\0\0\0\0\0"),
        (wire.negotiated, b"\0\x03\0\0\xff\xff\xff\xff"),
        (wire.transaction_status, b"X"),
        (wire.transaction_status, b"II"),
        (wire.error_fields, b"SERROR\0"),
        (wire.error_fields, b"\0x"),
        (wire.row_values, b"\0\x01\0\0\0\x05a"),
        (wire.columns, b"\xff\xff"),
        (wire.sasl_mechanisms, b"SCRAM"),
    ],
)
def test_a_malformed_body_is_a_wire_error(read, data):
    """Cut short, bytes at the end, counts and lengths that cannot be."""
    with pytest.raises(WireError):
        read(data)


@pytest.mark.parametrize(("version", "newest_minor"), [(16, 0), (18, 2)])
def test_a_real_server_negotiates_in_the_form_that_we_write(version, newest_minor):
    """Protocol 3.2: asked for 3.9 and an unknown option, servers answer with both halves of the version number."""

    async def scenario():
        async with PostgresServer(version=version) as server:
            path = str(server.socket_directory / ".s.PGSQL.5432")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(wire.startup_message({"user": "nobody", "_pq_.sojourn": "1"}, (3, 9)))
            data = await reader.readexactly(5)
            data += await reader.readexactly(int.from_bytes(data[1:], "big") - 4)
            writer.close()
            await writer.wait_closed()
        return data

    assert asyncio.run(scenario()) == wire.negotiate_protocol_version(newest_minor, ["_pq_.sojourn"])
