"""Startup packets, which have a length and no type: bytes to values and back.

Knows nothing of what a server makes of the parameters, nor of the typed messages that follow.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", formats of SSLRequest, GSSENCRequest, CancelRequest and
StartupMessage.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct

from sojourn.errors import LocalProtocolError, WireError
from sojourn.gateways.postgres.framing import BodyReader, cstring, decoded
from sojourn.gateways.postgres.messages import (
    CANCEL_CODE,
    GSSENC_CODE,
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    PROTOCOL_MAJOR,
    SSL_CODE,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    StartupPacket,
)

SOURCE = "PostgreSQL protocol, startup packets"
MIN_STARTUP_BYTES = 8
"""Length and code: the whole of an SSLRequest."""

_REQUEST = Struct("!II")
_CANCEL = Struct("!III")
_REQUEST_MAJOR = 1234
_MAJOR_3 = b"\0\3"
_REMEMBERED_BYTES = 512
_REMEMBERED_COUNT = 1024


def ssl_request() -> bytes:
    """Ask for TLS."""
    return _REQUEST.pack(MIN_STARTUP_BYTES, SSL_CODE)


def gssenc_request() -> bytes:
    """Ask for GSSAPI encryption."""
    return _REQUEST.pack(MIN_STARTUP_BYTES, GSSENC_CODE)


def cancel_request(pid: int, key: bytes) -> bytes:
    """Ask to cancel what the session with this BackendKeyData is doing.

    Raises: LocalProtocolError if the key is shorter than 4 or longer than 256 bytes, or ``pid`` no 32-bit number.
    """
    checked_key(pid, key)
    return _CANCEL.pack(_CANCEL.size + len(key), CANCEL_CODE, pid) + key


def startup_message(parameters: Mapping[str, str], version: tuple[int, int] = (3, 0)) -> bytes:
    """Open a session; names with the prefix ``_pq_.`` ask for protocol extensions.

    Raises: LocalProtocolError if a name is empty or anything holds a NUL.
    """
    if "" in parameters:
        raise LocalProtocolError("a parameter without a name", "a name", SOURCE)
    pairs = b"".join(cstring(name) + cstring(value) for name, value in parameters.items())
    major, minor = version
    return _REQUEST.pack(MIN_STARTUP_BYTES + len(pairs) + 1, major << 16 | minor) + pairs + b"\0"


def startup_length(data: bytes, limit_bytes: int) -> int | None:
    """Return the length of the startup packet at the front of ``data``, or None if that needs more bytes.

    Then: wait until so many bytes are there; they are the packet.
    Raises: WireError if the length is under 8 or over ``limit_bytes``.
    """
    if len(data) < 4:  # noqa: PLR2004 - the length field
        return None
    length = int.from_bytes(data[:4], "big")
    if not MIN_STARTUP_BYTES <= length <= limit_bytes:
        raise WireError(f"a length of {length}", f"{MIN_STARTUP_BYTES} to {limit_bytes}", SOURCE)
    return length


def startup_packet(packet: bytes) -> StartupPacket:
    """Read one whole startup packet, with its length.

    Returns: for a major version other than 3 a StartupMessage without parameters; refusing it is the session's work.
        The same bytes may give the same object.
    Raises: WireError if it breaks the format. A missing user is no matter of format.
    """
    if len(packet) <= _REMEMBERED_BYTES and packet.startswith(_MAJOR_3, 4):
        return _remembered(packet)
    return _startup_packet(packet)


def _startup_packet(packet: bytes) -> StartupPacket:
    reader = BodyReader(packet, "startup packets")
    length, code = reader.u32("the length"), reader.u32("the code")
    if length != len(packet):
        raise WireError(f"a length of {length} in a packet of {len(packet)} bytes", "the same", SOURCE)
    if code == CANCEL_CODE:
        return _read_cancel(reader)
    major, minor = code >> 16, code & 0xFFFF
    if major == PROTOCOL_MAJOR:
        return StartupMessage(major, minor, _read_parameters(reader))
    if code == SSL_CODE:
        reader.expect_end()
        return SSLRequest()
    if code == GSSENC_CODE:
        reader.expect_end()
        return GSSENCRequest()
    if major == _REQUEST_MAJOR:
        raise WireError(
            f"request code {major}.{minor}", "1234.5678 (cancel), .5679 (SSL) or .5680 (GSSENC)", SOURCE
        )
    return StartupMessage(major, minor, {})


_remembered = lru_cache(maxsize=_REMEMBERED_COUNT)(_startup_packet)
"""The same for what applications send again with each connection; never for cancel keys."""


def checked_key(pid: int, key: bytes) -> None:
    """Make sure that a cancel key may be sent.

    Raises: LocalProtocolError if its length or ``pid`` is out of range.
    """
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise LocalProtocolError(
            f"a cancel key of {len(key)} bytes", f"{MIN_KEY_BYTES} to {MAX_KEY_BYTES}", SOURCE
        )
    if not 0 <= pid < 1 << 32:
        raise LocalProtocolError(f"process id {pid}", "a 32-bit number", SOURCE)


def read_key(reader: BodyReader) -> bytes:
    """Read a cancel key, which extends to the end.

    Raises: WireError if it is shorter than 4 or longer than 256 bytes.
    """
    if not MIN_KEY_BYTES <= reader.remaining <= MAX_KEY_BYTES:
        raise WireError(
            f"a cancel key of {reader.remaining} bytes", f"{MIN_KEY_BYTES} to {MAX_KEY_BYTES}", SOURCE
        )
    return reader.rest()


def _read_cancel(reader: BodyReader) -> CancelRequest:
    return CancelRequest(reader.u32("the process id"), read_key(reader))


def _read_parameters(reader: BodyReader) -> dict[str, str]:
    parameters: dict[str, str] = {}
    while name := reader.cstring("a parameter's name"):
        parameters[decoded(name)] = decoded(reader.cstring("a parameter's value"))
    reader.expect_end()
    return parameters
