"""PodCommands: what other pods want of this one, and of the sessions that it owns.

Reads a command, has the room or its owner do it, and answers in the words of the relay. A command that comes to a pod
which does not own the session is answered with that, and its sender looks again who does.

Source: exchange-session-service.md section 5.6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sojourn.errors import BackendUnavailable, LimitExceeded, WireError
from sojourn.gateways.exchange import messages, relay_wire
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import Code
from sojourn.gateways.exchange.owner import OwnerRole
from sojourn.gateways.exchange.relay_wire import (
    Answer,
    Describe,
    Devices,
    Disconnect,
    Do,
    Done,
    End,
    Failed,
    Follow,
    HandOver,
    Leave,
    NotOwner,
    Want,
    Warn,
)
from sojourn.gateways.exchange.sessions import UnknownSession
from sojourn.gateways.exchange.trace_words import command_words

if TYPE_CHECKING:
    from sojourn.gateways.exchange.room import SessionRoom
    from sojourn.gateways.exchange.sessions import SessionKeeper


class PodCommands:
    """Carries out what pods ask for.

    Life: made with the gateway; holds nothing but references.

    Args:
        keeper: of the rooms.
    """

    def __init__(self, keeper: SessionKeeper) -> None:
        self.on_pod_ask: Callable[[relay_wire.PodAsk], Awaitable[Answer]] = _nobody_answers
        """Answers what is asked of the pod, and not of a session."""
        self._keeper = keeper

    async def serve(self, session: str, command: bytes) -> bytes:
        """Carry out a command of another pod."""
        try:
            ask = relay_wire.read_ask(command)
        except WireError:
            return relay_wire.write(Failed(code=Code.INTERNAL, detail="a command of another version"))
        return relay_wire.write(await self.obey(session, ask))

    async def obey(self, session: str, ask: relay_wire.Ask) -> Answer:
        """Carry out what a pod wants, this one or another."""
        if isinstance(ask, HandOver):
            return await self._take_hand_over(session, ask.epoch)
        if isinstance(ask, Describe | Leave):
            return await self.on_pod_ask(ask)
        room = self._keeper.rooms.get(session)
        if isinstance(ask, Disconnect):
            return Done(0 if room is None else room.disconnect())
        if room is None or not isinstance(room.role, OwnerRole):
            return NotOwner()
        return await self._obey_as_owner(room, room.role, ask)

    async def _obey_as_owner(self, room: SessionRoom, role: OwnerRole, ask: relay_wire.OwnerAsk) -> Answer:
        match ask:
            case Follow():
                return role.follow(ask) or Done()
            case Do(command=command):
                room.note_received(role.asking_party, *command_words(command))
                return _told(room, role, await _answered(role.carry_out(command)))
            case Want(desired=desired, spec=spec):
                room.note_received(role.asking_party, "simulator", f"is to be {desired.value}")
                return _told(room, role, await _answered(role.want(desired, spec)))
            case Devices(devices=devices, newest=newest, at_us=at_us):
                room.take_devices(devices, newest, at_us)
                await role.announce_devices()
            case Warn(reason=reason, in_s=in_s):
                role.tell(messages.Warn(reason, in_s))
            case End(reason=reason):
                await self._keeper.end_room(room, reason)
        return Done()

    async def _take_hand_over(self, session: str, epoch: int) -> Answer:
        try:
            if not await self._keeper.take_hand_over(session, epoch):
                return NotOwner()
            room = self._keeper.rooms.get(session)
            if room is not None:
                room.note_received("other pods", "hand over", f"epoch {epoch}")
            return Done()
        except UnknownSession:
            return NotOwner()
        except BackendUnavailable as error:
            return Failed(code=Code.UNAVAILABLE, detail=error.backend, retry_after_s=1.0)


def _told(room: SessionRoom, role: OwnerRole, answer: Answer) -> Answer:
    """Put an answer to another pod into the session's trace."""
    room.note_sent(role.asking_party, answer.code if isinstance(answer, Failed) else "done")
    return answer


async def _nobody_answers(_ask: relay_wire.PodAsk) -> Answer:
    return Failed(code=Code.UNAVAILABLE, detail="the pod is not up yet", retry_after_s=1.0)


async def _answered(work: Awaitable[Any]) -> Answer:
    """Return what came of a command, in the words of the relay."""
    try:
        return Done(await work)
    except Refused as refused:
        return Failed(code=refused.code, detail=refused.detail, retry_after_s=refused.retry_after_s)
    except LimitExceeded as error:
        return Failed(code=Code.RATE_LIMITED, detail=error.what, retry_after_s=1.0)
    except BackendUnavailable as error:
        return Failed(code=Code.UNAVAILABLE, detail=error.backend, retry_after_s=1.0)
