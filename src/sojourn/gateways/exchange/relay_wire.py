"""What the pods tell each other about a session: news from its owner, and commands to it. MessagePack, tagged by ``k``.

News of one tick travel in one message. Market rows say from which revision they go on, so that a pod that has missed
a message notices and asks for the whole state. Commands are the clients' own frames, and what pods want themselves.

Source: exchange-session-service.md section 5.6, the relay for transitions.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sojourn.errors import WireError
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.messages import CancelOrder, PlaceOrder, ReplaceOrder, SimulatorCommand
from sojourn.gateways.exchange.rows import Desired, Json

_SOURCE: Final = "the relay between pods"

Row = tuple[str, Any, int]
"""Symbol, value and revision."""


class MarketNews(msgspec.Struct, frozen=True, array_like=True):
    """Rows that changed after revision ``since``; ``since`` 0: all rows."""

    base: int
    since: int
    revision: int
    rows: tuple[Row, ...]


class PortfolioNews(msgspec.Struct, frozen=True, array_like=True):
    """The portfolio of a revision."""

    revision: int
    value: Any


class News(msgspec.Struct, frozen=True, tag_field="k", tag="news", omit_defaults=True, kw_only=True):
    """What has happened since the last news; ``frames`` are control frames for every link, as JSON."""

    epoch: int
    events: tuple[LogEvent, ...] = ()
    market: MarketNews | None = None
    portfolio: PortfolioNews | None = None
    simulator: str = ""
    simulator_state: str = ""
    devices: tuple[str, ...] | None = None
    devices_at_us: int = 0
    frames: tuple[bytes, ...] = ()
    ended: str = ""


class State(msgspec.Struct, frozen=True, tag_field="k", tag="state", kw_only=True):
    """All that a follower needs besides the durable log: as of event ``last`` of ``epoch``."""

    epoch: int
    last: int
    market: MarketNews
    portfolio: PortfolioNews | None
    simulator: str
    simulator_state: str
    orders: tuple[bytes, ...]
    devices: tuple[str, ...]
    devices_at_us: int
    degraded: tuple[str, ...] = ()


class Follow(msgspec.Struct, frozen=True, tag_field="k", tag="follow", kw_only=True):
    """A pod has links of the session, and wants its news for the next ``for_s``; the answer is a State.

    With ``for_s`` 0 it wants them no more. Without ``wants_state`` the answer is Done.
    """

    pod: str
    links_count: int
    for_s: float
    is_active: bool = False
    wants_state: bool = True


class Do(msgspec.Struct, frozen=True, tag_field="k", tag="do"):
    """Carry out a client's command; the answer is Done or Failed."""

    command: PlaceOrder | CancelOrder | ReplaceOrder | SimulatorCommand


class Want(msgspec.Struct, frozen=True, tag_field="k", tag="want"):
    """Want a simulator, or want none; the answer is Done with its id, "" for none, and whether that changed anything.

    ``spec`` is the market of a new one; None = as the owner is configured.
    """

    desired: Desired
    spec: Json | None


class HandOver(msgspec.Struct, frozen=True, tag_field="k", tag="hand_over"):
    """A leaving owner asks a pod to take the session: it has the lease already, under ``epoch``."""

    epoch: int


class Devices(msgspec.Struct, frozen=True, tag_field="k", tag="devices"):
    """The session's devices are these, as of a moment; ``newest`` took over.

    ``at_us`` is the ``active_at`` of the row that says so: what comes late of two changes must not undo the other.
    """

    devices: tuple[str, ...]
    newest: str
    at_us: int


class End(msgspec.Struct, frozen=True, tag_field="k", tag="end"):
    """The session is over."""

    reason: str


class Warn(msgspec.Struct, frozen=True, tag_field="k", tag="warn"):
    """The session will end in so many seconds: tell every client."""

    reason: str
    in_s: float


class Disconnect(msgspec.Struct, frozen=True, tag_field="k", tag="disconnect"):
    """Close the session's links on this pod, whoever owns it; the answer is Done with how many there were."""


class Describe(msgspec.Struct, frozen=True, tag_field="k", tag="describe"):
    """Say how this pod is, of which sessions are no matter; the answer is Done with a PodReport."""


class Leave(msgspec.Struct, frozen=True, tag_field="k", tag="leave"):
    """Begin to drain; the answer is Done with a PodReport."""


class PodReport(msgspec.Struct, frozen=True):
    """A pod as it describes itself."""

    sessions_count: int
    links_count: int
    version: str


class Done(msgspec.Struct, frozen=True, tag_field="k", tag="done"):
    """A command was carried out."""

    value: Any = None


class Failed(msgspec.Struct, frozen=True, tag_field="k", tag="failed", kw_only=True):
    """A command was not carried out, for a reason that its client gets."""

    code: str
    detail: str
    retry_after_s: float | None = None


class NotOwner(msgspec.Struct, frozen=True, tag_field="k", tag="not_owner"):
    """The pod that was asked does not own the session."""


OwnerAsk = Follow | Do | Want | Devices | End | Warn
PodAsk = Describe | Leave
Ask = OwnerAsk | HandOver | Disconnect | PodAsk
Answer = State | Done | Failed | NotOwner

_encode = msgspec.msgpack.Encoder().encode
_news: msgspec.msgpack.Decoder[News] = msgspec.msgpack.Decoder(News)
_asks: msgspec.msgpack.Decoder[Ask] = msgspec.msgpack.Decoder(Ask)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def write(what: News | Ask | Answer) -> bytes:
    """Return the bytes of a message."""
    return _encode(what)


def read_news(data: bytes) -> News:
    """Return news. Raises: WireError for anything else."""
    news: News = _read(_news, data)
    return news


def read_ask(data: bytes) -> Ask:
    """Return a command. Raises: WireError for anything else."""
    ask: Ask = _read(_asks, data)
    return ask


def read_answer(data: bytes) -> Answer:
    """Return an answer. Raises: WireError for anything else."""
    answer: Answer = _read(_answers, data)
    return answer


def _read(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise WireError(str(error), "a message of another pod of this version", _SOURCE) from error
