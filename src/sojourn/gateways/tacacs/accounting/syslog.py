"""Accounting records as RFC 5424 syslog over TCP, TLS, UDP or a unix datagram socket.

"Stored" is a big word here, because syslog has no acknowledgements:

* ``tcp`` and ``tls``: handed to our kernel, over a connection that the collector had not closed before the
  batch nor by its end. What the collector's host loses from its socket buffers when it dies at that moment is
  lost without a trace; a record that must not be lost needs a file or a table as well.
* ``unix``: in the receiver's queue on this host; a full queue makes us wait, then fail.
* ``udp``: sent. A closed port on a reachable host is noticed by its ICMP answer, mostly at the next batch.

A batch that failed half-way is sent again as a whole, so a collector may see a record twice: its ``id``
tells.

The structured data is one element, ``tacacs@32473`` by default: the part behind the ``@`` is a private
enterprise number, and 32473 is the one reserved for documentation (RFC 5612). Sites that have one of their
own set ``sd_id``.

Knows nothing of threads, queues or waiters.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs.accounting.record import Record
from sojourn.gateways.tacacs.config import SyslogSink

SEVERITY = 6
"""Informational. Source: RFC 5424 section 6.2.1."""

UDP_MAX_BYTES = 65_507
"""The largest UDP payload over IPv4."""

UNIX_MAX_BYTES = 65_536
"""More than this many systems' receivers cut off."""

DEFAULT_PORTS = {"tcp": 514, "tls": 6514, "udp": 514}
"""Source: RFC 6587 section 3.2 (custom, not rule); RFC 5425 section 4.1; RFC 5426 section 3.3."""

_IGNORED_BYTES = 65_536
_NOT_IN_HEADER = re.compile(r"[^!-~]")
_ELSEWHERE = {"record_id", "stored_at", "node", "flags", "args"}
_PARAMS = tuple(name for name in Record.__struct_fields__ if name not in _ELSEWHERE)


class SyslogFormat:
    """Turns records into syslog messages of one facility."""

    def __init__(self, facility: int, sd_id: str) -> None:
        self._begin = f"<{facility * 8 + SEVERITY}>1 "
        self._app = f" sojourn {os.getpid()} "
        self._sd_id = sd_id

    def message(self, record: Record) -> bytes:
        """Return the record as one message; MSGID is its kind, each argument is one ``arg`` parameter.

        Source: RFC 5424 section 6; section 6.3.3 for escaping; section 6.3.5 for a repeated parameter name.
        """
        params = [f'id="{record.record_id}"']
        for name in _PARAMS:
            value = getattr(record, name)
            if value is not None:
                params.append(f'{name}="{_escape(value) if isinstance(value, str) else value}"')
        params.extend([f'arg="{_escape(arg)}"' for arg in record.args])
        subject = f"{record.user or '-'} on {record.device}"
        text = f"{record.flags} {subject}: {record.cmd}" if record.cmd else f"{record.flags} {subject}"
        kind = _header_text(record.flags, 32)
        header = f"{_timestamp(record.stored_at)} {_header_text(record.node)}{self._app}{kind}"
        return f"{self._begin}{header} [{self._sd_id} {' '.join(params)}] {text}".encode()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


@lru_cache(maxsize=256)
def _header_text(text: str, max_length: int = 255) -> str:
    """Return what a header field may hold: printable ASCII without spaces, ``-`` for nothing."""
    return _NOT_IN_HEADER.sub("_", text)[:max_length] or "-"


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class SyslogSender:
    """The socket of one ``[[tacacs.accounting.syslog]]``; blocking, so it belongs to a thread of its own."""

    kind = "syslog"

    def __init__(self, settings: SyslogSink) -> None:
        self.name: str = settings.name
        self.warning = ""
        self._settings = settings
        self._address = urlsplit(settings.address)
        self._format = SyslogFormat(settings.facility, settings.sd_id)
        self._socket: socket.socket | None = None

    def open(self) -> bool:
        """Connect; only UDP proves nothing by it.

        Raises: OSError: nobody is there, or the certificate is not good.
        """
        self.close()
        scheme = self._address.scheme
        if scheme == "unix":
            self._socket = self._connect_unix()
        elif scheme == "udp":
            self._socket = self._connect_udp()
        else:
            self._socket = self._connect_stream()
        return scheme != "udp"

    def store(self, records: Sequence[Record]) -> None:
        """Send one message for each record.

        Raises:
            OSError, BackendUnavailable: the connection is gone; any part of the messages may have arrived.
            LimitExceeded: a record is too large for a datagram.
        """
        if self._socket is None:
            self.open()
        if self._socket is None:
            raise BackendUnavailable(self.name, 0.0, "not connected")
        messages = [self._format.message(record) for record in records]
        self._raise_if_closed(self._socket)
        if self._address.scheme in {"tcp", "tls"}:
            # Source: RFC 6587 section 3.4.1, octet counting.
            self._socket.sendall(b"".join([b"%d %b" % (len(message), message) for message in messages]))
        else:
            self._send_datagrams(self._socket, messages)
        self._raise_if_closed(self._socket)

    def close(self) -> None:
        """Close the socket; what the kernel has, it still sends."""
        if self._socket is not None:
            old, self._socket = self._socket, None
            with contextlib.suppress(OSError):
                if not isinstance(old, ssl.SSLSocket) and self._address.scheme == "tcp":
                    old.shutdown(socket.SHUT_WR)
            old.close()

    def _connect_stream(self) -> socket.socket:
        host, port = self._host_and_port()
        plain = socket.create_connection((host, port), timeout=self._settings.timeout_s)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # Unacknowledged bytes break the connection after this long instead of after a quarter of an hour.
            plain.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(self._settings.timeout_s * 1000), 1)
            )
            if self._address.scheme == "tls":
                context = ssl.create_default_context(cafile=self._settings.ca_file or None)
                return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        return plain

    def _connect_udp(self) -> socket.socket:
        host, port = self._host_and_port()
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        return self._connected(socket.socket(family, kind, protocol), address)

    def _connect_unix(self) -> socket.socket:
        return self._connected(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), self._address.path)

    def _connected(self, datagrams: socket.socket, address: object) -> socket.socket:
        datagrams.settimeout(self._settings.timeout_s)
        try:
            datagrams.connect(address)  # type: ignore[arg-type]  # the stubs know no tuple of unknown family
        except BaseException:
            datagrams.close()
            raise
        return datagrams

    def _host_and_port(self) -> tuple[str, int]:
        return self._address.hostname or "", self._address.port or DEFAULT_PORTS[self._address.scheme]

    def _send_datagrams(self, datagrams: socket.socket, messages: Sequence[bytes]) -> None:
        limit = UDP_MAX_BYTES if self._address.scheme == "udp" else UNIX_MAX_BYTES
        for message in messages:
            if len(message) > limit:
                raise LimitExceeded("bytes of a syslog datagram", len(message), limit)
        for message in messages:
            datagrams.send(message)

    def _raise_if_closed(self, connection: socket.socket) -> None:
        """Look whether the collector has gone; what it sends means nothing to us.

        Raises: OSError, BackendUnavailable: it has.
        """
        connection.setblocking(False)
        try:
            is_closed = not connection.recv(_IGNORED_BYTES) and connection.type == socket.SOCK_STREAM
        except (BlockingIOError, ssl.SSLWantReadError):
            is_closed = False
        finally:
            connection.settimeout(self._settings.timeout_s)
        if is_closed:
            raise BackendUnavailable(self.name, 0.0, "the collector closed the connection")
