"""The vocabulary of ``session.v1``, the WebSocket protocol between a client and its session.

One struct per frame; the field ``t`` says which. Clients give the frames that they want answered an ``id``, which comes
back as ``ref``. Prices and cash are decimal strings, so that no client's floating point touches money; quantities are
integers, times whole milliseconds since 1970.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

SUBPROTOCOL_JSON: Final = "session.v1.json"
SUBPROTOCOL_MSGPACK: Final = "session.v1.msgpack"

Id = Annotated[str, Meta(min_length=1, max_length=64)]
DeviceId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$(?!\n)")]
Symbol = Annotated[str, Meta(min_length=1, max_length=12)]
Symbols = Annotated[tuple[Symbol, ...], Meta(max_length=500)]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Price = Annotated[str, Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$(?!\n)")]
OrderNumber = Annotated[int, Meta(ge=1, le=2**53)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]
SideName = Literal["buy", "sell"]
TypeName = Literal["market", "limit"]
TifName = Literal["gtc", "ioc", "fok"]

# From clients


class _FromClient(msgspec.Struct, frozen=True, tag_field="t"):
    """Unknown fields are ignored: a client may be newer than we are."""


class Resume(msgspec.Struct, frozen=True):
    """How far a client has come: the log's epoch, its last event, its revisions of market and portfolio."""

    epoch: Offset
    events: Offset
    md: Offset = 0
    pf: Offset = 0


class Hello(_FromClient, frozen=True, tag="hello"):
    """The first frame of every link; ``symbols`` is what it wants to see, absent for all."""

    id: Id
    device: DeviceId
    resume: Resume | None = None
    symbols: Symbols | None = None


class Heartbeat(_FromClient, frozen=True, tag="hb"):
    """A client asks whether we are there."""

    n: Offset = 0


class HeartbeatAck(_FromClient, frozen=True, tag="hb_ack"):
    """The answer to our heartbeat ``n``; ``o`` is the highest event up to which the client has them all."""

    n: Offset
    o: Offset = 0


class Subscribe(_FromClient, frozen=True, tag="sub"):
    """See these symbols too."""

    id: Id
    symbols: Symbols


class Unsubscribe(_FromClient, frozen=True, tag="unsub"):
    """See these symbols no more."""

    id: Id
    symbols: Symbols


class PlaceOrder(_FromClient, frozen=True, tag="order"):
    """Place an order; the same ``id`` sent again is the same order."""

    id: Id
    symbol: Symbol
    side: SideName
    quantity: Quantity
    type: TypeName = "limit"
    price: Price | None = None
    tif: TifName | None = None


class CancelOrder(_FromClient, frozen=True, tag="cancel"):
    """Take back what is left of an order."""

    id: Id
    order: OrderNumber


class ReplaceOrder(_FromClient, frozen=True, tag="replace"):
    """Give an order another quantity, what is filled of it included, or another price."""

    id: Id
    order: OrderNumber
    quantity: Quantity
    price: Price


class SimulatorCommand(_FromClient, frozen=True, tag="sim"):
    """Want a simulator, or want none."""

    id: Id
    action: Literal["start", "stop"]


class SnapshotRequest(_FromClient, frozen=True, tag="snapshot"):
    """Send everything anew."""

    id: Id


class Bye(_FromClient, frozen=True, tag="bye"):
    """The client leaves; its session stays."""


ClientFrame = (
    Hello
    | Heartbeat
    | HeartbeatAck
    | Subscribe
    | Unsubscribe
    | PlaceOrder
    | CancelOrder
    | ReplaceOrder
    | SimulatorCommand
    | SnapshotRequest
    | Bye
)

# From us


class _FromServer(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """What is not said has its default."""


class HeartbeatTerms(msgspec.Struct, frozen=True):
    """How often we send a heartbeat, and how long a client should wait for one before it reconnects."""

    every_s: float
    timeout_s: float


class ReconnectTerms(msgspec.Struct, frozen=True):
    """How long a client should wait before it comes back: ``min_s``, then twice as long each time, up to ``max_s``.

    Each time a random part of that, between 1 - ``jitter`` and 1.
    """

    min_s: float
    max_s: float
    jitter: float


class LinkLimits(msgspec.Struct, frozen=True):
    """What a client may send."""

    frame_bytes: int
    frames_per_s: float
    frames_burst_count: int


class Welcome(_FromServer, frozen=True, tag="welcome", kw_only=True):
    """The answer to a hello; what is replayed, or a snapshot, comes behind it.

    ``resumed`` is ``full`` if every event since the client's is replayed, ``none`` if a snapshot stands for all;
    ``partial`` if the events are all there but market or portfolio are sent as a whole. Adopt ``epoch`` only together
    with ``events``.
    """

    session: str
    conn: str
    pod: str
    epoch: int
    events: int
    md: int
    pf: int
    resumed: Literal["full", "partial", "none"]
    recovered: int
    heartbeat: HeartbeatTerms
    limits: LinkLimits
    reconnect: ReconnectTerms
    server_time: int


class Snapshot(_FromServer, frozen=True, tag="snapshot", kw_only=True):
    """Where the session stands after event ``o`` of ``epoch``: its simulator, and each order as its last event told it.

    Market and portfolio come as full ``md`` and ``pf`` frames besides. Open orders are all there, ended ones the last
    few.
    """

    epoch: int
    o: int
    sim: str
    simulator: str = ""
    orders: tuple[msgspec.Raw, ...] = ()


class Ok(_FromServer, frozen=True, tag="ok"):
    """A frame was carried out."""

    ref: str
    d: Any = None


class Err(_FromServer, frozen=True, tag="err"):
    """A frame was not carried out, or could not be read; nothing else is touched by it."""

    code: str
    detail: str = ""
    ref: str | None = None
    retry_after_s: float | None = None


class ServerHeartbeat(_FromServer, frozen=True, tag="hb"):
    """To be answered by ``hb_ack`` with the same ``n``."""

    n: int


class ServerHeartbeatAck(_FromServer, frozen=True, tag="hb_ack", kw_only=True):
    """The answer to a client's heartbeat."""

    n: int
    time: int


class SimulatorState(_FromServer, frozen=True, tag="sim"):
    """Where the session's simulator stands."""

    state: str
    simulator: str = ""
    detail: str = ""


class QualityReport(_FromServer, frozen=True, tag="quality", kw_only=True):
    """How good the client's connection is, as we measure it."""

    grade: Literal["good", "degraded", "poor"]
    rtt_ms: float
    p95_ms: float
    missed: int
    reconnect: bool = False


class Warn(_FromServer, frozen=True, tag="warn"):
    """The session will end unless its user does something."""

    reason: str
    in_s: float


class Degraded(_FromServer, frozen=True, tag="degraded"):
    """Something that we depend on is away; events come later, none is lost."""

    what: str


class Restored(_FromServer, frozen=True, tag="restored"):
    """It is back."""

    what: str


class Drain(_FromServer, frozen=True, tag="drain"):
    """Come back after so long, and say this; the link is closed with 1012 soon."""

    reconnect_after_ms: int
    resume: Resume


class Replaced(_FromServer, frozen=True, tag="replaced"):
    """Another device took the session over."""

    device: str


class Ended(_FromServer, frozen=True, tag="ended"):
    """The session is over."""

    reason: str


# How a link ends


class CloseCode(NamedTuple):
    """A WebSocket close code, and whether the client should come back."""

    code: int
    name: str
    comes_back: bool
    advice: str


CLOSE_CODES: Final = (
    CloseCode(1000, "bye", False, "the client left"),
    CloseCode(1002, "not_websocket", False, "bytes that break RFC 6455: a bug of the client"),
    CloseCode(1007, "not_utf8", False, "a text message that is no UTF-8: a bug of the client"),
    CloseCode(1009, "too_large", False, "a frame was longer than allowed: a bug of the client"),
    CloseCode(1012, "restart", True, "come back and resume"),
    CloseCode(4000, "heartbeat_timeout", True, "come back and resume"),
    CloseCode(4001, "auth", True, "get a new token or ticket first, then come back and resume"),
    CloseCode(4002, "protocol", False, "frames that cannot be read: a bug of the client"),
    CloseCode(4003, "replaced", False, "another device has the session"),
    CloseCode(4008, "slow_consumer", True, "come back and resume"),
    CloseCode(4009, "session_ended", False, "the session is over"),
    CloseCode(4029, "limit", True, "wait, twice as long each time, then come back"),
)
"""Every code that we close with. Source: RFC 6455 section 7.4 (1000 to 1009), the IANA registry (1012), specification
5.4 (4xxx)."""


class Close:
    """The numbers of :data:`CLOSE_CODES`."""

    BYE: Final = 1000
    NOT_WEBSOCKET: Final = 1002
    NOT_UTF8: Final = 1007
    TOO_LARGE: Final = 1009
    RESTART: Final = 1012
    HEARTBEAT_TIMEOUT: Final = 4000
    AUTH: Final = 4001
    PROTOCOL: Final = 4002
    REPLACED: Final = 4003
    SLOW_CONSUMER: Final = 4008
    SESSION_ENDED: Final = 4009
    LIMIT: Final = 4029


class Code:
    """The ``code`` of an ``err`` frame. What may be sent again has to keep its ``id``, and is then done once."""

    BAD_FRAME: Final = "bad_frame"
    """The frame cannot be read, or its fields do not go together. Too many of them close the link with 4002."""
    UNKNOWN_TYPE: Final = "unknown_type"
    """There is no frame with this ``t``; it counts as a bad one."""
    HELLO_FIRST: Final = "hello_first"
    """A link begins with a hello."""
    HELLO_TWICE: Final = "hello_twice"
    """A link has one hello."""
    RATE_LIMITED: Final = "rate_limited"
    """More frames, commands or symbols than a link may have. Send it again after ``retry_after_s``."""
    WRONG_DEVICE: Final = "wrong_device"
    """The session is not this device's; the link is closed with 4003."""
    BAD_CURSOR: Final = "bad_cursor"
    """``resume`` names an event that the session has never had; a snapshot stands for what is replayed."""
    NO_SIMULATOR: Final = "no_simulator"
    """The session has no simulator that runs. Start one."""
    SIMULATOR_UNAVAILABLE: Final = "simulator_unavailable"
    """The simulator does not answer, and was asked nothing. Send it again after ``retry_after_s``."""
    SIMULATOR_LIMIT: Final = "simulator_limit"
    """The session may have no further simulator."""
    ORDER_REFUSED: Final = "order_refused"
    """The market refuses the order; ``detail`` says why."""
    UNAVAILABLE: Final = "unavailable"
    """Not possible now, such as while the session moves to another pod. Send it again after ``retry_after_s``."""
    OUTCOME_UNKNOWN: Final = "outcome_unknown"
    """Nobody knows whether it was done. Send it again."""
    FORBIDDEN: Final = "forbidden"
    """The session has ended; the link is closed with 4009."""
    INTERNAL: Final = "internal"
    """A bug of ours."""
