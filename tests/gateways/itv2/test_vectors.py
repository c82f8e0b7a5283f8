"""The 65 vectors, as far as bytes alone can show them; what a session does with them is tested there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import WireError
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2 import wire
from sojourn.gateways.itv2.encryption import FrameCipher, type1_make, type1_open, type1_wrap_key, type2_key
from sojourn.gateways.itv2.wire import scalars

VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector
    for vector in json.loads(Path(__file__).with_name("itv2_vectors.json").read_text())["vectors"]
}
ID = b"123456789012"
TIME = m.PanelTime(2026, 2, 8, 19, 27, 9)
OPEN_SESSION = {
    "device_type": 2,
    "device_id": 0x0329,
    "firmware": 0x0543,
    "protocol": 0x0223,
    "tx_buffer_bytes": 512,
    "rx_buffer_bytes": 512,
    "unknown": 1,
    "encryption_type": m.EncryptionType.TYPE_2,
}
C = {"command_sequence": 0x21}
P1 = {"partition": 1}

FRAMES: dict[str, tuple[int, int, m.Message]] = {
    "V11": (0, 1, m.SimpleAck()),
    "V13": (0, 0, m.OpenSession(command_sequence=75, **OPEN_SESSION)),
    "V15": (1, 0, m.CommandResponse(command_sequence=0x4B)),
    "V16": (9, 6, m.CommandResponse(**C, code=m.ResponseCode.INVALID_ACCESS_CODE)),
    "V17": (1, 2, m.CommandError(nacked_word=m.Word.OPEN_SESSION, code=m.NackCode.INVALID_LENGTH)),
    "V18": (5, 4, m.Poll()),
    "V19": (6, 9, m.EndSession()),
    "V26": (6, 9, m.Arm(**C, **P1, mode=m.ArmingMode.AWAY, code="1234")),
    "V27": (6, 9, m.Arm(**C, partition=2, mode=m.ArmingMode.STAY)),
    "V28": (6, 9, m.Disarm(**C, **P1, code="123456")),
    "V29": (6, 9, m.EnterConfiguration(**C, **P1, mode=3, code="1234", is_writing=True)),
    "V30": (6, 9, m.EnterConfiguration(**C, **P1, mode=0, code="5555", is_writing=False)),
    "V31": (6, 9, m.BypassZone(**C, **P1, zone=5, is_bypassed=True)),
    "V32": (6, 9, m.ExitConfiguration(**C, **P1)),
    "V33": (6, 9, m.RequestCapabilities(**C)),
    "V34": (6, 9, m.RequestCapabilities(**C, tail=b"\1\0" * 6)),
    "V35": (6, 9, m.RequestZoneStatus(**C, first=1, count=64)),
    "V36": (6, 9, m.RequestPartitionStatus(**C, **P1)),
    "V37": (6, 9, m.RequestLabels(**C, collection=m.Collection.ZONES, first=1, last=4)),
    "V38": (6, 9, m.SectionRead(**C, section=m.Section((1, 5)))),
    "V39": (6, 9, m.SectionRead(**C, section=m.Section((0, 1, 1), count=4))),
    "V40": (
        6,
        9,
        m.SectionWrite(**C, section=m.Section((0, 1, 3)), data=f"{'Hall':28}".encode("utf-16-be")),
    ),
    "V41": (6, 9, m.SectionWrite(**C, section=m.Section((201, 1)), data=b"\xa0")),
    "V42": (6, 9, m.ReadCodes(**C, first=1, count=10)),
    "V43": (6, 9, m.WriteCodes(**C, first=3, width=2, codes=("4321",))),
    "V44": (6, 9, m.WritePartitions(**C, first=3, width=1, partitions=(0b11,))),
    "V45": (9, 6, m.ZoneStatus(first=1, statuses=(0, 1, 0x81, 0x22))),
    "V46": (9, 6, m.PartitionStatus(**P1, status=b"\x05\x20\x00")),
    "V47": (9, 6, m.SystemCapabilities(zones=128, users=95, partitions=8, fobs=32, tags=95, outputs=14)),
    "V48": (9, 6, m.Arming(**P1, mode=m.ArmingMode.AWAY, method=m.ArmingMethod.FUNCTION_KEY, user=0)),
    "V49": (9, 6, m.ExitDelay(**P1, flags=m.DelayFlag.ACTIVE | m.DelayFlag.AUDIBLE, seconds=40)),
    "V50": (9, 6, m.ZoneBypass(zone=5, is_bypassed=True)),
    "V51": (
        9,
        6,
        m.Labels(collection=m.Collection.ZONES, first=1, last=2, width=56, labels=("Front Door", "Hall PIR")),
    ),
    "V52": (9, 6, m.SectionData(section=m.Section((200, 1), count=8), data=b"\1" + bytes(7))),
    "V53": (9, 6, m.Codes(first=1, width=2, codes=("1234", "AAAA"))),
    "V54": (9, 6, m.ProgrammingLead(**P1, phase=m.LeadPhase.IN, user=0, access=0, mode=0, time=TIME)),
}


def given_(name: str) -> dict[str, Any]:
    """Return what a vector gives."""
    found: dict[str, Any] = VECTORS[name]["input"]
    return found


def expected(name: str) -> dict[str, Any]:
    """Return what a vector expects."""
    found: dict[str, Any] = VECTORS[name]["expect"]
    return found


def raw(value: str) -> bytes:
    """Return the bytes that a vector writes as digits."""
    return bytes.fromhex(value)


def is_rejected(read: Any, data: str) -> bool:
    """Say whether reading ends in WireError."""
    try:
        read(raw(data))
    except WireError:
        return True
    return False


def test_all_vectors_are_here():
    """V01 to V65."""
    assert list(VECTORS) == [f"V{number:02}" for number in range(1, 66)]


@pytest.mark.parametrize("name", ["V01", "V02", "V03"])
def test_the_crc(name):
    """Section 3: CRC-16/CCITT-FALSE over the length and the packet."""
    assert f"{wire.crc16(raw(given_(name)['data'])):04x}" == expected(name)["crc"]


def test_v04_bytes_are_stuffed():
    """Section 2: 7D, 7E and 7F."""
    assert wire.stuff(raw(given_("V04")["raw"])).hex() == expected("V04")["stuffed"]
    assert wire.unstuff(raw(expected("V04")["stuffed"])).hex() == given_("V04")["raw"]


def test_v05_header_and_payload_are_stuffed_apart():
    """Section 2: the delimiters are sent raw."""
    header, payload = raw(given_("V05")["header"]), raw(given_("V05")["payload"])
    data = wire.encode_tlink(header, payload)
    assert data.hex() == expected("V05")["wire"]
    assert wire.TLinkFraming().split(data)[0] == [wire.TLinkPacket(header, payload)]


def test_v06_bad_stuffing_is_rejected():
    """Section 2 rule 3."""
    assert [is_rejected(wire.unstuff, each) for each in given_("V06")["stuffed"]] == expected("V06")[
        "rejected"
    ]


def test_v07_one_read_holds_two_packets_and_a_part():
    """Section 2 rule 1."""
    stream = raw(given_("V07")["stream"])
    packets, consumed, _ = wire.TLinkFraming().split(stream)
    assert [{"header": each.header.hex(), "payload": each.payload.hex()} for each in packets] == expected(
        "V07"
    )["packets"]
    assert stream[consumed:].hex() == expected("V07")["left_over"]


def test_v08_lengths():
    """Section 3: one byte up to 127, else two."""
    lengths = given_("V08")["lengths"]
    assert [wire.encode_length(each).hex() for each in lengths] == expected("V08")["bytes"]
    assert [wire.decode_length(raw(each))[0] for each in expected("V08")["bytes"]] == lengths


def test_v09_a_long_frame():
    """Section 3: the CRC covers both length bytes."""
    packet = raw(given_("V09")["packet"])
    framed = wire.frame(packet)
    assert framed.hex().startswith(expected("V09")["frame_head"])
    assert framed[-2:].hex() == expected("V09")["frame_crc"]
    assert len(framed) == expected("V09")["frame_len"]
    assert wire.unframe(framed) == packet


def test_v10_bad_frames_are_rejected():
    """Section 3: wrong CRC, cut short, too short, the other form of length."""
    assert [is_rejected(wire.unframe, each) for each in given_("V10")["frames"]] == expected("V10")[
        "rejected"
    ]


@pytest.mark.parametrize("name", FRAMES)
def test_a_message_is_written_and_read_byte_for_byte(name):
    """Sections 4, 7 and 9: the layouts, in both directions."""
    packet = m.Packet(*FRAMES[name])
    body = wire.encode_packet(packet)
    assert wire.frame(body).hex() == expected(name)["frame"]
    assert wire.decode_packet(wire.unframe(raw(expected(name)["frame"]))) == packet
    if "body" in expected(name):
        assert body[4:].hex() == expected(name)["body"]
    if "wire" in expected(name):
        assert wire.encode_tlink(ID, wire.frame(body)).hex() == expected(name)["wire"]


def test_every_vector_with_a_frame_is_one_of_these():
    """None is forgotten."""
    with_frame = {name for name in VECTORS if "frame" in expected(name)}
    assert with_frame == set(FRAMES)


def test_v12_the_header_may_be_empty():
    """Section 2: the vendor's server sends none."""
    ack = m.Packet(given_("V12")["snd"], given_("V12")["rcv"], m.SimpleAck())
    assert wire.encode_tlink(b"", wire.frame(wire.encode_packet(ack))).hex() == expected("V12")["wire"]


def test_v14_an_unknown_tail_is_echoed():
    """Section 7.1: the complete body, only the command sequence is another (here 4C, from 2)."""
    (packet,), _, _ = wire.TLinkFraming().split(raw(given_("V14")["wire"]))
    opened = wire.decode_packet(wire.unframe(packet.payload)).message
    assert isinstance(opened, m.OpenSession)
    assert len(opened.tail) == 4
    fields = {name: getattr(opened, name) for name in opened.__struct_fields__}
    echo = m.OpenSession(**fields | {"command_sequence": 0x4C})
    assert wire.frame(wire.encode_packet(m.Packet(2, 0, echo))).hex() == expected("V14")["echo_frame"]


def test_v20_sequence_numbers_wrap():
    """Section 5.1: 255 is followed by 0."""
    frames = [
        wire.frame(wire.encode_packet(m.Packet(sender, 7, m.Poll()))) for sender in given_("V20")["snd"]
    ]
    assert [each.hex() for each in frames] == expected("V20")["frames"]


def test_v21_compact_integers():
    """Section 6: the fewest bytes, but at least one."""
    values = given_("V21")["values"]
    assert [scalars.write_compact(each).hex() for each in values] == expected("V21")["bytes"]
    assert [scalars.read_compact(raw(each), 0)[0] for each in expected("V21")["bytes"]] == values


def test_v22_compact_integers_need_not_be_the_shortest():
    """Section 6: real panels send 02 00 00 for user 0."""
    assert [scalars.read_compact(raw(each), 0)[0] for each in given_("V22")["bytes"]] == expected("V22")[
        "values"
    ]


def test_v23_digits():
    """Section 6: BCD, filled with a 0, A to F allowed."""
    assert [scalars.write_digits(each).hex() for each in given_("V23")["digits"]] == expected("V23")["bytes"]
    assert scalars.read_digits(raw("aaaa")) == "AAAA"


def test_v24_times():
    """Section 6: the year counts from 2000."""
    assert scalars.write_time(TIME).hex() == expected("V24")["bytes"]
    assert scalars.read_time(raw(expected("V24")["bytes"]), 0) == (TIME, 4)
    assert scalars.read_time(raw("9b64b248"), 0)[0] == TIME._replace(year=2025)


def test_v25_a_label_to_write():
    """Section 9.6: 14 characters behind their length."""
    label = scalars.write_counted(scalars.write_label(given_("V25")["text"], 28))
    assert label.hex() == expected("V25")["bytes"]
    written = wire.encode_message(m.WriteLabels(first=3, labels=(given_("V25")["text"],)))
    assert written.hex() == "0750" + "00" + "0103" + "0101" + "03" + label.hex()


def test_v55_several_messages_in_one_packet():
    """Section 9.1: a long one has a length of two bytes."""
    subs = tuple(wire.decode_message(raw(each)) for each in given_("V55")["subs"])
    assert [type(each) for each in subs] == [m.ReadyStatus, m.ZoneLifestyle, m.CommandResponse, m.Labels]
    body = wire.encode_message(m.MultipleMessages(messages=subs))[2:]
    assert body.hex() == expected("V55")["body"]
    assert expected("V55")["long_sub_prefix"] in body.hex()
    framed = wire.frame(bytes((9, 6)) + m.Word.MULTIPLE_MESSAGES.to_bytes(2, "big") + body)
    assert (len(framed), framed[-2:].hex()) == (expected("V55")["frame_len"], expected("V55")["frame_crc"])
    assert wire.decode_packet(wire.unframe(framed)).message == m.MultipleMessages(messages=subs)


def test_v56_a_list_that_a_real_panel_sent():
    """Section 9.2: it wraps what arises together."""
    message = wire.decode_message(m.Word.MULTIPLE_MESSAGES.to_bytes(2, "big") + raw(given_("V56")["body"]))
    assert isinstance(message, m.MultipleMessages)
    assert [wire.encode_message(each).hex() for each in message.messages] == expected("V56")["subs"]


def test_v57_type_2_keys():
    """Section 8.1."""
    for direction, whose in (("server_to_panel_key", "panel"), ("panel_to_server_key", "server")):
        key = type2_key(given_("V57")["access_code"], raw(given_("V57")[f"{whose}_initializer"]))
        assert key.hex() == expected("V57")[direction]


@pytest.mark.parametrize(
    ("name", "wrap", "random", "key"),
    [
        ("V58", "integration_id", "panel_random32", "server_to_panel_key"),
        ("V59", "access_code", "server_random32", "panel_to_server_key"),
    ],
)
def test_type_1_keys(name, wrap, random, key):
    """Section 8.2: the panel wraps with its ID, the server with the access code."""
    text = given_(name)[wrap]
    assert type1_wrap_key(text).hex() == expected(name)["wrap_key"]
    initializer, made = type1_make(raw(given_(name)[random]), text)
    assert initializer.hex() == expected(name)["initializer48"]
    assert made.hex() == expected(name)[key]
    assert type1_open(initializer, text) == made


def test_v60_wrong_check_bytes_and_a_wrong_id_are_rejected():
    """Section 8.2: a wrong ID shows here."""
    good = raw(expected("V58")["initializer48"])
    for initializer, wrap in ((raw(given_("V60")["initializer48"]), "123456789012"), (good, "923456789012")):
        with pytest.raises(WireError, match="wrong check bytes"):
            type1_open(initializer, wrap)


def test_v61_towards_a_panel_zeros_fill_the_block():
    """Section 8.3."""
    cipher = FrameCipher(raw(given_("V61")["key"]))
    encrypted = cipher.encrypt(raw(given_("V61")["frame"]))
    assert encrypted.hex() == expected("V61")["ciphertext"]
    assert wire.encode_tlink(ID, encrypted).hex() == expected("V61")["wire"]
    assert cipher.decrypt(encrypted) == raw(given_("V61")["frame"]) + bytes(9)


def test_v62_a_panels_own_padding_is_ignored():
    """Section 8.3: filler, and the last byte says how many."""
    (packet,), _, _ = wire.TLinkFraming().split(raw(expected("V62")["wire"]))
    assert packet.payload.hex() == expected("V62")["ciphertext"]
    plain = FrameCipher(raw(given_("V62")["key"])).decrypt(packet.payload)
    assert plain.hex() == expected("V62")["padded"]
    assert wire.frame(wire.unframe(plain)).hex() == given_("V62")["frame"]


def test_v63_a_frame_of_one_block():
    """Section 8.3: zero padding adds nothing, the panel's a whole block."""
    cipher = FrameCipher(raw(given_("V63")["key"]))
    frame = raw(given_("V63")["frame"])
    assert cipher.encrypt(frame).hex() == expected("V63")["zero_padded_ct"]
    padded = cipher.encrypt(raw(expected("V63")["iso_padded_plain"]))
    assert len(padded) == expected("V63")["iso_ct_len"]
    assert wire.frame(wire.unframe(cipher.decrypt(padded))) == frame


@pytest.mark.parametrize("name", ["V64", "V65"])
def test_a_whole_handshake_is_read_and_written_byte_for_byte(name):
    """Section 7: every step of both sides, with the keys that the steps before have agreed on."""
    given, steps = given_(name), expected(name)["steps"]
    is_type_1 = name == "V65"
    server_random = raw(given["server_random"])
    ciphers: dict[str, FrameCipher] = {}
    for step in steps:
        (packet,), _, _ = wire.TLinkFraming().split(raw(step["wire"]))
        assert packet.header.decode() == given["integration_id"]
        cipher = ciphers.get(step["from"]) if step["encrypted"] else None
        assert (cipher is not None) == step["encrypted"]
        plain = packet.payload if cipher is None else cipher.decrypt(packet.payload)
        decoded = wire.decode_packet(wire.unframe(plain))
        assert not decoded.message.tail
        framed = wire.frame(wire.encode_packet(decoded))
        assert framed.hex() == step["frame"]
        if step["from"] == "server" or cipher is None:
            payload = framed if cipher is None else cipher.encrypt(framed)
            assert wire.encode_tlink(packet.header, payload).hex() == step["wire"]
        if isinstance(decoded.message, m.RequestAccess):
            initializer = decoded.message.initializer
            is_panel = step["from"] == "panel"
            receiver = "server" if is_panel else "panel"
            if not is_type_1:
                key = type2_key(given["type2_access_code"], initializer)
            elif is_panel:
                key = type1_open(initializer, given["integration_id"])
            else:
                made, key = type1_make(server_random, given["type1_access_code"])
                assert made == initializer
            ciphers[receiver] = FrameCipher(key)
    assert [
        type(wire.decode_packet(wire.unframe(raw(step["frame"]))).message).__name__ for step in steps
    ] == [
        step["what"]
        .split(" ")[0]
        .replace("PartitionReadyStatus", "ReadyStatus")
        .replace("ConnectionPoll", "Poll")
        for step in steps
    ]
