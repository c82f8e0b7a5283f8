"""Our side of ``exchange.py``: the exchange gateway on the core, with a PostgreSQL of its own, as production runs it.

What is not the gateway's is where events and prices come from: a byte on the trigger brings them, so that nothing but
the way from there to the sockets is measured. Run as a program
(``exchange_sojourn.py FOLDER SESSIONS PAYLOAD_BYTES [ENTRIES]``) it writes ``FOLDER/places.json``, one place per
session, and tells its ports as ``exchange_triggers.py`` says. ENTRIES is the flight recorder's ring per session.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import exchange_triggers
import msgspec
import servers
from exchange_clients import DEVICE, Place

from sojourn.core.clock import monotonic
from sojourn.core.logs import LogView
from sojourn.core.loop import run, settle
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings, LogSettings, RecorderSettings
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.config import (
    EmbeddedSettings,
    ExchangeSettings,
    SessionSettings,
    SimulatorsSettings,
)
from sojourn.gateways.exchange.dev_issuer import read_key_file, sign_token
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.gateway import ExchangeGateway
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.log_writer import PendingEvent
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.room import SessionRoom
from sojourn.gateways.exchange.rows import Opened
from sojourn.web.config import AddressRateSettings, RateSettings

ROWS: Final = {ord("r"): 10, ord("R"): 50}
"""Rows that a trigger changes."""
LINKS_COUNT: Final = 1_000
_AT_ONCE_COUNT: Final = 32
_START_S: Final = 120.0
_LOOK_S: Final = 0.002
_READY_S: Final = 0.05
_ORDERS_FROM: Final = 1_000_000
_REVISIONS_FROM: Final = 1_000_000


def settings_of(folder: Path) -> ExchangeSettings:
    """Return what production has, but for two limits: all requests come from here, and all to one session at times."""
    return ExchangeSettings(
        listeners=(ListenerSettings(address="127.0.0.1:0", backlog_count=4_096),),
        embedded=EmbeddedSettings(directory=str(folder / "data")),
        http=HttpSettings(
            per_subject=RateSettings(requests_per_s=0), per_address=AddressRateSettings(requests_per_s=0)
        ),
        links=LinkSettings(session_links_count=LINKS_COUNT),
        sessions=SessionSettings(),
        simulators=SimulatorsSettings(driver="inproc"),
    )


def event_body(offset: int, payload_bytes: int) -> bytes:
    """Return an order's event whose frame is so long, whatever its place in the log is."""
    order = {"order": _ORDERS_FROM + offset, "symbol": "ACME", "side": "buy", "type": "limit", "tif": "gtc",
             "quantity": 100, "filled": 100, "status": "filled", "price": "175.25", "id": ""}  # fmt: skip
    bare = wire.event(offset, "order", wire.value(order))
    return wire.value(order | {"id": "x" * (payload_bytes - len(bare))})


@functools.cache
def _rows(count: int, cents: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    price, other = f"175.{cents:02d}", f"176.{cents:02d}"
    return tuple(
        (
            f"SYM{number:02d}",
            {"s": f"SYM{number:02d}", "bid": price, "bid_size": 500, "ask": other, "ask_size": 700,
             "last": price, "last_size": 100, "volume": 100_000 + cents},
        )
        for number in range(count)
    )  # fmt: skip


def rows_of(count: int, revision: int, at_us: int = 0) -> Sequence[tuple[str, Any]]:
    """Return new prices of so many instruments; the last one says when, if that is wanted."""
    rows = _rows(count, revision % 100)
    if not at_us:
        return rows
    symbol, last = rows[-1]
    return (*rows[:-1], (symbol, last | {"at_us": at_us}))


class Stage:
    """The gateway and the sessions that are shown.

    Life: made when the gateway is up. Its ``act`` is what triggers do.
    """

    def __init__(self, gateway: ExchangeGateway, rooms: list[SessionRoom], payload_bytes: int) -> None:
        self._gateway = gateway
        self._rooms = rooms
        self._payload_bytes = payload_bytes
        self._revision = _REVISIONS_FROM
        self._time_s = monotonic()
        self._are_open = False

    def act(self, byte: int) -> Coroutine[Any, Any, None] | None:
        """Do what a byte of a trigger asks for."""
        match chr(byte):
            case "e":
                self._publish()
            case "l":
                return self._log()
            case "t":
                self._are_open = True
                return self._run_markets()
            case "o":
                self._are_open = False
            case _:
                self._show(ROWS[byte])
        return None

    def _publish(self) -> None:
        """Tell an event that needs no log any more, in every session."""
        for room in self._rooms:
            offset = room.view.log.last + 1
            body = event_body(offset, self._payload_bytes)
            room.view.publish(LogEvent(offset, "order", body, room.services.wall_ms()))

    async def _log(self) -> None:
        """Bring an event to every session's log, which tells it once it is durable."""
        roles = [room.role for room in self._rooms]
        for role in roles:
            assert isinstance(role, OwnerRole)
            offset = role.room.view.log.last + role.writer.waiting_count + 1
            body = event_body(offset, self._payload_bytes)
            assert role.writer.put(PendingEvent("order", body, role.room.services.wall_ms(), "", 0))
        for role in roles:
            assert isinstance(role, OwnerRole)
            assert await role.writer.flush()

    def _show(self, count: int) -> None:
        """Change prices and tick, in every session; each time is a new time, so that no client is passed over."""
        self._revision += 1
        self._time_s = max(self._time_s, monotonic()) + 1.0
        rows = rows_of(count, self._revision)
        for room in self._rooms:
            room.view.feed.update(rows, self._revision)
            room.view.tick(self._time_s)

    async def _run_markets(self) -> None:
        """Let prices change where somebody looks, at a simulator's default pace, in each session at its own moments.

        A step is stamped with the moment at which it was due, so that it counts as late if this loop is.
        """
        step_s = self._gateway.config.simulators.market.step_ms / 1e3
        keeper, rooms = self._gateway.keeper, [room for room in self._rooms if room.links]
        began_s = time.perf_counter()
        shown = 0
        for room in rooms:
            for link in room.links:
                link.ladder.next_ms = 0.0  # _show has been ahead of the clock
        while self._are_open:
            await asyncio.sleep(_LOOK_S)
            due = int((time.perf_counter() - began_s) / step_s * len(rooms))
            while shown < due:
                room = rooms[shown % len(rooms)]
                self._revision += 1
                at_us = int((began_s + shown * step_s / len(rooms)) * 1e6)
                room.view.feed.update(rows_of(ROWS[ord("r")], self._revision, at_us), self._revision)
                keeper.has_news(room)
                shown += 1


async def open_rooms(gateway: ExchangeGateway, folder: Path, count: int) -> list[SessionRoom]:
    """Make sessions, each of another user, and write down where they are."""
    settings = gateway.config
    key = read_key_file(Path(settings.auth.dev_key_file))
    gate = asyncio.Semaphore(_AT_ONCE_COUNT)

    async def open_one(number: int) -> tuple[SessionRoom, Place]:
        subject = f"user-{number}"
        async with gate:
            opened = await gateway.store.sessions.open(
                subject,
                DEVICE,
                policy=settings.sessions.device_policy(),
                timeouts=settings.sessions.timeouts(),
            )
            assert isinstance(opened, Opened)
            room = await gateway.keeper.open(opened.row.id)
        token = sign_token(
            key,
            subject=subject,
            scopes=(settings.auth.user_scope,),
            issuer=settings.auth.issuer,
            audience=settings.auth.audience,
            lifetime_s=3_600.0,
            now=time.time(),
        )
        return room, Place(f"/v1/ws?session={room.session_id}", token)

    made = await asyncio.gather(*(open_one(number) for number in range(count)))
    (folder / "places.json").write_bytes(msgspec.json.encode([place for _, place in made]))
    return [room for room, _ in made]


async def _serve(folder: Path, sessions_count: int, payload_bytes: int, recorder: RecorderSettings) -> None:
    server = Server(recorder=recorder)
    log = LogView(
        LogSettings(level="info", format="json", file=str(folder / "sojourn.log")), server.events.unix_time
    )
    server.events.add_view(log)
    settings = settings_of(folder)
    gateway = ExchangeGateway(settings)
    server.add(gateway, settings.listeners)
    await server.start()
    servers.take_core(servers.SERVER_CORE)  # not before: its PostgreSQL has no core of its own
    try:
        async with asyncio.timeout(_START_S):
            while not gateway.is_ready:  # noqa: ASYNC110 - it has no event for this, and nothing is measured yet
                await asyncio.sleep(_READY_S)
            rooms = await open_rooms(gateway, folder, sessions_count)
        stage = Stage(gateway, rooms, payload_bytes)
        settle()
        await exchange_triggers.serve(int(server.listeners[0].address.rpartition(":")[2]), stage.act)
    finally:
        await server.stop(timeout_s=0)
        log.close()


if __name__ == "__main__":
    servers.allow_many_files()
    recorder = servers.recorder_of(sys.argv[4:])
    sys.exit(run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), recorder)))
