"""The laws of the codec, and the rules of RFC 8907 that bytes alone can break."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.tacacs import messages
from sojourn.gateways.tacacs.messages import (
    MASK,
    AcctReply,
    AcctRequest,
    AuthenContinue,
    AuthenReply,
    AuthenStart,
    AuthorReply,
    AuthorRequest,
    Flag,
    Message,
)
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_acct_request,
    decode_authen_start,
    decode_author_request,
    decode_body,
    describe,
    encode_body,
    encode_packet,
    obfuscate,
    packets_from_hex,
)
from sojourn.gateways.tacacs.wire import packets as packets_module
from sojourn.sansio.names import flag_names, name_of

KEY = b"testing123testing123"
VECTORS = json.loads(Path(__file__).with_name("tacacs_vectors.json").read_text())["vectors"]
STREAM = b"".join(bytes.fromhex(vector["packet"]) for vector in VECTORS)

octet = st.integers(0, 255)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
typed = st.text(st.characters(codec="utf-8"), max_size=60)
pair = st.builds(
    lambda name, mark, value: name + mark + value, printable, st.sampled_from("=*"), typed
).filter(lambda arg: 2 <= len(arg.encode()) <= 255)
pairs = st.lists(pair, max_size=12).map(tuple)
who = {"user": typed, "port": printable, "rem_addr": printable}

MESSAGES_BY_PLACE: dict[tuple[int, int], st.SearchStrategy[Message]] = {
    (1, 1): st.builds(
        AuthenStart,
        action=octet,
        priv_lvl=octet,
        authen_type=octet,
        service=octet,
        data=st.binary(max_size=255),
        **who,
    ),
    (1, 2): st.builds(AuthenReply, status=octet, flags=octet, server_msg=typed, data=st.binary(max_size=400)),
    (1, 3): st.builds(
        AuthenContinue, user_msg=st.binary(max_size=400), data=st.binary(max_size=400), flags=octet
    ),
    (2, 1): st.builds(
        AuthorRequest,
        authen_method=octet,
        priv_lvl=octet,
        authen_type=octet,
        service=octet,
        args=pairs,
        **who,
    ),
    (2, 2): st.builds(AuthorReply, status=octet, args=pairs, server_msg=typed, data=typed),
    (3, 1): st.builds(
        AcctRequest,
        flags=octet,
        authen_method=octet,
        priv_lvl=octet,
        authen_type=octet,
        service=octet,
        args=pairs,
        **who,
    ),
    (3, 2): st.builds(AcctReply, status=octet, server_msg=typed, data=typed),
}
placed_message = st.one_of([st.tuples(st.just(place), built) for place, built in MESSAGES_BY_PLACE.items()])


def read_in_pieces(pieces: list[bytes], framing: TacacsFraming) -> list[Packet]:
    """Feed pieces as a connection does: keep what is no whole packet yet, ask again when enough is there."""
    packets: list[Packet] = []
    buffer, wanted_bytes = b"", 12
    for piece in pieces:
        buffer += piece
        while len(buffer) >= wanted_bytes:
            whole, consumed, wanted_bytes = framing.split(buffer)
            packets += whole
            buffer = buffer[consumed:]
            if not whole:
                assert len(buffer) < wanted_bytes
    assert len(buffer) < wanted_bytes
    return packets


def header(version: int = 0xC0, packet_type: int = 1, length: int = 0) -> bytes:
    """Write a header with a length of its own."""
    return bytes((version, packet_type, 1, 0)) + bytes(4) + length.to_bytes(4, "big")


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cutting_of_the_bytes_gives_the_same_packets(cuts):
    """A stream has no packet borders: what counts is the header's length."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    framing = TacacsFraming()
    assert read_in_pieces(pieces, framing) == framing.split(STREAM)[0]


def test_one_byte_at_a_time_gives_the_same_packets():
    """As above, for the slowest of peers."""
    framing = TacacsFraming()
    packets = read_in_pieces([STREAM[at : at + 1] for at in range(len(STREAM))], framing)
    assert len(packets) == 31
    assert packets == framing.split(STREAM)[0]


def test_an_incomplete_packet_says_how_many_bytes_it_needs():
    """RFC 8907 section 4.1: 12 bytes tell the rest."""
    framing = TacacsFraming()
    whole = encode_packet(0xC0, 1, 1, 0, 7, b"12345", KEY)
    assert framing.split(b"") == ([], 0, 12)
    assert framing.split(whole[:11]) == ([], 0, 12)
    assert framing.split(whole[:12]) == ([], 0, 17)
    assert framing.split(whole + whole[:13])[1:] == (17, 17)


def test_an_oversize_packet_is_refused_from_its_header_alone():
    """RFC 8907 section 4.1: the length is limited before the body is waited for."""
    framing = TacacsFraming(max_length_bytes=100)
    assert framing.split(header(length=100)) == ([], 0, 112)
    with pytest.raises(WireError, match="found a body of 101 bytes, wanted at most 100 bytes"):
        framing.split(header(length=101))
    with pytest.raises(WireError, match="found a body of 4294967295 bytes"):
        framing.split(header(length=0xFFFFFFFF))


@pytest.mark.parametrize(
    "first_bytes", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00"]
)
def test_another_protocol_is_refused_from_its_first_bytes(first_bytes):
    """RFC 8907 section 4.1: the major version is 0xc."""
    with pytest.raises(WireError, match="wanted major version 0xc"):
        TacacsFraming().split(first_bytes)


def test_good_packets_before_a_bad_one_are_given_first():
    """What was right is answered; the error comes with the next call."""
    framing = TacacsFraming()
    good = encode_packet(0xC0, 1, 1, 0, 7, b"12345", KEY)
    bad = header(version=0xD0)
    packets, consumed, wanted_bytes = framing.split(good + good + bad)
    assert (len(packets), consumed, wanted_bytes) == (2, 2 * len(good), 12)
    with pytest.raises(WireError):
        framing.split(bad)


@given(st.binary(max_size=600), st.binary(max_size=80), st.integers(0, 0xFFFFFFFF), octet, octet)
def test_obfuscating_twice_gives_the_body_back(body, key, session_id, version, seq_no):
    """RFC 8907 section 4.5: the operation is its own inverse."""
    hidden = obfuscate(body, key, session_id, version, seq_no)
    assert len(hidden) == len(body)
    assert obfuscate(hidden, key, session_id, version, seq_no) == body


@pytest.mark.parametrize("size", [15, 16, 17, 31, 32, 33, 255, 256, 257, 272, 273, 65_536])
def test_the_pad_does_not_depend_on_the_length_of_the_body(size):
    """RFC 8907 section 4.5: the pad is one stream of blocks, cut to the body."""
    long = obfuscate(bytes(65_552), KEY, 1, 0xC0, 1)
    assert obfuscate(bytes(size), KEY, 1, 0xC0, 1) == long[:size]


def test_an_interpreter_without_the_built_in_md5_obfuscates_all_the_same(monkeypatch):
    """RFC 8907 section 4.5: hashlib's MD5 takes its place, marked as no security use for FIPS builds."""
    monkeypatch.setitem(sys.modules, "_md5", None)
    spec = importlib.util.spec_from_file_location("packets_without_md5", packets_module.__file__)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    assert other._md5 is not packets_module._md5
    assert other.obfuscate(bytes(48), KEY, 7, 0xC0, 1) == obfuscate(bytes(48), KEY, 7, 0xC0, 1)


@given(placed_message)
def test_what_our_encoder_writes_our_decoder_reads(placed):
    """Every message, every field, in both directions."""
    (packet_type, seq_no), message = placed
    assert decode_body(packet_type, seq_no, encode_body(message)) == message


@given(st.integers(0, 4), octet, st.binary(max_size=300), st.booleans(), st.booleans())
def test_random_bytes_give_a_message_or_a_wire_error(packet_type, seq_no, body, bare_args, empty_args):
    """Nothing that a peer sends gets further than that."""
    try:
        message = decode_body(packet_type, seq_no, body, bare_args=bare_args, empty_args=empty_args)
    except WireError:
        return
    assert isinstance(message, Message)
    assert repr(message)


@given(st.binary(max_size=200))
def test_random_bytes_give_packets_or_a_wire_error(data):
    """The same for the framing."""
    try:
        packets, consumed, wanted_bytes = TacacsFraming().split(data)
    except WireError:
        return
    assert consumed == sum(12 + len(packet.body) for packet in packets)
    assert wanted_bytes >= 12


@given(st.sampled_from(VECTORS), st.data())
def test_a_valid_packet_with_one_damaged_byte_gives_a_message_or_a_wire_error(vector, data):
    """Damage at any place, before and after obfuscation."""
    wire = bytearray.fromhex(vector["packet"])
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    key = vector["key"].encode()
    try:
        for packet in TacacsFraming().split(bytes(wire))[0]:
            assert describe(packet, key)
            body = obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)
            decode_body(packet.type, packet.seq_no, body)
    except WireError:
        return


@given(placed_message, st.data())
def test_a_valid_body_with_one_damaged_byte_gives_a_message_or_a_wire_error(placed, data):
    """The damage that a shared connection can carry right up to the codec."""
    (packet_type, seq_no), message = placed
    body = bytearray(encode_body(message))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_body(packet_type, seq_no, bytes(body))
    except WireError:
        return


@given(placed_message, st.binary(min_size=1, max_size=3))
def test_bytes_behind_the_last_field_are_refused(placed, junk):
    """RFC 8907 section 4.1: the lengths add up to the body, not to less."""
    (packet_type, seq_no), message = placed
    with pytest.raises(WireError):
        decode_body(packet_type, seq_no, encode_body(message) + junk)


@given(placed_message, st.data())
def test_a_body_that_is_cut_short_is_refused(placed, data):
    """RFC 8907 section 4.1: the lengths add up to the body, not to more."""
    (packet_type, seq_no), message = placed
    body = encode_body(message)
    with pytest.raises(WireError):
        decode_body(packet_type, seq_no, body[: data.draw(st.integers(0, len(body) - 1))])


def author_request(*args: bytes) -> bytes:
    """Write an authorization request with arguments that our encoder would refuse."""
    return bytes((6, 15, 1, 1, 0, 0, 0, len(args), *map(len, args))) + b"".join(args)


@pytest.mark.parametrize("arg", [b"shell", b"=", b"x"])
def test_an_argument_that_is_no_pair_is_refused_unless_the_device_has_the_quirk(arg):
    """RFC 8907 section 6.1: name, separator, value; 2 to 255 bytes."""
    with pytest.raises(WireError, match=rf"found argument 2 of {len(arg)} bytes that is no pair"):
        decode_author_request(author_request(b"service=shell", arg))
    request = decode_author_request(author_request(b"service=shell", arg), bare_args=True)
    assert request.args == ("service=shell", arg.decode())


def test_an_argument_of_length_zero_is_refused_or_left_out_by_quirk():
    """RFC 8907 section 6.1: 2 to 255 bytes."""
    body = author_request(b"service=shell", b"", b"cmd=")
    for bare_args in (False, True):
        with pytest.raises(WireError, match="found argument 2 of 0 bytes"):
            decode_author_request(body, bare_args=bare_args)
    assert decode_author_request(body, empty_args=True).args == ("service=shell", "cmd=")


def test_the_same_quirks_hold_for_accounting():
    """RFC 8907 section 7.1: the arguments are those of authorization."""
    body = bytes((2,)) + author_request(b"shell", b"")
    with pytest.raises(WireError):
        decode_acct_request(body)
    assert decode_acct_request(body, bare_args=True, empty_args=True).args == ("shell",)


def test_arguments_keep_their_order_their_duplicates_and_both_separators():
    """RFC 8907 section 6.1: the first separator counts, the value may hold either."""
    args = ("cmd-arg=b", "cmd-arg=a", "cmd-arg=a", "addr*1=2*3", "x=*")
    request = AuthorRequest(6, 15, 1, 1, args=args)
    assert decode_author_request(encode_body(request)).args == args


@pytest.mark.parametrize("user", ["Zoë", "ana\x03", "a b"])
def test_a_user_may_hold_what_people_type(user):
    """RFC 8907 section 3.7: names are not limited to ASCII, and no typing looks like a wrong key."""
    assert decode_authen_start(encode_body(AuthenStart(1, 0, 1, 1, user))).user == user


def test_a_user_that_is_not_utf_8_is_read_byte_by_byte():
    """RFC 8907 section 3.7: octets that are no UTF-8 are still a name, just one that nobody has."""
    body = bytes((1, 0, 1, 1, 2, 0, 0, 0)) + b"o\xeb"
    assert decode_authen_start(body).user == "oë"


@pytest.mark.parametrize("field", [b"tty\0", b"tty\n0", b"tt\xff0", b"tt\xc3\xab"])
def test_port_and_rem_addr_are_printable_ascii(field):
    """RFC 8907 section 3.7: these come from the device itself."""
    for lengths in ((len(field), 0), (0, len(field))):
        body = bytes((1, 0, 1, 1, 0, *lengths, 0)) + field
        with pytest.raises(WireError, match="wanted printable US-ASCII"):
            decode_authen_start(body)
        with pytest.raises(WireError, match="wanted printable US-ASCII"):
            decode_author_request(body)
        with pytest.raises(WireError, match="wanted printable US-ASCII"):
            decode_acct_request(b"\x02" + body)


def test_an_undefined_number_is_a_value_and_not_a_wire_error():
    """RFC 8907 section 3.6: the answer to it is the session's, not the codec's."""
    assert decode_authen_start(encode_body(AuthenStart(99, 200, 77, 66))).action == 99


@pytest.mark.parametrize(
    "message",
    [
        AuthenStart(1, 0, 1, 1, "u" * 256),
        AuthenStart(256, 0, 1, 1),
        AuthenStart(1, 0, 2, 1, data=b"s3cret" * 50),
        AuthenReply(1, 0, "m" * 65_536),
        AuthenContinue(b"s3cret", flags=-1),
        AuthorRequest(6, 15, 1, 1, args=("x",)),
        AuthorReply(1, ("a=" + "b" * 254,)),
        AcctRequest(2, 6, 15, 1, 1, args=("a=b",) * 256),
        AcctReply(1, "\udcff"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_that_does_not_fit_is_our_own_error_and_shows_no_value(message):
    """A value that cannot be written is a bug on our side, and its text may be a secret."""
    with pytest.raises(LocalProtocolError, match="does not fit") as caught:
        encode_body(message)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_packet_is_written_without_a_key_unless_the_flag_is_set():
    """RFC 8907 section 4.5: a readable body must say that it is one."""
    with pytest.raises(LocalProtocolError):
        encode_packet(0xC0, 1, 1, 0, 7, b"body")
    with pytest.raises(LocalProtocolError):
        encode_packet(0xC0, 1, 256, 0, 7, b"body", KEY)
    assert encode_packet(0xC0, 1, 1, Flag.UNENCRYPTED, 7, b"body").endswith(b"body")


@pytest.mark.parametrize(
    "message",
    [
        AuthenStart(1, 0, 2, 1, "ana", "tty0", "192.0.2.1", b"s3cret"),
        AuthenContinue(b"s3cret", b"s3cret"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_text_form_of_a_message_never_shows_a_secret(message):
    """What the user typed and what proves the password stay out of logs, records and traces."""
    assert "s3cret" not in repr(message)
    assert "s3cret" not in str(message)
    assert "s3cret" not in f"{message}"
    assert MASK in repr(message)
    packet = Packet(0xC1, 1, 1, Flag.UNENCRYPTED, 7, encode_body(message))
    assert "s3cret" not in repr(packet)


def test_what_is_not_secret_is_shown():
    """The text form is for people who look for a fault."""
    shown = repr(AuthorRequest(6, 15, 1, 1, "ana", "tty0", "192.0.2.1", ("service=shell",)))
    assert shown == (
        "AuthorRequest(authen_method=6, priv_lvl=15, authen_type=1, service=1, user='ana', port='tty0',"
        " rem_addr='192.0.2.1', args=('service=shell',))"
    )


def test_numbers_have_names():
    """The specification's words, for whoever reads a trace."""
    assert name_of(messages.AuthenStatus, 5) == "GETPASS"
    assert name_of(messages.AuthorStatus, 99) == "undefined (99)"
    assert flag_names(messages.Flag, 5) == "UNENCRYPTED|SINGLE_CONNECT"
    assert flag_names(messages.Flag, 0) == "none"


def test_a_packet_is_described_in_words_with_its_secrets_masked():
    """``sojourn decode tacacs``: the header, and every field of the body by name."""
    vector = next(vector for vector in VECTORS if vector["name"] == "authen-start-pap")
    (packet,) = packets_from_hex(vector["packet"])
    lines = [" ".join(line.split()) for line in describe(packet, KEY)]
    assert lines == [
        "version 0xc.1",
        "type 1 AUTHEN",
        "seq_no 1 (client)",
        "flags 0x04 SINGLE_CONNECT",
        "session_id 0x11223344",
        "length 29 (packet of 41 bytes)",
        "message AuthenStart",
        "action 1 LOGIN",
        "priv_lvl 0",
        "authen_type 2 PAP",
        "service 1 LOGIN",
        "user 'demo'",
        "port 'tty0'",
        "rem_addr '127.0.0.1'",
        "data ***",
    ]


def test_a_description_says_why_a_body_cannot_be_read():
    """No key, the wrong key, or nothing there."""
    (packet,) = packets_from_hex(next(v for v in VECTORS if v["name"] == "acct-start")["packet"])
    assert "a key is needed" in describe(packet)[-1]
    assert "is the key right?" in describe(packet, b"another")[-1]
    assert describe(Packet(0xC0, 9, 2, 0, 7, b""))[-1].endswith("none")


def test_hex_is_read_with_any_spacing_and_refused_when_it_is_no_packet():
    """What people paste: colons, spaces, line ends, several packets."""
    text = VECTORS[0]["packet"]
    spaced = ":".join(text[at : at + 2] for at in range(0, len(text), 2))
    assert len(packets_from_hex(f"{spaced}\n {text}")) == 2
    with pytest.raises(WireError, match="hexadecimal"):
        packets_from_hex("c0 zz")
    with pytest.raises(WireError, match="found 11 bytes at the end, wanted 12 bytes"):
        packets_from_hex(text + text[:-2])
