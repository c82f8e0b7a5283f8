"""Several workers behind one address: cancels that cross over, a crash, and a restart that breaks no transaction."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from daemon_process import WITHIN_S, DaemonProcess, running_daemon
from postgres_lab import DATABASE, PASSWORD, USER, Lab, configuration, running_lab

WORKERS_COUNT = 2
CLIENTS_COUNT = 12
"""So many that all of them at one worker is one case in 2048."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("workers"), version=16) as running:
        yield running


class Gateway:
    """The daemon with its workers."""

    def __init__(self, daemon: DaemonProcess, port: int) -> None:
        self.daemon = daemon
        self.port = port

    def connect(self, database: str = DATABASE) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=database,
            sslmode="disable",
            connect_timeout=int(WITHIN_S),
            autocommit=True,
        )

    def workers(self) -> list[int]:
        """Return the PIDs of all workers that were started, the oldest first."""
        return [one["pid"] for one in self.daemon.events if one["event"] == "postgres.worker_started"]


def _configuration(lab: Lab, folder: Path, port: int) -> str:
    text = configuration(
        folder,
        "transaction",
        [f"127.0.0.1:{lab.direct.port}"],
        more=f"\n[postgres]\nworkers_count = {WORKERS_COUNT}\n",
    )
    text = text.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"')
    return text.replace("drain_timeout_s = 1.0", "drain_timeout_s = 20.0")


@pytest.fixture
def gateway(lab: Lab, tmp_path: Path) -> Iterator[Gateway]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_daemon(tmp_path, _configuration(lab, tmp_path, port)) as daemon:
        daemon.wait_for("postgres.worker_started", WORKERS_COUNT)
        yield Gateway(daemon, port)


def test_a_cancel_request_finds_its_statement_from_any_worker(gateway: Gateway) -> None:
    """Specification 6.2: the key carries the worker's index, so that any worker can pass the request on."""
    with ThreadPoolExecutor(CLIENTS_COUNT) as threads, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS_COUNT)]
        started = threading.Barrier(CLIENTS_COUNT + 1)

        def sleep(client: psycopg.Connection) -> str:
            started.wait(WITHIN_S)
            try:
                client.execute("SELECT pg_sleep(60)")
            except psycopg.errors.QueryCanceled:
                return "cancelled"
            return "not cancelled"

        asleep = [threads.submit(sleep, client) for client in clients]
        started.wait(WITHIN_S)
        for client, sleeping in zip(clients, asleep, strict=True):
            while not sleeping.done():  # one that comes before its statement has no effect
                client.cancel_safe(timeout=WITHIN_S)
                with contextlib.suppress(TimeoutError):
                    sleeping.result(0.2)
        assert {one.result() for one in asleep} == {"cancelled"}


def test_pause_at_one_console_holds_the_clients_of_every_worker(lab: Lab, gateway: Gateway) -> None:
    """PgBouncer usage, PAUSE: when it returns, the server has no connection left of any worker; RESUME ends it."""
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()"
    with ThreadPoolExecutor(CLIENTS_COUNT) as threads, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS_COUNT)]
        for client in clients:
            client.execute("SELECT 1")
        assert int(lab.direct.value(count)) > 1
        operator = stack.enter_context(gateway.connect("sojourn"))
        operator.execute("PAUSE")
        assert int(lab.direct.value(count)) == 0
        held = [threads.submit(client.execute, "SELECT 1") for client in clients]
        assert not any(one.done() for one in held)
        operator.execute("RESUME")
        assert sum(one.result(WITHIN_S).rowcount for one in held) == CLIENTS_COUNT
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            operator.execute("SHUTDOWN WAIT_FOR_CLIENTS")


def test_a_worker_that_is_killed_is_replaced_and_the_others_serve_on(gateway: Gateway) -> None:
    """Specification 6.2: a crash costs the clients of one worker only; the supervisor starts another one."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS_COUNT)]
        victim = gateway.workers()[1]
        os.kill(victim, signal.SIGKILL)
        gateway.daemon.wait_for("postgres.worker_lost", pid=victim)
        served = 0
        for client in clients:
            with contextlib.suppress(psycopg.OperationalError):
                served += client.execute("SELECT 1").rowcount
        assert 0 < served < CLIENTS_COUNT
        assert stack.enter_context(gateway.connect()).execute("SELECT 1").rowcount == 1
        gateway.daemon.wait_for("postgres.worker_started", WORKERS_COUNT + 1)
        again = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS_COUNT)]
        assert sum(client.execute("SELECT 1").rowcount for client in again) == CLIENTS_COUNT


class _Work:
    """A client that runs transactions until told to stop, and connects again whenever it is closed."""

    def __init__(self, gateway: Gateway, number: int) -> None:
        self._gateway = gateway
        self._number = number
        self.committed = self.closed = 0
        self.broken: list[str] = []
        self.is_done = threading.Event()

    def run(self) -> None:
        while not self.is_done.is_set():
            with contextlib.suppress(psycopg.OperationalError), self._gateway.connect() as client:
                self._serve(client)

    def _serve(self, client: psycopg.Connection) -> None:
        while not self.is_done.is_set():
            in_transaction = False
            try:
                client.execute("BEGIN")
                in_transaction = True
                client.execute("INSERT INTO worked VALUES (%s)", (self._number,))
                client.execute("INSERT INTO worked VALUES (%s)", (self._number,))
                client.execute("COMMIT")
                self.committed += 1
            except psycopg.OperationalError as error:
                self.closed += 1
                if in_transaction:
                    self.broken.append(str(error))
                return


def test_a_rolling_restart_breaks_no_transaction(lab: Lab, gateway: Gateway) -> None:
    """Specification 6.9: new workers listen before old ones stop, and clients are closed between transactions."""
    lab.direct.psql("DROP TABLE IF EXISTS worked; CREATE TABLE worked (client int);")
    works = [_Work(gateway, number) for number in range(4)]
    threads = [threading.Thread(target=work.run) for work in works]
    for thread in threads:
        thread.start()
    try:
        gateway.daemon.signal(signal.SIGUSR2)
        gateway.daemon.wait_for("postgres.worker_replaced", WORKERS_COUNT)
        before = gateway.workers()[:WORKERS_COUNT]
        after = gateway.workers()[WORKERS_COUNT:]
    finally:
        for work in works:
            work.is_done.set()
        for thread in threads:
            thread.join(WITHIN_S)
    assert [error for work in works for error in work.broken] == []
    assert sum(work.closed for work in works) > 0
    assert len(after) == WORKERS_COUNT
    assert not set(before) & set(after)
    assert int(lab.direct.value("SELECT count(*) FROM worked")) == 2 * sum(work.committed for work in works)
    gateway.daemon.wait_for("server.stopped", WORKERS_COUNT)


def test_a_signal_to_the_supervisor_reaches_every_worker(gateway: Gateway) -> None:
    """SIGHUP makes every worker read the configuration again, and each says that it did; SIGTERM ends them all."""
    gateway.daemon.signal(signal.SIGHUP)
    gateway.daemon.wait_for("server.reloaded", WORKERS_COUNT)
    lines = [one for one in gateway.daemon.events if one["event"] == "server.reloaded"]
    assert {line["worker"] for line in lines} == set(range(WORKERS_COUNT))


def test_a_reload_asked_of_the_first_worker_reaches_the_others(gateway: Gateway) -> None:
    """Operators speak to the first worker only, and mean all of them."""
    assert gateway.daemon.sojourn("reload").returncode == 0
    gateway.daemon.wait_for("server.reloaded", WORKERS_COUNT + 1)


def test_a_drain_asked_of_the_first_worker_ends_all(gateway: Gateway) -> None:
    """A worker that ends as it was told to ends the daemon; only a crash is mended."""
    assert gateway.daemon.sojourn("drain").returncode == 0
    assert gateway.daemon.wait() == 0
    gateway.daemon.wait_for("server.stopped", WORKERS_COUNT)


def test_workers_that_cannot_start_end_the_daemon(lab: Lab, tmp_path: Path) -> None:
    """An address that is taken is told and ends it all, at the start; nothing is tried again and again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "sojourn.toml").write_text(_configuration(lab, tmp_path, taken.getsockname()[1]))
        daemon = DaemonProcess(tmp_path)
        try:
            assert daemon.wait() != 0
            assert "addresses that are free" in "".join(daemon.lines)
        finally:
            daemon.kill()
