"""The directory of child processes: for each its socket, its log and a note that says which process it is.

For our user alone, so that who reaches a socket in it is one of us. Several of our processes may share it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.exchange.spawners.spawner import SimulatorHandle

LOG_LINES_COUNT: Final = 8
"""How many of a simulator's last lines an error quotes."""
LOG_TAIL_BYTES: Final = 4096
STRAY_S: Final = 3600.0
"""A file that belongs to no note goes when it is so old; a younger one may be of a simulator that is just started."""
SOCKET_BYTES: Final = 107
"""unix(7): sun_path, its end not counted."""
SUFFIXES: Final = ("json", "log", "new")


class Folder:
    """One such directory.

    Args:
        path: where; empty = one of ours under the system's temporary directory.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path or Path(tempfile.gettempdir(), f"sojourn-simulators-{os.geteuid()}"))

    def open(self) -> None:
        """Make it, if need be.

        Raises: ConfigError if it is not ours alone, or cannot hold a socket.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.lstat()
        except OSError as error:
            raise self._wrong(error.strerror or "an error") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise self._wrong(f"mode {stat.S_IMODE(found.st_mode):03o} of user {found.st_uid}")
        if len(os.fsencode(self.socket(""))) > SOCKET_BYTES:
            raise self._wrong("a path that is too long for a socket")

    def socket(self, name: str) -> Path:
        """Return where a simulator listens: a short name, as the kernel wants, whatever the simulator's is."""
        return self.path / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.sock"

    def open_log(self, name: str) -> int:
        """Begin a simulator's log; return its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND
        return os.open(self.path / f"{name}.log", flags, 0o600)

    def last_words(self, name: str) -> str:
        """Return the end of a simulator's log in one line."""
        try:
            with (self.path / f"{name}.log").open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
                lines = log.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return "nothing"
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES_COUNT:]) or "nothing"

    def write_note(self, handle: SimulatorHandle) -> None:
        """Write down which process a simulator is. Raises: OSError."""
        new = self.path / f"{handle.simulator}.new"
        new.write_bytes(msgspec.json.encode(handle))
        new.replace(self.path / f"{handle.simulator}.json")

    def read_note(self, name: str) -> SimulatorHandle | None:
        """Return what is written down of a simulator; None if nothing is, or nothing that can be read."""
        try:
            return msgspec.json.decode((self.path / f"{name}.json").read_bytes(), type=SimulatorHandle)
        except (OSError, msgspec.MsgspecError):
            return None

    def names(self) -> list[str]:
        """Return the names of all simulators that something is here of."""
        return sorted({path.stem for path in self.path.iterdir() if path.suffix[1:] in SUFFIXES})

    def is_stray(self, name: str) -> bool:
        """Say whether nothing here of a simulator is new."""
        newest = 0.0
        for suffix in SUFFIXES:
            try:
                newest = max(newest, (self.path / f"{name}.{suffix}").lstat().st_mtime)
            except OSError:
                continue
        return newest < time.time() - STRAY_S

    def remove(self, name: str) -> None:
        """Remove all that is here of a simulator."""
        for suffix in SUFFIXES:
            (self.path / f"{name}.{suffix}").unlink(missing_ok=True)
        self.socket(name).unlink(missing_ok=True)

    def _wrong(self, found: str) -> ConfigError:
        wanted = "a directory of ours that nobody else may enter, with a short path"
        return ConfigError([Problem("exchange", 0, "process", "directory", f"{self.path}: {found}", wanted)])
