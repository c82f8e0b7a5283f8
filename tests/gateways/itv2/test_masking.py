"""Logs, traces and ``sojourn decode itv2`` show what happened and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from itv2_messages import any_packet

from sojourn.core.recorder import Direction, redactor_for
from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.decoding import bytes_from_hex, described
from sojourn.gateways.itv2.masking import masked_hex
from sojourn.gateways.itv2.trace_words import words_of

VECTORS = {
    vector["id"]: vector
    for vector in json.loads(Path(__file__).with_name("itv2_vectors.json").read_text())["vectors"]
}
TIME = m.PanelTime(2026, 2, 8, 19, 27, 9)
OPEN = m.OpenSession(
    device_type=2,
    device_id=0x0329,
    firmware=0x0543,
    protocol=0x0223,
    tx_buffer_bytes=512,
    rx_buffer_bytes=512,
    unknown=1,
    encryption_type=2,
    tail=b"\1\2",
)
WORDS: list[tuple[m.Message, str]] = [
    (m.SimpleAck(), ""),
    (m.Arm(partition=1, mode=m.ArmingMode.AWAY, code="9182"), "partition 1 away code ***"),
    (m.Arm(partition=1, mode=m.ArmingMode.STAY), "partition 1 stay"),
    (
        m.EnterConfiguration(partition=1, mode=3, code="9182", is_writing=True),
        "partition 1 user bypass code *** to write",
    ),
    (m.CommandResponse(code=17), "invalid access code"),
    (m.CommandResponse(code=99), "undefined (99)"),
    (m.CommandError(nacked_word=0x060A, code=1), "060A open session invalid length"),
    (
        OPEN,
        (
            "device 02 0329 firmware 5.43 protocol 2.23 tx buffer bytes 512 rx buffer bytes 512 unknown 1"
            " encryption type 2 tail 0102"
        ),
    ),
    (m.RequestAccess(initializer=b"tulip"), "initializer ***"),
    (m.ZoneLifestyle(zone=3, state=1), "zone 3 open"),
    (m.DateTimeBroadcast(time=TIME), "2026-02-08 19:27:09"),
    (m.ExitDelay(partition=1, flags=0x81, seconds=40), "partition 1 audible + active seconds 40"),
    (m.Arming(partition=1, mode=4, method=1, user=2), "partition 1 night by access code user 2"),
    (
        m.ProgrammingLead(partition=1, phase=1, user=0, access=2, mode=0, time=TIME),
        "partition 1 out user 0 by keypad installer 2026-02-08 19:27:09",
    ),
    (m.ZoneStatus(first=5, statuses=(0, 0x22, 0x80)), "zones 5 to 7 (6 tamper + alarm, 7 bypassed)"),
    (m.ZoneStatus(first=5, statuses=(0,)), "zones 5 to 5 (nothing to report)"),
    (
        m.PartitionStatus(partition=1, status=b"\x13\x21\x01"),
        "partition 1 armed + stay + no entry delay + alarm + chime + fire pre-alert",
    ),
    (m.PartitionStatus(partition=1, status=b"\x14"), "partition 1 ready to force-arm + walk test"),
    (m.PartitionStatus(partition=1, status=b""), "partition 1 nothing to report"),
    (m.ZoneBypass(zone=5, is_bypassed=False), "zone 5 not bypassed"),
    (m.BypassZone(partition=1, zone=5, is_bypassed=True), "partition 1 zone 5 bypass"),
    (
        m.Labels(collection=0xD1, first=1, last=2, width=28, labels=("Front Door", "Hall\n")),
        "zones first 1 last 2 'Front Door', 'Hall\\n'",
    ),
    (m.SectionRead(section=m.Section((1, 5), count=4, module=2)), "[001][005] module 2 count 4"),
    (
        m.SectionData(section=m.Section((1, 5), index=3, is_virtual=True), data=b"tulip"),
        "[001][005] index 3 virtual data ***",
    ),
    (m.CommandRequest(requested=0x0815, parameters=b"\1"), "0815 alarm memory information parameters 01"),
    (m.Codes(first=1, width=2, codes=("9182",)), "first 1 codes ***"),
    (m.WriteCodes(first=1, width=2, codes=("9182",), tail=b"tulip"), "first 1 codes *** tail ***"),
    (m.WritePartitions(first=3, width=1, partitions=(3, 1)), "first 3 partitions 3 1"),
    (m.Unknown(number=0x0917, body=b"tulip"), "0917 door chime write, extended body ***"),
    (
        m.MultipleMessages(
            messages=(m.ReadyStatus(partition=1, status=3), m.Poll(), m.Disarm(partition=1, code="9182"))
        ),
        "ReadyStatus partition 1 not ready; Poll; Disarm partition 1 code ***",
    ),
]


@pytest.mark.parametrize(("message", "words"), WORDS, ids=[type(message).__name__ for message, _ in WORDS])
def test_a_trace_speaks_the_specifications_language(message, words):
    """What is kept of a packet is enough to say what it was about, and holds no secret."""
    packet = m.Packet(6, 9, message)
    redact = redactor_for(m.Packet)
    assert redact is not None
    kept = redact(packet)
    assert not any(secret in repr(kept) for secret in ("9182", "tulip"))
    assert words_of((0.0, Direction.OUT, 20, kept)) == (
        type(message).__name__,
        f"{words}, 6/9" if words else "6/9",
    )


def test_other_entries_of_a_trace_are_left_as_they_are():
    """Notes of a session are texts."""
    assert words_of((0.0, Direction.STATE, 0, "replay is over")) == ("replay is over", "")


@settings(deadline=None)
@given(any_packet)
def test_every_message_has_words(packet):
    """Numbers without a name included."""
    name, words = words_of((0.0, Direction.IN, 0, packet.redacted()))
    assert name == type(packet.message).__name__
    assert words.endswith(f"{packet.sender}/{packet.receiver}")


MASKED: list[tuple[str, str]] = [
    ("0001", "00 01"),
    ("06090600", "06 09 0600"),
    ("06090239010102", "06 09 0239 010102"),
    ("06090917aa", "06 09 0917 ***"),
    ("06090815aabb", "06 09 0815 aabb"),
    *[
        (f"0609{word:04x}aabb", f"06 09 {word:04x} ***")
        for word in (0x0900, 0x0901, 0x0704, 0x0736, 0x4736, 0x0746, 0x0722, 0x4721, 0x060E, 0x0703)
    ],
    ("06090623" + "050239010102" + "050900aabbcc", "06 09 0623 [0239 010102][0900 ***]"),
    ("06090623" + "020600" + "0402", "06 09 0623 [0600][***]"),
    ("06090623" + "00" + "09182736", "06 09 0623 [***]"),
    ("06090623" + "80", "06 09 0623 [***]"),
    ("06090623" + "0706230402390101", "06 09 0623 [***]"),
    ("", ""),
    ("06", "06"),
    ("060909", "06 09 09"),
]


@pytest.mark.parametrize(("packet", "shown"), MASKED)
def test_the_bytes_in_a_log_hold_no_code_and_no_key(packet, shown):
    """Section 9: whole bodies are masked by their word, whether they can be read or not."""
    assert masked_hex(bytes.fromhex(packet)) == shown


@pytest.mark.parametrize(("name", "code"), [("V64", "type2_access_code"), ("V65", "type1_access_code")])
def test_a_captured_connection_is_read_with_the_access_code_alone(name, code):
    """Section 8: the capture holds the initializers, so both keys follow."""
    steps = VECTORS[name]["expect"]["steps"]
    data = bytes_from_hex("\n".join(step["wire"] for step in steps))
    packets = list(described(data, VECTORS[name]["input"][code]))
    assert len(packets) == 16
    assert [("encrypted" in lines[1]) for lines in packets] == [step["encrypted"] for step in steps]
    assert packets[12] == [
        f"offset       {sum(len(step['wire']) for step in steps[:12]) // 2}",
        "packet       123456789012, 16 bytes, encrypted",
        "bytes        04 04 0239 010101",
        "sequences    sender 4 receiver 4",
        "message      ReadyStatus partition 1 ready",
    ]
    shown = "\n".join(line for lines in packets for line in lines)
    for secret in ("panel_random", "server_random", code):
        assert VECTORS[name]["input"][secret].lower() not in shown.lower()
    without = list(described(data))
    assert sum("unreadable" in lines[-1] for lines in without) == sum(step["encrypted"] for step in steps)


def test_the_key_of_one_direction_is_enough_for_it():
    """For somebody who has no access code."""
    (lines,) = described(bytes_from_hex(VECTORS["V61"]["expect"]["wire"]), VECTORS["V61"]["input"]["key"])
    assert lines[-1] == "message      Poll"


def test_one_frame_and_a_list_in_it_are_described():
    """Bytes from a log that has taken the TLink packet away already."""
    subs = bytes.fromhex("09060623" + "050239010102" + "020600")
    (lines,) = described(wire.frame(subs))
    assert lines == [
        "packet       no header, 16 bytes",
        "bytes        09 06 0623 [0239 010102][0600]",
        "sequences    sender 9 receiver 6",
        "message      2 messages",
        "  ReadyStatus partition 1 force",
        "  Poll",
    ]


def test_what_is_damaged_or_cut_short_in_a_capture_is_said():
    """A capture may begin and end anywhere."""
    poll = "7e060504060016aa7f"
    data = bytes_from_hex("31 7e 7d 05 7f" + poll + "31:32")
    first, second, third = described(data)
    assert first == ["offset       0", "damaged      7D before another byte or at the end"]
    assert second[-1] == "message      Poll"
    assert third == ["offset       14", "incomplete   2 bytes without a 7F"]


def test_what_is_no_capture_is_refused():
    """With one clear line."""
    for text in ("", "zz", "7e0"):
        with pytest.raises(WireError):
            bytes_from_hex(text)
    with pytest.raises(WireError, match="a code of other characters") as caught:
        list(described(b"\0", "tulip" * 6 + "ip"))
    assert "tulip" not in str(caught.value)
