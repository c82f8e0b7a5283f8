"""Every way to log in, and every way not to, against a live server: RFC 8907 section 5.4."""

from __future__ import annotations

import msgspec
import pytest
import tacacs_lab as labs
from tacacs_lab import author, pap, running, settings, start, typed

from sojourn.core.secret import Secret
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.config import Lockout
from sojourn.gateways.tacacs.messages import (
    Action,
    AuthenStatus,
    AuthenType,
    AuthorStatus,
    ContinueFlag,
    Flag,
    ReplyFlag,
    Service,
    Version,
)

SINGLE = Flag.SINGLE_CONNECT
NEW_PASSWORD = "battery staple"
CHALLENGE = bytes(range(16))


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


def proof(kind, password=labs.PASSWORD, name="ana"):
    """Return the START of a challenge login."""
    secret = password.encode()
    if kind == AuthenType.CHAP:
        data = mschap.chap_data(7, CHALLENGE, secret)
    elif kind == AuthenType.MSCHAP:
        data = mschap.mschap_v1_data(7, CHALLENGE[:8], secret)
    else:
        data = mschap.mschap_v2_data(7, CHALLENGE, CHALLENGE[::-1], user=name, secret=secret)
    return start(kind, name, data)


CHALLENGES = pytest.mark.parametrize(
    "kind", [AuthenType.CHAP, AuthenType.MSCHAP, AuthenType.MSCHAPV2], ids=["chap", "mschap", "mschapv2"]
)


def one_login(lab, run, message, *, source=labs.DEVICE, version=None, **changes):
    """Run a session of one request, and return the reply and what was decided."""

    async def main():
        async with lab(**changes) as running_lab, running_lab.wire(source) as wire:
            reply = await wire.ask(message, version=version)
            return reply, running_lab.said("tacacs.authentication")

    return run(main())


# ASCII, section 5.4.2.1


def test_an_ascii_login_asks_for_what_is_missing(lab, run):
    """RFC 8907 section 5.4.2.1: GETUSER, GETPASS without echo, then one verdict; numbers 2, 4, 6."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            first = await wire.ask(start(name=""), 1)
            assert (first.status, first.message.flags, first.message.server_msg) == (
                AuthenStatus.GETUSER,
                0,
                "Username: ",
            )
            second = await wire.ask(typed("ana"), 1, 3)
            assert (second.status, second.message.flags, second.message.server_msg) == (
                AuthenStatus.GETPASS,
                ReplyFlag.NOECHO,
                "Password: ",
            )
            third = await wire.ask(typed(labs.PASSWORD), 1, 5)
            assert (third.status, third.seq_no) == (AuthenStatus.PASS, 6)
            await wire.until_closed()

    run(main())


def test_an_empty_user_name_is_asked_for_three_times(lab, run):
    """RFC 8907 section 5.4.2.1: a limited number of tries, then FAIL."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(name=""), 1)
            assert (await wire.ask(typed(""), 1, 3)).status == AuthenStatus.GETUSER
            assert (await wire.ask(typed("  "), 1, 5)).status == AuthenStatus.GETUSER
            assert (await wire.ask(typed(""), 1, 7)).status == AuthenStatus.FAIL
            assert running_lab.said("tacacs.authentication")[0]["reason"] == "no user name was given"

    run(main())


def test_a_user_name_at_the_third_try_is_taken(lab, run):
    """RFC 8907 section 5.4.2.1."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(name=""), 1)
            await wire.ask(typed(""), 1, 3)
            await wire.ask(typed(""), 1, 5)
            assert (await wire.ask(typed("ana"), 1, 7)).status == AuthenStatus.GETPASS
            assert (await wire.ask(typed(labs.PASSWORD), 1, 9)).status == AuthenStatus.PASS

    run(main())


@pytest.mark.parametrize(
    ("source", "status"), [(labs.DEVICE, AuthenStatus.GETPASS), (labs.QUIRKY, AuthenStatus.PASS)]
)
def test_data_of_an_ascii_start_is_ignored_without_the_quirk(lab, run, source, status):
    """RFC 8907 section 5.4.2.1: MUST be ignored; IOS-XR puts the password there, password-in-start-data takes it."""
    reply, _ = one_login(lab, run, start(data=labs.PASSWORD), source=source)
    assert reply.status == status


def test_data_of_a_continue_is_ignored(lab, run):
    """RFC 8907 section 5.4.2.1: what counts is user_msg."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            answer = msgspec.structs.replace(typed("wrong"), data=labs.PASSWORD.encode())
            assert (await wire.ask(answer, 1, 3)).status == AuthenStatus.FAIL

    run(main())


@pytest.mark.parametrize("answer", ["", "wrong", "\x00\x07", "p" * 60_000])
def test_a_wrong_password_fails_once(lab, run, answer):
    """RFC 8907 section 5.2: FAIL is the last packet of its session."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            assert (await wire.ask(typed(answer), 1, 3)).status == AuthenStatus.FAIL
            await wire.until_closed()

    run(main())


def test_an_abort_tells_its_reason_to_nobody(lab, run):
    """RFC 8907 section 5.4.3: the reason may hold anything, and a session that is given up is no failure."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            abort = msgspec.structs.replace(typed("", ContinueFlag.ABORT), data=b"my password is tiger")
            wire.send(wire.packet(abort, 1, 3))
            await wire.until_closed()
            assert "tiger" not in repr(running_lab.events)
            (ended,) = running_lab.server.registry.snapshots()
            assert (ended.state, ended.reason) == ("ended", "aborted by the peer")
            assert "tiger" not in repr(running_lab.server.registry.trace(ended.id))

    run(main())


# PAP, section 5.4.2.2


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [
        ("ana", labs.PASSWORD, AuthenStatus.PASS),
        ("ana", "wrong", AuthenStatus.FAIL),
        ("ana", "", AuthenStatus.FAIL),
        ("", labs.PASSWORD, AuthenStatus.FAIL),
        ("", "", AuthenStatus.FAIL),
        ("Ana", labs.PASSWORD, AuthenStatus.FAIL),
        ("ana ", labs.PASSWORD, AuthenStatus.FAIL),
        ("nobody", labs.PASSWORD, AuthenStatus.FAIL),
    ],
)
def test_a_pap_login_is_one_request_and_one_verdict(lab, run, name, password, status):
    """RFC 8907 section 5.4.2.2; user names are case-preserving (section 3.7)."""
    reply, decided = one_login(lab, run, pap(name, password))
    assert (reply.status, reply.version, reply.message.data) == (status, Version.ONE, b"")
    assert len(decided) == 1


def test_a_password_that_was_right_is_right_at_once_the_next_time(lab, run):
    """The password cache answers PASS only, and never to another password."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            for number, password in enumerate((labs.PASSWORD, labs.PASSWORD, "wrong", labs.PASSWORD)):
                reply = await wire.ask(pap(password=password), number + 1, flags=SINGLE)
                assert reply.status == (AuthenStatus.FAIL if password == "wrong" else AuthenStatus.PASS)

    run(main())


# CHAP and MS-CHAP, sections 5.4.2.3 to 5.4.2.5


@CHALLENGES
def test_a_right_response_passes(lab, run, kind):
    """RFC 8907 sections 5.4.2.3 to 5.4.2.5: challenge and response come together."""
    reply, _ = one_login(lab, run, proof(kind))
    assert (reply.status, reply.version) == (AuthenStatus.PASS, Version.ONE)


@CHALLENGES
@pytest.mark.parametrize("name", ["ana", "ben", "nobody", ""])
def test_a_wrong_response_fails_whoever_it_is(lab, run, kind, name):
    """One FAIL for a wrong secret, a user without a recoverable one, and nobody at all."""
    reply, decided = one_login(lab, run, proof(kind, "wrong", name))
    assert (reply.status, reply.message.server_msg) == (AuthenStatus.FAIL, "Authentication failed.")
    assert decided[0]["outcome"] == "fail"


@CHALLENGES
@pytest.mark.parametrize("size", [0, 1, 17, 24, 60, 255])
def test_a_response_of_a_wrong_length_fails(lab, run, kind, size):
    """RFC 8907 sections 5.4.2.3 to 5.4.2.5: a response is the user's, and must not make us look unreachable.

    The key was right: the connection goes on. No password was guessed: nobody is locked out.
    """

    async def main():
        users = (labs.user("ana"), labs.user("ben", secret=None))
        async with lab(lockout=Lockout(failures_count=2), users=users, rules=()) as lab_, lab_.wire() as wire:
            for number, name in enumerate(("ana", "ben", "nobody", "ana", "ana")):
                reply = await wire.ask(start(kind, name, bytes(size)), number + 1, flags=SINGLE)
                assert (reply.status, reply.message.server_msg) == (
                    AuthenStatus.FAIL,
                    "Authentication failed.",
                )
            reasons = [each["reason"] for each in lab_.said("tacacs.authentication")]
            assert len(reasons) == 5
            if kind != AuthenType.CHAP or size < 25:
                assert set(reasons) == {reasons[0]}
                assert f"data of {size} bytes" in reasons[0]
                assert (await wire.ask(pap(), 9)).status == AuthenStatus.PASS

    run(main())


@CHALLENGES
@pytest.mark.parametrize("name", ["ben", "nobody"])
def test_a_response_fails_where_nobody_has_a_recoverable_secret(lab, run, kind, name):
    """A FAIL as any other, for the last one who might have had a secret as well: MS-CHAP reads it as text."""
    reply, decided = one_login(
        lab, run, proof(kind, "wrong", name), users=(labs.user("ben", secret=None),), rules=()
    )
    assert (reply.status, len(decided)) == (AuthenStatus.FAIL, 1)


@CHALLENGES
def test_a_challenge_login_with_minor_version_0_is_an_error(lab, run, kind):
    """RFC 8907 section 4.1, table 1."""
    reply, decided = one_login(lab, run, proof(kind), version=Version.DEFAULT)
    assert (reply.status, decided) == (AuthenStatus.ERROR, [])


@CHALLENGES
def test_a_challenge_never_grants_enable(lab, run, kind):
    """RFC 8907 section 5.4.2.6: the response proves the login secret, which is not the ENABLE password."""
    message = msgspec.structs.replace(proof(kind), service=Service.ENABLE, priv_lvl=15)
    reply, decided = one_login(lab, run, message)
    assert reply.status == AuthenStatus.FAIL
    assert decided[0]["reason"] == "ENABLE with a challenge is not supported"


# ENABLE, section 5.4.2.6


@pytest.mark.parametrize(
    ("password", "status"),
    [(labs.ENABLE_PASSWORD, AuthenStatus.PASS), (labs.PASSWORD, AuthenStatus.FAIL), ("", AuthenStatus.FAIL)],
)
def test_enable_by_ascii(lab, run, password, status):
    """RFC 8907 section 5.4.2.6: it asks like a login; the ENABLE password counts, not that of the login."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            asked = await wire.ask(start(service=Service.ENABLE, priv_lvl=15), 1)
            assert asked.status == AuthenStatus.GETPASS
            assert (await wire.ask(typed(password), 1, 3)).status == status

    run(main())


@pytest.mark.parametrize(
    ("password", "status"), [(labs.ENABLE_PASSWORD, AuthenStatus.PASS), (labs.PASSWORD, AuthenStatus.FAIL)]
)
def test_enable_by_pap(lab, run, password, status):
    """RFC 8907 section 5.4.2.6, with the password in the START; a login a moment ago changes nothing."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=SINGLE)
            message = pap(password=password, service=Service.ENABLE, priv_lvl=15)
            assert (await wire.ask(message, 2)).status == status

    run(main())


@pytest.mark.parametrize("password", ["", labs.PASSWORD, labs.ENABLE_PASSWORD])
@pytest.mark.parametrize("name", ["ben", "$enab15$"])
def test_enable_without_an_enable_password_fails(lab, run, name, password):
    """RFC 8907 section 5.4.2.6: whoever has none gets no level, not by the login password either."""
    message = pap(name, password, service=Service.ENABLE, priv_lvl=1)
    reply, decided = one_login(lab, run, message)
    assert reply.status == AuthenStatus.FAIL
    assert decided[0]["reason"] == ("no ENABLE password" if name == "ben" else "unknown user")


def test_enable_above_the_users_level_fails(lab, run):
    """The setting enable_max_priv_lvl of a user."""
    ana = labs.user("ana", enable_max_priv_lvl=7)
    for level, status in ((7, AuthenStatus.PASS), (8, AuthenStatus.FAIL)):
        message = pap(password=labs.ENABLE_PASSWORD, service=Service.ENABLE, priv_lvl=level)
        reply, _ = one_login(lab, run, message, users=(ana,), rules=())
        assert reply.status == status


# CHPASS, section 5.4.2.7


def changing(running_lab, *answers, name="ana"):
    """Return the statuses of a change of password."""

    async def talk():
        async with running_lab.wire() as wire:
            replies = [await wire.ask(start(name=name, action=Action.CHPASS), 1)]
            for number, answer in enumerate(answers):
                replies.append(await wire.ask(typed(answer), 1, 3 + 2 * number))
            return [(reply.status, reply.message.flags) for reply in replies]

    return talk()


def test_a_changed_password_counts_at_once(lab, run, tmp_path):
    """RFC 8907 section 5.4.2.7: the old password by GETDATA, the new one by GETPASS, no echo of either."""

    async def main():
        async with lab(passwords_file=str(tmp_path / "passwords")) as running_lab:
            async with running_lab.wire() as wire:
                assert (await wire.ask(pap())).status == AuthenStatus.PASS
            assert await changing(running_lab, labs.PASSWORD, NEW_PASSWORD, NEW_PASSWORD) == [
                (AuthenStatus.GETDATA, ReplyFlag.NOECHO),
                (AuthenStatus.GETPASS, ReplyFlag.NOECHO),
                (AuthenStatus.GETPASS, ReplyFlag.NOECHO),
                (AuthenStatus.PASS, 0),
            ]
            for message, status in (
                (pap(), AuthenStatus.FAIL),
                (pap(password=NEW_PASSWORD), AuthenStatus.PASS),
                (proof(AuthenType.CHAP, NEW_PASSWORD), AuthenStatus.PASS),
            ):
                async with running_lab.wire() as wire:
                    assert (await wire.ask(message)).status == status
            assert NEW_PASSWORD not in (tmp_path / "passwords").read_text()

    run(main())


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        (("wrong", NEW_PASSWORD, NEW_PASSWORD), "ana"),
        ((labs.PASSWORD, NEW_PASSWORD, "another one"), "ana"),
        ((labs.PASSWORD, "short", "short"), "ana"),
        ((labs.PASSWORD, NEW_PASSWORD, NEW_PASSWORD), "ben"),
        ((labs.PASSWORD, NEW_PASSWORD, NEW_PASSWORD), "nobody"),
    ],
)
def test_a_password_that_may_not_be_changed_stays(lab, run, tmp_path, answers, name):
    """RFC 8907 section 5.4.2.7: FAIL at the end of the same questions, whatever the reason."""

    async def main():
        async with lab(passwords_file=str(tmp_path / "passwords")) as running_lab:
            assert (await changing(running_lab, *answers, name=name))[-1] == (AuthenStatus.FAIL, 0)
            async with running_lab.wire() as wire:
                assert (await wire.ask(pap())).status == AuthenStatus.PASS

    run(main())


@pytest.mark.parametrize("service", [0, 1, 3, 5, 6, 7, 8, 9])
def test_every_defined_service_logs_in(lab, run, service):
    """RFC 8907 section 5.1: the service says what the login is for; all but ENABLE ask for the login password."""
    for password, status in ((labs.PASSWORD, AuthenStatus.PASS), (labs.ENABLE_PASSWORD, AuthenStatus.FAIL)):
        reply, _ = one_login(lab, run, pap(password=password, service=service))
        assert reply.status == status


# What is not served


def test_a_type_that_the_device_may_not_use_is_answered_with_restart(lab, run):
    """RFC 8907 section 5.2: RESTART, so that the device begins anew with another type."""
    reply, decided = one_login(lab, run, pap(), source=labs.ONLY_CHAP)
    assert reply.status == AuthenStatus.RESTART
    assert decided[0]["reason"] == "authentication type not allowed for this device"
    reply, _ = one_login(lab, run, proof(AuthenType.CHAP), source=labs.ONLY_CHAP)
    assert reply.status == AuthenStatus.PASS


@pytest.mark.parametrize("kind", [AuthenType.PAP, AuthenType.CHAP, AuthenType.MSCHAP, AuthenType.MSCHAPV2])
def test_what_is_defined_but_not_supported_fails(lab, run, kind):
    """RFC 8907 section 5.4.2: CHPASS exists for ASCII only."""
    message = start(kind, action=Action.CHPASS)
    reply, decided = one_login(lab, run, message, version=Version.DEFAULT)
    assert reply.status == AuthenStatus.FAIL
    assert "not supported" in decided[0]["reason"]


@pytest.mark.parametrize(
    "message",
    [
        start(action=Action.SENDAUTH),
        start(AuthenType.PAP, action=Action.SENDAUTH),
        start(action=3),
        start(action=0),
        start(4),
        start(AuthenType.NOT_SET),
        start(7),
        start(service=10),
        start(service=255),
        start(priv_lvl=16),
        start(action=Action.CHPASS, service=77),
    ],
    ids=lambda start: f"{start.action}-{start.authen_type}-{start.service}-{start.priv_lvl}",
)
def test_sendauth_and_undefined_values_are_an_error(lab, run, message):
    """RFC 8907 sections 3.6 and 10.5.3: SENDAUTH is never served; ERROR says that nothing was decided."""
    reply, decided = one_login(lab, run, message)
    assert reply.status == AuthenStatus.ERROR
    assert [each["outcome"] for each in decided] == ["error"]


@pytest.mark.parametrize(
    "more", [{"authen_method": 7}, {"priv_lvl": 16}, {"authen_type": 4}, {"service": 10}], ids=str
)
def test_undefined_values_in_an_authorization_are_an_error(lab, run, more):
    """RFC 8907 section 6.1."""
    reply, _ = one_login(lab, run, author("service=shell", "cmd=", **more))
    assert reply.status == AuthorStatus.ERROR


def test_the_claimed_method_decides_nothing(lab, run):
    """RFC 8907 section 6.1: authen_method MUST NOT be used in policy."""
    for method in (0, 1, 2, 3, 4, 5, 6, 8, 0x10, 0x11, 0x20):
        reply, _ = one_login(lab, run, author("service=shell", "cmd=", authen_method=method))
        assert reply.status == AuthorStatus.PASS_ADD


@pytest.mark.parametrize("source", [labs.DEVICE, labs.QUIRKY])
def test_zero_length_arguments_need_the_quirk(lab, run, source):
    """RFC 8907 section 6.1: at least two bytes; the quirk zero-length-arg leaves the empty ones out."""
    body = labs.encode_body(author("service=shell", "cmd="))
    # One more argument, of length 0: the count at offset 7, the lengths behind the fixed part.
    body = body[:7] + bytes((3,)) + body[8:10] + b"\x00" + body[10:]

    async def main():
        async with lab() as running_lab, running_lab.wire(source) as wire:
            reply = await wire.ask(body, kind=2)
            wanted = AuthorStatus.PASS_ADD if source == labs.QUIRKY else AuthorStatus.ERROR
            assert reply.status == wanted

    run(main())


# The same answer, whatever the reason


def test_an_unknown_user_and_a_wrong_password_look_alike(lab, run):
    """Byte for byte the same packet, with nothing that tells one from the other."""

    async def main():
        expired = labs.user("old", disabled=True)
        async with lab(users=(labs.user("ana", "ops"), expired), rules=()) as running_lab:
            answers = set()
            for name in ("ana", "nobody", "old", ""):
                async with running_lab.wire() as wire:
                    wire.send(wire.packet(pap(name, "wrong"), 4711))
                    answers.add(await wire.reader.read())
            assert len(answers) == 1
            reasons = {each["reason"] for each in running_lab.said("tacacs.authentication")}
            assert reasons == {"wrong password", "unknown user", "account disabled"}

    run(main())


def test_after_too_many_failures_the_right_password_fails_too(lab, run):
    """The lock-out says nothing of itself to the peer, and all to the log."""

    async def main():
        lockout = Lockout(failures_count=3, window_s=60.0, lock_s=60.0)
        async with lab(lockout=lockout) as running_lab, running_lab.wire() as wire:
            replies = [
                await wire.ask(pap(password=password), number + 1, flags=SINGLE)
                for number, password in enumerate(("one", "two", "three", labs.PASSWORD))
            ]
            assert {reply.body for reply in replies} == {replies[0].body}
            assert running_lab.said("tacacs.authentication")[-1]["reason"] == "locked out"
            proven = await wire.ask(proof(AuthenType.CHAP), 9)
            assert proven.body == replies[0].body

    run(main())


def test_a_lock_outlives_a_reload(lab, run, tmp_path):
    """What was guessed is the process's memory, so that a reload buys no new guesses."""

    async def main():
        lockout = Lockout(failures_count=2)
        async with lab(lockout=lockout) as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(password="one"), 1, flags=SINGLE)
            running_lab.reload(settings(tmp_path, lockout=lockout))
            await wire.ask(pap(password="two"), 2)
            running_lab.reload(settings(tmp_path, lockout=lockout))
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.FAIL
            reasons = [each["reason"] for each in running_lab.said("tacacs.authentication")]
            assert reasons == ["wrong password", "wrong password; locked out now", "locked out"]

    run(main())


def test_a_one_time_code_is_asked_for_where_a_user_has_one(lab, run):
    """TOTP: a GETDATA after the password (RFC 8907 section 5.4.2.1), without echo."""

    async def main():
        ana = labs.user("ana", totp=Secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"))
        async with lab(users=(ana,), rules=()) as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            asked = await wire.ask(typed(labs.PASSWORD), 1, 3)
            assert (asked.status, asked.message.flags) == (AuthenStatus.GETDATA, ReplyFlag.NOECHO)
            assert (await wire.ask(typed("000000"), 1, 5)).status == AuthenStatus.FAIL

    run(main())


@pytest.mark.parametrize("name", ["jörg", "\x1b[31mred", "a" * 255, "%s%n", "'; --"])
def test_odd_names_are_names(lab, run, name):
    """RFC 8907 section 3.7: what a person typed is no protocol error."""
    reply, decided = one_login(lab, run, pap(name))
    assert reply.status == AuthenStatus.FAIL
    assert decided[0]["user"] == name
