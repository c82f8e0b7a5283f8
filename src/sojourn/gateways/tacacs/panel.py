"""The gateway's page for operators: devices, decisions with their rule and reason, lock-outs, accounting sinks.

Decisions are what the events tell; the log keeps the last ones, and denied ones apart, so that a flood of permitted
ones does not push them out. Knows no HTTP and makes no decision of its own.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sojourn.core.events import Event
from sojourn.core.panel import AdminPanel, PanelOperation, PanelParameter
from sojourn.gateways.tacacs.handlers import ACCOUNTED, AUTHENTICATED, AUTHORIZED
from sojourn.gateways.tacacs.policy import Query
from sojourn.web.problems import Kind, Refusal

if TYPE_CHECKING:
    from sojourn.gateways.tacacs.gateway import TacacsGateway

DECISIONS_COUNT: Final = 500
"""How many decisions are kept, and as many that were not in the user's favour."""
DEVICES_COUNT: Final = 1_000
"""How many devices are told at once."""

_WORDS: Final = {AUTHENTICATED: "login", AUTHORIZED: "command", ACCOUNTED: "record"}
_GOOD: Final = frozenset({"pass", "permit", "success"})


class DeviceKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a device by its place, never its value; ``last_used`` is seconds since 1970, none for never."""

    index: int
    age_days: int | None
    last_used: float | None
    warnings: tuple[str, ...]


class TacacsDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device as it is configured, and what it does now."""

    name: str
    groups: tuple[str, ...]
    networks: tuple[str, ...]
    certificate_names: tuple[str, ...]
    connections: int
    sessions: int
    keys: tuple[DeviceKey, ...]


class TacacsDevices(msgspec.Struct, frozen=True, kw_only=True):
    """Devices, connected ones first; ``more`` is how many did not fit."""

    devices: tuple[TacacsDevice, ...]
    more: int = 0


class TacacsDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: who asked for what on which device, what the answer was, and why.

    Shape: ``kind`` is login, command or record; ``request`` a command line with masked passwords, or a method.
    Units: ``at`` is seconds since 1970.
    """

    at: float
    kind: str
    outcome: str
    user: str
    device: str
    rem_addr: str
    request: str
    rule: str
    reason: str
    session: str


class TacacsDecisions(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions that fit, newest first."""

    decisions: tuple[TacacsDecision, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on the way to a decision: whether it matches, and which condition does not hold."""

    rule: str
    is_match: bool
    words: str


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What would be decided now, rule by rule; ``words`` say it in one line."""

    is_permitted: bool
    rule: str
    words: str
    steps: tuple[Explanation, ...]


class TacacsLockout(msgspec.Struct, frozen=True, kw_only=True):
    """One user who guessed too often; ``what`` is login or enable."""

    user: str
    what: str
    remaining_s: float


class TacacsLockouts(msgspec.Struct, frozen=True, kw_only=True):
    """Every lock that has not ended."""

    lockouts: tuple[TacacsLockout, ...]


class TacacsSink(msgspec.Struct, frozen=True, kw_only=True):
    """One accounting sink; ``health`` is up, trial, down, opening or closed."""

    name: str
    kind: str
    health: str
    waiting: int
    stored: int
    failed: int
    last_error: str
    warning: str


class TacacsSinks(msgspec.Struct, frozen=True, kw_only=True):
    """Every accounting sink."""

    sinks: tuple[TacacsSink, ...]


class DecisionLog:
    """The last decisions, as events.

    Life: made by the gateway when it starts, a view of the server's events from then on. Costs one look-up an event
    and a copy for a decision.
    """

    def __init__(self) -> None:
        self._all: deque[Event] = deque(maxlen=DECISIONS_COUNT)
        self._denied: deque[Event] = deque(maxlen=DECISIONS_COUNT)

    def take(self, events: Sequence[Event]) -> None:
        """Keep those of a batch that are decisions."""
        for event in events:
            if event.kind in _WORDS:
                kept = event.detached()
                self._all.append(kept)
                if event.values[0] not in _GOOD:
                    self._denied.append(kept)

    def newest(self, *, denied_only: bool) -> list[Event]:
        """Return what is kept, newest first."""
        if denied_only:
            return list(reversed(self._denied))
        kept = {id(event): event for event in (*self._denied, *self._all)}
        return sorted(kept.values(), key=lambda event: event.at, reverse=True)


class TacacsPanel:
    """Serves the page's operations; every method is one of them.

    Life: as long as its gateway, of which it holds nothing but a reference and the log of decisions.
    """

    def __init__(self, gateway: TacacsGateway, log: DecisionLog) -> None:
        self._gateway = gateway
        self._log = log

    def panel(self) -> AdminPanel:
        """Return the page."""
        search = PanelParameter("search", "Part of anything that is shown.", longest=200)
        return AdminPanel(
            "TACACS+",
            Path(__file__).with_name("panel.js"),
            (
                PanelOperation(
                    "GET", "/devices", "view", "Devices and their keys.", self.devices, TacacsDevices, query=(search,)
                ),
                PanelOperation(
                    "GET", "/decisions", "view", "The last decisions, each with its rule and reason.", self.decisions,
                    TacacsDecisions,
                    query=(
                        PanelParameter("outcome", "Only denied ones, or all.", words=("denied",)),
                        search,
                        PanelParameter(
                            "limit", "At most so many.", is_number=True, lowest=1, highest=1_000, default=200
                        ),
                    ),
                ),
                PanelOperation(
                    "GET", "/explain", "view", "What would be decided now, rule by rule.", self.explain, Explained,
                    query=(
                        PanelParameter("user", "Who asks.", longest=255),
                        PanelParameter("device", "The device's name.", longest=255),
                        PanelParameter("command", "The command; empty = the session itself.", longest=1_024),
                        PanelParameter("service", "The service; empty = shell.", longest=255),
                        PanelParameter("rem_addr", "The user's address.", longest=255),
                    ),
                ),
                PanelOperation(
                    "GET", "/lockouts", "view", "Users who guessed too often.", self.lockouts, TacacsLockouts
                ),
                PanelOperation("POST", "/lockouts/{user}/end", "operate", "End a user's locks.", self.unlock),
                PanelOperation("GET", "/sinks", "view", "Accounting sinks.", self.sinks, TacacsSinks),
            ),
        )  # fmt: skip

    async def devices(self, asked: Mapping[str, Any], _body: Any) -> TacacsDevices:
        """Return the devices that fit, connected ones first."""
        gateway, server = self._gateway, self._gateway.server
        connections: Counter[str] = Counter()
        sessions: Counter[str] = Counter()
        for connection in server.managers[gateway.name].connections:
            device = connection.peer.context
            if device is not None:
                connections[device.name] += 1
                sessions[device.name] += len(connection.table.live)
        keys: dict[str, list[DeviceKey]] = {}
        for key in gateway.config.keys.snapshot(server.events.unix_time(server.clock())):
            shown = DeviceKey(
                index=key.index, age_days=key.age_days, last_used=key.last_used, warnings=key.warnings
            )
            keys.setdefault(key.device, []).append(shown)
        wanted = asked["search"].casefold()
        found = [
            TacacsDevice(
                name=device.name,
                groups=device.groups,
                networks=device.networks,
                certificate_names=device.certificate_names,
                connections=connections[device.name],
                sessions=sessions[device.name],
                keys=tuple(keys.get(device.name, ())),
            )
            for device in gateway.config.settings.devices
            if wanted in " ".join((device.name, *device.groups, *device.networks)).casefold()
        ]
        found.sort(key=lambda device: (-device.connections, device.name))
        return TacacsDevices(devices=tuple(found[:DEVICES_COUNT]), more=max(0, len(found) - DEVICES_COUNT))

    async def decisions(self, asked: Mapping[str, Any], _body: Any) -> TacacsDecisions:
        """Return the decisions that fit, newest first."""
        wanted = asked["search"].casefold()
        rows = map(self._decision, self._log.newest(denied_only=asked["outcome"] == "denied"))
        found = (row for row in rows if wanted in " ".join(map(str, msgspec.structs.astuple(row))).casefold())
        return TacacsDecisions(decisions=tuple(islice(found, asked["limit"])))

    def _decision(self, event: Event) -> TacacsDecision:
        fields = event.fields()
        request = fields.get("request", fields.get("method", fields.get("kind", "")))
        return TacacsDecision(
            at=self._gateway.server.events.unix_time(event.at),
            kind=_WORDS[event.kind],
            outcome=fields["outcome"],
            user=fields["user"],
            device=fields["device"],
            rem_addr=fields["rem_addr"],
            request=request if isinstance(request, str) else " ".join(filter(None, map(_value, request))),
            rule=fields.get("rule", ""),
            reason=fields["reason"],
            session="" if event.session is None else event.session.id,
        )

    async def explain(self, asked: Mapping[str, Any], _body: Any) -> Explained:
        """Say what the policy in force decides now, as ``sojourn tacacs explain`` does.

        Raises: Refusal for a device that is not configured, or a user who may do nothing at all.
        """
        config = self._gateway.config
        device = next((one for one in config.settings.devices if one.name == asked["device"]), None)
        if device is None:
            raise Refusal(Kind.BAD_REQUEST, "no device has this name", reason="device")
        groups = config.users.standing(asked["user"])
        if groups is None:
            words = "deny, FAIL: unknown, disabled or expired user"
            return Explained(is_permitted=False, rule="(none)", words=words, steps=())
        service = asked["service"] or "shell"
        name, *rest = asked["command"].split() or [""]
        args = (f"service={service}", f"cmd={name}", *(f"cmd-arg={word}" for word in rest))
        query = Query(
            user=asked["user"],
            user_groups=groups,
            device=device.name,
            device_groups=device.groups,
            rem_addr=asked["rem_addr"],
            service=service,
            args=args,
        )
        *steps, last = config.policy.explain(query)
        return Explained(
            is_permitted=last.decision is not None and last.decision.permit,
            rule=last.rule,
            words=last.words,
            steps=tuple(
                Explanation(rule=step.rule, is_match=step.matched, words=step.words) for step in steps
            ),
        )

    async def lockouts(self, _asked: Mapping[str, Any], _body: Any) -> TacacsLockouts:
        """Return every lock, the one that ends first in front."""
        state = self._gateway.login_state
        found = [
            TacacsLockout(user=lock.user, what=what, remaining_s=lock.remaining_s)
            for what, table in (("login", state.lockout), ("enable", state.enable_lockout))
            for lock in table.locked()
        ]
        found.sort(key=lambda lock: lock.remaining_s)
        return TacacsLockouts(lockouts=tuple(found))

    async def unlock(self, asked: Mapping[str, Any], _body: Any) -> None:
        """End a user's locks before their time.

        Raises: Refusal if there is none.
        """
        state = self._gateway.login_state
        ended = [table.end_lock(asked["user"]) for table in (state.lockout, state.enable_lockout)]
        if not any(ended):
            raise Refusal(Kind.NOT_FOUND, "nobody of this name is locked out")

    async def sinks(self, _asked: Mapping[str, Any], _body: Any) -> TacacsSinks:
        """Return every accounting sink."""
        return TacacsSinks(
            sinks=tuple(
                TacacsSink(
                    name=sink.name,
                    kind=sink.kind,
                    health=sink.health,
                    waiting=sink.waiting_count,
                    stored=sink.stored_count,
                    failed=sink.failed_count,
                    last_error=sink.last_error,
                    warning=sink.warning,
                )
                for sink in self._gateway.accounting.snapshot()
            )
        )


def _value(pair: str) -> str:
    """Return what of an attribute-value pair people read: of a command its words, of others the whole."""
    name, _, value = pair.partition("=")
    if name == "service" or pair == "cmd-arg=<cr>":
        return ""
    return value if name in {"cmd", "cmd-arg"} else pair
