"""The catalogue: how the body of each message is laid out, for reading and writing alike.

A layout is added here and nowhere else; a word without one is kept raw. Whether a body begins with a command sequence
is a property of the message's class (:class:`~sojourn.gateways.itv2.messages.Command`).
Source: itv2-protocol.md sections 4, 7 and 9.
"""

from __future__ import annotations

from typing import Any, Final

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.wire.fields import (
    Byte,
    Compact,
    Constant,
    Field,
    LabelArray,
    SectionAddress,
    UserLabels,
    Values,
    bit_rows,
    bytes1,
    code,
    code_rows,
    counted_code,
    flag,
    raw_digits,
    rest,
    str1,
    time4,
    u16,
)
from sojourn.gateways.itv2.wire.frame import decode_length, encode_length
from sojourn.gateways.itv2.wire.scalars import cut_short, number


class Layout:
    """The fields of one message class in the order of the wire."""

    __slots__ = ("_fields", "_has_sequence", "_writers", "kind")

    def __init__(self, kind: type[m.Message], *fields: Field) -> None:
        self.kind = kind
        self._fields = tuple(field.read for field in fields)
        self._writers = tuple(field.write for field in fields)
        self._has_sequence = issubclass(kind, m.Command)

    def decode(self, body: bytes, at: int = 0) -> m.Message:
        """Read a body from offset ``at``; what is behind the last field becomes the tail.

        Raises: WireError if it ends too early, or a field breaks its rule.
        """
        values: Values = {}
        if self._has_sequence:
            try:
                values["command_sequence"] = body[at]
            except IndexError:
                raise cut_short(body, at, 1) from None
            at += 1
        for read in self._fields:
            at = read(body, at, values)
        if at < len(body):
            values["tail"] = body[at:]
        return self.kind(**values)

    def encode(self, message: Any) -> bytes:
        """Write a body.

        Raises: LocalProtocolError if a value does not fit its field.
        """
        sequence = number(message.command_sequence, 1) if self._has_sequence else b""
        return b"".join([sequence, *[write(message) for write in self._writers], message.tail])


class _Requested:
    """The word that an 0800 asks for; the class says it, unless it is the one for all others."""

    def read(self, data: bytes, at: int, values: Values) -> int:  # noqa: ARG002 - as of Field
        return at + 2

    def write(self, message: Any) -> bytes:
        return number(message.requested, 2)


_USER: Final = Compact("user", min_size_bytes=2)
"""Real panels write users in two bytes, even user 0."""
_RANGE: Final = (Compact("first"), Compact("count"))
_PARTITION: Final = Compact("partition")

LAYOUTS: Final = (
    # 05xx and 06xx: sections 7 and 9.1
    Layout(m.CommandError, u16("nacked_word"), Byte("code")),
    Layout(m.CommandResponse, Byte("code")),
    Layout(m.Poll),
    Layout(
        m.OpenSession,
        Byte("device_type"),
        u16("device_id"),
        u16("firmware"),
        u16("protocol"),
        u16("tx_buffer_bytes"),
        u16("rx_buffer_bytes"),
        u16("unknown"),
        Byte("encryption_type"),
    ),
    Layout(m.EndSession),
    Layout(
        m.SoftwareVersion, *(Byte(name) for name in m.SoftwareVersion.__struct_fields__ if name != "tail")
    ),
    Layout(m.RequestAccess, bytes1("initializer")),
    Layout(
        m.SystemCapabilities,
        *(Compact(name) for name in m.SystemCapabilities.__struct_fields__ if name != "tail"),
    ),
    # 02xx, 07xx and 08xx: sections 9.2 and 9.3
    Layout(m.Text, str1("text")),
    Layout(m.ZoneLifestyle, Compact("zone"), Byte("state")),
    Layout(m.DateTimeBroadcast, time4("time")),
    Layout(m.Chime, rest("body")),
    Layout(m.ExitDelay, _PARTITION, Byte("flags"), Compact("seconds")),
    Layout(m.EntryDelay, _PARTITION, Byte("flags"), Compact("seconds")),
    Layout(m.Arming, _PARTITION, Byte("mode"), Byte("method"), _USER),
    Layout(m.ReadyStatus, _PARTITION, Byte("status")),
    Layout(m.AlarmMemory, _PARTITION, Byte("flag")),
    Layout(m.TroubleStatus, _PARTITION, Byte("flag")),
    Layout(m.BypassStatus, _PARTITION, Byte("flag")),
    Layout(m.AccessCodeUpdated, Byte("what"), Compact("records"), Compact("first"), Compact("last")),
    Layout(m.ProgrammingLead, _PARTITION, Byte("phase"), _USER, Byte("access"), Byte("mode"), time4("time")),
    Layout(m.GlobalStatus, rest("body")),
    Layout(m.ZoneStatus, Compact("first"), bit_rows("statuses")),
    Layout(m.PartitionStatus, _PARTITION, bytes1("status")),
    Layout(m.ZoneBypass, Compact("zone"), flag("is_bypassed")),
    Layout(m.Labels, Compact("collection"), Compact("first"), Compact("last"), LabelArray()),
    # Control: sections 9.4 and 9.5
    Layout(m.Arm, _PARTITION, Byte("mode"), code("code")),
    Layout(m.Disarm, _PARTITION, code("code")),
    Layout(m.EnterConfiguration, _PARTITION, Byte("mode"), counted_code("code"), flag("is_writing")),
    Layout(m.ExitConfiguration, _PARTITION),
    Layout(m.BypassZone, _PARTITION, Compact("zone"), flag("is_bypassed")),
    Layout(m.SectionRead, SectionAddress()),
    Layout(m.SectionWrite, SectionAddress(), rest("data")),
    Layout(m.SectionData, SectionAddress(), rest("data")),
    # Users: section 9.6
    Layout(m.ReadCodes, *_RANGE),
    Layout(m.ReadAttributes, *_RANGE),
    Layout(m.ReadPartitions, *_RANGE),
    Layout(m.ReadUserTypes, *_RANGE),
    Layout(m.Codes, Compact("first"), code_rows("codes")),
    Layout(m.Attributes, Compact("first"), bit_rows("attributes")),
    Layout(m.Partitions, Compact("first"), bit_rows("partitions")),
    Layout(m.UserTypes, Compact("first"), bit_rows("types")),
    Layout(m.WriteCodes, Compact("first"), code_rows("codes")),
    Layout(m.WriteAttributes, Compact("first"), bit_rows("attributes")),
    Layout(m.WritePartitions, Compact("first"), bit_rows("partitions")),
    Layout(m.WriteLabels, Compact("first"), UserLabels()),
)

REQUESTS: Final = (
    # 0800: section 9.3
    Layout(m.RequestCapabilities, _Requested()),
    Layout(m.RequestGlobalStatus, _Requested()),
    Layout(m.RequestZoneStatus, _Requested(), Compact("first"), Compact("count"), Byte("width")),
    Layout(m.RequestPartitionStatus, _Requested(), _PARTITION, Constant(b"\0")),
    Layout(
        m.RequestLabels,
        _Requested(),
        Compact("collection"),
        Compact("first"),
        Compact("last"),
        Constant(b"\1\0"),
    ),
)

_ANY_REQUEST: Final = Layout(m.CommandRequest, u16("requested"), rest("parameters"))
_RAW_DIGITS: Final = Layout(
    m.EnterConfiguration, _PARTITION, Byte("mode"), raw_digits("code"), flag("is_writing")
)
_BY_WORD: Final = {layout.kind.word: layout for layout in LAYOUTS}
_BY_REQUESTED: Final = {layout.kind.requested: layout for layout in REQUESTS}  # type: ignore[attr-defined]  # all have it
_BY_KIND: Final = {layout.kind: layout for layout in (*LAYOUTS, *REQUESTS, _ANY_REQUEST)}
_MIN_SUB_BYTES: Final = 2


def decode_message(data: bytes, *, has_raw_digits: bool = False) -> m.Message:
    """Read a word and its body, which is never an error: what cannot be read comes as ``Unknown``.

    Args:
        data: the word and everything behind it.
        has_raw_digits: as of :class:`WireOptions`.
    Raises: WireError if there is no whole word.
    """
    return _decode(data, 0, has_raw_digits)


def encode_message(message: m.Message, *, has_raw_digits: bool = False) -> bytes:
    """Write a word and its body; nothing for a ``SimpleAck``.

    Raises: LocalProtocolError if a value does not fit its field.
    """
    kind = type(message)
    layout = _BY_KIND.get(kind)
    if layout is not None:
        if has_raw_digits and kind is m.EnterConfiguration:
            layout = _RAW_DIGITS
        return number(message.word, 2) + layout.encode(message)
    if isinstance(message, m.MultipleMessages):
        return number(message.word, 2) + _encode_several(message)
    if isinstance(message, m.Unknown):
        return number(message.number, 2) + message.body + message.tail
    if isinstance(message, m.SimpleAck):
        return b""
    raise LocalProtocolError(f"a {kind.__name__}", "a message with a layout", "itv2-protocol.md section 9")


def _decode(data: bytes, at: int, has_raw_digits: bool) -> m.Message:
    try:
        word = data[at] << 8 | data[at + 1]
    except IndexError:
        raise WireError("half a command word", "two bytes", "itv2-protocol.md section 4") from None
    layout = _BY_WORD.get(word)
    try:
        if layout is not None:
            if has_raw_digits and word == m.Word.ENTER_CONFIGURATION:
                layout = _RAW_DIGITS
            return layout.decode(data, at + 2)
        if word == m.Word.MULTIPLE_MESSAGES:
            return _decode_several(data, at + 2)
        if word == m.Word.COMMAND_REQUEST:
            return _decode_request(data, at + 2)
    except WireError as error:
        return m.Unknown(number=word, body=data[at + 2 :], why=f"found {error.found}, wanted {error.wanted}")
    return m.Unknown(number=word, body=data[at + 2 :])


def _decode_request(body: bytes, at: int) -> m.Message:
    layout = _BY_REQUESTED.get(int.from_bytes(body[at + 1 : at + 3], "big"))
    if layout is not None:
        try:
            return layout.decode(body, at)
        except WireError:
            pass  # other parameters than ours: kept as they are
    return _ANY_REQUEST.decode(body, at)


def _decode_several(body: bytes, at: int) -> m.Message:
    """Read the messages of an 0623; from one that cannot be cut out on, all is the tail.

    A list in a list has never been seen and stays raw: its depth would have no bound.
    """
    found: list[m.Message] = []
    end = len(body)
    while at < end:
        try:
            length, start = decode_length(body, at)
        except WireError:
            break
        if not _MIN_SUB_BYTES <= length <= end - start:
            break
        sub = body[start : start + length]
        if sub[0] << 8 | sub[1] == m.Word.MULTIPLE_MESSAGES:
            found.append(m.Unknown(number=m.Word.MULTIPLE_MESSAGES, body=sub[2:], why="a list inside a list"))
        else:
            found.append(_decode(sub, 0, has_raw_digits=False))
        at = start + length
    return m.MultipleMessages(messages=tuple(found), tail=body[at:])


def _encode_several(message: m.MultipleMessages) -> bytes:
    subs = [encode_message(sub) for sub in message.messages]
    return b"".join([encode_length(len(sub)) + sub for sub in subs]) + message.tail
