"""The header scanners: what stops the relay, what takes the short way, and that both twins agree."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.gateways.postgres import scan, wire
from sojourn.gateways.postgres.messages import Backend
from sojourn.gateways.postgres.scan import (
    ALL,
    EXTENDED_NAMED,
    EXTENDED_UNNAMED,
    OTHER,
    QUIET,
    SIMPLE,
    SIMPLE_BEGIN,
    TAGS,
)

TWINS = ["pure"] + (["compiled"] if scan.IS_COMPILED else [])
UNKNOWN_TYPE = b"\x01\0\0\0\x04"


@pytest.fixture(params=TWINS)
def next_stop(request):
    return scan.pure_next_stop if request.param == "pure" else scan.next_stop


@pytest.fixture(params=TWINS)
def classify(request):
    return scan.pure_classify if request.param == "pure" else scan.classify


def test_a_result_is_walked_to_its_ready_for_query(next_stop):
    """Rows and a SELECT's tag are passed; ReadyForQuery is looked at."""
    rows = b"".join(wire.data_row([str(number), None]) for number in range(100))
    data = wire.row_description(["a", "b"]) + rows + wire.command_complete("SELECT 100")
    assert next_stop(data + wire.ready_for_query(), 0, QUIET) == len(data)
    assert next_stop(data, 0, QUIET) == len(data)
    assert next_stop(data, 0, ALL) == 0


@pytest.mark.parametrize(
    "tag", ["SELECT 1", "INSERT 0 1", "UPDATE 2", "DELETE 0", "BEGIN", "COMMIT", "FETCH 3"]
)
def test_a_tag_that_changes_no_state_is_passed_by_quiet_only(next_stop, tag):
    """Specification 6.5: tags tell; TAGS shows them all."""
    data = wire.command_complete(tag)
    assert next_stop(data, 0, QUIET) == len(data)
    assert next_stop(data, 0, TAGS) == 0


@pytest.mark.parametrize(
    "tag",
    [
        "SET",
        "RESET",
        "PREPARE",
        "DEALLOCATE ALL",
        "LISTEN",
        "DECLARE CURSOR",
        "ROLLBACK",
        "DISCARD ALL",
        "SEL",
    ],
)
def test_any_other_tag_stops(next_stop, tag):
    """Specification 6.5: SET, PREPARE, LISTEN and the like have tags of their own; so have commands not known yet."""
    passed = wire.bind_complete()
    assert next_stop(passed + wire.command_complete(tag), 0, QUIET) == len(passed)


def test_a_tag_that_is_not_whole_stops(next_stop):
    """It is held back until it can be read."""
    data = wire.command_complete("SELECT 1")
    assert [next_stop(data[:end], 0, QUIET) for end in range(5, len(data))] == [0] * (len(data) - 5)


@pytest.mark.parametrize(
    "stopping",
    [
        wire.ready_for_query(),
        wire.parameter_status("TimeZone", "UTC"),
        wire.error_response("42601", "syntax error"),
        wire.backend_key_data(1, b"1234"),
        wire.negotiate_protocol_version(0, []),
        wire.authentication_ok(),
        wire.notification_response(1, "a"),
        wire.message(Backend.COPY_IN_RESPONSE, b"\0\0\0"),
        wire.message(Backend.COPY_OUT_RESPONSE, b"\0\0\0"),
        wire.message(Backend.COPY_BOTH_RESPONSE, b"\0\0\0"),
        UNKNOWN_TYPE,
    ],
)
def test_what_changes_something_or_is_unknown_stops(next_stop, stopping):
    """Whatever is not known to be harmless is looked at."""
    before = wire.parse_complete() + wire.notice_response("00000", "x") + wire.copy_data(b"1\n")
    assert next_stop(before + stopping, 0, QUIET) == len(before)


def test_the_rest_of_a_split_message_is_told(next_stop):
    """A position behind the end says how many bytes are to come, and the next walk begins there."""
    data = wire.data_row(["x" * 1000]) + wire.ready_for_query()
    behind = next_stop(data[:300], 0, QUIET)
    assert behind == len(data) - len(wire.ready_for_query())
    assert next_stop(data[300:], behind - 300, QUIET) == behind - 300
    assert next_stop(b"abc", 4711, QUIET) == 4711


def test_a_split_header_stops_where_it_begins(next_stop):
    """Fewer than five bytes say nothing."""
    data = wire.no_data()
    assert [next_stop(data + data[:more], 0, QUIET) for more in range(5)] == [len(data)] * 5


@pytest.mark.parametrize("length", [0, 3, 0x40000000, 0xFFFFFFFF])
def test_an_impossible_length_stops(next_stop, length):
    """The caller examines it and ends the conversation."""
    assert next_stop(wire.no_data() + b"D" + length.to_bytes(4, "big") + bytes(20), 0, QUIET) == 5


def test_the_longest_message_is_walked_over(next_stop):
    """1 GiB less one byte is PostgreSQL's own limit."""
    assert next_stop(b"D\x3f\xff\xff\xff" + bytes(9), 0, QUIET) == 1 + 0x3FFFFFFF


@pytest.mark.parametrize(("pos", "table"), [(-1, QUIET), (0, QUIET[:-1]), (0, QUIET + b"\0")])
def test_a_wrong_call_is_refused_before_it_reads(next_stop, pos, table):
    """The compiled twin checks no bounds while it walks."""
    with pytest.raises(ValueError, match="256"):
        next_stop(wire.no_data(), pos, table)


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1", SIMPLE),
        (" \n select 1 ; \t", SIMPLE),
        ("", SIMPLE),
        (";", SIMPLE),
        ("INSERT INTO t VALUES (1)", SIMPLE),
        ("merge into t using s on true when matched then do nothing", SIMPLE),
        ("LISTEN a", SIMPLE),
        ("COPY t FROM STDIN", SIMPLE),
        ("SELECT nextval('s')", SIMPLE),
        ("document", SIMPLE),
        ("select 1 -- no hint here", SIMPLE),
        ("BEGIN", SIMPLE_BEGIN),
        ("begin isolation level serializable;", SIMPLE_BEGIN),
        ("START TRANSACTION READ ONLY", SIMPLE_BEGIN),
        ("beginning", SIMPLE),
        ("begin1", SIMPLE),
        ("BEGIN; SELECT 1", OTHER),
        ("select 1;;", OTHER),
        ("select ';'", OTHER),
        ("select 1\0", OTHER),
        ("select SET_config('a', 'b', false)", OTHER),
        ("select pg_try_ADVISORY_lock(1)", OTHER),
        ("create Temp table a()", OTHER),
        ("select 1 into a", OTHER),
        ("with a as (select 1) select * into b from a", OTHER),
        ("select U&\"\\0073et_config\"('a', 'b', false)", OTHER),
        ("DO $$ begin end $$", OTHER),
        ("do'select 1'", OTHER),
        ("call p()", OTHER),
        ("CALL/**/p()", OTHER),
        ("execute a", OTHER),
        ("/* route: replica */ select 1", OTHER),
        ("  -- hint\nselect 1", OTHER),
    ],
)
def test_a_query_takes_the_short_way_only_if_its_tag_tells_all(classify, sql, kind):
    """Specification 6.5: what may hide a change of session state behind ``SELECT n`` is looked at."""
    assert classify(wire.message(ord("Q"), sql.encode() + b"\0")) == kind
    parsed = wire.message(ord("P"), b"\0" + sql.encode() + b"\0\0\0")
    unnamed = EXTENDED_UNNAMED if kind != OTHER else OTHER
    assert classify(parsed + wire.bind(b"", b"") + wire.execute(b"") + wire.sync()) == unnamed


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (wire.query("SELECT 1") + wire.query("SELECT 1"), OTHER),
        (wire.query("SELECT 1")[:-1], OTHER),
        (wire.query("SELECT 1") + b"Q", OTHER),
        (b"Q\0\0\0\x04", OTHER),
        (b"Q\0\0\0\x05a", OTHER),
        (wire.sync(), OTHER),
        (wire.terminate(), OTHER),
        (b"", OTHER),
    ],
)
def test_a_simple_chunk_is_exactly_one_whole_query(classify, data, kind):
    """Anything more or less takes the long way."""
    assert classify(data) == kind


PARSE = wire.parse(b"", b"SELECT $1, $2", (23, 25))
BIND = wire.bind(b"", b"", [b"1", None])
NAMED = wire.bind(b"", b"s1", [b"x" * 300])
PORTAL, STATEMENT = wire.describe_portal(b""), wire.describe_statement(b"")
RUN = wire.execute(b"") + wire.sync()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PARSE + BIND + RUN, EXTENDED_UNNAMED),
        (PARSE + BIND + PORTAL + RUN, EXTENDED_UNNAMED),
        (PARSE + BIND + STATEMENT + RUN, EXTENDED_UNNAMED),
        (PARSE + BIND + PORTAL + wire.execute(b"", 5) + wire.sync(), EXTENDED_UNNAMED),
        (NAMED + RUN, EXTENDED_NAMED),
        (NAMED + PORTAL + RUN, EXTENDED_NAMED),
        (BIND + RUN, OTHER),
        (PARSE + NAMED + RUN, OTHER),
        (NAMED + STATEMENT + RUN, OTHER),
        (NAMED + PORTAL + PORTAL + RUN, OTHER),
        (NAMED + RUN + wire.sync(), OTHER),
        (NAMED + RUN + NAMED + RUN, OTHER),
        (NAMED + wire.execute(b""), OTHER),
        (NAMED + wire.execute(b"p") + wire.sync(), OTHER),
        (NAMED + wire.sync(), OTHER),
        (wire.bind(b"p", b"s1") + RUN, OTHER),
        (wire.parse(b"s1", b"SELECT 1") + wire.bind(b"", b"s1") + RUN, OTHER),
        (wire.parse(b"", b"SELECT 1") + wire.bind(b"p", b"") + RUN, OTHER),
        (PARSE + PARSE + BIND + RUN, OTHER),
        (PARSE + PORTAL + wire.sync(), OTHER),
        (PARSE + wire.describe_statement(b"") + wire.flush(), OTHER),
        (wire.close_statement(b"s1") + NAMED + RUN, OTHER),
        (wire.message(ord("P"), b"\0SELECT 1\0\0\x02") + BIND + RUN, OTHER),
    ],
)
def test_an_extended_chunk_is_one_execution_in_the_usual_order(classify, data, kind):
    """An unnamed Bind without its Parse depends on what was parsed before, so it takes the long way."""
    assert classify(data) == kind


@pytest.mark.parametrize("bound_statement", [scan.pure_bound_statement, scan.bound_statement])
def test_the_bound_statement_is_named(bound_statement):
    """The name is between two NULs behind the portal's."""
    assert bound_statement(NAMED + RUN) == b"s1"
    assert bound_statement(b"") == bound_statement(b"B\0\0\0\x09\0ab") == b""


WORDS = [
    "select",
    "Begin",
    "START",
    "do",
    "call",
    "execute",
    "into",
    "insert",
    "temp",
    "set_config",
    "advisory",
    "sojourn.role",
]
SQL = st.lists(
    st.sampled_from([*WORDS, " ", ";", "\0", "--", "/*", "x", "_", "$", "1", "u&", "é", "\n", "("]),
    max_size=9,
).map(lambda parts: "".join(parts).encode())
NAME = st.sampled_from([b"", b"s", b"name"])
CLIENT = st.one_of(
    SQL.map(lambda sql: wire.message(ord("Q"), sql + b"\0")),
    st.tuples(NAME, SQL).map(lambda both: wire.message(ord("P"), both[0] + b"\0" + both[1] + b"\0\0\0")),
    st.tuples(NAME, NAME).map(lambda both: wire.bind(*both, [b"1"])),
    st.sampled_from(
        [PARSE, BIND, NAMED, PORTAL, STATEMENT, RUN, wire.execute(b""), wire.sync(), wire.flush()]
    ),
)
SERVER = st.one_of(
    st.binary(max_size=40).map(wire.copy_data),
    st.sampled_from(["SELECT 1", "SET", "COMMIT", "MOVE 1", "MERGE 1", "MO", ""]).map(wire.command_complete),
    st.sampled_from([wire.ready_for_query(), wire.no_data(), wire.row_description(["a"]), UNKNOWN_TYPE]),
)
USUAL = st.tuples(SQL, st.sampled_from([b"", PORTAL, STATEMENT])).map(
    lambda both: wire.message(ord("P"), b"\0" + both[0] + b"\0\0\0") + BIND + both[1] + RUN
)


def streams(messages):
    """Whole messages, perhaps cut, perhaps with one byte damaged; or any bytes."""
    whole = st.lists(messages, max_size=6).map(b"".join)
    damaged = st.tuples(whole, st.integers(0, 500), st.integers(0, 255)).map(
        lambda three: three[0][: three[1]] + bytes([three[2]]) + three[0][three[1] + 1 :]
    )
    cut = st.tuples(whole, st.integers(0, 200)).map(lambda both: both[0][: both[1]])
    return st.one_of(whole, damaged, cut, st.binary(max_size=60))


@pytest.mark.skipif(not scan.IS_COMPILED, reason="this build has no compiled scanner")
@settings(max_examples=1500, deadline=None)
@given(data=st.one_of(streams(CLIENT), USUAL))
def test_both_twins_classify_alike(data):
    """One rule, two programs: whole, cut, damaged and random chunks get the same answer."""
    assert scan.classify(data) == scan.pure_classify(data)
    assert scan.bound_statement(data) == scan.pure_bound_statement(data)


@pytest.mark.skipif(not scan.IS_COMPILED, reason="this build has no compiled scanner")
@settings(max_examples=1000, deadline=None)
@given(data=streams(SERVER), pos=st.integers(0, 80), table=st.sampled_from([QUIET, TAGS, ALL, bytes(256)]))
def test_both_twins_stop_alike(data, pos, table):
    """As above, from any position and with any table."""
    assert scan.next_stop(data, pos, table) == scan.pure_next_stop(data, pos, table)


@pytest.mark.skipif(not scan.IS_COMPILED, reason="this build has no compiled scanner")
@given(data=streams(SERVER), pos=st.integers(0, 80), end=st.integers(-9, 400))
def test_both_twins_find_the_same_start(data, pos, end):
    """As above, for any end, of garbage too."""
    assert scan.last_start(data, pos, end) == scan.pure_last_start(data, pos, end)


@given(before=st.lists(SERVER, max_size=4).map(b"".join), last=SERVER, seen=st.floats(0, 1))
def test_the_last_message_is_found_by_where_it_ends(before, last, seen):
    """Issue 3: a row that has not come whole is held back from where it begins."""
    stop = len(before) + 5 + int(seen * (len(last) - 5))
    for last_start in (scan.last_start, scan.pure_last_start):
        assert last_start((before + last)[:stop], 0, len(before + last)) == len(before)
        assert last_start(before + last[:4], 0, len(before + last)) == -1


@given(stream=st.lists(SERVER, max_size=6).map(b"".join), places=st.lists(st.integers(0, 400), max_size=5))
def test_any_cutting_stops_at_the_same_messages(stream, places):
    """A relay that resumes where it stopped sees the same messages wherever the bytes were cut."""

    def stops(pieces):
        found, base, held, pos = [], 0, b"", 0
        for piece in pieces:
            data = held + piece
            while (pos := scan.next_stop(data, pos, QUIET)) < len(data):
                if len(data) - pos < 5 or pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big") > len(
                    data
                ):
                    break  # held back until it is whole
                found.append(base + pos)
                pos += 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
            kept = min(pos, len(data))
            held, base, pos = data[kept:], base + kept, pos - kept
        return found

    cuts = sorted({min(place, len(stream)) for place in places} | {0, len(stream)})
    assert stops([stream[start:end] for start, end in pairwise(cuts)]) == stops([stream])
