"""The panel gateway's one table of settings, ``[itv2]`` in ``sojourn.toml``.

Declares names, units, defaults and help, and what several of them must have in common; knows nothing of files, lines or
how the values are used. The tables of single parts are declared beside those parts and put together here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import LimitSettings, ListenerSettings, Seconds, Settings
from sojourn.gateways.itv2.history.config import HistorySettings
from sojourn.gateways.itv2.http.config import Itv2HttpSettings
from sojourn.gateways.itv2.hub_config import LockoutSettings, PanelProfile, StateSettings
from sojourn.gateways.itv2.mqtt.config import MqttSettings

ONLY_AT_START: Final = ("state", "lockout", "history", "mqtt")
"""Parts of ``[itv2]`` that no reload can bring: what they name is open, or others rely on it."""

PORT: Final = 3072
"""Where panels expect a server; 0C00 in their programming. Source: itv2-protocol.md section 1."""

SecondsOrNever = Annotated[float, Meta(ge=0)]
Found = tuple[str, str, str]
"""Key path, what was found, what was wanted."""


class Itv2Limits(LimitSettings, frozen=True):
    """What the gateway takes from whoever dials in before it refuses."""

    connections_count: Annotated[int, Meta(ge=1, description="Connections at once.")] = 2_000
    connections_per_peer_count: Annotated[
        int,
        Meta(
            ge=1,
            description="Connections at once of one address. Panels behind one router share it, and behind a "
            "container's network all do; one that comes back may have two for a while.",
        ),
    ] = 256
    packet_bytes: Annotated[
        int,
        Meta(ge=512, le=131_072, description="Longest packet as it is on the wire; panels announce 512."),
    ] = 8_192
    damaged_count: Annotated[
        int, Meta(ge=1, description="Packets in a row that cannot be read before the connection is closed.")
    ] = 16
    failures_count: Annotated[
        int,
        Meta(
            ge=0,
            description="Failed handshakes of one address within failures_window_s after which it is not let in "
            "for the rest of the window; 0 = no limit.",
        ),
    ] = 100
    failures_window_s: Annotated[Seconds, Meta(description="How long a failed handshake counts.")] = 600.0
    replacements_count: Annotated[
        int,
        Meta(
            ge=0,
            description="How often within failures_window_s a newer connection takes the place of one whose panel "
            "answers; then two have the same id, and the one that is there stays. 0 = no limit.",
        ),
    ] = 5
    notifications_count: Annotated[
        int,
        Meta(
            ge=1,
            description="Messages that wait for one reader of a session's notifications; the oldest are dropped.",
        ),
    ] = 256


class Timing(Settings, frozen=True):
    """How long each wait may last, and how often what is regular happens."""

    handshake_timeout_s: Annotated[Seconds, Meta(description="From accept to the end of the handshake.")] = (
        30.0
    )
    step_timeout_s: Annotated[Seconds, Meta(description="One step of the handshake.")] = 10.0
    fallback_s: Annotated[
        SecondsOrNever,
        Meta(
            description="A panel that offers an unknown encryption type may come back with a known one for so long; "
            "firmware 5.63 does. 0 = it is refused at once."
        ),
    ] = 2.0
    ack_timeout_s: Annotated[Seconds, Meta(description="From a packet of ours to its acknowledgement.")] = (
        10.0
    )
    answer_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="From the acknowledgement of a command to its answer.")
    ] = 30.0
    poll_every_s: Annotated[
        Seconds, Meta(description="After so long a silence of ours the panel is polled.")
    ] = 45.0
    poll_retries_count: Annotated[
        int, Meta(ge=0, le=3, description="How often a poll that is not acknowledged is sent again at once.")
    ] = 2
    silence_timeout_s: Annotated[
        Seconds,
        Meta(description="A panel that says nothing for so long is gone; it does the same after 120 s."),
    ] = 130.0
    replay_quiet_s: Annotated[
        Seconds,
        Meta(description="Silence behind the handshake that says that the panel had nothing queued."),
    ] = 2.0
    replay_pause_s: Annotated[
        Seconds,
        Meta(
            description="Silence behind something queued that says that it was the last, beside twice the slowest "
            "answer of the handshake, at most replay_quiet_s in all; panels take 0.12 s from one to the next."
        ),
    ] = 0.75
    replay_max_s: Annotated[Seconds, Meta(description="Longest replay; then it counts as over.")] = 30.0
    finish_timeout_s: Annotated[
        Seconds,
        Meta(description="How long a command that is under way may take when the server stops."),
    ] = 5.0
    end_timeout_s: Annotated[
        Seconds, Meta(description="How long a panel may take to acknowledge that we end the session.")
    ] = 2.0

    def problems(self) -> Iterator[Found]:
        """Yield waits that would never end, or end before they begin."""
        if self.silence_timeout_s <= self.poll_every_s + self.ack_timeout_s:
            wanted = f"more than poll_every_s + ack_timeout_s ({self.poll_every_s + self.ack_timeout_s})"
            yield "silence_timeout_s", str(self.silence_timeout_s), wanted
        if self.handshake_timeout_s < self.step_timeout_s:
            yield "handshake_timeout_s", str(self.handshake_timeout_s), "at least step_timeout_s"
        if self.replay_max_s < self.replay_quiet_s:
            yield "replay_max_s", str(self.replay_max_s), "at least replay_quiet_s"


class CaptureSettings(Settings, frozen=True):
    """What panels and this server say to each other, in files for bug reports; without the table nothing is written.

    Ids, codes, names and keys are replaced before anything is written.
    """

    directory: Annotated[
        str,
        Meta(
            min_length=1,
            description="Existing folder; each connection gets a file there, itv2-*.jsonl.",
            examples=["/var/lib/sojourn/captures"],
        ),
    ]
    panels: Annotated[
        tuple[str, ...],
        Meta(description="Names of the panels to capture; empty = whoever sends packets, known or not."),
    ] = ()
    file_bytes: Annotated[
        int, Meta(ge=65_536, description="Longest file; the connection is not captured any further then.")
    ] = 4_194_304
    files_count: Annotated[int, Meta(ge=1, description="Files at most; the oldest go.")] = 50
    keep_days: Annotated[
        float, Meta(gt=0, description="Age at which a file is deleted, when the next one is begun.")
    ] = 7.0


class PanelSettings(PanelProfile, frozen=True):
    """A panel that may connect; no other may."""

    integration_group: Annotated[
        int, Meta(ge=1, le=4, description="Which of the panel's four integration groups dials this server.")
    ] = 1
    firmware: Annotated[
        Literal["4.1", "5"],
        Meta(description="Of the communicator: where its settings are; 4.1 has one group and Type 1 only."),
    ] = "5"
    type1_code: Annotated[
        Secret | None,
        Meta(
            description="Type 1 integration access code, 8 hex digits: [851][423] in group 1.",
            examples=["${file:/etc/sojourn/house.type1}"],
        ),
    ] = None
    type2_code: Annotated[
        Secret | None,
        Meta(
            description="Type 2 integration access code, 32 hex digits: [851][700] in group 1.",
            examples=["${file:/etc/sojourn/house.type2}"],
        ),
    ] = None

    def problems(self) -> Iterator[Found]:
        """Yield access codes that are missing or none; never shows one."""
        yield from super().problems()
        if self.type1_code is None and self.type2_code is None:
            wanted = "the access code of the type that the panel is set to: type2_code or type1_code"
            yield "type2_code", "nothing", wanted
        if self.firmware == "4.1" and self.type1_code is None:
            yield "type1_code", "nothing", "a code, as firmware 4.1 has Type 1 only"
        if self.firmware == "4.1" and self.integration_group != 1:
            yield "integration_group", str(self.integration_group), "1, as firmware 4.1 has one group"
        for key, code, digits in (("type1_code", self.type1_code, 8), ("type2_code", self.type2_code, 32)):
            if code is not None and not _is_hex(code.reveal(), digits):
                yield key, "something else", f"{digits} hex digits"

    def has_same_keys(self, other: PanelSettings) -> bool:
        """Say whether a session that was opened with ``other`` could have been opened with these."""
        names = ("name", "integration_id", "type1_code", "type2_code", "raw_digits")
        return all(getattr(self, name) == getattr(other, name) for name in names)


class Itv2Settings(Settings, frozen=True):
    """The gateway for DSC PowerSeries Neo panels, ``[itv2]``: panels dial in."""

    listeners: Annotated[tuple[ListenerSettings, ...], Meta(min_length=1)] = (
        ListenerSettings(address=f"0.0.0.0:{PORT}"),
    )
    limits: Itv2Limits = Itv2Limits()
    public_address: Annotated[
        str,
        Meta(
            max_length=255,
            description="Address or name that panels dial, for the set-up sheet; empty = the listener's, or this "
            "host's.",
            examples=["192.0.2.10"],
        ),
    ] = ""
    timing: Timing = Timing()
    state: StateSettings = StateSettings()
    lockout: LockoutSettings = LockoutSettings()
    history: HistorySettings = HistorySettings()
    mqtt: MqttSettings | None = None
    http: Itv2HttpSettings | None = None
    capture: CaptureSettings | None = None
    panels: tuple[PanelSettings, ...] = ()

    def problems(self) -> Iterator[Found]:
        """Yield names and ids that two panels claim, and panels of tokens or captures that there are not."""
        for key in ("name", "integration_id"):
            values = [getattr(panel, key) for panel in self.panels]
            for value, count in Counter(values).items():
                if count > 1:
                    yield "panels", f"{count} panels with {key} {value!r}", "one each"
        if self.http is not None:
            yield from self.http.problems_beside({panel.name for panel in self.panels})
        for name in self.capture.panels if self.capture is not None else ():
            if name not in {panel.name for panel in self.panels}:
                yield "capture.panels", repr(name), "names of panels"


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and all(one in "0123456789abcdefABCDEF" for one in text)
