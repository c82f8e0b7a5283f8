"""Verdicts on users: local ones here; strangers from directories with a directory that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import threading
import time
import timeit

import pyotp
import pytest

from sojourn.core.offload import OffloadPool
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable, ConfigError
from sojourn.gateways.tacacs.config import Directory, Lockout, TacacsSettings, User
from sojourn.gateways.tacacs.ldap import ACCEPTED, REFUSED, UNKNOWN, DirectoryAnswer
from sojourn.gateways.tacacs.password_overlay import PasswordOverlay
from sojourn.gateways.tacacs.passwords import hash_password, new_seal_key, seal
from sojourn.gateways.tacacs.users import ERROR, FAIL, PASS, LoginState, Users, Verdict

# A cheap hash (sha256-crypt, 1000 rounds, of "right horse") so that tests spend their time elsewhere.
RIGHT = b"right horse"
HASH = "$5$rounds=1000$salt$zyggkNguJz6yABsprouCUvR7e1rTE46AofP0XaojZo/"
OTHER_HASH = "$5$rounds=1000$other$y1sPybq2ZKglp2KEM3FuloGzhUndfd2L443EgTOe49."
TOTP = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
KEY = new_seal_key()


class Clocks:
    def __init__(self):
        self.now = 1000.0
        self.wall = datetime.datetime(2026, 5, 10, 12, 0, 0, tzinfo=datetime.UTC)

    def monotonic(self):
        return self.now

    def utc(self):
        return self.wall

    def move(self, seconds):
        self.now += seconds
        self.wall += datetime.timedelta(seconds=seconds)


class FakeDirectories:
    """A directory of users in memory; one that is down raises as the real one does."""

    def __init__(self, people=None, groups=("staff",)):
        self.people = people or {}
        self.groups = groups
        self.is_down = False
        self.asked = []

    async def check(self, name, user, password, *, decoy=False):
        self.asked.append((name, user, decoy))
        if self.is_down:
            raise BackendUnavailable(f"directory {name}", 3.0, "no answer")
        known = self.people.get((name, user.casefold()))
        if known is None:
            return DirectoryAnswer(UNKNOWN, "unknown user")
        if decoy or known != password or not password:
            return DirectoryAnswer(REFUSED, "wrong password")
        return DirectoryAnswer(ACCEPTED, "accepted", self.groups)


def user(name="ana", password=HASH, **more):
    return User(name=name, password=Secret(password) if password else None, **more)


def corp(name="corp", **more):
    return Directory(name=name, urls=("ldap://127.0.0.1",), bind_dn="cn=x", search_base="dc=x", **more)


class Desk:
    """Everything that :class:`Users` stands on."""

    def __init__(self, *users, overlay=None, people=None, **settings):
        self.clocks = Clocks()
        self.state = LoginState(self.clocks.monotonic, overlay)
        self.offload = OffloadPool(2, 16, 30.0)
        self.directories = FakeDirectories(people)
        self.load(*users, **settings)

    def load(self, *users, **settings):
        settings.setdefault("lockout", Lockout(failures_count=3, tracked_users_count=16))
        self.settings = TacacsSettings(users=users, seal_key=KEY, **settings)
        self.users = Users(
            self.settings, self.state, self.offload, self.directories, self.clocks.monotonic, self.clocks.utc
        )

    @contextlib.asynccontextmanager
    async def open(self):
        try:
            yield self.users
        finally:
            await self.offload.close(10)


def check(desk, *arguments, **keywords):
    """One login from start to end: the fast way first, as the gateway does it."""

    async def login():
        async with desk.open() as users:
            fast = users.check_password_now(*arguments)
            return (
                fast
                if fast is not None and not keywords
                else await users.check_password(*arguments, **keywords)
            )

    desk.offload = desk.users._offload = OffloadPool(2, 16, 30.0)
    return asyncio.run(login())


def test_the_right_password_passes_with_the_users_groups():
    """RFC 8907 section 5.4.2: PASS."""
    assert check(Desk(user(groups=("netops", "noc"))), "ana", RIGHT) == Verdict(
        PASS, "accepted", ("netops", "noc")
    )


@pytest.mark.parametrize("password", [b"wrong", b"", b"\xff\0", b"right horse "])
def test_a_wrong_password_fails(password):
    """FAIL is a denial; the reason is for the log."""
    assert check(Desk(user()), "ana", password) == Verdict(FAIL, "wrong password")


@pytest.mark.parametrize("name", ["ben", "", "Ana", "ana ", "a" * 255, "än\u200ba"])
def test_an_unknown_user_fails_whatever_the_password(name):
    """Local names are exact; unknown user and wrong password differ in the log only."""
    assert check(Desk(user()), name, RIGHT) == Verdict(FAIL, "unknown user")


def test_an_unknown_user_costs_the_hash_of_a_known_one(monkeypatch):
    """The stand-in's own hash is verified, always the same one for a name."""
    desk = Desk(user("ana"), user("ben", OTHER_HASH))
    seen = []
    monkeypatch.setattr(
        "sojourn.gateways.tacacs.users.verify_password", lambda hashed, _: bool(seen.append(hashed))
    )
    for name in ("eve", "eve", *(f"eve{number}" for number in range(40))):
        check(desk, name, b"x")
    assert seen[0] == seen[1]
    assert set(seen) == {HASH, OTHER_HASH}


def test_a_verified_password_passes_at_once_until_the_time_is_over():
    """``password_cache_s``: no new slow hash for this long."""
    desk = Desk(user(groups=("netops",)), password_cache_s=60.0)
    assert desk.users.check_password_now("ana", RIGHT) is None
    check(desk, "ana", RIGHT)
    assert desk.users.check_password_now("ana", RIGHT) == Verdict(PASS, "accepted", ("netops",))
    assert desk.users.check_password_now("ana", b"wrong") is None
    desk.clocks.move(60)
    assert desk.users.check_password_now("ana", RIGHT) is None


def test_no_cache_time_keeps_nothing():
    """``password_cache_s = 0`` is off."""
    desk = Desk(user(), password_cache_s=0.0)
    assert check(desk, "ana", RIGHT).outcome == PASS
    assert not desk.state.verified


def test_what_is_kept_is_a_keyed_digest_and_never_the_password():
    """Only a digest under a key of this process is in memory."""
    desk = Desk(user())
    check(desk, "ana", RIGHT)
    entry = desk.state.verified["ana"]
    assert RIGHT not in entry.digest
    assert entry.digest != hashlib.blake2b(RIGHT, digest_size=16).digest()
    assert LoginState().digest_of(RIGHT) != desk.state.digest_of(RIGHT)


def test_a_reload_that_changes_the_user_counts_at_once():
    """A changed password, a deleted, disabled or expired user stops passing with the reload."""
    desk = Desk(user())
    check(desk, "ana", RIGHT)
    desk.load(user())
    assert desk.users.check_password_now("ana", RIGHT) is not None
    for changed in ([user(password=OTHER_HASH)], [], [user(disabled=True)], [user(groups=("more",))],
                    [user(expires=datetime.date(2026, 5, 1))], [user(totp=Secret(TOTP))]):  # fmt: skip
        desk.load(*changed)
        assert desk.users.check_password_now("ana", RIGHT) is None
        check(desk, "ana", b"x")
        desk.state.lockout.record_success("ana")
        desk.load(user())
        assert desk.users.check_password_now("ana", RIGHT) is not None


def test_disabled_and_expired_accounts_fail_with_the_right_password():
    """``expires`` is the last day on which the account works, in UTC."""
    desk = Desk(user(disabled=True), user("ben", expires=datetime.date(2026, 5, 10)))
    assert check(desk, "ana", RIGHT) == Verdict(FAIL, "account disabled")
    assert not desk.users.authorizable("ana")
    desk.clocks.wall = datetime.datetime(2026, 5, 10, 23, 59, 59, tzinfo=datetime.UTC)
    assert check(desk, "ben", RIGHT).outcome == PASS
    assert desk.users.authorizable("ben")
    desk.clocks.move(1)
    assert desk.users.check_password_now("ben", RIGHT) is None
    assert check(desk, "ben", RIGHT) == Verdict(FAIL, "account expired")
    assert not desk.users.authorizable("ben")


def test_a_locked_user_fails_with_the_right_password_and_even_from_the_cache():
    """A locked account is checked like others, but FAILs."""
    desk = Desk(user())
    assert check(desk, "ana", RIGHT).outcome == PASS
    assert [check(desk, "ana", b"x").reason for _ in range(3)] == [
        "wrong password", "wrong password", "wrong password; locked out now"
    ]  # fmt: skip
    assert check(desk, "ana", RIGHT) == Verdict(FAIL, "locked out", lock_out="locked out")
    desk.clocks.move(900)
    assert check(desk, "ana", RIGHT).outcome == PASS


def test_guesses_in_parallel_get_no_more_tries_than_in_turn():
    """The lock is looked at again after the hash was computed."""
    desk = Desk(user())

    async def guess():
        async with desk.open() as users:
            guesses = [b"a", b"b", b"c", b"d", b"e", RIGHT]
            return [
                verdict.reason
                for verdict in await asyncio.gather(*(users.check_password("ana", g) for g in guesses))
            ]

    desk.offload = desk.users._offload = OffloadPool(1, 16, 30.0)
    assert asyncio.run(guess())[3:] == ["locked out"] * 3


def test_unknown_names_are_not_tracked():
    """Invented names fill no table."""
    desk = Desk(user())
    for number in range(20):
        check(desk, f"invented{number}", b"x")
    assert desk.state.lockout.tracked_count() == 0


def test_the_second_factor_is_the_end_of_the_password_or_given_apart():
    """TOTP: the last six digits, or ``otp``; an empty ``otp`` means that it was appended."""
    desk = Desk(user(totp=Secret(TOTP)))
    assert desk.users.needs_otp_prompt("ana")

    def code():
        desk.clocks.move(90)
        return pyotp.TOTP(TOTP).at(desk.clocks.wall).encode()

    assert check(desk, "ana", RIGHT + code()).outcome == PASS
    assert check(desk, "ana", RIGHT, otp=code()).outcome == PASS
    assert check(desk, "ana", RIGHT + code(), otp=b"").outcome == PASS
    assert check(desk, "ana", RIGHT).reason == "wrong password"
    assert check(desk, "ana", RIGHT + b"000000").reason == "wrong one-time code"
    assert not desk.state.verified


def test_a_one_time_code_passes_once():
    """RFC 6238 section 5.2: never accept a code a second time, nor an older one after it."""
    desk = Desk(user(totp=Secret(TOTP)))
    present = int(desk.clocks.wall.timestamp()) // 30
    old, new = (pyotp.TOTP(TOTP).generate_otp(present + offset).encode() for offset in (0, 1))
    assert check(desk, "ana", RIGHT + new).outcome == PASS
    assert check(desk, "ana", RIGHT + new) == Verdict(FAIL, "one-time code used before")
    assert check(desk, "ana", RIGHT + old) == Verdict(FAIL, "one-time code used before")
    desk.load(user(totp=Secret(TOTP)))
    assert check(desk, "ana", RIGHT + new).outcome == FAIL


def test_a_wrong_password_does_not_use_up_the_code():
    """Only a login that passes does."""
    desk = Desk(user(totp=Secret(TOTP)))
    code = pyotp.TOTP(TOTP).at(desk.clocks.wall).encode()
    assert check(desk, "ana", b"wrong" + code).reason == "wrong password"
    assert check(desk, "ana", RIGHT + code).outcome == PASS


def test_a_challenge_is_checked_with_the_recoverable_secret():
    """CHAP: RFC 8907 section 5.4.2.3."""
    desk = Desk(user(secret=Secret(seal("chap me", KEY, "ana")), groups=("ppp",)), user("ben"))
    assert desk.users.check_challenge("ana", lambda secret: secret == b"chap me") == Verdict(
        PASS, "accepted", ("ppp",)
    )
    assert desk.users.check_challenge("ana", lambda _: False) == Verdict(FAIL, "wrong response")
    assert desk.users.check_challenge("ben", lambda _: True) == Verdict(FAIL, "no recoverable secret")
    assert desk.users.check_challenge("eve", lambda _: True) == Verdict(FAIL, "unknown user")


def test_challenges_lock_out_like_passwords():
    """Guessing through CHAP is guessing."""
    desk = Desk(user(secret=Secret(seal("chap me", KEY, "ana"))))
    for _ in range(3):
        desk.users.check_challenge("ana", lambda _: False)
    assert desk.users.check_challenge("ana", lambda _: True) == Verdict(
        FAIL, "locked out", lock_out="locked out"
    )
    assert check(desk, "ana", RIGHT).reason == "locked out"


def test_a_secret_that_cannot_be_unsealed_is_error_and_one_of_somebody_else_too():
    """A fault of ours is not a denial."""
    desk = Desk(user(secret=Secret(seal("chap me", KEY, "ben"))))
    assert desk.users.check_challenge("ana", lambda _: True).outcome == ERROR


def test_a_user_with_a_second_factor_cannot_use_challenges():
    """CHAP carries no one-time code; without it the second factor would be none."""
    desk = Desk(user(secret=Secret(seal("s", KEY, "ana")), totp=Secret(TOTP)))
    assert desk.users.check_challenge("ana", lambda _: True).outcome == FAIL


def enable(desk, name, level, password):
    async def ask():
        async with desk.open() as users:
            return await users.check_enable(name, level, password)

    desk.offload = desk.users._offload = OffloadPool(2, 16, 30.0)
    return asyncio.run(ask())


def test_enable_has_its_own_password_and_its_highest_level():
    """RFC 8907 section 5.4.2.6."""
    desk = Desk(user(password=OTHER_HASH, enable=Secret(HASH), enable_max_priv_lvl=7), user("ben"))
    assert enable(desk, "ana", 7, RIGHT).outcome == PASS
    assert enable(desk, "ana", 8, RIGHT).outcome == FAIL
    assert enable(desk, "ana", 7, b"").outcome == FAIL
    assert enable(desk, "ben", 1, RIGHT) == Verdict(FAIL, "no ENABLE password")
    assert enable(desk, "eve", 1, RIGHT) == Verdict(FAIL, "unknown user")


def test_a_login_does_not_buy_new_guesses_of_the_enable_password():
    """The counts are apart."""
    desk = Desk(user(enable=Secret(OTHER_HASH)))
    for _ in range(3):
        enable(desk, "ana", 15, b"guess")
        check(desk, "ana", RIGHT)
    assert enable(desk, "ana", 15, b"guess") == Verdict(
        FAIL, "locked out of ENABLE", lock_out="locked out of ENABLE"
    )
    assert check(desk, "ana", RIGHT).outcome == PASS


def change(desk, name, old, new):
    async def ask():
        async with desk.open() as users:
            return await users.change_password(name, old, new)

    desk.offload = desk.users._offload = OffloadPool(2, 16, 30.0)
    return asyncio.run(ask())


def test_a_changed_password_holds_at_once_and_after_a_restart(tmp_path):
    """CHPASS: the overlay file overrides the configuration's hash, and the secret for CHAP with it."""
    path = tmp_path / "passwords.json"
    ana = user(may_change_password=True, secret=Secret(seal("old secret", KEY, "ana")))
    desk = Desk(ana, overlay=PasswordOverlay(path))
    assert check(desk, "ana", RIGHT).outcome == PASS
    assert change(desk, "ana", RIGHT, b"new battery").outcome == PASS
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    for again in (desk, Desk(ana, overlay=PasswordOverlay(path))):
        assert check(again, "ana", RIGHT).outcome == FAIL
        assert check(again, "ana", b"new battery").outcome == PASS
        assert again.users.check_challenge("ana", lambda secret: secret == b"new battery").outcome == PASS
    assert b"battery" not in path.read_bytes()


def test_a_password_that_the_operator_sets_afterwards_wins(tmp_path):
    """An override holds only for the hash that it replaced."""
    overlay = PasswordOverlay(tmp_path / "passwords.json")
    desk = Desk(user(may_change_password=True, password=HASH), overlay=overlay)
    change(desk, "ana", RIGHT, b"new battery")
    desk.load(user(password=hash_password("reset it")))
    assert check(desk, "ana", b"new battery").outcome == FAIL
    assert check(desk, "ana", b"reset it").outcome == PASS


def test_change_refusals(tmp_path):
    """At least eight characters, different, allowed, right old password, not a directory's."""
    overlay = PasswordOverlay(tmp_path / "passwords.json")
    desk = Desk(
        user(may_change_password=True), user("ben"),
        user("dora", None, directory="corp", may_change_password=True),
        overlay=overlay, people={("corp", "dora"): RIGHT}, directories=(corp(),),
    )  # fmt: skip
    assert change(desk, "ana", b"wrong", b"new battery").reason == "wrong password"
    assert "shorter" in change(desk, "ana", RIGHT, b"short").reason
    assert "old one" in change(desk, "ana", RIGHT, RIGHT).reason
    assert "UTF-8" in change(desk, "ana", RIGHT, b"\xff" * 9).reason
    assert "may not" in change(desk, "ben", RIGHT, b"new battery").reason
    assert "directory" in change(desk, "dora", RIGHT, b"new battery").reason
    assert change(desk, "eve", RIGHT, b"new battery").reason == "unknown user"
    assert not (tmp_path / "passwords.json").exists()
    assert change(Desk(user(may_change_password=True)), "ana", RIGHT, b"new battery").outcome == FAIL


def test_a_change_that_cannot_be_stored_is_error_and_changes_nothing(tmp_path):
    """ERROR; the old password still holds."""
    folder = tmp_path / "gone"
    folder.mkdir()
    desk = Desk(user(may_change_password=True), overlay=PasswordOverlay(folder / "passwords.json"))
    folder.rmdir()
    assert change(desk, "ana", RIGHT, b"new battery").outcome == ERROR
    assert check(desk, "ana", RIGHT).outcome == PASS


@pytest.mark.parametrize(("content", "mode"), [("{", 0o600), ('{"version":2,"users":{}}', 0o600),
                                               ('{"version":1,"users":{}}', 0o644)])  # fmt: skip
def test_an_overlay_that_cannot_be_trusted_stops_the_start(tmp_path, content, mode):
    """Damaged, of another version, or readable by others: the operator mends it."""
    path = tmp_path / "passwords.json"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError):
        PasswordOverlay(path)


def test_the_overlay_file_is_plain_json_with_nothing_but_hashes(tmp_path):
    """An operator can read it, remove a user from it, or remove it."""
    path = tmp_path / "passwords.json"
    desk = Desk(user(may_change_password=True), overlay=PasswordOverlay(path))
    change(desk, "ana", RIGHT, b"new battery")
    content = json.loads(path.read_text())
    assert content["users"]["ana"]["password"].startswith("$argon2id$")
    assert content["users"]["ana"]["replaces"] == hashlib.sha256(HASH.encode()).hexdigest()
    assert "argon2" not in repr(desk.state.overlay.find("ana", HASH))


def test_a_directory_that_does_not_answer_is_error():
    """ERROR lets the device try its next server; FAIL would lock everybody out."""
    desk = Desk(user(password=None, directory="corp"), directories=(corp(),))
    desk.directories.is_down = True
    for name in ("ana", "stranger"):
        verdict = check(desk, name, RIGHT)
        assert verdict.outcome == ERROR
        assert "directory corp did not answer" in verdict.reason
    assert desk.state.lockout.tracked_count() == 0


def test_a_pool_that_is_full_is_error():
    """Too much work is not a wrong password."""
    desk = Desk(user())

    held = threading.Event()

    async def flood():
        async with desk.open() as users, asyncio.TaskGroup() as tasks:
            tasks.create_task(desk.offload.run(held.wait, 30))
            await asyncio.sleep(0)
            verdict = await users.check_password("ana", RIGHT)
            held.set()
            return verdict

    desk.offload = desk.users._offload = OffloadPool(1, 0, 30.0)
    assert asyncio.run(flood()).outcome == ERROR
    assert desk.state.lockout.tracked_count() == 0


def test_many_logins_with_one_password_compute_one_hash():
    """When a busy user's password falls out of memory, the pool must not be flooded with the same work."""
    desk = Desk(user())

    async def flood():
        async with desk.open() as users:
            verdicts = await asyncio.gather(*(users.check_password("ana", RIGHT) for _ in range(50)))
            return [verdict.outcome for verdict in verdicts]

    desk.offload = desk.users._offload = OffloadPool(1, 1, 30.0)
    assert asyncio.run(flood()) == [PASS] * 50
    assert desk.offload.counters().submitted == 1


def test_a_login_that_is_cancelled_does_not_take_the_others_along():
    """Whoever waits for the same work goes on with it."""
    desk = Desk(user())

    async def flood():
        async with desk.open() as users:
            first, *others = [asyncio.ensure_future(users.check_password("ana", RIGHT)) for _ in range(4)]
            await asyncio.sleep(0)
            others.pop().cancel()
            first.cancel()
            return [(await login).outcome for login in others]

    desk.offload = desk.users._offload = OffloadPool(2, 4, 30.0)
    assert asyncio.run(flood()) == [PASS] * 2


def test_a_directory_user_has_local_and_directory_groups():
    """The groups of the last login hold for authorization."""
    desk = Desk(user(password=None, directory="corp", groups=("local",)), directories=(corp(),))
    desk.directories.people = {("corp", "ana"): RIGHT}
    assert desk.users.groups_of("ana") == ("local",)
    assert check(desk, "ana", RIGHT).groups == ("local", "staff")
    assert desk.users.groups_of("ana") == ("local", "staff")
    assert desk.users.check_password_now("ana", RIGHT).groups == ("local", "staff")


def test_a_stranger_logs_in_where_directories_take_strangers():
    """``accept_unknown_users``; authorization knows a stranger after the login, for a day."""
    desk = Desk(user(), directories=(corp(),), people={("corp", "dora"): RIGHT})
    assert not desk.users.authorizable("dora")
    assert check(desk, "dora", RIGHT) == Verdict(PASS, "accepted", ("staff",))
    assert desk.users.authorizable("dora")
    assert desk.users.groups_of("dora") == ("staff",)
    assert desk.users.check_password_now("dora", RIGHT).outcome == PASS
    desk.clocks.move(86_400)
    assert not desk.users.authorizable("dora")
    assert desk.users.groups_of("dora") == ()


@pytest.mark.parametrize("directories", [(), (corp(accept_unknown_users=False),), (corp("other"),)])
def test_a_stranger_ends_with_the_directory(directories):
    """A reload without the directory, or one that takes no strangers, counts at once."""
    desk = Desk(user(), directories=(corp(),), people={("corp", "dora"): RIGHT})
    check(desk, "dora", RIGHT)
    desk.load(user(), directories=directories)
    assert desk.users.check_password_now("dora", RIGHT) is None
    assert not desk.users.authorizable("dora")
    assert check(desk, "dora", RIGHT).outcome == FAIL


@pytest.mark.parametrize("name", ["ANA", "Ana", "ána", "ANÁ", "\uff41na"])
def test_another_spelling_of_a_local_name_is_no_stranger(name):
    """A directory would take it for the local user, past ``disabled`` and the rules for that name."""
    desk = Desk(user(disabled=True), directories=(corp(),), people={("corp", name.casefold()): RIGHT})
    assert check(desk, name, RIGHT) == Verdict(FAIL, "unknown user")
    assert desk.directories.asked == []


def test_spellings_of_a_stranger_share_one_lock():
    """Otherwise every mix of cases would be a new set of guesses."""
    desk = Desk(directories=(corp(),), people={("corp", "dora"): RIGHT})
    for name in ("dora", "Dora", "DORA"):
        check(desk, name, b"guess")
    assert check(desk, "dOrA", RIGHT).reason == "locked out"
    assert desk.directories.asked[-1] == ("corp", "dOrA", True)


def test_strangers_that_do_not_exist_are_not_tracked():
    """The directory says that there is no such user: nothing to protect."""
    desk = Desk(directories=(corp(),))
    for number in range(40):
        assert check(desk, f"invented{number}", b"x").reason == "unknown user"
    assert desk.state.lockout.tracked_count() == 0


def test_directories_are_asked_in_order_and_one_that_is_down_stops_the_search():
    """Otherwise whoever has the same name further down becomes that user while the first is down."""
    desk = Desk(directories=(corp("first"), corp("second")), people={("second", "dora"): RIGHT})
    assert check(desk, "dora", RIGHT).outcome == PASS
    assert [name for name, *_ in desk.directories.asked] == ["first", "second"]
    desk.state.forget("dora")
    desk.directories.is_down = True
    assert check(desk, "dora", RIGHT).outcome == ERROR
    assert [name for name, *_ in desk.directories.asked][2:] == ["first"]


def test_memories_are_bounded():
    """At most ``tracked_users_count`` strangers are remembered, the latest ones."""
    people = {("corp", f"user{number}"): RIGHT for number in range(40)}
    desk = Desk(directories=(corp(),), people=people)
    for number in range(40):
        check(desk, f"user{number}", RIGHT)
    assert len(desk.state.verified) == len(desk.state.remembered) == 16
    assert desk.users.authorizable("user39")
    assert not desk.users.authorizable("user0")


def test_no_secret_shows_in_a_repr():
    """Verdicts and users may be logged."""
    desk = Desk(user(secret=Secret(seal("s", KEY, "ana"))))
    shown = repr(desk.settings) + repr(check(desk, "ana", RIGHT)) + repr(desk.state.verified)
    assert "right horse" not in shown
    assert HASH not in shown


def test_the_hot_path_stays_within_the_budget_of_a_login():
    """A password that was verified a moment ago costs little more than its digest, on any machine."""
    desk = Desk(user())
    check(desk, "ana", RIGHT)
    users = Users(desk.settings, desk.state, desk.offload, desk.directories, time.monotonic, desk.clocks.utc)
    desk.state.verified["ana"].until = time.monotonic() + 1000
    runs = [
        (
            timeit.timeit(lambda: users.check_password_now("ana", RIGHT), number=2_000),
            timeit.timeit(lambda: desk.state.digest_of(RIGHT), number=2_000),
        )
        for _ in range(30)
    ]
    whole_s, digest_s = map(min, zip(*runs, strict=True))
    assert whole_s < 4 * digest_s
