"""What of a command may be shown: passwords and keys that somebody types on a device become ``***``.

For whatever shows commands: log lines, traces, explanations. Accounting records keep what the device reported, and
policies compare the command as it is. Knows the words that command languages put before a secret, and nothing else;
it masks everything behind such a word, because a secret may have spaces: rather a word too many than one too few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from sojourn.gateways.tacacs.messages import MASK
from sojourn.gateways.tacacs.pairs import split_pair

CACHED_REQUESTS_COUNT: Final = 4_096
"""Devices ask the same again and again; looking costs a fifth of masking."""

_SECRET_WORD: Final = re.compile(
    r"[\w-]*(password|passwd|passphrase|secret|community|credential|private-key|psk)s?|pw|pass|auth|priv|token"
    r"|key|(\w+-)+key(-string|-value)?|key-(string|value|chain|hash)|md5|sha(\d+)?|hmac-\w+",
    re.IGNORECASE,
)
"""Words that a secret follows in the command languages of IOS, NX-OS, Junos, EOS, RouterOS and their like."""

_KIND_OF_SECRET: Final = re.compile(
    r"\d|encrypted|encrypted-password|plain-text|clear|clear-text|ascii|ascii-text|hex|hexadecimal|sha\d*|md5|des|3des"
    r"|aes|aes-?\d+|\d{3}|type",
    re.IGNORECASE,
)
"""Words between the former and the secret that say how it is written, such as the 7 of ``password 7 0822455D``."""

_URL_SECRET: Final = re.compile(r"(://[^/\s:@]*:)[^/\s]*@")
"""The password in ``scp://user:password@host/file``."""

_CLOSING: Final = "<cr>"


def mask_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command with ``***`` for each that may be a secret."""
    shown: list[str] = []
    is_secret = is_kind_possible = False
    for word in words:
        if is_secret and word.lower() != _CLOSING:
            is_kind_possible = is_kind_possible and _KIND_OF_SECRET.fullmatch(word) is not None
            shown.append(word if is_kind_possible else MASK)
            continue
        name, sign, _ = split_pair(word)
        if sign and _SECRET_WORD.fullmatch(name):
            shown.append(f"{name}{sign}{MASK}")
            is_secret = True
            continue
        shown.append(_URL_SECRET.sub(rf"\1{MASK}@", word) if "://" in word else word)
        is_secret = is_kind_possible = _SECRET_WORD.fullmatch(word) is not None
    return shown


def mask_line(line: str) -> str:
    """Return a command line with ``***`` for each word that may be a secret; the rest as it is."""
    return " ".join(mask_words(line.split(" ")))


@lru_cache(maxsize=CACHED_REQUESTS_COUNT)
def mask_args(args: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments of a request as they may be shown, as many as there were.

    The values of ``cmd`` and of every ``cmd-arg`` are one command, whichever of them holds how many of its words; in
    any other pair the name says whether its value is a secret.
    Source: RFC 8907 section 6.1.
    """
    pairs = [split_pair(arg) for arg in args]
    commands = [value.split(" ") for name, _, value in pairs if name in {"cmd", "cmd-arg"}]
    masked = iter(mask_words([word for words in commands for word in words]))
    shown: list[str] = []
    for arg, (name, sign, value) in zip(args, pairs, strict=True):
        if name in {"cmd", "cmd-arg"}:
            shown.append(f"{name}{sign}{' '.join(next(masked) for _ in value.split(' '))}")
        elif sign and value and _SECRET_WORD.fullmatch(name):
            shown.append(f"{name}{sign}{MASK}")
        else:
            shown.append(arg)
    return tuple(shown)


def shown_request(args: Iterable[str]) -> list[str]:
    """Return masked arguments for people: the command as one ``cmd=`` with its words, the other pairs as they are."""
    others: list[str] = []
    words: list[str] = []
    place = -1
    for arg in mask_args(tuple(args)):
        name, sign, value = split_pair(arg)
        if name == "cmd-arg" and place >= 0:
            words.append(value)
        elif name == "cmd" and place < 0:
            place = len(others)
            words.append(f"{name}{sign}{value}")
        else:
            others.append(arg)
    if words and words[-1].lower() == _CLOSING:
        words.pop()
    return others if place < 0 else [*others[:place], " ".join(words), *others[place:]]
