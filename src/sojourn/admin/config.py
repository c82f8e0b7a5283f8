"""The settings of the ways in for operators, ``[admin]`` in ``sojourn.toml``.

Declares names, defaults and help; knows nothing of how they are served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Settings

_LARGEST_PORT = 65_535
_SHORTEST_TOKEN_CHARACTERS = 16


class AdminSettings(Settings, frozen=True):
    """The HTTP API, metrics and health checks, and the local control socket of the command line."""

    address: Annotated[
        str,
        Meta(
            description="host:port or [v6]:port of the HTTP API, health checks and metrics; empty = none.",
        ),
    ] = "127.0.0.1:9300"
    socket: Annotated[
        str,
        Meta(
            description="Unix socket of the sojourn command, open to this server's own user only; empty = "
            "$XDG_RUNTIME_DIR/sojourn.sock; without that variable /run/sojourn/control.sock for root and "
            "/tmp/sojourn-UID/control.sock for others.",
            examples=["/run/sojourn/control.sock"],
        ),
    ] = ""
    token: Annotated[
        Secret | None,
        Meta(
            description="Bearer token that the HTTP API asks for; without one it answers health checks only.",
            examples=["${file:/etc/sojourn/admin.token}"],
        ),
    ] = None
    metrics_without_token: Annotated[bool, Meta(description="/metrics needs no token.")] = False

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is wrong with the address, the token, or both together."""
        host, colon, port = self.address.rpartition(":")
        if self.address and not (
            colon and host and port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT
        ):
            yield "address", repr(self.address), "host:port or [v6]:port"
        elif self.address and self.token is None and not is_loopback(host):
            yield "address", f"{self.address!r} and no token", "a loopback address, or a token"
        length = _SHORTEST_TOKEN_CHARACTERS if self.token is None else len(self.token.reveal())
        if length < _SHORTEST_TOKEN_CHARACTERS:
            yield "token", f"{length} characters", f"at least {_SHORTEST_TOKEN_CHARACTERS} characters"


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it stands before ``:port``, can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
