"""Frames of ``session.v1`` as a client reads them: bytes to values.

What servers encode by hand (events, rows, portfolios) has its structs here; the others are those of ``messages``. A
frame of a type that is not known is no error: a server may be newer than we are. Pure.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from sojourn.errors import WireError
from sojourn.gateways.exchange.messages import (
    Degraded,
    Drain,
    Ended,
    Err,
    Ok,
    QualityReport,
    Replaced,
    Restored,
    ServerHeartbeat,
    ServerHeartbeatAck,
    SimulatorState,
    Warn,
    Welcome,
)

_SOURCE: Final = "session.v1, server frames"
_LONGEST_DETAIL: Final = 200


class EventFrame(msgspec.Struct, frozen=True, tag_field="t", tag="ev"):
    """One event: its offset, its type, what happened."""

    o: int
    y: str
    d: Any = None


class MarketFrame(msgspec.Struct, frozen=True, tag_field="t", tag="md"):
    """Rows that make the market that of revision ``r``; with ``full`` they are all there are."""

    r: int
    rows: list[dict[str, Any]]
    full: int = 0


class PortfolioFrame(msgspec.Struct, frozen=True, tag_field="t", tag="pf"):
    """What the user has in revision ``r``."""

    r: int
    d: Any = None


class SnapshotFrame(msgspec.Struct, frozen=True, tag_field="t", tag="snapshot"):
    """Where the session stands behind event ``o`` of ``epoch``."""

    epoch: int
    o: int
    sim: str
    simulator: str = ""
    orders: list[dict[str, Any]] = []


ServerFrame = (
    Welcome
    | SnapshotFrame
    | EventFrame
    | MarketFrame
    | PortfolioFrame
    | SimulatorState
    | ServerHeartbeat
    | ServerHeartbeatAck
    | Ok
    | Err
    | QualityReport
    | Warn
    | Degraded
    | Restored
    | Drain
    | Replaced
    | Ended
)

_KNOWN: Final = frozenset(str(one.__struct_config__.tag) for one in get_args(ServerFrame))
_json: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_msgpack: msgspec.msgpack.Decoder[ServerFrame] = msgspec.msgpack.Decoder(ServerFrame)


def read_server_frame(data: bytes | str, *, is_binary: bool = False) -> ServerFrame | None:
    """Return the server's frame, or nothing for one of a type that is not known.

    Raises: WireError.
    """
    raw = data.encode() if isinstance(data, str) and is_binary else data
    try:
        return _msgpack.decode(raw) if is_binary else _json.decode(raw)  # type: ignore[arg-type]  # as encoded above
    except msgspec.ValidationError as error:
        if _is_unknown(raw, is_binary=is_binary):
            return None
        raise WireError(str(error)[:_LONGEST_DETAIL], "a frame of session.v1", _SOURCE) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wanted = "one MessagePack map" if is_binary else "one JSON object"
        raise WireError(str(error)[:_LONGEST_DETAIL], wanted, _SOURCE) from error


def _is_unknown(data: bytes | str, *, is_binary: bool) -> bool:
    """Say whether something is a frame, of a type that is none of ours."""
    found = msgspec.msgpack.decode(data) if is_binary else msgspec.json.decode(data)  # type: ignore[arg-type]  # as above
    kind = found.get("t") if isinstance(found, dict) else None
    return isinstance(kind, str) and kind not in _KNOWN
