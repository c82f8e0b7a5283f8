"""Rules in the form of pg_hba.conf and of PgBouncer's ``auth_hba_file``: who must prove itself how.

The first rule that fits a client decides; a client that none fits is refused. What this gateway cannot do (role
membership, host names, included files, GSSAPI, peer and others) is a problem that names its line, never a rule that
silently means something else. Knows nothing of connections and secrets.

Source: PostgreSQL documentation, "The pg_hba.conf File".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres.hba_lines import Fields, Word, lines_of

TYPES: Final = ("local", "host", "hostssl", "hostnossl", "hostnogssenc")
"""No client is ever encrypted by GSSAPI here: ``hostnogssenc`` is ``host``, and ``hostgssenc`` would fit nobody."""

METHODS: Final = ("trust", "reject", "md5", "password", "scram-sha-256", "cert")

_NUMBER_OF: Final = {4: 32, 6: 128}
_WANTED_ADDRESS: Final = (
    "an address with a prefix length such as 10.0.0.0/8, or with a mask behind it, or all"
)

Found = tuple[str, str, str]
"""Field, what was found, what was wanted."""


class _Mistake(Exception):  # noqa: N818 - never leaves this file: it carries one problem to where its line is known
    """What is wrong with a rule: its argument is ``Found``."""


@dataclass(frozen=True, slots=True)
class Names:
    """Which databases or users a rule is for."""

    is_all: bool = False
    is_same_user: bool = False
    is_replication: bool = False
    exact: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def fit(self, name: str) -> bool:
        """Say whether a name is among them; keywords of databases are not looked at here."""
        return self.is_all or name in self.exact or any(pattern.search(name) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses of one family: those whose bits under ``mask`` are those of ``base``."""

    version: int
    base: int
    mask: int


@dataclass(frozen=True, slots=True)
class HbaRule:
    """One line: whom it is for, and the method.

    Shape: ``network`` is None where any address fits; ``map_name`` names a map of ident.py, for ``cert`` only.
    """

    line: int
    type: str
    databases: Names
    users: Names
    network: Network | None
    method: str
    map_name: str = ""


@dataclass(frozen=True, slots=True)
class HbaRules:
    """The rules of one file, in its order; never changed."""

    rules: tuple[HbaRule, ...] = ()

    @classmethod
    def parse(cls, text: str, file: str) -> HbaRules:
        """Read a file.

        Raises: ConfigError with every line that cannot be taken.
        """
        rules = []
        problems = []
        for number, fields, mistake in lines_of(text):
            if mistake:
                wanted = "fields that blanks separate, and names that commas separate"
                problems.append(Problem(file, number, "hba", "", mistake, wanted))
                continue
            try:
                rules.append(_rule(number, fields))
            except _Mistake as error:
                problems.append(Problem(file, number, "hba", *error.args))
        if problems:
            raise ConfigError(problems)
        return cls(tuple(rules))

    def find(
        self,
        is_tls: bool,
        is_unix: bool,
        address: str,
        database: str,
        user: str,
        *,
        is_replication: bool = False,
    ) -> HbaRule | None:
        """Return the rule that decides on a client, or None if it is to be refused.

        Args:
            address: its IP address; not looked at for ``is_unix``.
            is_replication: it wants physical replication, which only the keyword ``replication`` covers.
        """
        where = None if is_unix else _numbers(address)
        for rule in self.rules:
            if (rule.type == "local") != is_unix or (rule.type == "hostssl" and not is_tls):
                continue
            if rule.type == "hostnossl" and is_tls:
                continue
            if rule.network is not None and not _holds(rule.network, where):
                continue
            names = rule.databases
            fits = names.is_replication if is_replication else names.fit(database)
            if not fits and names.is_same_user and not is_replication:
                fits = database == user
            if fits and rule.users.fit(user):
                return rule
        return None


def _numbers(address: str) -> tuple[int, int] | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    # A listener for both families shows an IPv4 client as ::ffff:a.b.c.d; rules for IPv4 are meant for it.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    return parsed.version, int(parsed)


def _holds(network: Network, where: tuple[int, int] | None) -> bool:
    return where is not None and where[0] == network.version and where[1] & network.mask == network.base


def _rule(number: int, fields: Fields) -> HbaRule:
    """Read one line's fields."""
    kind = _single(fields, 0, "type", f"one of {', '.join(TYPES)}").text
    if kind not in TYPES:
        raise _Mistake("type", repr(kind), f"one of {', '.join(TYPES)}")
    databases = _names(fields, 1, "database")
    users = _names(fields, 2, "user")
    network, place = (None, 3) if kind == "local" else _network(fields)
    method = _single(fields, place, "method", f"one of {', '.join(METHODS)}").text
    if method not in METHODS:
        raise _Mistake("method", repr(method), f"one of {', '.join(METHODS)}")
    if method == "cert" and kind != "hostssl":
        raise _Mistake("method", f"cert in a rule of type {kind}", "type hostssl: only TLS has certificates")
    map_name = ""
    for option in fields[place + 1 :]:
        map_name = _map_option(",".join(word.text for word in option), method)
    return HbaRule(number, kind, databases, users, network, method, map_name)


def _single(fields: Fields, place: int, key: str, wanted: str) -> Word:
    if place >= len(fields):
        raise _Mistake(key, "the end of the line", wanted)
    if len(fields[place]) != 1:
        raise _Mistake(key, "a list", wanted)
    return fields[place][0]


def _names(fields: Fields, place: int, key: str) -> Names:
    if place >= len(fields):
        raise _Mistake(key, "the end of the line", "all, or names")
    keywords: set[str] = set()
    exact: set[str] = set()
    patterns = []
    known = {"all", "sameuser", "replication"} if key == "database" else {"all"}
    for text, is_quoted in fields[place]:
        if text[:1] == "/" and len(text) > 1:
            # In quotes too, as in PostgreSQL: that is how an expression gets its commas.
            patterns.append(_pattern(text, key))
        elif is_quoted or not text:
            exact.add(text)
        elif text in known:
            keywords.add(text)
        elif text[0] in "+@" or (key == "database" and text in {"samerole", "samegroup"}):
            what = {"+": "role membership", "@": "a file of names"}.get(text[0], "role membership")
            raise _Mistake(key, f"{text!r}: {what}, which only the server knows", "names, or all")
        else:
            exact.add(text)
    return Names(
        is_all="all" in keywords,
        is_same_user="sameuser" in keywords,
        is_replication="replication" in keywords,
        exact=frozenset(exact),
        patterns=tuple(patterns),
    )


def _pattern(text: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(text[1:])
    except re.error as error:
        raise _Mistake(key, f"{text!r}: {error}", "a valid regular expression behind the slash") from error


def _network(fields: Fields) -> tuple[Network | None, int]:
    """Return the addresses, and where the method stands."""
    text, is_quoted = _single(fields, 3, "address", _WANTED_ADDRESS)
    if text == "all" and not is_quoted:
        return None, 4
    if text in {"samehost", "samenet"} and not is_quoted:
        raise _Mistake("address", f"{text}, which depends on the machine", _WANTED_ADDRESS)
    base, slash, length = text.partition("/")
    try:
        address = ipaddress.ip_address(base)
    except ValueError:
        raise _Mistake("address", repr(text), f"{_WANTED_ADDRESS}; host names are not looked up") from None
    bits = _NUMBER_OF[address.version]
    whole = (1 << bits) - 1
    if slash:
        if not (length.isascii() and length.isdecimal() and int(length) <= bits):
            raise _Mistake("address", repr(text), f"a prefix length from 0 to {bits}")
        mask = whole ^ (whole >> int(length))
        return Network(address.version, int(address) & mask, mask), 4
    wanted = f"a mask behind {base}, or {base}/{bits}"
    shown = _single(fields, 4, "address", wanted).text
    try:
        mask_address = ipaddress.ip_address(shown)
    except ValueError:
        raise _Mistake("address", repr(shown), wanted) from None
    if mask_address.version != address.version:
        raise _Mistake("address", repr(shown), "a mask of the address's family")
    mask = int(mask_address)
    hole = whole ^ mask
    if hole & (hole + 1):
        raise _Mistake("address", repr(shown), "a mask of ones and then zeros")
    return Network(address.version, int(address) & mask, mask), 5


def _map_option(text: str, method: str) -> str:
    name, equals, value = text.partition("=")
    if name != "map" or not equals or not value:
        # Such as clientcert=verify-full: a condition that is left out would let in whom it keeps out.
        raise _Mistake("options", repr(text), "no option but map=NAME, for cert")
    if method != "cert":
        raise _Mistake("options", f"{text!r} with {method}", "map= with the method cert only")
    return value
