"""Values that are kept elsewhere: ``"${file:/path}"`` and ``"${env:NAME}"`` as a whole value.

Knows nothing of which setting asks; never puts what it read into an error text.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_REFERENCE = re.compile(r"\$\{([a-z]*):([^{}]+)\}", re.DOTALL)
_WANTED = "${file:/path}, ${env:NAME}, or the value itself (one that begins with ${ is written $${)"
_LARGEST_FILE_BYTES = 65_536


class Trouble(NamedTuple):
    """Why a reference gave no value."""

    found: str
    wanted: str


@dataclass(frozen=True, slots=True)
class References:
    """Resolves the references of one configuration.

    Args:
        environ: where ``${env:...}`` looks.
        directory: what relative paths of ``${file:...}`` are relative to: the configuration file's own.
        world_readable: whether a file of a secret may be readable by everybody.
    """

    environ: Mapping[str, str]
    directory: Path
    world_readable: bool = False

    def resolve_secret(self, text: str) -> str | Trouble:
        """Return what a secret's text stands for."""
        if text.startswith("$${"):
            return text[1:]
        if not text.startswith("${"):
            return text
        return self._resolve(text, private=not self.world_readable)

    def resolve_text(self, text: str) -> str | Trouble:
        """Return what an ordinary text stands for; a text that is no whole reference stands for itself."""
        match = _REFERENCE.fullmatch(text)
        if match is None or match[1] not in {"env", "file"}:
            return text
        return self._resolve(text, private=False)

    def _resolve(self, text: str, *, private: bool) -> str | Trouble:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return Trouble("a reference that does not end", _WANTED)
        kind, name = match.groups()
        if kind == "env":
            return self._variable(name)
        if kind == "file":
            return _read(self.directory / name, private=private)
        return Trouble(f"a reference of the unknown kind {kind!r}", _WANTED)

    def _variable(self, name: str) -> str | Trouble:
        value = self.environ.get(name)
        if not value:
            return Trouble(f"no environment variable {name}", "a variable that is set")
        if not is_utf8(value):
            return Trouble(f"environment variable {name} with bytes that are not UTF-8", "UTF-8")
        return value


def is_utf8(text: str) -> bool:
    """Tell whether a text from the environment was UTF-8 there; other bytes arrive as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read(path: Path, *, private: bool) -> str | Trouble:
    """Read a whole small file, without its one trailing newline."""
    try:
        # O_NONBLOCK: a named pipe must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Trouble(f"{path}, which is no regular file", "a file")
            if private and status.st_mode & stat.S_IROTH:
                mode = stat.S_IMODE(status.st_mode)
                found = f"{path} readable by everybody (mode {mode:04o})"
                return Trouble(found, "mode 0600 or 0640 (chmod o-r)")
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        return Trouble(f"{path}: {error.strerror}", "a file that this process can read")
    except ValueError:
        return Trouble("a path with a NUL character", "a path")
    if len(content) > _LARGEST_FILE_BYTES:
        return Trouble(f"{path} larger than {_LARGEST_FILE_BYTES} bytes", "a file with one value")
    try:
        value = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        return Trouble(f"{path} with bytes that are not UTF-8", "a file with one value in UTF-8")
    return value or Trouble(f"{path} empty", "a file with one value")
