"""The daemon: puts settings, server, gateways, log and admin API together.

The only place that knows all parts by name. Everything it does can be had piece by piece by whoever embeds Sojourn.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from sojourn.admin.core_view import CoreView
from sojourn.admin.serving import AdminServer, control_socket
from sojourn.config.listing import show
from sojourn.config.soundness import file_problems
from sojourn.core.clock import monotonic
from sojourn.core.events import EventKind, Events
from sojourn.core.logs import LogView
from sojourn.core.loop import run as run_loop
from sojourn.core.metrics import Family, Together, figures
from sojourn.core.registry import Recorded, SessionSnapshot
from sojourn.core.server import Server
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange import config as exchange
from sojourn.gateways.itv2 import config as itv2
from sojourn.gateways.itv2.http import config as itv2_http
from sojourn.gateways.postgres.gateway import PostgresGateway
from sojourn.gateways.postgres.worker_link import WorkerLink, WorkerPlace
from sojourn.gateways.postgres.workers import Supervisor, worker_environment
from sojourn.gateways.tacacs.gateway import TacacsGateway

if TYPE_CHECKING:
    from sojourn.config import SojournSettings
    from sojourn.core.gateway import Gateway
    from sojourn.core.settings import ListenerSettings, LogSettings

T = TypeVar("T")

CONFIG_REFUSED = EventKind("config.refused", ("problem",), level="error")
"""The configuration that was read again has a problem; the old one stays in force."""
NEEDS_RESTART = EventKind("config.needs_restart", ("what",), level="warning")
"""A change of the configuration that no reload can bring."""
ADMIN_STARTED = EventKind("admin.started", ("socket", "address"))
"""Operators are listened to; the address is empty where only the control socket is open."""
LOG_NOT_REOPENED = EventKind("log.not_reopened", ("error",), level="error")
"""The log's file could not be opened again; lines go on into the old one."""

_ONLY_AT_START = ("log", "admin", "recorder", "offload", "breaker")


class Table(NamedTuple):
    """One gateway's table of the settings, and what makes a gateway of it."""

    name: str
    settings: Any
    listeners: Sequence[ListenerSettings]
    make: Callable[[Any], Gateway]
    only_at_start: tuple[str, ...] = ()
    """Parts of the table that no reload can bring."""


def tables_of(settings: SojournSettings, link: WorkerLink | None = None) -> Iterator[Table]:
    """Yield the table of every gateway that is configured; ``link`` is that of one worker of several."""
    if settings.tacacs is not None:
        yield Table(TacacsGateway.name, settings.tacacs, settings.tacacs.listeners, TacacsGateway)
    if settings.postgres is not None:
        make = partial(PostgresGateway, link=link)
        yield Table(PostgresGateway.name, settings.postgres, settings.postgres.listeners, make)
    if settings.exchange is not None:
        name, listeners = "exchange", settings.exchange.listeners
        yield Table(name, settings.exchange, listeners, _exchange_gateway, exchange.ONLY_AT_START)
    if settings.itv2 is not None:
        yield Table("itv2", settings.itv2, settings.itv2.listeners, _itv2_gateway, itv2.ONLY_AT_START)
        if (http := settings.itv2.http) is not None:  # behind the panels, whose hub it looks at
            yield Table("itv2-api", http, http.listeners, _itv2_api, itv2_http.ONLY_AT_START)


def _exchange_gateway(settings: exchange.ExchangeSettings) -> Gateway:
    """Return the exchange gateway, whose libraries are loaded by a daemon that has one and by no other."""
    from sojourn.gateways.exchange.gateway import ExchangeGateway  # noqa: PLC0415 - the docstring says why

    return ExchangeGateway(settings)


def _itv2_gateway(settings: itv2.Itv2Settings) -> Gateway:
    """Return the panels' gateway, loaded as the exchange gateway is."""
    from sojourn.gateways.itv2.gateway import Itv2Gateway  # noqa: PLC0415 - as above

    return Itv2Gateway(settings)


def _itv2_api(settings: itv2_http.Itv2HttpSettings) -> Gateway:
    """Return what serves HTTP for the panels, loaded as the exchange gateway is."""
    from sojourn.gateways.itv2.http.gateway import Itv2Api  # noqa: PLC0415 - as above

    return Itv2Api(settings)


class Daemon(CoreView):
    """One running Sojourn: a server with its gateways, and what operators see of it and may order.

    Life: made from settings, ``serve`` runs it to its end. It is the ``ServerView`` of the admin API.

    Args:
        settings: without problems.
        read_again: reads the configuration for a reload; raises ConfigError with every problem.
        place: of one worker among several; only the first one listens to operators.
    Raises: ConfigError with every problem of the files that the settings name; nothing is open then.
    """

    def __init__(
        self,
        settings: SojournSettings,
        read_again: Callable[[], SojournSettings],
        *,
        place: WorkerPlace | None = None,
    ) -> None:
        _check_files(settings)
        self._settings = settings
        self._read_again = read_again
        server = Server(
            recorder=settings.recorder,
            offload=settings.offload,
            breaker=settings.breaker,
            on_reload=self._read_and_swap,
            first_number=1 if place is None else place.first_number,
        )
        super().__init__(server)
        self.log = _open_log(
            settings.log, server.events.unix_time, worker=None if place is None else place.index
        )
        server.events.add_view(self.log)
        self.admin = AdminServer(self, settings.admin, control_socket(settings.admin, os.environ))
        self._link = None if place is None else WorkerLink(place)
        self._together = Together()
        self._has_operators = place is None or place.is_first
        for table in tables_of(settings, self._link):
            server.add(table.make(table.settings), table.listeners)

    async def serve(self) -> None:
        """Run until a signal or an operator says stop; then drain.

        Raises: ConfigError where an address cannot be bound or a file cannot be used; nothing is left running.
        """
        try:
            if self._has_operators:
                await self.admin.start()
                self.server.events.emit(ADMIN_STARTED, None, str(self.admin.control), self.admin.address)
            await self.server.serve()
        except OSError as error:
            found = error.strerror or type(error).__name__
            wanted = "addresses that are free and files that this user can open"
            raise ConfigError([Problem("sojourn", 0, "", "start", found, wanted)]) from error
        finally:
            await self.admin.stop()
            self.server.events.flush()
            self.log.close()

    # Reload

    def _read_and_swap(self) -> None:
        """Put the file's present content in force, or tell what is wrong with it and change nothing."""
        try:
            settings = self._read_again()
            _check_files(settings)
        except ConfigError as error:
            for problem in error.problems:
                self.server.events.emit(CONFIG_REFUSED, None, str(problem))
            raise
        self._swap(settings)
        self._settings = settings
        try:
            self.log.reopen()
        except OSError as error:
            self.server.events.emit(LOG_NOT_REOPENED, None, error.strerror or type(error).__name__)

    def _swap(self, settings: SojournSettings) -> None:
        """Hand each running gateway its new table, and name every change that has to wait for a restart."""
        server = self.server
        waiting = [
            part for part in _ONLY_AT_START if getattr(settings, part) != getattr(self._settings, part)
        ]
        old, tables = ({table.name: table for table in tables_of(one)} for one in (self._settings, settings))
        waiting += [f"{name}, a new gateway" for name in tables.keys() - server.gateways.keys()]
        waiting += [f"{name}, which is gone" for name in server.gateways.keys() - tables.keys()]
        waiting += [what for name in tables.keys() & old.keys() for what in _changed(old[name], tables[name])]
        self._reload_gateways(old, tables)
        waiting += [
            f"{name}.listeners"
            for name in server.gateways
            if name in tables and not server.use_listeners(name, tables[name].listeners)
        ]
        for what in waiting:
            server.events.emit(NEEDS_RESTART, None, what)

    def _reload_gateways(self, old: Mapping[str, Table], tables: Mapping[str, Table]) -> None:
        """Hand each running gateway its new table; where one fails, all that were asked go back to their old one."""
        asked: list[str] = []
        try:
            for name, gateway in self.server.gateways.items():
                if name in tables:
                    asked.append(name)
                    gateway.reload(tables[name].settings)
        except BaseException:
            for name in asked:
                if name in old:
                    self.server.gateways[name].reload(old[name].settings)
            raise

    # What operators see

    async def metrics_text(self) -> str:
        """Return all metrics in Prometheus' text format; those of all workers, as far as they answer."""
        if self._link is None:
            return await super().metrics_text()
        told = await self._link.ask(tuple[int, list[Family]], "metrics")
        found = {pid: (index, families) for index, (pid, families) in told.answers.items()}
        found = {os.getpid(): (self._link.place.index, figures(self.server))} | found
        return self._together.text(found, _is_alive).decode()

    async def snapshots(self, gateway: str, state: str, search: str, count: int) -> list[SessionSnapshot]:
        """Return the first sessions that fit, of all workers that answer."""
        found = await super().snapshots(gateway, state, search, count)
        if self._link is None:
            return found
        told = await self._link.ask(list[SessionSnapshot], "sessions", gateway, state, search, str(count))
        found += chain.from_iterable(told.answers.values())
        found.sort(key=lambda one: (one.state != "live", -(one.ended or one.started)))
        return found[:count]

    async def recorded(self, session_id: str) -> Recorded | None:
        """Return a session with its trace, from the worker that has it."""
        found = await super().recorded(session_id)
        if found is not None or self._link is None:
            return found
        told = await self._link.ask(list[Recorded], "recorded", session_id)
        return next(chain.from_iterable(told.answers.values()), None)

    async def close_session(self, session_id: str) -> bool:
        """End an open session, at the worker that has it; return whether there was one."""
        is_closed = await super().close_session(session_id)
        if is_closed or self._link is None:
            return is_closed
        return any((await self._link.ask(bool, "close_session", session_id)).answers.values())

    async def reports(self, kind: type[T], what: str, *arguments: object) -> Sequence[T]:
        """Return what each worker reports, as far as they answer; the first one is this process."""
        found = await super().reports(kind, what, *arguments)
        if self._link is None:
            return found
        told = await self._link.ask(kind, "report", what, msgspec.json.encode(arguments).decode())
        return [*found, *told.answers.values()]

    def configuration(self) -> str:
        """Return the configuration in force as TOML, secrets masked."""
        return show(self._settings)

    # What operators may order

    async def reload(self) -> None:
        """Read the configuration again and put it in force.

        Raises: ConfigError with every problem; the old configuration then stays.
        """
        self.server.reload()
        if self._link is not None:
            os.kill(os.getppid(), signal.SIGHUP)  # the supervisor tells the other workers

    async def drain(self) -> None:
        """Begin to stop; returns at once."""
        self.server.ask_to_stop("asked by an operator")


def _changed(old: Table, new: Table) -> Iterator[str]:
    """Yield what has changed of one gateway's table and cannot be brought by a reload."""
    for part in old.only_at_start:
        if getattr(old.settings, part) != getattr(new.settings, part):
            yield f"{old.name}.{part}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # nobody's, or another user's by now
        return False
    return True


def _check_files(settings: SojournSettings) -> None:
    if problems := list(file_problems(settings)):
        raise ConfigError(problems)


def _open_log(
    settings: LogSettings, unix_time: Callable[[float], float], *, worker: int | None = None
) -> LogView:
    try:
        return LogView(settings, unix_time, worker=worker)
    except OSError as error:
        found = f"{settings.file!r}: {error.strerror}"
        wanted = "a file that this user can write"
        raise ConfigError([Problem("(start)", 0, "log", "file", found, wanted)]) from error


def run(settings: SojournSettings, read_again: Callable[[], SojournSettings]) -> None:
    """Run the daemon to its end: in this process, or in as many workers as are configured.

    Raises: ConfigError where the settings cannot be put in force; SystemExit where the workers could not start.
    """
    place = WorkerPlace.of(os.environ)
    if place is None and settings.postgres is not None and settings.postgres.workers_count > 1:
        _check_files(settings)
        if code := run_loop(_supervise(settings)):
            sys.exit(code)
        return

    async def serve() -> None:
        if place is None:
            await Daemon(settings, read_again).serve()
        else:
            mine = settings_of_worker(settings, place)
            await Daemon(mine, lambda: settings_of_worker(read_again(), place), place=place).serve()

    run_loop(serve())


def settings_of_worker(settings: SojournSettings, place: WorkerPlace) -> SojournSettings:
    """Return what one worker does of the settings: shared ports, and for the first one all that cannot be shared."""
    postgres = settings.postgres
    if postgres is None:
        return settings
    listeners = tuple(
        msgspec.structs.replace(listener, reuse_port=True)
        for listener in postgres.listeners
        if place.is_first or not listener.address.startswith("unix:")
    )
    postgres = msgspec.structs.replace(postgres, listeners=listeners)
    if place.is_first:
        return msgspec.structs.replace(settings, postgres=postgres)
    return msgspec.structs.replace(settings, postgres=postgres, tacacs=None, exchange=None, itv2=None)


async def _supervise(settings: SojournSettings) -> int:
    """Keep the workers running; each is this command again, with a place of its own."""
    assert settings.postgres is not None  # noqa: S101 - the caller has counted its workers
    events = Events(monotonic)
    log = _open_log(settings.log, events.unix_time)
    events.add_view(log)
    command = (sys.executable, *sys.orig_argv[1:])
    try:
        supervisor = Supervisor(settings.postgres.workers_count, command, worker_environment(), events)
        return await supervisor.run()
    finally:
        events.flush()
        log.close()
