"""What people and programs may ask a panel for, and the four ways it can end.

Values only; how each is carried out is in :mod:`procedures`, what it needs of the asker is ``SCOPES``.

Source: itv2-protocol.md sections 9.4 to 9.7 and 12.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.messages import Section

Result = Literal["accepted", "rejected", "unknown", "unsupported"]
Scope = Literal["read", "arm", "disarm", "bypass", "admin"]


class Asker(msgspec.Struct, frozen=True):
    """Who asks: the name of a token or an interface for the audit, and what it may do. ``admin`` may do everything.

    ``way`` is the interface for traces, such as ``REST``; empty where the name says it.
    """

    name: str
    scopes: frozenset[Scope]
    way: str = ""

    @property
    def party(self) -> str:
        """Who it is in the trace of a panel's session."""
        return f"{self.way} {self.name}".strip()


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended.

    ``accepted``: the panel agreed. ``rejected``: it did not, or nothing was sent; ``reason`` says why, for people.
    ``unknown``: nobody can say whether it was done; the state is being read anew. ``unsupported``: no public layout.
    ``code`` is the panel's own number, if it gave one. ``data`` is what a read brought.
    """

    request_id: str
    result: Result
    reason: str = ""
    code: int | None = None
    data: Any = None


class Ended(Exception):  # noqa: N818 - one of the ways in which a procedure ends, and no error
    """The procedure is over before its last line."""

    def __init__(self, result: Result, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.result: Result = result
        self.reason = reason
        self.code = code


class ArmPartition(msgspec.Struct, frozen=True):
    """Arm; ``mode`` is one of ``ArmingMode``. ``code`` None: the panel's default code, if any, else one-touch."""

    partition: int
    mode: int
    code: Secret | None = None


class DisarmPartition(msgspec.Struct, frozen=True):
    """Disarm; ``code`` None: the panel's default code."""

    partition: int
    code: Secret | None = None


class BypassZones(msgspec.Struct, frozen=True):
    """Bypass zones, or restore them."""

    partition: int
    zones: tuple[int, ...]
    is_bypassed: bool = True
    code: Secret | None = None


class BypassAndArm(msgspec.Struct, frozen=True):
    """Bypass zones, by default all that are open, then arm; what cannot be bypassed is not armed."""

    partition: int
    mode: int
    zones: tuple[int, ...] = ()
    code: Secret | None = None


class ClearBypasses(msgspec.Struct, frozen=True):
    """Restore all bypassed zones of a partition."""

    partition: int
    code: Secret | None = None


class Refresh(msgspec.Struct, frozen=True):
    """Read all statuses anew."""


class ReadLabels(msgspec.Struct, frozen=True):
    """Read all labels anew."""


class ReadUsers(msgspec.Struct, frozen=True):
    """Read users; ``data`` of the outcome: a tuple of ``User``. ``count`` 0: all. Codes are never part of it."""

    first: int = 1
    count: int = 0
    master_code: Secret | None = None


class ReadSections(msgspec.Struct, frozen=True):
    """Read programming; ``data``: a tuple of ``SectionContent``. Without sections: definitions and partitions.

    Makes partitions not ready for a moment and shows on keypads.
    """

    sections: tuple[Section, ...] = ()
    installer_code: Secret | None = None


class WriteUser(msgspec.Struct, frozen=True):
    """Change a user; None is not written. ``is_enabled`` False takes the code away. Needs ``user_writes``."""

    user: int
    code: Secret | None = None
    is_enabled: bool | None = None
    attributes: int | None = None
    partitions: tuple[int, ...] | None = None
    label: str | None = None
    master_code: Secret | None = None


class SendRaw(msgspec.Struct, frozen=True):
    """Send a word as it is, for experts; ``data``: what was answered, as hex. Never for words that carry codes."""

    word: int
    body: bytes = b""


class Unsupported(msgspec.Struct, frozen=True):
    """Something that no public layout exists for, by its key in ``UNSUPPORTED``."""

    what: str


PanelCommand = (
    ArmPartition
    | DisarmPartition
    | BypassZones
    | BypassAndArm
    | ClearBypasses
    | Refresh
    | ReadLabels
    | ReadUsers
    | ReadSections
    | WriteUser
    | SendRaw
    | Unsupported
)

SCOPES: Final[dict[type, tuple[Scope, ...]]] = {
    ArmPartition: ("arm",),
    DisarmPartition: ("disarm",),
    BypassZones: ("bypass",),
    BypassAndArm: ("bypass", "arm"),
    ClearBypasses: ("bypass",),
    Refresh: ("read",),
    ReadLabels: ("read",),
    ReadUsers: ("admin",),
    ReadSections: ("admin",),
    WriteUser: ("admin",),
    SendRaw: ("admin",),
    Unsupported: ("read",),
}
"""What the asker of each must be allowed to do, all of it."""

UNSUPPORTED: Final[dict[str, tuple[int, str]]] = {
    "output": (0x0902, "command output"),
    "panic": (0x0908, "fire, auxiliary and panic"),
    "chime": (0x0917, "door chime"),
    "clock": (0x0741, "setting the clock"),
    "quick_exit": (0x0910, "quick exit"),
    "group_bypass": (0x074B, "group bypass"),
    "auto_arm": (0x0907, "auto-arm"),
    "dls_window": (0x0905, "DLS window"),
    "call_up": (0x0906, "user call-up"),
    "system_test": (0x0903, "system test"),
    "keypad": (0x0F00, "virtual keypad"),
    "trouble_detail": (0x0822, "trouble detail"),
    "event_buffer": (0x0100, "event buffer"),
}
"""Words without a public layout, by what people ask for. A layout is added here by taking its line away.

Source: itv2-protocol.md section 9.7.
"""


class User(msgspec.Struct, frozen=True):
    """One user as ``ReadUsers`` gives it; None is what the panel did not tell. ``kind``: none, pin or tag."""

    number: int
    label: str | None = None
    is_enabled: bool | None = None
    attributes: int | None = None
    partitions: tuple[int, ...] | None = None
    kind: str | None = None


class SectionContent(msgspec.Struct, frozen=True):
    """What a section holds; may be an installer's secret, so it is shown to whoever asked and kept nowhere."""

    section: Section
    data: bytes
