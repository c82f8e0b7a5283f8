"""The exchange gateway's one table of settings, ``[exchange]`` in ``sojourn.toml``.

Declares names, units, defaults and help, and what several of them must have in common; knows nothing of files, lines or
how the values are used. The tables of single parts are declared beside those parts and put together here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sojourn.core.secret import Secret
from sojourn.core.settings import LimitSettings, ListenerSettings, Seconds, Settings
from sojourn.errors import ConfigError
from sojourn.gateways.exchange.auth_config import AuthSettings
from sojourn.gateways.exchange.bus_config import ValkeySettings
from sojourn.gateways.exchange.http_config import HttpSettings
from sojourn.gateways.exchange.lifecycle import DevicePolicy, Timeouts, device_policy
from sojourn.gateways.exchange.link_config import LinkSettings
from sojourn.gateways.exchange.market.settings import MarketSettings
from sojourn.gateways.exchange.sim.settings import SimulatorLinkSettings
from sojourn.gateways.exchange.spawners.kubernetes_config import KubernetesSettings
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings
from sojourn.gateways.exchange.spawners.static import StaticSettings
from sojourn.gateways.exchange.storage import StoreSettings

DEV_KEY_NAME: Final = "dev-key.json"
"""Of the development key in the directory of what is embedded."""

ONLY_AT_START: Final = (
    "pod",
    "http",
    "auth",
    "embedded",
    "store",
    "valkey",
    "simulators",
    "simulator_link",
    "process",
    "kubernetes",
    "static",
)
"""Tables of ``[exchange]`` that no reload can bring: what they name is open, or others rely on it."""

SecondsOrNever = Annotated[float, Meta(ge=0)]
Found = tuple[str, str, str]
"""Key path such as ``simulators.market``, what was found, what was wanted."""


class ExchangeLimits(LimitSettings, frozen=True):
    """What the core takes from HTTP clients before it refuses; an ingress brings all of them from one address."""

    connections_count: Annotated[int, Meta(ge=1, description="Connections at once.")] = 10_000
    connections_per_peer_count: Annotated[
        int, Meta(ge=1, description="Connections at once of one address; an ingress has many.")
    ] = 10_000


class PodSettings(Settings, frozen=True):
    """One process of the gateway among others, and how it leaves them."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)?$",
            title="a name (letters, digits, . _ -)",
            description="Its name, of no other process at the same time; empty = host name and process id.",
            examples=["${env:POD_NAME}"],
        ),
    ] = ""
    address: Annotated[
        str, Meta(max_length=255, description="Where others are told it is; empty = the first listener's.")
    ] = ""
    drain_wait_s: Annotated[
        SecondsOrNever,
        Meta(description="From readiness 503 to the first goodbye, so that load balancers have noticed."),
    ] = 3.0
    drain_window_s: Annotated[
        SecondsOrNever,
        Meta(description="Over how long clients are sent away, so that they do not all come back at once."),
    ] = 20.0


class EmbeddedSettings(Settings, frozen=True):
    """A PostgreSQL and a Valkey of our own, which live and end with the daemon: for one process on one host."""

    directory: Annotated[
        str,
        Meta(
            description="Where their data and a development key stay; empty = nothing is embedded.",
            examples=["/var/lib/sojourn/exchange"],
        ),
    ] = ""
    postgres: Annotated[
        bool, Meta(description="With a directory: run a PostgreSQL there, in the place of [exchange.store].")
    ] = True
    valkey: Annotated[
        bool, Meta(description="With a directory: run a Valkey there, in the place of exchange.valkey.url.")
    ] = False
    postgres_port: Annotated[
        int, Meta(ge=0, le=65_535, description="Of 127.0.0.1, for others to connect to; 0 = a socket for us.")
    ] = 0
    valkey_port: Annotated[int, Meta(ge=0, le=65_535, description="The same for the Valkey.")] = 0
    password: Annotated[
        Secret | None, Meta(description="Of both at their ports; user postgres of the PostgreSQL.")
    ] = None
    start_timeout_s: Annotated[
        Seconds, Meta(description="Start of each; after a crash it first reads what was not written.")
    ] = 60.0

    @property
    def postgres_directory(self) -> Path:
        """Where the PostgreSQL's data is."""
        return Path(self.directory).absolute() / "postgres"

    @property
    def valkey_directory(self) -> Path:
        """Where the Valkey's data is."""
        return Path(self.directory).absolute() / "valkey"

    @property
    def dev_key_file(self) -> Path:
        """Where the development key is that is made if nothing else says whose tokens are believed."""
        return Path(self.directory).absolute() / DEV_KEY_NAME

    def problems(self) -> Iterator[Found]:
        """Yield what has no place to be, and doors without a lock."""
        if not self.directory and self.valkey:
            yield "directory", "nothing", "where the data stays, as valkey is true"
        for key, port in (("postgres_port", self.postgres_port), ("valkey_port", self.valkey_port)):
            if port and self.password is None:
                yield "password", "nothing", f"the password of {key}"
        if self.password is not None and not self.password.reveal():
            yield "password", "an empty one", "a password"


class SessionSettings(Settings, frozen=True):
    """How long sessions live, and who may join one; 0 is for ever."""

    policy: Annotated[
        str,
        Meta(
            description="A user's second device: replace = takes the session over; share:N = up to N at once; "
            "reject = is refused.",
            examples=["share:3"],
        ),
    ] = "replace"
    sessions_count: Annotated[
        int, Meta(ge=0, description="Live sessions of all pods together; more are refused. 0 = no limit.")
    ] = 0
    idle_timeout_s: Annotated[
        SecondsOrNever,
        Meta(description="Without a request or a message other than heartbeats for so long it ends."),
    ] = 3_600.0
    detached_timeout_s: Annotated[
        SecondsOrNever, Meta(description="Without a connection for so long it ends.")
    ] = 900.0
    max_age_s: Annotated[SecondsOrNever, Meta(description="So old it ends, whatever its user does.")] = (
        43_200.0
    )
    warning_s: Annotated[
        SecondsOrNever, Meta(description="So long before its end clients are warned; 0 = they are not.")
    ] = 60.0
    keep_ended_s: Annotated[
        Seconds, Meta(description="How long an ended session, its simulators and events can be read.")
    ] = 604_800.0
    expiry_every_s: Annotated[
        Seconds, Meta(description="How often one of the pods looks for sessions whose time is up.")
    ] = 5.0
    forget_every_s: Annotated[
        Seconds, Meta(description="How often one of the pods deletes what is older than it need be.")
    ] = 300.0

    def timeouts(self) -> Timeouts:
        """Return the three clocks of a session."""
        return Timeouts(
            idle_timeout_s=self.idle_timeout_s,
            detached_timeout_s=self.detached_timeout_s,
            max_age_s=self.max_age_s,
        )

    def device_policy(self) -> DevicePolicy:
        """Return the policy that the text names.

        Raises: ConfigError if it names none; then ``problems`` tells the same.
        """
        return device_policy(self.policy)

    def problems(self) -> Iterator[Found]:
        """Yield a policy that is none, and a warning that would come before the session."""
        try:
            self.device_policy()
        except ConfigError as error:
            yield from (("policy", problem.found, problem.wanted) for problem in error.problems)
        for key, timeout_s in (("idle_timeout_s", self.idle_timeout_s), ("max_age_s", self.max_age_s)):
            if 0 < timeout_s <= self.warning_s:
                yield "warning_s", str(self.warning_s), f"less than {key} ({timeout_s})"


class SimulatorsSettings(Settings, frozen=True):
    """Which simulators sessions get, and what a client may ask of one."""

    driver: Annotated[
        Literal["process", "inproc", "kubernetes", "static"],
        Meta(
            description="Where they run: a child process each; inside this process, for tests; a Pod each; "
            "or somebody else runs them."
        ),
    ] = "process"
    per_session_count: Annotated[
        int, Meta(ge=1, le=100, description="Simulators that one session may have at once.")
    ] = 1
    owner_timeout_s: Annotated[
        SecondsOrNever,
        Meta(description="A simulator that no pod talks to for so long ends by itself; 0 = never."),
    ] = 300.0
    instruments_count: Annotated[
        int, Meta(ge=1, le=200, description="Instruments that a client may ask for.")
    ] = 20
    step_min_ms: Annotated[
        int, Meta(ge=10, le=60_000, description="Shortest step of a market that a client may ask for.")
    ] = 50
    market: MarketSettings = MarketSettings()

    def problems(self) -> Iterator[Found]:
        """Yield a market that cannot be, and one that a client could not ask for."""
        yield from ((f"market.{key}", found, wanted) for key, found, wanted in self.market.problems())
        if (count := len(self.market.instruments)) > self.instruments_count:
            yield "instruments_count", str(self.instruments_count), f"at least the {count} of the market"
        if self.market.step_ms < self.step_min_ms:
            yield (
                "step_min_ms",
                str(self.step_min_ms),
                f"at most the market's step_ms ({self.market.step_ms})",
            )
        if self.market.replay_file and self.driver in {"inproc", "static"}:
            yield "market.replay_file", repr(self.market.replay_file), f"none with the driver {self.driver!r}"


class ExchangeSettings(Settings, frozen=True):
    """The exchange gateway, ``[exchange]``: user sessions that own simulated exchanges.

    Always true: without a source of tokens ``auth.dev_key_file`` is the key in ``embedded.directory``, where there is
    such a directory.
    """

    listeners: Annotated[tuple[ListenerSettings, ...], Meta(min_length=1)]
    limits: ExchangeLimits = ExchangeLimits()
    pod: PodSettings = PodSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    links: LinkSettings = LinkSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    store: StoreSettings | None = None
    valkey: ValkeySettings = ValkeySettings()
    sessions: SessionSettings = SessionSettings()
    simulators: SimulatorsSettings = SimulatorsSettings()
    simulator_link: SimulatorLinkSettings = SimulatorLinkSettings()
    process: ProcessSettings = ProcessSettings()
    kubernetes: KubernetesSettings | None = None
    static: StaticSettings | None = None

    def __post_init__(self) -> None:
        """Put the embedded key in force where nothing else says whose tokens are believed."""
        if self.embedded.directory and not self.auth.has_source:
            key = str(self.embedded.dev_key_file)
            msgspec.structs.force_setattr(self, "auth", msgspec.structs.replace(self.auth, dev_key_file=key))

    @property
    def has_own_postgres(self) -> bool:
        """Sessions are kept by a PostgreSQL that the gateway runs itself."""
        return self.store is None and bool(self.embedded.directory) and self.embedded.postgres

    @property
    def has_own_valkey(self) -> bool:
        """What pods share is in a Valkey that the gateway runs itself."""
        return self.valkey.url is None and bool(self.embedded.directory) and self.embedded.valkey

    @property
    def has_own_key(self) -> bool:
        """The development key is in the directory of what is embedded: made at the first start, if need be."""
        embedded = self.embedded
        return bool(embedded.directory) and self.auth.dev_key_file == str(embedded.dev_key_file)

    def problems(self) -> Iterator[Found]:
        """Yield what only several tables together can show to be wrong."""
        if not self.auth.has_source:
            yield (
                "auth.jwks_url",
                "nothing",
                "jwks_url, jwks_file, introspection or, for development, dev_key_file",
            )
        yield from self._places()
        yield from self._simulators()
        yield from self._times()

    def _places(self) -> Iterator[Found]:
        """Yield databases that are missing or two."""
        has_embedded = bool(self.embedded.directory)
        if self.store is None and not self.has_own_postgres:
            yield "store", "nothing", "[exchange.store], or a PostgreSQL of our own: embedded.directory"
        if self.store is not None and has_embedded and self.embedded.postgres:
            yield (
                "embedded.postgres",
                "true, besides [exchange.store]",
                "one database: false, or no [exchange.store]",
            )
        if self.valkey.url is not None and has_embedded and self.embedded.valkey:
            yield "embedded.valkey", "true, besides valkey.url", "one Valkey: false, or no valkey.url"
        shared = [number for number, one in enumerate(self.listeners) if one.reuse_port]
        if shared and self.valkey.url is None and not self.has_own_valkey:
            found = f"nothing, while other processes may share listeners[{shared[0]}] (reuse_port)"
            yield "valkey.url", found, "the Valkey or Redis that connects the processes"

    def _simulators(self) -> Iterator[Found]:
        """Yield a driver without its table, and prices that no simulator would find."""
        driver, tables = self.simulators.driver, {"kubernetes": self.kubernetes, "static": self.static}
        if driver in tables and tables[driver] is None:
            yield driver, "nothing", f"[exchange.{driver}], as simulators.driver is {driver!r}"
        directories = {
            "process": self.process.replay_directory,
            "kubernetes": self.kubernetes.replay_directory if self.kubernetes is not None else "",
        }
        if self.simulators.market.replay_file and not directories.get(driver, "unknown"):
            yield f"{driver}.replay_directory", "nothing", "where simulators.market.replay_file is"

    def _times(self) -> Iterator[Found]:
        """Yield times that end before they can be of use."""
        leaving_s = self.pod.drain_wait_s + self.pod.drain_window_s
        if leaving_s >= self.limits.drain_timeout_s:
            wanted = f"more than pod.drain_wait_s + pod.drain_window_s ({leaving_s})"
            yield "limits.drain_timeout_s", str(self.limits.drain_timeout_s), wanted
        owner_timeout_s = self.simulators.owner_timeout_s
        least_s = self.valkey.lease_s + self.simulator_link.heartbeat_s
        if 0 < owner_timeout_s <= least_s:
            wanted = f"more than valkey.lease_s + simulator_link.heartbeat_s ({least_s})"
            yield "simulators.owner_timeout_s", str(owner_timeout_s), wanted
