"""What a simulated panel answers to each command, and what it then does.

An answer comes first and its effect after it, as on a real panel. Knows no connection.

Source: itv2-protocol.md sections 9.3 to 9.6, 10.2, 10.3 and 13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.messages import NackCode, ProgrammingMode, ResponseCode
from sojourn.gateways.itv2.peer.kinds import pack_label, unpack_label
from sojourn.gateways.itv2.peer.panel import INSTALLER, MASTER, MAY_BYPASS, MODES_OF_MASTER, PanelModel
from sojourn.gateways.itv2.peer.zones import User, Zone

LABEL_BYTES: Final = 56
USER_LABEL_BYTES: Final = 28
MAX_LABELS: Final = {m.Collection.ZONES: 8, m.Collection.PARTITIONS: 8, m.Collection.USERS: 8}
_DISABLED: Final = "A"


class UserChange:
    """Of 0250: what was changed of users."""

    CODE = 1
    ATTRIBUTES = 2
    PARTITIONS = 4
    LABEL = 8


class Answer(NamedTuple):
    """What is sent, and what is done once it is on its way. ``is_direct``: it may itself be the acknowledgement."""

    message: m.Message
    then: Callable[[], Any] | None = None
    is_direct: bool = False


class Refusal(Exception):  # noqa: N818 - it never leaves this file: it is how an answer says no early
    """The code of a response."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Desk:
    """Answers the commands that reach one panel."""

    def __init__(self, panel: PanelModel) -> None:
        self._panel = panel
        self._answers: dict[type[m.Message], Callable[[Any], Answer]] = {
            m.RequestCapabilities: self._capabilities,
            m.RequestGlobalStatus: lambda _: Answer(m.GlobalStatus(body=b"\x00")),
            m.RequestZoneStatus: self._zone_status,
            m.RequestPartitionStatus: self._partition_status,
            m.RequestLabels: self._labels,
            m.Arm: self._arm,
            m.Disarm: self._disarm,
            m.EnterConfiguration: self._enter,
            m.ExitConfiguration: self._exit,
            m.BypassZone: self._bypass,
            m.SectionRead: self._read_section,
            m.SectionWrite: self._write_section,
            m.ReadCodes: self._codes,
            m.ReadAttributes: self._attributes,
            m.ReadPartitions: self._partitions,
            m.ReadUserTypes: self._types,
            m.WriteCodes: self._write_codes,
            m.WriteAttributes: self._write_attributes,
            m.WritePartitions: self._write_partitions,
            m.WriteLabels: self._write_labels,
        }

    def answer(self, message: m.Message) -> Answer:
        """Decide about a command; a word that is none of a panel's is refused by the communicator."""
        decide = self._answers.get(type(message))
        if decide is None:
            number = message.number if isinstance(message, m.Unknown) else type(message).word
            return Answer(m.CommandError(nacked_word=number, code=NackCode.INVALID_COMMAND))
        try:
            return decide(message)
        except Refusal as refusal:
            sequence = getattr(message, "command_sequence", 0)
            return Answer(m.CommandResponse(command_sequence=sequence, code=refusal.code))
        except WireError:
            return Answer(m.CommandError(nacked_word=type(message).word, code=NackCode.INVALID_LENGTH))

    # 0800

    def _capabilities(self, _: m.RequestCapabilities) -> Answer:
        panel = self._panel
        users = panel.programme.users_count
        return Answer(
            m.SystemCapabilities(
                zones=len(panel.zones),
                users=users,
                partitions=len(panel.partitions),
                fobs=32,
                tags=users,
                outputs=14,
            )
        )

    def _zone_status(self, ask: m.RequestZoneStatus) -> Answer:
        if self._panel.programme.refuses_zero_width and not ask.width:
            return Answer(m.CommandError(nacked_word=ask.word, code=NackCode.INVALID_LENGTH))
        zones = self._zones(ask.first, ask.count)
        return Answer(m.ZoneStatus(first=ask.first, statuses=tuple(zone.status for zone in zones)))

    def _zones(self, first: int, count: int) -> list[Zone]:
        numbers = range(first, min(first + count, len(self._panel.zones) + 1))
        if first < 1 or not numbers:
            raise Refusal(ResponseCode.INVALID_DEVICE)
        return [self._panel.zones[number] for number in numbers]

    def _partition_status(self, ask: m.RequestPartitionStatus) -> Answer:
        partition = self._panel.partitions.get(ask.partition)
        if partition is None:
            raise Refusal(ResponseCode.INVALID_PARTITION)
        status = partition.status(in_programming=self._panel.programming is not None)
        return Answer(m.PartitionStatus(partition=ask.partition, status=status))

    def _labels(self, ask: m.RequestLabels) -> Answer:
        labels, width = self._label_rows(ask.collection)
        if not 1 <= ask.first <= ask.last < ask.first + MAX_LABELS[ask.collection]:
            raise Refusal(ResponseCode.INVALID_DEVICE)
        last = min(ask.last, len(labels))
        if last < ask.first:
            raise Refusal(ResponseCode.INVALID_DEVICE)
        some = tuple(labels[ask.first - 1 : last])
        return Answer(
            m.Labels(collection=ask.collection, first=ask.first, last=last, width=width, labels=some)
        )

    def _label_rows(self, collection: int) -> tuple[list[str], int]:
        panel = self._panel
        if collection == m.Collection.ZONES:
            return [zone.label for zone in panel.zones.values()], LABEL_BYTES
        if collection == m.Collection.PARTITIONS:
            return [partition.label for partition in panel.partitions.values()], LABEL_BYTES
        if collection == m.Collection.USERS:
            return [
                panel.user(number).label for number in range(1, panel.programme.users_count + 1)
            ], USER_LABEL_BYTES
        raise Refusal(ResponseCode.INVALID_DEVICE)

    # Arming

    def _arm(self, ask: m.Arm) -> Answer:
        user = self._who(ask.word, ask.code, ask.partition, may_be_nobody=self._panel.programme.has_one_touch)
        if isinstance(user, Answer):
            return user
        method = m.ArmingMethod.ACCESS_CODE if user else m.ArmingMethod.FUNCTION_KEY
        self._must_be_armable(ask.partition)
        arm = partial(
            self._panel.arm, ask.partition, ask.mode, user=user.number if user else 0, method=method
        )
        return self._done(ask, arm)

    def _must_be_armable(self, number: int) -> None:
        partition = self._panel.partitions[number]
        if partition.is_armed or partition.ready == m.Ready.NOT_READY:
            raise Refusal(ResponseCode.FAILED_TO_ARM)

    def _disarm(self, ask: m.Disarm) -> Answer:
        user = self._who(ask.word, ask.code, ask.partition, may_be_nobody=False)
        if isinstance(user, Answer):
            return user
        number = user.number if user else 0
        return self._done(ask, partial(self._panel.disarm, ask.partition, user=number))

    def _who(self, word: int, code: str, partition: int, *, may_be_nobody: bool) -> User | Answer | None:
        """Return whose code it is; nobody's where none is needed. Raises: Refusal."""
        known = self._panel.partitions.get(partition)
        if known is None or not known.is_enabled:
            raise Refusal(ResponseCode.INVALID_PARTITION)
        if not code:
            if may_be_nobody:
                return None
            raise Refusal(ResponseCode.ACCESS_CODE_REQUIRED)
        if self._panel.is_locked:
            return Answer(m.CommandError(nacked_word=word, code=NackCode.LOCK_OUT))
        user = self._panel.user_of(code, partition)
        self._panel.judge_code(is_right=user is not None)
        if user is None:
            raise Refusal(ResponseCode.INVALID_ACCESS_CODE)
        return user

    # Programming

    def _enter(self, ask: m.EnterConfiguration) -> Answer:
        panel = self._panel
        if ask.partition not in panel.partitions:
            raise Refusal(ResponseCode.INVALID_PARTITION)
        if panel.programming is not None:
            raise Refusal(ResponseCode.BUSY)
        if panel.is_locked:
            return Answer(m.CommandError(nacked_word=ask.word, code=NackCode.LOCK_OUT))
        code = _unraw(ask.code) if panel.programme.takes_raw_digits else ask.code
        number = self._programmer(ask.mode, code, ask.partition)
        panel.judge_code(is_right=number is not None)
        if number is None:
            raise Refusal(ResponseCode.INVALID_ACCESS_CODE)
        is_whole = ask.mode != ProgrammingMode.USER_BYPASS
        if any(one.is_armed for one in panel.partitions.values() if is_whole or one.number == ask.partition):
            raise Refusal(ResponseCode.BUSY)
        enter = partial(
            panel.enter_programming, ask.partition, ask.mode, is_writing=ask.is_writing, user=number
        )
        return self._done(ask, enter, is_direct=True)

    def _programmer(self, mode: int, code: str, partition: int) -> int | None:
        """Return the number of the user whose code opens a mode. Raises: Refusal for an unknown mode."""
        panel = self._panel
        if mode == ProgrammingMode.INSTALLER:
            return INSTALLER if code == panel.installer_code else None
        if mode in MODES_OF_MASTER:
            return MASTER if code == panel.user(MASTER).code else None
        if mode != ProgrammingMode.USER_BYPASS:
            raise Refusal(ResponseCode.INVALID_PROGRAMMING_TYPE)
        user = panel.user_of(code, partition)
        return user.number if user is not None and user.attributes & MAY_BYPASS else None

    def _exit(self, ask: m.ExitConfiguration) -> Answer:
        if self._panel.programming is None:
            raise Refusal(ResponseCode.NOT_IN_PROGRAMMING)
        return self._done(ask, self._panel.leave_programming, is_direct=True)

    def _must_be_in(self, *modes: int, is_writing: bool = False) -> None:
        programming = self._panel.programming
        if (
            programming is None
            or programming.mode not in modes
            or (is_writing and not programming.is_writing)
        ):
            raise Refusal(ResponseCode.NOT_IN_PROGRAMMING)

    def _bypass(self, ask: m.BypassZone) -> Answer:
        self._must_be_in(ProgrammingMode.USER_BYPASS, is_writing=True)
        zone = self._zones(ask.zone, 1)[0]
        if ask.partition not in zone.partitions:
            raise Refusal(ResponseCode.INVALID_PARTITION)
        if ask.is_bypassed and not zone.may_be_bypassed:
            raise Refusal(ResponseCode.FUNCTION_NOT_AVAILABLE)
        bypass = partial(self._panel.bypass, ask.zone, is_bypassed=ask.is_bypassed)
        return self._done(ask, bypass, is_direct=True)

    # Sections

    def _read_section(self, ask: m.SectionRead) -> Answer:
        self._must_be_in(ProgrammingMode.INSTALLER)
        cells = self._cells(ask.section)
        return Answer(m.SectionData(section=ask.section, data=b"".join(cell.read() for cell in cells)))

    def _write_section(self, ask: m.SectionWrite) -> Answer:
        self._must_be_in(ProgrammingMode.INSTALLER, is_writing=True)
        cells = self._cells(ask.section)
        width = len(ask.data) // len(cells)
        if len(ask.data) % len(cells) or any(len(cell.read()) != width for cell in cells):
            raise WireError(f"{len(ask.data)} bytes", "as many as the section has", "section 9.5")

        def write() -> None:
            for index, cell in enumerate(cells):
                cell.write(ask.data[index * width : (index + 1) * width])

        return self._done(ask, write)

    def _cells(self, section: m.Section) -> list[Cell]:
        """Return the elements of a section. Raises: Refusal where there is none."""
        *head, last = section.address
        return [self._cell((*head, last + index)) for index in range(max(1, section.count))]

    def _cell(self, address: tuple[int, ...]) -> Cell:
        panel = self._panel
        match address:
            case (1, number) if zone := panel.zones.get(number):
                return _byte_of(zone, "definition")
            case (2, number) if zone := panel.zones.get(number):
                return _two_bytes_of(zone)
            case (0, 1, number) if zone := panel.zones.get(number):
                return _label_of(zone)
            case (0, number) if partition := panel.partitions.get(number - 100):
                return _label_of(partition)
            case (200, number) if partition := panel.partitions.get(number):
                return Cell(
                    lambda: bytes((partition.is_enabled,)),
                    lambda data: setattr(partition, "is_enabled", bool(data[0])),
                )
            case (block, number) if block - 200 in panel.partitions:
                return self._bitmap(block - 200, number)
            case (307, number) if number in panel.zones:
                return Cell(
                    lambda: bytes((panel.reporting.get(number, 0xFF),)),
                    lambda data: panel.reporting.__setitem__(number, data[0]),
                )
        raise Refusal(ResponseCode.FUNCTION_NOT_AVAILABLE)

    def _bitmap(self, partition: int, byte: int) -> Cell:
        """Return which of eight zones belong to a partition; the highest bit is the first of them."""
        numbers = range(byte * 8 - 7, byte * 8 + 1)
        if byte < 1 or numbers[0] > len(self._panel.zones):
            raise Refusal(ResponseCode.INVALID_DEVICE)
        zones = [(self._panel.zones[n], 0x80 >> i) for i, n in enumerate(numbers) if n in self._panel.zones]

        def write(data: bytes) -> None:
            for zone, bit in zones:
                (zone.partitions.add if data[0] & bit else zone.partitions.discard)(partition)

        return Cell(lambda: bytes((sum(bit for zone, bit in zones if partition in zone.partitions),)), write)

    # Users

    def _users(self, first: int, count: int) -> list[User]:
        self._must_be_in(ProgrammingMode.ACCESS_CODES)
        last = first + count - 1
        if first < 1 or count < 1 or last > self._panel.programme.users_count:
            raise Refusal(ResponseCode.INVALID_DEVICE)
        return [self._panel.user(number) for number in range(first, last + 1)]

    def _codes(self, ask: m.ReadCodes) -> Answer:
        digits = self._panel.programme.code_digits
        codes = tuple(user.code or _DISABLED * digits for user in self._users(ask.first, ask.count))
        return Answer(m.Codes(first=ask.first, width=digits // 2, codes=codes))

    def _attributes(self, ask: m.ReadAttributes) -> Answer:
        some = tuple(user.attributes for user in self._users(ask.first, ask.count))
        return Answer(m.Attributes(first=ask.first, width=1, attributes=some))

    def _partitions(self, ask: m.ReadPartitions) -> Answer:
        some = tuple(user.partitions for user in self._users(ask.first, ask.count))
        return Answer(m.Partitions(first=ask.first, width=1, partitions=some))

    def _types(self, ask: m.ReadUserTypes) -> Answer:
        some = tuple(int(bool(user.code)) for user in self._users(ask.first, ask.count))
        return Answer(m.UserTypes(first=ask.first, width=1, types=some))

    def _write_codes(self, ask: m.WriteCodes) -> Answer:
        users = self._written(ask.first, len(ask.codes))
        if ask.width != self._panel.programme.code_digits // 2:
            raise WireError(f"codes of {ask.width} bytes", "as many as this panel's", "section 9.6")
        taken = {user.code for user in self._panel.users.values() if user.code and user not in users}
        if taken & set(ask.codes):
            raise Refusal(ResponseCode.INVALID_ACCESS_CODE)

        def write() -> None:
            for user, digits in zip(users, ask.codes, strict=True):
                code = "" if digits.startswith(_DISABLED) else digits
                if bool(code) != bool(user.code):  # the panel resets the rest
                    user.attributes, user.partitions = 0x04, 0x01
                user.code = code
            self._panel.tell_users_changed(UserChange.CODE, ask.first, len(users))

        return self._done(ask, write)

    def _write_attributes(self, ask: m.WriteAttributes) -> Answer:
        users = self._written(ask.first, len(ask.attributes), with_master=False)
        return self._set_each(ask, users, "attributes", ask.attributes, UserChange.ATTRIBUTES)

    def _write_partitions(self, ask: m.WritePartitions) -> Answer:
        users = self._written(ask.first, len(ask.partitions), with_master=False)
        return self._set_each(ask, users, "partitions", ask.partitions, UserChange.PARTITIONS)

    def _write_labels(self, ask: m.WriteLabels) -> Answer:
        users = self._written(ask.first, len(ask.labels))
        return self._set_each(ask, users, "label", ask.labels, UserChange.LABEL)

    def _written(self, first: int, count: int, *, with_master: bool = True) -> list[User]:
        self._must_be_in(ProgrammingMode.ACCESS_CODES, is_writing=True)
        if first == MASTER and not with_master:
            raise Refusal(ResponseCode.FUNCTION_NOT_AVAILABLE)
        return self._users(first, count)

    def _set_each(
        self, ask: m.Command, users: list[User], name: str, values: tuple[Any, ...], what: int
    ) -> Answer:
        def write() -> None:
            for user, value in zip(users, values, strict=True):
                setattr(user, name, value)
            self._panel.tell_users_changed(what, users[0].number, len(users))

        return self._done(ask, write)

    def _done(self, ask: m.Command, then: Callable[[], Any], *, is_direct: bool = False) -> Answer:
        return Answer(m.CommandResponse(command_sequence=ask.command_sequence), then, is_direct)


class Cell(NamedTuple):
    """One element of a programming section."""

    read: Callable[[], bytes]
    write: Callable[[bytes], Any]


def _byte_of(holder: Any, name: str) -> Cell:
    return Cell(lambda: bytes((getattr(holder, name),)), lambda data: setattr(holder, name, data[0]))


def _two_bytes_of(zone: Zone) -> Cell:
    def write(data: bytes) -> None:
        zone.functions, zone.physical = data

    return Cell(lambda: bytes((zone.functions, zone.physical)), write)


def _label_of(holder: Any) -> Cell:
    return Cell(
        lambda: pack_label(holder.label, LABEL_BYTES),
        lambda data: setattr(holder, "label", unpack_label(data)),
    )


def _unraw(code: str) -> str:
    """Read one digit out of each byte. Source: itv2-protocol.md section 9.4."""
    return code[1::2]
