"""The console's language: one string of SQL to the commands in it.

Pure; knows no command's meaning but the forms that several of them share. What it reads is small on purpose: words,
names in double quotes, strings, a few marks, and comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from sojourn.gateways.postgres.messages import SQLSTATE, Refusal

MAX_COMMANDS: Final = 100
"""In one string; a command may be five bytes long and its answer megabytes."""

WORD: Final = "word"
NAME: Final = "name"
STRING: Final = "string"
MARK: Final = "mark"

_TOKEN: Final = re.compile(
    r"""
      (?P<space> \s++ | --[^\n]*+ | /\*(?:[^*]++|\*(?!/))*\*/ )
    | (?P<string> [eE]?'[^']*+(?:''[^']*+)*'(?!') )
    | (?P<name> "(?:[^"]++|"")+"(?!") )
    | (?P<mark> [;=,()] )
    | (?P<word> (?: (?!--|/\*) [^\s;=,()'"] )+ )
    """,
    re.VERBOSE,
)
HINT: Final = "SHOW HELP lists the commands of the console."


class Token(NamedTuple):
    """One word, name, string or mark; ``text`` is without quotes."""

    kind: str
    text: str


class Command(NamedTuple):
    """One command: its first word in capitals, and what follows it."""

    verb: str
    rest: tuple[Token, ...]

    @property
    def keywords(self) -> tuple[str, ...]:
        """Return what follows the verb in capitals; what is in quotes is no keyword and becomes an empty string."""
        return tuple(token.text.upper() if token.kind == WORD else "" for token in self.rest)


def refuse(message: str, sqlstate: str = SQLSTATE.SYNTAX, *, hint: str = HINT) -> NoReturn:
    """Refuse one command.

    Raises: Refusal, always.
    """
    raise Refusal(sqlstate, message, hint=hint, severity="ERROR")


def commands(sql: bytes) -> list[Command]:
    """Return the commands of a string; none for a string of spaces, semicolons and comments.

    Raises: Refusal for what is not UTF-8, quotes that do not end, or too many commands.
    """
    try:
        text = sql.decode()
    except UnicodeDecodeError:
        refuse("the command is not UTF-8", "22021", hint="")
    found: list[Command] = []
    tokens: list[Token] = []
    for token in (*_tokens(text), Token(MARK, ";")):
        if token != (MARK, ";"):
            tokens.append(token)
        elif tokens:
            first = tokens[0]
            found.append(Command(first.text.upper() if first.kind == WORD else "", tuple(tokens[1:])))
            tokens = []
        if len(found) > MAX_COMMANDS:
            refuse(f"more than {MAX_COMMANDS} commands in one string", SQLSTATE.PROGRAM_LIMIT, hint="")
    return found


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            refuse("a quote or comment that does not end")
        place = match.end()
        kind, found = str(match.lastgroup), match.group()
        if kind == STRING:
            yield Token(STRING, found.lstrip("eE")[1:-1].replace("''", "'"))
        elif kind == NAME:
            yield Token(NAME, found[1:-1].replace('""', '"'))
        elif kind != "space":
            yield Token(kind, found)


def no_argument(command: Command) -> None:
    """Refuse anything behind the verb.

    Raises: Refusal.
    """
    if command.rest:
        refuse(f"{command.verb} takes nothing")


def one_name(command: Command, form: str) -> str:
    """Return the one name behind the verb; ``form`` tells how the command is written.

    Raises: Refusal.
    """
    if len(command.rest) != 1 or command.rest[0].kind == MARK:
        refuse(f"the form is: {form}")
    return command.rest[0].text


def optional_name(command: Command) -> str | None:
    """Return the name behind the verb, or None where there is none.

    Raises: Refusal.
    """
    return one_name(command, f"{command.verb} [database]") if command.rest else None


def assignment(command: Command) -> tuple[str, str]:
    """Return key and value of ``SET [SESSION | LOCAL] key = value``, ``key TO value``, or ``SET NAMES value``.

    Several values become one text with commas. A key that is none, such as that of ``SET TRANSACTION``, comes in
    lower case with an empty value.

    Raises: Refusal.
    """
    rest = list(command.rest)
    if rest and rest[0].kind == WORD and rest[0].text.upper() in {"SESSION", "LOCAL"}:
        rest.pop(0)
    if not rest or rest[0].kind not in {WORD, NAME}:
        refuse("the form is: SET key = value")
    key, words = rest[0].text.lower(), rest[1:]
    if key in {"transaction", "characteristics", "authorization"}:
        return key, ""
    if key == "names":
        key = "client_encoding"
    elif key == "time" and words and words[0].text.upper() == "ZONE":
        key, words = "timezone", words[1:]
    elif words and (words[0] == (MARK, "=") or words[0].text.upper() == "TO"):
        words = words[1:]
    else:
        words = []
    values = [token.text for token in words if token != (MARK, ",")]
    if not values or any(token.kind == MARK and token.text != "," for token in words):
        refuse("the form is: SET key = value")
    return key, ", ".join(values)
