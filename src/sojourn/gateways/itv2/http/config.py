"""The table ``[itv2.http]``: where the API listens, whose tokens it takes, and what one client may cost.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import LimitSettings, ListenerSettings, Seconds, Settings
from sojourn.gateways.itv2.commands import Scope
from sojourn.web.config import HttpSettings
from sojourn.web.credentials import is_bearer

PORT: Final = 8080
"""NeoHub's, which its users have in their Home Assistant already."""

SHORTEST_TOKEN: Final = 20
"""Characters; a token that a person thought up can be guessed, as nobody slows down who has many addresses."""

RESERVED_NAMES: Final = frozenset({"mqtt"})
"""Askers of other interfaces: the audit must tell who it was."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
Found = tuple[str, str, str]
"""Key path, what was found, what was wanted."""


class TokenSettings(Settings, frozen=True):
    """A token and what it may do. The audit names it, so each program and each person has one of their own."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.@-]{0,61}[A-Za-z0-9])?$",
            title="a name (letters, digits, _ . @ -)",
            description="Who holds it; in the audit of every command.",
            examples=["home-assistant"],
        ),
    ]
    token: Annotated[
        Secret | None,
        Meta(
            description=f"The token itself, {SHORTEST_TOKEN} characters or more, such as openssl rand -hex 32 makes.",
            examples=["${file:/etc/sojourn/home-assistant.token}"],
        ),
    ] = None
    sha256: Annotated[
        str,
        Meta(
            description="Instead of token: its SHA-256 in hex, so that the configuration does not hold it.",
        ),
    ] = ""
    scopes: Annotated[
        tuple[Scope, ...],
        Meta(
            min_length=1,
            description="What it may do: read, arm, disarm, bypass. admin may do everything, also users, sections, "
            "raw words, learning and the doctor's list.",
        ),
    ] = ("read",)
    panels: Annotated[
        tuple[str, ...], Meta(description="Names of the panels that there are for it; empty = all.")
    ] = ()
    needs_code: Annotated[
        bool,
        Meta(description="Its commands must bring an access code; those in the configuration are not used."),
    ] = False

    def problems(self) -> Iterator[Found]:
        """Yield what is no token; never shows one."""
        if (self.token is None) == (not self.sha256):
            yield "token", "both or neither of token and sha256", "one of them"
        if self.token is not None and len(self.token.reveal()) < SHORTEST_TOKEN:
            yield "token", "a short one", f"{SHORTEST_TOKEN} characters or more"
        if self.token is not None and not is_bearer(self.token.reveal()):
            yield "token", "one with characters that no header can carry", "letters, digits, - . _ ~ + / ="
        if self.sha256 and not _SHA256.match(self.sha256):
            yield "sha256", "something else", "64 hex digits in lower case"
        if self.name in RESERVED_NAMES:
            yield "name", repr(self.name), "another; this one is an interface of its own"


class ApiLimits(LimitSettings, frozen=True):
    """What the API takes from clients before it refuses."""

    connections_count: Annotated[int, Meta(ge=1, description="Connections at once.")] = 500
    connections_per_peer_count: Annotated[
        int, Meta(ge=1, description="Connections at once of one address.")
    ] = 100


class LinkSettings(Settings, frozen=True):
    """WebSockets: the live one, and NeoHub's."""

    links_count: Annotated[int, Meta(ge=1, description="WebSockets at once.")] = 200
    heartbeat_s: Annotated[
        Seconds,
        Meta(
            description="How often each client is pinged; one that does not answer in half the time is gone."
        ),
    ] = 30.0
    message_bytes: Annotated[int, Meta(ge=256, description="Longest message of a client.")] = 16_384
    messages_per_s: Annotated[float, Meta(gt=0, description="Messages of one client, on average.")] = 10.0
    messages_burst_count: Annotated[int, Meta(ge=1, description="The same at once, after a quiet time.")] = 50
    waiting_count: Annotated[
        int, Meta(ge=16, description="Messages that wait for one client; then it is too slow and is closed.")
    ] = 1_000
    waiting_bytes: Annotated[
        int, Meta(ge=65_536, description="The same in bytes; a first snapshot is sent whatever its size.")
    ] = 4_194_304
    commands_count: Annotated[
        int, Meta(ge=1, description="Commands of one client that are under way at once; more are refused.")
    ] = 8
    close_timeout_s: Annotated[
        Seconds, Meta(description="How long a client may take to answer that it is closed.")
    ] = 2.0
    ticket_ttl_s: Annotated[
        Seconds, Meta(description="How long a ticket is good with which a web page opens a WebSocket.")
    ] = 30.0


class Itv2HttpSettings(HttpSettings, frozen=True):
    """REST and WebSocket for the panels. Without TLS tokens and codes can be read on the way."""

    listeners: Annotated[tuple[ListenerSettings, ...], Meta(min_length=1)] = (
        ListenerSettings(address=f"127.0.0.1:{PORT}"),
    )
    limits: ApiLimits = ApiLimits()
    links: LinkSettings = LinkSettings()
    tokens: tuple[TokenSettings, ...] = ()
    neohub: Annotated[
        bool, Meta(description="Serve NeoHub's messages at /api/ws, for its Home Assistant integration.")
    ] = True
    requests_count: Annotated[
        int, Meta(ge=16, description="Idempotency-Keys that are remembered; then the oldest are forgotten.")
    ] = 4_096

    def problems(self) -> Iterator[Found]:
        """Yield what is wrong with origins and networks, and names and tokens that two have."""
        yield from super().problems()
        for name, count in Counter(token.name for token in self.tokens).items():
            if count > 1:
                yield "tokens", f"{count} tokens with name {name!r}", "one each"

    def problems_beside(self, panels: Collection[str]) -> Iterator[Found]:
        """Yield panels of tokens that there are not."""
        for index, token in enumerate(self.tokens):
            for name in token.panels:
                if name not in panels:
                    yield f"http.tokens[{index}].panels", repr(name), "names of [[itv2.panels]]"


ONLY_AT_START: Final = (
    *(field.name for field in msgspec.structs.fields(HttpSettings)),
    "neohub",
    "requests_count",
)
"""Parts of the table that no reload can bring: the server and its front are made with them."""
