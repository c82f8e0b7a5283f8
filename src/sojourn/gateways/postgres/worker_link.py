"""WorkerLink: one worker's tie to the others and to its supervisor.

A cancel request reaches whichever worker the kernel picks; its key's first byte says whose it is, and a unix socket
per worker takes it there. A second socket takes orders and questions of the other workers: a line of JSON each, a
line of JSON for an answer. Knows no client and no order: those are :mod:`.orders`; the supervisor is :mod:`.workers`.
Source: postgres-proxy.md section 6.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from sojourn.errors import BackendUnavailable, WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import SQLSTATE, CancelRequest, Refusal
from sojourn.gateways.postgres.orders import Orders
from sojourn.gateways.postgres.worker_numbers import first_number

if TYPE_CHECKING:
    from sojourn.gateways.postgres.gateway import PostgresGateway

VARIABLE: Final = "SOJOURN_WORKER"
"""The environment variable in which the supervisor tells a worker its place."""
KEY_FILE: Final = "scram-key"
LOOK_S: Final = 0.05
_WITHIN_S: Final = 10.0
_PACKET_BYTES: Final = 300
"""A cancel request has at most 12 bytes and a key of 256."""
ANSWER_S: Final = 2.0
"""How long a worker may take to tell what it has; one that takes longer is left out."""
_ANSWER_BYTES: Final = 64 << 20
"""Longest answer: the rows of some 100,000 clients."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Which worker a process is: its index among those that live, and the private directory that all share.

    The first worker has besides what cannot be shared: control socket, admin address, other gateways.
    """

    index: int
    is_first: bool
    directory: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> WorkerPlace | None:
        """Return the place that the supervisor gave this process; None without one."""
        told = environ.get(VARIABLE)
        if not told:
            return None
        index, is_first, directory = told.split(":", 2)
        return cls(int(index), is_first == "first", Path(directory))

    @property
    def variable(self) -> str:
        """Return what ``of`` reads."""
        return f"{self.index}:{'first' if self.is_first else 'other'}:{self.directory}"

    @property
    def ready_file(self) -> Path:
        """Return the file that is there when the worker listens."""
        return self.directory / f"ready-{self.index}"

    def socket_of(self, index: int) -> Path:
        """Return where a worker takes cancel requests of the others."""
        return self.directory / f"cancel-{index}.sock"

    def orders_of(self, index: int) -> Path:
        """Return where a worker takes orders that were given at another one's console."""
        return self.directory / f"orders-{index}.sock"

    @property
    def first_number(self) -> int:
        """Return where the numbers of a worker's sessions and servers begin, so that no two workers have the same."""
        return first_number(self.index)

    @property
    def process_key(self) -> bytes:
        """Return the key from which all workers make up the same salts for users who are not there."""
        return (self.directory / KEY_FILE).read_bytes()


class Order(msgspec.Struct, frozen=True):
    """An order or a question: a method of :class:`.orders.Orders` and its arguments."""

    verb: str
    arguments: tuple[str | None, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What came of an order: a refusal, or what the method returned."""

    sqlstate: str = ""
    message: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(slots=True)
class Told(Generic[T]):
    """What the other workers answered, by index, and who did not answer in time or not at all."""

    answers: dict[int, T] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)


class Line:
    """A connection to another worker, for orders one after the other.

    Life: made by :meth:`WorkerLink.connect`. What an order holds there is let go when this ends.
    """

    def __init__(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.index = index
        self._reader = reader
        self._writer = writer

    def tell(self, verb: str, *arguments: str | None) -> None:
        """Give an order whose answer nobody waits for."""
        self._writer.write(msgspec.json.encode(Order(verb, arguments)) + b"\n")

    async def order(self, verb: str, *arguments: str | None) -> msgspec.Raw:
        """Give an order and return the answer to it.

        Raises: Refusal if the other worker refuses; BackendUnavailable if it is gone.
        """
        self.tell(verb, *arguments)
        try:
            line = await self._reader.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise BackendUnavailable(f"worker {self.index}", 0.0, f"worker {self.index} is gone")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.sqlstate:
            raise Refusal(answer.sqlstate, answer.message, severity="ERROR")
        return answer.value

    async def until_gone(self) -> None:
        """Return when the other worker is gone, which has nothing to say without an order."""
        with contextlib.suppress(OSError):
            await self._reader.read(1)

    def close(self) -> None:
        """End the connection, when what was told is on its way."""
        self._writer.close()


class WorkerLink:
    """The sockets on which a worker takes cancel requests and orders, and the watch over its supervisor.

    Life: made with the gateway, started and stopped with it.
    """

    def __init__(self, place: WorkerPlace) -> None:
        self.place = place
        self._supervisor = os.getppid()
        self._servers: list[asyncio.Server] = []
        self._gateway: PostgresGateway

    async def start(self, gateway: PostgresGateway) -> None:
        """Take requests; say that the worker is ready as soon as it listens.

        Raises: OSError if the socket cannot be made.
        """
        self._gateway = gateway
        place = self.place
        for handle, path in (
            (self._take, place.socket_of(place.index)),
            (self._obey, place.orders_of(place.index)),
        ):
            self._servers.append(await asyncio.start_unix_server(handle, path))
        gateway.server.spawn(self._look())
        # A switchover that began before this worker could be told ends before it has its first client.
        with contextlib.suppress(TimeoutError, Refusal):
            async with asyncio.timeout(gateway.settings.failover.buffering_timeout_s):
                await self.order("until_settled")

    async def stop(self) -> None:
        """Take no more requests."""
        while self._servers:
            self._servers.pop().close()

    async def _look(self) -> None:
        """Tell that the worker is ready, then end it should its supervisor be gone."""
        server = self._gateway.server
        while not server.is_ready:  # noqa: ASYNC110 - the server tells nobody when it listens
            await asyncio.sleep(LOOK_S)
        self.place.ready_file.touch()
        while os.getppid() == self._supervisor:  # noqa: ASYNC110 - nor does the kernel
            await asyncio.sleep(1.0)
        server.ask_to_stop("the supervisor is gone")

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out one request; there is no answer, as there is none to the client."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                head = await reader.readexactly(4)
                size = wire.startup_length(head, _PACKET_BYTES) or 0
                packet = wire.startup_packet(head + await reader.readexactly(size - len(head)))
            if isinstance(packet, CancelRequest):
                await self._gateway.cancel(packet.pid, packet.key, is_passed_on=True)
        except (OSError, EOFError, TimeoutError, WireError):
            return  # another worker went away, which will tell its client nothing either
        finally:
            writer.close()

    async def pass_on(self, index: int, pid: int, key: bytes) -> None:
        """Hand a cancel request to the worker that gave its key; one that is not there has no such client."""
        if index == self.place.index:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self.place.socket_of(index))
                try:
                    writer.write(wire.cancel_request(pid, key))
                    await reader.read()
                finally:
                    writer.close()

    # Orders

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out the orders of one connection, one by one; they end when who gave them goes away."""
        try:
            async with Orders(self._gateway) as orders:
                while line := await reader.readline():
                    order = msgspec.json.decode(line, type=Order)
                    answer = await _while_there(_carry_out(orders, order), reader)
                    if answer is None:
                        return
                    writer.write(msgspec.json.encode(answer) + b"\n")
        except (OSError, EOFError, ValueError, msgspec.DecodeError):
            return  # another worker went away, or is none
        finally:
            writer.close()

    async def connect(self, only: int | None = None) -> list[Line]:
        """Return a connection to every other worker that is there, or to one of them.

        Then: close them.
        """
        found: list[Line] = []
        try:
            for path in sorted(self.place.directory.glob("orders-*.sock")):
                index = int(path.stem.rpartition("-")[2])
                if index == self.place.index or only not in {None, index}:
                    continue
                with contextlib.suppress(OSError):  # one that is gone has nothing left to do
                    found.append(Line(index, *await asyncio.open_unix_connection(path, limit=_ANSWER_BYTES)))
        except BaseException:
            for line in found:
                line.close()
            raise
        return found

    @contextlib.asynccontextmanager
    async def lines(self, only: int | None = None) -> AsyncIterator[Sequence[Line]]:
        """Give connections to other workers for the length of a block."""
        found = await self.connect(only)
        try:
            yield found
        finally:
            for line in found:
                line.close()

    async def order(self, verb: str, *arguments: str | None) -> None:
        """Have every other worker carry out an order; return when all have that are there.

        Raises: Refusal, the first that one of them answers with.
        """
        async with self.lines() as lines:
            results = await asyncio.gather(
                *(line.order(verb, *arguments) for line in lines), return_exceptions=True
            )
        for error in results:
            if isinstance(error, BaseException) and not isinstance(error, BackendUnavailable):
                raise error

    async def ask(
        self,
        kind: type[T],
        verb: str,
        *arguments: str | None,
        only: int | None = None,
        within_s: float = ANSWER_S,
    ) -> Told[T]:
        """Ask every other worker, or one of them; what they answer is read as ``kind``.

        Raises: Refusal, the first that one of them answers with.
        """
        told: Told[T] = Told()

        async def asked(line: Line) -> None:
            try:
                async with asyncio.timeout(within_s):
                    value = await line.order(verb, *arguments)
                told.answers[line.index] = msgspec.json.decode(value, type=kind)
            except BackendUnavailable:
                return
            except (TimeoutError, ValueError, msgspec.DecodeError):
                told.silent.append(line.index)

        async with self.lines(only) as lines:
            for error in await asyncio.gather(*map(asked, lines), return_exceptions=True):
                if isinstance(error, BaseException):
                    raise error
        return told


async def _carry_out(orders: Orders, order: Order) -> Answer:
    try:
        value = await orders.carry_out(order.verb, order.arguments)
    except Refusal as refusal:
        return Answer(refusal.sqlstate, refusal.message)
    except BackendUnavailable as error:
        return Answer(SQLSTATE.OBJECT_NOT_IN_STATE, error.cause)
    return Answer(value=msgspec.Raw(msgspec.json.encode(value)))


async def _while_there(work: Coroutine[Any, Any, Answer], reader: asyncio.StreamReader) -> Answer | None:
    """Return what comes of ``work``; None, and it is cancelled, if the other side goes away meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        gone = tasks.create_task(reader.read(1))  # who waits for an answer says nothing
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        task.cancel()
    return None if task.cancelled() else task.result()
