"""What happens at a panel, as values: kinds, sources and the record that history, MQTT and HTTP share.

Knows nothing of who looks at it. A kind is a plain string, so that it can be stored and searched as it is.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Source = Literal["live", "pull", "replay"]
"""``live``: the panel said so when it happened; ``pull``: we asked; ``replay``: it happened before this connection."""

Detail = dict[str, str | int | float | bool]


class Kind:
    """Kinds of events. The first word says what it is about; a pair is always a pair."""

    # Zones
    ZONE_OPENED = "zone_opened"
    ZONE_CLOSED = "zone_closed"
    ZONE_UNKNOWN = "zone_unknown"
    ZONE_TAMPER = "zone_tamper"
    ZONE_TAMPER_RESTORED = "zone_tamper_restored"
    ZONE_FAULT = "zone_fault"
    ZONE_FAULT_RESTORED = "zone_fault_restored"
    ZONE_LOW_BATTERY = "zone_low_battery"
    ZONE_LOW_BATTERY_RESTORED = "zone_low_battery_restored"
    ZONE_DELINQUENT = "zone_delinquent"
    ZONE_DELINQUENT_RESTORED = "zone_delinquent_restored"
    ZONE_ALARM = "zone_alarm"
    ZONE_ALARM_RESTORED = "zone_alarm_restored"
    ZONE_ALARM_MEMORY = "zone_alarm_memory"
    ZONE_ALARM_MEMORY_CLEARED = "zone_alarm_memory_cleared"
    ZONE_BYPASSED = "zone_bypassed"
    ZONE_UNBYPASSED = "zone_unbypassed"

    # Partitions
    ARMED = "armed"
    DISARMED = "disarmed"
    EXIT_DELAY_STARTED = "exit_delay_started"
    EXIT_DELAY_ENDED = "exit_delay_ended"
    ENTRY_DELAY_STARTED = "entry_delay_started"
    ENTRY_DELAY_ENDED = "entry_delay_ended"
    READY = "ready"
    READY_TO_FORCE = "ready_to_force"
    NOT_READY = "not_ready"
    ALARM = "alarm"
    ALARM_RESTORED = "alarm_restored"
    ALARM_MEMORY = "alarm_memory"
    ALARM_MEMORY_CLEARED = "alarm_memory_cleared"
    TROUBLE = "trouble"
    TROUBLE_RESTORED = "trouble_restored"
    BYPASS = "bypass"
    BYPASS_CLEARED = "bypass_cleared"
    PROGRAMMING_STARTED = "programming_started"
    PROGRAMMING_ENDED = "programming_ended"
    SIREN_STARTED = "siren_started"
    SIREN_ENDED = "siren_ended"
    FIRE_PRE_ALERT = "fire_pre_alert"
    FIRE_PRE_ALERT_ENDED = "fire_pre_alert_ended"
    CHIME_ON = "chime_on"
    CHIME_OFF = "chime_off"

    # The panel
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    USERS_CHANGED = "users_changed"
    CONFIGURATION_CHANGED = "configuration_changed"
    CLOCK_WRONG = "clock_wrong"
    CLOCK_RIGHT = "clock_right"
    CHIME = "chime"
    TEXT = "text"
    UNKNOWN_MESSAGE = "unknown_message"

    # What somebody asked for through us
    COMMAND = "command"


KINDS: Final = tuple(value for name, value in vars(Kind).items() if name.isupper())
"""Every kind, in the order above."""


class PanelEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    ``at_ms`` is when we heard of it (unix ms); ``panel_time`` the panel's own local time where a message gave one or,
    in a replay, the last one before it. ``is_approximate``: it happened at some time before ``at_ms``. ``detail`` has
    plain values by name: ``zone_label``, ``partition_label`` and ``user_label`` as they were then, and what the kind
    has (``mode``, ``method``, ``seconds``, ``asker``, ``result`` ...). Never a code.
    """

    panel: str
    at_ms: int
    source: Source
    kind: str
    partition: int | None = None
    zone: int | None = None
    user: int | None = None
    detail: Detail = msgspec.field(default_factory=dict)
    panel_time: str | None = None
    is_approximate: bool = False
