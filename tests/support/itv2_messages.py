"""Every message class of ITv2, made up by hypothesis: what the laws and the fuzz of the gateway are tried on."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

from sojourn.gateways.itv2 import messages as m

octet = st.integers(0, 0xFF)
word = st.integers(0, 0xFFFF)
compact = st.integers(0, (1 << 64) - 1)
tail = st.binary(max_size=12)
short_bytes = st.binary(max_size=40)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
label = st.text(st.characters(exclude_categories=("Cs",)), max_size=7).map(lambda name: name.strip("\0 "))
code = st.sampled_from((4, 6, 8)).flatmap(
    lambda length: st.text("0123456789ABCDEF", min_size=length, max_size=length)
)
code_or_none = st.one_of(st.just(""), code)
time = st.builds(
    m.PanelTime,
    st.integers(2000, 2063),
    st.integers(0, 15),
    st.integers(0, 31),
    st.integers(0, 31),
    st.integers(0, 63),
    st.integers(0, 63),
)
section = st.builds(
    m.Section,
    address=st.lists(word, min_size=1, max_size=8).map(tuple),
    count=octet.filter(lambda count: count != 1),  # 1 is not written, as 0 is not
    module=st.none() | octet,
    index=st.none() | octet,
    is_virtual=st.booleans(),
)
raw = {"tail": st.just(b"")}
"""Messages whose last field goes to their end have no tail."""


def built(kind: type[m.Message], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[m.Message]:
    """Make messages of a class; a command's sequence and the tail are made up unless they are given."""
    if issubclass(kind, m.Command):
        fields.setdefault("command_sequence", octet)
    fields.setdefault("tail", tail)
    return st.builds(kind, **fields)


def rows(kind: type[m.Message], name: str) -> st.SearchStrategy[m.Message]:
    """Make messages that hold values of one width for consecutive zones or users."""

    def of_width(width: int) -> st.SearchStrategy[m.Message]:
        digits = st.text("0123456789ABCDEF", min_size=2 * width, max_size=2 * width)
        value = digits if name == "codes" else st.integers(0, (1 << 8 * width) - 1)
        values = st.lists(value, max_size=8).map(tuple)
        return built(kind, first=compact, width=st.just(width), **{name: values})

    return st.integers(1, 8).flatmap(of_width)


partition = {"partition": compact}
span = {"first": compact, "count": compact}
delay = {**partition, "flags": octet, "seconds": compact}
flag = {**partition, "flag": octet}
unnamed_word = word.filter(lambda number: number not in KNOWN_WORDS)
KNOWN_WORDS = frozenset(number for name, number in vars(m.Word).items() if name.isupper())
other_request = word.filter(
    lambda number: (
        number
        not in {
            m.Word.SYSTEM_CAPABILITIES,
            m.Word.GLOBAL_STATUS,
            m.Word.ZONE_STATUS,
            m.Word.PARTITION_STATUS,
            m.Word.LABELS,
        }
    )
)

SINGLE: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    m.Unknown: built(m.Unknown, number=unnamed_word, body=short_bytes, **raw),
    m.CommandError: built(m.CommandError, nacked_word=word, code=octet),
    m.CommandResponse: built(m.CommandResponse, code=octet),
    m.Poll: built(m.Poll),
    m.OpenSession: built(
        m.OpenSession,
        device_type=octet,
        device_id=word,
        firmware=word,
        protocol=word,
        tx_buffer_bytes=word,
        rx_buffer_bytes=word,
        unknown=word,
        encryption_type=octet,
    ),
    m.EndSession: built(m.EndSession),
    m.SoftwareVersion: built(
        m.SoftwareVersion, **{name: octet for name in m.SoftwareVersion.__struct_fields__ if name != "tail"}
    ),
    m.RequestAccess: built(m.RequestAccess, initializer=st.binary(max_size=48)),
    m.SystemCapabilities: built(
        m.SystemCapabilities,
        **{name: compact for name in m.SystemCapabilities.__struct_fields__ if name != "tail"},
    ),
    m.Text: built(m.Text, text=text),
    m.ZoneLifestyle: built(m.ZoneLifestyle, zone=compact, state=octet),
    m.DateTimeBroadcast: built(m.DateTimeBroadcast, time=time),
    m.Chime: built(m.Chime, body=short_bytes, **raw),
    m.ExitDelay: built(m.ExitDelay, **delay),
    m.EntryDelay: built(m.EntryDelay, **delay),
    m.Arming: built(m.Arming, **partition, mode=octet, method=octet, user=compact),
    m.ReadyStatus: built(m.ReadyStatus, **partition, status=octet),
    m.AlarmMemory: built(m.AlarmMemory, **flag),
    m.TroubleStatus: built(m.TroubleStatus, **flag),
    m.BypassStatus: built(m.BypassStatus, **flag),
    m.AccessCodeUpdated: built(m.AccessCodeUpdated, what=octet, records=compact, first=compact, last=compact),
    m.ProgrammingLead: built(
        m.ProgrammingLead, **partition, phase=octet, user=compact, access=octet, mode=octet, time=time
    ),
    m.GlobalStatus: built(m.GlobalStatus, body=short_bytes, **raw),
    m.ZoneStatus: rows(m.ZoneStatus, "statuses"),
    m.PartitionStatus: built(m.PartitionStatus, **partition, status=short_bytes),
    m.ZoneBypass: built(m.ZoneBypass, zone=compact, is_bypassed=st.booleans()),
    m.Labels: built(
        m.Labels,
        collection=compact,
        first=compact,
        last=compact,
        width=st.just(28),
        labels=st.lists(label, max_size=4).map(tuple),
        tail=st.binary(max_size=27),  # 28 would be one more label
    ),
    m.CommandRequest: built(m.CommandRequest, requested=other_request, parameters=short_bytes, **raw),
    m.RequestCapabilities: built(m.RequestCapabilities),
    m.RequestGlobalStatus: built(m.RequestGlobalStatus),
    m.RequestZoneStatus: built(m.RequestZoneStatus, **span, width=octet),
    m.RequestPartitionStatus: built(m.RequestPartitionStatus, **partition),
    m.RequestLabels: built(m.RequestLabels, collection=compact, first=compact, last=compact),
    m.Arm: built(m.Arm, **partition, mode=octet, code=code_or_none, **raw),
    m.Disarm: built(m.Disarm, **partition, code=code_or_none, **raw),
    m.EnterConfiguration: built(
        m.EnterConfiguration, **partition, mode=octet, code=code_or_none, is_writing=st.booleans()
    ),
    m.ExitConfiguration: built(m.ExitConfiguration, **partition),
    m.BypassZone: built(m.BypassZone, **partition, zone=compact, is_bypassed=st.booleans()),
    m.SectionRead: built(m.SectionRead, section=section),
    m.SectionWrite: built(m.SectionWrite, section=section, data=short_bytes, **raw),
    m.SectionData: built(m.SectionData, section=section, data=short_bytes, **raw),
    m.ReadCodes: built(m.ReadCodes, **span),
    m.ReadAttributes: built(m.ReadAttributes, **span),
    m.ReadPartitions: built(m.ReadPartitions, **span),
    m.ReadUserTypes: built(m.ReadUserTypes, **span),
    m.Codes: rows(m.Codes, "codes"),
    m.Attributes: rows(m.Attributes, "attributes"),
    m.Partitions: rows(m.Partitions, "partitions"),
    m.UserTypes: rows(m.UserTypes, "types"),
    m.WriteCodes: rows(m.WriteCodes, "codes"),
    m.WriteAttributes: rows(m.WriteAttributes, "attributes"),
    m.WritePartitions: rows(m.WritePartitions, "partitions"),
    m.WriteLabels: built(m.WriteLabels, first=compact, labels=st.lists(label, max_size=8).map(tuple)),
}
"""A strategy for every class that can be in a list of messages."""

MESSAGES: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    **SINGLE,
    m.SimpleAck: st.just(m.SimpleAck()),
    m.MultipleMessages: built(
        m.MultipleMessages, messages=st.lists(st.one_of(*SINGLE.values()), max_size=5).map(tuple), **raw
    ),
}
"""A strategy for every class."""


def packets(messages: st.SearchStrategy[m.Message]) -> st.SearchStrategy[m.Packet]:
    """Make packets that carry such messages."""
    return st.builds(m.Packet, octet, octet, messages)


any_packet = packets(st.one_of(*MESSAGES.values()))


def message_classes(root: type[m.Message] = m.Message) -> Iterator[type[m.Message]]:
    """Yield every class of messages that says its word."""
    for kind in root.__subclasses__():
        if kind is not m.Command:
            yield kind
        yield from message_classes(kind)
