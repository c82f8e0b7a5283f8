"""Vectors: equal is identical, and a difference is one query; test_session_state runs them on servers."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.gateways.postgres import vector as module
from sojourn.gateways.postgres.lexer import string_value, tokens
from sojourn.gateways.postgres.vector import (
    EMPTY,
    Vector,
    decoded,
    difference,
    from_startup,
    literal,
    portable,
    split_options,
)


def test_equal_settings_are_the_same_object():
    """Section 6.6: parameter vector identity; attaching to an equal vector costs nothing."""
    one = Vector.of({"work_mem": b"'5MB'", "a.b": "x"})
    assert Vector.of({"a.b": "x", "work_mem": b"'5MB'"}) is one
    assert EMPTY.with_value("work_mem", b"'5MB'").with_value("a.b", "y").with_value("a.b", "x") is one
    assert one.without("a.b").without("work_mem") is EMPTY
    assert one.without("nobody") is one
    assert Vector.of({"work_mem": "'5MB'", "a.b": "x"}) is not one
    assert one.get("a.b") == "x"
    assert one.get("nobody") is None
    assert len(one) == 2
    assert "'5MB'" not in repr(one)


def test_a_hundred_thousand_vectors_leave_nothing_behind():
    """Interning is weak: what nobody holds is gone."""
    gc.collect()
    before = len(module._VECTORS)
    vector = EMPTY
    for number in range(100_000):
        vector = EMPTY.with_value("application_name", str(number))
    assert vector is not EMPTY
    assert len(module._VECTORS) <= before + 1


@pytest.mark.parametrize(
    ("old", "new", "sql"),
    [
        ({}, {}, b""),
        ({}, {"work_mem": b"'5MB'"}, b"SET work_mem TO '5MB'"),
        ({"work_mem": b"'5MB'", "y": b"1"}, {"x": b"a, b", "y": b"1"}, b"RESET work_mem; SET x TO a, b"),
        ({}, {"timezone": b"INTERVAL '1' HOUR"}, b"SET TIME ZONE INTERVAL '1' HOUR"),
        (
            {"a": b"1"},
            {"search_path": "a, b", "datestyle": "ISO"},
            b"RESET a; SELECT pg_catalog.set_config('datestyle', 'ISO', false), %b"
            % b"pg_catalog.set_config('search_path', 'a, b', false)",
        ),
        (
            {},
            {"role": b"ana", "session_authorization": "bob", "z": b"1"},
            b"SET z TO 1; SET SESSION AUTHORIZATION 'bob'; SET ROLE ana",
        ),
        ({"role": b"ana", "z": b"1"}, {"role": b"ana"}, b"RESET ROLE; RESET z; SET ROLE ana"),
        (
            {"role": b"ana", "session_authorization": b"bob"},
            {"role": b"ana"},
            b"RESET ROLE; RESET SESSION AUTHORIZATION; SET ROLE ana",
        ),
        ({"role": b"ana", "session_authorization": b"bob"}, {"session_authorization": b"bob"}, b"RESET ROLE"),
        ({}, {"my.select": b"1"}, b'SET "my"."select" TO 1'),
    ],
)
def test_a_difference_is_one_query_with_identities_first_off_and_last_on(old, new, sql):
    """Section 6.6: send the difference as one batch."""
    assert difference(Vector.of(old), Vector.of(new)) == sql


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_literal_is_ascii_and_means_its_text(text):
    """Values are quoted as literals; they may not depend on client_encoding."""
    sql = literal(text)
    assert sql.isascii()
    (token,) = tokens(sql)
    assert string_value(token).decode() == text


def test_a_value_as_sent_becomes_independent_of_its_character_set():
    """A multi-statement query is read in the encoding of the moment, which it may itself change."""
    assert portable(b"a, 'b'") == b"a, 'b'"
    assert portable("größe, 'x', \"Grö\"".encode()) == rb"""E'gr\u00f6\u00dfe', 'x', E'Gr\u00f6'"""
    assert portable("'größe'".encode("latin-1"), "LATIN1") == rb"E'gr\u00f6\u00dfe'"
    assert portable("'größe'".encode("cp1252"), "win1252") == rb"E'gr\u00f6\u00dfe'"
    assert portable(rb"'a\b'") == rb"E'a\\b'"
    assert portable(b"'\xff'") == b"'\xff'"
    for name, codec in (
        ("EUC_JP", "euc_jp"),
        ("SJIS", "cp932"),
        ("KOI8R", "koi8_r"),
        ("iso-8859-5", "iso8859-5"),
    ):
        text = "Ж" if "8" in name else "あ"
        assert decoded(text.encode(codec), name) == text
    assert decoded(b"\xff", "UTF8") is None
    assert decoded("é".encode(), "what") == "é"


def test_the_startup_packet_says_the_first_settings():
    """Manual section 55.7: user, database, replication and options are no settings, _pq_ is the protocol's."""
    vector = from_startup(
        {
            "user": "u",
            "database": "d",
            "replication": "0",
            "_pq_.x": "1",
            "DateStyle": "ISO",
            "work_mem": "1MB",
            "options": r"-c work_mem=2MB -csearch_path=a,\ b --enable-seqscan=off -c app.name=it\\s -c role=ana",
        }
    )
    assert dict(vector.items) == {
        "datestyle": "ISO",
        "work_mem": "1MB",
        "search_path": "a, b",
        "enable_seqscan": "off",
        "app.name": "it\\s",
        "role": "ana",
    }
    assert from_startup({"user": "u"}) is EMPTY


def test_options_that_are_no_settings_are_named():
    """The engine can refuse them."""
    settings, unknown = split_options("-c a=1 -B 5 --nothing")
    assert settings == {"a": "1"}
    assert unknown == ["-B", "5", "--nothing"]
    assert split_options("") == ({}, [])
    assert split_options("-c") == ({}, ["-c"])
