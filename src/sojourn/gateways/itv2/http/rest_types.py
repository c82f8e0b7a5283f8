"""What goes over HTTP: bodies of requests and of answers, and with them the schemas of the OpenAPI document.

Every value of a panel comes with since when it is so, by what means we know, and whether it may have changed unseen.
Codes come in and never go out. Units: ``*_ms`` are unix milliseconds, ``*_s`` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sojourn.gateways.itv2.commands import Result, Scope
from sojourn.gateways.itv2.events import Detail, Source
from sojourn.gateways.itv2.history.records import Entry
from sojourn.gateways.itv2.state import Capabilities, PartitionState, Value, ZoneState
from sojourn.gateways.itv2.views import Phase
from sojourn.web.problems import FieldError

Mode = Literal[
    "stay",
    "away",
    "no_entry_delay",
    "night",
    "quick",
    "user",
    "stay_no_entry_delay",
    "away_no_entry_delay",
    "night_no_entry_delay",
    "global_stay",
    "global_away",
    "custom_a",
    "custom_b",
    "custom_c",
    "custom_d",
    "instant_stay",
    "hidden",
]
"""The modes that one may ask for; not every panel has each."""

UnsupportedName = Literal[
    "output",
    "panic",
    "chime",
    "clock",
    "quick_exit",
    "group_bypass",
    "auto_arm",
    "dls_window",
    "call_up",
    "system_test",
    "keypad",
    "trouble_detail",
    "event_buffer",
]
"""What nobody can ask a panel for, as no public layout exists."""

Code = Annotated[str, Meta(pattern=r"^([0-9]{4}|[0-9]{6}|[0-9]{8})$", description="4, 6 or 8 digits.")]
ZoneNumber = Annotated[int, Meta(ge=1, le=255)]
PartitionNumber = Annotated[int, Meta(ge=1, le=32)]
UserNumber = Annotated[int, Meta(ge=1, le=1_000)]
Hex = Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})*$", max_length=512)]
Word = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{4}$", description="Four hex digits.")]
DETAILS_COUNT = 255


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request. Its text form shows no field: there may be a code in it."""

    def problems(self) -> Iterator[FieldError]:
        """Yield what no schema says."""
        return iter(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


# What is ordered


class ArmBody(Body, frozen=True):
    """Arm. Without a code the panel's configured one is sent, if any; else it is one-touch arming."""

    mode: Mode
    code: Code | None = None


class CodeBody(Body, frozen=True):
    """A command that needs nothing but a code; without one the panel's configured one is sent."""

    code: Code | None = None


class BypassBody(Body, frozen=True):
    """Bypass zones, or with ``is_bypassed`` false restore them."""

    zones: Annotated[tuple[ZoneNumber, ...], Meta(min_length=1, max_length=DETAILS_COUNT)]
    is_bypassed: bool = True
    code: Code | None = None


class BypassAndArmBody(Body, frozen=True):
    """Bypass zones, by default all that are open, then arm."""

    mode: Mode
    zones: Annotated[tuple[ZoneNumber, ...], Meta(max_length=DETAILS_COUNT)] = ()
    code: Code | None = None


class ReadUsersBody(Body, frozen=True):
    """Read users from ``first`` on; a count of 0 reads all."""

    first: UserNumber = 1
    count: Annotated[int, Meta(ge=0, le=1_000)] = 0
    master_code: Code | None = None


class WriteUserBody(Body, frozen=True):
    """Change a user; what is left out is not written. ``is_enabled`` false takes the code away.

    ``attributes`` are bits: 1 supervisor, 2 duress, 4 may bypass, 8 remote access, 64 bell squawk, 128 one-time.
    """

    code: Code | None = None
    is_enabled: bool | None = None
    attributes: Annotated[int, Meta(ge=0, le=255)] | None = None
    partitions: Annotated[tuple[PartitionNumber, ...], Meta(max_length=32)] | None = None
    label: Annotated[str, Meta(max_length=14)] | None = None
    master_code: Code | None = None

    def problems(self) -> Iterator[FieldError]:
        """Yield an order to write nothing."""
        wanted = (self.code, self.is_enabled, self.attributes, self.partitions, self.label)
        if all(one is None for one in wanted):
            yield FieldError("$", "wanted at least one of code, is_enabled, attributes, partitions, label")


class SectionAt(Body, frozen=True):
    """Where a section is: ``[001][005]`` is the address 1, 5."""

    address: Annotated[tuple[Annotated[int, Meta(ge=0, le=65_535)], ...], Meta(min_length=1, max_length=8)]
    count: Annotated[int, Meta(ge=0, le=255)] = 0
    module: Annotated[int, Meta(ge=0, le=255)] | None = None
    index: Annotated[int, Meta(ge=0, le=255)] | None = None
    is_virtual: bool = False


class ReadSectionsBody(Body, frozen=True):
    """Read programming; without sections the zones' definitions and partitions.

    Makes partitions not ready for a moment, and shows on keypads.
    """

    sections: Annotated[tuple[SectionAt, ...], Meta(max_length=64)] = ()
    installer_code: Code | None = None


class RawBody(Body, frozen=True):
    """A word and its body as they are, for experts. Words that carry codes are refused."""

    word: Word
    body: Hex = ""


class UnsupportedBody(Body, frozen=True):
    """Something that there is no public layout for: the answer says so."""

    what: UnsupportedName


class User(msgspec.Struct, frozen=True):
    """One user; null is what the panel did not tell. A code is never told."""

    number: int
    label: str | None
    is_enabled: bool | None
    attributes: int | None
    partitions: tuple[int, ...] | None
    kind: str | None


class SectionContent(msgspec.Struct, frozen=True):
    """What a section holds, as hex."""

    address: tuple[int, ...]
    data: str


class CommandOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a command ended.

    ``accepted``: the panel agreed. ``rejected``: it did not, or nothing was sent; ``reason`` says why. ``unknown``:
    nobody can say whether it was done, and it is not sent again; the state is being read anew. ``unsupported``: no
    public layout. ``panel_code`` is the panel's own number. ``users``, ``sections`` and ``answer`` (hex) are what a
    read brought.
    """

    request_id: str
    panel: str
    result: Result
    reason: str = ""
    panel_code: int | None = None
    users: tuple[User, ...] = ()
    sections: tuple[SectionContent, ...] = ()
    answer: str = ""


# What there is


class Zone(ZoneState, kw_only=True):
    """One zone; null is what nobody has told yet. ``device_class`` is in Home Assistant's words."""

    number: int
    device_class: str


class ChangedBy(msgspec.Struct, frozen=True):
    """Who armed or disarmed; user 0 = nobody known."""

    user: int
    label: str
    method: str


class Partition(PartitionState, kw_only=True):
    """One partition; null is what nobody has told yet. ``mode`` is ``disarm`` where it is not armed."""

    number: int
    mode: Value[str] | None = None  # type: ignore[assignment]  # in words here
    changed_by: Value[ChangedBy] | None = None  # type: ignore[assignment]  # as above


class PanelSummary(msgspec.Struct, frozen=True):
    """One panel. ``diagnosis``: the connection doctor's last sentence, empty where all is well."""

    name: str
    integration_id: str
    phase: Phase
    is_connected: bool
    is_stale: bool
    diagnosis: str
    connected_since_ms: int
    last_heard_ms: int
    zones_count: int
    partitions_count: int


class PanelDetail(msgspec.Struct, frozen=True):
    """One panel and everything that is known of it."""

    name: str
    integration_id: str
    phase: Phase
    is_connected: bool
    is_stale: bool
    diagnosis: str
    connected_since_ms: int
    last_heard_ms: int
    trouble: Value[bool] | None
    capabilities: Value[Capabilities] | None
    firmware: Value[str] | None
    software: Value[str] | None
    protocol: Value[str] | None
    encryption_type: Value[int] | None
    clock: Value[str] | None
    clock_drift_s: Value[int] | None
    partitions: tuple[Partition, ...]
    zones: tuple[Zone, ...]
    users: dict[str, Value[str]]


class Panels(msgspec.Struct, frozen=True):
    """Panels by name."""

    panels: tuple[PanelSummary, ...]


class Zones(msgspec.Struct, frozen=True):
    """Zones by number."""

    zones: tuple[Zone, ...]


class Partitions(msgspec.Struct, frozen=True):
    """Partitions by number."""

    partitions: tuple[Partition, ...]


class Event(msgspec.Struct, frozen=True):
    """Something that happened; ``at_ms`` is when we heard of it, ``panel_time`` the panel's own clock."""

    at_ms: int
    kind: str
    source: Source
    partition: int | None
    zone: int | None
    user: int | None
    detail: Detail
    panel_time: str | None
    is_approximate: bool


class HistoryPage(msgspec.Struct, frozen=True):
    """Entries in order; ``cursor`` is that of the next page, empty: this was the last."""

    entries: tuple[Entry, ...]
    cursor: str


class UnsupportedCommand(msgspec.Struct, frozen=True):
    """Something that panels can do and nobody has published how to ask for."""

    what: str
    word: str
    meaning: str


class UnsupportedCommands(msgspec.Struct, frozen=True):
    """All of them."""

    commands: tuple[UnsupportedCommand, ...]


# The gateway itself


class TokenInfo(msgspec.Struct, frozen=True):
    """Whose token this is and what it may do; no panels = all."""

    name: str
    scopes: tuple[Scope, ...]
    panels: tuple[str, ...]
    needs_code: bool


class Ticket(msgspec.Struct, frozen=True):
    """Opens one WebSocket, as the subprotocol ``ticket.TICKET``."""

    ticket: str
    expires_in_s: float


class FailedHandshake(msgspec.Struct, frozen=True):
    """A connection that came to nothing. ``panel``: its name or Integration ID, empty where neither is known."""

    at_ms: int
    panel: str
    peer: str
    sentence: str


class Doctor(msgspec.Struct, frozen=True):
    """How every panel's connection stands, and what failed lately, the newest first."""

    panels: tuple[PanelSummary, ...]
    failures: tuple[FailedHandshake, ...]


class LearnBody(Body, frozen=True):
    """For how long panels that are not configured are remembered; they get no answer."""

    for_s: Annotated[float, Meta(gt=0, le=3_600)] = 300.0


class LearntPanel(msgspec.Struct, frozen=True):
    """A panel that is not configured and called; ``encryption_type`` as in its OpenSession."""

    integration_id: str
    encryption_type: int
    firmware: str
    peer: str
    at_ms: int


class Learning(msgspec.Struct, frozen=True):
    """Whether the gateway learns, and who has called; 0 s = it does not."""

    left_s: float
    panels: tuple[LearntPanel, ...]


class Health(msgspec.Struct, frozen=True):
    """The process works."""

    status: Literal["up"]
    version: str
