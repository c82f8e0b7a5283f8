"""The names of all topics, made and read in one place.

Panels' names are letters, digits, ``_`` and ``-``, so they are topic levels as they are.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

ONLINE = "online"
OFFLINE = "offline"

_STATE = re.compile(r"(?P<panel>[A-Za-z0-9_-]+)/(?:panel|availability|(?:partition|zone)/\d+)")
_COMMAND = re.compile(
    r"(?P<panel>[A-Za-z0-9_-]+)/(?:partition/(?P<partition>\d{1,4})/|zone/(?P<zone>\d{1,4})/bypass/)?set"
)


class Target(NamedTuple):
    """What a command topic names."""

    panel: str
    scope: Literal["panel", "partition", "zone"]
    number: int = 0


class Topics:
    """Topics below two prefixes, the gateway's own and Home Assistant's."""

    def __init__(self, prefix: str, discovery_prefix: str) -> None:
        self._prefix = prefix
        self._discovery = discovery_prefix
        self._node = prefix.replace("/", "_")
        self.status = f"{prefix}/status"
        self.sync = f"{prefix}/sync"
        """Where we hear ourselves: what comes behind it was published later."""
        self.commands = (
            f"{prefix}/+/set",
            f"{prefix}/+/partition/+/set",
            f"{prefix}/+/zone/+/bypass/set",
        )
        self.home_assistant = f"{discovery_prefix}/status" if discovery_prefix else ""
        self.availabilities = f"{prefix}/+/availability"
        """One message for each panel that the broker has heard of."""

    def panel(self, panel: str) -> str:
        """Return where phase, trouble, firmware ... of a panel are."""
        return f"{self._prefix}/{panel}/panel"

    def availability(self, panel: str) -> str:
        """Return where it is said whether all else about a panel is true now."""
        return f"{self._prefix}/{panel}/availability"

    def partition(self, panel: str, number: int) -> str:
        """Return where a partition's state is."""
        return f"{self._prefix}/{panel}/partition/{number}"

    def zone(self, panel: str, number: int) -> str:
        """Return where a zone's state is."""
        return f"{self._prefix}/{panel}/zone/{number}"

    def event(self, panel: str) -> str:
        """Return where it is told what happens at a panel."""
        return f"{self._prefix}/{panel}/event"

    def result(self, panel: str) -> str:
        """Return where it is told how commands ended."""
        return f"{self._prefix}/{panel}/result"

    def partition_command(self, panel: str, number: int) -> str:
        """Return where arming and disarming is asked for."""
        return f"{self.partition(panel, number)}/set"

    def bypass_command(self, panel: str, number: int) -> str:
        """Return where bypassing is asked for."""
        return f"{self.zone(panel, number)}/bypass/set"

    def node_of(self, panel: str) -> str:
        """Return a panel's name among all that announce entities to Home Assistant."""
        return f"{self._node}_{panel}"

    def config(self, component: str, panel: str, key: str) -> str:
        """Return where Home Assistant learns of an entity."""
        return f"{self._discovery}/{component}/{self.node_of(panel)}/{key}/config"

    def config_of(self, topic: str) -> str:
        """Return the panel of a topic of :meth:`config`; empty for other topics."""
        levels = topic.removeprefix(f"{self._discovery}/").split("/")
        if not self._discovery or len(levels) != 4 or levels[3] != "config":  # noqa: PLR2004
            return ""
        node, _, panel = levels[1].partition(f"{self._node}_")
        return "" if node else panel

    def kept_of(self, panel: str) -> tuple[tuple[str, ...], ...]:
        """Return all that the broker may hold of a panel, in portions that it can hand over at once.

        Mosquitto drops what is more than ``max_queued_messages`` (1,000), its answers to us among it.
        """
        states = (self.panel(panel), f"{self._prefix}/{panel}/partition/+", f"{self._prefix}/{panel}/zone/+")
        if not self._discovery:
            return (states,)
        # Of 128 zones and 8 partitions, the most that a panel has, these are 137 and 816.
        return (states, (f"{self._discovery}/+/{self.node_of(panel)}/+/config",))

    def panel_of(self, topic: str) -> str:
        """Return whose state is on a topic; empty for other topics."""
        found = _STATE.fullmatch(topic.removeprefix(f"{self._prefix}/"))
        return found["panel"] if found and topic.startswith(f"{self._prefix}/") else ""

    def target(self, topic: str) -> Target | None:
        """Return what a command topic names, None for every other topic."""
        found = _COMMAND.fullmatch(topic.removeprefix(f"{self._prefix}/"))
        if found is None or not topic.startswith(f"{self._prefix}/"):
            return None
        if found["partition"]:
            return Target(found["panel"], "partition", int(found["partition"]))
        if found["zone"]:
            return Target(found["panel"], "zone", int(found["zone"]))
        return Target(found["panel"], "panel")
