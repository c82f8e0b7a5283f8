"""How commands are carried out: straight-line flows that end in one outcome, whatever the panel does.

A procedure has the panel for itself. What changes something is sent once: an answer that does not come is an unknown
outcome, and the state is read anew. Programming is left again however the procedure ends.

Source: itv2-protocol.md sections 9.4 and 12; itv2-users-and-history.md section 4, faults 13 to 18.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sojourn.core.events import EventKind
from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import programming, pulls, words
from sojourn.gateways.itv2.answers import NOT_SENT, Answer, Done, Rejected, UnknownOutcome
from sojourn.gateways.itv2.commands import (
    UNSUPPORTED,
    ArmPartition,
    Asker,
    BypassAndArm,
    BypassZones,
    ClearBypasses,
    DisarmPartition,
    Ended,
    Outcome,
    PanelCommand,
    ReadLabels,
    ReadSections,
    ReadUsers,
    Refresh,
    Result,
    SendRaw,
    Unsupported,
    WriteUser,
)
from sojourn.gateways.itv2.effects import AFTER_DELAY_MS
from sojourn.gateways.itv2.hub_config import is_code
from sojourn.gateways.itv2.messages import (
    Arm,
    BypassZone,
    Command,
    CommandRequest,
    Disarm,
    EnterConfiguration,
    ExitConfiguration,
    NackCode,
    ProgrammingMode,
    ResponseCode,
    Unknown,
    Word,
)
from sojourn.gateways.itv2.state import is_armed, is_busy
from sojourn.gateways.itv2.tracker import Want

if TYPE_CHECKING:
    from sojourn.gateways.itv2.panels import Panel

LEFT_OPEN: Final = EventKind("itv2.programming_left_open", ("panel", "partition", "why"), level="warning")
"""The panel did not agree to leave programming; it is told again when it connects the next time."""

WORD_MOST: Final = 0xFFFF
RAW_BYTES: Final = 250
"""Longest body of a raw command. Section 7.1: commands have at most 255 bytes."""
NEVER_RAW: Final[dict[int, str]] = {
    0x074F: "it resets the panel's programming",
    0x0703: "it carries access codes",
    Word.ARM: "there is a command for it, which guards codes",
    Word.DISARM: "there is a command for it, which guards codes",
    Word.ENTER_CONFIGURATION: "there is a command for it, which guards codes",
    Word.WRITE_CODES: "there is a command for it, which guards codes",
    Word.READ_CODES: "its answer has access codes",
    Word.COMMAND_ERROR: "it belongs to the session",
    Word.COMMAND_RESPONSE: "it belongs to the session",
    Word.POLL: "it belongs to the session",
    Word.OPEN_SESSION: "it belongs to the session",
    Word.END_SESSION: "it belongs to the session",
    Word.REQUEST_ACCESS: "it belongs to the session",
    Word.MULTIPLE_MESSAGES: "it belongs to the session",
}
"""Words that the raw console does not send, and why. Sections 9.7 and 9.8."""

_WRONG_CODE: Final = ResponseCode.INVALID_ACCESS_CODE
"""The same number in 0502 and 0501."""


def name_of(command: PanelCommand) -> str:
    """Return what a command is called in audits: ``arm_partition``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(command).__name__).lower()


def shown_of(command: PanelCommand) -> dict[str, str | int | float | bool]:
    """Return what may be shown of a command: never a code, nor the body of a raw word."""
    match command:
        case ArmPartition():
            return {"mode": words.mode_words(command.mode)}
        case BypassZones():
            return {"zones": _listed(command.zones), "is_bypassed": command.is_bypassed}
        case BypassAndArm():
            return {"mode": words.mode_words(command.mode), "zones": _listed(command.zones)}
        case WriteUser():
            return {"target_user": command.user}
        case SendRaw():
            return {"word": f"{command.word:04x}", "bytes": len(command.body)}
        case Unsupported():
            return {"what": command.what}
        case _:
            return {}


async def carry_out(panel: Panel, command: PanelCommand, asker: Asker, request_id: str) -> Outcome:
    """Carry a command out in a turn that the caller has; where there is no panel to ask, nothing is done."""
    if panel.session is None and not isinstance(command, Unsupported):
        return Outcome(request_id, "rejected", "the panel is not connected")
    procedure = Procedure(panel, asker)
    try:
        data = await _PROCEDURES[type(command)](procedure, command)
    except Ended as ended:
        if ended.result == "unknown":
            panel.want(Want("statuses"))
        return Outcome(request_id, ended.result, ended.reason, ended.code)
    return Outcome(request_id, "accepted", data=data)


class Procedure:
    """One command being carried out: how it asks the panel, and what it does with codes."""

    def __init__(self, panel: Panel, asker: Asker) -> None:
        self.panel = panel
        self.asker = asker

    # Asking

    async def do(self, command: Command | Unknown) -> Done:
        """Send a command that the panel must agree to.

        Raises: Ended.
        """
        return self.agreed(await self.panel.execute(command), command.word)

    def agreed(self, answer: Answer, word: int) -> Done:
        """Return an answer that is a yes.

        Raises: Ended.
        """
        if isinstance(answer, Rejected):
            raise Ended("rejected", reason_of(answer, word), answer.code)
        if isinstance(answer, UnknownOutcome):
            result: Result = "unknown" if answer.was_sent else "rejected"
            raise Ended(result, answer.why.removeprefix(NOT_SENT))
        return answer

    # Codes

    def code(self, given: Secret | None, kept: Secret | None, *, is_needed: bool) -> str:
        """Return the code to send: the one that was given, else the one of the settings.

        Raises: Ended for none where one is needed, and for what can be no code.
        """
        secret = given if given is not None else kept
        code = secret.reveal() if secret is not None else ""
        if not code and is_needed:
            raise Ended("rejected", "an access code is required")
        if code and not is_code(code):
            raise Ended("rejected", "an access code has 4, 6 or 8 digits")
        return code

    async def with_code(self, partition: int, command: Arm | Disarm | EnterConfiguration) -> Answer:
        """Send a command that has a code, unless too many were wrong.

        Raises: Ended where no codes are sent now.
        """
        panel, asker = self.panel, self.asker.name
        if not command.code:
            return await panel.execute(command)
        if (seconds := panel.lockout.locked_for_s(partition, asker)) > 0:
            raise Ended("rejected", f"no access codes are sent for {seconds} s: too many were wrong")
        answer = await panel.execute(command)
        if isinstance(answer, Done):
            panel.lockout.succeeded(partition, asker)
        elif isinstance(answer, Rejected) and answer.code == _WRONG_CODE:
            panel.code_failed(partition, asker)
        elif isinstance(answer, Rejected) and answer.is_nack and answer.code == NackCode.LOCK_OUT:
            panel.panel_locked(partition, asker)
        return answer

    # Programming

    @asynccontextmanager
    async def programming(
        self, partition: int, mode: int, code: str, *, is_writing: bool
    ) -> AsyncIterator[None]:
        """Enter programming, and leave it however the block ends.

        Raises: Ended where the panel does not let us in, or somebody else is in there.
        """
        panel = self.panel
        pause_s = panel.hub_settings.programming_pause_s
        self._refuse_programming(partition, mode)
        enter = EnterConfiguration(partition=partition, mode=mode, code=code, is_writing=is_writing)
        found = panel.state.partitions.get(partition)
        if found is not None and found.programming is not None and found.programming.value:
            await panel.execute(ExitConfiguration(partition=partition))
            await asyncio.sleep(pause_s)
        before = panel.lead_in_count
        is_in = True
        try:
            answer = await self.with_code(partition, enter)
            if isinstance(answer, Rejected) and answer.code == ResponseCode.BUSY:
                await panel.execute(ExitConfiguration(partition=partition))
                await asyncio.sleep(pause_s)
                answer = await self.with_code(partition, enter)
            is_in = not isinstance(answer, Rejected) and not _is_unsent(answer)
            self.agreed(answer, Word.ENTER_CONFIGURATION)
            # The first command after it is refused without cause if it comes too early.
            await panel.until(lambda: panel.lead_in_count > before, panel.hub_settings.lead_in_within_s)
            yield
        finally:
            if is_in:
                await self._leave(partition)

    def _refuse_programming(self, partition: int, mode: int) -> None:
        """Keep out where somebody else programs, or something is armed: entering makes a partition not ready."""
        panel = self.panel
        access = panel.programming_access.get(partition)
        if access in {words.KEYPAD_ACCESS, words.DLS_ACCESS}:
            raise Ended("rejected", f"the panel is being programmed by {words.ACCESS[access]}")
        concerned = {partition} if mode == ProgrammingMode.USER_BYPASS else panel.state.partitions.keys()
        for number in sorted(concerned & panel.state.partitions.keys()):
            found = panel.state.partitions[number]
            if is_armed(found) or is_busy(found):
                raise Ended("rejected", f"partition {number} is armed, or in a delay or an alarm")

    async def _leave(self, partition: int) -> None:
        """Leave programming; said twice at most, as it does no harm."""
        answer = await self.panel.execute(ExitConfiguration(partition=partition))
        if isinstance(answer, UnknownOutcome) and answer.was_sent:
            answer = await self.panel.execute(ExitConfiguration(partition=partition))
        self.panel.want(Want("partition", partition))
        if isinstance(answer, Rejected) and answer.code == ResponseCode.NOT_IN_PROGRAMMING:
            return
        if not isinstance(answer, Done):
            why = (
                answer.why
                if isinstance(answer, UnknownOutcome)
                else reason_of(answer, Word.EXIT_CONFIGURATION)
            )
            self.panel.emit(LEFT_OPEN, partition, why)

    # Who there is

    def partition(self, number: int) -> None:
        """Refuse a partition that is not there."""
        partitions = self.panel.state.partitions
        is_known = number in partitions if partitions else number in self.panel.tracker.partition_numbers()
        if not is_known:
            raise Ended("rejected", f"there is no partition {number}")

    def mode(self, mode: int) -> None:
        """Refuse a mode in which nothing can be armed."""
        if mode not in words.ARMABLE.values():
            raise Ended("rejected", f"nothing can be armed in {words.mode_words(mode)}")

    async def read_anew(self, partition: int) -> None:
        """Read the zones and a partition again; what is not answered is asked later."""
        try:
            await pulls.read_zones(self.panel, in_turn=True)
            await pulls.read_partition(self.panel, partition, in_turn=True)
        except pulls.Incomplete:
            self.panel.want(Want("statuses"))


async def arm(procedure: Procedure, command: ArmPartition) -> None:
    """Arm: "accepted" is the panel's yes; that it is armed comes as a notification. Section 12."""
    procedure.partition(command.partition)
    procedure.mode(command.mode)
    code = procedure.code(command.code, procedure.panel.settings.default_code, is_needed=False)
    ask = Arm(partition=command.partition, mode=command.mode, code=code)
    procedure.agreed(await procedure.with_code(command.partition, ask), Word.ARM)
    procedure.panel.want(Want("partition", command.partition, AFTER_DELAY_MS))


async def disarm(procedure: Procedure, command: DisarmPartition) -> None:
    """Disarm. Section 12."""
    procedure.partition(command.partition)
    code = procedure.code(command.code, procedure.panel.settings.default_code, is_needed=True)
    ask = Disarm(partition=command.partition, code=code)
    procedure.agreed(await procedure.with_code(command.partition, ask), Word.DISARM)
    procedure.panel.want(Want("partition", command.partition, AFTER_DELAY_MS))


async def bypass(procedure: Procedure, command: BypassZones) -> None:
    """Bypass zones or restore them, inside user-bypass programming; then look whether it is so. Section 12."""
    panel = procedure.panel
    partition = command.partition
    procedure.partition(partition)
    zones = sorted(set(command.zones))
    if not zones:
        raise Ended("rejected", "no zone was named")
    if missing := [zone for zone in zones if panel.state.zones and zone not in panel.state.zones]:
        raise Ended("rejected", f"there is no zone {_listed(missing)}")
    code = procedure.code(command.code, panel.settings.default_code, is_needed=True)
    refused: dict[int, Rejected] = {}
    lost: UnknownOutcome | None = None
    async with procedure.programming(partition, ProgrammingMode.USER_BYPASS, code, is_writing=True):
        for zone in zones:
            answer = await panel.execute(
                BypassZone(partition=partition, zone=zone, is_bypassed=command.is_bypassed)
            )
            if isinstance(answer, Rejected):
                refused[zone] = answer
            elif isinstance(answer, UnknownOutcome):
                lost = answer
                break
    if lost is not None:
        raise Ended("unknown", lost.why)
    await procedure.read_anew(partition)
    if refused:
        reasons = "; ".join(
            f"zone {zone}: {reason_of(one, Word.BYPASS_ZONE)}" for zone, one in refused.items()
        )
        raise Ended("rejected", reasons, next(iter(refused.values())).code)
    if wrong := [zone for zone in zones if _is_other(panel, zone, command.is_bypassed)]:
        not_so = "not bypassed" if command.is_bypassed else "still bypassed"
        raise Ended("rejected", f"the panel agreed, but zone {_listed(wrong)} is {not_so}")


async def bypass_and_arm(procedure: Procedure, command: BypassAndArm) -> None:
    """Bypass what is open, or what was named, then arm; nothing is armed that was not bypassed."""
    panel = procedure.panel
    procedure.partition(command.partition)
    procedure.mode(command.mode)
    zones = command.zones or tuple(
        number
        for number, zone in panel.state.zones.items()
        if zone.open is not None
        and zone.open.value
        and not (zone.bypassed is not None and zone.bypassed.value)
        and (zone.partitions is None or command.partition in zone.partitions.value)
    )
    if zones:
        try:
            await bypass(procedure, BypassZones(command.partition, zones, code=command.code))
        except Ended as ended:
            raise Ended(ended.result, f"not armed: {ended.reason}", ended.code) from None
    try:
        await arm(procedure, ArmPartition(command.partition, command.mode, command.code))
    except Ended as ended:
        if not zones:
            raise
        raise Ended(
            ended.result, f"zone {_listed(zones)} bypassed, then: {ended.reason}", ended.code
        ) from None


async def clear_bypasses(procedure: Procedure, command: ClearBypasses) -> None:
    """Restore every bypassed zone that is in the partition; which they are is asked, not remembered."""
    panel = procedure.panel
    procedure.partition(command.partition)
    await _complete(pulls.read_zones(panel, in_turn=True))
    zones = tuple(
        number
        for number, zone in panel.state.zones.items()
        if zone.bypassed is not None
        and zone.bypassed.value
        and (zone.partitions is None or command.partition in zone.partitions.value)
    )
    if zones:
        await bypass(procedure, BypassZones(command.partition, zones, is_bypassed=False, code=command.code))


async def refresh(procedure: Procedure, _command: Refresh) -> None:
    """Read all statuses."""
    await _complete(pulls.refresh(procedure.panel, in_turn=True))


async def read_labels(procedure: Procedure, _command: ReadLabels) -> None:
    """Read what the panel has, and all names."""
    panel = procedure.panel
    await _complete(pulls.read_configuration(panel, in_turn=True))
    await _complete(pulls.read_statuses(panel, in_turn=True))
    await _complete(pulls.read_user_labels(panel, panel.tracker.user_numbers(), in_turn=True))


async def _complete(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except pulls.Incomplete as incomplete:
        why = str(incomplete)
        result: Result = "rejected" if why.startswith(NOT_SENT) else "unknown"
        raise Ended(result, why.removeprefix(NOT_SENT)) from None


async def send_raw(procedure: Procedure, command: SendRaw) -> str:
    """Send a word as it is; returns the answer's body as hex, or its name where we know its layout."""
    if (why := NEVER_RAW.get(command.word)) is not None:
        raise Ended("rejected", f"{command.word:04X} is not sent raw: {why}")
    if not 0 < command.word <= WORD_MOST or len(command.body) > RAW_BYTES:
        raise Ended("rejected", f"wanted a word of 16 bits and at most {RAW_BYTES} bytes")
    ask: Command | Unknown
    if command.word == Word.COMMAND_REQUEST:
        requested = int.from_bytes(command.body[:2])
        ask = CommandRequest(requested=requested, parameters=command.body[2:])
    else:
        # Words that a server sends begin with a command sequence; the session sets it. Section 4.
        ask = Unknown(number=command.word, body=bytes(1) + command.body)
    message = (await procedure.do(ask)).message
    if message is None:
        return ""
    return message.body.hex() if isinstance(message, Unknown) else type(message).__name__


async def unsupported(_procedure: Procedure, command: Unsupported) -> None:
    """Say that nobody published how this is said; nothing is guessed on an alarm panel. Section 9.7."""
    word, name = UNSUPPORTED.get(command.what, (0, command.what))
    raise Ended("unsupported", f"unsupported: layout unknown ({name}{f', word {word:04X}' if word else ''})")


def reason_of(answer: Rejected, word: int) -> str:
    """Return why the panel refused, in words."""
    return words.nack_words(answer.code) if answer.is_nack else words.response_words(answer.code, word)


def _is_unsent(answer: Answer) -> bool:
    return isinstance(answer, UnknownOutcome) and not answer.was_sent


def _is_other(panel: Panel, zone: int, is_bypassed: bool) -> bool:
    found = panel.state.zones.get(zone)
    if found is None or found.bypassed is None or found.bypassed.is_stale:
        return False
    return found.bypassed.value != is_bypassed


def _listed(zones: Sequence[int]) -> str:
    return ", ".join(map(str, zones))


_PROCEDURES: Final[dict[type, Callable[[Procedure, Any], Coroutine[Any, Any, Any]]]] = {
    ArmPartition: arm,
    DisarmPartition: disarm,
    BypassZones: bypass,
    BypassAndArm: bypass_and_arm,
    ClearBypasses: clear_bypasses,
    Refresh: refresh,
    ReadLabels: read_labels,
    ReadUsers: programming.read_users,
    ReadSections: programming.read_sections,
    WriteUser: programming.write_user,
    SendRaw: send_raw,
    Unsupported: unsupported,
}
