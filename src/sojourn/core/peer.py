"""Peer: whoever is at the other end of a connection, as far as the transport can tell."""

from __future__ import annotations

from typing import Any

import msgspec


class Peer(msgspec.Struct, eq=False):
    """Address, listener and TLS identity of a peer; known before the first byte is read.

    Args:
        address: IP address without port, or ``unix`` and ``memory``; behind a PROXY header the client's.
        port: its port, 0 where there is none.
        listener: the address of ours that it came to.
        certificate_names: subjectAltName entries of its certificate, empty without TLS.
        is_tls: the connection is encrypted.
        via: address of the proxy that told us ``address``, or empty.
        context: what the gateway's ``admit`` found out about it, such as the device.
    """

    address: str
    port: int = 0
    listener: str = ""
    certificate_names: tuple[str, ...] = ()
    is_tls: bool = False
    via: str = ""
    context: Any = None

    def __str__(self) -> str:
        if not self.port:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
