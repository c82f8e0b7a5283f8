"""What a classic ``tac_plus.conf`` says, as values: hosts, users, groups, access lists and defaults.

Reads the grammar of the shrubbery and facebook F4 daemons. What it does not know is skipped statement by
statement and kept as an :class:`Unmapped`; it decides nothing about what the values become.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from sojourn.gateways.tacacs.importer.tokens import (
    END,
    PASSWORD_KINDS,
    PASSWORD_WORDS,
    SIGN,
    Token,
    shown,
    tokenize,
)


class Unmapped(msgspec.Struct, frozen=True):
    """Something that is not, or not exactly, in the new configuration; ``text`` shows no secret."""

    line: int
    text: str
    why: str


class Password(msgspec.Struct, frozen=True):
    """``cleartext``, ``des`` or ``file`` with a value, or a word such as ``PAM`` or ``nopassword`` alone."""

    kind: str
    value: str
    line: int

    def __repr__(self) -> str:
        return f"Password(kind={self.kind!r}, line={self.line})"


class Match(msgspec.Struct, frozen=True):
    """``permit`` or ``deny`` with a regular expression."""

    permit: bool
    pattern: str
    line: int


class Command(msgspec.Struct, frozen=True):
    """``cmd = name { ... }``."""

    name: str
    matches: tuple[Match, ...]
    line: int


class Attribute(msgspec.Struct, frozen=True):
    """One pair of a service, in the form of the protocol: ``name=value`` or ``name*value``."""

    pair: str
    line: int


class Service(msgspec.Struct, frozen=True):
    """``service = name [protocol = name] { ... }``."""

    name: str
    protocol: str
    attributes: tuple[Attribute, ...]
    default_permit: bool
    line: int


class Block(msgspec.Struct):
    """A ``user`` or ``group`` block."""

    kind: str
    name: str
    line: int
    member: str = ""
    full_name: str = ""
    expires: str = ""
    expires_line: int = 0
    acl: str = ""
    default_service: str = ""
    passwords: dict[str, Password] = {}
    commands: list[Command] = []
    services: list[Service] = []


class Host(msgspec.Struct):
    """A ``host`` block."""

    name: str
    line: int
    key: str = ""

    def __repr__(self) -> str:
        return f"Host(name={self.name!r}, line={self.line})"


class TacPlus(msgspec.Struct):
    """A whole configuration file."""

    key: str = ""
    key_line: int = 0
    accounting_file: str = ""
    accounting_line: int = 0
    accounting_syslog: bool = False
    syslog_facility: str = ""
    logging_line: int = 0
    permits_unknown_users: bool = False
    permits_line: int = 0
    hosts: dict[str, Host] = {}
    users: dict[str, Block] = {}
    groups: dict[str, Block] = {}
    acls: dict[str, tuple[Match, ...]] = {}
    unmapped: list[Unmapped] = []

    def __repr__(self) -> str:
        return f"TacPlus({len(self.hosts)} hosts, {len(self.users)} users, {len(self.groups)} groups)"


_VALUE_FOLLOWS: Final = frozenset(("cleartext", "des", "file"))

_UNUSED: Final = {
    "maxsess": "limits of sessions per user are not a setting here",
    "message": "a message of the day per user is not a setting here; rules have 'message'",
    "enableacl": "who may ENABLE is a setting of the user (enable, enable_max_priv_lvl), not of devices",
    "before": "programs are not called; write the decision as rules",
    "after": "programs are not called; write the decision as rules",
    "prompt": "prompts are one setting for all devices (username_prompt, password_prompt)",
    "enable": "the ENABLE password is a setting of each user (enable)",
    "type": "it has no effect on a TACACS+ server",
    "maxprocs": "there is no process per connection; see the limits of the gateway",
    "maxprocsperclt": "there is no process per connection; see the limits of the gateway",
    "readtimeout": "see session_timeout_s and the limits of the gateway",
    "writetimeout": "see the limits of the gateway",
    "accepttimeout": "see the limits of the gateway",
    "logauthor": "every decision is logged",
}


_Reader = Callable[[str], None]


class _NotUnderstood(Exception):  # noqa: N818 - never leaves this file
    """The statement does not go on as the grammar says."""


def parse_tac_plus(text: str) -> TacPlus:
    """Read a configuration file; what is not understood is in ``unmapped``, never an exception."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tuple(tokenize(text))
        self._at = 0
        self._out = TacPlus()

    def parse(self) -> TacPlus:
        while self._peek().kind != END:
            self._statement(self._top)
        return self._out

    def _statement(self, read: _Reader) -> None:
        """Read one statement; where that fails, skip and keep it."""
        start = self._at
        try:
            read(self._next().text)
        except _NotUnderstood as error:
            self._at = start
            self._skip(str(error))

    def _skip(self, why: str) -> None:
        """Pass over the rest of a line, and over a block that begins in it."""
        start, line, depth = self._at, self._peek().line, 0
        while (token := self._peek()).kind != END and (token.line == line or depth):
            if token.kind == SIGN and token.text == "{":
                depth += 1
            elif token.kind == SIGN and token.text == "}":
                if not depth and self._at > start:
                    break
                depth = max(0, depth - 1)
            self._at += 1
        words = [token for token in self._tokens[start : self._at] if token.line == line]
        self._out.unmapped.append(Unmapped(line, shown(words), why))

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != END:
            self._at += 1
        return token

    def _sign(self, text: str) -> None:
        token = self._next()
        if token.kind != SIGN or token.text != text:
            raise _NotUnderstood(f"wanted {text!r}")

    def _is_at(self, *words: str) -> bool:
        """Pass over the words if all of them come next."""
        found = [token.text for token in self._tokens[self._at : self._at + len(words)]]
        if found != list(words):
            return False
        self._at += len(words)
        return True

    def _value(self) -> Token:
        """Read ``= value``."""
        self._sign("=")
        token = self._next()
        if token.kind in {SIGN, END}:
            raise _NotUnderstood("wanted a value")
        return token

    def _inside(self, read: _Reader) -> None:
        """Read the statements of a block up to its closing brace."""
        while not self._is_at("}"):
            if self._peek().kind == END:
                self._out.unmapped.append(Unmapped(self._peek().line, "", "the file ends inside a block"))
                return
            self._statement(read)

    def _top(self, word: str) -> None:
        line = self._tokens[self._at - 1].line
        if word == "key":
            self._out.key, self._out.key_line = self._value().text, line
        elif word == "host":
            self._host()
        elif word in {"user", "group"}:
            self._user_or_group(word)
        elif word == "acl":
            self._acl()
        elif word == "accounting" and self._is_at("syslog"):
            self._out.accounting_syslog = True
        elif word == "accounting" and self._is_at("file"):
            self._out.accounting_file, self._out.accounting_line = self._value().text, line
        elif word == "logging":
            self._out.syslog_facility, self._out.logging_line = self._value().text, line
        elif word == "default" and self._is_at("authorization", "=", "permit"):
            self._out.permits_unknown_users, self._out.permits_line = True, line
        elif word == "default" and self._is_at("authentication"):
            raise _NotUnderstood("a password file is not read; give its users here, or use a directory")
        else:
            raise _NotUnderstood(_UNUSED.get(word, "unknown to the classic tac_plus grammar"))

    def _host(self) -> None:
        name = self._value()
        self._sign("{")
        host = Host(name.text, name.line)
        if self._out.hosts.setdefault(name.text, host) is not host:
            self._repeated("host", name)

        def read(word: str) -> None:
            if word != "key":
                raise _NotUnderstood(_UNUSED.get(word, "unknown in a host block"))
            host.key = self._value().text

        self._inside(read)

    def _repeated(self, kind: str, name: Token) -> None:
        self._out.unmapped.append(
            Unmapped(name.line, f"{kind} = {name.text}", "it is there twice; the first counts")
        )

    def _acl(self) -> None:
        name = self._value()
        self._sign("{")
        matches: list[Match] = []

        def read(word: str) -> None:
            if word not in {"permit", "deny"}:
                raise _NotUnderstood("unknown in an access list")
            value = self._value()
            matches.append(Match(word == "permit", value.text, value.line))

        self._inside(read)
        self._out.acls.setdefault(name.text, tuple(matches))

    def _user_or_group(self, kind: str) -> None:
        name = self._value()
        if not name.text:
            raise _NotUnderstood("wanted a name")
        self._sign("{")
        block = Block(kind, name.text, name.line)
        table = self._out.users if kind == "user" else self._out.groups
        if table.setdefault(name.text, block) is not block:
            self._repeated(kind, name)
        self._inside(lambda word: self._user_line(block, word))

    def _user_line(self, block: Block, word: str) -> None:
        if word in PASSWORD_WORDS:
            self._password(block, word)
        elif word == "cmd":
            block.commands.append(self._command())
        elif word == "service":
            block.services.append(self._service())
        elif word == "default" and self._is_at("service", "="):
            block.default_service = self._one_of("permit", "deny")
        elif word == "member":
            if block.member:
                raise _NotUnderstood(f"one membership counts, and {block.member} came first")
            block.member = self._value().text
        elif word == "expires":
            token = self._value()
            block.expires, block.expires_line = token.text, token.line
        elif word == "name":
            block.full_name = self._value().text
        elif word == "acl":
            block.acl = self._value().text
        else:
            raise _NotUnderstood(_UNUSED.get(word, f"unknown in a {block.kind} block"))

    def _one_of(self, *words: str) -> str:
        token = self._next()
        if token.text not in words:
            raise _NotUnderstood(f"wanted {' or '.join(words)}")
        return token.text

    def _password(self, block: Block, word: str) -> None:
        kind = self._value()
        if kind.text not in PASSWORD_KINDS:
            raise _NotUnderstood(f"wanted one of {', '.join(sorted(PASSWORD_KINDS))}")
        value = self._next().text if kind.text in _VALUE_FOLLOWS else ""
        block.passwords.setdefault(word, Password(kind.text, value, kind.line))

    def _command(self) -> Command:
        name = self._value()
        self._sign("{")
        matches: list[Match] = []

        def read(word: str) -> None:
            if word not in {"permit", "deny"}:
                raise _NotUnderstood("unknown in a cmd block")
            token = self._next()
            if token.kind in {SIGN, END}:
                raise _NotUnderstood("wanted a regular expression")
            matches.append(Match(word == "permit", token.text, token.line))

        self._inside(read)
        return Command(name.text, tuple(matches), name.line)

    def _service(self) -> Service:
        name = self._value()
        protocol = self._value().text if self._is_at("protocol") else ""
        self._sign("{")
        attributes: list[Attribute] = []
        defaults: list[str] = []

        def read(word: str) -> None:
            if word == "default" and self._is_at("attribute", "="):
                defaults.append(self._one_of("permit", "deny"))
                return
            sign = "*" if word == "optional" else "="
            attribute = self._next().text if word == "optional" else word
            value = self._value()
            attributes.append(Attribute(f"{attribute}{sign}{value.text}", value.line))

        self._inside(read)
        return Service(name.text, protocol, tuple(attributes), "permit" in defaults, name.line)
