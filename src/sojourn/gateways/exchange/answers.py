"""Answers: what the database, the view and the market say, in the words of REST clients; and every no as a problem.

Pure. Knows no HTTP library; the shapes are ``rest_types``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sojourn.gateways.exchange import rest_types as t
from sojourn.gateways.exchange import rows
from sojourn.gateways.exchange.event_log import LogEvent
from sojourn.gateways.exchange.links import Refused
from sojourn.gateways.exchange.messages import Code
from sojourn.gateways.exchange.problems import Kind, ProblemType, Refusal
from sojourn.gateways.exchange.rows import RefusalReason, SessionRow, SimulatorRow

_KINDS: Final = {
    Code.BAD_FRAME: Kind.INVALID,
    Code.RATE_LIMITED: Kind.LIMIT,
    Code.NO_SIMULATOR: Kind.CONFLICT,
    Code.SIMULATOR_UNAVAILABLE: Kind.UNAVAILABLE,
    Code.SIMULATOR_LIMIT: Kind.LIMIT,
    Code.ORDER_REFUSED: Kind.ORDER_REFUSED,
    Code.UNAVAILABLE: Kind.UNAVAILABLE,
    Code.OUTCOME_UNKNOWN: Kind.OUTCOME_UNKNOWN,
    Code.FORBIDDEN: Kind.ENDED,
}
"""Why a command is not done, in a frame and over REST; what is not here is a bug of ours."""


def session_answer(row: SessionRow, simulator: SimulatorRow | None = None) -> t.Session:
    """Return a session as its user sees it."""
    return t.Session(
        id=row.id,
        subject=row.subject,
        state=row.state.value,
        devices=row.devices,
        links_count=row.links_count,
        quality=row.quality,
        attributes=row.attributes,
        created_at=row.created_at,
        active_at=row.active_at,
        detached_at=row.detached_at,
        expires_at=row.expires_at,
        pod=row.owner_pod,
        ended_at=row.ended_at,
        ended_reason="" if row.ended_reason is None else row.ended_reason.value,
        ended_detail=row.ended_detail,
        simulator=None if simulator is None else simulator_answer(simulator),
    )


def simulator_answer(row: SimulatorRow) -> t.Simulator:
    """Return a simulator as its user sees it."""
    return t.Simulator(
        id=row.id,
        session=row.session_id,
        desired=row.desired.value,
        state=row.state.value,
        is_unreachable=row.is_unreachable,
        driver=row.driver,
        failure=str((row.failure or {}).get("detail", "")),
        generation=row.generation,
        observed_generation=row.observed_generation,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def order_answer(body: bytes) -> t.Order:
    """Return an order as its last event told it."""
    value: dict[str, Any] = msgspec.json.decode(body)
    value["request"] = value.pop("id", "")
    return msgspec.convert(value, t.Order)


def event_answer(event: LogEvent) -> t.SessionEvent:
    """Return an event as the WebSocket tells it; its body is passed on as it was encoded."""
    return t.SessionEvent(o=event.offset, y=event.type, d=msgspec.Raw(event.body), at_ms=event.at_ms)


def refusal_of(refused: Refused) -> Refusal:
    """Return the problem that stands for the code of an ``err`` frame."""
    kind: ProblemType = _KINDS.get(refused.code, Kind.INTERNAL)
    is_word = kind is Kind.ORDER_REFUSED
    return Refusal(
        kind,
        "" if is_word else refused.detail,
        reason=refused.detail if is_word else refused.code,
        retry_after_s=refused.retry_after_s or 0.0,
    )


def store_refusal_of(refusal: rows.Refusal) -> Refusal:
    """Return the problem that stands for what the database refuses."""
    match refusal.reason:
        case RefusalReason.OTHER_DEVICE:
            return Refusal(Kind.DEVICE_MISMATCH, reason=refusal.reason.value)
        case RefusalReason.DEVICES_FULL:
            detail = f"at most {refusal.limit} devices at once"
            return Refusal(Kind.DEVICE_MISMATCH, detail, reason=refusal.reason.value)
        case RefusalReason.SESSIONS_LIMIT | RefusalReason.SIMULATORS_LIMIT:
            return Refusal(Kind.LIMIT, f"at most {refusal.limit}", reason=refusal.reason.value)
        case RefusalReason.SESSION_ENDED:
            return Refusal(Kind.ENDED)
