"""The panel's own codec against the specification's vectors, apart from the server's codec."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.peer import ciphers, kinds, layouts, wire
from sojourn.gateways.itv2.peer.wire import TLink

FILE = Path(__file__).parents[1] / "itv2_vectors.json"
VECTORS = {vector["id"]: vector for vector in json.loads(FILE.read_text())["vectors"]}
ID = b"123456789012"
KEY = bytes.fromhex("f78f251ccaad1ef10ccce752dfb37f73")


def given(number: str) -> Any:
    return VECTORS[number]["input"]


def wanted(number: str) -> Any:
    return VECTORS[number]["expect"]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("number", ["V01", "V02", "V03"])
def test_the_checksum_is_ccitt_false(number: str) -> None:
    """Section 3."""
    assert wire.crc_of(raw(given(number)["data"])) == int(wanted(number)["crc"], 16)


def test_delimiters_are_stuffed_and_back() -> None:
    """V04 and V05."""
    assert wire.stuff(raw(given("V04")["raw"])) == raw(wanted("V04")["stuffed"])
    assert wire.unstuff(raw(wanted("V04")["stuffed"])) == raw(given("V04")["raw"])
    header, payload = raw(given("V05")["header"]), raw(given("V05")["payload"])
    assert wire.to_tlink(header, payload) == raw(wanted("V05")["wire"])
    assert wire.from_tlink(raw(wanted("V05")["wire"])[:-1]) == TLink(header, payload)


@pytest.mark.parametrize("text", given("V06")["stuffed"])
def test_bad_stuffing_is_refused(text: str) -> None:
    """V06."""
    with pytest.raises(WireError):
        wire.unstuff(raw(text))


def test_a_stream_is_cut_at_its_ends() -> None:
    """V07; the same however it arrives."""
    stream = raw(given("V07")["stream"])
    expected = [TLink(raw(one["header"]), raw(one["payload"])) for one in wanted("V07")["packets"]]
    for size in (1, 7, len(stream)):
        gatherer = wire.Gatherer()
        found = [
            wire.from_tlink(packet)
            for at in range(0, len(stream), size)
            for packet in gatherer.cut(stream[at : at + size])
        ]
        assert found == expected
        assert gatherer.rest == raw(wanted("V07")["left_over"])


def test_lengths_are_short_up_to_127() -> None:
    """V08."""
    for length, text in zip(given("V08")["lengths"], wanted("V08")["bytes"], strict=True):
        assert wire.length_bytes(length) == raw(text)
        assert wire.take_length(raw(text)) == (length, len(raw(text)))


def test_a_long_frame_counts_both_length_bytes() -> None:
    """V09."""
    packet = raw(given("V09")["packet"])
    frame = wire.to_frame(packet)
    assert frame.hex().startswith(wanted("V09")["frame_head"])
    assert frame.hex().endswith(wanted("V09")["frame_crc"])
    assert len(frame) == wanted("V09")["frame_len"]
    assert wire.from_frame(frame + b"padding") == packet


@pytest.mark.parametrize("text", given("V10")["frames"])
def test_a_damaged_frame_is_refused(text: str) -> None:
    """V10."""
    with pytest.raises(WireError):
        wire.from_frame(raw(text))


ACK = m.SimpleAck()
OPEN = m.OpenSession(
    command_sequence=0x4B,
    device_type=2,
    device_id=0x0329,
    firmware=0x0543,
    protocol=0x0223,
    tx_buffer_bytes=512,
    rx_buffer_bytes=512,
    unknown=1,
    encryption_type=2,
)
FRAMES = {
    "V13": m.Packet(0, 0, OPEN),
    "V15": m.Packet(1, 0, m.CommandResponse(command_sequence=0x4B)),
    "V16": m.Packet(9, 6, m.CommandResponse(command_sequence=0x21, code=17)),
    "V17": m.Packet(1, 2, m.CommandError(nacked_word=0x060A, code=1)),
    "V18": m.Packet(5, 4, m.Poll()),
    "V19": m.Packet(6, 9, m.EndSession()),
}


@pytest.mark.parametrize("number", FRAMES)
def test_packets_of_the_session_are_written_and_read(number: str) -> None:
    """V13 to V19."""
    frame = raw(wanted(number)["frame"])
    assert wire.to_frame(layouts.write_packet(FRAMES[number])) == frame
    assert layouts.read_packet(wire.from_frame(frame)) == FRAMES[number]


def test_an_acknowledgement_is_two_bytes() -> None:
    """V11 and V12; the header may be empty."""
    frame = wire.to_frame(layouts.write_packet(m.Packet(0, 1, ACK)))
    assert wire.to_tlink(ID, frame) == raw(wanted("V11")["wire"])
    frame = wire.to_frame(layouts.write_packet(m.Packet(2, 1, ACK)))
    assert wire.to_tlink(b"", frame) == raw(wanted("V12")["wire"])


def test_a_tail_of_newer_firmware_is_kept() -> None:
    """V14: what comes back is what was sent, but for the number."""
    packet = wire.from_frame(wire.from_tlink(raw(given("V14")["wire"])[:-1]).payload)
    opening = layouts.read_packet(packet).message
    assert len(opening.tail) == 4
    echo = m.Packet(2, 0, layouts.read_packet(wire.from_frame(raw(wanted("V14")["echo_frame"]))).message)
    assert wire.to_frame(layouts.write_packet(echo)) == raw(wanted("V14")["echo_frame"])


def test_the_sequence_goes_from_255_to_0() -> None:
    """V20."""
    frames = [
        wire.to_frame(layouts.write_packet(m.Packet(sender, 7, m.Poll()))).hex()
        for sender in given("V20")["snd"]
    ]
    assert frames == wanted("V20")["frames"]


def test_compact_integers() -> None:
    """V21 and V22: written in as few bytes as possible, read in any."""
    for value, text in zip(given("V21")["values"], wanted("V21")["bytes"], strict=True):
        assert kinds.compact(value) == raw(text)
        assert kinds.Cursor(raw(text)).compact() == value
    for text, value in zip(given("V22")["bytes"], wanted("V22")["values"], strict=True):
        assert kinds.Cursor(raw(text)).compact() == value


def test_digits_time_and_labels() -> None:
    """V23, V24 and V25."""
    for digits, text in zip(given("V23")["digits"], wanted("V23")["bytes"], strict=True):
        assert kinds.pack_digits(digits) == raw(text)
        assert kinds.unpack_digits(raw(text)).startswith(digits.upper())
    at = datetime.fromisoformat(given("V24")["iso"])
    time = m.PanelTime(at.year, at.month, at.day, at.hour, at.minute, at.second)
    assert kinds.pack_time(time) == raw(wanted("V24")["bytes"])
    then = datetime(*kinds.unpack_time(0x9B64B248))  # noqa: DTZ001 - panels have no zone
    assert then.isoformat() == wanted("V24")["decode_9b64b248"]
    assert kinds.counted(kinds.pack_label(given("V25")["text"], 28)) == raw(wanted("V25")["bytes"])


S = {"command_sequence": 0x21}
LABELS = ("Front Door", "Hall PIR")
MESSAGES: dict[str, m.Message] = {
    "V26": m.Arm(partition=1, mode=2, code="1234", **S),
    "V27": m.Arm(partition=2, mode=1, **S),
    "V28": m.Disarm(partition=1, code="123456", **S),
    "V29": m.EnterConfiguration(partition=1, mode=3, code="1234", is_writing=True, **S),
    "V30": m.EnterConfiguration(partition=1, mode=0, code="5555", is_writing=False, **S),
    "V31": m.BypassZone(partition=1, zone=5, is_bypassed=True, **S),
    "V32": m.ExitConfiguration(partition=1, **S),
    "V33": m.RequestCapabilities(**S),
    "V34": m.RequestCapabilities(tail=bytes.fromhex("0100" * 6), **S),
    "V35": m.RequestZoneStatus(first=1, count=64, **S),
    "V36": m.RequestPartitionStatus(partition=1, **S),
    "V37": m.RequestLabels(collection=0xD1, first=1, last=4, **S),
    "V38": m.SectionRead(section=m.Section((1, 5)), **S),
    "V39": m.SectionRead(section=m.Section((0, 1, 1), count=4), **S),
    "V40": m.SectionWrite(section=m.Section((0, 1, 3)), data=kinds.pack_label("Hall", 56), **S),
    "V41": m.SectionWrite(section=m.Section((201, 1)), data=b"\xa0", **S),
    "V42": m.ReadCodes(first=1, count=10, **S),
    "V43": m.WriteCodes(first=3, width=2, codes=("4321",), **S),
    "V44": m.WritePartitions(first=3, width=1, partitions=(3,), **S),
    "V45": m.ZoneStatus(first=1, statuses=(0, 1, 0x81, 0x22)),
    "V46": m.PartitionStatus(partition=1, status=b"\x05\x20\x00"),
    "V47": m.SystemCapabilities(zones=128, users=95, partitions=8, fobs=32, tags=95, outputs=14),
    "V48": m.Arming(partition=1, mode=2, method=2, user=0),
    "V49": m.ExitDelay(partition=1, flags=0x81, seconds=40),
    "V50": m.ZoneBypass(zone=5, is_bypassed=True),
    "V51": m.Labels(collection=0xD1, first=1, last=2, width=56, labels=LABELS),
    "V52": m.SectionData(section=m.Section((200, 1), count=8), data=b"\x01" + bytes(7)),
    "V53": m.Codes(first=1, width=2, codes=("1234", "AAAA")),
    "V54": m.ProgrammingLead(
        partition=1, phase=0, user=0, access=0, mode=0, time=m.PanelTime(2026, 2, 8, 19, 27, 9)
    ),
}


@pytest.mark.parametrize("number", MESSAGES)
def test_messages_are_written_and_read(number: str) -> None:
    """V26 to V54, both directions."""
    sent = given(number)
    frame = wire.to_frame(layouts.write_packet(m.Packet(sent["snd"], sent["rcv"], MESSAGES[number])))
    assert frame.hex() == wanted(number)["frame"]
    assert layouts.read_packet(wire.from_frame(frame)).message == MESSAGES[number]


def test_several_messages_come_in_one_packet() -> None:
    """V55 and V56: a long part has a length of two bytes."""
    parts = tuple(layouts.read_message(raw(text)) for text in given("V55")["subs"])
    body = layouts.write_message(m.MultipleMessages(messages=parts))[2:]
    assert body.hex() == wanted("V55")["body"]
    both = layouts.read_message(bytes.fromhex("0623") + raw(given("V56")["body"]))
    assert [layouts.write_message(part).hex() for part in both.messages] == wanted("V56")["subs"]


def test_type_2_keys() -> None:
    """V57."""
    code = given("V57")["access_code"]
    for whose, key in (
        ("panel_initializer", "server_to_panel_key"),
        ("server_initializer", "panel_to_server_key"),
    ):
        assert ciphers.type_2_key(code, raw(given("V57")[whose])).hex() == wanted("V57")[key]


@pytest.mark.parametrize(
    ("number", "code", "drawn", "key"),
    [
        ("V58", "integration_id", "panel_random32", "server_to_panel_key"),
        ("V59", "access_code", "server_random32", "panel_to_server_key"),
    ],
)
def test_type_1_keys(number: str, code: str, drawn: str, key: str) -> None:
    """V58 and V59: what one end makes the other end opens."""
    digits = given(number)[code]
    assert ciphers.wrap_key(digits).hex() == wanted(number)["wrap_key"]
    initializer, session_key = ciphers.type_1_initializer(digits, raw(given(number)[drawn]))
    assert initializer.hex() == wanted(number)["initializer48"]
    assert session_key.hex() == wanted(number)[key]
    assert ciphers.type_1_key(digits, initializer) == session_key


@pytest.mark.parametrize(
    ("digits", "initializer"),
    [
        ("123456789012", given("V60")["initializer48"]),
        ("999999999999", wanted("V58")["initializer48"]),
        ("123456789012", "00" * 16),
    ],
)
def test_a_type_1_initializer_of_another_code_is_refused(digits: str, initializer: str) -> None:
    """V60: a wrong check byte, the wrong id; and one that is cut off."""
    with pytest.raises(WireError):
        ciphers.type_1_key(digits, raw(initializer))


def test_servers_pad_with_zeros_and_panels_count() -> None:
    """V61, V62 and V63."""
    poll = raw(given("V61")["frame"])
    sealed = ciphers.encrypt_blocks(KEY, ciphers.pad_with_zeros(poll))
    assert sealed.hex() == wanted("V61")["ciphertext"]
    assert wire.to_tlink(ID, sealed) == raw(wanted("V61")["wire"])
    assert wire.from_frame(ciphers.decrypt_blocks(KEY, sealed)) == wire.from_frame(poll)

    def filler(count: int) -> bytes:
        return raw(given("V62")["filler"])[:count]

    padded = ciphers.pad_as_panels(raw(given("V62")["frame"]), filler)
    assert padded.hex() == wanted("V62")["padded"]
    sealed = ciphers.encrypt_blocks(raw(given("V62")["key"]), padded)
    assert wire.to_tlink(ID, sealed) == raw(wanted("V62")["wire"])
    whole = raw(given("V63")["frame"])
    assert ciphers.encrypt_blocks(KEY, ciphers.pad_with_zeros(whole)).hex() == wanted("V63")["zero_padded_ct"]
    assert ciphers.pad_as_panels(whole, filler).hex() == wanted("V63")["iso_padded_plain"]


@pytest.mark.parametrize("size", [0, 15, 17])
def test_parts_of_blocks_are_refused(size: int) -> None:
    """Section 8.3."""
    with pytest.raises(WireError):
        ciphers.decrypt_blocks(KEY, bytes(size))
