"""Users and programming sections: what needs the master's or the installer's code, and programming mode.

Codes that are read go nowhere: a user's record says only whether there is one.

Source: itv2-protocol.md sections 9.5, 9.6 and 12; itv2-users-and-history.md section 4, faults 5 to 7, 17 and 18.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from sojourn.core.events import EventKind
from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import pulls, words
from sojourn.gateways.itv2.commands import Ended, ReadSections, ReadUsers, SectionContent, User, WriteUser
from sojourn.gateways.itv2.hub_config import ZoneDetails
from sojourn.gateways.itv2.messages import (
    Attributes,
    Codes,
    Command,
    Message,
    Partitions,
    ProgrammingMode,
    ReadAttributes,
    ReadCodes,
    ReadPartitions,
    ReadUserTypes,
    Section,
    SectionData,
    SectionRead,
    UserTypes,
    WriteAttributes,
    WriteCodes,
    WriteLabels,
    WritePartitions,
)

if TYPE_CHECKING:
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.procedures import Procedure
    from sojourn.gateways.itv2.tracker import Update

MASTER_CODE_CHANGED: Final = EventKind("itv2.master_code_changed", ("panel", "asker"), level="warning")
"""The master code was changed through us: it is used from now on, and must be put into the settings."""

MASTER: Final = 1
"""The user whose rights nobody can write."""
USERS_AT_ONCE: Final = 32
"""So that an answer with eight bytes for each user stays under 255 bytes. Section 9.6."""
LABEL_CHARACTERS: Final = 14
SECTIONS_COUNT: Final = 64
"""How many sections may be read in one go."""
DEFINITIONS: Final = 1
PARTITIONS: Final = 200
"""``[001][zone]``, ``[200][partition]``; ``[200+partition][byte]`` are its zones. Section 9.5."""
LAST_ZONES: Final = 232

MessageT = TypeVar("MessageT", bound=Message)


async def read_users(procedure: Procedure, command: ReadUsers) -> tuple[User, ...]:
    """Read users, in batches, and their names."""
    panel = procedure.panel
    numbers = panel.tracker.user_numbers()
    if command.first not in numbers or command.count < 0:
        raise _refused(f"users are {numbers.start} to {numbers.stop - 1}")
    last = min(command.first + command.count, numbers.stop) if command.count else numbers.stop
    wanted = range(command.first, last)
    code = procedure.code(command.master_code, _master_code(panel), is_needed=True)
    records: list[User] = []
    async with procedure.programming(
        _any_partition(panel), ProgrammingMode.ACCESS_CODES, code, is_writing=False
    ):
        for first in range(wanted.start, wanted.stop, USERS_AT_ONCE):
            records += await _read(procedure, first, min(USERS_AT_ONCE, wanted.stop - first))
    await _read_names(panel, wanted)
    return tuple(_named(panel, record) for record in records)


async def write_user(procedure: Procedure, command: WriteUser) -> User:
    """Change a user: the code alone first, as the panel resets the rest with it; then read again; then the rest."""
    panel = procedure.panel
    user = command.user
    _refuse_writing(panel, command)
    master = procedure.code(command.master_code, _master_code(panel), is_needed=True)
    new = procedure.code(command.code, None, is_needed=False)
    async with procedure.programming(
        _any_partition(panel), ProgrammingMode.ACCESS_CODES, master, is_writing=True
    ):
        width = (await _told(procedure, ReadCodes(first=user, count=1), Codes)).width
        if new or command.is_enabled is False:
            digits = new or "A" * (2 * width)
            if len(digits) != 2 * width:
                raise _refused(f"this panel's codes have {2 * width} digits")
            await procedure.do(WriteCodes(first=user, width=width, codes=(digits,)))
            read = await _told(procedure, ReadCodes(first=user, count=1), Codes)
            if read.codes != (digits,):
                raise _refused("the panel agreed, but has another code now")
            if user == MASTER:
                panel.master_code = Secret(digits)
                panel.emit(MASTER_CODE_CHANGED, procedure.asker.name)
        if command.attributes is not None:
            read_before = await _told(procedure, ReadAttributes(first=user, count=1), Attributes)
            await procedure.do(
                WriteAttributes(first=user, width=read_before.width, attributes=(command.attributes,))
            )
        if command.partitions is not None:
            partitions = await _told(procedure, ReadPartitions(first=user, count=1), Partitions)
            bits = sum(1 << (number - 1) for number in set(command.partitions))
            await procedure.do(WritePartitions(first=user, width=partitions.width, partitions=(bits,)))
        if command.label is not None:
            await procedure.do(WriteLabels(first=user, labels=(command.label,)))
        record = (await _read(procedure, user, 1))[0]
    await _read_names(panel, range(user, user + 1))
    return _named(panel, record)


async def read_sections(procedure: Procedure, command: ReadSections) -> tuple[SectionContent, ...]:
    """Read sections, or all that the state can learn from: what zones are, and which partitions they are in."""
    panel = procedure.panel
    sections = command.sections or tuple(_known_sections(panel))
    if len(sections) > SECTIONS_COUNT and command.sections:
        raise _refused(f"at most {SECTIONS_COUNT} sections at once")
    code = procedure.code(command.installer_code, panel.settings.installer_code, is_needed=True)
    contents = []
    async with procedure.programming(
        _any_partition(panel), ProgrammingMode.INSTALLER, code, is_writing=False
    ):
        for section in sections:
            data = (await _told(procedure, SectionRead(section=section), SectionData)).data
            contents.append(SectionContent(section, data))
    panel.update(lambda update: learn_sections(update, contents))
    return tuple(contents)


def learn_sections(update: Update, contents: list[SectionContent]) -> None:
    """Set what zones are, which partitions are in use, and which zones they have unless the settings say it.

    Source: itv2-protocol.md section 9.5.
    """
    zones_of: dict[int, set[int]] = {}
    read_zones: set[int] = set()
    for content in contents:
        address = content.section.address
        if len(address) != 2:  # noqa: PLR2004 - the section and its first element
            continue
        section, first = address
        if section == DEFINITIONS:
            for zone, definition in enumerate(content.data, start=first):
                if definition == words.UNUSED and zone not in update.state.zones:
                    continue
                if update.zone(zone) is not None:
                    update.set("zone", zone, "definition", definition)
        elif section == PARTITIONS:
            for partition, is_enabled in enumerate(content.data, start=first):
                if (is_enabled or partition in update.state.partitions) and update.partition(partition):
                    update.set("partition", partition, "is_enabled", bool(is_enabled))
        elif PARTITIONS < section <= LAST_ZONES:
            found = zones_of.setdefault(section - PARTITIONS, set())
            for byte, bits in enumerate(content.data, start=first - 1):
                zones = range(8 * byte + 1, 8 * byte + 9)
                read_zones.update(zones)
                # The highest bit is the first zone.
                found.update(zone for bit, zone in enumerate(zones) if bits & 0x80 >> bit)
    for zone in sorted(read_zones & update.state.zones.keys()):
        details = update.tracker.details("zone", zone)
        if isinstance(details, ZoneDetails) and details.partitions:
            continue
        partitions = tuple(sorted(number for number, zones in zones_of.items() if zone in zones))
        update.set("zone", zone, "partitions", partitions)


def _known_sections(panel: Panel) -> Iterator[Section]:
    zones = panel.tracker.zone_numbers()
    partitions = panel.tracker.partition_numbers()
    yield _section(DEFINITIONS, 1, max(zones, default=1))
    yield _section(PARTITIONS, 1, max(partitions, default=1))
    for partition in sorted(panel.state.partitions):
        for byte in range(1, (max(zones, default=1) + 7) // 8 + 1):
            yield Section(address=(PARTITIONS + partition, byte))


def _section(number: int, first: int, count: int) -> Section:
    """Return a run of elements; the count is sent only where it is more than one."""
    return Section(address=(number, first), count=count if count > 1 else 0)


async def _told(procedure: Procedure, command: Command, kind: type[MessageT]) -> MessageT:
    message = (await procedure.do(command)).message
    if not isinstance(message, kind):
        raise _refused(f"the panel answered with {type(message).__name__}")
    return message


async def _read(procedure: Procedure, first: int, count: int) -> list[User]:
    codes = await _told(procedure, ReadCodes(first=first, count=count), Codes)
    attributes = await _told(procedure, ReadAttributes(first=first, count=count), Attributes)
    partitions = await _told(procedure, ReadPartitions(first=first, count=count), Partitions)
    kinds = await _told(procedure, ReadUserTypes(first=first, count=count), UserTypes)
    return [
        User(
            number=first + index,
            is_enabled=bool(code.upper().strip("A")),
            attributes=attributes.attributes[index] if index < len(attributes.attributes) else None,
            partitions=_numbers(partitions.partitions[index]) if index < len(partitions.partitions) else None,
            kind=words.USER_KINDS.get(kinds.types[index]) if index < len(kinds.types) else None,
        )
        for index, code in enumerate(codes.codes[:count])
    ]


async def _read_names(panel: Panel, numbers: range) -> None:
    try:
        await pulls.read_user_labels(panel, numbers, in_turn=True)
    except pulls.Incomplete:
        return  # a record without a name is better than none


def _named(panel: Panel, record: User) -> User:
    return User(
        record.number,
        panel.tracker.user_label(record.number) or None,
        record.is_enabled,
        record.attributes,
        record.partitions,
        record.kind,
    )


def _numbers(bits: int) -> tuple[int, ...]:
    return tuple(bit + 1 for bit in range(bits.bit_length()) if bits >> bit & 1)


def _master_code(panel: Panel) -> Secret | None:
    return panel.master_code if panel.master_code is not None else panel.settings.master_code


def _any_partition(panel: Panel) -> int:
    return min(panel.state.partitions, default=1)


def _refuse_writing(panel: Panel, command: WriteUser) -> None:
    """Refuse what the settings, the panel or sense forbid, before anything is sent."""
    numbers = panel.tracker.user_numbers()
    has_rights = command.attributes is not None or command.partitions is not None
    has_code = command.code is not None
    if not panel.settings.user_writes:
        raise _refused("writing users is switched off: user_writes")
    if command.user not in numbers:
        raise _refused(f"users are {numbers.start} to {numbers.stop - 1}")
    if command.user == MASTER and (has_rights or command.is_enabled is False):
        raise _refused("the master's rights cannot be written")
    if has_code and (command.is_enabled is False or not command.code):
        raise _refused("a user is either given a code or disabled")
    if command.is_enabled and not has_code:
        raise _refused("a user is enabled by giving a code")
    if command.attributes is not None and command.attributes not in range(256):
        raise _refused("attributes are 8 bits")
    if command.partitions is not None and not set(command.partitions) <= set(
        panel.tracker.partition_numbers()
    ):
        raise _refused("there is no such partition")
    if command.label is not None and len(command.label) > LABEL_CHARACTERS:
        raise _refused(f"a user's name has at most {LABEL_CHARACTERS} characters")
    if not (has_code or command.is_enabled is False or has_rights or command.label is not None):
        raise _refused("nothing was said to write")


def _refused(reason: str) -> Ended:
    return Ended("rejected", reason)
