"""Settings of the panels' hub: ``[itv2.state]``, ``[itv2.lockout]``, and what every panel's table has in common.

Declares names, units, defaults and help; knows nothing of listeners, keys or how the values are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Seconds, Settings

CODE_DIGITS: Final = (4, 6, 8)
"""How long an access code may be: a 5-digit code is the same on the wire as a 6-digit one that ends in 0.

Source: itv2-protocol.md section 9.4.
"""

DeviceClass = Literal[
    "carbon_monoxide",
    "cold",
    "door",
    "garage_door",
    "gas",
    "heat",
    "moisture",
    "motion",
    "opening",
    "problem",
    "safety",
    "smoke",
    "sound",
    "tamper",
    "vibration",
    "window",
]
"""Of Home Assistant's binary sensors, those that a zone can be."""


class LockoutSettings(Settings, frozen=True):
    """When codes are not sent to a panel any more, so that nobody locks out its keypads by guessing from afar."""

    failures_count: Annotated[
        int,
        Meta(ge=1, description="Wrong codes for one partition, or of one asker, within window_s."),
    ] = 3
    panel_failures_count: Annotated[
        int, Meta(ge=1, description="The same for all partitions of a panel together.")
    ] = 5
    window_s: Annotated[Seconds, Meta(description="How far back wrong codes count.")] = 600.0
    lock_s: Annotated[Seconds, Meta(description="How long no code is sent then.")] = 300.0
    panel_lock_s: Annotated[
        Seconds, Meta(description="How long no code is sent after the panel itself said that it is locked.")
    ] = 600.0


class StateSettings(Settings, frozen=True):
    """How the state of panels is kept true, and what commands may wait for."""

    refresh_every_s: Annotated[
        Seconds,
        Meta(description="All statuses are asked for so often; tamper and batteries are not told otherwise."),
    ] = 300.0
    alarm_refresh_every_s: Annotated[
        Seconds, Meta(description="A partition's are while it is in alarm or in a delay.")
    ] = 5.0
    pull_pause_s: Annotated[
        Seconds, Meta(description="Between two questions about the same, however many hints there are.")
    ] = 1.0
    retry_pull_s: Annotated[
        Seconds, Meta(description="Until a question that was not answered is asked again.")
    ] = 15.0
    answer_within_s: Annotated[Seconds, Meta(description="One answer of the panel.")] = 30.0
    lead_in_within_s: Annotated[
        Seconds, Meta(description="From the permission to program until the panel says that it has begun.")
    ] = 5.0
    programming_pause_s: Annotated[
        Seconds, Meta(description="Between leaving programming and entering it again.")
    ] = 0.5
    command_within_s: Annotated[
        Seconds, Meta(description="How long a command may wait for the ones before it.")
    ] = 30.0
    commands_count: Annotated[
        int, Meta(ge=1, description="Commands of one panel that may wait; more are refused.")
    ] = 16
    request_ids_keep_s: Annotated[
        Seconds, Meta(description="How long a repeated request id gets the first outcome again.")
    ] = 600.0
    request_ids_count: Annotated[
        int, Meta(ge=16, description="Request ids kept per panel; then the oldest are forgotten.")
    ] = 256
    clock_drift_s: Annotated[
        Seconds, Meta(description="A panel's clock that is further off than this is reported.")
    ] = 120.0


class ZoneDetails(Settings, frozen=True):
    """What is said of one zone here, as the panel does not say it, or not without its installer's code."""

    number: Annotated[int, Meta(ge=1, le=255, description="Of the zone.")]
    label: Annotated[
        str, Meta(max_length=28, description="Its name, unless the panel has one.", examples=["Front door"])
    ] = ""
    partitions: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=32)], ...],
        Meta(
            description="Those that it is in, so that an alarm is told of the right one; empty = what its sections "
            "say where they were read, else it may be any."
        ),
    ] = ()
    device_class: Annotated[
        DeviceClass | None,
        Meta(description="What Home Assistant takes it for; by default what the zone's definition says."),
    ] = None


class PartitionDetails(Settings, frozen=True):
    """What is said of one partition here, as the panel does not say it."""

    number: Annotated[int, Meta(ge=1, le=32, description="Of the partition.")]
    label: Annotated[
        str, Meta(max_length=28, description="Its name, unless the panel has one.", examples=["Ground floor"])
    ] = ""


class PanelProfile(Settings, frozen=True):
    """What commands and state need to know of one panel; the keys of its connection are beside it."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$",
            title="a name (letters, digits, _ -)",
            description="Its name in topics, URLs and the history.",
            examples=["house"],
        ),
    ]
    integration_id: Annotated[
        str,
        Meta(
            pattern=r"^[0-9]{12}$",
            title="12 digits",
            description="Integration Identification Number, [851][422] of the panel (firmware 4.1: [651]).",
            examples=["123456789012"],
        ),
    ]
    default_code: Annotated[
        Secret | None,
        Meta(description="Access code of commands that bring none; none = they are sent without."),
    ] = None
    master_code: Annotated[
        Secret | None, Meta(description="For reading and writing users; none = commands must bring it.")
    ] = None
    installer_code: Annotated[
        Secret | None, Meta(description="For reading sections; none = commands must bring it.")
    ] = None
    user_writes: Annotated[
        bool, Meta(description="Users' codes, rights and names may be written through us.")
    ] = False
    zones: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=255)], ...],
        Meta(description="Zones that are there; empty = the panel is believed."),
    ] = ()
    partitions: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=32)], ...],
        Meta(description="Partitions that are there; empty = the panel is believed."),
    ] = ()
    zone_details: tuple[ZoneDetails, ...] = ()
    partition_details: tuple[PartitionDetails, ...] = ()
    time_zone: Annotated[
        str, Meta(description="Of the panel's clock, such as Europe/Vienna; empty = this host's.")
    ] = ""
    raw_digits: Annotated[
        bool,
        Meta(
            description="Codes for programming go as one digit per byte: for panels that refuse a code which is "
            "right (code 17)."
        ),
    ] = False

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield codes that no panel can have, never the code itself, zones said twice, and time zones of nowhere."""
        for key in ("default_code", "master_code", "installer_code"):
            code: Secret | None = getattr(self, key)
            if code is not None and not is_code(code.reveal()):
                yield key, "something else", "4, 6 or 8 digits"
        try:
            ZoneInfo(self.time_zone or "UTC")
        except (
            ValueError,
            OSError,
            KeyError,
        ):  # no such name; a folder; not found (a KeyError of zoneinfo's)
            yield "time_zone", self.time_zone, "an IANA time zone such as Europe/Vienna"
        yield from self._problems_of_details()

    def _problems_of_details(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is said of one thing twice, or of one that is not there."""
        for key, details, there in (
            ("zone_details", self.zone_details, self.zones),
            ("partition_details", self.partition_details, self.partitions),
        ):
            for number, count in Counter(one.number for one in details).items():
                if count > 1:
                    yield key, f"{count} with number {number}", "one each"
                if there and number not in there:
                    yield key, f"number {number}", f"one of {key.partition('_')[0]}s"
        for one in self.zone_details:
            for partition in one.partitions if self.partitions else ():
                if partition not in self.partitions:
                    yield "zone_details", f"partition {partition} of zone {one.number}", "one of partitions"

    def device_class_of(self, zone: int) -> str:
        """Return the device class that was chosen for a zone, empty where none was."""
        chosen = (one.device_class for one in self.zone_details if one.number == zone)
        return next(chosen, None) or ""


def is_code(text: str) -> bool:
    """Say whether a text can be an access code."""
    return len(text) in CODE_DIGITS and text.isascii() and text.isdigit()
