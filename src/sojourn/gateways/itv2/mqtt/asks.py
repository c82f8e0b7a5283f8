"""What comes in on command topics, read into commands of a panel; decides what needs a code.

Never shows a message: it may hold a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.commands import (
    ArmPartition,
    BypassAndArm,
    BypassZones,
    ClearBypasses,
    DisarmPartition,
    PanelCommand,
    Refresh,
)
from sojourn.gateways.itv2.hub_config import is_code
from sojourn.gateways.itv2.messages import ArmingMode
from sojourn.gateways.itv2.mqtt.config import MqttSettings
from sojourn.gateways.itv2.mqtt.topics import Target
from sojourn.gateways.itv2.panels import Panel

ARMING: Final = {
    "ARM_AWAY": ArmingMode.AWAY,
    "ARM_HOME": ArmingMode.STAY,
    "ARM_NIGHT": ArmingMode.NIGHT,
    "ARM_AWAY_NO_ENTRY": ArmingMode.AWAY_NO_ENTRY_DELAY,
    "ARM_HOME_NO_ENTRY": ArmingMode.STAY_NO_ENTRY_DELAY,
    "ARM_NIGHT_NO_ENTRY": ArmingMode.NIGHT_NO_ENTRY_DELAY,
}
"""Actions that arm; the first three are Home Assistant's. Source: MQTT alarm control panel, payload_arm_away ..."""

ACTIONS: Final = {
    "partition": (*ARMING, "DISARM", "CLEAR_BYPASSES"),
    "zone": ("ON", "OFF"),
    "panel": ("REFRESH",),
}
"""What each kind of command topic takes."""

_NO_CODE: Final = frozenset({"", "None"})
"""What a template makes of a code that nobody typed."""


class Ask(msgspec.Struct, frozen=True):
    """A command message: the action alone, or JSON with these keys."""

    action: Annotated[str, Meta(max_length=32)]
    code: Annotated[str, Meta(max_length=16)] | Annotated[int, Meta(ge=0, le=99_999_999)] | None = None
    request_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None
    zones: Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], Meta(max_length=1024)] | None = None
    """To bypass before arming; an empty list stands for all that are open."""
    partition: Annotated[int, Meta(ge=1, le=32)] | None = None
    """Of a zone to bypass; without it, the first of the zone's."""


class RefusedError(Exception):
    """A message that leads to no command; its text is for whoever sent it, and holds nothing of the message."""

    def __init__(self, reason: str, request_id: str = "") -> None:
        super().__init__(reason)
        self.request_id = request_id


_decoder = msgspec.json.Decoder(Ask)


def read(payload: bytes, limit_bytes: int) -> Ask:
    """Read a command message.

    Raises: RefusedError.
    """
    if len(payload) > limit_bytes:
        raise RefusedError(f"the message is longer than {limit_bytes} bytes")
    if payload.lstrip()[:1] != b"{":
        try:
            word = payload.decode("ascii").strip()
        except UnicodeDecodeError:
            word = ""
        if word.isdigit() or not word or len(word) > 32:  # noqa: PLR2004  as in Ask
            raise RefusedError("wanted an action, or JSON with action, code and request_id")
        return Ask(word)
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError:
        # msgspec's own text may quote what it found.
        raise RefusedError("wanted JSON with action, code and request_id, as documented") from None


def command(ask: Ask, target: Target, panel: Panel, settings: MqttSettings) -> PanelCommand:
    """Return what the panel is asked for.

    Raises: RefusedError where it is not allowed here, or a code is missing.
    """
    if ask.action not in ACTIONS[target.scope]:
        raise RefusedError(f"wanted one of {', '.join(ACTIONS[target.scope])}", ask.request_id or "")
    code = _code(ask)
    if target.scope == "panel":
        return Refresh()
    if target.scope == "zone":
        _check("bypass", code, settings, ask)
        partition = ask.partition or _partition_of(panel, target.number)
        return BypassZones(partition, (target.number,), is_bypassed=ask.action == "ON", code=code)
    if ask.action == "DISARM":
        _check("disarm", code, settings, ask)
        return DisarmPartition(target.number, code)
    if ask.action == "CLEAR_BYPASSES":
        _check("bypass", code, settings, ask)
        return ClearBypasses(target.number, code)
    if ask.zones is not None:
        _check("bypass", code, settings, ask)
        _check("arm", code, settings, ask)
        return BypassAndArm(target.number, ARMING[ask.action], ask.zones, code)
    _check("arm", code, settings, ask)
    return ArmPartition(target.number, ARMING[ask.action], code)


def asked(ask: Ask | None, target: Target) -> Mapping[str, Any]:
    """Return what a result says about its command: never the code, and no word that is not ours."""
    known = ask is not None and ask.action in ACTIONS[target.scope]
    said: dict[str, Any] = {"action": ask.action if ask is not None and known else None}
    if target.scope != "panel":
        said[target.scope] = target.number
    return said


def _code(ask: Ask) -> Secret | None:
    text = str(ask.code) if ask.code is not None else ""
    if text in _NO_CODE:
        return None
    if not is_code(text):
        raise RefusedError("a code has 4, 6 or 8 digits", ask.request_id or "")
    return Secret(text)


def _check(scope: str, code: Secret | None, settings: MqttSettings, ask: Ask) -> None:
    if scope not in settings.allow:
        raise RefusedError(f"{scope} is not in allow of [itv2.mqtt]", ask.request_id or "")
    is_needed = settings.arming_needs_code if scope == "arm" else not settings.may_use_default_code
    if code is None and is_needed:
        raise RefusedError("a code is needed", ask.request_id or "")


def _partition_of(panel: Panel, zone: int) -> int:
    """Return a partition of the zone; the lowest there is where nobody knows."""
    state = panel.state.zones.get(zone)
    if state is not None and state.partitions is not None and state.partitions.value:
        return state.partitions.value[0]
    return min(panel.state.partitions, default=1)
