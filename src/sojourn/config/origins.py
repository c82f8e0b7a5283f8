"""Where a setting came from: the line of a file or the name of an environment variable.

Turns "these keys are wrong" into a :class:`~sojourn.errors.Problem`; knows nothing of what right values are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from sojourn.config.positions import Keys
from sojourn.errors import Problem

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def dotted(keys: Keys) -> str:
    """Write keys as one name, such as ``tacacs.devices[2].name``."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        text += "." if text else ""
        text += key if _BARE_KEY.fullmatch(key) else quoted(key)
    return text


def quoted(text: str) -> str:
    """Write a text as a TOML basic string: as in JSON, but DEL is escaped and nothing else needs to be."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def split_dotted(name: str) -> Keys:
    """Read a name such as ``devices[2].name`` back into keys."""
    return tuple(int(index) if index else key for index, key in _PART.findall(name))


@dataclass(frozen=True, slots=True)
class Origins:
    """The origin of every value of one configuration.

    Shape: ``lines`` are of the file, ``variables`` the names of environment variables; both by keys.
    """

    file: str
    lines: dict[Keys, int] = field(default_factory=dict)
    variables: dict[Keys, str] = field(default_factory=dict)

    def problem(self, keys: Keys, found: str, wanted: str) -> Problem:
        """Make a problem of these keys, placed at the nearest table that has an origin."""
        file, line = self._place(keys)
        split = len(keys) - 1
        while split > 0 and isinstance(keys[split], int):
            split -= 1
        split = max(split, 0)
        return Problem(file, line, dotted(keys[:split]), dotted(keys[split:]), found, wanted)

    def _place(self, keys: Keys) -> tuple[str, int]:
        for length in range(len(keys), 0, -1):
            near = keys[:length]
            if near in self.variables:
                return f"environment variable {self.variables[near]}", 0
            if near in self.lines:
                return self.file, self.lines[near]
        return self.file, 0
