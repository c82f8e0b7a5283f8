"""CommandLine: every command of a pod over one connection, batched by themselves, under a breaker and with deadlines.

Theory of operation. While one batch is on its way the calls of all sessions gather for the next; so one loop turn's
appends of a thousand sessions are one write, and calls made in order are carried out in order. A call's deadline runs
from the call, whatever it waits for. After a failure the connection is dropped and a new one is made by the next batch
that the circuit lets through. An outage begins with any failure and ends only with the probe, a write that never stops
asking: a replica that takes no writes, or a full server, still answers reads.

Knows nothing of what the commands mean.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final

from sojourn.core.backoff import Backoff
from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.valkey_connection import (
    NAME,
    Command,
    Refusal,
    ServerFacts,
    ValkeyConnection,
    ValkeyDoor,
)

SCRIPTS: Final = ("acquire", "delete", "pods", "read", "renew", "transfer", "write")
"""The files in ``lua/``, without suffix."""

PUBLISH: Final = "PUBLISH"
"""Sent as SPUBLISH to a server that has it; which one is known only when the command is sent."""

PROBE_KEEP_MS: Final = 10_000
"""What the probe writes goes by itself."""

_SOURCES: Final = {
    name: files("sojourn.gateways.exchange").joinpath("lua", f"{name}.lua").read_text("utf-8")
    for name in SCRIPTS
}
_DIGESTS: Final = {
    name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    for name, source in _SOURCES.items()
}
_LOADING: Final = tuple(("SCRIPT", "LOAD", source) for source in _SOURCES.values())


class _Call:
    """One command that waits for its answer."""

    __slots__ = ("answer", "by", "command", "size_bytes")

    def __init__(self, command: Command, size_bytes: int, answer: asyncio.Future[Any], by: float) -> None:
        self.command = command
        self.size_bytes = size_bytes
        self.answer = answer
        self.by = by


class CommandLine:
    """The connection that all commands take.

    Life: made by the bus, works while :meth:`run` and :meth:`watch` do. Always true: a call ends by its deadline, and
    ``outage_since`` is None exactly if nothing has failed since the last good probe.

    Args:
        settings: of ``[exchange.valkey]``.
        door: makes the connections.
        probe_key: what the probe writes.
        on_change: called after each beginning and end of an outage.
        clock: monotonic seconds, for the circuit and ``outage_since``.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        door: ValkeyDoor,
        probe_key: str,
        on_change: Callable[[], None],
        clock: Clock = monotonic,
    ) -> None:
        self.outage_since: float | None = None
        self.cause = ""
        self.server = ServerFacts((0, 0), is_cluster=False)
        """What the server said of itself when it was connected last."""
        self._settings = settings
        self._door = door
        self._probe = ("SET", probe_key, "", "PX", PROBE_KEEP_MS)
        self._on_change = on_change
        self._clock = clock
        self._breakers = Breakers(settings.breaker, clock)
        self._connection: ValkeyConnection | None = None
        self._waiting: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._is_over = False
        self._has_calls = asyncio.Event()
        self._has_failed = asyncio.Event()

    @property
    def circuit(self) -> CircuitState:
        """Where the circuit stands."""
        return self._breakers.state(NAME)

    @property
    def waiting_count(self) -> int:
        """How many calls have not been sent."""
        return len(self._waiting)

    def call(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Have a command carried out in its turn; the future gets its answer.

        A script's answer that is a text is bytes. The future fails with BackendUnavailable if there was no answer in
        time, or a refusal.

        Raises: BackendUnavailable if too much waits, or :meth:`run` has ended.
        """
        if self._is_over:
            raise BackendUnavailable(NAME, 0.0, "this pod is ending")
        size_bytes = sum(len(part) for part in command if isinstance(part, bytes))
        if (
            len(self._waiting) >= self._settings.waiting_count
            or self._waiting_bytes + size_bytes > self._settings.waiting_bytes
        ):
            raise BackendUnavailable(NAME, 0.0, f"{len(self._waiting)} calls wait already")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Call(command, size_bytes, answer, loop.time() + self._settings.timeout_s))
        self._waiting_bytes += size_bytes
        self._has_calls.set()
        return answer

    def script(
        self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | float]
    ) -> asyncio.Future[Any]:
        """Have a script of ours carried out in its turn."""
        return self.call("EVALSHA", _DIGESTS[name], len(keys), *keys, *arguments)

    async def run(self) -> None:
        """Carry out calls, batch after batch, until cancelled; then fail what waits."""
        try:
            while True:
                await self._has_calls.wait()
                await self._carry_out(self._next_batch())
        finally:
            self._is_over = True
            self._fail(self._next_batch(takes_all=True), BackendUnavailable(NAME, 0.0, "this pod is ending"))
            await self._drop()

    async def watch(self) -> None:
        """Find out whether a quiet server lives, and whether one that is away is back, until cancelled."""
        backoff = Backoff(self._settings.reconnect_s, self._settings.reconnect_max_s)
        while True:
            try:
                self._has_failed.clear()
                await self.call(*self._probe)
                backoff.reset()
                if self.outage_since is not None:
                    self.outage_since, self.cause = None, ""
                    self._on_change()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.ping_every_s):
                        await self._has_failed.wait()
            except BackendUnavailable:
                (circuit,) = self._breakers.snapshot() or (None,)
                opens_in_s = circuit.until - self._clock() if circuit is not None and circuit.until else 0.0
                await asyncio.sleep(max(next(backoff), opens_in_s))

    def _next_batch(self, *, takes_all: bool = False) -> list[_Call]:
        batch: list[_Call] = []
        limit = len(self._waiting) if takes_all else self._settings.batch_count
        while self._waiting and len(batch) < limit:
            call = self._waiting.popleft()
            self._waiting_bytes -= call.size_bytes
            if not call.answer.done():  # its caller may have been cancelled
                batch.append(call)
        if not self._waiting:
            self._has_calls.clear()
        return batch

    async def _carry_out(self, batch: list[_Call]) -> None:
        """Send a batch and give every call its answer, or all of them the error; raises nothing."""
        if not batch:
            return
        by = batch[0].by  # the oldest: calls wait in order
        try:
            with self._breakers.guard(NAME) as guard:
                async with asyncio.timeout_at(by):
                    connection = self._connection or await self._connect()
                    answers = await connection.exchange([self._as_sent(call.command) for call in batch])
                    await self._repeat_unknown_scripts(connection, batch, answers)
                away = next((each for each in answers if isinstance(each, Refusal) and each.is_away), None)
                if away is not None:
                    guard.failed()
        except (BackendUnavailable, TimeoutError) as error:
            await self._drop()
            failure = _unavailable(error, self._settings.timeout_s)
            self._fail(batch, failure)
            self._note_failure(failure.cause)
            return
        except BaseException:
            self._fail(batch, BackendUnavailable(NAME, 0.0, "this pod is ending"))
            raise
        _give(batch, answers)
        if away is not None:
            await self._drop()
            self._note_failure(f"refused ({away.code})")

    def _as_sent(self, command: Command) -> Command:
        if command[0] is PUBLISH and self.server.has_sharded:
            return ("SPUBLISH", *command[1:])
        return command

    async def _connect(self) -> ValkeyConnection:
        connection = self._door.connection()
        try:
            self.server = await connection.open()
            await connection.exchange(_LOADING)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _repeat_unknown_scripts(
        self, connection: ValkeyConnection, batch: list[_Call], answers: list[Any]
    ) -> None:
        """Load the scripts again and repeat the calls that found none: somebody flushed them."""
        unknown = [
            place
            for place, each in enumerate(answers)
            if isinstance(each, Refusal) and each.code == "NOSCRIPT"
        ]
        if unknown:
            await connection.exchange(_LOADING)
            repeated = await connection.exchange([batch[place].command for place in unknown])
            for place, answer in zip(unknown, repeated, strict=True):
                answers[place] = answer

    def _note_failure(self, cause: str) -> None:
        self._has_failed.set()
        if self.outage_since is None:
            self.outage_since = self._clock()
            self.cause = cause
            self._on_change()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _fail(self, batch: list[_Call], error: BackendUnavailable) -> None:
        for call in batch:
            if not call.answer.done():
                # One each: a traceback grows with every raise of the same exception.
                call.answer.set_exception(BackendUnavailable(error.backend, error.after_s, error.cause))


def _give(batch: list[_Call], answers: list[Any]) -> None:
    for call, answer in zip(batch, answers, strict=True):
        if call.answer.done():
            continue
        if isinstance(answer, Refusal):
            call.answer.set_exception(BackendUnavailable(NAME, 0.0, f"refused ({answer.code})"))
        else:
            call.answer.set_result(answer)


def _unavailable(error: BackendUnavailable | TimeoutError, timeout_s: float) -> BackendUnavailable:
    if isinstance(error, BackendUnavailable):
        return error
    return BackendUnavailable(NAME, timeout_s, "no answer in time")
