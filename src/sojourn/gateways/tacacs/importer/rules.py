"""The policy of a classic ``tac_plus.conf`` as an ordered list of our rules.

The old daemon looks a thing up in the user, then in the group, then in the group's group, and takes the first
it finds; commands fall back to ``default service``. Ordered rules say the same when, kind by kind, users come
before groups and groups before the groups that they are in. It knows nothing of passwords, devices or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from sojourn.gateways.tacacs.importer.grammar import Block, Command, Service, Unmapped
from sojourn.gateways.tacacs.importer.patterns import NotConvertible, line_pattern
from sojourn.gateways.tacacs.importer.toml import Value
from sojourn.gateways.tacacs.policy import is_regex

EVERY_COMMAND: Final = "/.*/"

_SERVICES: Final = {"exec": "shell", "shell": "shell"}

MAX_NAME_CHARS: Final = 128
MAX_PAIR_CHARS: Final = 255

Entries = dict[str, Value]
"""One rule: settings and their values."""

Who = dict[str, Value]
"""The conditions that say whose a rule is; empty means everybody's."""


class RuleWriter:
    """Collects rules in order; made for one import, read once at its end."""

    def __init__(self, unmapped: list[Unmapped]) -> None:
        self.rules: list[Entries] = []
        self._unmapped = unmapped
        self._names: set[str] = set()

    def add(self, name: str, who: Who, **settings: Value) -> None:
        """Append a rule; its name is made fit and unique."""
        self.rules.append({"name": self._unique(name), **who, **settings})

    def sequence(self, owners: Sequence[tuple[Block, Who]], everybody: Who) -> None:
        """Append the rules of users and groups, already in the order in which they are looked up.

        Args:
            owners: who has what.
            everybody: the conditions that hold for all of them together.
        """
        self._each(owners, self._commands)
        for block, who in owners:
            if block.default_service:
                name = f"{block.name}-other-commands"
                self.add(name, who, commands=(EVERY_COMMAND,), action=block.default_service)
        # From here on a request for a command is decided, so that rules without commands mean sessions only.
        self.add("commands-not-listed", everybody, commands=(EVERY_COMMAND,), action="deny")
        self._each(owners, self._services)
        for block, who in owners:
            if block.commands:
                self.add(f"{block.name}-session", who, services=("shell",))
        for block, who in owners:
            if any(service.name == "ppp" for service in block.services):
                self.add(f"{block.name}-ppp-lcp", who, services=("ppp",), protocols=("lcp",))
        for block, who in owners:
            if block.default_service:
                self.add(f"{block.name}-default", who, action=block.default_service)
                if not who:
                    break

    def _each(self, owners: Sequence[tuple[Block, Who]], write: Callable[[Block, Who], None]) -> None:
        for block, who in owners:
            write(block, who)

    def _commands(self, block: Block, who: Who) -> None:
        seen: set[str] = set()
        for command in block.commands:
            if command.name in seen:
                text = f"{block.kind} {block.name}: cmd = {command.name}"
                self._unmapped.append(Unmapped(command.line, text, "it is there twice; the first counts"))
                continue
            seen.add(command.name)
            self._command(block, who, command)

    def _command(self, block: Block, who: Who, command: Command) -> None:
        """Append a command's matches in order, then the denial of what none of them took."""
        name = f"{block.name}-{command.name}"
        runs: list[tuple[bool, list[str]]] = []
        for match in command.matches:
            entry = self._entry(command, match.permit, match.pattern, match.line)
            if entry is None:
                continue
            if runs and runs[-1][0] == match.permit:
                runs[-1][1].append(entry)
            else:
                runs.append((match.permit, [entry]))
            if entry == command.name:
                break
        if not runs or command.name not in runs[-1][1]:
            if runs and not runs[-1][0]:
                runs.pop()
            runs.append((False, [command.name]))
        for permit, entries in runs:
            commands = (command.name,) if command.name in entries else tuple(dict.fromkeys(entries))
            self.add(name, who, commands=commands, action="permit" if permit else "deny")

    def _entry(self, command: Command, permit: bool, pattern: str, line: int) -> str | None:
        """Return the entry of one match; an unclear permit is left out, an unclear deny denies everything."""
        text = f"cmd = {command.name}: {'permit' if permit else 'deny'} {pattern}"
        try:
            entry = line_pattern(command.name, pattern)
        except NotConvertible as error:
            effect = "left out" if permit else f"everything of {command.name!r} from here on is denied"
            self._unmapped.append(Unmapped(line, text, f"{error}; {effect}"))
            return None if permit else command.name
        why = _ending_matters(command.name, pattern, entry)
        if why:
            self._unmapped.append(Unmapped(line, text, why))
        return entry

    def _services(self, block: Block, who: Who) -> None:
        for service in block.services:
            name = _SERVICES.get(service.name, service.name)
            protocols = (service.protocol,) if service.protocol else ()
            label = "-".join(part for part in (block.name, name, service.protocol) if part)
            pairs = self._pairs(block, service)
            self.add(label, who, services=(name,), protocols=protocols, add=pairs)

    def _pairs(self, block: Block, service: Service) -> tuple[str, ...]:
        text = f"{block.kind} {block.name}: service = {service.name}"
        if service.name == "shell":
            why = "tac_plus never uses it (it wants 'service = exec'); imported as if it were exec"
            self._unmapped.append(Unmapped(service.line, text, why))
        if service.default_permit:
            why = "'default attribute = permit': pairs that the device asks for must be named in 'add' here"
            self._unmapped.append(Unmapped(service.line, text, why))
        pairs: list[str] = []
        for attribute in service.attributes:
            name, _, _ = attribute.pair.replace("*", "=", 1).partition("=")
            is_fit = attribute.pair.isascii() and attribute.pair.isprintable()
            if not name or not is_fit or len(attribute.pair) > MAX_PAIR_CHARS:
                why = f"a pair is at most {MAX_PAIR_CHARS} printable ASCII characters"
                self._unmapped.append(Unmapped(attribute.line, attribute.pair, why))
                continue
            if "*" in attribute.pair[: len(name) + 1]:
                why = "an optional pair was sent only if the device asked for it; now it is always sent"
                self._unmapped.append(Unmapped(attribute.line, attribute.pair, why))
            pairs.append(attribute.pair)
        return tuple(pairs)

    def _unique(self, wanted: str) -> str:
        name = fit_name(wanted)
        number = 2
        while name in self._names:
            name = f"{fit_name(wanted)[: MAX_NAME_CHARS - 6]}.{number}"
            number += 1
        self._names.add(name)
        return name


def _ending_matters(command: str, pattern: str, entry: str) -> str:
    """Say how the ``<cr>`` that IOS sends, and our line has not, changes what a pattern takes; "" = not."""
    if "<cr>" in pattern or not is_regex(entry):
        return ""
    search = re.compile(entry[1:-1]).search
    if search(f"{command} <cr>") and not search(command):
        return "it matches the closing <cr> itself, so it took every command of IOS; now <cr> is not compared"
    if re.search(r"[^*+>\\]\$$", pattern):
        return "IOS sends a closing <cr>, so this matched nothing there; now it matches without one"
    return ""


def fit_name(text: str) -> str:
    """Return a text in the form that names have here: other characters become ``_``."""
    name = re.sub(r"[^A-Za-z0-9_.@-]", "_", text)[:MAX_NAME_CHARS]
    return name if name[:1].isalnum() or name[:1] == "_" else f"_{name}"[:MAX_NAME_CHARS]
