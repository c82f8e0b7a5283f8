"""As whom an embedded server runs, and which places of this machine that user can reach.

PostgreSQL refuses to run as root, and Valkey should not. Where we are root, an existing ordinary user serves:
none is created, and no permission of a directory that is not ours is changed. Knows nothing of what the
server is.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sojourn.errors import BackendUnavailable

SOCKET_PATH_BYTES: Final = 107
"""sun_path of a unix socket holds 108 bytes, the last of them NUL (unix(7))."""

READ: Final = 4
SEARCH: Final = 1


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system; ``is_ours`` when it is the one that we run as."""

    name: str
    uid: int
    gid: int
    is_ours: bool

    def may(self, path: Path, wanted: int) -> bool:
        """Tell whether this user may reach a path and has the wanted permission bits on it."""
        if self.is_ours:
            return os.access(path, wanted)
        try:
            return self._has(path.stat(), wanted) and all(
                self._has(above.stat(), SEARCH) for above in path.parents
            )
        except OSError:
            return False

    def _has(self, status: os.stat_result, wanted: int) -> bool:
        if self.uid == status.st_uid:
            mode = status.st_mode >> 6
        elif self.gid == status.st_gid:
            mode = status.st_mode >> 3
        else:
            mode = status.st_mode
        return self.uid == 0 or mode & wanted == wanted

    def own(self, path: Path) -> Path:
        """Make a directory of mode 0700 that belongs to this user."""
        path.mkdir(mode=0o700)
        if not self.is_ours:
            with _opened(path) as descriptor:
                os.fchown(descriptor, self.uid, self.gid)
        return path

    def admit(self, path: Path) -> None:
        """Let this user, and nobody else, pass a directory or read a file that is ours and private."""
        if not self.is_ours:
            with _opened(path) as descriptor:
                os.fchown(descriptor, -1, self.gid)
                os.fchmod(descriptor, 0o710 if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 0o640)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Hold what a path names, for changing its owner: never what a link put in its place points to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ourselves() -> Account:
    """Return the user that we run as."""
    uid = os.geteuid()
    return Account(name=_name(uid), uid=uid, gid=os.getegid(), is_ours=True)


def serving_account(backend: str, wished: Sequence[str]) -> Account:
    """Return whom a server runs as: ourselves, or the first of the wished users where we are root.

    Raises: BackendUnavailable if we are root and none of them exists.
    """
    if os.geteuid() != 0:
        return ourselves()
    for name in wished:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0 and entry.pw_gid != 0:
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, is_ours=False)
    raise BackendUnavailable(
        backend,
        0.0,
        f"it does not run as root, and none of the users {', '.join(wished)} exists; "
        "name an existing unprivileged user, start as an ordinary user, or give a running server's address",
    )


def owner_account(path: Path, otherwise: Account) -> Account:
    """Return the user to whom existing data belongs, if we are root and may act for it; else the other."""
    owner = path.stat()
    if os.geteuid() != 0 or owner.st_uid in (0, otherwise.uid):
        return otherwise
    return Account(name=_name(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid, is_ours=False)


def temporary_parent(backend: str, account: Account, longest_name: str) -> Path:
    """Return a directory for temporary ones that the account can reach and that keeps socket paths short.

    Raises: BackendUnavailable if there is none.
    """
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108
        is_short = len(os.fsencode(candidate / longest_name)) <= SOCKET_PATH_BYTES
        if is_short and account.may(candidate, SEARCH) and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    raise BackendUnavailable(
        backend, 0.0, f"no temporary directory that user {account.name} can reach; set TMPDIR to a short path"
    )


def take_directory(backend: str, directory: Path, account: Account) -> None:
    """Make the directory for data that stays, if need be; change no permission of one that exists.

    Raises: BackendUnavailable if the account cannot enter it.
    """
    if not directory.exists():
        directory.mkdir(mode=0o700)
        account.admit(directory)
    if not account.may(directory, SEARCH):
        raise BackendUnavailable(
            backend, 0.0, f"user {account.name} cannot enter {directory}; name a directory that it can reach"
        )


def free_port() -> int:
    """Return a loopback port that nobody uses at the moment."""
    with socket.socket(socket.AF_INET) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def private_cache(account: Account, candidates: Iterable[Path] = ()) -> Path | None:
    """Return a directory of ours that nobody else can change and the account can reach, or None.

    Args:
        candidates: places to try; without them, /var/cache for root, the user's cache directory for others.
    """
    for path in candidates or _cache_candidates():
        try:
            # XDG base directory specification: missing directories are made with mode 0700.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                path.mkdir(mode=0o700)
                path.chmod(0o700 if account.is_ours else 0o755)
        except FileExistsError:
            pass
        except OSError:
            continue
        if _is_safe(path) and account.may(path, SEARCH) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            return path
    return None


def _cache_candidates() -> list[Path]:
    uid = os.geteuid()
    fallback = [Path(place) / f"sojourn-cache-{uid}" for place in ("/var/tmp", tempfile.gettempdir())]  # noqa: S108
    if uid == 0:
        return [Path("/var/cache/sojourn"), *fallback]
    wished = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(wished) if wished.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        return fallback
    return [home / "sojourn", *fallback]


def _is_safe(path: Path) -> bool:
    """Tell whether a directory is ours alone to change, and no stranger can replace one above it."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        return False
    for above in path.resolve().parents:
        status = above.stat()
        is_writable_by_others = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or is_writable_by_others:
            return False
    return True


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
