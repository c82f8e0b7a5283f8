"""The tracker against real servers: what it believes is what the server's own catalogs show.

Every script runs statement by statement, or query string by query string, on a real server; its tags and
statuses feed the tracker. At each idle moment the server's snapshot must agree, and a second, fresh session
that gets the tracked settings and the restoration must show the same snapshot as the first.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from sojourn.embedded.postgres import PostgresServer
from sojourn.gateways.postgres.lexer import split_statements
from sojourn.gateways.postgres.session_state import SessionState
from sojourn.gateways.postgres.snapshot import Snapshot, differences, parse_snapshot, snapshot_sql
from sojourn.gateways.postgres.vector import EMPTY, Vector, difference, from_startup

SYSTEM = {int(path.parent.name): path for path in Path("/usr/lib/postgresql").glob("*/bin")}
VERSIONS = sorted({16, 18} | {version for version in SYSTEM if version == 15})
IDLE = {
    pq.TransactionStatus.IDLE: 73,
    pq.TransactionStatus.INTRANS: 84,
    pq.TransactionStatus.INERROR: 69,
}
SETUP = (
    "CREATE ROLE ana; CREATE ROLE bob SUPERUSER LOGIN; CREATE ROLE carl LOGIN; GRANT ana TO carl;"
    'CREATE SCHEMA a; CREATE SCHEMA "B c"; CREATE SCHEMA "größe"; CREATE TABLE public.t (id int);'
    "GRANT CREATE ON DATABASE postgres TO PUBLIC; CREATE SEQUENCE s;"
    "CREATE FUNCTION public.hidden() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '7MB', false) $$"
)


@pytest.fixture(scope="module", params=VERSIONS)
def server(request):
    """Give one running server of each version."""
    place = {"bin_directory": SYSTEM[15]} if request.param == 15 else {"version": request.param}
    with asyncio.Runner() as runner:
        one = PostgresServer(**place, settings={"max_prepared_transactions": "4"})
        runner.run(one.start())
        with psycopg.connect(one.dsn(), autocommit=True) as connection:
            connection.pgconn.exec_(SETUP.encode())
        yield one
        runner.run(one.stop())


class Sitting:
    """One session on a server, and the tracker that follows it."""

    def __init__(self, server, startup=EMPTY):
        self.connection = psycopg.connect(server.dsn(), autocommit=True)
        self.raw = self.connection.pgconn
        self.state = SessionState(startup)
        self.execute(difference(EMPTY, startup))

    def execute(self, sql):
        """Run something of our own; it must succeed."""
        rows = []
        if sql:
            self.raw.send_query(sql)
            while (result := self.raw.get_result()) is not None:
                assert result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK), (
                    sql,
                    result.error_message,
                )
                rows.append(
                    [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
                )
        return rows

    def run(self, sql):
        """Run a query string of the client's and tell the tracker what came back."""
        text = sql if isinstance(sql, bytes) else sql.encode()
        statements = split_statements(text)
        self.raw.send_query(text)
        number = 0
        while (result := self.raw.get_result()) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                self.state.failed()
            elif result.status != pq.ExecStatus.EMPTY_QUERY:
                self.state.completed(result.command_status, statements[number])
                number += 1
        self.state.ready(IDLE[self.raw.transaction_status])

    @property
    def is_idle(self):
        return self.raw.transaction_status == pq.TransactionStatus.IDLE

    def snapshot(self) -> Snapshot:
        return parse_snapshot(self.execute(snapshot_sql(self.state.custom_names)))

    def correct(self):
        """Do what the engine does after a RESET by the client."""
        self.execute(difference(self.state.server_vector, self.state.vector))
        self.state.corrected()

    def check(self):
        """At an idle moment the tracker and the server agree."""
        self.correct()
        assert differences(self.state, self.snapshot()) == []

    def close(self):
        self.connection.close()


def portable_part(snapshot: Snapshot, state: SessionState) -> Snapshot:
    """What another server can be given: no temporary objects, locks, or cursors that were read."""
    return replace(
        snapshot,
        settings={name: text for name, text in snapshot.settings.items() if name not in snapshot.at_default},
        at_default=frozenset(),
        types={},
        cursors={name: text for name, text in snapshot.cursors.items() if not state.cursors[name].is_read},
        custom={name: text for name, text in snapshot.custom.items() if text},
        advisory_locks_count=0,
        temporary=frozenset(),
        startup={},
    )


def check_rebuilt(server, sitting: Sitting):
    """A fresh session with the tracked settings and the restoration shows what the first one shows."""
    other = Sitting(server)
    try:
        other.execute(difference(EMPTY, sitting.state.vector))
        for query in sitting.state.restoration():
            other.execute(query)
        seen = parse_snapshot(other.execute(snapshot_sql(sitting.state.custom_names)))
        assert portable_part(seen, sitting.state) == portable_part(sitting.snapshot(), sitting.state)
    finally:
        other.close()


@pytest.fixture
def sitting(server):
    one = Sitting(server)
    yield one
    one.close()


# Each script must be followed by tags and texts alone: no snapshot may be asked for.
FOLLOWED = {
    "set and reset": ["SET work_mem TO '5MB'", "SET TimeZone = 'Europe/Zurich'", "RESET work_mem"],
    "set with many spellings": [
        'SET SESSION search_path = a, "B c", public',
        "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
        "SET NAMES 'LATIN1'",
        "SET XML OPTION DOCUMENT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        "SET enable_seqscan TO f; SET work_mem = 65536; SET IntervalStyle TO iso_8601 -- done",
        "SET datestyle TO sql, dmy",
        "SET myapp.\"user\" TO 'it''s'; SET myapp.select = E'a\\\\b';",
    ],
    "schema and default": [
        "SET SCHEMA 'a'",
        "SET work_mem TO '5MB'",
        "SET work_mem TO DEFAULT",
        "SET TIME ZONE LOCAL",
    ],
    "other letters": [
        'SET search_path TO größe, "größe"',
        "SET application_name TO 'größe'",
        "SET client_encoding TO latin1",
    ],
    "reset all keeps who": ["SET ROLE ana", "SET work_mem TO '5MB'", "SET a.b TO 'x'", "RESET ALL"],
    "commit": ["BEGIN", "SET work_mem TO '5MB'", "SET LOCAL search_path TO a", "COMMIT"],
    "rollback": [
        "SET work_mem TO '6MB'",
        "BEGIN",
        "SET work_mem TO '5MB'",
        "SET a.b TO 'x'",
        "LISTEN c",
        "ROLLBACK",
    ],
    "failed commit": ["BEGIN", "SET work_mem TO '5MB'", "SELECT 1/0", "COMMIT"],
    "local after session": ["BEGIN", "SET work_mem TO '5MB'", "SET LOCAL work_mem TO '6MB'", "COMMIT"],
    "session after local": ["BEGIN", "SET LOCAL work_mem TO '5MB'", "SET work_mem TO '6MB'", "COMMIT"],
    "local is nothing outside": ["SET LOCAL work_mem TO '5MB'"],
    "implicit transaction fails": ["SET work_mem TO '5MB'; LISTEN c; SELECT 1/0"],
    "implicit transaction commits in the middle": [
        "SET work_mem TO '5MB'; BEGIN; SET work_mem TO '6MB'; COMMIT; SET work_mem TO '7MB'; SELECT 1/0"
    ],
    "implicit part joins the transaction": ["SET work_mem TO '5MB'; BEGIN; SELECT 1/0", "ROLLBACK"],
    "savepoints": [
        "BEGIN",
        "SET work_mem TO '5MB'",
        "SAVEPOINT s",
        "SET work_mem TO '6MB'; LISTEN one",
        "SAVEPOINT s",
        "SET work_mem TO '7MB'; LISTEN two",
        "ROLLBACK TO SAVEPOINT s",
        "RELEASE s",
        "COMMIT",
    ],
    "savepoint before anything": [
        "BEGIN",
        'SAVEPOINT "S"',
        "SET ROLE ana",
        "SELECT 1/0",
        'ROLLBACK TO "S"',
        "END",
    ],
    "release keeps": [
        "BEGIN",
        "SAVEPOINT a",
        "SET LOCAL work_mem TO '5MB'",
        "SET search_path TO a",
        "RELEASE a",
        "COMMIT",
    ],
    "chain": [
        "BEGIN",
        "SET work_mem TO '5MB'",
        "COMMIT AND CHAIN",
        "SET work_mem TO '6MB'",
        "ROLLBACK AND CHAIN",
        "ABORT",
    ],
    "two-phase": [
        "BEGIN",
        "SET work_mem TO '5MB'",
        "SELECT 1",
        "PREPARE TRANSACTION 'p'",
        "ROLLBACK PREPARED 'p'",
    ],
    "role": ["SET ROLE ana", "SET ROLE NONE", "SET ROLE 'ana'", "BEGIN", "RESET ROLE", "ROLLBACK"],
    "another user drops the role": ["SET ROLE ana", "SET SESSION AUTHORIZATION carl"],
    "role of another user": ["SET SESSION AUTHORIZATION carl", "SET ROLE ana", "SET search_path TO a"],
    "user reset": ["SET SESSION AUTHORIZATION carl", "SET ROLE ana", "RESET SESSION AUTHORIZATION"],
    "set_config with constants": [
        "SELECT set_config('work_mem', '5MB', false)",
        "SELECT pg_catalog.set_config('a.b', 'it''s', false) AS x, set_config('search_path', 'a, \"B c\"', 'f')",
        "SELECT set_config('a.local', 'x', true), $$set_config(1)$$",
        "BEGIN; SELECT set_config('a.gone', 'x', false); ROLLBACK",
        "SELECT set_config('role', 'ana', false)",
    ],
    "prepare": [
        "PREPARE p (int) AS SELECT $1; PREPARE \"P q\" AS SELECT 'a;b'; PREPARE r AS SELECT 2",
        "EXECUTE p(1)",
        "DEALLOCATE PREPARE r",
        "BEGIN; PREPARE kept AS SELECT 3; ROLLBACK",
        "DEALLOCATE p",
    ],
    "prepare before an error": ["PREPARE p AS SELECT 1; SELECT 1/0"],
    "deallocate all": [
        "PREPARE p AS SELECT 1",
        "PREPARE prepare AS SELECT 2",
        "DEALLOCATE prepare",
        "DEALLOCATE ALL",
    ],
    "listen": [
        'LISTEN Chan; LISTEN "Chan"',
        "BEGIN; UNLISTEN chan; LISTEN x; UNLISTEN x; COMMIT",
        "BEGIN; UNLISTEN *; ROLLBACK",
    ],
    "unlisten all": ["LISTEN a", "LISTEN b", "UNLISTEN *"],
    "held cursors": [
        "DECLARE c INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 3)",
        "BEGIN; DECLARE d CURSOR WITH HOLD FOR SELECT 1; DECLARE e CURSOR FOR SELECT 2; COMMIT",
        "BEGIN; DECLARE f CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "FETCH NEXT FROM d",
    ],
    "a rollback closes no older cursor and reopens none": [
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1; DECLARE d CURSOR WITH HOLD FOR SELECT 2",
        "BEGIN; CLOSE c; ROLLBACK",
        "BEGIN; SAVEPOINT s; DECLARE x CURSOR WITH HOLD FOR SELECT 3; ROLLBACK TO s; COMMIT",
    ],
    "close all": ["DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL"],
    "temporary tables": [
        "CREATE TEMP TABLE one (id serial, d int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (id))",
        "CREATE TEMPORARY TABLE IF NOT EXISTS pg_temp.two AS SELECT 1 AS temp",
        'CREATE LOCAL TEMP SEQUENCE "Three"',
        "CREATE OR REPLACE TEMP VIEW four AS SELECT * FROM one",
        "BEGIN; CREATE TEMP TABLE five (); CREATE TEMP TABLE six () ON COMMIT DROP; COMMIT",
        "BEGIN; CREATE TEMP TABLE seven (); ROLLBACK",
    ],
    "discard temp": ["CREATE TEMP TABLE one ()", "DISCARD TEMP"],
    "discard all": [
        "SET work_mem TO '5MB'; SET ROLE ana; LISTEN c; PREPARE p AS SELECT 1; CREATE TEMP TABLE x ()",
        "DISCARD ALL",
    ],
    "load": ["LOAD 'plpgsql'"],
    "reset and then local": [
        "SET work_mem TO '5MB'",
        "BEGIN; RESET work_mem; SET LOCAL work_mem TO '6MB'; COMMIT",
    ],
    "untracked": [
        "SET seed TO 0.5; SET CONSTRAINTS ALL DEFERRED",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET transaction_deferrable TO on; COMMIT",
    ],
    "innocent": [
        "SELECT 'temp', 'advisory' FROM t",
        "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT",
        "DO 'BEGIN END'",
    ],
}

# These need the server's own view.
ASKED = {
    "do block": ["DO $$ BEGIN SET work_mem TO '5MB'; PERFORM set_config('a.b', 'x', false); END $$"],
    "do block over a set": ["SET work_mem TO '6MB'", "DO $$ BEGIN SET work_mem TO '5MB'; END $$"],
    "do block undoes": ["SET work_mem TO '6MB'", "DO $$ BEGIN RESET work_mem; EXECUTE 'LISTEN x'; END $$"],
    "do block prepares": ["DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 1'; EXECUTE 'SET ROLE ana'; END $$"],
    "set_config in a query": ["SELECT set_config('work_mem', i || 'MB', false) FROM generate_series(5, 6) i"],
    "set_config in a prepared statement": [
        "PREPARE p AS SELECT set_config('work_mem', '5MB', false)",
        "EXECUTE p",
    ],
    "advisory": ["SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock_shared(2, 3)"],
    "advisory undone": ["SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock_all()"],
    "select into temp": [
        "SELECT 1 AS id INTO TEMP x",
        "CREATE TABLE pg_temp.y (id int)",
        "CREATE TYPE pg_temp.k AS (a int)",
    ],
    "temp by path": [
        "SET search_path TO pg_temp, public",
        "CREATE TABLE y (id int)",
        "SELECT 1 AS id INTO z",
    ],
    "temp dropped": [
        "CREATE TEMP TABLE x (id int)",
        "CREATE VIEW v AS SELECT * FROM x",
        "DROP TABLE x CASCADE",
    ],
    "temp renamed": ["CREATE TEMP TABLE x (id int)", "ALTER TABLE x RENAME TO y"],
    "from current": ["SET work_mem TO '5MB'", "SET work_mem FROM CURRENT"],
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_tags_and_texts_alone_follow_a_session(server, sitting, name):
    """Section 6.5: maps driven by tags; a snapshot of the server at each idle moment proves them."""
    for sql in FOLLOWED[name]:
        sitting.run(sql)
        assert not sitting.state.needs_snapshot, sql
        if sitting.is_idle:
            sitting.check()
    assert sitting.is_idle
    check_rebuilt(server, sitting)


@pytest.mark.parametrize("name", ASKED)
def test_what_no_text_tells_asks_for_a_snapshot_and_is_right_after_it(server, sitting, name):
    """Section 6.5: set_config, advisory, temp, into and DO mark the session, the snapshot clears it."""
    has_asked = False
    for sql in ASKED[name]:
        sitting.run(sql)
        if sitting.state.needs_snapshot and sitting.is_idle:
            assert not sitting.state.is_clean
            has_asked = True
            sitting.state.take_snapshot(sitting.snapshot())
        sitting.check()
    assert has_asked
    check_rebuilt(server, sitting)


SETTINGS = {
    "work_mem": ("'5MB'", "65536", "'7 MB'", "DEFAULT"),
    "search_path": ("a", 'a, "B c"', "'$user', public", "''", "größe"),
    "timezone": ("'UTC'", "'Europe/Zurich'", "3", "DEFAULT"),
    "default_transaction_isolation": ("'serializable'", "'repeatable read'"),
    "enable_seqscan": ("off", "true", "'no'"),
    "app.tenant": ("'a'", "'B ''c'", "7"),
    "datestyle": ("german", "'sql, dmy'", "iso, ymd"),
}
EVENTS = (
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK AND CHAIN",
    "COMMIT AND CHAIN",
    "SAVEPOINT s",
    'SAVEPOINT "T"',
    "SAVEPOINT s",
    "ROLLBACK TO s",
    'ROLLBACK TO "T"',
    "RELEASE s",
    'RELEASE SAVEPOINT "T"',
    "SELECT 1/0",
    "SELECT 1",
    "LISTEN x",
    "LISTEN y",
    "UNLISTEN x",
    "UNLISTEN *",
    "SET ROLE ana",
    "SET ROLE bob",
    "RESET ROLE",
    "SET LOCAL ROLE ana",
    "SET SESSION AUTHORIZATION carl",
    "SET LOCAL SESSION AUTHORIZATION carl",
    "RESET SESSION AUTHORIZATION",
    "RESET ALL",
    "DISCARD ALL",
    "DISCARD TEMP",
    "PREPARE p AS SELECT 1",
    "PREPARE q AS SELECT 2",
    "DEALLOCATE p",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE d CURSOR WITH HOLD FOR SELECT 2",
    "FETCH d",
    "CLOSE c",
    "CLOSE ALL",
    "CREATE TEMP TABLE tt (id int)",
    "CREATE TEMP TABLE uu (id int) ON COMMIT DROP",
    "DROP TABLE IF EXISTS tt",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_advisory_unlock_all()",
    "DO $$ BEGIN SET work_mem TO '9MB'; END $$",
    "SELECT set_config('app.tenant', 'by call', false)",
    "SELECT set_config('work_mem', '8MB', true)",
)


def random_statement(chance: random.Random) -> str:
    """One statement that changes a session, its transaction, or nothing."""
    if chance.random() < 0.6:
        return chance.choice(EVENTS)
    name = chance.choice(sorted(SETTINGS))
    if chance.random() < 0.2:
        return f"RESET {name}"
    return f"SET {chance.choice(('', 'SESSION ', 'LOCAL '))}{name} TO {chance.choice(SETTINGS[name])}"


@pytest.mark.parametrize("seed", range(12))
def test_random_sessions_are_followed(server, seed):
    """Section 6.5, by 60 random query strings of one to three statements, checked at every idle moment."""
    chance = random.Random(seed)
    startup = from_startup({"user": "x", "options": "-c work_mem=10MB", "TimeZone": "Asia/Tokyo"})
    sitting = Sitting(server, startup if seed % 2 else EMPTY)
    try:
        script = []
        for _ in range(60):
            script.append("; ".join(random_statement(chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))))
            sitting.run(script[-1])
            if not sitting.is_idle:
                continue
            sitting.correct()
            seen = sitting.snapshot()
            if sitting.state.needs_snapshot:
                sitting.state.take_snapshot(seen)
            assert differences(sitting.state, seen) == [], script
        sitting.run("ROLLBACK")
        sitting.correct()
        if sitting.state.needs_snapshot:
            sitting.state.take_snapshot(sitting.snapshot())
        check_rebuilt(server, sitting)
    finally:
        sitting.close()


def test_the_settings_inside_a_transaction_are_known(server, sitting):
    """Section 6.5: the vector in force inside the transaction, as SHOW tells it."""
    for sql, shown in (
        ("BEGIN; SET LOCAL work_mem TO '5MB'", "5MB"),
        ("SAVEPOINT s; SET work_mem TO '6MB'", "6MB"),
        ("ROLLBACK TO s", "5MB"),
    ):
        sitting.run(sql)
        current = sitting.state.current_vector.get("work_mem")
        assert current == f"'{shown}'".encode()
        assert sitting.execute(b"SHOW work_mem") == [[[shown.encode()]]]
    sitting.run("COMMIT")
    assert sitting.state.current_vector is sitting.state.vector is EMPTY


def test_a_reset_leads_back_to_what_the_client_asked_for_at_its_login(server):
    """Section 6.6: RESET on a shared server gives the server's start, the correction gives the client's."""
    startup = from_startup({"work_mem": "10MB", "search_path": 'a, "B c"', "options": "-c role=ana"})
    sitting = Sitting(server, startup)
    try:
        for sql in (
            "SET work_mem TO '5MB'; RESET work_mem",
            "RESET ALL",
            "DISCARD ALL",
            "RESET ROLE; SET LOCAL x.y TO 1",
        ):
            sitting.run(sql)
            assert sitting.state.vector is startup
            assert sitting.state.server_vector is not startup
            assert difference(sitting.state.server_vector, startup)
            sitting.correct()
            assert sitting.state.server_vector is startup
            assert sitting.execute(b"SHOW work_mem; SHOW search_path; SHOW role") == [
                [[b"10MB"]],
                [[b'a, "B c"']],
                [[b"ana"]],
            ]
    finally:
        sitting.close()


def test_a_reset_that_only_the_server_saw_is_corrected_after_the_snapshot(server):
    """Section 6.6, with a DO block: also where the engine has noted a correction before the snapshot came."""
    startup = from_startup({"work_mem": "10MB", "options": "-c role=ana"})
    sitting = Sitting(server, startup)
    try:
        sitting.run("DO $$ BEGIN RESET ALL; RESET ROLE; END $$")
        sitting.state.corrected()
        sitting.state.take_snapshot(sitting.snapshot())
        assert sitting.state.vector is startup
        assert sitting.state.server_vector is EMPTY
        sitting.check()
        assert sitting.execute(b"SHOW work_mem; SHOW role") == [[[b"10MB"]], [[b"ana"]]]
    finally:
        sitting.close()


def test_any_vector_becomes_any_other_on_a_server(server):
    """Section 6.6: the difference as one batch; afterwards the server shows the new settings and no others."""
    chance = random.Random(6)
    choices = {
        name: [value.encode() for value in values if value.isascii() and value != "DEFAULT"]
        for name, values in SETTINGS.items()
    }
    choices |= {
        "role": [b"ana", "ana", b'"ana"'],
        "session_authorization": [b"carl", "bob"],
        "application_name": ["it's größe \\ 𝄞", b"x"],
        "client_encoding": ["'utf-8'", b"'LATIN1'"],
        "myapp.select": ["", b"'1'"],
        "log_min_messages": [b"error"],
    }
    sitting = Sitting(server)
    fresh = Sitting(server)
    try:
        old = EMPTY
        for _ in range(40):
            names = chance.sample(sorted(choices), chance.randrange(7))
            new = Vector.of({name: chance.choice(choices[name]) for name in names})
            sitting.execute(difference(old, new))
            fresh.execute(b"DISCARD ALL")
            fresh.execute(difference(EMPTY, new))
            custom = snapshot_sql(["app.tenant", "myapp.select"])
            one, other = (parse_snapshot(each.execute(custom)) for each in (sitting, fresh))
            known = {name: text for name, text in one.custom.items() if text}
            assert known == {name: text for name, text in other.custom.items() if text}
            assert replace(one, custom={}) == replace(other, custom={}), new.items
            assert set(one.settings) == {
                n for n in names if "." not in n and n not in ("role", "session_authorization")
            }
            old = new
    finally:
        sitting.close()
        fresh.close()


def test_a_function_that_sets_something_reported_asks_for_a_snapshot():
    """Section 6.5: what no statement explains, a ParameterStatus tells."""
    state = SessionState()
    state.completed(b"SELECT 1", b"SELECT innocent()")
    state.reported("in_hot_standby", "on")
    assert state.is_clean
    state.reported("TimeZone", "UTC")
    state.ready(73)
    assert state.needs_snapshot
    assert not state.is_clean
    state.take_snapshot(Snapshot(settings={"timezone": "UTC"}))
    assert state.is_clean
    assert state.vector is Vector.of({"timezone": "UTC"})
    state.completed(b"SET", b"SET timezone TO 'CET'")
    state.reported("TimeZone", "CET")
    state.ready(73)
    assert state.is_clean
    state.failed()
    state.reported("TimeZone", "UTC")
    state.ready(73)
    assert state.is_clean


def test_a_statement_without_its_text_asks_for_a_snapshot():
    """Section 6.5: where the text of a statement in flight was not kept."""
    for tag in (
        b"SET",
        b"ROLLBACK",
        b"SAVEPOINT",
        b"LISTEN",
        b"SELECT 1",
        b"DO",
        b"PREPARE",
        b"CREATE TABLE",
    ):
        state = SessionState()
        state.completed(tag, b"")
        assert state.needs_snapshot, tag
    for tag in (b"COMMIT", b"DISCARD ALL", b"CLOSE CURSOR ALL", b"DEALLOCATE ALL"):
        state = SessionState()
        state.completed(tag, b"")
        assert state.is_clean, tag


def test_the_reasons_of_a_pin_and_the_losses_are_in_words(server, sitting):
    """Issue 3 item 4: "why pinned" is visible; section 6.8: what is lost is named."""
    for sql in (
        "LISTEN a; PREPARE p AS SELECT 1; PREPARE q AS SELECT 2; PREPARE r AS SELECT 3; PREPARE s AS SELECT 4",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1; DECLARE d CURSOR WITH HOLD FOR SELECT 2",
        "FETCH c; CREATE TEMP TABLE tt (); LOAD 'plpgsql'; SELECT nextval('s')",
        "SELECT pg_advisory_lock(1)",
    ):
        sitting.run(sql)
    assert sitting.state.pins[-1] == "waits for a snapshot"
    sitting.state.take_snapshot(sitting.snapshot())
    assert sitting.state.pins == (
        "LISTEN a",
        "temporary objects tt",
        "cursor WITH HOLD c, d",
        "advisory lock",
        "LOAD plpgsql",
        "PREPARE p, q, r and 1 more",
    )
    assert sitting.state.losses() == [
        "temporary object tt",
        "cursor c (was read from)",
        "session advisory locks",
        "currval of sequences",
    ]
    assert not sitting.state.is_clean
    sitting.run("DISCARD ALL")
    assert sitting.state.pins == ()
    assert sitting.state.losses() == sitting.state.restoration() == []
    assert sitting.state.is_clean


def test_a_custom_setting_under_an_unknown_name_keeps_the_client_at_its_server():
    """Fact 8: placeholder settings are not in pg_settings, so a name that was a parameter cannot be found again."""
    state = SessionState()
    state.completed(b"SELECT 1", b"SELECT set_config($1, $2, true)")
    assert state.is_clean
    state.completed(b"SELECT 1", b"SELECT set_config('app.user', $1, false)")
    assert state.custom_names == {"app.user"}
    state.take_snapshot(Snapshot(custom={"app.user": "ana"}))
    assert state.is_clean
    assert state.vector.get("app.user") == "ana"
    state.completed(b"SELECT 1", b"SELECT set_config($1, $2, false)")
    state.take_snapshot(Snapshot(custom={"app.user": "ana"}))
    assert state.pins == ("settings under names that cannot be seen",)


def test_a_hidden_change_is_what_the_audit_finds(server, sitting):
    """Section 6.5, audit mode: a function of the database may change what no text shows."""
    sitting.run("SELECT hidden()")
    assert sitting.state.is_clean
    found = differences(sitting.state, sitting.snapshot())
    assert found == ["setting work_mem: not tracked, but the session changed it on the server"]
    sitting.state.take_snapshot(sitting.snapshot())
    sitting.check()


def test_a_fresh_state_is_small_and_ends_with_its_client():
    """Section 6.9 budget: fewer than 300 bytes for an idle client, and no cycle that keeps it."""
    states = [SessionState() for _ in range(3)]
    parts = {id(part): part for state in states for part in gc.get_referents(state)}
    assert sys.getsizeof(states[0]) < 300
    assert all(id(part) in {id(other) for other in gc.get_referents(states[1])} for part in parts.values())
    vector = Vector.of({"only.here": "1"})
    state = SessionState(vector)
    watched = weakref.ref(vector)
    gc.disable()
    try:
        del vector, state
        assert watched() is None
    finally:
        gc.enable()


PIPELINES = {
    "an error undoes it all": (("SET work_mem TO '5MB'", "LISTEN c", "SELECT 1/0"), EMPTY),
    "a commit in the middle stays": (
        ("BEGIN", "SET work_mem TO '5MB'", "COMMIT", "SET search_path TO a", "SELECT 1/0"),
        Vector.of({"work_mem": b"'5MB'"}),
    ),
    "without error it is one commit": (
        ("SET work_mem TO '5MB'", "SELECT 1"),
        Vector.of({"work_mem": b"'5MB'"}),
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_up_to_its_sync_is_one_transaction(server, sitting, name):
    """Manual section 55.2.3: without BEGIN, everything up to the Sync commits or rolls back together."""
    statements, vector = PIPELINES[name]
    raw, state = sitting.raw, sitting.state
    raw.enter_pipeline_mode()
    for sql in statements:
        raw.send_query_params(sql.encode(), None)
    raw.pipeline_sync()
    for sql in statements:
        result = raw.get_result()
        if result.status == pq.ExecStatus.FATAL_ERROR:
            state.failed()
        elif result.status != pq.ExecStatus.PIPELINE_ABORTED:
            state.completed(result.command_status, sql.encode())
        assert raw.get_result() is None
    assert raw.get_result().status == pq.ExecStatus.PIPELINE_SYNC
    raw.exit_pipeline_mode()
    state.ready(73)
    assert state.vector is vector
    sitting.check()


def test_after_a_failover_only_what_could_be_rebuilt_is_held():
    """Section 6.8, idle and not restorable: the loss is reported once, then it is over."""
    state = SessionState()
    for tag, statement in (
        (b"LISTEN", b"LISTEN a"),
        (b"PREPARE", b"PREPARE p AS SELECT 1"),
        (b"DECLARE CURSOR", b"DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
        (b"DECLARE CURSOR", b"DECLARE d CURSOR WITH HOLD FOR SELECT 2"),
        (b"FETCH 1", b"FETCH d"),
        (b"CREATE TABLE", b"CREATE TEMP TABLE t ()"),
    ):
        state.completed(tag, statement)
    state.ready(73)
    state.completed(b"SET", b"SET work_mem TO '5MB'")
    state.forget_losses()
    assert state.losses() == []
    assert state.vector is state.current_vector is EMPTY
    assert state.restoration() == [
        b"PREPARE p AS SELECT 1",
        b'LISTEN "a"',
        b"DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    ]
