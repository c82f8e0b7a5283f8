"""The other end of the exchange gateway: a user's program, for ``sojourn probe exchange``, demos and tests."""

from sojourn.gateways.exchange.messages import Resume
from sojourn.gateways.exchange.peer.calls import Declined, Token
from sojourn.gateways.exchange.peer.client import ExchangeClient
from sojourn.gateways.exchange.peer.live import LiveSession, Placed
from sojourn.gateways.exchange.peer.mirror import SNAPSHOT, LiveEvent
from sojourn.gateways.exchange.peer.returning import Dismissed
from sojourn.gateways.exchange.peer.stats import LiveStats

__all__ = [
    "SNAPSHOT",
    "Declined",
    "Dismissed",
    "ExchangeClient",
    "LiveEvent",
    "LiveSession",
    "LiveStats",
    "Placed",
    "Resume",
    "Token",
]
