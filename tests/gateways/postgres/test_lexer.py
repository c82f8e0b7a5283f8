"""The lexer and what it reads: the server's own rules of quoting, and a real server as the judge of some."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.gateways.postgres import session_statements as read
from sojourn.gateways.postgres.lexer import (
    DOLLAR,
    QUOTED,
    STRING,
    SYMBOL,
    WORD,
    identifier,
    quoted,
    split_statements,
    string_value,
    tokens,
    words,
)

ATOMIC = (
    b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END"
)


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        (b"", []),
        (b" ;; -- nothing\n ; /* at ; all */", []),
        (b"SELECT 1", [b"SELECT 1"]),
        (b" SELECT 1 ; ", [b"SELECT 1"]),
        (b"SELECT 1;SELECT 2", [b"SELECT 1", b"SELECT 2"]),
        (b"/* a */ SELECT 1 -- b\n; ; SELECT 2 /* c; */;", [b"SELECT 1", b"SELECT 2"]),
        (b"SELECT ';', \";\", 'it''s;' ; x", [b"SELECT ';', \";\", 'it''s;'", b"x"]),
        (rb"SELECT E'\';', 'a\'; x", [rb"SELECT E'\';', 'a\'", b"x"]),
        (b"SELECT e'a'\n -- c;\n '\\';' ; x", [b"SELECT e'a'\n -- c;\n '\\';'", b"x"]),
        (b"SELECT U&\"a;\", U&'\\0061;', n';', B'0'; x", [b"SELECT U&\"a;\", U&'\\0061;', n';', B'0'", b"x"]),
        (b"SELECT $$a;$b$;$$, $b$;$$;$b$; x", [b"SELECT $$a;$b$;$$, $b$;$$;$b$", b"x"]),
        (b"SELECT a$b$; x$b$", [b"SELECT a$b$", b"x$b$"]),
        (b"SELECT $1;SELECT $2", [b"SELECT $1", b"SELECT $2"]),
        (b"/* a /* b; */ c; */ x; y", [b"x", b"y"]),
        (b"SELECT 1 --;\n+ 2; x", [b"SELECT 1 --;\n+ 2", b"x"]),
        (
            b"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); x",
            [b"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", b"x"],
        ),
        (ATOMIC + b"; x", [ATOMIC, b"x"]),
        (b"BEGIN; SELECT atomic; END", [b"BEGIN", b"SELECT atomic", b"END"]),
        (b"SELECT 'not ended; x", [b"SELECT 'not ended; x"]),
        (b"SELECT 1; /* not ended; x", [b"SELECT 1"]),
        (b"SELECT $a$ not; ended; x", [b"SELECT $a$ not; ended; x"]),
    ],
)
def test_a_query_string_is_cut_into_the_statements_that_the_server_completes(sql, statements):
    """Section 6.5: multi-statement strings are split by the lexer; manual section 4.1."""
    assert split_statements(sql) == statements


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"'",
                b'"',
                b"$$",
                b"$a$",
                b"E'",
                b"\\",
                b"--",
                b"\n",
                b"/*",
                b"*/",
                b";",
                b"a",
                b" ",
                b"(",
                b"\xff",
                b"1",
            ]
        )
    )
)
def test_any_bytes_are_cut_without_losing_a_token(pieces):
    """No text makes the lexer fail, go back or skip: tokens follow each other and lie in the text."""
    sql = b"".join(pieces)
    end = 0
    for token in tokens(sql):
        assert token.start >= end
        assert token.text
        assert sql[token.start : token.end] == token.text
        end = token.end
    for statement in split_statements(sql):
        assert statement in sql


def test_a_long_text_takes_time_in_proportion():
    """Bad input: no repeat of the pattern may try twice, nested comments and quotes included."""
    for piece in (b"'", b"''", b"E'\\", b"/*", b"$a$ ", b'U&"', b"E'a'\n", b"1e+", b"-- \n"):
        assert split_statements(piece * 20_000) is not None


def test_words_stand_in_upper_case_and_quotes_stay():
    """What a classifier may look at."""
    assert words(b'/* x */ begin /**/ Read\nonly "Only"', 9) == [b"BEGIN", b"READ", b"ONLY", b'"Only"']
    assert words(b"select 1, 2", 2) == [b"SELECT", b"1"]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (b"Table_1", WORD, b"table_1"),
        (b"\xc3\x84b", WORD, b"\xc3\x84b"),
        (b'"Ta""b"', QUOTED, b'Ta"b'),
        (b'U&"d\\0061t\\+000061\\\\"', QUOTED, b"data\\"),
        (b"'it''s'", STRING, b"it's"),
        (rb"E'a\n\x41\101\u00e9\\\'''q'", STRING, "a\nAAé\\''q".encode()),
        (b"$q$a'b$q$", DOLLAR, b"a'b"),
        (b"U&'\\00e9'", STRING, "é".encode()),
        (b"x" * 70, WORD, b"x" * 63),
        (b"x" * 62 + "é".encode(), WORD, b"x" * 62),
        (b"+", SYMBOL, b""),
    ],
)
def test_a_name_is_folded_unquoted_and_cut_as_the_server_does(text, kind, name):
    """Manual section 4.1.1."""
    (token,) = tokens(text)
    assert token.kind == kind
    assert identifier(token) == name


def test_a_quoted_name_is_the_same_name_again():
    """What restoration sends."""
    for name in (b"a", b'a"b', b"A b"):
        (token,) = tokens(quoted(name))
        assert identifier(token) == name
    (number,) = tokens(b"1.5e+3")
    assert string_value(number) == b"1.5e+3"


@pytest.mark.parametrize(
    ("sql", "assignments"),
    [
        (b"SET work_mem TO '5MB'", [("work_mem", b"'5MB'", False)]),
        (b"set session Work_Mem=5;", [("work_mem", b"5", False)]),
        (b'SET LOCAL search_path = a, "B" -- c', [("search_path", b'a, "B"', True)]),
        (b"SET x TO DEFAULT", [("x", None, False)]),
        (b"SET x TO 'default'", [("x", b"'default'", False)]),
        (b'SET "App".Tenant TO 1', [("app.tenant", b"1", False)]),
        (b"SET sort_mem TO 1", [("work_mem", b"1", False)]),
        (b"SET TIME ZONE LOCAL", [("timezone", None, False)]),
        (b"SET LOCAL TIME ZONE 'UTC'", [("timezone", b"'UTC'", True)]),
        (b"SET NAMES 'LATIN1'", [("client_encoding", b"'LATIN1'", False)]),
        (b"SET NAMES", [("client_encoding", None, False)]),
        (b"SET SCHEMA 'a'", [("search_path", b"'a'", False)]),
        (b"SET ROLE none", [("role", b"none", False)]),
        (b"SET LOCAL ROLE ana", [("role", b"ana", True)]),
        (b"SET role TO ana", [("role", b"ana", False)]),
        (b"SET SESSION SESSION AUTHORIZATION ana", [("session_authorization", b"ana", False)]),
        (b"SET SESSION AUTHORIZATION DEFAULT", [("session_authorization", None, False)]),
        (b"SET XML OPTION CONTENT", [("xmloption", b"CONTENT", False)]),
        (
            b"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE NOT DEFERRABLE",
            [
                ("default_transaction_isolation", b"'read committed'", False),
                ("default_transaction_read_only", b"off", False),
                ("default_transaction_deferrable", b"off", False),
            ],
        ),
        (b"SET TRANSACTION READ ONLY", [("transaction_read_only", b"on", True)]),
        (b"SET x FROM CURRENT", []),
        (b"SELECT 1", []),
    ],
)
def test_a_set_names_its_settings_and_keeps_the_value_as_sent(sql, assignments):
    """Section 6.5: name -> value expression as sent."""
    assert list(read.set_statements(sql)) == assignments


def test_other_statements_give_their_names():
    """Section 6.5: the small lexer on one statement, once its tag has arrived."""
    assert read.reset_name(b"RESET ALL") == read.ALL
    assert read.reset_name(b"RESET TIME ZONE") == "timezone"
    assert read.reset_name(b"reset Session Authorization") == "session_authorization"
    assert read.reset_name(b"RESET TRANSACTION ISOLATION LEVEL") == "transaction_isolation"
    assert read.prepared_name(b'PREPARE "P q" (int) AS SELECT 1') == b"P q"
    assert read.deallocated_name(b"DEALLOCATE PREPARE p") == b"p"
    assert read.deallocated_name(b"DEALLOCATE prepare") == b"prepare"
    assert read.deallocated_name(b"DEALLOCATE PREPARE ALL") is None
    assert read.executed_name(b"EXECUTE P(1)") == b"p"
    assert read.channel(b"LISTEN Chan") == b"chan"
    assert read.channel(b"UNLISTEN *") is None
    assert read.declared_cursor(b"DECLARE c BINARY SCROLL CURSOR WITH HOLD FOR SELECT 1") == (b"c", True)
    assert read.declared_cursor(b"DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1") == (b"c", False)
    assert read.closed_cursor(b"CLOSE ALL") is None
    assert read.closed_cursor(b'CLOSE "C"') == b"C"
    assert read.fetched_cursor(b"FETCH FORWARD 5 IN c") == b"c"
    assert read.fetched_cursor(b"MOVE c") == b"c"
    assert read.loaded_library(b"LOAD '$libdir/x'") == b"$libdir/x"
    assert read.savepoint_name(b"SAVEPOINT S") == b"s"
    assert read.savepoint_name(b"RELEASE SAVEPOINT s") == b"s"
    assert read.savepoint_name(b"RELEASE savepoint") == b"savepoint"
    assert read.savepoint_name(b"ROLLBACK WORK TO SAVEPOINT s") == b"s"
    assert read.savepoint_name(b"ROLLBACK AND CHAIN") == b""
    assert read.temporary_relation(b'CREATE TEMP TABLE pg_temp."T" () ON COMMIT DROP') == (b"T", True)
    assert read.temporary_relation(b"CREATE LOCAL TEMPORARY TABLE t () ON COMMIT DELETE ROWS") == (
        b"t",
        False,
    )
    assert read.temporary_relation(b"CREATE TABLE temp (temp int)") is None
    for reader in (read.prepared_name, read.executed_name, read.loaded_library, read.savepoint_name):
        assert reader(b"") == reader(b"SELECT 1") == b""


def test_calls_of_set_config_are_read_where_their_arguments_are_constants():
    """Section 6.5: set_config comes back as SELECT and needs its text."""
    assert read.set_config_calls(
        b"SELECT pg_catalog.set_config('A.b'::text, $1, TRUE), set_config(f(1, 2), E'x', 'f')"
    ) == [
        ("a.b", None, True),
        (None, b"x", False),
    ]
    assert read.is_only_set_config(
        b"SELECT pg_catalog.set_config('a', 'b', false) AS x, set_config('c', 'd', 't')"
    )
    assert not read.is_only_set_config(b"SELECT set_config('a', 'b', false) WHERE false")
    assert not read.is_only_set_config(b"SELECT set_config('a', $1, false)")
    assert not read.is_only_set_config(b"SELECT 1")
    assert read.custom_names(
        b"DO $$ BEGIN SET local.x TO 1; PERFORM set_config('My.Name', f(), false); END $$"
    ) == {
        "local.x",
        "my.name",
    }
