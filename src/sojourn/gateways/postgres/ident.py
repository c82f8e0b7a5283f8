r"""Maps from certificate names to users, in the form of pg_ident.conf and of PgBouncer's ``auth_ident_file``.

A line is ``map certificate-name user``; a name behind a slash is a regular expression, and ``\1`` in the user
stands for what its first group matched. Knows nothing of connections.

Source: PostgreSQL documentation, "User Name Maps".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres.hba_lines import lines_of

_FIELDS_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    pattern: re.Pattern[str] | None
    user: str
    is_all: bool

    def allows(self, name: str, user: str) -> bool:
        if self.pattern is None:
            return name == self.name and (self.is_all or user == self.user)
        found = self.pattern.search(name)
        if found is None:
            return False
        group = found[1] if self.pattern.groups else None
        return self.is_all or user == (self.user if group is None else self.user.replace("\\1", group))


@dataclass(frozen=True, slots=True)
class IdentMaps:
    """The maps of one file by name; never changed."""

    maps: dict[str, tuple[_Entry, ...]]

    @classmethod
    def parse(cls, text: str, file: str) -> IdentMaps:
        """Read a file.

        Raises: ConfigError with every line that cannot be taken.
        """
        maps: dict[str, tuple[_Entry, ...]] = {}
        problems = []
        for number, fields, mistake in lines_of(text):
            flat = [words[0] for words in fields if len(words) == 1]
            if mistake or len(flat) != len(fields) or len(fields) != _FIELDS_COUNT:
                found = mistake or "other than three single fields"
                problems.append(Problem(file, number, "ident", "", found, "map, certificate name and user"))
                continue
            where, (name, _), (user, is_user_quoted) = flat
            pattern = None
            if name.startswith("/"):
                try:
                    pattern = re.compile(name[1:])
                except re.error as error:
                    wanted = "a valid regular expression"
                    problems.append(Problem(file, number, "ident", "name", f"{name!r}: {error}", wanted))
                    continue
            if not is_user_quoted and user[:1] in {"+", "/"}:
                problems.append(Problem(file, number, "ident", "user", repr(user), "a user's name, or all"))
                continue
            entry = _Entry(name, pattern, user, user == "all" and not is_user_quoted)
            maps[where.text] = (*maps.get(where.text, ()), entry)
        if problems:
            raise ConfigError(problems)
        return cls(maps)

    def allows(self, map_name: str, certificate_name: str, user: str) -> bool:
        """Say whether a map lets a certificate's name be a user; a map that is not there lets nobody."""
        return any(entry.allows(certificate_name, user) for entry in self.maps.get(map_name, ()))
