"""The daemon: puts settings, server, gateways, log and admin API together.

The only place that knows all parts by name. Everything it does can be had piece by piece by whoever embeds Sojourn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from sojourn.admin.serving import AdminServer, control_socket
from sojourn.admin.view import Health, Page, SessionQuery, SessionRow, Trace, TraceEntry
from sojourn.core.events import EventKind
from sojourn.core.logs import LogView
from sojourn.core.loop import run as run_loop
from sojourn.core.metrics import metrics_text
from sojourn.core.server import Server
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.tacacs.gateway import TacacsGateway

if TYPE_CHECKING:
    from sojourn.config import SojournSettings
    from sojourn.core.gateway import Gateway
    from sojourn.core.registry import SessionSnapshot
    from sojourn.core.settings import ListenerSettings

CONFIG_REFUSED = EventKind("config.refused", ("problem",), level="error")
"""The configuration that was read again has a problem; the old one stays in force."""
NEEDS_RESTART = EventKind("config.needs_restart", ("what",), level="warning")
"""A change of the configuration that no reload can bring."""

_STATES = {"live": "open", "ended": "finished", "failed": "failed"}
_WANTED = {"": "", "open": "live", "finished": "ended", "failed": "failed"}


class Daemon:
    """One running Sojourn: a server with its gateways, and what operators see of it.

    Life: made from settings, ``serve`` runs it to its end. It is the ``ServerView`` of the admin API.

    Args:
        settings: without problems.
        read_again: reads the configuration for a reload; raises ConfigError with every problem.
    """

    def __init__(self, settings: SojournSettings, read_again: Callable[[], SojournSettings]) -> None:
        self._settings = settings
        self._read_again = read_again
        self.server = Server(
            recorder=settings.recorder, offload=settings.offload, on_reload=self._reload_on_signal
        )
        self.log = LogView(settings.log, self.server.events.unix_time)
        self.server.events.add_view(self.log)
        self.admin = AdminServer(self, settings.admin, control_socket(settings.admin, os.environ))
        for gateway, listeners in _gateways(settings):
            self.server.add(gateway, listeners)

    async def serve(self) -> None:
        """Run until a signal says stop; then drain.

        Raises: ConfigError where an address cannot be bound or a file cannot be used; nothing is left running.
        """
        await self.admin.start()
        try:
            await self.server.serve()
        except OSError as error:
            raise ConfigError(
                [Problem("configuration", 0, "", "", str(error), "an address that can be bound")]
            ) from error
        finally:
            await self.admin.stop()
            self.log.close()

    # Reload

    def _reload_on_signal(self) -> None:
        """Put the file's present content in force, or tell what is wrong with it and change nothing."""
        try:
            self._put_in_force()
        except ConfigError as error:
            for problem in error.problems:
                self.server.events.emit(CONFIG_REFUSED, None, str(problem))
            raise

    def _put_in_force(self) -> None:
        settings = self._read_again()
        for part in ("log", "admin", "recorder", "offload"):
            if getattr(settings, part) != getattr(self._settings, part):
                self.server.events.emit(NEEDS_RESTART, None, part)
        for gateway, listeners in _gateways(settings):
            running = self.server.gateways.get(gateway.name)
            if running is None:
                self.server.events.emit(NEEDS_RESTART, None, f"{gateway.name}, a new gateway")
                continue
            if listeners != self._listeners_of(gateway.name):
                self.server.events.emit(NEEDS_RESTART, None, f"{gateway.name}.listeners")
            running.reload(getattr(settings, gateway.name))
        self._settings = settings

    def _listeners_of(self, name: str) -> Sequence[ListenerSettings]:
        return getattr(getattr(self._settings, name), "listeners", ())

    # The admin API's view

    def list_sessions(self, query: SessionQuery) -> Page:
        """Return at most ``query.limit`` sessions, live ones first.

        Raises: ValueError if the cursor is none that an earlier page gave.
        """
        start = int(query.cursor or 0)
        if start < 0:
            raise ValueError(query.cursor)
        rows = self.server.registry.snapshots(
            gateway=query.gateway, state=_WANTED[query.state], search=query.search
        )
        page = [_row(snapshot) for snapshot in islice(rows, start, start + query.limit + 1)]
        more = len(page) > query.limit
        return Page(sessions=tuple(page[: query.limit]), next_cursor=str(start + query.limit) if more else "")

    def find_session(self, session_id: str) -> SessionRow | None:
        """Return a session, open or still remembered."""
        snapshot = self.server.registry.find(session_id)
        return None if snapshot is None else _row(snapshot)

    def trace(self, session_id: str) -> Trace | None:
        """Return what was recorded of a session."""
        snapshot, entries = self.server.registry.find(session_id), self.server.registry.trace(session_id)
        if snapshot is None or entries is None:
            return None
        return Trace(
            session=_row(snapshot),
            entries=tuple(
                TraceEntry(
                    at=snapshot.started + entry.at_s,
                    kind=entry.direction,  # type: ignore[arg-type]  # the registry's words are the view's
                    name=entry.name,
                    text=entry.summary,
                    size_bytes=entry.size_bytes,
                )
                for entry in entries
            ),
        )

    async def close_session(self, session_id: str) -> bool:
        """End an open session; return whether there was one."""
        return self.server.registry.close(session_id)

    def metrics_text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return metrics_text(self.server).decode()

    def health(self) -> Health:
        """Return whether the process works: its loop answers, or nobody would read this."""
        return Health(ok=True, parts={"loop": "running"})

    def readiness(self) -> Health:
        """Return whether new sessions are welcome."""
        listeners = {listener.manager.gateway.name: "listening" for listener in self.server.listeners}
        return Health(
            ok=self.server.is_ready, parts=listeners if self.server.is_ready else {"server": "not ready"}
        )

    async def reload(self) -> None:
        """Read the configuration again and put it in force.

        Raises: ConfigError with every problem; the old configuration then stays.
        """
        self.server.reload()

    async def drain(self) -> None:
        """Begin to stop; returns at once."""
        self.server.ask_to_stop("asked by the operator")


def _gateways(settings: SojournSettings) -> Iterator[tuple[Gateway, Sequence[ListenerSettings]]]:
    """Yield a new gateway, and where it listens, for each table of the settings that is there."""
    if settings.tacacs is not None:
        yield TacacsGateway(settings.tacacs), settings.tacacs.listeners


def _row(snapshot: SessionSnapshot) -> SessionRow:
    return SessionRow(
        id=snapshot.id,
        gateway=snapshot.gateway,
        peer=snapshot.peer,
        about=snapshot.about,
        state=_STATES[snapshot.state],  # type: ignore[arg-type]  # the table's words are the view's
        started=snapshot.started,
        ended=snapshot.ended or None,
        reason=snapshot.reason,
    )


def run(settings: SojournSettings, read_again: Callable[[], SojournSettings]) -> None:
    """Run the daemon to its end.

    Raises: ConfigError where the settings cannot be put in force.
    """

    async def serve() -> None:
        await Daemon(settings, read_again).serve()

    run_loop(serve())


def run_demo() -> None:
    """Run every gateway on made-up devices and users, with real traffic through each."""
    from sojourn.demo import serve_demo  # noqa: PLC0415 - the daemon itself never needs it

    run_loop(serve_demo())
