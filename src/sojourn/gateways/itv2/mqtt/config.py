"""The table ``[itv2.mqtt]``: the broker, what is said there, and what others may ask for.

Declares names, units, defaults and help; knows nothing of files, lines or how the values are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Seconds, Settings

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""What an address may begin with, and the port that it means. Source: IANA, service names."""

TopicPrefix = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
        max_length=128,
        title="topic levels (letters, digits, _ -) with / between them",
    ),
]


class Broker(NamedTuple):
    """Where the broker is."""

    host: str
    port: int
    has_tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class MqttSettings(Settings, frozen=True):
    """The MQTT broker on which panels are seen and asked; who may publish there may ask for what ``allow`` says."""

    url: Annotated[
        str,
        Meta(
            description="mqtt://host:port, or mqtts://host:port for TLS; user and password are keys of their own.",
            examples=["mqtts://broker.example.net:8883"],
        ),
    ]
    username: Annotated[str, Meta(max_length=256, description="User at the broker; empty = none.")] = ""
    password: Annotated[
        Secret | None,
        Meta(description="Its password.", examples=["${file:/etc/sojourn/mqtt.password}"]),
    ] = None
    client_id: Annotated[
        str,
        Meta(
            pattern=r"^[0-9A-Za-z_.-]{0,64}$",
            title="up to 64 letters, digits, _ . -",
            description="Name of our connection; two with the same name throw each other out. Empty = a new one "
            "each time.",
        ),
    ] = ""
    version: Annotated[Literal["3.1.1", "5"], Meta(description="Of the protocol.")] = "5"
    ca_file: Annotated[
        str,
        Meta(
            description="PEM certificates that sign the broker of an mqtts:// address; empty = the system's."
        ),
    ] = ""
    certificate_file: Annotated[
        str, Meta(description="PEM chain of ours, for brokers that want to see one.")
    ] = ""
    private_key_file: Annotated[str, Meta(description="Its PEM key.")] = ""
    tls_min_version: Annotated[Literal["1.2", "1.3"], Meta(description="Oldest TLS that is spoken.")] = "1.2"
    topic_prefix: Annotated[
        TopicPrefix, Meta(description="Begins every topic of ours; two gateways at one broker need two.")
    ] = "sojourn"
    discovery_prefix: Annotated[
        TopicPrefix | Literal[""],
        Meta(description="Where Home Assistant looks for entities; empty = none are announced."),
    ] = "homeassistant"
    retain: Annotated[
        bool, Meta(description="The broker keeps the last state of everything for who subscribes later.")
    ] = True
    qos: Annotated[
        Literal[0, 1, 2],
        Meta(description="Of events, results and commands; below 1 an outage can cost events."),
    ] = 1
    state_qos: Annotated[
        Literal[0, 1, 2],
        Meta(
            description="Of states and announcements that the broker keeps. All are said again after an outage, so 0 "
            "loses none, and costs half of what 1 does."
        ),
    ] = 0
    allow: Annotated[
        tuple[Literal["arm", "disarm", "bypass"], ...],
        Meta(
            description="What may be asked for by MQTT. Disarming and bypassing need a code in the message, unless "
            "may_use_default_code; arming needs none where the panel has one-touch arming."
        ),
    ] = ("arm", "disarm", "bypass")
    may_use_default_code: Annotated[
        bool,
        Meta(
            description="Messages without a code disarm and bypass with the panel's default code: whoever may publish "
            "at the broker can switch the alarm off. Bypass switches of Home Assistant need it."
        ),
    ] = False
    arming_needs_code: Annotated[
        bool, Meta(description="Arming needs a code in the message too, and Home Assistant asks for it.")
    ] = False
    keepalive_s: Annotated[
        int, Meta(ge=5, le=65_535, description="Silence after which the broker is asked whether it lives.")
    ] = 30
    timeout_s: Annotated[Seconds, Meta(description="One answer of the broker.")] = 10.0
    reconnect_s: Annotated[Seconds, Meta(description="First wait after a lost connection; it doubles.")] = 1.0
    reconnect_max_s: Annotated[Seconds, Meta(description="Longest wait between two connects.")] = 60.0
    refresh_every_s: Annotated[
        Seconds, Meta(description="How often it is published when a panel was heard last.")
    ] = 60.0
    inflight_count: Annotated[
        int, Meta(ge=1, le=20, description="Messages that are on their way to the broker at once.")
    ] = 16
    again_per_s: Annotated[
        int,
        Meta(
            ge=1,
            description="Messages a second of all that is said again after a connect; brokers drop what a subscriber "
            "does not take in time.",
        ),
    ] = 2_000
    events_waiting_count: Annotated[
        int,
        Meta(ge=1, description="Events and results that wait for the broker; then the oldest are dropped."),
    ] = 10_000
    events_keep_s: Annotated[
        Seconds,
        Meta(description="How long they wait at most: an old event must not start what a new one should."),
    ] = 600.0
    commands_count: Annotated[
        int, Meta(ge=1, description="Commands carried out at once; more are refused.")
    ] = 16
    received_waiting_count: Annotated[
        int, Meta(ge=16, description="Messages from the broker that wait to be read; more are dropped.")
    ] = 1_000
    command_bytes: Annotated[
        int, Meta(ge=64, le=65_536, description="Longest command; a longer one is refused unread.")
    ] = 2_048

    @property
    def broker(self) -> Broker:
        """The parts of ``url``."""
        parts = urlsplit(self.url)
        return Broker(parts.hostname or "", parts.port or PORTS[parts.scheme], parts.scheme == "mqtts")

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Yield addresses that are none, and keys that need another; shows no part of an address."""
        wanted = "mqtt://host:port or mqtts://host:port"
        try:
            parts = urlsplit(self.url)
            is_sound = (
                parts.scheme in PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            is_sound = False
        if not is_sound:
            yield "url", "another address", wanted
        elif parts.username is not None or parts.password is not None:
            yield "url", "an address with user or password", f"{wanted}; username and password are keys"
        elif parts.path.strip("/") or parts.query or parts.fragment:
            yield "url", "an address with more behind the port", wanted
        elif parts.scheme == "mqtt" and (self.ca_file or self.certificate_file):
            yield "url", "mqtt:// beside files for TLS", "mqtts://"
        if self.password is not None and not self.username:
            yield "password", "one without username", "username too"
        if bool(self.certificate_file) != bool(self.private_key_file):
            yield (
                "private_key_file",
                "one of the two files",
                "certificate_file and private_key_file, or neither",
            )
        if self.reconnect_max_s < self.reconnect_s:
            yield "reconnect_max_s", str(self.reconnect_max_s), f"at least reconnect_s ({self.reconnect_s})"
        if self.discovery_prefix and self.discovery_prefix == self.topic_prefix:
            yield "discovery_prefix", "the same as topic_prefix", "another"
