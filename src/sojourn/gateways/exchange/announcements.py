"""Announcer: tells a session of what was decided about it elsewhere: its devices, its end, that the end is near.

The database has decided already; what is told here only brings it to the links sooner. So it is told to the owner,
whichever pod that is, for as long as a command may take, and whoever was not reached finds out from the session's row.

Source: exchange-session-service.md sections 5.2 and 5.6.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sojourn.errors import BackendUnavailable, LimitExceeded, WireError
from sojourn.gateways.exchange import relay_wire
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.relay_wire import Devices, Done, End, Warn
from sojourn.gateways.exchange.room import moment_us

if TYPE_CHECKING:
    from sojourn.gateways.exchange.pod_commands import PodCommands
    from sojourn.gateways.exchange.rows import SessionRow
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.sessions import SessionKeeper


class Announcer:
    """Tells sessions, wherever their owners are.

    Life: made with the gateway; holds nothing but references. No backend's absence is raised: every method returns
    whether it was done, which it also is where nobody owns the session and so nobody need be told.
    """

    def __init__(self, services: PodServices, keeper: SessionKeeper, commands: PodCommands) -> None:
        self._services = services
        self._keeper = keeper
        self._commands = commands

    async def devices(self, row: SessionRow) -> bool:
        """Tell a session of its devices, the newest last, as its row has them."""
        newest = row.devices[-1] if row.devices else ""
        is_told = await self._tell(row.id, Devices(row.devices, newest, moment_us(row)))
        room = self._keeper.rooms.get(row.id)
        if room is not None:  # the device will come to this pod before the owner's news do
            room.take_devices(row.devices, newest, moment_us(row))
        return is_told

    async def end(self, session_id: str, reason: str) -> bool:
        """Tell a session that it is over."""
        is_told = await self._tell(session_id, End(reason))
        room = self._keeper.rooms.get(session_id)
        if room is not None and not room.ended:
            await self._keeper.end_room(room, reason)
        return is_told

    async def warn(self, session_id: str, reason: str, in_s: float) -> bool:
        """Tell every client of a session that it will end in so many seconds unless its user does something."""
        return await self._tell(session_id, Warn(reason, in_s))

    async def _tell(self, session_id: str, ask: Devices | End | Warn) -> bool:
        """Have the owner do it; look again who that is while it moves."""
        try:
            async with asyncio.timeout(self._services.command_timeout_s):
                for wait_s in self._services.backoff():
                    if await self._is_told(session_id, ask):
                        return True
                    await asyncio.sleep(wait_s)
        except TimeoutError:
            pass
        return False

    async def _is_told(self, session_id: str, ask: Devices | End | Warn) -> bool:
        room = self._keeper.rooms.get(session_id)
        try:
            if room is not None and isinstance(room.role, OwnerRole):
                return isinstance(await self._commands.obey(session_id, ask), Done)
            owner = await self._services.bus.owner_of(session_id)
            if owner is None:
                return True
            data = await self._services.bus.ask(
                owner.pod, session_id, relay_wire.write(ask), self._services.command_timeout_s
            )
            return isinstance(relay_wire.read_answer(data), Done)
        except (BackendUnavailable, LimitExceeded, WireError):
            return False
