"""The 31 vectors, as far as bytes alone can show them; what a server does with them is tested live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import WireError
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.messages import (
    AcctFlag,
    AcctReply,
    AcctRequest,
    AcctStatus,
    AuthenContinue,
    AuthenMethod,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthorReply,
    AuthorRequest,
    AuthorStatus,
    ContinueFlag,
    Flag,
    ReplyFlag,
)
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

VECTORS: dict[str, dict[str, Any]] = {
    vector["name"]: vector
    for vector in json.loads(Path(__file__).with_name("tacacs_vectors.json").read_text())["vectors"]
}
RIGHT_KEY = b"testing123testing123"
WHO = ("demo", "tty0", "127.0.0.1")

MESSAGES = {
    "authen-start-pap": AuthenStart(1, 0, 2, 1, *WHO, b"demo"),
    "tls-authen-start-pap": AuthenStart(1, 0, 2, 1, *WHO, b"demo"),
    "wrong-key-start": AuthenStart(1, 0, 2, 1, *WHO, b"demo"),
    "authen-reply-pass": AuthenReply(AuthenStatus.PASS),
    "authen-start-chap": AuthenStart(
        1, 0, 3, 1, *WHO, mschap.chap_data(0x41, bytes(range(0x10, 0x20)), b"demo")
    ),
    "authen-start-mschapv1": AuthenStart(1, 0, 5, 1, *WHO, mschap.mschap_v1_data(0x41, b"01234567", b"demo")),
    "authen-start-mschapv2": AuthenStart(
        1,
        0,
        6,
        1,
        *WHO,
        mschap.mschap_v2_data(
            0x41, bytes(range(0x60, 0x70)), bytes(range(0x50, 0x60)), user="demo", secret=b"demo"
        ),
    ),
    "authen-start-ascii-nouser": AuthenStart(1, 0, 1, 1, "", "tty0", "127.0.0.1"),
    "authen-reply-getuser": AuthenReply(AuthenStatus.GETUSER, 0, "Username: "),
    "authen-cont-user": AuthenContinue(b"demo"),
    "authen-reply-getpass": AuthenReply(AuthenStatus.GETPASS, ReplyFlag.NOECHO, "Password: "),
    "authen-cont-pass": AuthenContinue(b"demo"),
    "authen-reply-fail": AuthenReply(AuthenStatus.FAIL, 0, "Password incorrect.\n"),
    "authen-start-ascii-abort": AuthenStart(1, 0, 1, 1, *WHO),
    "authen-cont-abort": AuthenContinue(b"", b"user hung up", ContinueFlag.ABORT),
    "author-shell-session": AuthorRequest(AuthenMethod.TACACSPLUS, 15, 1, 1, *WHO, ("service=shell", "cmd=")),
    "author-reply-pass-add": AuthorReply(AuthorStatus.PASS_ADD, ("priv-lvl=15",)),
    "author-cmd-show": AuthorRequest(
        6, 15, 1, 1, *WHO, ("service=shell", "cmd=show", "cmd-arg=version", "cmd-arg=<cr>")
    ),
    "author-cmd-reload": AuthorRequest(6, 15, 1, 1, *WHO, ("service=shell", "cmd=reload", "cmd-arg=<cr>")),
    "author-reply-fail": AuthorReply(AuthorStatus.FAIL, (), "denied"),
    "acct-start": AcctRequest(
        AcctFlag.START,
        6,
        15,
        1,
        1,
        *WHO,
        ("task_id=1", "start_time=1700000000", "service=shell", "cmd=show version <cr>"),
    ),
    "acct-stop": AcctRequest(
        AcctFlag.STOP,
        6,
        15,
        1,
        1,
        *WHO,
        ("task_id=1", "stop_time=1700000060", "elapsed_time=60", "service=shell"),
    ),
    "acct-watchdog-update": AcctRequest(
        AcctFlag.WATCHDOG_UPDATE, 6, 15, 1, 1, *WHO, ("task_id=1", "service=shell", "bytes=10")
    ),
    "acct-invalid-start-stop": AcctRequest(0x06, 6, 15, 1, 1, *WHO, ("task_id=1", "service=shell")),
    "acct-reply-success": AcctReply(AcctStatus.SUCCESS),
}


def cut(name: str) -> Packet:
    """Return the vector's packet, cut by our framing, which must leave nothing over."""
    data = bytes.fromhex(VECTORS[name]["packet"])
    packets, consumed, wanted_bytes = TacacsFraming().split(data)
    assert (len(packets), consumed, wanted_bytes) == (1, len(data), 12)
    return packets[0]


def readable(packet: Packet, key: bytes) -> bytes:
    """Return the packet's body as the receiver reads it."""
    if packet.flags & Flag.UNENCRYPTED:
        return packet.body
    return obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)


def test_there_are_31_vectors():
    """Nothing was lost on the way here."""
    assert len(VECTORS) == 31
    assert set(MESSAGES) | {name for name in VECTORS if name.startswith("obf-")} | {
        "unknown-type-error"
    } == set(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_a_packet_is_cut_read_and_written_again_byte_by_byte(name):
    """RFC 8907 sections 4.1 and 4.5: header fields, pad and packet, in both directions."""
    vector = VECTORS[name]
    packet = cut(name)
    header = {"version": packet.version, "type": packet.type, "seq_no": packet.seq_no}
    header |= {"flags": packet.flags, "session_id": packet.session_id, "body_len": len(packet.body)}
    assert header == {field: vector[field] for field in header}

    plain = bytes.fromhex(vector["body_plain"])
    key = vector["key"].encode()
    assert readable(packet, key) == plain
    if vector["pad"]:
        pad = obfuscate(bytes(len(plain)), key, packet.session_id, packet.version, packet.seq_no)
        assert pad.hex() == vector["pad"]
    written = encode_packet(
        packet.version, packet.type, packet.seq_no, packet.flags, packet.session_id, plain, key
    )
    assert written.hex() == vector["packet"]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_body_is_read_as_its_message_and_written_again(name):
    """RFC 8907 sections 5 to 7: every field of every message, in both directions."""
    vector = VECTORS[name]
    plain = bytes.fromhex(vector["body_plain"])
    assert decode_body(vector["type"], vector["seq_no"], plain) == MESSAGES[name]
    assert encode_body(MESSAGES[name]) == plain


def test_the_chap_vector_is_verified():
    """RFC 8907 section 5.4.2.3."""
    data = MESSAGES["authen-start-chap"].data
    assert mschap.verify_chap(data, b"demo")
    assert not mschap.verify_chap(data, b"Demo")


def test_the_mschap_v1_vector_is_verified():
    """RFC 8907 section 5.4.2.4."""
    data = MESSAGES["authen-start-mschapv1"].data
    assert mschap.verify_mschap_v1(data, b"demo")
    assert not mschap.verify_mschap_v1(data, b"Demo")


def test_the_mschap_v2_vector_is_verified():
    """RFC 8907 section 5.4.2.5."""
    data = MESSAGES["authen-start-mschapv2"].data
    assert mschap.verify_mschap_v2(data, "demo", b"demo")
    assert not mschap.verify_mschap_v2(data, "demo", b"Demo")


def test_a_wrong_key_shows_in_the_lengths():
    """RFC 8907 section 4.5: the sum of the lengths does not make up the body."""
    packet = cut("wrong-key-start")
    with pytest.raises(WireError, match=r"found a body of 29 bytes, wanted \d+ bytes by its length fields"):
        decode_body(packet.type, packet.seq_no, readable(packet, RIGHT_KEY))


def test_an_unknown_type_is_a_wire_error_and_its_answer_a_bare_header():
    """RFC 8907 section 3.6: the same header in the clear, seq_no plus one, length zero."""
    packet = cut("unknown-type-error")
    assert packet.body == b""
    with pytest.raises(WireError, match="found packet type 9, wanted type 1, 2 or 3"):
        decode_body(packet.type, packet.seq_no - 1, b"anything")
    answer = encode_packet(packet.version, packet.type, packet.seq_no, 0, packet.session_id, b"", None)
    assert answer.hex() == VECTORS["unknown-type-error"]["packet"]


def test_an_abort_is_read_with_its_reason():
    """RFC 8907 section 5.4.3: the flag ends the session, data says why."""
    message = MESSAGES["authen-cont-abort"]
    assert message.flags & ContinueFlag.ABORT
    assert message.data == b"user hung up"


def test_over_tls_the_body_is_in_the_clear():
    """RFC 9887 section 4: UNENCRYPTED is set, and no key is needed to write or to read."""
    packet = cut("tls-authen-start-pap")
    assert packet.flags == Flag.UNENCRYPTED | Flag.SINGLE_CONNECT
    written = encode_packet(
        packet.version, packet.type, packet.seq_no, packet.flags, packet.session_id, packet.body
    )
    assert written.hex() == VECTORS["tls-authen-start-pap"]["packet"]
