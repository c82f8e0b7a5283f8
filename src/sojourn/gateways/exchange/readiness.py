"""Readiness: whether new sessions are welcome on this pod, made of how each thing is that it depends on.

Only what no session can be made without makes a pod unready. An issuer that is away must not: all pods see the same
one, and the sessions that are there would lose every place to come back to.

Source: exchange-session-service.md section 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from sojourn.gateways.exchange.rest_types import Readiness

PartState = Literal["ok", "degraded", "down"]
NEEDED: Final = frozenset({"database"})
"""Parts without which no session can be made; others that are down are degraded for those who ask."""


class PodSelf(Protocol):
    """A process of the gateway, as it knows itself."""

    @property
    def version(self) -> str:
        """Of the program."""

    @property
    def is_ready(self) -> bool:
        """It is up, and not about to leave."""

    def checks(self) -> Mapping[str, PartState]:
        """Return how each thing is that the pod depends on: database, bus, auth, simulators."""

    async def ask_to_drain(self) -> None:
        """Begin to leave; returns at once."""


def readiness(pod: PodSelf, name: str) -> Readiness:
    """Return whether a pod of that name is ready."""
    checks = pod.checks()
    parts: dict[str, PartState] = {
        part: "degraded" if state == "down" and part not in NEEDED else state
        for part, state in checks.items()
    }
    is_ready = pod.is_ready and not any(checks.get(part) == "down" for part in NEEDED)
    return Readiness(ready=is_ready, parts=parts, pod=name)
