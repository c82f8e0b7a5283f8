"""Messages in words: every public field is shown, no secret and no value ever; and the command that prints them."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sojourn.cli.main import app
from sojourn.errors import WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.describe import bytes_from_hex, described, speaker_of
from sojourn.gateways.postgres.messages import Backend, Frontend, message_names
from sojourn.gateways.postgres.trace_words import FROM_CLIENT, FROM_SERVER, is_known, shown, words_of

COPY_IN = wire.message(Backend.COPY_IN_RESPONSE, b"\0\0\x02\0\0\0\0")
CALL = wire.message(Frontend.FUNCTION_CALL, b"\0\0\0\x05\0\0\0\x01\0\0\0\x01a\0\0")
FROM_CLIENTS = [
    (wire.query("SELECT\n  1"), "Query", "SELECT 1"),
    (
        wire.query("ALTER USER ana PASSWORD 'hunter2' VALID UNTIL 'x'"),
        "Query",
        "ALTER USER ana PASSWORD ***",
    ),
    (wire.parse(b"s1", b"SELECT $1", (23,)), "Parse", "statement=s1 types=23 SELECT $1"),
    (
        wire.bind(b"", b"s1", [b"hunter2", None]),
        "Bind",
        "portal=unnamed statement=s1 values=2 (7, NULL bytes) formats=text result_formats=text",
    ),
    (wire.describe_statement(b"s1"), "Describe", "statement=s1"),
    (wire.close_portal(b""), "Close", "portal=unnamed"),
    (wire.execute(b"p", 5), "Execute", "portal=p max_rows=5"),
    (wire.execute(b""), "Execute", "portal=unnamed max_rows=all"),
    (wire.sync(), "Sync", ""),
    (wire.password_message(b"hunter2"), "PasswordMessage", "bytes=8"),
    (wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=hunter2"), "PasswordMessage", "bytes=33"),
    (wire.copy_data(b"hunter2\n"), "CopyData", "bytes=8"),
    (wire.copy_fail("hunter2"), "CopyFail", "bytes=7"),
    (CALL, "FunctionCall", "function=5 arguments=1 (1 bytes)"),
]
FROM_SERVERS = [
    (wire.ready_for_query(ord("T")), "ReadyForQuery", "T"),
    (wire.command_complete("INSERT 0 1"), "CommandComplete", "INSERT 0 1"),
    (wire.authentication_ok(), "Authentication", "OK"),
    (wire.authentication_sasl(["A", "B"]), "Authentication", "SASL mechanisms=A,B"),
    (wire.authentication_sasl_final(b"v=hunter2"), "Authentication", "SASL_FINAL bytes=9"),
    (wire.parameter_status("TimeZone", "UTC"), "ParameterStatus", "TimeZone=UTC"),
    (wire.backend_key_data(7, b"hunter2!"), "BackendKeyData", "pid=7 key=*** (8 bytes)"),
    (
        wire.negotiate_protocol_version(0, ["_pq_.a"]),
        "NegotiateProtocolVersion",
        "newest_minor=0 unknown_options=_pq_.a",
    ),
    (wire.row_description(["a", "b"]), "RowDescription", "columns=2 names=a:25,b:25"),
    (wire.data_row(["hunter2", None]), "DataRow", "columns=2 bytes=17"),
    (wire.parameter_description([23]), "ParameterDescription", "types=23"),
    (
        wire.notification_response(7, "jobs", "hunter2"),
        "NotificationResponse",
        "pid=7 channel=jobs payload=7 characters",
    ),
    (
        wire.error_response("23505", "duplicate key", detail="Key (p)=(hunter2) already exists."),
        "ErrorResponse",
        "ERROR 23505 duplicate key detail=*** (33 characters)",
    ),
    (
        wire.error_response("22P02", 'invalid input syntax for type integer: "hunter2"'),
        "ErrorResponse",
        'ERROR 22P02 invalid input syntax for type integer: "***"',
    ),
    (
        wire.notice_response("01000", "mind", hint="h", line=3),
        "NoticeResponse",
        "WARNING 01000 mind hint=h line=3",
    ),
    (COPY_IN, "CopyInResponse", "format=text columns=2"),
    (b"\x99\0\0\0\x06ab", "unknown 0x99", "bytes=2"),
]


@pytest.mark.parametrize(
    ("direction", "message", "name", "words"),
    [(FROM_CLIENT, *one) for one in FROM_CLIENTS] + [(FROM_SERVER, *one) for one in FROM_SERVERS],
)
def test_a_message_is_one_line_without_its_secrets(direction, message, name, words):
    """Values, passwords, SASL, keys and what a server repeats of values are shown by their sizes."""
    assert words_of(direction, message) == (name, words)
    assert "hunter2" not in words


@pytest.mark.parametrize(("direction", "namespace"), [(FROM_CLIENT, Frontend), (FROM_SERVER, Backend)])
def test_every_type_has_words(direction, namespace):
    """None of the protocol's messages is only a number of bytes by oversight."""
    assert all(is_known(direction, kind) for kind in message_names(namespace))


@pytest.mark.parametrize("message", [b"", b"Z", b"Z\0\0\0\x05", wire.sync() * 2, b"Z\0\0\0\x05X"])
def test_a_bad_message_says_what_is_wrong_with_it(message):
    """The recorder must not fail over what a peer sent."""
    assert words_of(FROM_SERVER, message)[1].startswith("unreadable: found ")


def test_long_sql_is_cut_at_200_characters_and_its_size_told():
    """Specification of the recorder: a line, not a novel."""
    _, words = words_of(FROM_CLIENT, wire.query("SELECT " + "x" * 1000))
    assert words == "SELECT " + "x" * 193 + "... (1007 bytes)"


def test_a_password_beyond_the_cut_does_not_come_back():
    """What was cut is not shown by another way."""
    sql = "ALTER USER ana WITH " + " " * 900 + "PASSWORD 'hunter2'"
    assert "hunter2" not in words_of(FROM_CLIENT, wire.query(sql))[1]


def test_text_for_terminals_holds_no_controls():
    """A name with an escape sequence is shown, not obeyed; broken UTF-8 as well."""
    assert shown(b"a\x1b[2Jb\xff") == "a\\x1b[2Jb\\xff"
    assert shown("a\u202eb\udcff") == "a\\x202eb\\xff"


STARTUP = wire.ssl_request() + wire.startup_message({"user": "ana", "database": "x"}, (3, 2))


def test_a_connection_from_its_start_is_described():
    """Startup packets have no type; the typed messages follow in the same capture."""
    first, second, third = described(STARTUP + wire.query("SELECT 1"), FROM_CLIENT)
    assert first == ["offset       0", "message      SSLRequest (client)", "length       8 bytes"]
    assert second[1:] == [
        "message      StartupMessage (client)",
        "length       29 bytes",
        "  version       3.2",
        "  user          ana",
        "  database      x",
    ]
    assert third[-1] == "  sql           SELECT 1"


def test_a_cancel_request_is_described_without_its_key():
    """Who knows the key may cancel."""
    ((*_, pid, key),) = described(wire.cancel_request(7, b"hunter2!"), FROM_CLIENT)
    assert (pid.split(), key.split()) == (["pid", "7"], ["key", "***", "(8", "bytes)"])


@pytest.mark.parametrize("answer", [b"S", b"N", b"G"])
def test_the_answer_to_a_request_for_encryption_is_one_byte(answer):
    """It has no length; what follows is told apart by having a plausible one."""
    assert len(list(described(answer, FROM_SERVER))) == 1
    assert len(list(described(answer + wire.authentication_ok(), FROM_SERVER))) == 2
    notice = wire.notice_response("01000", "x") + wire.parameter_status("a", "b")
    assert "NoticeResponse" in next(described(notice, FROM_SERVER))[1]


@pytest.mark.parametrize(
    ("data", "direction"),
    [
        (STARTUP, FROM_CLIENT),
        (wire.query("SELECT 1"), FROM_CLIENT),
        (wire.execute(b"") + wire.sync(), FROM_CLIENT),
        (wire.bind(b"", b"", [b"x"]), FROM_CLIENT),
        (wire.data_row(["x"]) + wire.command_complete("SELECT 1"), FROM_SERVER),
        (wire.error_response("42601", "x") + wire.ready_for_query(), FROM_SERVER),
        (b"N", FROM_SERVER),
    ],
)
def test_the_speaker_is_guessed_from_what_can_be_read(data, direction):
    """Letters mean different messages in each direction, whose bodies rarely fit both."""
    assert speaker_of(data) == direction


@pytest.mark.parametrize(
    ("data", "direction", "at"),
    [
        (wire.sync() + b"Z\0\0\0\x05I", FROM_CLIENT, 5),
        (wire.no_data() + wire.ready_for_query()[:-1], FROM_SERVER, 5),
        (wire.no_data() + b"Z\0", FROM_SERVER, 5),
        (b"D\0\0\0\x03", FROM_SERVER, 0),
        (b"D\xff\xff\xff\xff", FROM_SERVER, 0),
        (b"\0\0\0\x07\0\0\0\0", FROM_CLIENT, 0),
        (b"\0\0", FROM_CLIENT, 0),
        (STARTUP[:-1], FROM_CLIENT, 8),
        (wire.sync() + b"P\0\0\0\x06a\0", FROM_CLIENT, 5),
    ],
)
def test_bad_bytes_say_what_was_found_wanted_and_where(data, direction, at):
    """The messages before them are given first."""
    with pytest.raises(WireError, match=f"message at offset {at}"):
        list(described(data, direction))


@pytest.mark.parametrize("text", ["zz", "5", "", " \n"])
def test_what_is_not_hexadecimal_is_refused(text):
    """Nothing is not a message either."""
    with pytest.raises(WireError):
        bytes_from_hex(text)


def test_decode_reads_hex_from_standard_input():
    """``sojourn decode postgres``: spaces, colons and line ends do not matter."""
    result = CliRunner().invoke(app, ["decode", "postgres"], input="51 00:00:00 0d\n53454c454354203100\n")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "offset       0",
        "message      Query (client)",
        "length       14 bytes",
        "  sql           SELECT 1",
    ]


def test_decode_is_told_who_speaks_and_shows_what_comes_before_an_error():
    """A bad end does not hide a good beginning; the exit code tells."""
    data = (wire.close_complete() + wire.parse_complete() + b"Z\0\0\0\x05X").hex()
    result = CliRunner().invoke(app, ["decode", "postgres", data, "--from", "server"])
    assert result.exit_code == 1
    assert "CloseComplete (server)" in result.output
    assert "found 1 bytes 58, wanted one of I, T, E (ReadyForQuery; message at offset 10)" in result.output
    assert CliRunner().invoke(app, ["decode", "postgres", "00", "--from", "nobody"]).exit_code == 2
