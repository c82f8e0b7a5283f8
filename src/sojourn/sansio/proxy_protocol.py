"""The PROXY protocol, versions 1 and 2: who the peer of a connection is that came through a load balancer.

Both directions: a parser that never asks for a byte beyond the header (what follows may be a TLS handshake,
and that belongs to somebody else), and encoders for probes and tests. Knows nothing of sockets, and does not
decide whose header is believed: that is the listener's list of trusted proxies.

Source: "The PROXY protocol, Versions 1 & 2", haproxy doc/proxy-protocol.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

from sojourn.errors import LocalProtocolError, WireError
from sojourn.sansio.fields import FieldReader

V1_PREFIX = b"PROXY "
V1_MAX_BYTES = 107
"""The longest line of version 1, CRLF included (section 2.1)."""
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V2_MAX_BYTES = 4096
"""The longest header of version 2 that is taken unless told otherwise; clients' certificates fit in."""

TLV_CRC32C = 0x03
"""The TLV that holds a checksum over the whole header (section 2.2.3)."""

_V1 = "PROXY protocol section 2.1"
_V2 = "PROXY protocol section 2.2"
_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 in the high half, the command in the low one."""
_PREAMBLE = struct.Struct("!12sBBH")
_V1_MIN_BYTES = len(b"PROXY UNKNOWN\r\n")
_V1_FIELDS = {b"TCP4": (4, 7, 7, 1, 1), b"TCP6": (4, 2, 2, 1, 1)}
"""The shortest that each field of a line can be: ``1.1.1.1``, ``::``, one digit."""
_FAMILIES = {1: ("inet", 12), 2: ("inet6", 36), 3: ("unix", 216)}
_TRANSPORTS = {1: "stream", 2: "dgram"}
_UNIX_PATH_BYTES = 108
_PORT_MAX = 0xFFFF
_CRC32C_BYTES = 4
_EXCERPT_BYTES = 32

_UNIX_PREFIX = "unix:"


class Address(NamedTuple):
    """One end of the connection; a unix socket's ``host`` is ``unix:`` and its path, never an IP."""

    host: str
    port: int = 0


class ProxyHeader(NamedTuple):
    """What the load balancer says of the connection.

    Shape: ``source`` and ``destination`` are None where the connection's own addresses hold: the balancer
    speaks for itself (``LOCAL``) or does not know (``UNKNOWN``, ``UNSPEC``). ``family`` is ``inet``,
    ``inet6``, ``unix`` or ``unspec``; ``tlvs`` are type and value as they came, for version 2 only.
    """

    version: int
    family: str
    transport: str
    source: Address | None
    destination: Address | None
    tlvs: tuple[tuple[int, bytes], ...] = ()


class ProxyHeaderParser:
    """Reads one header; made per connection before its first byte, done with once :meth:`feed` gave it.

    Always true: ``wanted()`` plus what was fed is never more than the header's own length, nor than the
    maximum.

    Args:
        max_length_bytes: the longest header of version 2; one that promises more is refused from its first 16
        bytes.
    """

    __slots__ = ("_buffer", "_done", "_max_length_bytes", "_wanted")

    def __init__(self, max_length_bytes: int = V2_MAX_BYTES) -> None:
        self._buffer = bytearray()
        self._max_length_bytes = max_length_bytes
        self._wanted = len(V2_SIGNATURE)
        self._done = False

    def wanted(self) -> int:
        """Return how many bytes may be read next, at most; 0 when the header is complete or was refused."""
        return self._wanted

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take the next bytes, never more than :meth:`wanted`; return the header once it is complete.

        Raises:
            WireError: this is no header of either version; close the connection.
            LocalProtocolError: more was fed than wanted.
        """
        if len(data) > self._wanted:
            raise LocalProtocolError(f"{len(data)} bytes", f"at most {self._wanted}", _V2)
        self._buffer += data
        self._wanted -= len(data)
        try:
            header = self._advance()
        except WireError:
            self._wanted = 0
            raise
        if header is not None:
            self._wanted = 0
        return header

    def _advance(self) -> ProxyHeader | None:
        """Look at what there is, and set what is wanted next."""
        buffer = self._buffer
        if V2_SIGNATURE.startswith(buffer[: len(V2_SIGNATURE)]):
            return self._advance_v2() if len(buffer) >= len(V2_SIGNATURE) else None
        if V1_PREFIX.startswith(buffer[: len(V1_PREFIX)]):
            return self._advance_v1() if len(buffer) >= len(V2_SIGNATURE) else None
        raise WireError(_excerpt(buffer), "PROXY and a space, or the signature of version 2", _V1)

    def _advance_v1(self) -> ProxyHeader | None:
        buffer = self._buffer
        if buffer.endswith(b"\r\n"):
            return decode_v1(bytes(buffer))
        if b"\n" in buffer or b"\r" in buffer[:-1]:
            raise WireError(_excerpt(buffer), "CR LF at the end of the line only", _V1)
        self._wanted = _v1_shortest_rest(bytes(buffer))
        if len(buffer) + self._wanted > V1_MAX_BYTES:
            raise WireError(
                f"no end of the line after {len(buffer)} bytes", f"at most {V1_MAX_BYTES} bytes", _V1
            )
        return None

    def _advance_v2(self) -> ProxyHeader | None:
        buffer = self._buffer
        if len(buffer) < _PREAMBLE.size:
            self._wanted = _PREAMBLE.size - len(buffer)
            return None
        length = _v2_length(bytes(buffer), self._max_length_bytes)
        if len(buffer) < length:
            self._wanted = length - len(buffer)
            return None
        return decode_v2(bytes(buffer))


def decode_v1(line: bytes) -> ProxyHeader:
    """Read a whole line of version 1, CRLF included.

    Raises: WireError on anything but a line that section 2.1 allows.
    """
    fields = line[len(V1_PREFIX) : -2].split(b" ")
    if fields[0] == b"UNKNOWN":
        return ProxyHeader(1, "unspec", "stream", None, None)
    if fields[0] not in _V1_FIELDS or len(fields) != len(_V1_FIELDS[fields[0]]):
        raise WireError(_excerpt(line), "TCP4 or TCP6, two addresses, two ports; or UNKNOWN", _V1)
    inet6 = fields[0] == b"TCP6"
    source = Address(_v1_address(fields[1], inet6=inet6), _v1_port(fields[3]))
    destination = Address(_v1_address(fields[2], inet6=inet6), _v1_port(fields[4]))
    return ProxyHeader(1, "inet6" if inet6 else "inet", "stream", source, destination)


def decode_v2(data: bytes) -> ProxyHeader:
    """Read a whole header of version 2.

    Raises: WireError on anything but a header that section 2.2 allows, and on a wrong checksum.
    """
    if len(data) < _PREAMBLE.size or len(data) != _v2_length(data, len(data)):
        raise WireError(f"{len(data)} bytes", "one whole header", _V2)
    _, command, kind, _ = _PREAMBLE.unpack_from(data)
    if command == _LOCAL or kind == 0:
        return ProxyHeader(2, "unspec", "unspec", None, None)
    family, addresses_bytes = _FAMILIES[kind >> 4]
    reader = FieldReader(data, _V2)
    reader.bytes(_PREAMBLE.size)
    source, destination = _v2_addresses(family, reader.bytes(addresses_bytes))
    tlvs = []
    while reader.remaining:
        tlv, length = reader.u8("a TLV's type"), reader.u16("a TLV's length")
        if tlv == TLV_CRC32C:
            _check_crc32c(data, reader.position, length)
        tlvs.append((tlv, reader.bytes(length, f"TLV {tlv:#04x}")))
    return ProxyHeader(2, family, _TRANSPORTS[kind & 0x0F], source, destination, tuple(tlvs))


def encode_v1(source: Address | None, destination: Address | None) -> bytes:
    """Write a line of version 1; ``UNKNOWN`` where an address is None."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP6" if ":" in source.host else "TCP4"
    line = f"PROXY {family} {source.host} {destination.host} {source.port} {destination.port}\r\n"
    return line.encode("ascii")


def encode_v2(
    source: Address | None,
    destination: Address | None,
    tlvs: Sequence[tuple[int, bytes]] = (),
    *,
    crc32c: bool = False,
) -> bytes:
    """Write a header of version 2; ``LOCAL`` where an address is None."""
    command, kind, body = _LOCAL, 0, b""
    if source is not None and destination is not None:
        command, (kind, body) = _PROXY, _v2_block(source, destination)
    for tlv, value in tlvs:
        body += struct.pack("!BH", tlv, len(value)) + value
    if crc32c:
        body += struct.pack("!BHI", TLV_CRC32C, 4, 0)
    header = _PREAMBLE.pack(V2_SIGNATURE, command, kind, len(body)) + body
    return header[:-4] + crc32c_of(header).to_bytes(4, "big") if crc32c else header


def _v1_shortest_rest(line: bytes) -> int:
    """Return the least number of bytes that can still be missing from a line: none is read too much."""
    if line.endswith(b"\r"):
        return 1
    fields = line[len(V1_PREFIX) :].split(b" ")
    lengths = _V1_FIELDS.get(fields[0])
    if lengths is None or len(fields) > len(lengths):
        return max(2, _V1_MIN_BYTES - len(line))
    unfinished = max(0, lengths[len(fields) - 1] - len(fields[-1]))
    return unfinished + sum(1 + length for length in lengths[len(fields) :]) + 2


def _v1_address(text: bytes, *, inet6: bool) -> str:
    try:
        name = text.decode("ascii")
        # A scope means nothing on another machine, and the specification's addresses have none.
        if "%" not in name:
            return str(IPv6Address(name) if inet6 else IPv4Address(name))
    except (UnicodeDecodeError, AddressValueError):
        pass
    raise WireError(_excerpt(text), "an IPv6 address" if inet6 else "an IPv4 address", _V1)


def _v1_port(text: bytes) -> int:
    """Read a port; leading zeros are forbidden by section 2.1."""
    port = int(text) if text.isdigit() and len(text) <= len(str(_PORT_MAX)) else -1
    if not 0 <= port <= _PORT_MAX or str(port).encode() != text:
        raise WireError(_excerpt(text), "a port from 0 to 65535 without leading zeros", _V1)
    return port


def _v2_length(data: bytes, max_length_bytes: int) -> int:
    """Check the first 16 bytes and return the length of the whole header."""
    signature, command, kind, rest_bytes = _PREAMBLE.unpack_from(data)
    if signature != V2_SIGNATURE:
        raise WireError(_excerpt(data), "the signature of version 2", _V2)
    if command not in {_LOCAL, _PROXY}:
        raise WireError(f"version and command {command:#04x}", "0x20 (LOCAL) or 0x21 (PROXY)", _V2)
    length = _PREAMBLE.size + int(rest_bytes)
    if length > max_length_bytes:
        raise WireError(f"a header of {length} bytes", f"at most {max_length_bytes}", _V2)
    # What LOCAL says of families and addresses is to be skipped, whatever it is.
    if command == _PROXY and kind != 0:
        if kind >> 4 not in _FAMILIES or kind & 0x0F not in _TRANSPORTS:
            raise WireError(
                f"family and transport {kind:#04x}", "0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32", _V2
            )
        family, addresses_bytes = _FAMILIES[kind >> 4]
        if rest_bytes < addresses_bytes:
            raise WireError(f"{rest_bytes} bytes of addresses", f"{addresses_bytes} for {family}", _V2)
    return length


def _v2_addresses(family: str, block: bytes) -> tuple[Address, Address]:
    if family == "unix":
        paths = (block[:_UNIX_PATH_BYTES], block[_UNIX_PATH_BYTES:])
        names = (path.rstrip(b"\x00").decode("utf-8", "surrogateescape") for path in paths)
        source, destination = (Address(_UNIX_PREFIX + name) for name in names)
        return source, destination
    size, kind = (4, IPv4Address) if family == "inet" else (16, IPv6Address)
    source_port, destination_port = struct.unpack_from("!HH", block, 2 * size)
    source = Address(str(kind(block[:size])), source_port)
    return source, Address(str(kind(block[size : 2 * size])), destination_port)


def _v2_block(source: Address, destination: Address) -> tuple[int, bytes]:
    """Return the family and the block of addresses."""
    if source.host.startswith(_UNIX_PREFIX):
        return 0x31, _v2_path(source.host) + _v2_path(destination.host)
    inet6 = ":" in source.host
    hosts = (IPv6Address(end.host) if inet6 else IPv4Address(end.host) for end in (source, destination))
    packed = b"".join(host.packed for host in hosts) + struct.pack("!HH", source.port, destination.port)
    return 0x21 if inet6 else 0x11, packed


def _v2_path(host: str) -> bytes:
    raw = host.removeprefix(_UNIX_PREFIX).encode("utf-8", "surrogateescape")
    if len(raw) > _UNIX_PATH_BYTES:
        raise LocalProtocolError(f"a path of {len(raw)} bytes", f"at most {_UNIX_PATH_BYTES}", _V2)
    return raw.ljust(_UNIX_PATH_BYTES, b"\x00")


def _check_crc32c(data: bytes, at: int, length: int) -> None:
    if length != _CRC32C_BYTES or at + length > len(data):
        raise WireError(f"a checksum of {length} bytes", "4 bytes", "PROXY protocol section 2.2.3")
    found = data[at : at + length]
    wanted = crc32c_of(data[:at] + bytes(length) + data[at + length :]).to_bytes(length, "big")
    if found != wanted:
        raise WireError(f"checksum {found.hex()}", f"{wanted.hex()}", "PROXY protocol section 2.2.3")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def crc32c_of(data: bytes) -> int:
    """Return the CRC32c checksum (RFC 4960 appendix B) of the bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _excerpt(data: bytes | bytearray) -> str:
    """Show the beginning of what came, in a form that is safe in a log."""
    return repr(bytes(data[:_EXCERPT_BYTES])) + ("..." if len(data) > _EXCERPT_BYTES else "")
