"""PgBouncer's ``userlist.txt``: who may log in, and what is stored of each.

A line is ``"user" "secret"``; a double quote inside is written twice, ``;`` begins a comment line, and what follows
the second text is left alone. Reads text only, and shows no secret in what it says of a mistake.
"""

from __future__ import annotations

import re
from typing import Final

from sojourn.core.secret import Secret
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres.scram import SCRAM, parse_verifier

_QUOTED: Final = r'"((?:[^"]|"")*)"'
_LINE: Final = re.compile(rf"\s*{_QUOTED}\s*{_QUOTED}(?!\")")


def parse_userlist(text: str, file: str) -> dict[str, Secret]:
    """Return the stored secrets by user: plain, ``md5...`` or ``SCRAM-SHA-256$...``; the last line of a user counts.

    Args:
        file: its name, for problems.

    Raises: ConfigError with every line that cannot be read.
    """
    users: dict[str, Secret] = {}
    problems = []
    # Only a line feed ends a line: a password may hold any other character that Python calls a line's end.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        read = _LINE.match(line)
        if read is None:
            problems.append(
                _problem(file, number, "", _mistake(line), '"user" "secret", each in double quotes')
            )
            continue
        user, secret = (part.replace('""', '"') for part in read.groups())
        if not user or "\0" in user:
            problems.append(
                _problem(file, number, "user", "no name, or one with a zero byte", "a user's name")
            )
        elif secret.startswith(f"{SCRAM}$") and parse_verifier(secret) is None:
            wanted = f"{SCRAM}$iterations:salt$StoredKey:ServerKey, as in pg_authid"
            problems.append(_problem(file, number, "secret", f"a damaged {SCRAM} secret", wanted))
        else:
            users[user] = Secret(secret)
    if problems:
        raise ConfigError(problems)
    return users


def _mistake(line: str) -> str:
    """Say what is wrong with a line in words that show nothing of it."""
    if not line.lstrip().startswith('"'):
        return "a text that does not begin with a double quote"
    quotes = line.count('"')
    if quotes % 2:
        return "a double quote without its partner"
    return "a user without a secret" if re.fullmatch(rf"\s*{_QUOTED}\s*", line) else "something else between"


def _problem(file: str, line: int, key: str, found: str, wanted: str) -> Problem:
    return Problem(file, line, "userlist", key, found, wanted)
