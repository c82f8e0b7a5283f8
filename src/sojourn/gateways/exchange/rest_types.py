"""What REST requests and answers are made of: one struct each; the OpenAPI document is made of the same.

Prices and cash are decimal strings, quantities integers, times RFC 3339 strings or ``*_ms`` since 1970. Requests refuse
fields that they do not know, so that a mistyped name is not a default. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.messages import Quantity, SideName, TifName, TypeName
from sojourn.gateways.exchange.problems import FieldError

# A `$` of Python matches before a last newline too; what stands behind it forbids that and means nothing elsewhere.
SessionId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$(?!\n)",
        description="A UUID of version 7.",
        examples=["019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6071"],
    ),
]
DeviceId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+$(?!\n)")]
Symbol = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9.]{0,11}$(?!\n)", examples=["AAPL"])]
Price = Annotated[
    str,
    Meta(
        pattern=r"^(?!0+(\.0+)?$)[0-9]{1,12}(\.[0-9]{1,6})?$(?!\n)",
        description="A decimal above 0 with at most six places.",
        examples=["175.25"],
    ),
]
AttributeName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?!\n)")]
AttributeText = Annotated[str, Meta(max_length=256)]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""

    def problems(self) -> Iterator[FieldError]:
        """Yield what only several fields together, or a field's meaning, can show to be wrong."""
        return iter(())


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a client gets; newer servers may add fields."""


# Sessions


class CreateSession(_Request, frozen=True, kw_only=True):
    """Open a session on a device, or come back to the one that is there."""

    device: Annotated[
        DeviceId, Meta(description="The same for each visit of one device.", examples=["laptop-1"])
    ]
    attributes: Annotated[
        dict[AttributeName, AttributeText],
        Meta(max_length=16, description="What operators see of it, such as an app's version."),
    ] = msgspec.field(default_factory=dict)


class Simulator(_Answer, frozen=True, kw_only=True):
    """A simulator: what is wanted of it and where it stands."""

    id: str
    session: str
    desired: Literal["running", "stopped"]
    state: Literal["requested", "starting", "running", "stopping", "stopped", "failed"]
    is_unreachable: bool = False
    driver: str = ""
    failure: Annotated[str, Meta(description="Why it failed, in words for its user.")] = ""
    generation: int = 0
    observed_generation: int = 0
    created_at: datetime
    changed_at: datetime


class Session(_Answer, frozen=True, kw_only=True):
    """One user's sitting."""

    id: str
    subject: str
    state: Literal["new", "active", "detached", "ended"]
    devices: tuple[str, ...]
    links_count: int = 0
    quality: Annotated[str, Meta(description="Of its connections; empty while there is none.")] = ""
    attributes: dict[str, str] = {}
    created_at: datetime
    active_at: datetime
    detached_at: datetime | None = None
    expires_at: datetime | None = None
    pod: Annotated[str, Meta(description="That owns it; empty while none does.")] = ""
    ended_at: datetime | None = None
    ended_reason: str = ""
    ended_detail: str = ""
    simulator: Annotated[
        Simulator | None,
        Meta(description="The newest one; not in lists of what is everybody's or has ended."),
    ] = None


class SessionPage(_Answer, frozen=True, kw_only=True):
    """Sessions, the newest first."""

    sessions: tuple[Session, ...]
    next: Annotated[str, Meta(description="``before`` of the next page; empty on the last one.")] = ""


class Ticket(_Answer, frozen=True, kw_only=True):
    """Opens one WebSocket, once: as the subprotocol ``ticket.TICKET`` or the query's ``ticket``."""

    ticket: str
    expires_in_s: float
    path: str = "/v1/ws"


# Simulators


class SimulatorWish(_Request, frozen=True, kw_only=True):
    """What a session's simulator is to be; asking twice is asking once."""

    desired: Literal["running", "stopped"]
    spec: Annotated[
        MarketSettings | None,
        Meta(description="The market of a new one; none = as the server is configured."),
    ] = None

    def problems(self) -> Iterator[FieldError]:
        """Yield a file of the server's, which no client may name."""
        if self.spec is not None and self.spec.replay_file:
            yield FieldError("$.spec.replay_file", "only the operator names files")


class Progress(_Answer, frozen=True, kw_only=True):
    """One step on a simulator's way; ``done`` on the last one."""

    state: Literal["requested", "starting", "running", "stopping", "stopped", "failed"]
    detail: str = ""
    percent: Annotated[int, Meta(ge=0, le=100)] = 0
    done: bool = False
    at_ms: int = 0


# Orders


class NewOrder(_Request, frozen=True, kw_only=True):
    """Place an order; a limit order has a price, a market order none."""

    symbol: Symbol
    side: SideName
    quantity: Quantity
    type: TypeName = "limit"
    price: Price | None = None
    tif: TifName | None = None

    def problems(self) -> Iterator[FieldError]:
        """Yield what is wrong with the price."""
        if self.type == "market":
            if self.price is not None:
                yield FieldError("$.price", "a market order has none")
        elif self.price is None:
            yield FieldError("$.price", "a limit order has one")


class OrderChange(_Request, frozen=True, kw_only=True):
    """Give an order another quantity, what is filled of it included, and another price."""

    quantity: Quantity
    price: Price


class Order(_Answer, frozen=True, kw_only=True):
    """An order as it stands."""

    order: int
    request: Annotated[
        str,
        Meta(
            description="Idempotency-Key, or id of the frame, that placed it; of a key of more than 64 characters "
            "the SHA-256, in hexadecimal digits."
        ),
    ] = ""
    symbol: str
    side: SideName
    type: TypeName
    tif: TifName
    quantity: int
    filled: int
    remaining: int
    price: str | None = None
    average_price: str | None = None
    fee: str | None = None
    status: Literal["new", "partially_filled", "filled", "canceled", "rejected"]
    reason: str = ""


class OrderPage(_Answer, frozen=True, kw_only=True):
    """Orders, the newest first."""

    orders: tuple[Order, ...]
    next: Annotated[int, Meta(description="``before`` of the next page; 0 on the last one.")] = 0


# Replay


class SessionEvent(_Answer, frozen=True, kw_only=True):
    """One event of a session's log, as the WebSocket's ``ev`` frame tells it."""

    o: Annotated[int, Meta(description="Its offset.")]
    y: Annotated[str, Meta(description="Its type.")]
    d: Annotated[Any, Meta(description="What happened.")]
    at_ms: int


class EventPage(_Answer, frozen=True, kw_only=True):
    """Events behind an offset, in their order, without a gap."""

    epoch: int
    last: Annotated[int, Meta(description="Offset of the newest event there is.")]
    events: tuple[SessionEvent, ...]


class SessionSnapshot(_Answer, frozen=True, kw_only=True):
    """A session as it stands behind event ``events`` of ``epoch``; deltas go on from there."""

    epoch: int
    events: Annotated[int, Meta(description="Offset of the last event that it has.")]
    md: Annotated[int, Meta(description="Revision of the market.")]
    pf: Annotated[int, Meta(description="Revision of the portfolio.")]
    simulator: str = ""
    simulator_state: str = ""
    orders: tuple[Any, ...] = ()
    rows: Annotated[tuple[Any, ...], Meta(description="The market, as in an ``md`` frame.")] = ()
    portfolio: Any = None


# Health


class Health(_Answer, frozen=True, kw_only=True):
    """The process works."""

    status: Literal["ok"] = "ok"
    pod: str = ""


class Readiness(_Answer, frozen=True, kw_only=True):
    """Whether new sessions are welcome; a part may be degraded and the pod ready all the same."""

    ready: bool
    parts: dict[str, Literal["ok", "degraded", "down"]]
    pod: str = ""


# Administrators


class PodRow(_Answer, frozen=True, kw_only=True):
    """One process of the gateway."""

    name: str
    address: str = ""
    is_draining: bool = False
    sessions_count: int = 0
    links_count: int = 0
    version: str = ""


class PodPage(_Answer, frozen=True, kw_only=True):
    """Every pod that is alive."""

    pods: tuple[PodRow, ...]


class SimulatorPage(_Answer, frozen=True, kw_only=True):
    """Simulators, the newest first."""

    simulators: tuple[Simulator, ...]
    next: str = ""


class DrainOrder(_Request, frozen=True, kw_only=True):
    """Let a pod hand its sessions over and stop taking new ones."""

    pod: Annotated[str, Meta(max_length=253, description="Its name; empty = the one that answers.")] = ""


class Draining(_Answer, frozen=True, kw_only=True):
    """The drain has begun."""

    pod: str
    sessions_count: int = 0


class DisconnectOrder(_Request, frozen=True, kw_only=True):
    """Close connections; their sessions stay and clients come back."""

    session: SessionId | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=255)] | None = None

    def problems(self) -> Iterator[FieldError]:
        """Yield an order that names nobody, or too much."""
        if (self.session is None) == (self.subject is None):
            yield FieldError("$.session", "wanted: either session or subject")


class Disconnected(_Answer, frozen=True, kw_only=True):
    """How many connections were told to go."""

    links_count: int


# Aliases of the original's paths


class SeedCreate(_Request, frozen=True, kw_only=True, rename={"device": "deviceId"}):
    """As the original's POST /api/sessions takes it."""

    device: DeviceId


class SeedEnd(_Request, frozen=True, kw_only=True, rename={"session": "sessionId"}):
    """As the original's DELETE /api/sessions takes it."""

    session: SessionId


class SeedSession(_Answer, frozen=True, kw_only=True, rename="camel"):
    """As the original's README promises it."""

    success: bool
    session_id: str
    is_new: bool = False


class SeedSimulator(_Answer, frozen=True, kw_only=True, rename="camel"):
    """As the original answers about the caller's simulator."""

    success: bool
    status: str
    session_id: str
    simulator_id: str = ""


class SeedDone(_Answer, frozen=True, kw_only=True):
    """It is done."""

    success: bool = True


class SeedHealth(_Answer, frozen=True, kw_only=True):
    """As the original's GET /health."""

    status: Literal["UP"]
    timestamp: datetime
    pod: str


class SeedReadiness(_Answer, frozen=True, kw_only=True):
    """As the original's GET /readiness."""

    status: Literal["READY", "NOT READY"]
    timestamp: datetime
    pod: str
    checks: dict[str, str]
