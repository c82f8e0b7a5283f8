"""Passwords that users changed themselves: a small JSON file beside the configuration that overrides it.

Knows nothing of how passwords are checked. An override holds only as long as the configuration still has
the hash that it replaced: a password that the operator sets afterwards wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import threading
from pathlib import Path

import msgspec

from sojourn.errors import ConfigError, Problem


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What replaces a user's password, and the recoverable secret where the user has one.

    Shape: ``replaces`` is :func:`fingerprint` of the hash in the configuration; ``changed`` is an ISO 8601
    time.
    """

    password: str
    replaces: str
    changed: str
    secret: str | None = None

    def __repr__(self) -> str:
        return f"Override(changed={self.changed!r})"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    users: dict[str, Override]


def fingerprint(hashed: str) -> str:
    """Return a name for a hash that does not give it away."""
    return hashlib.sha256(hashed.encode()).hexdigest()


class PasswordOverlay:
    """The overrides of every user, in memory and in one file.

    The gateway makes one and keeps it over reloads. One process writes the file; it is read once, when this
    is made.

    Raises: ConfigError: the file is there but cannot be used, or others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._users = self._read()

    def find(self, user: str, hashed: str) -> Override | None:
        """Return the user's override, if it replaces just this hash of the configuration."""
        override = self._users.get(user)
        return override if override is not None and override.replaces == fingerprint(hashed) else None

    def store(self, user: str, override: Override) -> None:
        """Keep an override; it is on disk when this returns. Blocks: call it in the offload pool.

        Raises: OSError: it could not be written; then nothing has changed.
        """
        with self._writing:
            users = {**self._users, user: override}
            self._write(msgspec.json.format(msgspec.json.encode(_File(1, users))))
            self._users = users

    def _read(self) -> dict[str, Override]:
        try:
            mode = self._path.stat().st_mode
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._problem(f"a file that cannot be read ({error.strerror})", "one that can") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise self._problem(f"mode {stat.S_IMODE(mode):04o}", "mode 0600: it holds password hashes")
        try:
            file = msgspec.json.decode(data, type=_File)
        except msgspec.DecodeError as error:
            # The decoder's text names places and types, not values.
            raise self._problem(f"a damaged file ({error})", "the file as it was written") from None
        if file.version != 1:
            raise self._problem(f"version {file.version}", "version 1")
        return file.users

    def _write(self, data: bytes) -> None:
        """Replace the file at once: whoever reads sees the old one or the new one."""
        # mkstemp makes files of mode 0600.
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _problem(self, found: str, wanted: str) -> ConfigError:
        return ConfigError([Problem(str(self._path), 0, "", "", found, wanted)])
