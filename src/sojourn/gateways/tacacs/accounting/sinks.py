"""Accounting as the gateway sees it: one call that returns when every sink has stored the record.

A record goes to every sink that takes it, also when another sink has already failed: the device then gets an
ERROR and turns to its next server, but what can be known here is kept. So the sinks may hold records that
were answered with ERROR; they never lack one that was answered with SUCCESS.

Knows nothing of what sinks are made of; each is a ``Writer`` with its own queue, so a slow one delays only
itself and the answers that need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from sojourn.core.backoff import Backoff
from sojourn.core.clock import Clock, monotonic
from sojourn.errors import BackendUnavailable, ConfigError, LocalProtocolError, Problem, SojournError
from sojourn.gateways.tacacs.accounting.files import FileLines
from sojourn.gateways.tacacs.accounting.record import Record
from sojourn.gateways.tacacs.accounting.syslog import SyslogSender
from sojourn.gateways.tacacs.accounting.thread import ThreadSink
from sojourn.gateways.tacacs.accounting.writer import OnAlarm, OnSettled, Sink, SinkSnapshot, Waiter, Writer
from sojourn.gateways.tacacs.config import Accounting as AccountingSettings
from sojourn.gateways.tacacs.config import FileSink, PostgresSink, SyslogSink

SinkSettings = FileSink | SyslogSink | PostgresSink

REOPEN_BASE_S = 0.2
REOPEN_CAP_S = 5.0
"""Pauses between attempts to open a sink that is down: short ones, because devices are refused meanwhile."""


def _ignore(_sink: str, _what: str) -> None:
    """Take no notice of an alarm."""


def sink_for(settings: SinkSettings) -> Sink:
    """Return the closed sink that the settings describe.

    Raises: ConfigError: a package that it needs is not installed.
    """
    if isinstance(settings, FileSink):
        return ThreadSink(FileLines(settings))
    if isinstance(settings, SyslogSink):
        return ThreadSink(SyslogSender(settings))
    try:
        from sojourn.gateways.tacacs.accounting.postgres import (  # noqa: PLC0415 - asyncpg is an extra
            PostgresRows,
        )
    except ImportError as error:
        wanted = "asyncpg, which comes with pip install 'sojourn[postgres]'"
        found = f"no module {error.name}"
        problem = Problem("", 0, "tacacs.accounting.postgres", settings.name, found, wanted)
        raise ConfigError([problem]) from error
    return PostgresRows(settings)


class Accounting:
    """All accounting sinks of a gateway.

    Life: the server runs ``async with Accounting(settings) as accounting`` (or :meth:`start` and
    :meth:`close` from one and the same task: the writers live in a task group entered there). Closing stores
    what waits.

    Args:
        settings: the sinks, the bound of each queue and the deadline of each record.
        clock: monotonic seconds.
        on_alarm: is told when the health of a sink changes; called in the loop's thread, must not raise.
    """

    def __init__(
        self, settings: AccountingSettings, clock: Clock = monotonic, *, on_alarm: OnAlarm = _ignore
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_alarm = on_alarm
        self._timeout_s = settings.timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[Writer, asyncio.Task[None]] = {}
        self._reconfiguring = asyncio.Lock()
        self._by_settings = {one: self._writer(one, settings) for one in _all_sinks(settings)}
        self._writers: tuple[Writer, ...] = tuple(self._by_settings.values())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(kind, error, trace)

    async def start(self) -> None:
        """Open all sinks; one that can't be opened rings the alarm and is tried again by itself."""
        self._loop = asyncio.get_running_loop()
        self._group = await asyncio.TaskGroup().__aenter__()
        for writer in self._writers:
            self._run(writer)
        await self._wait_until_ready(self._writers)

    @property
    def names(self) -> Iterator[str]:
        """The names of the sinks that a record goes to now."""
        return (writer.sink.name for writer in self._writers)

    async def store(self, record: Record, told: OnSettled | None = None) -> None:
        """Store the record in every sink, and return only then.

        A caller that is cancelled, or gets an error, may still find the record in some sinks; ``told`` learns
        what each of them makes of it.

        Raises:
            BackendUnavailable: a sink is down, failed, or did not answer within ``timeout_s``; or there is
            none.
            LimitExceeded: more than ``queue_count`` records wait for a sink, or a sink has no room for this
            record.
            LocalProtocolError: a sink can't write this record.
        """
        loop, writers = self._loop, self._writers
        if loop is None or not writers:
            raise BackendUnavailable("accounting", 0.0, "no sink is configured" if loop else "not started")
        future: asyncio.Future[SojournError | None] = loop.create_future()
        waiter = Waiter(record, future, len(writers), self._clock() + self._timeout_s, told)
        refusal = None
        for writer in writers:
            refusal = writer.offer(waiter) or refusal
        if refusal is None:
            refusal = await future
        else:
            # Nobody will wait; a cancelled future is one that the writers pass over.
            future.cancel()
        if refusal is not None:
            raise _fresh(refusal)

    async def reconfigure(self, settings: AccountingSettings) -> None:
        """Change to other sinks without losing a record; unchanged ones go on as they are.

        New records go to the new sinks at once; those open after the old ones have stored what they have and
        closed, because both may name the same file.

        Raises: ConfigError: a package that a new sink needs is not installed; nothing was changed.
        """
        async with self._reconfiguring:
            wanted = _all_sinks(settings)
            same_limits = (settings.queue_count, settings.timeout_s) == (
                self._settings.queue_count,
                self._settings.timeout_s,
            )
            kept = {one: writer for one, writer in self._by_settings.items() if same_limits and one in wanted}
            by_settings = {one: kept.get(one) or self._writer(one, settings) for one in wanted}
            old = [writer for one, writer in self._by_settings.items() if one not in kept]
            fresh = [writer for one, writer in by_settings.items() if one not in kept]
            before_s, self._timeout_s = self._timeout_s, settings.timeout_s
            self._settings, self._by_settings = settings, by_settings
            self._writers = tuple(by_settings.values())
            await self._end(old, before_s)
            if self._group is not None:
                for writer in fresh:
                    self._run(writer)
                await self._wait_until_ready(fresh)

    def snapshot(self) -> tuple[SinkSnapshot, ...]:
        """Return every sink as it stands, in the order of the settings."""
        return tuple(writer.snapshot() for writer in self._writers)

    async def close(self) -> None:
        """Store what waits, close all sinks and end their tasks; takes no longer than twice ``timeout_s``."""
        await self._close(None, None, None)

    async def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._group is None:
            return
        group, self._group = self._group, None
        try:
            await self._end(self._writers, self._timeout_s)
        finally:
            # The group must know of a cancellation; any other error of the block passes unwrapped.
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                await group.__aexit__(kind, error, trace)
            else:
                await group.__aexit__(None, None, None)

    def _writer(self, one: SinkSettings, settings: AccountingSettings) -> Writer:
        return Writer(
            sink_for(one),
            queue_count=settings.queue_count,
            timeout_s=settings.timeout_s,
            clock=self._clock,
            on_alarm=self._on_alarm,
            backoff=Backoff(REOPEN_BASE_S, REOPEN_CAP_S),
        )

    def _run(self, writer: Writer) -> None:
        if self._group is None:
            raise LocalProtocolError("a writer outside of start and close", "one inside", "Accounting's life")
        task = self._group.create_task(writer.run(), name=f"accounting {writer.sink.name}")
        self._tasks[writer] = task

    async def _wait_until_ready(self, writers: Sequence[Writer]) -> None:
        """Wait for the first attempt at each sink, but not for a disk that hangs."""
        await _wait_for_all([writer.ready for writer in writers], self._timeout_s)

    async def _end(self, writers: Sequence[Writer], within_s: float) -> None:
        """Let the writers store what they have; cancel those that can't."""
        running = [writer for writer in writers if writer in self._tasks]
        for writer in writers:
            writer.close()
        try:
            await _wait_for_all([writer.ended for writer in running], within_s)
        finally:
            for writer in running:
                self._tasks.pop(writer).cancel()


async def _wait_for_all(events: Sequence[asyncio.Event], within_s: float) -> None:
    """Wait until every event is set, at most so long."""
    try:
        async with asyncio.timeout(within_s):
            for event in events:
                await event.wait()
    except TimeoutError:
        return


def _all_sinks(settings: AccountingSettings) -> tuple[SinkSettings, ...]:
    return (*settings.files, *settings.syslog, *settings.postgres)


def _fresh(error: SojournError) -> SojournError:
    """Return an error of the waiter's own, because each raise adds its traceback to the object."""
    if isinstance(error, BackendUnavailable):
        return BackendUnavailable(error.backend, error.after_s, error.cause)
    return error
