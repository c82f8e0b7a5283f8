"""The vocabulary of ITv2: the numbers it uses and the messages it exchanges, as plain values.

Knows nothing of bytes, ciphers, sessions or time. Numbers are plain ints in small namespaces; one that is outside its
namespace is a legal value here. Every message keeps what a newer firmware appended (``tail``), so that it can be shown
and sent back as it came.

Words without a public layout (outputs, panic, chime and others) have no class: they arrive as :class:`Unknown`.

Source: itv2-protocol.md sections 4, 6, 7, 9 and 10.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import msgspec

MASK: str = "***"
"""What is shown in the place of a secret field; it does not tell the length."""

_MASKS: dict[type, object] = {str: MASK, bytes: MASK.encode(), tuple: (MASK,)}
"""What takes the place of a secret value of each type."""


class Word:
    """Command words whose layout is known."""

    TEXT = 0x0201
    ZONE_LIFESTYLE = 0x0210
    DATE_TIME = 0x0220
    CHIME = 0x0223
    EXIT_DELAY = 0x0230
    ENTRY_DELAY = 0x0231
    ARMING = 0x0232
    READY_STATUS = 0x0239
    ALARM_MEMORY = 0x023C
    TROUBLE_STATUS = 0x023F
    BYPASS_STATUS = 0x0240
    ACCESS_CODE_UPDATED = 0x0250
    COMMAND_ERROR = 0x0501
    COMMAND_RESPONSE = 0x0502
    POLL = 0x0600
    OPEN_SESSION = 0x060A
    END_SESSION = 0x060B
    SOFTWARE_VERSION = 0x060D
    REQUEST_ACCESS = 0x060E
    SYSTEM_CAPABILITIES = 0x0613
    MULTIPLE_MESSAGES = 0x0623
    EXIT_CONFIGURATION = 0x0701
    PROGRAMMING_LEAD = 0x0702
    ENTER_CONFIGURATION = 0x0704
    SECTION_READ = 0x0721
    SECTION_WRITE = 0x0722
    READ_CODES = 0x0736
    READ_ATTRIBUTES = 0x0737
    READ_PARTITIONS = 0x0738
    READ_USER_TYPES = 0x073C
    WRITE_CODES = 0x0746
    WRITE_ATTRIBUTES = 0x0747
    WRITE_PARTITIONS = 0x0748
    BYPASS_ZONE = 0x074A
    WRITE_LABELS = 0x0750
    LABELS = 0x0771
    COMMAND_REQUEST = 0x0800
    GLOBAL_STATUS = 0x0810
    ZONE_STATUS = 0x0811
    PARTITION_STATUS = 0x0812
    ZONE_BYPASS = 0x0820
    ARM = 0x0900
    DISARM = 0x0901
    SECTION_DATA = 0x4721
    CODES = 0x4736
    ATTRIBUTES = 0x4737
    PARTITIONS = 0x4738
    USER_TYPES = 0x473C


ANSWER_BIT = 0x4000
"""Set in the word of the answer to a read; such a message carries no command sequence."""


class ArmingMode:
    """How a partition is armed: 0900, 0232. 10 is unassigned."""

    DISARM = 0
    STAY = 1
    AWAY = 2
    NO_ENTRY_DELAY = 3
    NIGHT = 4
    QUICK = 5
    USER = 6
    STAY_NO_ENTRY_DELAY = 7
    AWAY_NO_ENTRY_DELAY = 8
    NIGHT_NO_ENTRY_DELAY = 9
    GLOBAL_STAY = 11
    GLOBAL_AWAY = 12
    CUSTOM_A = 13
    CUSTOM_B = 14
    CUSTOM_C = 15
    CUSTOM_D = 16
    INSTANT_STAY = 17
    HIDDEN = 18
    UNKNOWN = 255


class ArmingMethod:
    """By what a partition was armed or disarmed: 0232."""

    UNKNOWN = 0
    ACCESS_CODE = 1
    FUNCTION_KEY = 2


class Ready:
    """Whether a partition can be armed: 0239."""

    READY = 1
    FORCE = 2
    NOT_READY = 3


class DelayFlag:
    """Bits of 0230 and 0231."""

    AUDIBLE = 0x01
    RESTARTED = 0x02
    URGENT = 0x04
    ACTIVE = 0x80


class ZoneState:
    """Of 0210."""

    RESTORED = 0
    OPEN = 1
    UNKNOWN = 0xFF


class ZoneFlag:
    """Bits of a zone's status byte in 0811."""

    OPEN = 0x01
    TAMPER = 0x02
    FAULT = 0x04
    LOW_BATTERY = 0x08
    DELINQUENCY = 0x10
    ALARM = 0x20
    ALARM_MEMORY = 0x40
    BYPASSED = 0x80


class PartitionFlag:
    """Bits of the first status byte in 0812; what 02, 04 and 08 mean depends on ARMED."""

    ARMED = 0x01
    READY = 0x02
    FORCE_READY = 0x04
    NOT_READY = 0x08
    WALK_TEST = 0x10
    STAY = 0x02
    AWAY = 0x04
    NIGHT = 0x08
    NO_ENTRY_DELAY = 0x10
    EXIT_DELAY = 0x20
    ENTRY_DELAY = 0x40
    QUICK_EXIT = 0x80


class PartitionFlag2:
    """Bits of the second status byte in 0812."""

    ALARM = 0x01
    TROUBLE = 0x02
    BYPASS = 0x04
    PROGRAMMING = 0x08
    ALARM_MEMORY = 0x10
    CHIME = 0x20
    SIREN = 0x40
    BUZZER = 0x80


class ProgrammingMode:
    """Of 0704 and 0702."""

    INSTALLER = 0
    ACCESS_CODES = 1
    USER_FUNCTIONS = 2
    USER_BYPASS = 3


class LeadPhase:
    """Of 0702."""

    IN = 0
    OUT = 1


class ResponseCode:
    """Of 0502; several meanings may share a number."""

    SUCCESS = 0
    CANNOT_EXIT_CONFIGURATION = 1
    INVALID_PROGRAMMING_TYPE = 2
    UNSUPPORTED_MODULE = 3
    FAILED_TO_ARM = 4
    NOT_IN_PROGRAMMING = 16
    INVALID_ACCESS_CODE = 17
    ACCESS_CODE_REQUIRED = 18
    BUSY = 19
    INVALID_PARTITION = 20
    FUNCTION_NOT_AVAILABLE = 23
    INTERNAL_ERROR = 24
    COMMAND_TIMEOUT = 25
    NO_TROUBLES = 26
    NO_ALARMS = 27
    INVALID_DEVICE = 28
    INVALID_TROUBLE_TYPE = 29


class NackCode:
    """Of 0501."""

    UNKNOWN = 0
    INVALID_LENGTH = 1
    INVALID_COMMAND = 2
    INVALID_SEQUENCE = 3
    PANEL_NOT_RESPONDING = 4
    INVALID_PASS_THROUGH = 5
    INVALID_DESTINATION = 6
    INVALID_SESSION = 7
    BUFFER_TOO_SMALL = 8
    LOCK_OUT = 9
    UNSUPPORTED_SUB_COMMAND = 10
    POWER_UP_SHUNT = 11
    INVALID_PROGRAMMING_MODE = 16
    INVALID_ACCESS_CODE = 17
    ACCESS_CODE_REQUIRED = 18
    BUSY = 19
    INVALID_PARTITION = 20
    FUNCTION_NOT_AVAILABLE = 23
    INTERNAL_ERROR = 24
    COMMAND_TIMEOUT = 25
    INVALID_MODULE = 28
    INVALID_TROUBLE_TYPE = 29
    TAG_OR_CODE_REQUIRED = 30
    TAG_REQUIRED = 31


class Collection:
    """What labels belong to: 0771."""

    ZONES = 0xD1
    PARTITIONS = 0xD3
    USERS = 0xD9


class EncryptionType:
    """Of 060A."""

    NONE = 0
    TYPE_1 = 1
    TYPE_2 = 2
    TYPE_3 = 3


class PanelTime(NamedTuple):
    """A panel's local time as it came, valid or not; ``year`` is the full year, counted from 2000."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int


class Section(msgspec.Struct, frozen=True, gc=False):
    """Where a programming section is: ``[001][005]`` is ``address=(1, 5)``; a ``count`` of 0 or 1 is not written."""

    address: tuple[int, ...]
    count: int = 0
    module: int | None = None
    index: int | None = None
    is_virtual: bool = False


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The root of all messages. ``tail``: bytes behind the known fields, as they came.

    The text form never shows ``secret_fields``, nor the tail behind them.
    """

    word: ClassVar[int]
    secret_fields: ClassVar[tuple[str, ...]] = ()
    tail: bytes = b""

    def redacted(self) -> Self:
        """Return this message with :data:`MASK` in each secret field that is not empty."""
        if not self.secret_fields:
            return self
        values = {name: getattr(self, name) for name in (*self.secret_fields, "tail")}
        return msgspec.structs.replace(
            self, **{name: _MASKS[type(value)] for name, value in values.items() if value}
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = self.redacted()
        fields = [(name, getattr(shown, name)) for name in self.__struct_fields__ if name != "tail"]
        return [*fields, ("tail", shown.tail)] if self.tail else fields

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class Command(Message, frozen=True, kw_only=True):
    """A message that carries a command sequence, which its response names."""

    command_sequence: int = 0


class SimpleAck(Message, frozen=True, kw_only=True):
    """A packet without a word: it acknowledges, and nothing else."""

    word = 0


class Unknown(Message, frozen=True, kw_only=True):
    """A word without a public layout, or a known one whose body could not be read; ``why`` says so.

    ``body``: everything behind the word, a command sequence included.
    """

    word = -1
    secret_fields = ("body",)
    number: int
    body: bytes
    why: str = ""


# 05xx and 06xx: the session


class CommandError(Message, frozen=True, kw_only=True):
    """The communicator refuses a command; it names the word, not the sequence."""

    word = Word.COMMAND_ERROR
    nacked_word: int
    code: int


class CommandResponse(Command, frozen=True, kw_only=True):
    """The answer to the command with this sequence."""

    word = Word.COMMAND_RESPONSE
    code: int = ResponseCode.SUCCESS


class Poll(Message, frozen=True, kw_only=True):
    """Keeps the connection alive."""

    word = Word.POLL


class OpenSession(Command, frozen=True, kw_only=True):
    """The panel's parameters; the server returns all of them, tail included.

    Versions are hex digits: 0x0543 is 5.43.
    """

    word = Word.OPEN_SESSION
    device_type: int
    device_id: int
    firmware: int
    protocol: int
    tx_buffer_bytes: int
    rx_buffer_bytes: int
    unknown: int
    encryption_type: int


class EndSession(Message, frozen=True, kw_only=True):
    """The sender is about to close."""

    word = Word.END_SESSION


class SoftwareVersion(Message, frozen=True, kw_only=True):
    """Eleven numbers of the communicator."""

    word = Word.SOFTWARE_VERSION
    major: int
    minor: int
    build: int
    release: int
    protocol_major: int
    protocol_minor: int
    product_1: int
    product_2: int
    market: int
    customer: int
    approval: int


class RequestAccess(Command, frozen=True, kw_only=True):
    """Half of the key exchange: 16 bytes for Type 2, 48 for Type 1."""

    word = Word.REQUEST_ACCESS
    secret_fields = ("initializer",)
    initializer: bytes


class SystemCapabilities(Message, frozen=True, kw_only=True):
    """How much the panel has of each."""

    word = Word.SYSTEM_CAPABILITIES
    zones: int
    users: int
    partitions: int
    fobs: int
    tags: int
    outputs: int


class MultipleMessages(Message, frozen=True, kw_only=True):
    """Several messages in one packet; they have no sequence numbers of their own."""

    word = Word.MULTIPLE_MESSAGES
    messages: tuple[Message, ...]

    def redacted(self) -> Self:
        """Return this message with the secrets of those in it masked."""
        if not any(message.secret_fields for message in self.messages):
            return self
        return msgspec.structs.replace(self, messages=tuple(message.redacted() for message in self.messages))


# 02xx, 07xx and 08xx: notifications


class Text(Message, frozen=True, kw_only=True):
    """Free text."""

    word = Word.TEXT
    text: str


class ZoneLifestyle(Message, frozen=True, kw_only=True):
    """A zone was opened or restored."""

    word = Word.ZONE_LIFESTYLE
    zone: int
    state: int


class DateTimeBroadcast(Message, frozen=True, kw_only=True):
    """The panel's clock, every 240 s."""

    word = Word.DATE_TIME
    time: PanelTime


class Chime(Message, frozen=True, kw_only=True):
    """Of unknown layout."""

    word = Word.CHIME
    body: bytes


class ExitDelay(Message, frozen=True, kw_only=True):
    """The delay began, or is urgent; ``seconds`` are left."""

    word = Word.EXIT_DELAY
    partition: int
    flags: int
    seconds: int


class EntryDelay(Message, frozen=True, kw_only=True):
    """As ``ExitDelay``."""

    word = Word.ENTRY_DELAY
    partition: int
    flags: int
    seconds: int


class Arming(Message, frozen=True, kw_only=True):
    """A partition is armed (the exit delay may only begin now) or disarmed; user 0 = nobody known."""

    word = Word.ARMING
    partition: int
    mode: int
    method: int
    user: int


class ReadyStatus(Message, frozen=True, kw_only=True):
    """Whether a partition can be armed."""

    word = Word.READY_STATUS
    partition: int
    status: int


class AlarmMemory(Message, frozen=True, kw_only=True):
    """Non-zero: there are alarms in memory."""

    word = Word.ALARM_MEMORY
    partition: int
    flag: int


class TroubleStatus(Message, frozen=True, kw_only=True):
    """Non-zero: there is trouble."""

    word = Word.TROUBLE_STATUS
    partition: int
    flag: int


class BypassStatus(Message, frozen=True, kw_only=True):
    """Non-zero: some zone is bypassed."""

    word = Word.BYPASS_STATUS
    partition: int
    flag: int


class AccessCodeUpdated(Message, frozen=True, kw_only=True):
    """Users were changed; ``what``: 1 code, 2 attributes, 4 partitions, 8 label."""

    word = Word.ACCESS_CODE_UPDATED
    what: int
    records: int
    first: int
    last: int


class ProgrammingLead(Message, frozen=True, kw_only=True):
    """Programming begins or is over; ``access``: 0 interactive services, 2 keypad, 3 DLS, 4 C24."""

    word = Word.PROGRAMMING_LEAD
    partition: int
    phase: int
    user: int
    access: int
    mode: int
    time: PanelTime


class GlobalStatus(Message, frozen=True, kw_only=True):
    """Of unknown layout."""

    word = Word.GLOBAL_STATUS
    body: bytes


class ZoneStatus(Message, frozen=True, kw_only=True):
    """Status of consecutive zones, one int of ``ZoneFlag`` bits each.

    ``width``: bytes per zone on the wire; the first one is the lowest of the int, as in ``Partitions``.
    """

    word = Word.ZONE_STATUS
    first: int
    statuses: tuple[int, ...]
    width: int = 1


class PartitionStatus(Message, frozen=True, kw_only=True):
    """``status``: bytes of ``PartitionFlag``, of ``PartitionFlag2``, and a third whose bit 01 is fire pre-alert."""

    word = Word.PARTITION_STATUS
    partition: int
    status: bytes


class ZoneBypass(Message, frozen=True, kw_only=True):
    """A zone is bypassed, or is not any more."""

    word = Word.ZONE_BYPASS
    zone: int
    is_bypassed: bool


class Labels(Message, frozen=True, kw_only=True):
    """Names, without the spaces and NULs that fill them; ``width``: bytes per name on the wire.

    ``tail``: bytes behind the last whole name.
    """

    word = Word.LABELS
    collection: int
    first: int
    last: int
    width: int
    labels: tuple[str, ...]


# 0800: requests of status


class CommandRequest(Command, frozen=True, kw_only=True):
    """Asks for the message ``requested``; of this class itself where the parameters have no public layout."""

    word = Word.COMMAND_REQUEST
    requested: int = 0
    parameters: bytes = b""


class RequestCapabilities(Command, frozen=True, kw_only=True):
    """Answered by ``SystemCapabilities``."""

    word = Word.COMMAND_REQUEST
    requested: ClassVar[int] = Word.SYSTEM_CAPABILITIES


class RequestGlobalStatus(Command, frozen=True, kw_only=True):
    """Answered by ``GlobalStatus``."""

    word = Word.COMMAND_REQUEST
    requested: ClassVar[int] = Word.GLOBAL_STATUS


class RequestZoneStatus(Command, frozen=True, kw_only=True):
    """Answered by ``ZoneStatus``; ``width`` is its last byte: 0, or 1 for panels that refuse 0."""

    word = Word.COMMAND_REQUEST
    requested: ClassVar[int] = Word.ZONE_STATUS
    first: int
    count: int
    width: int = 0


class RequestPartitionStatus(Command, frozen=True, kw_only=True):
    """Answered by ``PartitionStatus``."""

    word = Word.COMMAND_REQUEST
    requested: ClassVar[int] = Word.PARTITION_STATUS
    partition: int


class RequestLabels(Command, frozen=True, kw_only=True):
    """Answered by ``Labels``; at most 4 names of zones and partitions, 8 of users."""

    word = Word.COMMAND_REQUEST
    requested: ClassVar[int] = Word.LABELS
    collection: int
    first: int
    last: int


# 09xx and 07xx: control


class Arm(Command, frozen=True, kw_only=True):
    """Arm a partition; an empty code is one-touch arming. ``code``: 4, 6 or 8 digits."""

    word = Word.ARM
    secret_fields = ("code",)
    partition: int
    mode: int
    code: str = ""


class Disarm(Command, frozen=True, kw_only=True):
    """Disarm a partition."""

    word = Word.DISARM
    secret_fields = ("code",)
    partition: int
    code: str


class EnterConfiguration(Command, frozen=True, kw_only=True):
    """Enter programming; how the code is written is contested (section 9.4), so the codec can do both."""

    word = Word.ENTER_CONFIGURATION
    secret_fields = ("code",)
    partition: int
    mode: int
    code: str
    is_writing: bool


class ExitConfiguration(Command, frozen=True, kw_only=True):
    """Leave programming."""

    word = Word.EXIT_CONFIGURATION
    partition: int


class BypassZone(Command, frozen=True, kw_only=True):
    """Bypass a zone or restore it, inside user-bypass programming."""

    word = Word.BYPASS_ZONE
    partition: int
    zone: int
    is_bypassed: bool


class SectionRead(Command, frozen=True, kw_only=True):
    """Answered by ``SectionData``."""

    word = Word.SECTION_READ
    section: Section


class SectionWrite(Command, frozen=True, kw_only=True):
    """Answered by ``CommandResponse``."""

    word = Word.SECTION_WRITE
    secret_fields = ("data",)
    section: Section
    data: bytes


class SectionData(Message, frozen=True, kw_only=True):
    """What a section holds."""

    word = Word.SECTION_DATA
    secret_fields = ("data",)
    section: Section
    data: bytes


# Users


class ReadCodes(Command, frozen=True, kw_only=True):
    """Answered by ``Codes``."""

    word = Word.READ_CODES
    first: int
    count: int


class ReadAttributes(Command, frozen=True, kw_only=True):
    """Answered by ``Attributes``."""

    word = Word.READ_ATTRIBUTES
    first: int
    count: int


class ReadPartitions(Command, frozen=True, kw_only=True):
    """Answered by ``Partitions``."""

    word = Word.READ_PARTITIONS
    first: int
    count: int


class ReadUserTypes(Command, frozen=True, kw_only=True):
    """Answered by ``UserTypes``."""

    word = Word.READ_USER_TYPES
    first: int
    count: int


class Codes(Message, frozen=True, kw_only=True):
    """Access codes of consecutive users, ``width`` BCD bytes each; all of A: the slot is disabled."""

    word = Word.CODES
    secret_fields = ("codes",)
    first: int
    width: int
    codes: tuple[str, ...]


class Attributes(Message, frozen=True, kw_only=True):
    """01 supervisor, 02 duress, 04 may bypass, 08 remote access, 40 bell squawk, 80 one-time."""

    word = Word.ATTRIBUTES
    first: int
    width: int
    attributes: tuple[int, ...]


class Partitions(Message, frozen=True, kw_only=True):
    """The partitions of users as bits, the lowest is partition 1; ``width``: bytes per user, the first has 1 to 8."""

    word = Word.PARTITIONS
    first: int
    width: int
    partitions: tuple[int, ...]


class UserTypes(Message, frozen=True, kw_only=True):
    """0 none, 1 PIN, 2 proximity tag."""

    word = Word.USER_TYPES
    first: int
    width: int
    types: tuple[int, ...]


class WriteCodes(Command, frozen=True, kw_only=True):
    """As ``Codes``."""

    word = Word.WRITE_CODES
    secret_fields = ("codes",)
    first: int
    width: int
    codes: tuple[str, ...]


class WriteAttributes(Command, frozen=True, kw_only=True):
    """As ``Attributes``."""

    word = Word.WRITE_ATTRIBUTES
    first: int
    width: int
    attributes: tuple[int, ...]


class WritePartitions(Command, frozen=True, kw_only=True):
    """As ``Partitions``."""

    word = Word.WRITE_PARTITIONS
    first: int
    width: int
    partitions: tuple[int, ...]


class WriteLabels(Command, frozen=True, kw_only=True):
    """Names of users, at most 14 characters each."""

    word = Word.WRITE_LABELS
    first: int
    labels: tuple[str, ...]


class Packet(msgspec.Struct, frozen=True, gc=False):
    """What a frame carries: a message under both protocol sequence numbers, each 0 to 255.

    Source: itv2-protocol.md sections 4 and 5.1.
    """

    sender: int
    receiver: int
    message: Message

    def redacted(self) -> Packet:
        """Return this packet without secrets, for the flight recorder; usually the packet itself."""
        message = self.message.redacted()
        return self if message is self.message else Packet(self.sender, self.receiver, message)

    def __repr__(self) -> str:  # what a subclass keeps besides, such as the bytes, is not shown
        return (
            f"{type(self).__name__}(sender={self.sender}, receiver={self.receiver}, message={self.message!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("sender", self.sender), ("receiver", self.receiver), ("message", self.message)]
