"""Accounting records: what a device reported, in words and numbers that files, syslog and tables can hold.

Knows nothing of where records go, and believes nothing that the device says: every text is the device's
claim.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from functools import cache

import msgspec

from sojourn.core.clock import WallClock, utc_now
from sojourn.gateways.tacacs.messages import AcctFlag, AcctRequest, AuthenMethod, AuthenType, Service
from sojourn.sansio.names import name_of

TEXTS = ("task_id", "timezone", "event", "reason", "err_msg", "service", "protocol", "cmd")
"""Arguments lifted out as they are; ``task_id`` is opaque. Source: RFC 8907 sections 8.2 and 8.3."""

TIMES = ("start_time", "stop_time", "elapsed_time")
AMOUNTS = ("bytes", "bytes_in", "bytes_out", "paks", "paks_in", "paks_out")
"""Arguments whose value is a number. Source: RFC 8907 section 8.3."""

_TEXT, _NUMBER, _COMMAND_ARG = 0, 1, 2
_LIFTED = dict.fromkeys(TEXTS, _TEXT) | dict.fromkeys(TIMES + AMOUNTS, _NUMBER) | {"cmd-arg": _COMMAND_ARG}

_KINDS = {
    AcctFlag.START: "start",
    AcctFlag.STOP: "stop",
    AcctFlag.WATCHDOG: "watchdog",
    AcctFlag.WATCHDOG_UPDATE: "update",
}

_ESCAPED_BYTES = range(0xDC80, 0xDD00)
"""Half surrogates that stand for the bytes 80 to FF. Source: PEP 383 (``surrogateescape``)."""

_MAX_DIGITS = 18
"""A number of more digits might not fit the signed 64 bits of a table's column; it stays in ``args`` only."""


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """One accounting record, made by us from one request; sinks write it and nobody changes it.

    Shape: ``record_id`` is a UUID (version 7) that no other record has, so that a sink asked twice can store
    once; ``args`` are all arguments in the device's order, duplicates kept; the fields after it are copies of
    the first argument of that name, absent where there is none (a number also where it is not one). ``cmd``
    has the values of ``cmd-arg`` behind it. No text holds a character that is not printable: see
    :func:`printable`.
    Units: ``stored_at`` is UTC; ``start_time`` and ``stop_time`` are the device's, in seconds of its own
    epoch; ``elapsed_time`` in seconds.
    """

    record_id: str
    stored_at: datetime
    node: str
    device: str
    device_address: str
    session_id: int
    flags: str
    user: str
    port: str
    rem_addr: str
    priv_lvl: int
    authen_method: str
    authen_type: str
    authen_service: str
    args: tuple[str, ...]
    task_id: str | None = None
    service: str | None = None
    protocol: str | None = None
    cmd: str | None = None
    start_time: int | None = None
    stop_time: int | None = None
    elapsed_time: int | None = None
    timezone: str | None = None
    event: str | None = None
    reason: str | None = None
    err_msg: str | None = None
    bytes: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    paks: int | None = None
    paks_in: int | None = None
    paks_out: int | None = None


def printable(text: str) -> str:
    r"""Return the text with each character that is not printable as ``\xNN`` or ``\uNNNN``.

    Line ends would forge lines in files and syslog, NUL is refused by PostgreSQL, and half a surrogate cannot
    be
    encoded: one such argument must not make a whole batch of records fail.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(ord(character)) for character in text)


def _escaped(code: int) -> str:
    if code in _ESCAPED_BYTES:
        code -= _ESCAPED_BYTES.start - 0x80
    if code < 1 << 8:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


@cache
def word_of(namespace: type, value: int) -> str:
    """Return the specification's word in lower case, such as ``"tacacsplus"``."""
    return name_of(namespace, value).lower()


class RecordIds:
    """Makes UUIDs of version 7 that grow: the time in milliseconds, then 74 bits that begin at random.

    Source: RFC 9562 sections 5.7 and 6.2 (method 2).
    """

    __slots__ = ("_begin", "_last_ms", "_low", "_random_bits")

    def __init__(self, random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._random_bits = random_bits
        self._last_ms = -1
        self._begin = ""
        self._low = 0

    def next(self, now: datetime) -> str:
        """Return an id that was never returned before, even if the wall clock went back."""
        milliseconds = int(now.timestamp() * 1000)
        if milliseconds > self._last_ms:
            self._last_ms = milliseconds
            digits = f"{milliseconds:012x}"
            self._begin = f"{digits[:8]}-{digits[8:]}-7{self._random_bits(12):03x}-"
            # The variant's bits, then one bit less than there is room for: counting up never overflows.
            self._low = 0x8 << 60 | self._random_bits(61)
        else:
            self._low += 1
        digits = f"{self._low:x}"
        return f"{self._begin}{digits[:4]}-{digits[4:]}"


class RecordMaker:
    """Turns accounting requests into records of one gateway node; the gateway makes one at its start."""

    __slots__ = ("_ids", "_node", "_wall")

    def __init__(self, node: str, wall: WallClock = utc_now, ids: RecordIds | None = None) -> None:
        self._node = printable(node)
        self._wall = wall
        self._ids = ids or RecordIds()

    def make(self, request: AcctRequest, *, device: str, device_address: str, session_id: int) -> Record:
        """Return the record of ``request``, stamped with the present time and a new id."""
        now = self._wall()
        args = request.args
        if not "".join(args).isprintable():
            args = tuple(printable(arg) for arg in args)
        record = Record(
            self._ids.next(now),
            now,
            self._node,
            device,
            device_address,
            session_id,
            _KINDS.get(request.flags) or f"undefined ({request.flags})",
            printable(request.user),
            printable(request.port),
            printable(request.rem_addr),
            request.priv_lvl,
            word_of(AuthenMethod, request.authen_method),
            word_of(AuthenType, request.authen_type),
            word_of(Service, request.service),
            args,
        )
        _lift(record, args)
        return record


def _lift(record: Record, args: tuple[str, ...]) -> None:
    """Copy the well-known arguments into their fields.

    Source: RFC 8907 section 6.1: the first ``=`` or ``*`` ends the name.
    """
    command_args: list[str] = []
    for arg in args:
        name, _, value = arg.partition("=")
        if "*" in name:
            name, _, value = arg.partition("*")
        kind = _LIFTED.get(name)
        if kind is None:
            continue
        if kind == _COMMAND_ARG:
            command_args.append(value)
        elif getattr(record, name) is None:
            if kind == _TEXT:
                setattr(record, name, value)
            elif len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit():
                setattr(record, name, int(value))
    if command_args and record.cmd:
        record.cmd = " ".join((record.cmd, *command_args))
