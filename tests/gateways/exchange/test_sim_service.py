"""The simulator over gRPC, spoken to without a link: owners, requests that come twice, streams, and its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from exchange_sim_lab import SESSION, channel_to, owner, resting, serving, submit_of, taking
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError, LocalProtocolError
from sojourn.gateways.exchange.market.orders import OrderStatus, Reject
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.market.simulation import EVENTS_COUNT
from sojourn.gateways.exchange.sim.channel import Fenced, GrpcioChannel
from sojourn.gateways.exchange.sim.codec import event_from, row_from
from sojourn.gateways.exchange.sim.main import read_prices
from sojourn.gateways.exchange.sim.settings import ServiceSettings, read_settings, write_settings
from sojourn.gateways.exchange.sim.stubs import SERVICE, pb

Run = Callable[[Coroutine[Any, Any, Any]], Any]
WITHIN_S = 5.0


async def submit(channel: GrpcioChannel, request: Any, epoch: int = 1) -> pb.OrderReply:
    return await channel.call("SubmitOrder", submit_of(request, epoch), WITHIN_S)


async def beat(channel: GrpcioChannel, epoch: int = 1, **who: str) -> pb.HeartbeatReply:
    return await channel.call("Heartbeat", pb.HeartbeatRequest(owner=owner(epoch, **who)), WITHIN_S)


async def first_update(channel: GrpcioChannel, **request: Any) -> pb.Update:
    async with channel.attach(pb.AttachRequest(owner=owner(), **request)) as updates:
        return await anext(updates)


# Owners


def test_an_owner_of_a_smaller_epoch_is_fenced(run: Run) -> None:
    """simulator.proto: a call with a smaller epoch than the highest seen is FAILED_PRECONDITION, whatever it is."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            await beat(channel, 7)
            with pytest.raises(Fenced) as fenced:
                await beat(channel, 6)
            assert fenced.value.by_epoch == 7
            with pytest.raises(Fenced):
                await submit(channel, resting("a"), 6)
            with pytest.raises(Fenced):
                async with channel.attach(pb.AttachRequest(owner=owner(6))) as updates:
                    await anext(updates)
            for method, request in (
                ("CancelOrder", pb.CancelOrderRequest(owner=owner(6), request_id="c", number=1)),
                ("ReplaceOrder", pb.ReplaceOrderRequest(owner=owner(6), request_id="r", number=1)),
                ("ListOrders", pb.ListOrdersRequest(owner=owner(6))),
                ("Drain", pb.DrainRequest(owner=owner(6))),
            ):
                with pytest.raises(Fenced):
                    await channel.call(method, request, WITHIN_S)
            assert service.desk.simulation.seq == 0
            assert not service.desk.is_draining

    run(main())


def test_the_status_of_a_refusal_is_failed_precondition(run: Run) -> None:
    """simulator.proto: FAILED_PRECONDITION, and why in trailing metadata, for drivers in other languages."""

    async def main() -> None:
        async with serving() as service, grpc.aio.insecure_channel(service.address) as channel:
            call = channel.unary_unary(
                "/sim.v1.Simulator/Heartbeat",
                request_serializer=pb.HeartbeatRequest.SerializeToString,
                response_deserializer=pb.HeartbeatReply.FromString,
            )
            await call(pb.HeartbeatRequest(owner=owner(3)))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(pb.HeartbeatRequest(owner=owner(2)))
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert dict(refused.value.trailing_metadata()) == {"sim-error": "fenced", "sim-owner-epoch": "3"}

    run(main())


def test_a_new_owner_ends_the_stream_of_the_old_one(run: Run) -> None:
    """simulator.proto: one stream per owner, and a higher epoch ends the one before as fenced."""

    async def main() -> None:
        async with (
            serving() as service,
            channel_to(service.address) as old,
            channel_to(service.address) as new,
            old.attach(pb.AttachRequest(owner=owner(1))) as updates,
        ):
            await anext(updates)
            async with new.attach(pb.AttachRequest(owner=owner(2))) as others:
                await anext(others)
                with pytest.raises(Fenced):
                    await anext(updates)

    run(main())


def test_a_second_stream_of_the_same_owner_ends_the_first(run: Run) -> None:
    """simulator.proto: a new stream ends the one before; an owner that comes back is not fenced."""

    async def main() -> None:
        async with (
            serving() as service,
            channel_to(service.address) as channel,
            channel.attach(pb.AttachRequest(owner=owner(1))) as updates,
        ):
            await anext(updates)
            async with channel.attach(pb.AttachRequest(owner=owner(1))) as others:
                await anext(others)
                with pytest.raises(BackendUnavailable, match="aborted"):
                    await anext(updates)
                assert service.is_attached

    run(main())


def test_another_session_may_not(run: Run) -> None:
    """simulator.proto: foreign; a port that was given to another simulator is found out by its name."""

    async def main() -> None:
        async with serving(simulator="sim-1") as service, channel_to(service.address) as channel:
            await beat(channel, simulator="sim-1")
            with pytest.raises(BackendUnavailable, match="another session"):
                await beat(channel, 9, session="session-2")
            with pytest.raises(BackendUnavailable, match="another simulator"):
                await beat(channel, 9, simulator="sim-2")
            assert service.desk.owner_epoch == 1

    run(main())


def test_the_first_owner_gives_a_simulator_of_the_pool_its_session(run: Run) -> None:
    """Spec 5.5: a warm simulator has no session until one attaches, and another name before."""

    async def main() -> None:
        async with (
            serving(session="", simulator="warm-1") as service,
            channel_to(service.address) as channel,
        ):
            await beat(channel, simulator="sim-1")
            assert (service.desk.session, service.desk.simulator) == (SESSION, "sim-1")
            for other in ({"session": "session-2"}, {"simulator": "warm-1"}):
                with pytest.raises(BackendUnavailable, match="another session"):
                    await beat(channel, 2, **other)

    run(main())


def test_whoever_has_not_the_token_may_not_call(run: Run) -> None:
    """settings.py: every call must bring it; only health and reflection answer without."""

    async def main() -> None:
        secret = Secret("s3cret")
        async with serving(token=secret) as service:
            async with channel_to(service.address) as channel:
                with pytest.raises(BackendUnavailable, match="token"):
                    await beat(channel)
                with pytest.raises(BackendUnavailable, match="token"):
                    await first_update(channel)
            async with channel_to(service.address, secret) as channel:
                await beat(channel)

    run(main())


# Orders


def test_the_same_request_once_more_gives_the_same_answer(run: Run) -> None:
    """simulator.proto: idempotent by request id, for each kind of request; nothing happens twice."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            first = await submit(channel, resting("a", quantity=5))
            number = first.order.number
            change = pb.ReplaceOrderRequest(
                owner=owner(), request_id="b", number=number, quantity=3, price_e6=1_000_000
            )
            changed = await channel.call("ReplaceOrder", change, WITHIN_S)
            assert changed.order.quantity == 3
            ending = pb.CancelOrderRequest(owner=owner(), request_id="c", number=number)
            ended = await channel.call("CancelOrder", ending, WITHIN_S)
            assert ended.order.status == OrderStatus.CANCELED
            seq = service.desk.simulation.seq
            for epoch in (1, 2):  # another owner asks again for the one before
                for request in (change, ending):
                    request.owner.epoch = epoch
                assert await submit(channel, resting("a", quantity=5), epoch) == first
                assert await channel.call("ReplaceOrder", change, WITHIN_S) == changed
                assert await channel.call("CancelOrder", ending, WITHIN_S) == ended
            assert service.desk.simulation.seq == seq == ended.seq

    run(main())


def test_a_request_id_for_something_else_is_refused(run: Run) -> None:
    """The same id with other words is a mistake of the caller, and must not look like success."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            await submit(channel, resting("a"))
            reply = await submit(channel, resting("a", quantity=2))
            assert (reply.refusal, reply.HasField("order")) == (Reject.REQUEST_ID_REUSED, False)
            ending = pb.CancelOrderRequest(owner=owner(), request_id="a", number=1)
            reply = await channel.call("CancelOrder", ending, WITHIN_S)
            assert reply.refusal == Reject.REQUEST_ID_REUSED
            assert service.desk.simulation.seq == 1

    run(main())


def test_what_the_market_refuses_is_an_answer(run: Run) -> None:
    """simulator.proto: an order that the market refuses is an answer, not an error."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            rejected = await submit(channel, resting("a", symbol="NOPE"))
            assert (rejected.order.status, rejected.order.reason) == (
                OrderStatus.REJECTED,
                Reject.UNKNOWN_SYMBOL,
            )
            for number, quantity in enumerate((-1, 0, 2**62)):
                reply = await submit(channel, resting(f"q{number}", quantity=quantity))
                assert reply.order.reason == Reject.BAD_QUANTITY
            ending = pb.CancelOrderRequest(owner=owner(), request_id="c", number=2**60)
            reply = await channel.call("CancelOrder", ending, WITHIN_S)
            assert (reply.refusal, reply.HasField("order")) == (Reject.UNKNOWN_ORDER, False)

    run(main())


@pytest.mark.parametrize(
    "request_",
    [
        submit_of(resting("")),
        submit_of(resting("x" * 65)),
        submit_of(resting("a", symbol="")),
        submit_of(resting("a", symbol="A" * 13)),
        submit_of(resting("a"), epoch=0),
        pb.SubmitOrderRequest(request_id="a", symbol="AAPL"),
    ],
)
def test_a_request_against_the_rules_is_refused(run: Run, request_: pb.SubmitOrderRequest) -> None:
    """INVALID_ARGUMENT, which is our bug if we sent it; nothing of it is kept."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            with pytest.raises(LocalProtocolError):
                await channel.call("SubmitOrder", request_, WITHIN_S)
            assert service.desk.simulation.seq == 0
            assert not service.desk.simulation.orders()

    run(main())


def test_a_message_that_is_too_long_is_refused_and_nothing_else_disturbed(run: Run) -> None:
    """settings.py: request_bytes."""

    async def main() -> None:
        async with serving(request_bytes=2048) as service, channel_to(service.address) as channel:
            with pytest.raises(BackendUnavailable, match="exhausted"):
                await submit(channel, resting("a", symbol="A" * 4096))
            await submit(channel, resting("a"))

    run(main())


# Streams


def test_a_stream_begins_with_everything(run: Run) -> None:
    """simulator.proto: the first update has the run, all rows, the portfolio, and the events after a place."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            for number in range(5):
                await submit(channel, resting(f"r{number}"))
            update = await first_update(channel, after_seq=3)
            assert update.run == service.desk.run
            assert len(update.rows) == len(service.settings.market.instruments)
            assert update.HasField("portfolio")
            assert [event.seq for event in update.events] == [4, 5]
            assert update.seq == 5
            assert not update.HasField("snapshot")

    run(main())


def test_events_are_told_as_the_simulation_has_logged_them(run: Run) -> None:
    """codec.py: both directions; nothing of an event is lost on the way."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            await submit(channel, taking("t", quantity=7))
            await submit(channel, resting("r"))
            update = await first_update(channel)
            assert [event_from(event) for event in update.events] == list(service.desk.simulation.events)

    run(main())


@pytest.mark.parametrize(
    "place",
    [{"after_seq": 99}, {"after_seq": 2, "run": "another"}, {"after_seq": 2, "wants_snapshot": True}],
    ids=["from-the-future", "of-another-run", "asked-for"],
)
def test_who_cannot_go_on_gets_a_snapshot(run: Run, place: dict[str, Any]) -> None:
    """simulator.proto: a snapshot tagged with the event that it is as of, in place of events."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            for number in range(3):
                await submit(channel, resting(f"r{number}"))
            async with channel.attach(pb.AttachRequest(owner=owner(), **place)) as updates:
                update = await anext(updates)
                assert update.HasField("snapshot")
                assert update.seq == 3
                assert not update.events
                assert [order.request_id for order in update.snapshot.orders] == ["r0", "r1", "r2"]
                await submit(channel, resting("r3"))
                after = await anext(updates)
                assert [event.seq for event in after.events] == [4]

    run(main())


def test_who_is_further_behind_than_the_simulation_remembers_gets_a_snapshot(run: Run) -> None:
    """simulation.py: EVENTS_COUNT events are kept; ended orders in a snapshot are bounded, open ones are all in it."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            simulation = service.desk.simulation
            simulation.submit(resting("open"))
            number = 0
            while simulation.seq <= EVENTS_COUNT + 1:
                order = simulation.submit(resting(f"r{number}"))
                simulation.cancel(order.number)
                number += 1
            behind = await first_update(channel, after_seq=1)
            assert behind.HasField("snapshot")
            assert behind.seq == simulation.seq
            orders = behind.snapshot.orders
            assert len(orders) == 1_001
            assert (orders[0].request_id, orders[-1].request_id) == ("open", f"r{number - 1}")
            seqs = []
            oldest = simulation.events[0].seq
            async with channel.attach(pb.AttachRequest(owner=owner(), after_seq=oldest - 1)) as updates:
                while not seqs or seqs[-1] < simulation.seq:
                    update = await anext(updates)
                    assert len(update.events) <= 500
                    seqs += [event.seq for event in update.events]
            assert seqs == list(range(oldest, simulation.seq + 1))

    run(main())


def test_a_slow_reader_gets_every_event_and_only_the_last_prices(run: Run) -> None:
    """service.py: nothing is queued; rows are conflated, events are read again from the simulation's log."""

    async def main() -> None:
        instruments = tuple(InstrumentSettings(f"S{number}") for number in range(200))
        market = MarketSettings(instruments=instruments, makers_count=1, maker_levels_count=1, cash="1000000")
        async with serving(market=market) as service, channel_to(service.address) as channel:
            simulation = service.desk.simulation
            async with channel.attach(pb.AttachRequest(owner=owner())) as updates:
                update = await anext(updates)
                last = {row.symbol: row_from(row) for row in update.rows}
                steps = 400
                for step in range(steps):
                    simulation.advance(simulation.next_step_ms)
                    await submit(channel, taking(f"t{step}", symbol="S0"))
                seqs: list[int] = []
                rows = 0
                while update.revision < simulation.revision or seqs[-1] < simulation.seq:
                    update = await anext(updates)
                    seqs += [event.seq for event in update.events]
                    rows += len(update.rows)
                    last |= {row.symbol: row_from(row) for row in update.rows}
                assert seqs == list(range(1, simulation.seq + 1))
                assert rows < steps * 200 / 4
                assert last == {row.quote.symbol: row for row in simulation.rows_after(-1)}

    run(main())


def test_the_market_moves_by_the_clock(run: Run) -> None:
    """simulation.py: time that is handed in; here the monotonic clock's, times the speed."""

    async def main() -> None:
        market = MarketSettings(step_ms=10)
        async with (
            serving(speed=10.0, market=market) as service,
            channel_to(service.address) as channel,
            channel.attach(pb.AttachRequest(owner=owner())) as updates,
        ):
            first = await anext(updates)
            revision = first.revision
            for _ in range(20):
                update = await anext(updates)
                assert update.rows
                assert update.revision > revision
                assert all(row.revision > revision for row in update.rows)
                revision = update.revision
            assert update.time_ms > first.time_ms

    run(main())


# The end


def test_without_an_owner_it_ends_by_itself(run: Run) -> None:
    """Spec 5.5: no heartbeat for so long, and a simulator that nobody controls any more is gone."""

    async def main() -> None:
        async with serving(owner_timeout_s=0.3) as service, channel_to(service.address) as channel:
            loop = asyncio.get_running_loop()
            beats = 0
            until = loop.time() + 0.6
            while loop.time() < until:
                await beat(channel)
                beats += 1
                await asyncio.sleep(0.01)
            assert not service.ended_because
            began = loop.time()
            await service._stopping.wait()
            assert service.ended_because == "no owner for 0.3 s"
            assert 0.2 < loop.time() - began < 2

    run(main())


def test_a_simulator_that_drains_tells_the_rest_and_takes_no_more(run: Run) -> None:
    """simulator.proto: take no more orders, tell what has happened, end."""

    async def main() -> None:
        async with (
            serving() as service,
            channel_to(service.address) as channel,
            channel.attach(pb.AttachRequest(owner=owner())) as updates,
        ):
            await anext(updates)
            await submit(channel, resting("a"))
            reply = await channel.call("Drain", pb.DrainRequest(owner=owner()), WITHIN_S)
            assert reply.seq == 1
            told = [update async for update in updates]
            assert [event.seq for update in told for event in update.events] == [1]
            assert told[-1].is_last
            assert [update.is_last for update in told[:-1]] == [False] * (len(told) - 1)
            assert service.ended_because == "drained"

    run(main())


def test_an_order_that_comes_while_it_drains_is_refused(run: Run) -> None:
    """As above; the answer to one that it has taken before is still given."""

    async def main() -> None:
        async with serving() as service, channel_to(service.address) as channel:
            reply = await submit(channel, resting("a"))
            service.desk.is_draining = True
            with pytest.raises(BackendUnavailable, match="no more orders"):
                await submit(channel, resting("b"))
            assert await submit(channel, resting("a")) == reply

    run(main())


def test_health_and_reflection_answer(run: Run) -> None:
    """Spec 5.5: grpc health and reflection, for probes and for people with grpcurl."""

    async def main() -> None:
        async with serving() as service, grpc.aio.insecure_channel(service.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE.full_name):
                reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING

            async def ask() -> Any:
                yield reflection_pb2.ServerReflectionRequest(list_services="")

            async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask()):
                names = {one.name for one in answer.list_services_response.service}
                assert SERVICE.full_name in names

    run(main())


def test_an_address_that_is_taken_is_the_operators_to_mend(run: Run) -> None:
    """A ConfigError with the address, no traceback of gRPC's."""

    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            host, port = taken.getsockname()
            with pytest.raises(ExceptionGroup) as raised:
                async with serving(listen=f"{host}:{port}"):
                    pass
            assert raised.group_contains(ConfigError, match=f"listen: found '{host}:{port}'")

    run(main())


# Settings and the program


def test_settings_go_over_a_pipe_and_come_back_the_same() -> None:
    """settings.py: JSON, the token too; both directions."""
    told = ServiceSettings(simulator="a", token=Secret("t"), market=MarketSettings(seed=7), speed=2.5)
    assert read_settings(write_settings(told), "pipe") == told
    assert "t'" not in repr(told)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"speed": -1}', b'{"colour": 1}', b'{"token": 5}', b"\xff"]
)
def test_settings_that_are_none_are_refused(text: bytes) -> None:
    """A ConfigError that names where they come from."""
    with pytest.raises(ConfigError, match="standard input"):
        read_settings(text, "standard input")


@pytest.mark.parametrize("name", ["../secret.csv", "/etc/passwd", "..", "a/b", "missing.csv"])
def test_a_market_follows_no_file_from_elsewhere(tmp_path: Path, name: str) -> None:
    """The name comes from a client: it may name a file of the operator's directory and nothing else."""
    (tmp_path / "secret.csv").write_text("time_s,symbol,price\n0,AAPL,1\n")
    folder = tmp_path / "prices"
    folder.mkdir()
    market = MarketSettings(replay_file=name)
    for directory in (str(folder), ""):
        with pytest.raises(ConfigError, match="replay_file"):
            read_prices(ServiceSettings(market=market, replay_directory=directory))


def test_a_market_follows_a_file(tmp_path: Path) -> None:
    """prices.py: CSV of time_s, symbol, price."""
    (tmp_path / "prices.csv").write_text("time_s,symbol,price\n0,AAPL,170\n5,AAPL,180\n")
    told = ServiceSettings(market=MarketSettings(replay_file="prices.csv"), replay_directory=str(tmp_path))
    assert read_prices(told)["AAPL"].at(0, 6.0) == 180_000_000


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the program; what happens, it does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sojourn.gateways.exchange.sim.main",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def test_the_program_says_where_it_is_and_ends_on_sigterm(run: Run, tmp_path: Path) -> None:
    """main.py: one line of JSON when it can be reached, settings on standard input, exit code 0."""

    async def main() -> None:
        path = tmp_path / "sim.sock"
        async with program() as process:
            process.stdin.write(write_settings(ServiceSettings(simulator="sim-9", listen=f"unix:{path}")))
            process.stdin.close()
            line = msgspec.json.decode(await process.stdout.readline())
            assert (line["address"], line["simulator"]) == (f"unix:{path}", "sim-9")
            assert line["pid"] == process.pid
            async with channel_to(line["address"]) as channel:
                await beat(channel)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert await process.stderr.read() == b""

    run(main())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b'{"market": {"instruments": [{"symbol": "a"}]}}', b"symbol"),
        (b'{"market": {"instruments": [{"symbol": "A", "price": "1.005"}]}}', b"no multiple of the tick"),
        (b'{"market": {"replay_file": "/etc/passwd"}}', b"replay_file"),
        (b'{"listen": "192.0.2.1:1"}', b"192.0.2.1:1"),
        (b"{" * 2_000_000, b"at most"),
    ],
)
def test_the_program_says_what_is_wrong_with_its_settings(run: Run, told: bytes, said: bytes) -> None:
    """main.py: exit code 2, every problem on standard error, nothing on standard output."""

    async def main() -> None:
        async with program() as process:
            output, errors = await process.communicate(told)
        assert process.returncode == 2
        assert output == b""
        assert said in errors
        assert b"Traceback" not in errors

    run(main())


def test_the_program_does_not_outlive_who_is_gone_already(run: Run) -> None:
    """main.py: --parent names who has started it; by then it may be gone, and nobody would ever end it."""

    async def main() -> None:
        async with program("--parent", "1") as process:
            output, _ = await process.communicate(b"{}")
        assert (process.returncode, output) == (0, b"")

    run(main())
