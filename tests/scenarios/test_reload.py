"""A new configuration reaches live connections at their next session, and a bad one reaches nothing."""

from __future__ import annotations

import signal

import pytest
import tacacs_lab as labs
from tacacs_daemon import daemon
from tacacs_lab import author, command, pap, record, running, settings, start, typed

from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.config import Accounting, Device, FileSink, Rule
from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, AuthenType, AuthorStatus, Flag

SINGLE = Flag.SINGLE_CONNECT
CHAP = start(AuthenType.CHAP, "ana", mschap.chap_data(7, bytes(range(16)), labs.PASSWORD.encode()))


@pytest.fixture
def with_(tmp_path):
    """Return settings changed as said."""
    return lambda **changes: settings(tmp_path, **changes)


def device(*keys, **more):
    """Return the laboratory's device with other keys."""
    given = {"name": "lab", "networks": (labs.DEVICE,), "groups": ("labs",)}
    return Device(**given | more, secrets=labs.secrets_of(*keys))


def test_a_deleted_user_cannot_open_one_more_session(run, with_):
    """On the live connection and in every way: login, authorization, and the password that was right a moment ago."""

    async def main():
        async with running(with_()) as lab, lab.wire() as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).status == AuthenStatus.PASS
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.PASS
            assert (await wire.ask(CHAP, 3)).status == AuthenStatus.PASS
            assert (await wire.ask(command("show"), 4)).status == AuthorStatus.PASS_ADD
            lab.reload(with_(users=(labs.user("ben", "guests"),)))
            assert (await wire.ask(pap(), 5)).status == AuthenStatus.FAIL
            assert (await wire.ask(CHAP, 6)).status == AuthenStatus.FAIL
            assert (
                await wire.ask(pap(password=labs.ENABLE_PASSWORD, service=2), 7)
            ).status == AuthenStatus.FAIL
            assert (await wire.ask(command("show"), 8)).status == AuthorStatus.FAIL
            await wire.ask(start(), 9)
            assert (await wire.ask(typed(labs.PASSWORD), 9, 3)).status == AuthenStatus.FAIL
            assert (await wire.ask(pap("ben"), 10)).status == AuthenStatus.PASS

    run(main())


@pytest.mark.parametrize("change", [{"disabled": True}, {"password": "another password"}], ids=str)
def test_a_changed_user_is_the_changed_user_at_once(run, with_, change):
    """A password that was remembered is tied to the account as it was."""

    async def main():
        async with running(with_()) as lab, lab.wire() as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).status == AuthenStatus.PASS
            lab.reload(with_(users=(labs.user("ana", "ops", **change), labs.user("ben", "guests"))))
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.FAIL

    run(main())


def test_a_session_under_way_keeps_the_configuration_that_it_began_with(run, with_):
    """One immutable snapshot per session: half of an old rule and half of a new one would be neither."""

    async def main():
        async with running(with_()) as lab, lab.wire() as wire:
            await wire.ask(start(), 1, flags=SINGLE)
            lab.reload(with_(users=(labs.user("ben", "guests"),)))
            assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.FAIL

    run(main())


def test_a_changed_rule_decides_the_next_request(run, with_):
    """Nothing of the old policy is remembered."""

    async def main():
        async with running(with_()) as lab, lab.wire() as wire:
            assert (await wire.ask(command("show"), 1, flags=SINGLE)).status == AuthorStatus.PASS_ADD
            deny = Rule(name="nothing", action="deny")
            lab.reload(with_(rules=(deny,)))
            assert (await wire.ask(command("show"), 2)).status == AuthorStatus.FAIL
            lab.reload(with_())
            assert (await wire.ask(author("service=shell", "cmd="), 3)).message.args == ("priv-lvl=15",)
            rules = [event["rule"] for event in lab.said("tacacs.authorization")]
            assert rules == ["ops-session", "nothing", "ops-session"]

    run(main())


def test_a_rotated_key_works_on_live_and_on_new_connections(run, with_):
    """Old and new key side by side for a while, then the new one alone; no connection is lost on the way."""

    async def main():
        old, new = labs.KEY, labs.SECOND_KEY
        async with running(with_(devices=(device(old),))) as lab, lab.wire() as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).status == AuthenStatus.PASS
            await wire.ask(start(), 2)
            lab.reload(with_(devices=(device(new, old),)))
            wire.send(wire.packet(pap(), 3, key=new))
            assert (await wire.receive(new)).status == AuthenStatus.PASS
            async with lab.wire(key=new) as other:
                assert (await other.ask(pap())).status == AuthenStatus.PASS
            wire.send(wire.packet(pap(), 4, key=old))
            assert (await wire.receive(old)).status == AuthenStatus.PASS
            lab.reload(with_(devices=(device(new),)))
            # The session of before still speaks the old key.
            wire.send(wire.packet(typed(labs.PASSWORD), 2, 3, key=old))
            assert (await wire.receive(old)).status == AuthenStatus.PASS
            wire.send(wire.packet(pap(), 5, key=new))
            assert (await wire.receive(new)).status == AuthenStatus.PASS
            wire.send(wire.packet(pap(), 6, key=old))
            assert (await wire.receive(new)).status == AuthenStatus.ERROR
            await wire.until_closed()

    run(main())


def test_the_connection_of_a_removed_device_drains(run, with_):
    """RFC 8907 section 10.5.1: known clients only; sessions that run finish, none begins."""

    async def main():
        async with running(with_()) as lab, lab.wire() as busy, lab.wire() as idle:
            await idle.ask(pap(), 1, flags=SINGLE)
            await busy.ask(start(), 1, flags=SINGLE)
            lab.reload(
                with_(
                    devices=(
                        Device(name="far", networks=("192.0.2.0/24",), secrets=labs.secrets_of(labs.KEY)),
                    )
                )
            )
            await idle.until_closed()
            assert (await busy.ask(command("show"), 2)).status == AuthorStatus.ERROR
            assert (await busy.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
            await busy.until_closed()
            async with lab.wire() as refused:
                await refused.until_closed()

    run(main())


def test_a_device_that_changed_is_the_changed_device_on_its_live_connection(run, with_):
    """Groups, quirks and allowed types are asked at every session."""

    async def main():
        rules = (Rule(name="labs-only", device_groups=("labs",), services=("shell",)),)
        async with running(with_(rules=rules)) as lab, lab.wire() as wire:
            assert (await wire.ask(command("show"), 1, flags=SINGLE)).status == AuthorStatus.PASS_ADD
            moved = device(labs.KEY, groups=("elsewhere",), authen_types=("chap",))
            lab.reload(with_(rules=rules, devices=(moved,)))
            assert (await wire.ask(command("show"), 2)).status == AuthorStatus.FAIL
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.RESTART

    run(main())


def test_records_go_where_the_present_configuration_says(run, with_, tmp_path):
    """A sink that is replaced stores what it was given; the next record is the new one's."""

    async def main():
        async with running(with_()) as lab, lab.wire() as wire:
            assert (await wire.ask(record("task_id=old"), 1, flags=SINGLE)).status == AcctStatus.SUCCESS
            sinks = Accounting(files=(FileSink(name="records", path=str(tmp_path / "new.jsonl")),))
            lab.reload(with_(accounting=sinks))

            async def is_moved():
                assert (await wire.ask(record("task_id=new"))).status == AcctStatus.SUCCESS
                return (tmp_path / "new.jsonl").exists() and b"new" in (tmp_path / "new.jsonl").read_bytes()

            for _ in range(1_000):
                if await is_moved():
                    break
            assert b'"old"' in (tmp_path / "records.jsonl").read_bytes()
            assert b'"old"' not in (tmp_path / "new.jsonl").read_bytes()

    run(main())


def test_limits_of_the_new_configuration_hold_for_new_connections(run, with_):
    """The largest packet, for one: refused from its header."""

    async def main():
        async with running(with_()) as lab:
            lab.reload(with_(max_length_bytes=64))
            async with lab.wire() as wire:
                wire.send(wire.packet(bytes(65), 1))
                await wire.until_closed()
            async with lab.wire() as wire:
                assert (await wire.ask(pap())).status == AuthenStatus.PASS

    run(main())


# The daemon: SIGHUP reads the file again


def test_sighup_puts_the_file_in_force(run, tmp_path):
    """A user who was deleted in the file is gone from the live connection after SIGHUP."""
    zoe = f'[[tacacs.users]]\nname = "zoe"\npassword = "{labs.hashed(labs.PASSWORD)}"\n'

    async def main():
        async with daemon(tmp_path, zoe) as sojourn, sojourn.wire() as wire:
            assert (await wire.ask(pap("zoe"), 1, flags=SINGLE)).status == AuthenStatus.PASS
            sojourn.configure()
            sojourn.signal(signal.SIGHUP)
            await labs.eventually(lambda: sojourn.said("server.reloaded"))
            assert (await wire.ask(pap("zoe"), 2)).status == AuthenStatus.FAIL
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS

    run(main())


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("[[tacacs.users]]\nname = 7\n", "name"),
        ("this is not TOML", "TOML"),
        ('[[tacacs.users]]\nname = "ana"\n', "ana"),
        ("[tacacs.limits]\n", "limits"),
    ],
)
def test_a_bad_file_changes_nothing_and_is_told(run, tmp_path, more, found):
    """Every problem becomes a line of the log; sessions and connections go on as before."""

    async def main():
        async with daemon(tmp_path) as sojourn, sojourn.wire() as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).status == AuthenStatus.PASS
            sojourn.configure(more)
            sojourn.signal(signal.SIGHUP)
            refused = await labs.eventually(lambda: sojourn.said("config.refused"))
            assert found in refused[0]["problem"]
            assert labs.KEY.decode() not in str(refused)
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.PASS
            async with sojourn.wire() as other:
                assert (await other.ask(command("show"))).status == AuthorStatus.PASS_ADD
            assert sojourn.said("server.reloaded") == []
            assert sojourn.said("server.loop_error") == []

    run(main())
