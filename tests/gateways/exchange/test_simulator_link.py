"""The link to a simulator over real sockets that are cut, stalled and killed: every event once, in order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from exchange_sim_lab import QUICK, SESSION, Recorder, eventually, linked, owner, resting, serving, taking

from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, LocalProtocolError
from sojourn.gateways.exchange.market.orders import OrderStatus, Reject
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.sim.channel import Fenced, GrpcioChannel
from sojourn.gateways.exchange.sim.link import (
    LinkState,
    Ownership,
    SimulatorLink,
    SimulatorLinkSettings,
    ask_status,
)
from sojourn.gateways.exchange.sim.stubs import pb
from sojourn.gateways.exchange.spawners.process import ProcessSettings, ProcessSpawner
from sojourn.gateways.exchange.spawners.spawner import Phase, SimulatorSpec
from sojourn.testing.fault_proxy import FaultProxy, Faults, Script

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def at(proxy: FaultProxy) -> str:
    return f"{proxy.host}:{proxy.port}"


def test_orders_events_prices_and_the_portfolio_come_over(run: Run) -> None:
    """link.py: what the reader is handed is what the simulation has."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder) as link:
            simulation = service.desk.simulation
            filled = await link.submit(taking("t", quantity=3))
            assert filled.order.status == OrderStatus.FILLED
            placed = await link.submit(resting("r", quantity=9))
            changed = await link.replace("x", placed.order.number, 4, 2_000_000)
            assert (changed.order.quantity, changed.order.price_e6) == (4, 2_000_000)
            ended = await link.cancel("c", placed.order.number)
            assert (ended.order.status, ended.refusal) == (OrderStatus.CANCELED, "")
            assert (await link.cancel("d", placed.order.number)).refusal == Reject.ORDER_IS_FINAL
            seq, orders = await link.list_orders()
            assert (seq, [order.request_id for order in orders]) == (ended.seq, ["t", "r"])
            await recorder.caught_up(ended.seq)
            assert recorder.events == list(simulation.events)
            await recorder.until(lambda: recorder.portfolio == simulation.portfolio())
            assert recorder.rows == {row.quote.symbol: row for row in simulation.rows_after(-1)}
            report = await link.status()
            assert (report.session, report.owner_epoch, report.is_attached) == (SESSION, 1, True)
        assert recorder.states == [LinkState.UP, LinkState.CLOSED]

    run(main())


def test_a_link_goes_on_after_the_last_event_that_another_has_handed_on(run: Run) -> None:
    """Contract: a new owner attaches after the last stored event; nothing lost, nothing twice."""

    async def main() -> None:
        first, second = Recorder(), Recorder()
        async with serving() as service:
            async with linked(service.address, first) as link:
                for number in range(10):
                    await link.submit(resting(f"a{number}"))
                await first.caught_up(10)
            seq, run_id = link.seq, link.run_id
            for number in range(10):  # while nobody listens
                service.desk.simulation.submit(resting(f"b{number}"))
            async with linked(service.address, second, 2, after_seq=seq, run=run_id):
                await second.caught_up(20)
            assert first.events + second.events == list(service.desk.simulation.events)
            assert not second.snapshots

    run(main())


def test_a_link_that_is_too_far_behind_gets_a_snapshot_and_goes_on_from_it(run: Run) -> None:
    """simulator.proto: tagged with its seq, so that what follows has neither gap nor overlap."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service:
            simulation = service.desk.simulation
            for number in range(30):
                simulation.submit(resting(f"a{number}"))
            for _ in range(20):
                simulation.events.popleft()  # as if it had run for long
            async with linked(service.address, recorder, after_seq=5) as link:
                await recorder.until(lambda: recorder.snapshots)
                await link.submit(resting("b"))
                await recorder.caught_up(31)
            (snapshot,) = recorder.snapshots
            assert (snapshot.seq, snapshot.run) == (30, service.desk.run)
            assert [order.request_id for order in snapshot.orders] == [f"a{number}" for number in range(30)]
            assert [event.seq for event in recorder.events] == [31]

    run(main())


def test_an_owner_that_has_lost_its_log_begins_with_a_snapshot(run: Run) -> None:
    """Contract: a new log epoch; what happened before is in the snapshot, and is not told again."""

    async def main() -> None:
        recorder = Recorder()
        async with (
            serving() as service,
            FaultProxy("127.0.0.1", port_of(service.address)) as proxy,
        ):
            service.desk.simulation.submit(resting("a"))
            async with linked(at(proxy), recorder, wants_snapshot=True) as link:
                await recorder.until(lambda: recorder.snapshots)
                (await proxy.connection(0)).reset()
                await link.submit(resting("b"))
                await recorder.caught_up(2)
            assert [snapshot.seq for snapshot in recorder.snapshots] == [1]  # once, and not after each loss
            assert [event.seq for event in recorder.events] == [2]

    run(main())


def test_a_simulator_that_has_lost_its_memory_is_noticed(run: Run) -> None:
    """simulator.proto: its run changes; what is known of orders is replaced, not added to."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service:
            for number in range(3):
                service.desk.simulation.submit(resting(f"a{number}"))
            async with linked(service.address, recorder, after_seq=2, run="of-before"):
                await recorder.until(lambda: recorder.snapshots)
            assert recorder.snapshots[0].seq == 3
            assert not recorder.events

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_doubled_however_often_the_line_is_cut(run: Run, seed: int) -> None:
    """Contract: exactly once and in order; orders whose answers are lost are sent again and taken once."""
    chance = random.Random(seed)

    def faults() -> Faults:
        kind = chance.choice(["cut_after_bytes", "reset_after_bytes", "stall_after_bytes"])
        return Faults(**{kind: chance.randrange(600, 12_000)}, piece_bytes=chance.choice([0, 0, 97]))

    script = [
        Script(to_client=faults()) if chance.random() < 0.7 else Script(to_server=faults()) for _ in range(40)
    ]

    async def main() -> None:
        recorder = Recorder()
        async with (
            serving(speed=1.0, market=MarketSettings(step_ms=20)) as service,
            FaultProxy("127.0.0.1", port_of(service.address), *script, Script()) as proxy,
            linked(at(proxy), recorder) as link,
        ):
            asked = 0
            while link.reconnects < 25 and asked < 5_000:
                batch = [link.submit(resting(f"r{asked + one}")) for one in range(4)]
                asked += len(batch)
                for result in await asyncio.gather(*batch):
                    if result.order.status != OrderStatus.REJECTED:  # as too many rest
                        await link.cancel(f"c{result.order.number}", result.order.number)
            simulation = service.desk.simulation
            await recorder.caught_up(simulation.seq)
            assert recorder.events == list(simulation.events)
            assert not recorder.snapshots
            taken = [
                event.update.request_id
                for event in simulation.events
                if event.update.status == OrderStatus.NEW
            ]
            assert sorted(taken) == sorted(f"r{number}" for number in range(asked))
            assert link.reconnects >= 25
            assert recorder.states.count(LinkState.UP) == link.reconnects + 1

    run(main())


def test_a_line_that_stalls_is_found_dead_by_its_heartbeats(run: Run) -> None:
    """link.py: nobody closes a connection whose other side is gone; the heartbeat finds out."""

    async def main() -> None:
        recorder = Recorder()
        async with (
            serving() as service,
            FaultProxy("127.0.0.1", port_of(service.address)) as proxy,
            linked(at(proxy), recorder) as link,
        ):
            await link.submit(resting("a"))
            (await proxy.connection(0)).stall()
            service.desk.simulation.submit(resting("b"))
            await recorder.caught_up(2)
            assert len(proxy.connections) == 2
            assert recorder.states == [LinkState.UP, LinkState.DOWN, LinkState.UP]

    run(main())


class SilentStream(GrpcioChannel):
    """A library that has lost a stream without a word, while its calls go on."""

    made: ClassVar[list[SilentStream]] = []

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.made.append(self)

    def attach(self, request: pb.AttachRequest) -> Any:
        attached = super().attach(request)
        return _Silent(attached) if len(self.made) == 1 else attached


class _Silent:
    def __init__(self, attached: Any) -> None:
        self.attached = attached

    async def __aenter__(self) -> Any:
        updates = await self.attached.__aenter__()

        async def one_and_no_more() -> Any:
            yield await anext(updates)
            await asyncio.get_running_loop().create_future()

        self.generator = one_and_no_more()
        return self.generator

    async def __aexit__(self, *error: object) -> None:
        await self.generator.aclose()
        await self.attached.__aexit__(*error)


def test_a_stream_that_stands_still_is_opened_anew(run: Run) -> None:
    """grpc#43462, grpc#43360: a stream may hang though the connection lives; the heartbeat's seq shows it."""

    async def main() -> None:
        SilentStream.made = []
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder, connect=SilentStream) as link:
            await link.submit(resting("a"))
            await recorder.caught_up(1)
            assert len(SilentStream.made) == 2
            assert "stands still" in recorder.details[1]

    run(main())


def test_a_reader_that_cannot_take_more_pauses_the_link(run: Run) -> None:
    """link.py: nothing is queued; what is not read stays in the simulator, and comes when it is read again."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder) as link:
            await link.submit(resting("a"))
            await recorder.caught_up(1)
            link.pause()
            for number in range(600):
                result = await link.submit(resting(f"b{number}"))
                await link.cancel(f"c{number}", result.order.number)
            assert len(recorder.events) <= 2  # one update may have been read already
            link.resume()
            await recorder.caught_up(1201)
            assert recorder.events == list(service.desk.simulation.events)
            assert recorder.states == [LinkState.UP]

    run(main())


def test_a_fenced_link_says_so_once_and_ends(run: Run) -> None:
    """Contract: FAILED_PRECONDITION is fencing; the pod that lost the session lets go of it."""

    async def main() -> None:
        old, new = Recorder(), Recorder()
        async with serving() as service, linked(service.address, old) as link:
            await link.submit(resting("a"))
            async with linked(service.address, new, 2) as winner:
                await old.until(lambda: old.fenced_by)
                with pytest.raises(Fenced):
                    await link.submit(resting("b"))
                await winner.submit(resting("c"))
                await new.caught_up(2)
            assert old.fenced_by == [2]
            assert old.states == [LinkState.UP, LinkState.FENCED]
            assert [event.update.request_id for event in new.events] == ["a", "c"]

    run(main())


def test_an_owner_that_is_behind_when_it_attaches_is_fenced(run: Run) -> None:
    """As above, from the first call on: a pod that slept through a take-over."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service:
            service.desk.obey(owner(5))
            async with linked(service.address, recorder, 4) as link:
                await recorder.until(lambda: recorder.fenced_by)
                with pytest.raises(Fenced):
                    await link.cancel("c", 1)
            assert recorder.fenced_by == [5]
            assert recorder.states == [LinkState.FENCED]

    run(main())


@pytest.mark.parametrize("other", [{"session": "another"}, {"simulator": "another"}])
def test_a_link_to_a_simulator_that_is_anothers_says_so_once_and_ends(
    run: Run, other: dict[str, str]
) -> None:
    """simulator.proto: foreign; no other try would change it."""

    async def main() -> None:
        recorder = Recorder()
        async with serving(**other) as service:
            link = SimulatorLink(
                service.address,
                Ownership(SESSION, 1, "mine"),
                recorder,
                QUICK,
                breakers=Breakers(BreakerSettings()),
            )
            async with asyncio.timeout(10):
                await link.run()
            with pytest.raises(BackendUnavailable):
                await link.submit(resting("a"))
        assert recorder.states == [LinkState.FOREIGN]

    run(main())


def test_a_heartbeat_is_enough_to_be_fenced(run: Run) -> None:
    """The new owner may have been heard of before it attaches."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder):
            await recorder.until(lambda: recorder.states)
            service.desk.owner_epoch = 3
            await recorder.until(lambda: recorder.fenced_by)
            assert recorder.fenced_by == [3]

    run(main())


def test_the_circuit_opens_for_orders_and_the_link_finds_the_way_back(run: Run) -> None:
    """Spec 5.6: a breaker per endpoint; heartbeats and the stream are on a path without."""

    async def main() -> None:
        breakers = Breakers(BreakerSettings(consecutive_failures_count=2, open_s=0.05, open_max_s=0.05))
        settings = SimulatorLinkSettings(
            heartbeat_s=0.05,
            heartbeat_timeout_s=0.2,
            attach_timeout_s=0.2,
            order_timeout_s=0.2,
            reconnect_min_s=0.01,
            reconnect_max_s=0.05,
        )
        recorder = Recorder()
        async with (
            serving() as service,
            FaultProxy(
                "127.0.0.1",
                port_of(service.address),
                *[Script(to_server=Faults(reset_after_bytes=1))] * 30,
                Script(),
            ) as proxy,
            linked(at(proxy), recorder, breakers=breakers, settings=settings) as link,
        ):
            for _ in range(2):
                with pytest.raises(BackendUnavailable):
                    await link.submit(resting("a"))
            assert breakers.state(link.endpoint) == CircuitState.OPEN
            with pytest.raises(BackendUnavailable, match="circuit open"):
                await link.submit(resting("a"))
            await recorder.until(lambda: LinkState.UP in recorder.states)
            while True:
                try:
                    result = await link.submit(resting("a"))
                    break
                except BackendUnavailable as error:
                    assert "circuit" in error.cause  # noqa: PT017 - what it says while it is open
                    await asyncio.sleep(0)
            assert result.order.request_id == "a"
            assert breakers.state(link.endpoint) == CircuitState.CLOSED
            await recorder.caught_up(1)

    run(main())


def test_an_order_waits_for_the_connection_no_longer_than_its_deadline(run: Run) -> None:
    """Every wait has a deadline."""

    async def main() -> None:
        settings = SimulatorLinkSettings(order_timeout_s=0.1, reconnect_min_s=0.01, reconnect_max_s=0.05)
        async with linked("127.0.0.1:1", settings=settings) as link:
            began = asyncio.get_running_loop().time()
            with pytest.raises(BackendUnavailable):
                await link.submit(resting("a"))
            assert asyncio.get_running_loop().time() - began < 1

    run(main())


def test_a_call_against_the_rules_is_our_bug_and_not_tried_again(run: Run) -> None:
    """LocalProtocolError; the circuit does not count it."""

    async def main() -> None:
        breakers = Breakers(BreakerSettings(consecutive_failures_count=1))
        async with serving() as service, linked(service.address, breakers=breakers) as link:
            for _ in range(3):
                with pytest.raises(LocalProtocolError):
                    await link.submit(resting("x" * 99))
            assert breakers.state(link.endpoint) == CircuitState.CLOSED

    run(main())


def test_a_simulator_that_ends_is_told_after_its_last_event(run: Run) -> None:
    """link.py: ENDED; the link does not look for it any more."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder) as link:
            await link.submit(resting("a"))
            assert await link.drain() == 1
            await recorder.until(lambda: LinkState.ENDED in recorder.states)
            assert [event.seq for event in recorder.events] == [1]
            with pytest.raises(BackendUnavailable):
                await link.submit(resting("b"))
        assert recorder.states == [LinkState.UP, LinkState.ENDED]

    run(main())


def test_a_killed_simulator_is_noticed_at_once(run: Run, tmp_path: Path) -> None:
    """kill -9 of a child process: DOWN, orders unavailable, and the spawner knows why."""

    async def main() -> None:
        recorder = Recorder()
        spawner = ProcessSpawner(ProcessSettings(directory=str(tmp_path / "sims")))
        await spawner.open()
        try:
            handle = await spawner.create(SimulatorSpec(simulator="sim-1", session=SESSION))
            *_, status = [status async for status in spawner.progress(handle)]
            settings = SimulatorLinkSettings(order_timeout_s=0.2, reconnect_min_s=0.01, reconnect_max_s=0.05)
            async with linked(status.endpoint, recorder, settings=settings) as link:
                await link.submit(taking("a"))
                await recorder.caught_up(2)
                os.kill(int(handle.place["pid"]), signal.SIGKILL)
                await recorder.until(lambda: LinkState.DOWN in recorder.states)
                with pytest.raises(BackendUnavailable):
                    await link.submit(taking("b"))
            assert (await spawner.poll(handle)).phase == Phase.FAILED
        finally:
            await spawner.close()

    run(main())


def test_a_closed_link_leaves_no_task_and_no_call(run: Run) -> None:
    """Contract: calls are always canceled explicitly; the simulator sees that nobody reads."""

    async def main() -> None:
        async with serving() as service:
            before = asyncio.all_tasks()
            async with linked(service.address, recorder := Recorder()) as link:
                await recorder.until(lambda: recorder.states)
                assert service.is_attached
                waiting = asyncio.gather(*(link.submit(resting(f"r{one}")) for one in range(20)))
                await waiting
            await eventually(lambda: not service.is_attached)
            left = [repr(task) for task in asyncio.all_tasks() - before]
            assert [one for one in left if "AioServer" not in one] == []  # which is the service's own

    run(main())


def test_nothing_is_handed_on_after_a_link_is_closed(run: Run) -> None:
    """link.py: close; the owner may have made another link already, which hands on the same events."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder) as link:
            await recorder.until(lambda: recorder.states)
            service.desk.simulation.submit(resting("a"))
            service._tell()
            link.close()
            await recorder.until(lambda: LinkState.CLOSED in recorder.states)
            assert not recorder.events

    run(main())


def test_a_canceled_order_leaves_the_link_as_it_was(run: Run) -> None:
    """Cancellation passes through; the order may have been taken, and its events tell."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service, linked(service.address, recorder) as link:
            await link.submit(resting("a"))
            task = asyncio.create_task(link.submit(resting("b")))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await link.submit(resting("c"))
            assert recorder.states == [LinkState.UP]

    run(main())


def test_a_canceled_link_ends_by_its_cancellation(run: Run) -> None:
    """STYLE: cancellation passes through."""

    async def main() -> None:
        recorder = Recorder()
        async with serving() as service:
            link = SimulatorLink(
                service.address,
                Ownership(SESSION, 1),
                recorder,
                QUICK,
                breakers=Breakers(BreakerSettings()),
            )
            task = asyncio.create_task(link.run())
            await recorder.until(lambda: recorder.states)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert recorder.states == [LinkState.UP, LinkState.CLOSED]

    run(main())


def test_whoever_asks_need_not_own(run: Run) -> None:
    """link.py: ask_status, for who looks after simulators."""

    async def main() -> None:
        async with serving(simulator="sim-1") as service:
            report = await ask_status(service.address)
            assert (report.simulator, report.owner_epoch, report.is_attached) == ("sim-1", 0, False)
        with pytest.raises(BackendUnavailable):
            await ask_status("127.0.0.1:1", timeout_s=1.0)

    run(main())
