"""What logins leave behind that outlives a configuration snapshot: lock-outs, verified passwords, used codes.

Knows nothing of who may log in; :mod:`sojourn.gateways.tacacs.users` decides that and fills these tables.
What is remembered of a password is a digest under a key that lives and dies with the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

import msgspec

from sojourn.core.clock import Clock
from sojourn.gateways.tacacs.lockout import LockoutTable
from sojourn.gateways.tacacs.password_overlay import PasswordOverlay

PASS: Final = 1
FAIL: Final = 2
ERROR: Final = 7
"""Outcomes; the numbers are those of the authentication status. Source: RFC 8907 section 5.2."""


VerifyKey = tuple[str, bytes, str]
"""A user's name, the digest of the password offered, and the hash that it is to fit."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The answer to "is this true?"; ``reason`` is for the log and never for the peer.

    Shape: ``lock_out`` is what the lock-out had to say to it, if it was that which decided or was set off.
    """

    outcome: int
    reason: str = ""
    groups: tuple[str, ...] = ()
    lock_out: str = ""


class Verified(msgspec.Struct, gc=False):
    """A password that was right a moment ago: its keyed digest, and what it was verified against."""

    digest: bytes
    proof: str
    until: float
    verdict: Verdict
    lock_key: str


class Remembered(msgspec.Struct, gc=False):
    """What a directory said of a user at the last login."""

    proof: str
    groups: tuple[str, ...]
    until: float


class LoginState:
    """What outlives a configuration snapshot; the gateway makes one for the life of the process.

    Every table is bounded: by the users of the configuration, or by ``tracked_users_count``.
    """

    def __init__(self, clock: Clock = time.monotonic, overlay: PasswordOverlay | None = None) -> None:
        self.lockout = LockoutTable(clock)
        # Apart, or a right login password would buy new guesses of the ENABLE password.
        self.enable_lockout = LockoutTable(clock)
        self.overlay = overlay
        self.verified: OrderedDict[str, Verified] = OrderedDict()
        self.remembered: OrderedDict[str, Remembered] = OrderedDict()
        self.totp_steps: dict[str, int] = {}
        self._verifying: dict[VerifyKey, asyncio.Future[bool | None]] = {}
        self.digest: Final = blake2b(key=os.urandom(32), digest_size=16)

    def digest_of(self, password: bytes) -> bytes:
        """Return the keyed digest of a password; the key never leaves the process."""
        digest = self.digest.copy()
        digest.update(password)
        return digest.digest()

    async def verify_once(self, key: VerifyKey, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do the work, or wait for the same work that another login does already.

        A password that many sessions use falls out of the table for all of them at one moment: without this
        each would compute the same slow hash.
        """
        while (under_way := self._verifying.get(key)) is not None:
            fits = await asyncio.shield(under_way)
            if fits is not None:
                return fits
            # Whoever did the work gave up; now it is our turn, or the next one's.
        done: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._verifying[key] = done
        fits = None
        try:
            fits = await work()
        finally:
            del self._verifying[key]
            if not done.done():
                done.set_result(fits)
        return fits

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user's logins; lock-outs and used one-time codes stay."""
        self.verified.pop(user, None)
        self.remembered.pop(user, None)
