"""Build a real kube-apiserver from Debian's source package, and put etcd beside it; print the folder with both.

Everything stays below ``$SOJOURN_CACHE`` (by default ``~/.cache/sojourn``): packages are fetched by apt with lists and
state of their own, checked against Debian's signatures, and unpacked, never installed. Go is Debian's too where the one
on the PATH is another version. What was built once is used again.

What it does not know on purpose: what the server is for. Nobody but ``make test-kubernetes`` runs it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RELEASE = "bookworm"
"""Debian 12: the last release whose source of Kubernetes has all of its vendored code."""

SOURCE = "kubernetes"
VERSION = "v1.20.2"
"""What the server says of itself; the version of Debian's package says it in a longer way."""

GO = "go1.19"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRRORS = {
    RELEASE: "http://deb.debian.org/debian",
    f"{RELEASE}-security": "http://security.debian.org/debian-security",
}
RSYNC_PACKAGES = ("rsync", "libpopt0", "libxxhash0", "liblz4-1", "libzstd1", "libacl1")
"""The build copies with rsync; its libraries come along for machines that have it not."""

FETCH_WITHIN_S = 600
BUILD_WITHIN_S = 3_600
TOOLS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "dpkg-source": "dpkg-dev",
    "make": "make",
    "bash": "bash",
    "patch": "patch",
}
PROGRAMS = ("kube-apiserver", "etcd")


class Missing(Exception):  # noqa: N818 - named for what it says, as in errors.py
    """What is not here and has to be, in one line."""


def main() -> int:
    """Build if need be; print the folder, or one line on standard error that says what is missing."""
    cache = Path(os.environ.get("SOJOURN_CACHE") or Path.home() / ".cache" / "sojourn")
    place = cache / "kubernetes"
    programs = place / VERSION
    try:
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_complete(programs):
                build(place, programs)
    except Missing as missing:
        say(f"no Kubernetes to test against: {missing}")
        return 1
    except OSError as error:
        say(f"no Kubernetes to test against: {place}: {error.strerror}")
        return 1
    print(programs)
    return 0


def is_complete(programs: Path) -> bool:
    """Say whether everything has been built; each program is put there by one rename."""
    return all((programs / name).is_file() for name in PROGRAMS)


def say(line: str) -> None:
    """Tell the person who ran make; standard output is for the folder."""
    print(f"sojourn: {line}", file=sys.stderr, flush=True)


def build(place: Path, programs: Path) -> None:
    """Fetch, unpack, compile, and keep only the programs.

    Raises: Missing.
    """
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise Missing(f"{tool} (as root: apt-get install {package})")
    if not KEYRING.is_file():
        raise Missing(f"{KEYRING} (as root: apt-get install debian-archive-keyring)")
    if shutil.disk_usage(place).free < 4 * 1024**3:
        raise Missing(f"4 GiB of room in {place}")
    work = place / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    began = time.monotonic()
    say(f"building kube-apiserver {VERSION} from Debian's source, once: 5 to 20 minutes, 3 GiB in {place}")
    apt = Apt(place / "apt", work)
    apt.update()
    apt.fetch_source(SOURCE)
    root = work / "tools"
    go = own_go()
    wanted = [*RSYNC_PACKAGES, "etcd-server"]
    wanted += [] if go else [f"golang-{GO.removeprefix('go')}-go", f"golang-{GO.removeprefix('go')}-src"]
    for package in wanted:
        apt.unpack(package, root)
    compile_server(work, root, go or root / f"usr/lib/go-{GO.removeprefix('go')}/bin")
    programs.mkdir(exist_ok=True)
    keep(next((work / "src/_output").glob("local/bin/*/*/kube-apiserver")), programs)
    keep(root / "usr/bin/etcd", programs)
    shutil.rmtree(work)
    say(f"built in {(time.monotonic() - began) / 60:.0f} minutes")


class Apt:
    """apt with lists and state of its own, so that nothing of the machine's is read or changed but the keyring."""

    def __init__(self, state: Path, work: Path) -> None:
        self._work = work
        for folder in ("lists/partial", "archives/partial", "etc"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        sources = state / "etc/sources.list"
        lines = [
            f"{kind} [signed-by={KEYRING}] {url} {suite} main\n"
            for suite, url in MIRRORS.items()
            for kind in ("deb", "deb-src")
        ]
        sources.write_text("".join(lines), encoding="utf-8")
        settings = {
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
            "Acquire::Retries": 2,
            "Acquire::http::Timeout": 30,
            # The download ends in a folder of ours, which apt's own user may not be able to write to.
            "APT::Sandbox::User": "root",
        }
        self._options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Read the lists. Raises: Missing."""
        self._run("update")

    def fetch_source(self, package: str) -> None:
        """Fetch a source package, and unpack it with Debian's patches into ``src``. Raises: Missing."""
        self._run("source", "--download-only", package)
        (description,) = self._work.glob(f"{package}_*.dsc")
        run(["dpkg-source", "--no-check", "-x", description.name, "src"], self._work, FETCH_WITHIN_S)

    def unpack(self, package: str, root: Path) -> None:
        """Fetch a binary package and unpack it below a folder. Raises: Missing."""
        self._run("download", package)
        (file,) = self._work.glob(f"{package}_*.deb")
        run(["dpkg-deb", "-x", file.name, str(root)], self._work, FETCH_WITHIN_S)

    def _run(self, *arguments: str) -> None:
        run(["apt-get", "-qq", *self._options, *arguments], self._work, FETCH_WITHIN_S)


def own_go() -> Path | None:
    """Return the folder of the Go on the PATH if it is the version that this source was written for."""
    go = shutil.which("go")
    if go is None:
        return None
    said = subprocess.run([go, "version"], check=False, capture_output=True, text=True).stdout
    return Path(go).parent if f" {GO}." in said else None


def compile_server(work: Path, tools: Path, go: Path) -> None:
    """Compile as debian/rules does: a GOPATH around the source, no cgo, nothing from the network.

    Raises: Missing.
    """
    path = work / "gopath/src/k8s.io"
    path.mkdir(parents=True)
    (path / SOURCE).symlink_to(work / "src")
    bin_folder = work / "bin"
    bin_folder.mkdir()
    libraries = ":".join(str(folder) for folder in tools.glob("**/*-linux-gnu*") if folder.is_dir())
    rsync = bin_folder / "rsync"
    rsync.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{tools}/usr/bin/rsync" "$@"\n', encoding="utf-8"
    )
    rsync.chmod(0o755)
    version = work / "version.sh"
    version.write_text(
        f"KUBE_GIT_COMMIT=debian\nKUBE_GIT_TREE_STATE=archive\nKUBE_GIT_VERSION={VERSION}\n"
        "KUBE_GIT_MAJOR=1\nKUBE_GIT_MINOR=20\n",
        encoding="utf-8",
    )
    environment = {
        "PATH": f"{bin_folder}:{go}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "CGO_ENABLED": "0",
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "gocache"),
        "GOPROXY": "off",
        "GOFLAGS": os.environ.get("GOFLAGS", ""),
        "GOMAXPROCS": os.environ.get("GOMAXPROCS", str(os.cpu_count() or 1)),
        "KUBE_GIT_VERSION_FILE": str(version),
    }
    run(["make", "WHAT=cmd/kube-apiserver"], path / SOURCE, BUILD_WITHIN_S, environment)


def keep(program: Path, programs: Path) -> None:
    """Move a program to its place, whole or not at all."""
    fresh = programs / f".{program.name}.new"
    shutil.copy2(program, fresh)
    fresh.replace(programs / program.name)


def run(
    command: Sequence[str], folder: Path, within_s: float, environment: dict[str, str] | None = None
) -> None:
    """Run a program to its end.

    Raises: Missing, with the last thing that it said, if it fails.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{command[0]} did not end within {within_s:.0f} s") from None
    if done.returncode:
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise Missing(f"{' '.join(command[:1])} failed: {said[-1] if said else done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
