"""The panel's half of the catalogue: the layout of every message, for reading and for writing.

A plain layout is a row of fields; what has a shape of its own has a pair of functions. Knows no sequence rules.

Source: itv2-protocol.md sections 7 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.peer import kinds
from sojourn.gateways.itv2.peer.kinds import (
    CODE,
    COMPACT,
    COUNTED,
    COUNTED_CODE,
    FLAG,
    REST,
    TEXT,
    TIME,
    U8,
    U16,
    USER,
    Cursor,
    Kind,
)
from sojourn.gateways.itv2.peer.wire import length_bytes, take_length

SOURCE: Final = "itv2-protocol.md section 9"
USER_LABEL_BYTES: Final = 28
USER_LABEL_FORMAT: Final = 3

Fields = dict[str, Any]


class Layout(NamedTuple):
    """How the body of one kind of message is read and written, without command sequence and tail."""

    read: Callable[[Cursor], Fields]
    write: Callable[[Any], bytes]


def _row(**fields: Kind) -> Layout:
    def read(cursor: Cursor) -> Fields:
        return {name: kind.read(cursor) for name, kind in fields.items()}

    def write(message: Any) -> bytes:
        return b"".join(kind.write(getattr(message, name)) for name, kind in fields.items())

    return Layout(read, write)


def _section(*, with_data: bool) -> Layout:
    def read(cursor: Cursor) -> Fields:
        flags = cursor.unsigned(1)
        if flags & 0x80:
            raise WireError("a section with a mask", "a known layout", "itv2-protocol.md section 9.5")
        module = cursor.unsigned(1) if flags & 0x04 else None
        address = tuple(cursor.unsigned(2) for _ in range((flags >> 4 & 7) + 1))
        index = cursor.unsigned(1) if flags & 0x01 else None
        count = cursor.unsigned(1) if flags & 0x02 else 0
        fields: Fields = {"section": m.Section(address, count, module, index, bool(flags & 0x08))}
        if with_data:
            fields["data"] = cursor.rest()
        return fields

    def write(message: Any) -> bytes:
        at: m.Section = message.section
        flags = (len(at.address) - 1) << 4 | 8 * at.is_virtual
        flags |= 4 * (at.module is not None) | 2 * bool(at.count) | (at.index is not None)
        parts = [bytes((flags,))]
        if at.module is not None:
            parts.append(bytes((at.module,)))
        parts += (word.to_bytes(2, "big") for word in at.address)
        if at.index is not None:
            parts.append(bytes((at.index,)))
        if at.count:
            parts.append(bytes((at.count,)))
        return b"".join(parts) + (message.data if with_data else b"")

    return Layout(read, write)


def _users(name: str, *, is_code: bool = False) -> Layout:
    """Lay out a value of the same width for each of some consecutive users."""

    def read(cursor: Cursor) -> Fields:
        first, count, width = cursor.compact(), cursor.compact(), cursor.unsigned(1)
        values = [cursor.take(width) for _ in range(count)]
        some = tuple(kinds.unpack_digits(value) if is_code else _of_bytes(name, value) for value in values)
        return {"first": first, "width": width, name: some}

    def write(message: Any) -> bytes:
        values = getattr(message, name)
        head = kinds.compact(message.first) + kinds.compact(len(values)) + bytes((message.width,))
        if is_code:
            return head + b"".join(kinds.pack_digits(value) for value in values)
        return head + b"".join(value.to_bytes(message.width, _order(name)) for value in values)

    return Layout(read, write)


def _of_bytes(name: str, value: bytes) -> int:
    return int.from_bytes(value, _order(name))


def _order(name: str) -> Any:
    """Partitions begin in the first byte with 1 to 8, the lowest bit first."""
    return "little" if name == "partitions" else "big"


def _read_zone_status(cursor: Cursor) -> Fields:
    first, count, width = cursor.compact(), cursor.compact(), cursor.unsigned(1)
    statuses = tuple(cursor.unsigned(width) for _ in range(count))
    return {"first": first, "width": width, "statuses": statuses}


def _write_zone_status(message: m.ZoneStatus) -> bytes:
    head = kinds.compact(message.first) + kinds.compact(len(message.statuses)) + bytes((message.width,))
    return head + b"".join(status.to_bytes(message.width, "big") for status in message.statuses)


def _read_labels(cursor: Cursor) -> Fields:
    collection, first, last, width = (cursor.compact() for _ in range(4))
    data = cursor.rest()
    if not width or len(data) % width:
        raise WireError(f"{len(data)} bytes of names", f"a multiple of {width}", SOURCE)
    names = tuple(kinds.unpack_label(data[at : at + width]) for at in range(0, len(data), width))
    return {"collection": collection, "first": first, "last": last, "width": width, "labels": names}


def _write_labels(message: m.Labels) -> bytes:
    head = (message.collection, message.first, message.last, message.width)
    names = b"".join(kinds.pack_label(label, message.width) for label in message.labels)
    return b"".join(kinds.compact(value) for value in head) + names


def _read_user_labels(cursor: Cursor) -> Fields:
    first, count = cursor.compact(), cursor.compact()
    cursor.unsigned(1)  # the format; only 3 is known
    names = [cursor.take(cursor.unsigned(1)) for _ in range(count)]
    return {"first": first, "labels": tuple(kinds.unpack_label(name) for name in names)}


def _write_user_labels(message: m.WriteLabels) -> bytes:
    names = (kinds.counted(kinds.pack_label(name, USER_LABEL_BYTES)) for name in message.labels)
    head = kinds.compact(message.first) + kinds.compact(len(message.labels)) + bytes((USER_LABEL_FORMAT,))
    return head + b"".join(names)


def _read_multiple(cursor: Cursor) -> Fields:
    found = []
    while cursor.at < len(cursor.data):
        length, cursor.at = take_length(cursor.data, cursor.at)
        found.append(read_message(cursor.take(length)))
    return {"messages": tuple(found)}


def _write_multiple(message: m.MultipleMessages) -> bytes:
    bodies = [write_message(one) for one in message.messages]
    return b"".join(length_bytes(len(body)) + body for body in bodies)


_NOTHING = _row()
_SOME_USERS = _row(first=COMPACT, count=COMPACT)
_DELAY = _row(partition=COMPACT, flags=U8, seconds=COMPACT)
_PARTITION_FLAG = _row(partition=COMPACT, flag=U8)

LAYOUTS: Final[dict[type[m.Message], Layout]] = {
    m.Text: _row(text=TEXT),
    m.ZoneLifestyle: _row(zone=COMPACT, state=U8),
    m.DateTimeBroadcast: _row(time=TIME),
    m.Chime: _row(body=REST),
    m.ExitDelay: _DELAY,
    m.EntryDelay: _DELAY,
    m.Arming: _row(partition=COMPACT, mode=U8, method=U8, user=USER),
    m.ReadyStatus: _row(partition=COMPACT, status=U8),
    m.AlarmMemory: _PARTITION_FLAG,
    m.TroubleStatus: _PARTITION_FLAG,
    m.BypassStatus: _PARTITION_FLAG,
    m.AccessCodeUpdated: _row(what=U8, records=COMPACT, first=COMPACT, last=COMPACT),
    m.CommandError: _row(nacked_word=U16, code=U8),
    m.CommandResponse: _row(code=U8),
    m.Poll: _NOTHING,
    m.OpenSession: _row(
        device_type=U8,
        device_id=U16,
        firmware=U16,
        protocol=U16,
        tx_buffer_bytes=U16,
        rx_buffer_bytes=U16,
        unknown=U16,
        encryption_type=U8,
    ),
    m.EndSession: _NOTHING,
    m.SoftwareVersion: _row(
        major=U8,
        minor=U8,
        build=U8,
        release=U8,
        protocol_major=U8,
        protocol_minor=U8,
        product_1=U8,
        product_2=U8,
        market=U8,
        customer=U8,
        approval=U8,
    ),
    m.RequestAccess: _row(initializer=COUNTED),
    m.SystemCapabilities: _row(
        zones=COMPACT, users=COMPACT, partitions=COMPACT, fobs=COMPACT, tags=COMPACT, outputs=COMPACT
    ),
    m.MultipleMessages: Layout(_read_multiple, _write_multiple),
    m.ProgrammingLead: _row(partition=COMPACT, phase=U8, user=USER, access=U8, mode=U8, time=TIME),
    m.GlobalStatus: _row(body=REST),
    m.ZoneStatus: Layout(_read_zone_status, _write_zone_status),
    m.PartitionStatus: _row(partition=COMPACT, status=COUNTED),
    m.ZoneBypass: _row(zone=COMPACT, is_bypassed=FLAG),
    m.Labels: Layout(_read_labels, _write_labels),
    m.Arm: _row(partition=COMPACT, mode=U8, code=CODE),
    m.Disarm: _row(partition=COMPACT, code=CODE),
    m.EnterConfiguration: _row(partition=COMPACT, mode=U8, code=COUNTED_CODE, is_writing=FLAG),
    m.ExitConfiguration: _row(partition=COMPACT),
    m.BypassZone: _row(partition=COMPACT, zone=COMPACT, is_bypassed=FLAG),
    m.SectionRead: _section(with_data=False),
    m.SectionWrite: _section(with_data=True),
    m.SectionData: _section(with_data=True),
    m.ReadCodes: _SOME_USERS,
    m.ReadAttributes: _SOME_USERS,
    m.ReadPartitions: _SOME_USERS,
    m.ReadUserTypes: _SOME_USERS,
    m.Codes: _users("codes", is_code=True),
    m.Attributes: _users("attributes"),
    m.Partitions: _users("partitions"),
    m.UserTypes: _users("types"),
    m.WriteCodes: _users("codes", is_code=True),
    m.WriteAttributes: _users("attributes"),
    m.WritePartitions: _users("partitions"),
    m.WriteLabels: Layout(_read_user_labels, _write_user_labels),
}
"""By class of message, for every word that names only one."""

REQUESTS: Final[dict[type[m.Command], Layout]] = {
    m.RequestCapabilities: _NOTHING,
    m.RequestGlobalStatus: _NOTHING,
    m.RequestZoneStatus: _row(first=COMPACT, count=COMPACT, width=U8),
    m.RequestPartitionStatus: _row(partition=COMPACT),
    m.RequestLabels: _row(collection=COMPACT, first=COMPACT, last=COMPACT),
}
"""By class of request, for the word 0800."""

_ENDS: Final[dict[type[m.Command], bytes]] = {
    m.RequestPartitionStatus: b"\x00",
    m.RequestLabels: b"\x01\x00",
}
"""An empty element size behind a request; a request without it is understood as well."""
_BY_WORD: Final = {kind.word: kind for kind in LAYOUTS}
_REQUESTED: Final[dict[type[m.Command], int]] = {kind: vars(kind)["requested"] for kind in REQUESTS}
_BY_REQUESTED: Final = {requested: kind for kind, requested in _REQUESTED.items()}


def write_message(message: m.Message) -> bytes:
    """Return word and body; nothing for a SimpleAck."""
    if isinstance(message, m.SimpleAck):
        return b""
    if isinstance(message, m.Unknown):
        return message.number.to_bytes(2, "big") + message.body
    head = type(message).word.to_bytes(2, "big")
    if isinstance(message, m.Command):
        head += bytes((message.command_sequence,))
    if isinstance(message, m.Command) and type(message) in REQUESTS:
        requested = _REQUESTED[type(message)].to_bytes(2, "big")
        body = REQUESTS[type(message)].write(message) + _ENDS.get(type(message), b"")
        return head + requested + body + message.tail
    if isinstance(message, m.CommandRequest):
        return head + message.requested.to_bytes(2, "big") + message.parameters + message.tail
    return head + LAYOUTS[type(message)].write(message) + message.tail


def read_message(data: bytes) -> m.Message:
    """Read word and body; an unknown word is an Unknown.

    Raises: WireError if the body of a known word is too short.
    """
    if not data:
        return m.SimpleAck()
    cursor = Cursor(data)
    word = cursor.unsigned(2)
    if word == m.Word.COMMAND_REQUEST:
        return _read_request(cursor)
    kind = _BY_WORD.get(word)
    if kind is None:
        return m.Unknown(number=word, body=cursor.rest())
    fields: Fields = {"command_sequence": cursor.unsigned(1)} if issubclass(kind, m.Command) else {}
    fields |= LAYOUTS[kind].read(cursor)
    return kind(**fields, tail=cursor.rest())


def _read_request(cursor: Cursor) -> m.Message:
    sequence, requested = cursor.unsigned(1), cursor.unsigned(2)
    kind = _BY_REQUESTED.get(requested)
    if kind is None:
        return m.CommandRequest(command_sequence=sequence, requested=requested, parameters=cursor.rest())
    fields = REQUESTS[kind].read(cursor)
    end = _ENDS.get(kind, b"")
    tail = cursor.rest()
    return kind(command_sequence=sequence, **fields, tail=tail.removeprefix(end))


def write_packet(packet: m.Packet) -> bytes:
    """Return a packet without length and checksum."""
    return bytes((packet.sender, packet.receiver)) + write_message(packet.message)


def read_packet(data: bytes) -> m.Packet:
    """Read a packet without length and checksum. Raises: WireError."""
    return m.Packet(data[0], data[1], read_message(data[2:]))
