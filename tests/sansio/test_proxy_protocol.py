"""The PROXY protocol, versions 1 and 2: byte-exact, bounded, and nothing but WireError for anything else."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.errors import LocalProtocolError, WireError
from sojourn.sansio.proxy_protocol import (
    TLV_CRC32C,
    V1_MAX_BYTES,
    V2_MAX_BYTES,
    V2_SIGNATURE,
    Address,
    ProxyHeader,
    ProxyHeaderParser,
    crc32c_of,
    encode_v1,
    encode_v2,
)

ports = st.integers(0, 65535)
v4 = st.builds(Address, st.ip_addresses(v=4).map(str), ports)
v6 = st.builds(Address, st.ip_addresses(v=6).map(str), ports)
paths = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=108).map(
    lambda path: Address("unix:" + path)
)
pairs = st.one_of(st.tuples(v4, v4), st.tuples(v6, v6), st.tuples(paths, paths), st.just((None, None)))
tlv_lists = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda tlv: tlv != TLV_CRC32C), st.binary(max_size=30)), max_size=5
)
headers = st.one_of(
    st.one_of(st.tuples(v4, v4), st.tuples(v6, v6), st.just((None, None))).map(lambda pair: encode_v1(*pair)),
    st.builds(
        lambda pair, tlvs, crc32c: encode_v2(*pair, tlvs, crc32c=crc32c), pairs, tlv_lists, st.booleans()
    ),
)


def parse(stream, cut=lambda wanted: wanted, parser=None):
    """Feed the stream as a listener would; return the header and how many bytes were taken."""
    parser = parser or ProxyHeaderParser()
    taken = 0
    while (wanted := parser.wanted()) and taken < len(stream):
        part = stream[taken : taken + min(wanted, max(1, cut(wanted)))]
        taken += len(part)
        header = parser.feed(part)
        if header is not None:
            assert parser.wanted() == 0
            return header, taken
    return None, taken


@given(headers, st.binary(max_size=50), st.data())
def test_any_cutting_gives_the_same_header_and_leaves_what_follows(encoded, following, data):
    """Never a byte beyond the header: what follows belongs to TLS or to the gateway."""
    whole = parse(encoded + following)
    pieces = parse(encoded + following, lambda wanted: data.draw(st.integers(1, wanted)))
    assert whole == pieces
    assert whole[1] == len(encoded)


@given(pairs, tlv_lists, st.booleans())
def test_what_the_second_version_encodes_it_decodes(pair, tlvs, crc32c):
    """Addresses of every family, TLVs in order, the checksum last."""
    header, _ = parse(encode_v2(*pair, tlvs, crc32c=crc32c))
    assert (header.version, header.source, header.destination) == (2, *pair)
    if pair[0] is not None:
        assert list(header.tlvs[: len(tlvs)]) == tlvs
        assert len(header.tlvs) == len(tlvs) + crc32c


@given(st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)))
def test_what_the_first_version_encodes_it_decodes(pair):
    """Addresses and ports of TCP4 and TCP6, never longer than the longest line."""
    encoded = encode_v1(*pair)
    header, _ = parse(encoded)
    assert (header.version, header.source, header.destination) == (1, *pair)
    assert len(encoded) <= V1_MAX_BYTES


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(lambda rest: V2_SIGNATURE + rest),
        st.binary(max_size=200).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=200).map(lambda rest: b"PROXY TCP4 " + rest),
    ),
    st.integers(1, 20),
)
def test_random_bytes_give_a_header_nothing_or_a_wire_error(stream, step):
    """And it never asks for more than the maximum."""
    parser = ProxyHeaderParser()
    fed = 0
    try:
        while parser.wanted() and fed < len(stream):
            assert fed + parser.wanted() <= V2_MAX_BYTES
            part = stream[fed : fed + min(step, parser.wanted())]
            fed += len(part)
            header = parser.feed(part)
            assert header is None or isinstance(header, ProxyHeader)
    except WireError as error:
        refusal = error
    else:
        return
    assert refusal.found
    assert refusal.wanted
    assert refusal.source.startswith("PROXY protocol section 2")
    assert parser.wanted() == 0


@given(headers, st.data())
def test_one_damaged_byte_gives_a_header_nothing_or_a_wire_error(encoded, data):
    """The law of every codec."""
    damaged = bytearray(encoded)
    damaged[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        parse(bytes(damaged) + bytes(200))


@given(st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)), tlv_lists, st.data())
def test_a_checksum_finds_every_damaged_byte_behind_the_preamble(pair, tlvs, data):
    """Section 2.2.3: a header whose CRC32c is present and wrong is refused."""
    encoded = bytearray(encode_v2(*pair, tlvs, crc32c=True))
    encoded[data.draw(st.integers(16, 16 + 11))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError, match="checksum"):
        parse(bytes(encoded))


def test_the_checksum_is_castagnoli():
    """The check value of CRC-32C, and the test pattern of RFC 3720 appendix B.4."""
    assert crc32c_of(b"123456789") == 0xE3069283
    assert crc32c_of(bytes(32)) == 0x8A9136AA


def test_a_line_of_the_specification():
    """Section 2.1: the example of TCP over IPv4."""
    header, _ = parse(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n")
    assert header == ProxyHeader(1, "inet", "stream", ("192.168.0.1", 56324), ("192.168.0.11", 443))


def test_a_binary_header_byte_by_byte():
    """Section 2.2, written by hand and not by our encoder; ALPN behind the addresses."""
    raw = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 0011 0a000001 0a000002 dc04 0031 010002 6832")
    header, _ = parse(raw)
    assert header == ProxyHeader(2, "inet", "stream", ("10.0.0.1", 56324), ("10.0.0.2", 49), ((1, b"h2"),))


def test_an_address_of_the_sixth_version_is_written_in_one_way():
    """Networks are compared by text further up, so the text is the usual one."""
    header, _ = parse(b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 1 2\r\n")
    assert header.source == ("2001:db8::1", 1)


@pytest.mark.parametrize(
    "encoded",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        V2_SIGNATURE + b"\x20\x00\x00\x00",
        V2_SIGNATURE + b"\x20\x11\x00\x03abc",
        V2_SIGNATURE + b"\x20\xff\x00\x00",
        V2_SIGNATURE + b"\x21\x00\x00\x03abc",
    ],
)
def test_unknown_and_local_keep_the_real_address(encoded):
    """Whatever stands behind is skipped, and all of it is taken."""
    header, taken = parse(encoded + b"next")
    assert (header.family, header.source, header.destination) == ("unspec", None, None)
    assert taken == len(encoded)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"GET / HTTP/1.1\r\n", "PROXY and a space"),
        (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n", "an IPv4 address"),
        (b"PROXY TCP4 1.1.1.01 2.2.2.2 1 22\r\n", "an IPv4 address"),
        (b"PROXY TCP4 ::1 2.2.2.2 1 2222222\r\n", "an IPv4 address"),
        (b"PROXY TCP6 1.1.1.1 ::2 1 2\r\n", "an IPv6 address"),
        (b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", "an IPv6 address"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", "a port"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", "a port"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n", "a port"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", "CR LF"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r 2\r\n", "CR LF"),
        (b"PROXY UNKNOWN " + b"x" * 200, "at most 107 bytes"),
        (V2_SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12), "0x20"),
        (V2_SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12), "0x20"),
        (V2_SIGNATURE + b"\x21\x41\x00\x0c" + bytes(12), "0x00, 0x11"),
        (V2_SIGNATURE + b"\x21\x13\x00\x0c" + bytes(12), "0x00, 0x11"),
        (V2_SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12), "36 for inet6"),
        (V2_SIGNATURE + b"\x21\x11\x00\x0e" + bytes(14), "2 bytes of a TLV's length"),
        (V2_SIGNATURE + b"\x21\x11\x00\x0f" + bytes(12) + b"\x05\x00\x01", "1 bytes of TLV 0x05"),
        (V2_SIGNATURE + b"\x21\x11\x00\x11" + bytes(12) + b"\x03\x00\x02ab", "4 bytes"),
    ],
)
def test_what_the_specification_forbids_is_refused(line, wanted):
    """Section 2: a receiver closes the connection of a header that it does not understand."""
    with pytest.raises(WireError) as refused:
        parse(line)
    assert wanted in refused.value.wanted


def test_a_header_that_promises_too_much_is_refused_from_its_preamble():
    """The body of a header above the limit is never waited for."""
    parser = ProxyHeaderParser(max_length_bytes=536)
    with pytest.raises(WireError, match="at most 536"):
        parse(V2_SIGNATURE + b"\x21\x11" + struct.pack("!H", 521), parser=parser)


def test_a_stranger_is_refused_at_the_first_wrong_byte():
    """Nobody has to wait for twelve bytes that never come."""
    with pytest.raises(WireError):
        ProxyHeaderParser().feed(b"\x16")


def test_few_reads_are_enough():
    """The shortest possible rest is asked for, which halves again and again."""
    reads = []
    parse(
        b"PROXY TCP4 192.168.100.101 192.168.100.102 56324 443\r\n",
        lambda wanted: reads.append(wanted) or wanted,
    )
    assert len(reads) <= 12


def test_feeding_more_than_wanted_is_our_bug():
    """It would swallow what follows."""
    with pytest.raises(LocalProtocolError):
        ProxyHeaderParser().feed(bytes(13))


def test_a_path_too_long_to_send_is_our_bug():
    """The field has 108 bytes."""
    with pytest.raises(LocalProtocolError):
        encode_v2(Address("unix:" + "x" * 109), Address("unix:y"))
