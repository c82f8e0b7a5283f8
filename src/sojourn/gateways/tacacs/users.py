"""Who is this, and is it true: local users and strangers from directories, turned into verdicts.

Theory of operation. :class:`Users` belongs to one configuration snapshot and is immutable;
:class:`LoginState` belongs to the process and survives reloads: lock-outs, recently verified passwords,
used one-time codes. What the state remembers of a password is tied to the very hash it was verified against
(its *proof*), so that a changed password, a deleted user or another directory counts at once.

An unknown user, a wrong password, a locked, disabled or expired account look alike to the peer and take
alike: for a name that does not exist the work is done with a *stand-in*, a user chosen by a secret digest
of the name, and always the same one. Whom nobody can be is never counted, so that invented names fill no
table. What cannot be hidden: where strangers from a directory may log in, a local user takes as long as a
hash and a stranger as long as the directory.

Knows nothing of packets or prompts. A backend that does not answer is ERROR, never FAIL.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Final

from sojourn.core.clock import Clock, WallClock, utc_now
from sojourn.core.offload import OffloadPool
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs import ldap
from sojourn.gateways.tacacs.config import TacacsSettings, User
from sojourn.gateways.tacacs.directory import Directories
from sojourn.gateways.tacacs.ldap import canonical_name
from sojourn.gateways.tacacs.lockout import LockoutTable
from sojourn.gateways.tacacs.login_state import (
    ERROR,
    FAIL,
    PASS,
    LoginState,
    Remembered,
    Verdict,
    Verified,
)
from sojourn.gateways.tacacs.password_overlay import Override, fingerprint
from sojourn.gateways.tacacs.passwords import (
    DUMMY_HASH,
    TOTP_DIGITS,
    hash_password,
    seal,
    totp_step,
    unseal,
    verify_password,
)

__all__ = ["ERROR", "FAIL", "PASS", "LoginState", "Users", "Verdict"]

MIN_PASSWORD_LENGTH: Final = 8
"""What a changed password needs at least, in characters."""

LOCAL_USERS: Final = "local users"
"""Whom the configuration names, as a party in traces."""

LOCKED_OUT: Final = "locked out"
LOCKED_OUT_OF_ENABLE: Final = "locked out of ENABLE"

REMEMBERED_S: Final = 86_400.0
"""How long after a login a user who exists only in a directory may be authorized."""


class _Record:
    """A local user of one snapshot, with what the hot path needs ready made."""

    __slots__ = ("file_hash", "groups", "name", "proof", "totp", "user")

    def __init__(self, user: User, proof: str) -> None:
        self.user = user
        self.name = user.name
        self.groups = user.groups
        self.totp = user.totp
        self.file_hash = user.password.reveal() if user.password else ""
        self.proof = proof


class Users:
    """Everyone who may log in, by one configuration snapshot.

    Args:
        settings: without problems.
        state: what the process remembers.
        offload: where slow hashes are computed.
        directories: of the same snapshot.
        clock: monotonic seconds, the same as the state's.
        wall_clock: the date, for accounts that expire and for one-time codes.
    """

    def __init__(  # noqa: PLR0917 - the order is the gateway's: settings, state, then what does the work
        self,
        settings: TacacsSettings,
        state: LoginState,
        offload: OffloadPool,
        directories: Directories,
        clock: Clock = time.monotonic,
        wall_clock: WallClock = utc_now,
    ) -> None:
        self._state = state
        self._offload = offload
        self._directories = directories
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits = settings.lockout
        self._cache_s = settings.password_cache_s
        self._seal_key = settings.seal_key or Secret("")
        proofs = {
            each.name: f"{each.name} {each.urls} {each.bind_dn} {each.search_base} {each.search_filter}"
            for each in settings.directories
        }
        self._records = {user.name: _Record(user, _proof(user, proofs)) for user in settings.users}
        self._folded = frozenset(_fold(name) for name in self._records)
        self._strangers = {
            each.name: proofs[each.name] for each in settings.directories if each.accept_unknown_users
        }
        self._stranger_proofs = frozenset(self._strangers.values())
        records = self._records.values()
        self._stand_ins = [record for record in records if record.file_hash or record.user.directory]
        self._sealed_stand_ins = [record for record in records if record.user.secret]
        self._nobody = _Record(User(name="nobody", password=Secret(DUMMY_HASH)), "")
        # Bound once: the hot path has about a microsecond.
        self._verified = state.verified
        self._locked_until = state.lockout.locked_until
        self._new_digest = state.digest.copy

    def check_password_now(self, user: str, password: bytes) -> Verdict | None:
        """Answer at once if this password was verified a moment ago; None = the slow way is needed.

        Only PASS is ever answered here: every other answer has to take as long as a hash.
        """
        entry = self._verified.get(user)
        if entry is None or entry.until <= self._clock() or entry.lock_key in self._locked_until:
            return None
        digest = self._new_digest()
        digest.update(password)
        if not compare_digest(digest.digest(), entry.digest):
            return None
        record = self._records.get(user)
        if record is not None:
            return entry.verdict if record.proof == entry.proof and record.totp is None else None
        if entry.proof in self._stranger_proofs and entry.lock_key not in self._folded:
            return entry.verdict
        return None

    async def check_password(self, user: str, password: bytes, *, otp: bytes | None = None) -> Verdict:
        """Check a password the slow way, and the second factor where the user has one.

        Args:
            user: as the peer wrote it.
            password: with the one-time code as its last six digits, unless that is given apart.
            otp: the one-time code; None or empty = it is part of the password.
        """
        record = self._records.get(user)
        if record is None and self._may_be_stranger(user):
            return await self._check_stranger(user, password)
        like = record or self._stand_in(user, self._stand_ins)
        password, step = self._split(like, password, otp)
        groups = like.groups
        try:
            if like.user.directory is not None:
                decoy = record is None or self._barrier(record) is not None
                answer = await self._directories.check(like.user.directory, user, password, decoy=decoy)
                fits, reason = answer.outcome == ldap.ACCEPTED, answer.reason
                groups = tuple(dict.fromkeys(groups + answer.groups))
            else:
                fits, reason = await self._verify(like, password), "wrong password"
        except (BackendUnavailable, LimitExceeded) as error:
            return _unavailable(error)
        if record is None:
            return Verdict(FAIL, "unknown user")
        return self._decide(record, password, step, groups, "" if fits else reason)

    def backend_of(self, user: str) -> str:
        """Return who decides about a password of this user, by the name that operators know."""
        record = self._records.get(user)
        if record is None and self._may_be_stranger(user):
            return f"LDAP {' and '.join(self._strangers)}"
        directory = None if record is None else record.user.directory
        return LOCAL_USERS if directory is None else f"LDAP {directory}"

    def needs_otp_prompt(self, user: str) -> bool:
        """Tell whether an ASCII login asks for a one-time code; unknown users are like some known one."""
        record = self._records.get(user)
        if record is None and self._may_be_stranger(user):
            return False
        return (record or self._stand_in(user, self._stand_ins)).totp is not None

    def check_challenge(self, user: str, verify: Callable[[bytes], bool]) -> Verdict:
        """Check the response to a challenge (CHAP, MS-CHAP) with the user's recoverable secret.

        Args:
            user: as the peer wrote it.
            verify: tells whether a secret explains the response; must not keep the secret.
        """
        record = self._records.get(user)
        has_secret = record is not None and record.user.secret is not None
        like = record if record is not None and has_secret else self._stand_in(user, self._sealed_stand_ins)
        sealed = self._sealed_secret(like)
        secret = unseal(sealed.reveal(), self._seal_key, like.name) if sealed else None
        # Text, as every secret is: MS-CHAP reads it as UTF-8.
        fits = verify(secret or self._state.digest_of(b"").hex().encode()) and secret is not None
        if record is None:
            return Verdict(FAIL, "unknown user")
        refusal = self._barrier(record)
        if refusal is None and not has_secret:
            refusal = "no recoverable secret"
        if refusal is None and record.totp is not None:
            refusal = "a challenge response cannot carry the second factor"
        if refusal is not None:
            return _refused(refusal)
        if secret is None:
            return Verdict(ERROR, "the recoverable secret cannot be unsealed")
        if not fits:
            return self._fail(record.name, "wrong response", self._state.lockout)
        self._state.lockout.record_success(record.name)
        return Verdict(PASS, "accepted", record.groups)

    async def check_enable(self, user: str, priv_lvl: int, password: bytes) -> Verdict:
        """Check the password with which a user asks for a privilege level (0..15)."""
        record = self._records.get(user)
        like = record or self._stand_in(user, self._stand_ins)
        hashed = like.user.enable.reveal() if like.user.enable else DUMMY_HASH
        try:
            fits = await self._offload.run(verify_password, hashed, password) and bool(password)
        except (BackendUnavailable, LimitExceeded) as error:
            return _unavailable(error)
        if record is None:
            return Verdict(FAIL, "unknown user")
        table = self._state.enable_lockout
        refusal = self._barrier(record)
        if refusal is None and table.is_locked(user):
            refusal = LOCKED_OUT_OF_ENABLE
        if refusal is None and record.user.enable is None:
            refusal = "no ENABLE password"
        if refusal is not None:
            return _refused(refusal)
        if not fits:
            return self._fail(user, "wrong ENABLE password", table)
        table.record_success(user)
        if priv_lvl > record.user.enable_max_priv_lvl:
            return Verdict(FAIL, f"level {priv_lvl} is above the user's {record.user.enable_max_priv_lvl}")
        return Verdict(PASS, "accepted", record.groups)

    async def change_password(self, user: str, old: bytes, new: bytes) -> Verdict:
        """Replace a local user's password, and the recoverable secret where there is one.

        ERROR = it could not be stored; the old password still holds.
        """
        verdict = await self.check_password(user, old)
        if verdict.outcome != PASS:
            return verdict
        record = self._records.get(user)
        refusal = self._change_refusal(record, old, new)
        if record is None or refusal or self._state.overlay is None:
            return Verdict(FAIL, refusal)
        before = self._hash_of(record)
        try:
            hashed = await self._offload.run(hash_password, new.decode())
            if self._hash_of(record) != before:
                return Verdict(FAIL, "the password was changed meanwhile")
            override = Override(
                password=hashed,
                replaces=fingerprint(record.file_hash),
                changed=self._wall_clock().isoformat(timespec="seconds"),
                secret=seal(new.decode(), self._seal_key, user) if record.user.secret else None,
            )
            await self._offload.run(self._state.overlay.store, user, override)
        except (BackendUnavailable, LimitExceeded) as error:
            return _unavailable(error)
        except OSError as error:
            return Verdict(ERROR, f"the new password could not be stored: {error.strerror}")
        finally:
            # Also where we stopped waiting: the store may still come through.
            self._state.forget(user)
        return verdict

    def groups_of(self, user: str) -> tuple[str, ...]:
        """Return the user's groups: the configured ones, and those of the directory at the last login."""
        record = self._records.get(user)
        groups = record.groups if record is not None else ()
        remembered = self._remembered(user, record)
        return groups if remembered is None else tuple(dict.fromkeys(groups + remembered.groups))

    def authorizable(self, user: str) -> bool:
        """Tell whether the user may still do anything: known, not disabled, not expired.

        A user who exists only in a directory is known for a day after a login.
        """
        record = self._records.get(user)
        if record is not None:
            return not record.user.disabled and not self._is_expired(record)
        return self._remembered(user, None) is not None

    def standing(self, user: str) -> tuple[str, ...] | None:
        """Return the groups of a user who may still do anything, None for all others; one look for both questions."""
        record = self._records.get(user)
        if record is not None and record.user.directory is None:
            return None if record.user.disabled or self._is_expired(record) else record.groups
        return self.groups_of(user) if self.authorizable(user) else None

    async def _verify(self, record: _Record, password: bytes) -> bool:
        """Compare with the user's hash; one without a password costs the same."""
        hashed = self._hash_of(record)
        key = (record.name, self._state.digest_of(password), hashed)
        fits = await self._state.verify_once(
            key, lambda: self._offload.run(verify_password, hashed or DUMMY_HASH, password)
        )
        # A password that was changed while we computed does not count any more.
        return fits and bool(hashed) and bool(password) and self._hash_of(record) == hashed

    async def _check_stranger(self, user: str, password: bytes) -> Verdict:
        """Ask the directories in order; the first that knows the user decides, or that is down."""
        lock_key = _fold(user)
        is_locked = self._state.lockout.is_locked(lock_key)
        answer = ldap.DirectoryAnswer(ldap.UNKNOWN, "unknown user")
        proof, counts = "", False
        try:
            for name in self._strangers:
                answer = await self._directories.check(name, user, password, decoy=is_locked)
                counts = counts or answer.outcome == ldap.REFUSED
                if answer.outcome == ldap.ACCEPTED or (answer.outcome == ldap.REFUSED and answer.is_certain):
                    proof = self._strangers[name]
                    break
        except (BackendUnavailable, LimitExceeded) as error:
            return _unavailable(error)
        if self._state.lockout.is_locked(lock_key):
            return Verdict(FAIL, LOCKED_OUT, lock_out=LOCKED_OUT)
        if answer.outcome != ldap.ACCEPTED:
            if counts:
                return self._fail(lock_key, answer.reason, self._state.lockout)
            return Verdict(FAIL, answer.reason)
        self._state.lockout.record_success(lock_key)
        verdict = Verdict(PASS, "accepted", answer.groups)
        self._remember(user, proof, answer.groups)
        self._keep(user, lock_key, proof, password, verdict, self._cache_s)
        return verdict

    def _decide(
        self, record: _Record, password: bytes, step: int | None, groups: tuple[str, ...], reason: str
    ) -> Verdict:
        """Make the verdict on a known user; ``reason`` is empty where the password fits.

        Everything is asked again here and in one go: other logins may have gone on while we waited.
        """
        state = self._state
        barrier = self._barrier(record)
        if barrier is not None:
            return _refused(barrier)
        if not reason and record.totp is not None:
            if step is None:
                reason = "wrong one-time code"
            elif step <= state.totp_steps.get(record.name, -1):
                reason = "one-time code used before"
            else:
                state.totp_steps[record.name] = step
        if reason:
            return self._fail(record.name, reason, state.lockout)
        state.lockout.record_success(record.name)
        verdict = Verdict(PASS, "accepted", groups)
        if record.user.directory is not None:
            self._remember(record.name, record.proof, groups)
        if record.totp is None:
            self._keep(record.name, record.name, record.proof, password, verdict, self._cacheable_s(record))
        return verdict

    def _fail(self, lock_key: str, reason: str, table: LockoutTable) -> Verdict:
        if table.record_failure(lock_key, self._limits):
            return Verdict(FAIL, f"{reason}; locked out now", lock_out="locked out now")
        return Verdict(FAIL, reason)

    def _barrier(self, record: _Record) -> str | None:
        """Return why this user may not log in whatever the password, or None."""
        if self._state.lockout.is_locked(record.name):
            return LOCKED_OUT
        if record.user.disabled:
            return "account disabled"
        return "account expired" if self._is_expired(record) else None

    def _is_expired(self, record: _Record) -> bool:
        return record.user.expires is not None and self._wall_clock().date() > record.user.expires

    def _cacheable_s(self, record: _Record) -> float:
        """Return how long the password need not be hashed again: never beyond the account's last day."""
        if record.user.expires is None:
            return self._cache_s
        last = record.user.expires
        end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
        return min(self._cache_s, (end - self._wall_clock()).total_seconds())

    def _split(self, like: _Record, password: bytes, otp: bytes | None) -> tuple[bytes, int | None]:
        """Return the password alone, and the time step of its one-time code where it has a right one."""
        if like.totp is None:
            return password, None
        if not otp:
            password, otp = password[:-TOTP_DIGITS], password[-TOTP_DIGITS:]
        return password, totp_step(like.totp, otp, self._wall_clock())

    def _may_be_stranger(self, user: str) -> bool:
        """Tell whether a name that is not local may be one of a directory.

        Another spelling of a local name may not: the directory would take it for the local user, past what
        the configuration says of that one.
        """
        return bool(self._strangers) and canonical_name(user) is not None and _fold(user) not in self._folded

    def _stand_in(self, user: str, choice: list[_Record]) -> _Record:
        if not choice:
            return self._nobody
        return choice[int.from_bytes(self._state.digest_of(user.encode()), "big") % len(choice)]

    def _override(self, record: _Record) -> Override | None:
        overlay = self._state.overlay
        if overlay is None or not record.file_hash:
            return None
        return overlay.find(record.name, record.file_hash)

    def _hash_of(self, record: _Record) -> str:
        override = self._override(record)
        return record.file_hash if override is None else override.password

    def _sealed_secret(self, record: _Record) -> Secret | None:
        override = self._override(record)
        return Secret(override.secret) if override is not None and override.secret else record.user.secret

    def _change_refusal(self, record: _Record | None, old: bytes, new: bytes) -> str:
        """Return why a password may not be changed to this one, or nothing."""
        if record is None or record.user.directory is not None:
            return "passwords of a directory are changed there"
        if not record.user.may_change_password:
            return "the user may not change the password"
        if self._state.overlay is None:
            return "no file for changed passwords is configured"
        if record.totp is not None:
            old = old[:-TOTP_DIGITS]
        try:
            text = new.decode()
        except UnicodeDecodeError:
            return "the new password is not UTF-8"
        if len(text) < MIN_PASSWORD_LENGTH:
            return f"the new password is shorter than {MIN_PASSWORD_LENGTH} characters"
        return "the new password is the old one" if new == old else ""

    def _remembered(self, user: str, record: _Record | None) -> Remembered | None:
        found = self._state.remembered.get(user)
        if found is None or found.until <= self._clock():
            return None
        if record is not None:
            return found if found.proof == record.proof else None
        return found if found.proof in self._stranger_proofs and self._may_be_stranger(user) else None

    def _remember(self, user: str, proof: str, groups: tuple[str, ...]) -> None:
        table = self._state.remembered
        table[user] = Remembered(proof, groups, self._clock() + REMEMBERED_S)
        table.move_to_end(user)
        if len(table) > self._limits.tracked_users_count:
            table.popitem(last=False)

    def _keep(  # noqa: PLR0917 - the fields of the entry, in their order
        self, user: str, lock_key: str, proof: str, password: bytes, verdict: Verdict, within_s: float
    ) -> None:
        """Remember a right password for the hot path."""
        if within_s <= 0:
            return
        table = self._state.verified
        digest = self._state.digest_of(password)
        table[user] = Verified(digest, proof, self._clock() + within_s, verdict, lock_key)
        table.move_to_end(user)
        if len(table) > self._limits.tracked_users_count:
            table.popitem(last=False)


def _refused(reason: str) -> Verdict:
    """Return the verdict on a user who may not log in whatever the password."""
    is_locked = reason in {LOCKED_OUT, LOCKED_OUT_OF_ENABLE}
    return Verdict(FAIL, reason, lock_out=reason if is_locked else "")


def _unavailable(error: BackendUnavailable | LimitExceeded) -> Verdict:
    if isinstance(error, BackendUnavailable):
        return Verdict(ERROR, f"{error.backend} did not answer: {error.cause}")
    return Verdict(ERROR, f"too many at once: {error.what}")


def _proof(user: User, directories: dict[str, str]) -> str:
    """Return what a login of this user rests on; never equal for two states of an account."""
    if user.disabled:
        return ""
    password = user.password.reveal() if user.password else ""
    basis = directories.get(user.directory, "") if user.directory else fingerprint(password)
    return f"{basis} {user.groups} {user.expires}"


def _fold(user: str) -> str:
    """Return the one form of all spellings that a directory might take for the same user."""
    decomposed = unicodedata.normalize("NFKD", user).casefold()
    return " ".join("".join(char for char in decomposed if not unicodedata.combining(char)).split())
