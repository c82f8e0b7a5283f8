"""The lines of a ``pgbouncer.ini``: sections, ``%include``, keys and values, connection strings.

Knows the form and nothing of which keys there are. Source: PgBouncer 1.25, the manual page pgbouncer.ini(5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from sojourn.errors import Problem

_DEEPEST_INCLUDE: Final = 10
_LARGEST_FILE_BYTES: Final = 16_777_216

_SECTION = re.compile(r"\[\s*([^\]]*?)\s*\]\Z")
_INCLUDE = re.compile(r"%include\s+(.+)\Z")
_ENTRY = re.compile(r'(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\s="]+))\s*=\s*(?P<value>.*)\Z')
_PAIR = re.compile(
    r"\s*(?P<key>[^\s=']+)\s*=\s*(?:'(?P<quoted>(?:[^']|'')*)'(?=\s|\Z)|(?P<plain>[^\s']*)(?=\s|\Z))"
)


class Entry(NamedTuple):
    """One ``key = value`` of one section."""

    file: str
    line: int
    section: str
    key: str
    value: str

    def problem(self, found: str, wanted: str, *, part: str = "") -> Problem:
        """Make a problem of this entry, or of one ``part`` of its connection string."""
        key = f"{self.key}.{part}" if part else self.key
        return Problem(self.file, self.line, self.section, key, found, wanted)


class Reading:
    """One reading of one file and all that it includes: entries in order, and what is no entry.

    As in PgBouncer, an included file goes on in the section in which it is included.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []
        self._section = ""

    def read(self, path: Path, depth: int = 0) -> None:
        """Read one file; what is wrong with it goes to :attr:`problems`."""
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_FILE_BYTES + 1)
            if len(content) > _LARGEST_FILE_BYTES:
                self._wrong(path, 0, "(file)", "more than 16 MiB", "a configuration file")
                return
            text = content.decode()
        except UnicodeDecodeError as error:
            broken = content[: error.start].count(b"\n") + 1
            self._wrong(path, broken, "(syntax)", "bytes that are not UTF-8", "UTF-8")
            return
        except (OSError, ValueError) as error:
            found = (error.strerror if isinstance(error, OSError) else None) or "no path"
            self._wrong(path, 0, "(file)", found, "a file that this process can read")
            return
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
            self._line(path, number, line.strip(), depth)

    def _line(self, path: Path, number: int, line: str, depth: int) -> None:
        if not line or line[0] in ";#":
            return
        if match := _SECTION.match(line):
            self._section = match[1]
        elif match := _INCLUDE.match(line):
            if depth == _DEEPEST_INCLUDE:
                found = f"files that include one another more than {_DEEPEST_INCLUDE} deep"
                self._wrong(path, number, "%include", found, "fewer")
            else:
                # As in PgBouncer, relative to the directory in which the process runs.
                self.read(Path(match[1]), depth + 1)
        elif match := _ENTRY.match(line):
            key = match["plain"] or match["quoted"].replace('""', '"')
            self.entries.append(Entry(str(path), number, self._section, key, match["value"]))
        else:
            # The line itself stays unsaid: it may hold a password.
            self._wrong(
                path, number, "(syntax)", "a line that is none of these", "[section], key = value, %include"
            )

    def _wrong(self, path: Path, line: int, key: str, found: str, wanted: str) -> None:
        self.problems.append(Problem(str(path), line, self._section, key, found, wanted))


def read_pairs(text: str) -> list[tuple[str, str]]:
    """Read the pairs of a connection string; a value in single quotes writes one of its own twice.

    Raises: ValueError, with what is wanted.
    """
    pairs: list[tuple[str, str]] = []
    position = 0
    while text[position:].strip():
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError("key=value pairs; a value with spaces or quotes as 'it''s'")
        quoted = match["quoted"]
        pairs.append((match["key"].lower(), match["plain"] if quoted is None else quoted.replace("''", "'")))
        position = match.end()
    return pairs
