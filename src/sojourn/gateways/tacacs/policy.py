"""Who may do what on which device: ordered rules, first match decides, and every decision says why.

Compiled once per configuration snapshot. Knows nothing of packets, sockets, passwords or the store of users;
``authen_method`` is not an input (RFC 8907 section 6.1 forbids policy on it).

Conditions of one rule hold together (AND); the entries of one condition are alternatives (OR). A command line
is the value of ``cmd`` and of every ``cmd-arg``, joined by single spaces, without the closing ``<cr>``. Words
are compared exactly (devices send keywords in full); a regular expression is *searched* in the whole line,
so write ``/^show .*$/`` to bind both ends. Python's ``re`` has no time limit, so ``sojourn check`` refuses
what can take exponential time, and a line above ``MAX_LINE_CHARS`` is denied without being compared.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from sojourn.gateways.tacacs.config import Rule, TacacsSettings
from sojourn.gateways.tacacs.devices import parse_address, parse_network
from sojourn.gateways.tacacs.ldap import canonical_name
from sojourn.gateways.tacacs.masking import mask_args, mask_line
from sojourn.gateways.tacacs.pairs import FAIL, PASS_ADD, PASS_REPL, command_line, merge_pairs, service_of
from sojourn.gateways.tacacs.windows import Window

__all__ = [
    "FAIL",
    "NO_RULE",
    "PASS_ADD",
    "PASS_REPL",
    "Decision",
    "Policy",
    "Query",
    "Step",
    "is_regex",
    "service_of",
]

NO_RULE: Final = "(none)"
DENIED_TEXT: Final = "Not authorized"

SESSION_MARK: Final = "\ud800"
"""Stands for the command of a session authorization; no text from the wire holds a lone surrogate."""

MAX_LINE_CHARS: Final = 1_024
"""A longer command line is denied: devices send less, and regular expressions cost more than linear time."""

CACHED_DECISIONS_COUNT: Final = 8_192
"""Per generation; two generations are kept, the older one is dropped when the younger one is full."""

CACHED_PEERS_COUNT: Final = 2_048
"""Users on devices whose rules are remembered; the memory is emptied when it is full."""

CACHED_ARGS_CHARS: Final = 1_024
"""Requests with more text are decided afresh each time, so that a peer cannot fill the memory."""

# What is wrong with a rule for a request, as a number: the hot loop compares nothing but small ints.
_HOLDS, _DEVICE_GROUP, _USER_GROUP, _USER, _SERVICE = range(5)
_PROTOCOL, _SESSION, _COMMAND, _SOURCE, _WINDOW = range(5, 10)


class Query(msgspec.Struct, frozen=True, gc=False):
    """What a device asks, with what the snapshot knows of the user and the device."""

    user: str
    user_groups: tuple[str, ...] = ()
    device: str = ""
    device_groups: tuple[str, ...] = ()
    port: str = ""
    rem_addr: str = ""
    service: str = ""
    args: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer and its reason.

    Shape: ``rule`` is ``"(none)"`` where no rule matched; ``args`` are the REPLY's pairs; ``valid_until`` is
    None where no time window is in the policy; ``message`` is for the user, ``reason`` for operators.
    Units: ``valid_until`` in Unix seconds.
    """

    permit: bool
    status: int
    args: tuple[str, ...]
    message: str
    rule: str
    reason: str
    valid_until: float | None


class Step(msgspec.Struct, frozen=True):
    """One line of an explanation: a rule and whether it matched, or (last, with ``decision``) the outcome."""

    rule: str
    matched: bool
    words: str
    decision: Decision | None = None


def is_regex(command: str) -> bool:
    """Tell whether a rule's command entry is a regular expression (``/.../``)."""
    return len(command) > 1 and command[0] == command[-1] == "/"


class _Facts:
    """What the rules compare, derived once per undecided request."""

    __slots__ = ("_address", "_is_parsed", "_rem_addr", "line", "padded", "protocol")

    def __init__(self, query: Query) -> None:
        self.line = command_line(query.args)
        self.padded = SESSION_MARK if self.line is None else self.line + " "
        self._rem_addr = query.rem_addr
        self._address: tuple[int, int] | None = None
        self._is_parsed = False
        pairs = (arg[9:] for arg in query.args if arg.startswith(("protocol=", "protocol*")))
        self.protocol = next(pairs, "")

    def address(self) -> tuple[int, int] | None:
        if not self._is_parsed:
            self._address = parse_address(self._rem_addr)
            self._is_parsed = True
        return self._address


class _Compiled:
    """A rule in the form that is fast to compare; ``window_is_open`` is set at every window boundary."""

    __slots__ = (
        "device_groups", "local_users", "networks", "prefixes", "protocols", "rule", "searches", "services",
        "strangers", "user_groups", "users", "wants_command", "window", "window_is_open",
    )  # fmt: skip

    def __init__(self, rule: Rule, local_users: frozenset[str]) -> None:
        self.rule = rule
        self.local_users = local_users
        self.device_groups = frozenset(rule.device_groups)
        self.user_groups = frozenset(rule.user_groups)
        self.users = frozenset(rule.users)
        self.strangers = frozenset(map(canonical_name, self.users - local_users))
        self.services = frozenset(rule.services)
        self.protocols = frozenset(rule.protocols)
        self.wants_command = bool(rule.commands)
        self.prefixes = tuple(
            " ".join(c.split()) + " " if c else SESSION_MARK for c in rule.commands if not is_regex(c)
        )
        self.searches = tuple(re.compile(c[1:-1]).search for c in rule.commands if is_regex(c))
        self.networks = tuple(parse_network(text) for text in rule.source_networks)
        self.window = Window(rule.when) if rule.when is not None else None
        self.window_is_open = True

    def failed(self, query: Query, facts: _Facts) -> int:
        """Return the number of the first condition that does not hold, ``_HOLDS`` where all do."""
        return self.failed_for_peer(query, facts) or self.failed_for_request(facts)

    def failed_for_peer(self, query: Query, facts: _Facts) -> int:
        """Compare what stays the same from one request of a user on a device to the next."""
        if self.users and query.user not in self.users and not self._is_named_stranger(query.user):
            return _USER
        if self.user_groups and self.user_groups.isdisjoint(query.user_groups):
            return _USER_GROUP
        if self.device_groups and self.device_groups.isdisjoint(query.device_groups):
            return _DEVICE_GROUP
        if self.services and query.service not in self.services:
            return _SERVICE
        if self.protocols and facts.protocol not in self.protocols:
            return _PROTOCOL
        return _HOLDS

    def failed_for_request(self, facts: _Facts) -> int:
        """Compare what differs from request to request, and the time window."""
        if self.wants_command:
            if facts.line is None:
                if SESSION_MARK not in self.prefixes:
                    return _SESSION
            elif not facts.padded.startswith(self.prefixes) and not self._is_found_in(facts.line):
                return _COMMAND
        if self.networks and not self._is_from(facts.address()):
            return _SOURCE
        return _HOLDS if self.window_is_open else _WINDOW

    def _is_named_stranger(self, user: str) -> bool:
        """Compare as directories do: there ``Ana`` and ``ana`` are one; local users are who they say exactly."""
        return user not in self.local_users and canonical_name(user) in self.strangers

    def _is_found_in(self, line: str) -> bool:
        for search in self.searches:  # noqa: SIM110 - any() with a generator costs twice as much
            if search(line) is not None:
                return True
        return False

    def _is_from(self, address: tuple[int, int] | None) -> bool:
        if address is None:
            return False
        version, value = address
        return any(v == version and value >> shift == prefix for v, prefix, shift in self.networks)


_Candidate = tuple[tuple[str, ...], _Compiled]


# A partial of a C function: with time windows every decision reads the clock, and a frame doubles the price.
_utc_now: Final = functools.partial(dt.datetime.now, dt.UTC)


class Policy:
    """The compiled rules of one snapshot; made by whoever loads the configuration, replaced by the next one.

    Always true: the same query gives the same decision until a time window of any rule opens or closes.

    Args:
        settings: free of problems, see :mod:`sojourn.gateways.tacacs.checks`.
        now: the wall clock, timezone-aware; asked only if a rule has a time window.
    """

    def __init__(self, settings: TacacsSettings, now: Callable[[], dt.datetime] = _utc_now) -> None:
        local_users = frozenset(user.name for user in settings.users)
        self._rules = tuple(_Compiled(rule, local_users) for rule in settings.rules)
        self._pairs = tuple((() if rule.searches else rule.prefixes, rule) for rule in self._rules)
        self._windowed = tuple(rule for rule in self._rules if rule.window is not None)
        self._now = now
        # An empty interval: the first decision sets it.
        self._from = self._until = dt.datetime.min.replace(tzinfo=dt.UTC)
        self._valid_until: float | None = None
        self._for_peer: dict[tuple[object, ...], tuple[_Candidate, ...]] = {}
        self._young: dict[tuple[object, ...], Decision] = {}
        self._old: dict[tuple[object, ...], Decision] = {}

    def decide(self, query: Query) -> Decision:
        """Decide one authorization request."""
        if self._windowed:
            now = self._now()
            if not self._from <= now < self._until:
                self._turn(now)
        # Without the port: rules do not look at it, and terminals differ where nothing else does.
        key = (
            query.device, query.user, query.args, query.rem_addr, query.service, query.user_groups,
            query.device_groups,
        )  # fmt: skip
        decision = self._young.get(key)
        return decision if decision is not None else self._remember(key, query)

    def explain(self, query: Query) -> list[Step]:
        """Tell for every rule up to the deciding one why it did or did not match, then the decision."""
        decision = self.decide(query)
        facts = _Facts(query)
        steps: list[Step] = []
        for compiled in self._rules if not _is_too_long(facts) else ():
            failed = compiled.failed(query, facts)
            words = _words(compiled.rule, failed, query, facts)
            steps.append(Step(compiled.rule.name, failed == _HOLDS, words))
            if failed == _HOLDS:
                break
        answers = {PASS_ADD: "permit, PASS_ADD", PASS_REPL: "permit, PASS_REPL", FAIL: "deny, FAIL"}
        answer = answers[decision.status]
        pairs = f" with {', '.join(mask_args(decision.args))}" if decision.args else ""
        steps.append(Step(decision.rule, decision.permit, f"{answer}{pairs}: {decision.reason}", decision))
        return steps

    def _turn(self, now: dt.datetime) -> None:
        """Forget what was decided and look at every time window afresh."""
        self._young = {}
        self._old = {}
        boundaries: list[float] = []
        for compiled in self._windowed:
            if compiled.window is not None:
                compiled.window_is_open = compiled.window.is_open(now)
                boundaries.append(compiled.window.next_change(now))
        self._valid_until = min(boundaries)
        self._from = now
        self._until = dt.datetime.fromtimestamp(self._valid_until, dt.UTC)

    def _remember(self, key: tuple[object, ...], query: Query) -> Decision:
        decision = self._old.get(key)
        if decision is None:
            decision = self._first_match(query)
            if sum(map(len, query.args)) > CACHED_ARGS_CHARS:
                return decision
        if len(self._young) >= CACHED_DECISIONS_COUNT:
            self._old = self._young
            self._young = {}
        self._young[key] = decision
        return decision

    def _first_match(self, query: Query) -> Decision:
        facts = _Facts(query)
        if _is_too_long(facts):
            return self._deny(NO_RULE, f"the command line is longer than {MAX_LINE_CHARS} characters")
        padded = facts.padded
        for prefixes, compiled in self._candidates(query, facts):
            # Inline: for most rules of a long policy this is all the work, and a call costs three times it.
            if prefixes and not padded.startswith(prefixes):
                continue
            if compiled.failed_for_request(facts) == _HOLDS:
                return self._apply(compiled.rule, query, facts)
        return self._deny(NO_RULE, "no rule matches")

    def _candidates(self, query: Query, facts: _Facts) -> tuple[_Candidate, ...]:
        """Return the rules for this user, device and service, with prefixes that alone can rule one out."""
        key = (
            query.user,
            query.user_groups,
            query.device,
            query.device_groups,
            query.service,
            facts.protocol,
        )
        found = self._for_peer.get(key)
        if found is None:
            found = tuple(pair for pair in self._pairs if pair[1].failed_for_peer(query, facts) == _HOLDS)
            if len(self._for_peer) >= CACHED_PEERS_COUNT:
                self._for_peer.clear()
            self._for_peer[key] = found
        return found

    def _apply(self, rule: Rule, query: Query, facts: _Facts) -> Decision:
        if rule.action == "deny":
            return self._deny(rule.name, f"rule {rule.name} denies it", rule.message)
        status, refused = PASS_ADD, ""
        args: tuple[str, ...] = ()
        if facts.line is None and rule.replace:
            status, args = PASS_REPL, rule.replace
        elif facts.line is None:
            status, args, refused = merge_pairs(query.args, rule.add)
        if refused:
            reason = f"rule {rule.name} matches but does not grant the mandatory attribute {refused}"
            return self._deny(rule.name, reason, rule.message)
        reason = f"rule {rule.name} permits it"
        return Decision(True, status, args, rule.message, rule.name, reason, self._valid_until)

    def _deny(self, rule: str, reason: str, message: str = "") -> Decision:
        return Decision(False, FAIL, (), message or DENIED_TEXT, rule, reason, self._valid_until)


def _is_too_long(facts: _Facts) -> bool:
    return facts.line is not None and len(facts.line) > MAX_LINE_CHARS


def _words(rule: Rule, failed: int, query: Query, facts: _Facts) -> str:
    """Say in words which condition of a rule did not hold."""
    line = facts.line if facts.line is not None else ""
    window = rule.when
    return {
        _HOLDS: "every condition holds",
        _DEVICE_GROUP: f"device group {_either(rule.device_groups)}: {query.device} is not in it",
        _USER_GROUP: f"user group {_either(rule.user_groups)}: {query.user} is not in it",
        _USER: f"users {_either(rule.users)}: not {query.user}",
        _SERVICE: f"service {_either(rule.services)}: the request says {query.service or 'nothing'}",
        _PROTOCOL: f"protocol {_either(rule.protocols)}: the request says {facts.protocol or 'nothing'}",
        _SESSION: "commands: the request is a session authorization, not a command",
        _COMMAND: f"commands {_either(rule.commands)}: not {mask_line(line)!r}",
        _SOURCE: f"source network {_either(rule.source_networks)}: rem_addr is {query.rem_addr or 'empty'}",
        _WINDOW: ""
        if window is None
        else f"time window {' '.join(window.days)} {window.start}-{window.end} {window.timezone}: closed now",
    }[failed]


def _either(entries: Sequence[str]) -> str:
    return " or ".join(entries)
