"""Drain: leave without anybody noticing more than a reconnect: make before break, paced, with advice.

Each session that is owned here goes to the pod that it belongs to among those that stay: what was said is made durable,
the lease is handed over in one step, the other pod follows the simulator; only then are the clients told when to come
back, and what to resume with. Simulators go on.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sojourn.errors import BackendUnavailable, LimitExceeded, WireError
from sojourn.gateways.exchange import messages, relay_wire
from sojourn.gateways.exchange.bus import Owner, Pod, chosen_pod
from sojourn.gateways.exchange.messages import Close
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.relay_wire import Done, HandOver

if TYPE_CHECKING:
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.services import PodServices
    from sojourn.gateways.exchange.sessions import SessionKeeper

LEAVE_S: Final = 2.0
"""How long clients may take to leave by themselves after they were told to."""
LOOKS_COUNT: Final = 40
"""How often it is looked meanwhile whether they have."""
FLUSH_S: Final = 5.0
AT_ONCE_COUNT: Final = 32
"""Sessions that are handed over side by side: one takes some round trips, and the pod that takes it its time."""
PATIENCE_S: Final = 10.0
"""How long a drain goes on trying from the first trouble with the bus, without which nothing can be handed over."""
LOOK_S: Final = 0.1


class Drain:
    """The leaving of one pod.

    Life: made when the pod is told to stop; ``run`` is all of it.

    Args:
        keeper: of the rooms.
        window_s: over how long clients are sent away, so that they do not all come back at once.
        pods: returns those that live.
        sleep: waits.
        flush_s: for one try to make a session's events durable and hand it over.
    """

    def __init__(
        self,
        keeper: SessionKeeper,
        *,
        window_s: float,
        pods: Callable[[], Iterable[Pod]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._keeper = keeper
        self._services: PodServices = keeper.services
        self._window_s = window_s
        self._pods = pods
        self._sleep = sleep
        self._flush_s = flush_s
        self._patient_until = float("inf")
        self.handed_over = self.left_alone = 0

    async def run(self) -> None:
        """Send every session to another pod, and every client away."""
        self._keeper.is_draining = True
        rooms = tuple(self._keeper.rooms.values())
        pause_s = self._window_s / max(1, len(rooms))
        gate = asyncio.Semaphore(AT_ONCE_COUNT)
        async with asyncio.TaskGroup() as leaving:
            for room in rooms:
                await gate.acquire()
                leaving.create_task(self._leave(room, gate))
                await self._sleep(pause_s)

    async def _leave(self, room: SessionRoom, gate: asyncio.Semaphore) -> None:
        """Hand one session over, then send its clients away."""
        try:
            await self.hand_over(room)
        finally:
            gate.release()
        await self._send_away(room)

    async def hand_over(self, room: SessionRoom) -> bool:
        """Let another pod own a session; False if none does, and who comes next takes it."""
        role = room.role
        if not isinstance(role, OwnerRole):
            return False
        is_done = None
        while is_done is None:
            while not self._services.bus.health().is_up and self._is_patient():
                await self._sleep(LOOK_S)  # the session goes on here meanwhile
            try:
                async with asyncio.timeout(self._flush_s), room.changing:
                    is_done = await self._give(room, role)
            except (BackendUnavailable, TimeoutError):
                is_done = None
            if is_done is None:
                if not self._is_patient():
                    is_done = False
                await self._sleep(LOOK_S)
        self.handed_over += is_done
        self.left_alone += not is_done
        return is_done

    def _is_patient(self) -> bool:
        """Say whether to try again: a bus that comes back without its data would leave the only copy with us."""
        now_s = self._services.clock()
        self._patient_until = min(self._patient_until, now_s + PATIENCE_S)
        return now_s < self._patient_until

    async def _give(self, room: SessionRoom, role: OwnerRole) -> bool | None:
        """Make all durable, then let another pod have it; None if the bus has lost it since: to be tried again.

        Raises: BackendUnavailable; then too.
        """
        services, session = self._services, room.session_id
        if room.role is role:
            room.role = None
            await role.stop()
        elif room.role is None and role.owner == self._keeper.owned.get(session):
            await role.mend()
        else:
            return False
        if role.writer.is_fenced:
            self._keeper.owned.pop(session, None)
            return False
        target = chosen_pod(session, [pod for pod in self._pods() if pod.name != services.pod])
        if target is None:
            self._keeper.owned.pop(session, None)
            await services.store.sessions.release(session, role.owner.pod, role.owner.epoch)
            await services.bus.release(session, role.owner)
            return False
        epochs = await services.store.sessions.take_over(
            (session,), target.name, least_epoch=role.owner.epoch + 1
        )
        if session not in epochs:
            self._keeper.owned.pop(session, None)
            return False
        successor = Owner(target.name, epochs[session])
        holder = await services.bus.transfer(session, role.owner, successor, services.lease_s)
        if holder is None:
            return None
        self._keeper.owned.pop(session, None)
        if holder != successor:
            return False
        party = f"pod {successor.pod}"
        room.note_sent(party, "hand over", f"epoch {successor.epoch}")
        is_taken = await self._is_taken(session, successor)
        room.note_received(party, "taken" if is_taken else "not taken", is_error=not is_taken)
        return is_taken

    async def _is_taken(self, session: str, successor: Owner) -> bool:
        """Tell another pod that a session is its own; say whether it has come for it."""
        services = self._services
        is_done = False
        try:
            ask = relay_wire.write(HandOver(successor.epoch))
            answer = await services.bus.ask(successor.pod, session, ask, services.command_timeout_s)
            is_done = isinstance(relay_wire.read_answer(answer), Done)
        except (BackendUnavailable, LimitExceeded, WireError):
            pass  # all is durable: whoever comes next takes it
        finally:
            if not is_done:
                # Nobody need wait for the lease of a pod that does not come; one that has come takes it again.
                with suppress(BackendUnavailable):
                    await services.bus.release(session, successor)
        return is_done

    async def _send_away(self, room: SessionRoom) -> None:
        """Tell each link when to come back, wait for it to leave, close what is left."""
        links = room.links
        for link in links:
            reconnect_ms = int(1000 * self._services.random())
            link.answer(messages.Drain(reconnect_after_ms=reconnect_ms, resume=link.resume))
        for _ in range(LOOKS_COUNT):
            if all(link.closed for link in links):
                return
            await self._sleep(LEAVE_S / LOOKS_COUNT)
        for link in links:
            link.close(Close.RESTART, "the server restarts")
