"""What a simulator's process is told, who it is, where to listen, and the market; and how a link follows one."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import Seconds, Settings
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.market.settings import MarketSettings

NO_TOKEN = Secret("")


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A simulator that serves ``sim.v1``; given as JSON, never on a command line."""

    simulator: Annotated[
        str, Meta(max_length=64, description="Its name; empty = whatever an owner calls it.")
    ] = ""
    session: Annotated[
        str, Meta(max_length=64, description="Whose it is; empty = the first owner's, who also names it.")
    ] = ""
    listen: Annotated[
        str, Meta(max_length=200, description="host:port, port 0 = a free one; or unix:/path of a socket.")
    ] = "127.0.0.1:0"
    token: Annotated[
        Secret, Meta(description="Every call must bring it; empty = whoever can connect may call.")
    ] = NO_TOKEN
    market: MarketSettings = MarketSettings()
    replay_directory: Annotated[
        str, Meta(description="Where market.replay_file may be; empty = no market follows a file.")
    ] = ""
    speed: Annotated[
        float, Meta(ge=0, le=100, description="Of the market's time; 0 = only orders move it.")
    ] = 1.0
    owner_timeout_s: Annotated[
        float, Meta(ge=0, description="Without an owner's heartbeat for so long it ends; 0 = never.")
    ] = 0.0
    drain_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="What its reader may take to read the rest when it ends.")
    ] = 5.0
    request_bytes: Annotated[int, Meta(ge=1024, description="Longest message that it takes.")] = 65_536
    calls_count: Annotated[int, Meta(ge=4, description="Calls under way at the same time.")] = 64
    keepalive_s: Annotated[
        float, Meta(ge=1, description="A silent connection is asked so often whether it lives.")
    ] = 10.0


class SimulatorLinkSettings(Settings, frozen=True):
    """How a simulator is followed."""

    heartbeat_s: Annotated[Seconds, Meta(description="Between two heartbeats.")] = 5.0
    heartbeat_timeout_s: Annotated[Seconds, Meta(description="For the answer to one.")] = 5.0
    heartbeat_misses_count: Annotated[
        int, Meta(ge=1, le=10, description="Heartbeats without an answer after which it connects anew.")
    ] = 2
    attach_timeout_s: Annotated[
        Seconds, Meta(description="From connecting to the first update of the stream.")
    ] = 10.0
    order_timeout_s: Annotated[
        Seconds, Meta(description="For an order, all its attempts and the wait for a connection included.")
    ] = 5.0
    reconnect_min_s: Annotated[
        Seconds, Meta(description="Longest first wait after a loss; doubles, and chance takes a part of it.")
    ] = 0.2
    reconnect_max_s: Annotated[Seconds, Meta(description="Longest wait before it connects anew.")] = 10.0


def read_settings(text: bytes, name: str) -> ServiceSettings:
    """Read settings from JSON.

    Raises: ConfigError if they are none.
    """
    try:
        return msgspec.json.decode(text, type=ServiceSettings, dec_hook=_decode)
    except msgspec.MsgspecError as error:
        raise ConfigError([Problem(name, 0, "", "", str(error), "a simulator's settings as JSON")]) from None


def write_settings(settings: ServiceSettings) -> bytes:
    """Write settings as JSON, the token too: for a pipe to a child and nothing else."""
    return msgspec.json.encode(settings, enc_hook=_encode)


def _decode(kind: type, value: Any) -> Any:
    if kind is not Secret:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise TypeError("Expected `str`")
    return Secret(value)


def _encode(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value))
