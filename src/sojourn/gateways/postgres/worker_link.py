"""WorkerLink: one worker's tie to the others and to its supervisor.

A cancel request reaches whichever worker the kernel picks; its key's first byte says whose it is, and a unix socket
per worker takes it there. A second socket takes orders that an operator gave at another worker's console. Knows no
client and no order; the supervisor is :mod:`.workers`.
Source: postgres-proxy.md section 6.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.errors import WireError
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.messages import CancelRequest, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.postgres.gateway import PostgresGateway

VARIABLE: Final = "SOJOURN_WORKER"
"""The environment variable in which the supervisor tells a worker its place."""
KEY_FILE: Final = "scram-key"
LOOK_S: Final = 0.05
_WITHIN_S: Final = 10.0
_PACKET_BYTES: Final = 300
"""A cancel request has at most 12 bytes and a key of 256."""


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
    def process_key(self) -> bytes:
        """Return the key from which all workers make up the same salts for users who are not there."""
        return (self.directory / KEY_FILE).read_bytes()


class Order(msgspec.Struct, frozen=True):
    """An order of an operator: a method of the console's view and its arguments."""

    verb: str
    arguments: tuple[str | None, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What came of an order; empty where it was carried out."""

    sqlstate: str = ""
    message: str = ""


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
        """Carry out one order and answer with an error or none; it ends when who gave it goes away."""
        try:
            order = msgspec.json.decode(await reader.readline(), type=Order)
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._carry_out(order))
                gone = tasks.create_task(reader.read())
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                work.cancel()
            if work.cancelled():
                return
            answer = work.result()
            writer.write(msgspec.json.encode(answer) + b"\n")
        except (OSError, EOFError, ValueError, msgspec.DecodeError):
            return  # another worker went away, or is none
        finally:
            writer.close()

    async def _carry_out(self, order: Order) -> Answer:
        try:
            await self._gateway.door.obey(order.verb, order.arguments)
        except Refusal as refusal:
            return Answer(refusal.sqlstate, refusal.message)
        return Answer()

    async def order(self, verb: str, *arguments: str | None) -> None:
        """Have every other worker carry out an order; return when all have.

        Raises: Refusal, the first that one of them answers with.
        """
        mine = self.place.orders_of(self.place.index)
        others = [path for path in sorted(mine.parent.glob("orders-*.sock")) if path != mine]
        request = msgspec.json.encode(Order(verb, arguments)) + b"\n"
        for answer in await asyncio.gather(*(_asked(path, request) for path in others)):
            if answer.sqlstate:
                raise Refusal(answer.sqlstate, answer.message, severity="ERROR")


async def _asked(path: Path, request: bytes) -> Answer:
    """Return the answer of one worker; one that is gone has nothing left to do."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return Answer()
    try:
        writer.write(request)
        return msgspec.json.decode(await reader.readline() or b"{}", type=Answer)
    except OSError:
        return Answer()
    finally:
        writer.close()
