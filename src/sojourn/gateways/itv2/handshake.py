"""The handshake as a conversation: twelve steps, two ciphers, and a panel that may start over at any of them.

Straight-line code in the order of the specification's table; the numbers in the comments are its steps. Knows no
bytes; what is sent is put into sequence by the session.

Source: itv2-protocol.md section 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec

from sojourn.gateways.itv2.codec import Damaged, Received
from sojourn.gateways.itv2.doctor import Step, Symptom, garbage_at, silence_at, unknown_type
from sojourn.gateways.itv2.handlers import (
    ACCEPTED,
    RANDOM_BYTES,
    HandshakeFailed,
    Refused,
    answer_to,
    open_session,
    our_access,
    request_access,
)
from sojourn.gateways.itv2.messages import (
    Command,
    CommandError,
    CommandResponse,
    EndSession,
    NackCode,
    OpenSession,
    RequestAccess,
    ResponseCode,
    SimpleAck,
    Word,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.config import PanelSettings
    from sojourn.gateways.itv2.session import PanelSession


class StartedOver(Exception):  # noqa: N818 - nothing is wrong: the panel begins again
    """The panel sent another OpenSession."""

    def __init__(self, packet: Received) -> None:
        super().__init__()
        self.packet = packet


async def shake_hands(session: PanelSession, first: Received, panel: PanelSettings) -> None:
    """Take a session from its OpenSession to the point where the panel may say anything.

    Raises: HandshakeFailed where it cannot go on, ConnectionLost.
    """
    while True:
        try:
            await _once(session, first, panel)
        except StartedOver as again:
            first = again.packet
        else:
            return


async def _once(session: PanelSession, first: Received, panel: PanelSettings) -> None:
    opening: OpenSession = session.start_over(first)  # 1
    if opening.encryption_type not in RANDOM_BYTES:
        await _wait_for_another_type(session, opening)
    open_session(opening, panel)
    session.answer(first, answer_to(opening, ACCEPTED))  # 2
    await _acknowledged(session, Step.ACKNOWLEDGE)  # 3

    echo = msgspec.structs.replace(opening, command_sequence=session.next_command_sequence())
    session.say(echo)  # 4
    await _accepted(session, echo, Step.ACCEPT_SESSION)  # 5
    session.acknowledge()  # 6

    packet, access = await _requested(session)  # 7
    result, outgoing = request_access(access, opening.encryption_type, panel)
    if outgoing is not None:
        session.codec.outgoing = outgoing
    session.answer(packet, answer_to(access, result))  # 8, the first encrypted packet of ours
    if isinstance(result, Refused):
        raise HandshakeFailed(result.symptom)
    await _acknowledged(session, Step.ACKNOWLEDGE_ENCRYPTED)  # 9, in clear text

    random = session.random_bytes(RANDOM_BYTES[opening.encryption_type])
    initializer, incoming = our_access(random, opening.encryption_type, panel)
    request = RequestAccess(command_sequence=session.next_command_sequence(), initializer=initializer)
    session.say(request)  # 10
    session.codec.incoming = incoming
    await _accepted(session, request, Step.ACCEPT_ACCESS)  # 11, the panel's first encrypted packet
    session.acknowledge()  # 12


async def _wait_for_another_type(session: PanelSession, opening: OpenSession) -> NoReturn:
    """Say nothing: firmware 5.63 comes back with Type 2 half a second after it offered type 3.

    Raises: StartedOver when it does, HandshakeFailed if it does not. Source: itv2-protocol.md section 7.5.
    """
    until = session.connection.clock() + session.settings.timing.fallback_s
    while True:
        try:
            await _next(session, until)
        except (TimeoutError, HandshakeFailed):
            raise HandshakeFailed(unknown_type(opening.encryption_type)) from None


async def _acknowledged(session: PanelSession, step: int) -> None:
    """Wait until the panel has acknowledged our last packet, whatever with."""
    session.step = step
    until = session.connection.clock() + session.settings.timing.step_timeout_s
    while session.is_unacknowledged:
        packet = await _next(session, until)
        if isinstance(packet, Damaged):
            # One that acknowledges in its new cipher cannot be read before it has our half of the key (step 9).
            if step == Step.ACKNOWLEDGE_ENCRYPTED:
                return
        elif isinstance(packet.message, CommandError):
            _refused(packet.message)
        elif not isinstance(packet.message, SimpleAck):
            session.heard(packet)  # our next packet acknowledges it


async def _accepted(session: PanelSession, command: Command, step: int) -> None:
    """Wait for the panel's response to a command of ours."""
    session.step = step
    until = session.connection.clock() + session.settings.timing.step_timeout_s
    while True:
        packet = await _next(session, until)
        if isinstance(packet, Damaged):
            symptom = garbage_at(step, session.opening.encryption_type if session.opening else 0)
            if symptom is not None:
                raise HandshakeFailed(symptom)
            continue
        message = packet.message
        if isinstance(message, CommandError):
            _refused(message)
        if isinstance(message, CommandResponse) and message.command_sequence == command.command_sequence:
            if message.code != ResponseCode.SUCCESS:
                raise HandshakeFailed(Symptom.REFUSES, f"code {message.code} for word {command.word:04X}")
            session.heard(packet)
            return
        _acknowledge(session, packet)


async def _requested(session: PanelSession) -> tuple[Received, RequestAccess]:
    """Wait for the panel's half of the key exchange."""
    session.step = Step.REQUEST_ACCESS
    until = session.connection.clock() + session.settings.timing.step_timeout_s
    while True:
        packet = await _next(session, until)
        if isinstance(packet, Damaged):
            continue
        if isinstance(packet.message, CommandError):
            _refused(packet.message)
        if isinstance(packet.message, RequestAccess):
            session.note_command_sequence(packet.message)
            return packet, packet.message
        _acknowledge(session, packet)


def _acknowledge(session: PanelSession, packet: Received) -> None:
    """Acknowledge what is no step: a panel that waits for that takes no step.

    What comes encrypted may be an event: nobody stores it yet, so it has to come again.
    Source: itv2-protocol.md section 14, rule 3.
    """
    if not isinstance(packet.message, SimpleAck) and session.codec.incoming is None:
        session.heard(packet)
        session.acknowledge()


async def _next(session: PanelSession, until: float) -> Received | Damaged:
    """Return the panel's next packet.

    Raises:
        StartedOver for an OpenSession.
        HandshakeFailed when the step's time is over, or the panel ends the session.
        ConnectionLost.
    """
    try:
        left_s = until - session.connection.clock()
        packet: Received | Damaged = await session.receive(within_s=max(left_s, 0.0))
    except TimeoutError:
        opening = session.opening
        if opening is None or opening.encryption_type not in RANDOM_BYTES:
            raise
        raise HandshakeFailed(silence_at(session.step, opening.encryption_type, opening.firmware)) from None
    if isinstance(packet, Received):
        if isinstance(packet.message, OpenSession):
            raise StartedOver(packet)
        if isinstance(packet.message, EndSession):
            _acknowledge(session, packet)
            raise HandshakeFailed(Symptom.REFUSES, f"END_SESSION at step {session.step} of 12")
    return packet


def _refused(error: CommandError) -> NoReturn:
    """Tell what the panel's refusal means.

    Raises: HandshakeFailed. Source: itv2-protocol.md section 7.1.
    """
    if error.nacked_word == Word.OPEN_SESSION and error.code == NackCode.INVALID_LENGTH:
        raise HandshakeFailed(Symptom.REFUSES_LENGTH)
    raise HandshakeFailed(Symptom.REFUSES, f"error {error.code} for word {error.nacked_word:04X}")
