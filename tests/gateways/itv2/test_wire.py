"""The laws of the codec, and the rules of the protocol that bytes alone can break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itv2_messages import MESSAGES, any_packet, message_classes, octet, packets

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.sansio.names import flag_names, name_of
from sojourn.testing import laws

ID = b"123456789012"
VECTORS = json.loads(Path(__file__).with_name("itv2_vectors.json").read_text())["vectors"]
STREAM = b"".join(
    bytes.fromhex(step["wire"])
    for vector in VECTORS
    if vector["id"] in {"V64", "V65"}
    for step in vector["expect"]["steps"]
)
RAW_DIGITS = wire.WireOptions(raw_digits=True)


def read(packet: wire.TLinkPacket) -> m.Packet:
    """Read what a TLink packet carries in the clear."""
    return wire.decode_packet(wire.unframe(packet.payload))


def written(packet: m.Packet) -> bytes:
    """Write a packet in the clear with everything around it."""
    return wire.encode_tlink(ID, wire.frame(wire.encode_packet(packet)))


def body_of(word: int, body: str) -> m.Message:
    """Read a word and its body."""
    return wire.decode_message(word.to_bytes(2, "big") + bytes.fromhex(body))


def test_every_message_class_is_tried():
    """A class that is added to the vocabulary comes under the laws, or this test says so."""
    assert set(MESSAGES) == set(message_classes())


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_what_our_encoder_writes_our_decoder_reads(kind):
    """Sections 2 to 9: every message, every field, every tail, in both directions."""
    laws.what_is_encoded_is_read_back(
        written, read, wire.TLinkFraming(), packets(MESSAGES[kind]), examples_count=60
    )


def test_any_cutting_of_the_stream_gives_the_same_packets():
    """Section 2 rule 1: a read may hold several packets, a part, or both; also where some are bad."""
    damaged = st.tuples(st.integers(0, len(STREAM) - 1), octet).map(
        lambda damage: STREAM[: damage[0]] + bytes((damage[1],)) + STREAM[damage[0] + 1 :]
    )
    streams = st.one_of(
        st.just(STREAM),
        damaged,
        st.binary(max_size=80),
        st.lists(st.sampled_from([ID, b"\x7e", b"\x7f", b"\x7d", b"POST ", b"ab", bytes(70)])).map(b"".join),
    )
    laws.any_cutting_gives_the_same_packets(wire.TLinkFraming(limit_bytes=100), streams)


def test_random_bytes_give_packets_or_a_wire_error():
    """Nothing that comes in gets further than that."""
    laws.random_bytes_give_packets_or_a_wire_error(wire.TLinkFraming(), read)
    laws.random_bytes_give_packets_or_a_wire_error(wire.TLinkFraming(), read, prefix=ID + b"\x7e")


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_packet_with_one_damaged_byte_gives_a_message_or_a_wire_error(kind):
    """Sections 2 and 3: a damage shows as a bad packet or a wrong CRC."""
    laws.damage_gives_a_message_or_a_wire_error(
        wire.TLinkFraming(), packets(MESSAGES[kind]).map(written), read, examples_count=30
    )


@settings(max_examples=400, deadline=None)
@given(any_packet, st.data())
def test_a_damaged_body_under_a_right_crc_is_a_message_all_the_same(packet, data):
    """Section 14 rule 4: a body is acknowledged even where it cannot be read, so reading it is never an error."""
    body = bytearray(wire.encode_packet(packet))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(octet)
    found = wire.decode_packet(bytes(body))
    assert wire.words_of_message(found.message) is not None
    assert repr(found)


@settings(max_examples=300, deadline=None)
@given(any_packet, st.data())
def test_a_body_that_is_cut_short_is_kept_raw(packet, data):
    """Section 14 rule 4: nothing of it is lost, and the reason is told."""
    whole = wire.encode_packet(packet)
    cut = whole[: data.draw(st.integers(2, len(whole)))]
    if len(cut) == 3:
        with pytest.raises(WireError, match="half a command word"):
            wire.decode_packet(cut)
        return
    message = wire.decode_packet(cut).message
    if isinstance(message, m.Unknown) and message.why:
        assert wire.encode_message(message) == cut[2:]


@given(st.binary(min_size=2, max_size=300))
def test_any_word_and_body_is_a_message(data):
    """Section 4: unknown words are kept; known ones that do not fit are, too."""
    message = wire.decode_message(data)
    if isinstance(message, m.Unknown):
        assert wire.encode_message(message) == data


def test_a_bad_packet_is_dropped_and_the_stream_goes_on_behind_it():
    """Section 2 rule 4: one bad packet is no reason to end a connection."""
    good = written(m.Packet(4, 4, m.Poll()))
    bad = [
        ID + b"\x7f",
        ID + b"\x7e1\x7e2\x7f",
        ID + b"\x7e1\x7d\x03\x7f",
        ID + b"\x7e1\x7d\x7f",
        b"\x7d\x7e1\x7f",
    ]
    found, consumed, wanted = wire.TLinkFraming().split(good + b"".join(bad) + good + b"12")
    assert [packet.error for packet in found] == [
        None,
        "a packet of 12 bytes without 7E",
        "a packet with more than one 7E",
        *["7D before another byte or at the end"] * 3,
        None,
    ]
    assert (consumed, wanted) == (2 * len(good) + sum(map(len, bad)), 3)


@pytest.mark.parametrize("empty", [b"\x7f", ID + b"\x7e\x7f", b"\x7e\x7f"])
def test_a_packet_without_payload_is_ignored(empty):
    """Section 2 rule 6: it is useless."""
    good = written(m.Packet(4, 4, m.Poll()))
    assert len(wire.TLinkFraming().split(empty + good + empty)[0]) == 1


def test_an_empty_header_is_legal():
    """Section 2 rule 6: the vendor's server sends none."""
    (packet,), _, _ = wire.TLinkFraming().split(bytes.fromhex("7e040201661f7f"))
    assert packet.header == b""
    assert read(packet) == m.Packet(2, 1, m.SimpleAck())


def test_bytes_without_an_end_are_refused_at_the_limit():
    """Section 2 rule 5: the accumulated length is bounded, whether its end has come or not."""
    framing = wire.TLinkFraming(limit_bytes=20)
    good = ID + b"\x7e1234567\x7f"
    assert framing.split(good[:-1]) == ([], 0, 21)
    assert len(framing.split(good)[0]) == 1
    assert framing.split(good + good[:-1] + b"12\x7f")[1:] == (21, 1)
    for long in (good[:-1] + b"1", good[:-1] + b"1\x7f"):
        with pytest.raises(WireError, match="a packet of more than 20 bytes"):
            framing.split(long)
    laws.oversize_is_refused_from_its_header(framing, good[:-1] + b"1")


@pytest.mark.parametrize("start", [b"POST /absip HTTP/1.1\r\n", b"GET /\x7f", b"POST "])
def test_an_http_request_is_told_from_a_damaged_packet(start):
    """Section 1: PowerSeries Pro dials the same port."""
    with pytest.raises(WireError, match=r"an HTTP request \((POST|GET) \.\.\.\)") as caught:
        wire.TLinkFraming().split(start)
    assert "absip" not in str(caught.value)
    good = written(m.Packet(4, 4, m.Poll()))
    assert wire.TLinkFraming().split(good + start)[1:] == (len(good), 1)
    with pytest.raises(WireError):
        wire.TLinkFraming().split(b"\x7f" + start)


def test_padding_behind_the_frame_is_ignored():
    """Section 3: the length decides, whatever the cipher needed."""
    frame = wire.frame(b"\x04\x04\x06\x00")
    assert wire.unframe(frame + b"\x5a\x1f\x02") == b"\x04\x04\x06\x00"


def test_the_long_form_of_a_short_length_is_accepted():
    """Section 3: the CRC covers the bytes that are there."""
    framed = bytes.fromhex("80040001")
    assert wire.unframe(framed + wire.crc16(framed).to_bytes(2, "big")) == b"\x00\x01"


@pytest.mark.parametrize("data", ["", "80", "03000000", "04000100", "ff", "0500010000"])
def test_a_frame_of_a_wrong_length_is_refused(data):
    """Section 3: at least 4, and no more than there is."""
    with pytest.raises(WireError):
        wire.unframe(bytes.fromhex(data))


def test_a_packet_that_is_too_long_for_a_frame_is_our_own_error():
    """Section 3: the maximum is 32 767."""
    assert len(wire.frame(bytes(32_765))) == 2 + 32_767
    with pytest.raises(LocalProtocolError):
        wire.frame(bytes(32_766))


@pytest.mark.parametrize("data", [b"", b"1", b"123"])
def test_a_packet_of_an_impossible_length_is_refused(data):
    """Section 4: two bytes are an acknowledgement, a word is two more."""
    with pytest.raises(WireError):
        wire.decode_packet(data)


def test_an_unknown_tail_is_returned_as_it_came():
    """Section 7.1: firmware 5.63 appends four bytes to OpenSession and refuses an answer without them."""
    body = "4b02032905430223020002000001027d7e7f00"
    message = body_of(m.Word.OPEN_SESSION, body)
    assert message.tail == b"\x7d\x7e\x7f\x00"
    assert wire.encode_message(message)[2:].hex() == body


def test_a_list_keeps_what_is_whole_in_front_of_what_is_not():
    """Section 9.1: a bad length behind an alarm must not hide the alarm."""
    message = body_of(m.Word.MULTIPLE_MESSAGES, "050239010102" + "090210")
    assert message == m.MultipleMessages(
        messages=(m.ReadyStatus(partition=1, status=2),), tail=b"\x09\x02\x10"
    )
    for rest in ("00", "0102", "80", "ff"):
        assert body_of(m.Word.MULTIPLE_MESSAGES, "050239010102" + rest).tail.hex() == rest


def test_a_message_in_a_list_that_cannot_be_read_leaves_the_others_alone():
    """Section 5.4 rule 6: each of them counts by itself."""
    message = body_of(m.Word.MULTIPLE_MESSAGES, "03021001" + "050239010101")
    assert [type(sub) for sub in message.messages] == [m.Unknown, m.ReadyStatus]


def test_a_list_in_a_list_is_kept_raw():
    """Section 9.1: it has never been seen, and its depth would have no bound."""
    data = wire.encode_message(m.ReadyStatus(partition=1, status=1))
    while len(data) < 8000:
        data = m.Word.MULTIPLE_MESSAGES.to_bytes(2, "big") + wire.encode_length(len(data)) + data
    found = wire.decode_message(data)
    assert found.messages[0].why == "a list inside a list"
    assert wire.encode_message(found) == data


def test_a_known_word_whose_body_is_wrong_says_why():
    """Section 14 rule 4: for the log; the body is kept."""
    message = body_of(m.Word.ZONE_LIFESTYLE, "02")
    assert message == m.Unknown(
        number=m.Word.ZONE_LIFESTYLE, body=b"\x02", why="found 0 bytes at offset 3, wanted 2 bytes"
    )
    assert "a compact integer of 9 bytes" in body_of(m.Word.ZONE_LIFESTYLE, "09" + "00" * 10).why
    assert "a section with a mask" in body_of(m.Word.SECTION_DATA, "8001").why
    assert "4 values of 0 bytes" in body_of(m.Word.ZONE_STATUS, "0101010400").why
    assert "labels of format 4" in body_of(m.Word.WRITE_LABELS, "000101010104").why


def test_a_request_with_other_parameters_is_kept_as_they_are():
    """Section 9.3: an old server sent 01 01 01 07 behind the zone count."""
    message = body_of(m.Word.COMMAND_REQUEST, "21081201010100")
    assert message == m.CommandRequest(
        command_sequence=0x21, requested=m.Word.PARTITION_STATUS, parameters=bytes.fromhex("01010100")
    )


def test_labels_are_as_wide_as_they_say():
    """Section 15 point 16: the width field is trusted, odd ones and 0 included."""
    assert body_of(m.Word.LABELS, "01d101010101" + "0104" + "00410020").labels == ("A",)
    assert body_of(m.Word.LABELS, "01d101010102" + "0102" + "00410042").labels == ("A", "B")
    none = body_of(m.Word.LABELS, "01d101010101" + "0100" + "0041")
    assert (none.labels, none.tail) == ((), b"\x00A")
    broken = body_of(m.Word.LABELS, "01d101010101" + "0102" + "d800")
    assert broken.labels == ("\ufffd",)


def test_a_code_in_0704_can_be_written_as_single_digits():
    """Section 9.4: its encoding is contested, so it can be switched."""
    packet = m.Packet(6, 9, m.EnterConfiguration(partition=1, mode=3, code="1234", is_writing=True))
    data = wire.encode_packet(packet, RAW_DIGITS)
    assert data.hex() == "06090704" + "00" + "0101" + "03" + "0401020304" + "01"
    assert wire.decode_packet(data, RAW_DIGITS) == packet
    assert wire.decode_packet(wire.encode_packet(packet), RAW_DIGITS).message.why
    ack = m.Packet(6, 9, m.Arm(partition=1, mode=2, code="1234"))
    assert wire.encode_packet(ack, RAW_DIGITS) == wire.encode_packet(ack)


UNWRITABLE: list[m.Message] = [
    m.Arm(partition=1, mode=2, code="91827"),
    m.Arm(partition=1, mode=2, code="918x"),
    m.Arm(partition=1, mode=256),
    m.Arm(partition=-1, mode=2),
    m.Arm(partition=1 << 64, mode=2),
    m.CommandResponse(command_sequence=256),
    m.EnterConfiguration(partition=1, mode=0, code="91827", is_writing=False),
    m.Codes(first=1, width=2, codes=("918276",)),
    m.Codes(first=1, width=3, codes=("91827",)),
    m.ZoneStatus(first=1, statuses=(256,), width=1),
    m.ZoneStatus(first=1, statuses=(1,), width=0),
    m.PartitionStatus(partition=1, status=bytes(256)),
    m.WriteLabels(first=1, labels=("fifteen letters",)),
    m.Text(text="\ud800"),
    m.SectionRead(section=m.Section(())),
    m.SectionRead(section=m.Section((1,) * 9)),
    m.SectionRead(section=m.Section((1,), count=256)),
    m.DateTimeBroadcast(time=m.PanelTime(2064, 1, 1, 0, 0, 0)),
    m.Unknown(number=65_536, body=b""),
]


@pytest.mark.parametrize("message", UNWRITABLE, ids=lambda message: type(message).__name__)
def test_a_value_that_does_not_fit_is_our_own_error_and_is_not_shown(message):
    """Section 6: what cannot be written is a bug on our side, and may be a code."""
    with pytest.raises(LocalProtocolError) as caught:
        wire.encode_message(message)
    assert "9182" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("code", ["91827", "918x"])
def test_single_digits_are_checked_as_well(code):
    """Section 9.4: 4, 6 or 8 digits."""
    packet = m.Packet(6, 9, m.EnterConfiguration(partition=1, mode=0, code=code, is_writing=False))
    with pytest.raises(LocalProtocolError):
        wire.encode_packet(packet, RAW_DIGITS)


def test_a_sequence_number_is_one_byte():
    """Section 5.1: modulo 256."""
    with pytest.raises(LocalProtocolError):
        wire.encode_packet(m.Packet(256, 0, m.Poll()))


def test_a_message_class_without_a_layout_is_our_own_error():
    """Section 9.7: no layout is guessed."""
    with pytest.raises(LocalProtocolError, match="wanted a message with a layout"):
        wire.encode_message(m.Message())


SECRETS: list[m.Message] = [
    m.Arm(partition=1, mode=2, code="9182"),
    m.Disarm(partition=1, code="9182"),
    m.EnterConfiguration(partition=1, mode=0, code="9182", is_writing=False),
    m.RequestAccess(initializer=b"tulip"),
    m.SectionWrite(section=m.Section((1,)), data=b"tulip"),
    m.SectionData(section=m.Section((1,)), data=b"tulip"),
    m.Codes(first=1, width=2, codes=("9182",)),
    m.WriteCodes(first=1, width=2, codes=("9182",), tail=b"tulip"),
    m.Unknown(number=m.Word.CODES, body=b"tulip"),
]


@pytest.mark.parametrize("message", SECRETS, ids=lambda message: type(message).__name__)
def test_the_text_form_of_a_message_never_shows_a_secret(message):
    """Codes and keys stay out of logs, records and traces, in a list of messages as well."""
    several = m.MultipleMessages(messages=(m.Poll(), message))
    packet = m.Packet(1, 2, several)
    shown = [f"{each!r}{each}" for each in (message, several, packet, message.redacted(), packet.redacted())]
    shown += [repr(message.__rich_repr__()), wire.words_of_message(message), wire.words_of_message(several)]
    for words in shown:
        assert not any(secret in words for secret in ("9182", "tulip", b"tulip".hex(), "b'tulip"))
        assert m.MASK in words
    raw = wire.TLinkPacket(ID, wire.frame(wire.encode_packet(packet)))
    assert "tulip" not in repr(raw)


def test_a_message_without_secrets_is_its_own_redaction():
    """The flight recorder keeps the packet itself: nothing is copied on the hot path."""
    packet = m.Packet(1, 2, m.MultipleMessages(messages=(m.Poll(), m.ZoneLifestyle(zone=3, state=1))))
    assert packet.redacted() is packet
    assert repr(packet.message.messages[1]) == "ZoneLifestyle(zone=3, state=1)"
    assert repr(m.Poll(tail=b"x")) == "Poll(tail=b'x')"


def test_numbers_have_names():
    """The specification's words, for whoever reads a trace."""
    assert name_of(m.ArmingMode, 4) == "NIGHT"
    assert name_of(m.ArmingMode, 10) == "undefined (10)"
    assert flag_names(m.ZoneFlag, 0x81) == "OPEN|BYPASSED"
    assert flag_names(m.ZoneFlag, 0) == "none"
    assert wire.word_name(0x0917) == "0917 door chime write, extended"
    assert wire.word_name(0x4731) == "4731 answer to read date/time"
    assert wire.word_name(0x1234) == "1234"
