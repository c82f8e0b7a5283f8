"""A ``pgbouncer.ini`` is taken as it is: every documented key has a meaning, a reason, or is named as unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.config import SojournSettings, load_text, show
from sojourn.errors import ConfigError
from sojourn.gateways.postgres import pgbouncer_ini
from sojourn.gateways.postgres.config import PostgresSettings
from sojourn.gateways.postgres.pgbouncer_ini import PgBouncerConfig
from sojourn.gateways.postgres.pgbouncer_lines import read_pairs

Read = Callable[..., PgBouncerConfig]

FULL = Path(__file__).with_name("pgbouncer_full.ini").read_text(encoding="utf-8")


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Give a function that reads a text as a file named ``pgbouncer.ini``, in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, *, is_strict: bool = False) -> PgBouncerConfig:
        path = Path("pgbouncer.ini")
        path.write_text(text)
        return pgbouncer_ini.read(path, is_strict=is_strict)

    return read_text


@pytest.fixture
def problems(read: Read) -> Callable[[str], list[str]]:
    """Give a function that returns every problem of a text."""

    def problems_of(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        return [str(problem) for problem in caught.value.problems]

    return problems_of


@pytest.fixture
def full(read: Read) -> PostgresSettings:
    """Give what the file with every key means."""
    return read(FULL).settings


def test_every_documented_key_is_known(read: Read) -> None:
    """Nothing of a file that PgBouncer takes is unknown, and no key without effect lacks its reason."""
    config = read(FULL, is_strict=True)
    assert config.unknown == ()
    assert all(ignored.why for ignored in config.ignored)
    assert {"pkt_buf", "sbuf_loopcnt", "user", "pidfile", "shop", "1"} & {
        one.key for one in config.ignored
    } == {
        "pkt_buf",
        "sbuf_loopcnt",
        "user",
        "pidfile",
        "1",
    }
    assert (config.log_file, config.is_verbose) == ("/var/log/pgbouncer.log", True)


def test_what_is_ignored_is_named_with_file_line_and_reason(read: Read) -> None:
    """An operator sees what will not be as it was."""
    config = read("[pgbouncer]\npkt_buf = 4096\n[databases]\na = host=h load_balance_hosts=disable\n")
    first, second = sorted(map(str, config.ignored), key=lambda text: "databases" in text)
    assert first == "pgbouncer.ini:2: pgbouncer.pkt_buf changes nothing: buffers grow with what is read"
    assert second.startswith("pgbouncer.ini:4: databases.a.load_balance_hosts changes nothing: ")


def test_databases_with_the_same_hosts_share_a_cluster(full: PostgresSettings) -> None:
    """Hosts of a list are one cluster, in whatever order; without host it is the socket's directory."""
    addresses = {one.name: [node.address for node in one.nodes] for one in full.clusters}
    assert addresses == {
        "db1.example.net-5433-and-1-more": ["db1.example.net:5433", "db2.example.net:5433"],
        "run-pgbouncer": ["unix:/run/pgbouncer:5432"],
        "run-postgresql": ["unix:/run/postgresql:5432"],
        "2001-db8-7": ["[2001:db8::7]:5432"],
        "127.0.0.1": ["127.0.0.1:5432"],
    }
    clusters = {one.name: one.cluster for one in full.databases}
    assert clusters["shop"] == clusters["forced"]
    assert clusters["*"] == "127.0.0.1"


def test_a_connection_string_becomes_a_database(full: PostgresSettings) -> None:
    """Names are quoted as in SQL, values in single quotes."""
    by_name = {one.name: one for one in full.databases}
    assert list(by_name) == ["shop", "forced", "local", 'odd "name"', "v6", "*"]
    shop, forced = by_name["shop"], by_name["forced"]
    assert (shop.dbname, shop.pool_size_count, shop.reserve_pool_size_count, shop.min_pool_size_count) == (
        "shop_v2",
        7,
        2,
        1,
    )
    assert forced.user == "baz"
    assert forced.password is not None
    assert forced.password.reveal() == 'it\'s; "secret"'
    assert forced.connect_query == "SELECT '1'"
    assert forced.pool_mode == "statement"
    assert forced.parameters == {
        "client_encoding": "UTF8",
        "datestyle": "ISO",
        "timezone": "Europe/Berlin",
        "application_name": "forced",
    }
    assert by_name['odd "name"'].max_connections_count == 9
    assert by_name["v6"].reserve_pool_size_count == 3


def test_users_have_their_limits(full: PostgresSettings) -> None:
    """Passwords come from the user list, limits from here."""
    batch = full.users[0]
    assert (batch.name, batch.pool_mode, batch.max_connections_count, batch.pool_size_count) == (
        "batch",
        "session",
        3,
        2,
    )
    assert batch.password is None


def test_the_main_section_is_taken_over(full: PostgresSettings) -> None:
    """Every key with a meaning here has that meaning."""
    assert [one.address for one in full.listeners] == [
        "127.0.0.1:7000",
        "[2001:db8::1]:7000",
        "db.example.net:7000",
        "unix:/run/pgbouncer/.s.PGSQL.7000",
    ]
    assert [one.reuse_port for one in full.listeners] == [True, True, True, False]
    assert full.listeners[-1].unix_mode == "0770"
    assert {one.backlog_count for one in full.listeners} == {256}
    assert full.limits.connections_count == 5000
    pool = full.pool
    assert (pool.mode, pool.size_count, pool.min_size_count) == ("transaction", 30, 3)
    assert (pool.reserve_size_count, pool.reserve_timeout_s) == (4, 2.5)
    assert (pool.max_database_connections_count, pool.max_user_connections_count) == (100, 90)
    assert pool.queue_timeout_s == 15
    assert (pool.server_lifetime_s, pool.server_idle_timeout_s) == (1200, 60)
    assert (pool.server_connect_timeout_s, pool.server_login_retry_s, pool.server_check_delay_s) == (5, 3, 10)
    assert (pool.server_reset_query, pool.max_prepared_statements_count) == ("DEALLOCATE ALL", 50)
    assert pool.ignore_startup_parameters == ("extra_float_digits", "options")
    timeouts = full.timeouts
    assert (timeouts.client_login_timeout_s, timeouts.client_idle_timeout_s) == (20, 86_400)
    assert (timeouts.idle_in_transaction_timeout_s, timeouts.transaction_timeout_s) == (30, 600)
    assert (timeouts.query_timeout_s, timeouts.cancel_wait_timeout_s) == (300, 4)
    assert full.max_packet_bytes == 1_000_000


def test_logins_are_taken_over(full: PostgresSettings) -> None:
    """User list and rules are passed on by path."""
    auth = full.auth
    assert (auth.method, auth.hba_file) == ("hba", "/etc/pgbouncer/hba.conf")
    assert auth.ident_file == "/etc/pgbouncer/ident.conf"
    assert auth.userlist_file == "/etc/pgbouncer/userlist.txt"
    assert (auth.query_user, auth.query_database) == ("lookup", "shop")
    assert auth.query == "SELECT * FROM pgbouncer.user_lookup($1)"
    assert full.console.databases == ("pgbouncer", "sojourn")
    assert full.console.admin_users == ("ana", "ben")
    assert full.console.stats_users == ("exporter",)


def test_tls_is_taken_over(full: PostgresSettings) -> None:
    """Towards clients verify-ca and verify-full are one; servers behind unix sockets have none."""
    assert full.tls is not None
    assert (full.tls.mode, full.tls.min_version) == ("verify-full", "1.3")
    assert full.tls.client_ca_file == "/etc/pgbouncer/clients.pem"
    server = full.clusters[0].tls
    assert server is not None
    assert (server.mode, server.ca_file) == ("verify-ca", "/etc/pgbouncer/servers.pem")
    assert [one.tls for one in full.clusters if "unix:" in one.nodes[0].address] == [None, None]


def test_what_is_left_out_has_pgbouncers_default(read: Read) -> None:
    """The same file does the same, apart from the wait that makes failovers long."""
    settings = read("[databases]\na = host=h\n[pgbouncer]\n").settings
    assert [one.address for one in settings.listeners] == ["unix:/tmp/.s.PGSQL.6432"]
    assert settings.listeners[0].unix_mode == "0777"
    assert settings.limits.connections_count == 100
    assert settings.pool.mode == "session"
    assert settings.auth.method == "md5"
    assert settings.auth.query == ""
    assert settings.tls is None
    assert settings.clusters[0].tls is not None
    assert settings.clusters[0].tls.mode == "prefer"
    assert settings.pool.server_login_retry_s == 1.0


def test_zero_means_what_it_means_to_pgbouncer(read: Read) -> None:
    """A time of 0 is for ever, or switches the reserve off; an empty directory is no socket."""
    text = (
        "[pgbouncer]\nlisten_addr = *\nunix_socket_dir =\nclient_login_timeout = 0\ncancel_wait_timeout = 0\n"
        "server_connect_timeout = 0\nserver_login_retry = 0\nreserve_pool_size = 5\nreserve_pool_timeout = 0\n"
    )
    settings = read(text).settings
    assert settings.timeouts.client_login_timeout_s > 86_400
    assert settings.timeouts.cancel_wait_timeout_s > 86_400
    assert settings.pool.server_connect_timeout_s > 86_400
    assert 0 < settings.pool.server_login_retry_s < 1
    assert settings.pool.reserve_size_count == 0
    assert len(settings.listeners) == 1
    assert settings.listeners[0].address in {"[::]:6432", "0.0.0.0:6432"}


def test_the_minimum_is_capped_at_the_pool_size(read: Read) -> None:
    """As PgBouncer documents it, silently."""
    text = "[databases]\na = host=h pool_size=2 min_pool_size=9\n[pgbouncer]\nmin_pool_size = 50\n"
    settings = read(text).settings
    assert settings.pool.min_size_count == 20
    assert settings.databases[0].min_pool_size_count == 2


def test_auth_user_alone_asks_the_default_query(read: Read) -> None:
    """PgBouncer's default of auth_query comes with auth_user, and only with it."""
    assert read("[pgbouncer]\nauth_user = a\n").settings.auth.query.endswith("WHERE usename=$1")
    config = read("[pgbouncer]\nauth_query = SELECT $1\n")
    assert config.settings.auth.query == ""
    assert [one.key for one in config.ignored] == ["auth_query"]


def test_an_auth_user_of_databases_is_taken_if_they_agree(read: Read) -> None:
    """One lookup is for all databases; a second one is named as without effect."""
    config = read("[databases]\na = host=h auth_user=x\nb = host=h auth_user=x\n")
    assert (config.settings.auth.query_user, config.ignored) == ("x", ())
    config = read("[databases]\na = host=h auth_user=x\nb = host=h auth_user=y\n[pgbouncer]\nauth_user=x\n")
    assert config.settings.auth.query_user == "x"
    assert [one.key for one in config.ignored] == ["b.auth_user"]


def test_the_last_of_two_lines_counts(read: Read) -> None:
    """As in PgBouncer, for keys and for databases."""
    settings = read(
        "[databases]\na = host=one\na = host=two\n[pgbouncer]\nlisten_port = 1\nlisten_port = 2\n"
    ).settings
    assert [one.cluster for one in settings.databases] == ["two"]
    assert settings.listeners[0].address.endswith(".2")


def test_an_included_file_goes_on_in_its_section(read: Read) -> None:
    """A relative path starts where the process runs; the section stays."""
    Path("more.ini").write_text("shop = host=db1\n[pgbouncer]\npool_mode = transaction\n")
    settings = read("[databases]\n%include more.ini\nlisten_port = 7001\n").settings
    assert [one.name for one in settings.databases] == ["shop"]
    assert settings.pool.mode == "transaction"
    assert settings.listeners[0].address.endswith(".7001")


def test_files_that_include_one_another_end(problems: Callable[[str], list[str]]) -> None:
    """A circle is a problem, not a hang; so is a file that is not there."""
    found = problems("%include pgbouncer.ini\n%include nowhere.ini\n")
    assert (
        "pgbouncer.ini:1: %include: found files that include one another more than 10 deep, wanted fewer"
        in found
    )
    assert (
        "nowhere.ini: (file): found No such file or directory, wanted a file that this process can read"
        in found
    )


def test_unknown_keys_are_all_named_and_stop_only_a_strict_start(read: Read) -> None:
    """A wrong word in a file of two hundred lines must not be searched for."""
    text = (
        "[databases]\na = host=h pol_size=3\n[users]\nana = pool_mod=session\n"
        "[pgbouncer]\npool_mod = session\nfrobnicate = 1\n[pgbuoncer]\nlisten_port = 1\n"
    )
    config = read(text)
    assert sorted(f"{one.line} {one.table}.{one.key} {one.wanted}" for one in config.unknown) == [
        "2 databases.a.pol_size 'pool_size', perhaps",
        "4 users.ana.pool_mod 'pool_mode', perhaps",
        "6 pgbouncer.pool_mod 'pool_mode', perhaps",
        "7 pgbouncer.frobnicate a key that PgBouncer has",
        "9 pgbuoncer.listen_port one of [databases], [users], [peers], [pgbouncer]",
    ]
    with pytest.raises(ConfigError) as caught:
        read(text, is_strict=True)
    assert sorted(caught.value.problems) == sorted(config.unknown)


def test_every_wrong_value_is_named_at_once(problems: Callable[[str], list[str]]) -> None:
    """File, line, key, what was found and what is wanted, in the order of the file."""
    found = problems(
        "what is this\n"
        "[databases]\na = host=h pool_size=many\nb = host='open\nc = host=h port=99999\npgbouncer = host=h\n"
        "d = host=@abstract\ne = host=x,y port=1,2,3\n"
        "[users]\nana = pool_mode=sometimes\n"
        "[pgbouncer]\nlisten_port = http\nquery_timeout = soon\nso_reuseport = maybe\nunix_socket_mode = rwx\n"
        "pool_mode = none\nauth_type = pam\nmax_client_conn = -1\ndisable_pqexec = 1\n"
        "client_tls_protocols = tlsv1.0\nclient_tls_sslmode = require\nserver_lifetime = nan\n"
    )
    places = [problem.partition(": found ")[0].removeprefix("pgbouncer.ini:") for problem in found]
    assert places == [
        "1: (syntax)",
        "3: databases.a.pool_size",
        "4: databases.b",
        "5: databases.c.host",
        "6: databases.pgbouncer",
        "7: databases.d.host",
        "8: databases.e.host",
        "10: users.ana.pool_mode",
        "12: pgbouncer.listen_port",
        "13: pgbouncer.query_timeout",
        "14: pgbouncer.so_reuseport",
        "15: pgbouncer.unix_socket_mode",
        "16: pgbouncer.pool_mode",
        "17: pgbouncer.auth_type",
        "18: pgbouncer.max_client_conn",
        "19: pgbouncer.disable_pqexec",
        "20: pgbouncer.client_tls_protocols",
        "21: pgbouncer.client_tls_sslmode",
        "21: pgbouncer.client_tls_sslmode",
        "22: pgbouncer.server_lifetime",
    ]
    assert (
        "pgbouncer.ini:13: pgbouncer.query_timeout: found 'soon', wanted a number of seconds, 0 or more"
        in found
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[pgbouncer]\nauth_type = hba\n",
            "pgbouncer.ini: pgbouncer.auth_hba_file: found none, wanted a file with rules, as method is 'hba'",
        ),
        (
            "[pgbouncer]\nauth_type = cert\n",
            "pgbouncer.ini:2: pgbouncer.auth_type: found 'cert' without TLS",
        ),
        (
            "[pgbouncer]\nauth_user = a\nauth_query = SELECT 1\n",
            "pgbouncer.ini:3: pgbouncer.auth_query: found a query without $1",
        ),
        (
            "[pgbouncer]\nauth_user = a\nauth_dbname = nowhere\n",
            "pgbouncer.ini:3: pgbouncer.auth_dbname: found 'nowhere', which is no database",
        ),
    ],
)
def test_what_does_not_fit_together_has_pgbouncers_names(
    problems: Callable[[str], list[str]], text: str, problem: str
) -> None:
    """An operator mends the file that he wrote."""
    assert [one for one in problems(text) if one.startswith(problem)]


def test_no_password_gets_into_a_problem(problems: Callable[[str], list[str]], read: Read) -> None:
    """Neither of a string that cannot be read nor of a line that is none; nor is it shown afterwards."""
    text = "[databases]\na = host=h password='hunter2\nb = host=h password hunter2\nc = password='hunter2'x\nhunter2\n"
    assert "hunter2" not in "".join(problems(text))
    config = read("[databases]\na = host=h user=u password=hunter2 pasword=hunter2\n")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config.unknown[0])
    assert "hunter2" not in show(SojournSettings(postgres=config.settings))


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """Missing, a directory, not UTF-8: named, never a traceback."""
    binary = tmp_path / "binary.ini"
    binary.write_bytes(b"[pgbouncer]\nlisten_port = \xff\n")
    for path, line in ((tmp_path / "none.ini", 0), (tmp_path, 0), (binary, 2)):
        with pytest.raises(ConfigError) as caught:
            pgbouncer_ini.read(path)
        assert [problem.line for problem in caught.value.problems] == [line]


def test_the_equivalent_toml_means_the_same(read: Read) -> None:
    """``sojourn config show --pgbouncer-ini`` is what one goes on with; only passwords have to be put in."""
    settings = read(FULL.replace("""password='it''s; "secret"' """, "")).settings
    assert load_text(show(SojournSettings(postgres=settings)), "sojourn.toml", {}).postgres == settings


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("a=b", [("a", "b")]),
        (" A = b  c='' ", [("a", "b"), ("c", "")]),
        ("a='x''y' b=", [("a", "x'y"), ("b", "")]),
        ("a='b=c d=e'", [("a", "b=c d=e")]),
    ],
)
def test_pairs_are_read_as_pgbouncer_reads_them(text: str, pairs: list[tuple[str, str]]) -> None:
    """Spaces around the sign are allowed; a quote inside quotes is written twice."""
    assert read_pairs(text) == pairs


@pytest.mark.parametrize("text", ["a", "a='b", "a='b'c", "=b", "a=b'c"])
def test_a_string_without_pairs_says_the_form(text: str) -> None:
    """What cannot be read is refused as a whole."""
    with pytest.raises(ValueError, match="key=value"):
        read_pairs(text)
