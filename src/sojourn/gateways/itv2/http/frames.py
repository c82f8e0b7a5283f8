"""What goes over the live WebSocket: one JSON object per text message, told apart by ``type``.

Every message of ours that is about a panel names it. Units: ``*_ms`` are unix milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sojourn.errors import WireError
from sojourn.gateways.itv2.commands import Result
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.state import Scope, Value
from sojourn.gateways.itv2.views import Phase

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~:-]{1,255}$")]


class _FromClient(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    pass


class _FromServer(msgspec.Struct, frozen=True, tag_field="type"):
    pass


# From clients


class Command(_FromClient, frozen=True, tag="command"):
    """Ask a panel for something; answered by ``outcome`` or ``error`` with the same ``request_id``.

    ``command`` is an operation of REST, such as ``arm``, and ``body`` what that takes. The same ``request_id`` again
    gives the first outcome, over REST too, where it is the Idempotency-Key.
    """

    request_id: RequestId
    panel: str
    command: str
    partition: int = 0
    user: int = 0
    body: msgspec.Raw = msgspec.Raw(b"{}")

    def __repr__(self) -> str:
        return f"Command({self.command!r}, ***)"


class GetSnapshot(_FromClient, frozen=True, tag="get_snapshot"):
    """Ask for another ``snapshot``."""


class Ping(_FromClient, frozen=True, tag="ping"):
    """Ask for a ``pong``."""

    id: Annotated[str, Meta(max_length=64)] = ""


ClientFrame = Command | GetSnapshot | Ping


# From the server


class Snapshot(_FromServer, frozen=True, tag="snapshot"):
    """Everything that is known of all panels that there are for the token; the first message."""

    at_ms: int
    panels: tuple[t.PanelDetail, ...]


class OneChange(msgspec.Struct, frozen=True):
    """One value: ``field`` of a zone, a partition, a user or, with number 0, of the panel.

    An empty ``field`` without a value: the zone or partition is gone.
    """

    scope: Scope
    number: int
    field: str
    value: Value[Any] | None


class Changes(_FromServer, frozen=True, tag="changes"):
    """Values that are new, or known anew."""

    panel: str
    changes: tuple[OneChange, ...]


class Events(_FromServer, frozen=True, tag="events"):
    """What has happened. What a panel tells of an outage afterwards is in the history only."""

    panel: str
    events: tuple[t.Event, ...]


class PhaseChanged(_FromServer, frozen=True, tag="phase"):
    """Where the connection stands, and the doctor's last sentence."""

    panel: str
    phase: Phase
    diagnosis: str


class PanelFrame(_FromServer, frozen=True, tag="panel"):
    """Everything of one panel: zones or partitions came or went, or it went out of sight and all is stale."""

    panel: t.PanelDetail


class Gone(_FromServer, frozen=True, tag="gone"):
    """There is no such panel any more."""

    panel: str


class Outcome(_FromServer, frozen=True, tag="outcome", omit_defaults=True):
    """How a command ended, as REST tells it."""

    request_id: str
    panel: str
    result: Result
    reason: str = ""
    panel_code: int | None = None
    users: tuple[t.User, ...] = ()
    sections: tuple[t.SectionContent, ...] = ()
    answer: str = ""


class Error(_FromServer, frozen=True, tag="error", omit_defaults=True):
    """A message that led to nothing. ``problem`` is the name of a problem of REST."""

    problem: str
    detail: str
    request_id: str = ""


class Heartbeat(_FromServer, frozen=True, tag="heartbeat"):
    """Nothing has happened for a while."""

    at_ms: int


class Pong(_FromServer, frozen=True, tag="pong"):
    """The answer to ``ping``."""

    id: str


SERVER_FRAMES: Final = (
    Snapshot,
    Changes,
    Events,
    PhaseChanged,
    PanelFrame,
    Gone,
    Outcome,
    Error,
    Heartbeat,
    Pong,
)
encode: Final = msgspec.json.Encoder().encode
_decoder: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)


def read_frame(text: str | bytes) -> ClientFrame:
    """Return a message of a client.

    Raises: WireError, without a word of the client's.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        wanted = f"one JSON object whose type is one of {', '.join(FRAME_TYPES)}"
        raise WireError("another message", wanted, "the WebSocket's reference") from None


FRAME_TYPES: Final = ("command", "get_snapshot", "ping")
