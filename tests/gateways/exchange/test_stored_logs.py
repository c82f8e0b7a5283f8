"""Event logs in the database, as the gateway has them without a Valkey; the contract itself is in ``test_bus``."""

from __future__ import annotations

import asyncio

import pytest
from bus_lab import ANA, SID, TTL_S, StoredLab, events, stored_lab
from exchange_service_lab import ANA as USER
from exchange_service_lab import BUY, FILLS, ServiceLab, ServicePod
from postgres_lab import running_lab

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus import Appended, Fenced, Gap, LogEnd, Owner, Page, Trimmed
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.lifecycle import EndReason
from sojourn.gateways.exchange.memory_bus import MemoryHub
from sojourn.gateways.exchange.storage import StoreSettings
from sojourn.gateways.exchange.store.database import Database
from sojourn.gateways.exchange.store.postgres import PostgresStore


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL for the module."""
    with running_lab(tmp_path_factory.mktemp("stored")) as running:
        yield running.direct.dsn()


@pytest.fixture(params=["memory", "postgres"])
def dsn(request):
    """Where the logs are: nowhere, or in PostgreSQL."""
    return "" if request.param == "memory" else request.getfixturevalue("database")


def test_a_lease_without_its_epoch_in_the_database_writes_nothing(run, dsn):
    """Section 5.6: the database fences too; an end is no reason to ask for the lease again."""

    async def scenario():
        async with stored_lab(dsn) as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            await a.append(SID, ANA, 1, events(1, 2))
            await lab.own(SID, Owner("pod-b", 9))
            fenced = Fenced(Owner("", 9))
            assert await a.append(SID, ANA, 1, events(3, 3)) == fenced
            assert await a.reseed(SID, ANA, 2, ()) == fenced
            assert not await a.forget(SID, ANA)
            await lab.own(SID, ANA)
            await lab.store.sessions.end(SID, EndReason.USER)
            assert await a.append(SID, ANA, 1, events(3, 3)) == Fenced(Owner("", ANA.epoch))
            assert await a.read_after(SID, 1, 0, 9) == Page(tuple(events(1, 2)), 2)

    run(scenario())


def test_how_far_the_simulator_was_is_known_behind_any_event(run, dsn):
    """An owner goes on from there, although the last events were none of the simulator's and the rest is trimmed."""

    async def scenario():
        async with stored_lab(dsn, log_keep_count=10, log_keep_bytes=4096) as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            await a.append(SID, ANA, 1, events(1, 2, simulator="sim-1/run"))
            mixed = [*events(3, 3), *events(4, 4, simulator="sim-1/run"), *events(5, 5)]
            await a.append(SID, ANA, 1, mixed)
            assert await a.log_end(SID) == LogEnd(1, 1, 5, "sim-1/run", 40)
            for offset in range(6, 40):
                await a.append(SID, ANA, 1, events(offset, offset))
            end = await a.log_end(SID)
            assert (end.last, end.simulator, end.seq) == (39, "sim-1/run", 40)
            assert end.first >= 29
            assert await a.read_after(SID, 1, 37, 9) == Page(tuple(events(38, 39)), 39)

    run(scenario())


def test_a_batch_of_a_simulator_is_one_statement(run, database, monkeypatch):
    """The hot path: lease and place are looked at by the insert; only what no simulator has told asks first."""

    async def scenario():
        async with stored_lab(database) as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            statements = []
            fetch = Database.fetch

            async def counted(self, query, *arguments):
                statements.append(query)
                return await fetch(self, query, *arguments)

            monkeypatch.setattr(Database, "fetch", counted)
            for number in range(1, 21):
                told = events(number, number, simulator="sim-1/run")
                assert await a.append(SID, ANA, 1, told) == Appended(number)
            assert len(statements) == 20
            assert await a.append(SID, ANA, 1, events(21, 21)) == Appended(21)
            assert len(statements) == 22

    run(scenario())


def test_a_log_that_begins_without_an_event_keeps_its_place(run, dsn):
    """What stands for its beginning is no event, and is never read as one."""

    async def scenario():
        async with stored_lab(dsn) as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            assert await a.reseed(SID, ANA, 3, (), after=7, simulator="sim-1/run", seq=41) == Appended(7)
            assert await a.log_end(SID) == LogEnd(3, 8, 7, "sim-1/run", 41)
            assert await a.append(SID, ANA, 3, events(9, 9)) == Gap(3, 7)
            assert await a.append(SID, ANA, 3, events(8, 9)) == Appended(9)
            assert await a.log_end(SID) == LogEnd(3, 8, 9, "sim-1/run", 41)
            assert await a.read_after(SID, 3, 7, 9) == Page(tuple(events(8, 9)), 9)
            for offset in (0, 6):
                assert await a.read_after(SID, 3, offset, 9) == Trimmed(3, 8, 9)

    run(scenario())


def test_trimming_that_fails_costs_no_event(run):
    """The batch was written: what is too much is deleted with a later one."""

    async def scenario():
        lab = StoredLab(ValkeySettings(log_keep_count=10))
        await lab.start()
        a = await lab.bus("pod-a")
        await a.acquire(SID, ANA, TTL_S)
        trim = lab.store.events.trim

        async def fail(*_where, **_limits):
            raise BackendUnavailable("database", 0.0, "it is away")

        lab.store.events.trim = fail
        assert await a.append(SID, ANA, 1, events(1, 30)) == Appended(30)
        lab.store.events.trim = trim
        assert await a.append(SID, ANA, 1, events(31, 31)) == Appended(31)
        assert await a.log_end(SID) == LogEnd(1, 22, 31, "", 0)

    run(scenario())


def test_what_the_database_refuses_to_say_is_raised(run):
    """Then it is not known whether the call was carried out, and it may be made again."""

    async def scenario():
        async with stored_lab() as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            lab.store.go_away()
            for call in (
                a.append(SID, ANA, 1, events(1, 1)),
                a.reseed(SID, ANA, 1, ()),
                a.read_after(SID, 1, 0, 9),
                a.log_end(SID),
                a.forget(SID, ANA),
            ):
                with pytest.raises(BackendUnavailable):
                    await call
            with pytest.raises(ValueError, match="no events"):
                await a.append(SID, ANA, 1, ())

    run(scenario())


def test_a_bus_that_cannot_say_who_has_the_lease_writes_nothing(run):
    """The lease is asked first."""

    async def scenario():
        async with stored_lab() as lab:
            a = await lab.bus("pod-a")
            await a.acquire(SID, ANA, TTL_S)
            lab.hub.away.add("pod-a")
            with pytest.raises(BackendUnavailable):
                await a.append(SID, ANA, 1, [LogEvent(1, "note", b"{}", 0)])
            lab.hub.heal()
            assert await a.log_end(SID) is None

    run(scenario())


class EmbeddedLab(ServiceLab):
    """One process at a time, whose store is in PostgreSQL or in memory; leases end with each process."""

    def __init__(self, dsn):
        self.dsn = dsn
        super().__init__(1, has_stored_logs=True)

    def make_store(self):
        store = super().make_store()
        if self.dsn:
            store = PostgresStore(StoreSettings(dsn=Secret(self.dsn), schema="embedded"), self.wall)
        return store

    async def restart(self):
        """End the process as a crash does, and start it again; its simulators live on."""
        self.pods[0].kill()
        await asyncio.sleep(0)
        self.hub = MemoryHub(clock=self.clock)
        self.pods[0] = ServicePod(self, "pod-0")
        await self.pods[0].announce()


def test_events_survive_a_restart_of_the_daemon(run, dsn):
    """Section 5.7: without a Valkey the log is in the database; the client resumes, nothing is lost or told twice."""

    async def scenario():
        lab = EmbeddedLab(dsn)
        await lab.store.start()
        try:
            session = await lab.running()
            placed = [
                await lab.do(lab.pods[0].service.submit_order(USER, session, BUY, f"k{n}")) for n in range(3)
            ]
            before = await lab.do(lab.pods[0].service.events_after(USER, session, 0, 0, 100))
            for number in range(2):
                await lab.restart()
                service = lab.pods[0].service
                shown = await lab.do(service.snapshot(USER, session))
                assert (shown.epoch, shown.events) == (before.epoch, 3 + 2 * number)
                again = await lab.do(service.events_after(USER, session, before.epoch, 0, 3))
                assert again.events == before.events
                for order in placed:
                    assert await lab.do(service.get_order(USER, session, order.order)) == order
                await lab.do(service.submit_order(USER, session, FILLS, f"f{number}"))
            page = await lab.do(service.events_after(USER, session, 0, 0, 100))
            assert [bytes(event.d) for event in page.events] == lab.truth()
            assert [event.o for event in page.events] == list(range(1, 8))
            assert lab.bugs == []
        finally:
            await lab.end()
            await lab.store.stop()

    run(scenario())
