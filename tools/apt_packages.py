"""Install the Debian packages that tests want, where that is allowed; say what is skipped where it is not.

What it does not know on purpose: which test wants which package (the marker ``debian`` says that), and if a
missing one is bad: it never fails the make. Tests that miss theirs are skipped by name, or fail on CI.

Allowed means: we are root, apt-get exists and ``SOJOURN_APT=0`` is not set. Services that the packages bring
are not started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LIST = Path(__file__).with_name("apt-packages.txt")
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian's invoke-rc.d asks this program; its exit code 101 means "do not start it"."""

FETCH_WITHIN_S = 300
"""For the package lists, and again for the packages themselves."""

UNPACK_WITHIN_S = 600
"""Long on purpose: ending dpkg in the middle leaves a machine that needs mending by hand."""

OPTIONS = (
    *("-o", "DPkg::Lock::Timeout=60"),
    *("-o", "Acquire::Retries=2"),
    *("-o", "Acquire::http::Timeout=30"),
    *("-o", "Acquire::https::Timeout=30"),
)


def listed(text: str) -> list[str]:
    """Read package names, one a line; ``#`` starts a comment."""
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def missing(names: Sequence[str]) -> list[str]:
    """Say which of these packages are not installed; without dpkg that is all of them."""
    if shutil.which("dpkg-query") is None:
        return list(names)
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *names],
        check=False,
        capture_output=True,
        text=True,
    )
    present = {line.partition(" ")[2] for line in query.stdout.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in present]


def refusal(environment: Mapping[str, str], user_id: int, apt_get: str | None) -> str | None:
    """Say why nothing may be installed here, or ``None`` if it may."""
    if environment.get("SOJOURN_APT") == "0":
        return "SOJOURN_APT=0"
    if apt_get is None:
        return "no apt-get here"
    return None if user_id == 0 else "not root"


@contextlib.contextmanager
def services_stay_down() -> Iterator[None]:
    """Keep freshly installed services from starting, unless the machine has a policy of its own for that."""
    try:
        with POLICY.open("x", encoding="utf-8") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except OSError:
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def apt_get(*arguments: str, within_s: float) -> str:
    """Run apt-get, asking nothing.

    Returns: ``""``, or the last line that says what went wrong.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    try:
        done = subprocess.run(
            ["apt-get", "-qq", "-y", *OPTIONS, *arguments],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {within_s:.0f} s"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stdout.splitlines() if line.strip()]
    return said[-1] if said else f"apt-get ended with {done.returncode}"


def install(names: Sequence[str]) -> dict[str, str]:
    """Install each package by itself, so that one unknown name costs only its own tests.

    Returns: package -> what went wrong, for those that failed.
    """
    failures: dict[str, str] = {}
    fetch_until = time.monotonic() + FETCH_WITHIN_S
    trouble_with_lists = apt_get("update", within_s=FETCH_WITHIN_S)
    with services_stay_down():
        for name in names:
            left_s = max(1.0, fetch_until + FETCH_WITHIN_S - time.monotonic())
            wanted = ("install", "--no-install-recommends", name)
            trouble = apt_get(*wanted, "--download-only", within_s=left_s)
            trouble = trouble or apt_get(*wanted, "--no-download", within_s=UNPACK_WITHIN_S)
            if trouble:
                failures[name] = trouble_with_lists or trouble
    return failures


def main() -> int:
    """Install what is missing if that is allowed; always end with 0."""
    wanted = missing(listed(LIST.read_text(encoding="utf-8")))
    if not wanted:
        return 0
    why = refusal(os.environ, os.geteuid(), shutil.which("apt-get"))
    if why is not None:
        print(f"sojourn: Debian packages not installed ({why}); their tests are skipped: {' '.join(wanted)}")
        return 0
    print(f"sojourn: installing Debian packages for tests: {' '.join(wanted)}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name, trouble in install(wanted).items():
        print(f"sojourn: {name} could not be installed, its tests are skipped: {trouble}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
