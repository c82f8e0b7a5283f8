"""Who takes part in a device's exchange, as its trace tells it: who knows the password, the rules, the sinks."""

from __future__ import annotations

import asyncio

import pytest
import tacacs_lab as labs
from tacacs_lab import command, pap, record, running, settings

from sojourn.gateways.tacacs.config import Accounting, Directory, FileSink, Lockout, User
from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


def legs(running_lab, number):
    """Return the legs of a session's trace: from whom to whom, what, and in short."""
    trace = running_lab.server.registry.trace(f"tacacs-{number:x}")
    assert labs.PASSWORD not in repr(trace)
    return [(one.direction, one.source, one.target, one.name, one.summary) for one in trace if one.is_leg]


def test_a_login_tells_who_has_checked_the_password(lab, run):
    """Local users by name, with their answer; a password that was verified a moment ago is not asked for again."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=4)
            await wire.ask(pap(), 2)
            await wire.ask(pap(password="guess"), 3)
            ask = ("out", "tacacs", "local users", "check password", "")
            assert legs(running_lab, 1) == [ask, ("in", "local users", "tacacs", "pass", "accepted")]
            assert legs(running_lab, 2) == [("in", "local users", "tacacs", "pass", "verified a moment ago")]
            assert legs(running_lab, 3) == [ask, ("in", "local users", "tacacs", "fail", "wrong password")]

    run(main())


def test_a_directory_that_is_down_is_an_error_in_its_place(lab, run):
    """The leg says which directory and why; the device is answered after it."""

    async def main():
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        directory = Directory(
            name="corp", urls=(f"ldap://127.0.0.1:{port}",), bind_dn="uid={user},dc=example", timeout_s=0.5
        )
        people = (User(name="zoe", directory="corp"),)
        async with lab(directories=(directory,), users=people, rules=()) as running_lab:
            async with running_lab.wire() as wire:
                assert (await wire.ask(pap("zoe", "anything"))).status == AuthenStatus.ERROR
            sent, failed = legs(running_lab, 1)
            assert sent == ("out", "tacacs", "LDAP corp", "check password", "")
            assert failed[:4] == ("error", "LDAP corp", "tacacs", "error")
            assert failed[4].startswith("directory corp did not answer: ")

    run(main())


def test_the_lock_out_is_a_party_where_it_decides(lab, run):
    """The failure that sets it off, and the right password that comes too late."""

    async def main():
        async with lab(lockout=Lockout(failures_count=1)) as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(password="guess"), 1, flags=4)
            await wire.ask(pap(), 2)
            assert legs(running_lab, 1)[-1] == ("in", "lock-out", "tacacs", "locked out now", "")
            assert legs(running_lab, 2)[-1] == ("in", "lock-out", "tacacs", "locked out", "")

    run(main())


@pytest.mark.parametrize(
    ("words", "decision"),
    [
        (("reload", "in", "5"), ("deny", "rule no-reload denies it")),
        (("show", "version"), ("permit", "rule ops-session permits it")),
    ],
)
def test_a_command_tells_which_rule_has_decided_and_why(lab, run, words, decision):
    """From the rules to the gateway, between the request and its answer."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(command(*words))
            assert legs(running_lab, 1) == [("in", "rules", "tacacs", *decision)]
            names = [one.name for one in running_lab.server.registry.trace("tacacs-1")]
            assert names == ["AuthorRequest", decision[0], "AuthorReply"]

    run(main())


def test_a_record_is_handed_to_each_sink_and_each_says_what_it_made_of_it(lab, run, tmp_path):
    """Stored, or failed and after how long; the sink that could store is told even though the device got ERROR."""

    async def main():
        good = FileSink(name="good", path=str(tmp_path / "good.jsonl"))
        bad = FileSink(name="bad", path=str(tmp_path / "no folder" / "bad.jsonl"))
        async with lab(accounting=Accounting(files=(good,))) as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(record())).status == AcctStatus.SUCCESS
            sent, stored = legs(running_lab, 1)
            assert sent == ("out", "tacacs", "sink good", "record", "start")
            assert stored[:4] == ("in", "sink good", "tacacs", "stored")
            assert stored[4].startswith("after ")
        async with lab(accounting=Accounting(files=(bad,))) as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(record())).status == AcctStatus.ERROR
            failed = legs(running_lab, 1)[-1]
            assert failed[:3] == ("error", "sink bad", "tacacs")

    run(main())
