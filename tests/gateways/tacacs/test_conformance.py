"""The edge cases at which every measured server errs somewhere: one test for each row, from raw bytes.

The table is section 2.8 of the facts on TACACS+ that this gateway was built from; the rows on the slow session and
on TLS are also shown at full size in ``tests/scenarios`` and ``test_tls_listener``.
"""

from __future__ import annotations

import asyncio
import functools

import msgspec
import pytest
import tacacs_lab as labs
from tacacs_lab import author, command, pap, record, running, settings, start, typed

from sojourn.gateways.tacacs.config import Directory
from sojourn.gateways.tacacs.messages import (
    AcctStatus,
    AuthenStatus,
    AuthorStatus,
    ContinueFlag,
    Flag,
    ReplyFlag,
    Version,
)
from sojourn.gateways.tacacs.wire import encode_body


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


def in_lab(test):
    """Let a test be a coroutine that gets a running laboratory."""

    @functools.wraps(test)
    def runs(lab, run, **more):
        async def main():
            async with lab() as running_lab:
                await test(running_lab, **more)

        run(main())

    # pytest asks for the fixtures that the signature names.
    del runs.__wrapped__
    return runs


@in_lab
async def test_without_single_connect_the_connection_closes_after_its_session(lab):
    """RFC 8907 section 4.3: where it was not negotiated, the server closes after the first session."""
    async with lab.wire() as wire:
        reply = await wire.ask(pap())
        assert reply.status == AuthenStatus.PASS
        assert not reply.flags & Flag.SINGLE_CONNECT
        await wire.until_closed()


@in_lab
async def test_after_a_wrong_key_sessions_that_run_finish_and_no_other_begins(lab):
    """RFC 8907 sections 4.4 and 10.5.2: no new session on that connection, the running ones may finish, then close."""
    async with lab.wire() as wire:
        asked = await wire.ask(start(), 1, flags=Flag.SINGLE_CONNECT)
        assert asked.flags & Flag.SINGLE_CONNECT
        refused = await wire.ask(pap(), 2, key=labs.WRONG_KEY)
        assert refused.status == AuthenStatus.ERROR
        also_refused = await wire.ask(pap(), 3)
        assert also_refused.status == AuthenStatus.ERROR
        verdict = await wire.ask(typed(labs.PASSWORD), 1, 3)
        assert verdict.status == AuthenStatus.PASS
        await wire.until_closed()
    failed = lab.said("session.failed")
    assert "by its length fields" in failed[0]["error"]
    assert "RFC 8907 section 5.1" in failed[0]["error"]


@in_lab
async def test_a_wrong_key_on_a_new_connection_is_an_error_and_the_end(lab):
    """RFC 8907 section 4.5: the lengths do not add up, so an ERROR, in the server's own key, and a close."""
    async with lab.wire() as wire:
        wire.send(wire.packet(pap(), 7, flags=Flag.SINGLE_CONNECT, key=labs.WRONG_KEY))
        reply = await wire.receive(labs.KEY)
        assert (reply.status, reply.flags) == (AuthenStatus.ERROR, 0)
        await wire.until_closed()


@in_lab
async def test_unencrypted_on_plain_tcp_is_rejected(lab):
    """RFC 8907 section 10.5.2: a server MUST reject connections that have UNENCRYPTED set."""
    async with lab.wire() as wire:
        wire.send(wire.packet(pap(), 7, flags=Flag.UNENCRYPTED | Flag.SINGLE_CONNECT))
        reply = await wire.receive()
        assert reply.status == AuthenStatus.ERROR
        assert reply.flags == 0
        await wire.until_closed()
    assert lab.said("tacacs.authentication") == []
    assert "UNENCRYPTED" in lab.said("session.failed")[0]["error"]


@in_lab
async def test_unencrypted_in_the_midst_of_a_connection_lets_running_sessions_finish(lab):
    """RFC 8907 section 10.5.2: a rejected connection takes nothing new, and drains."""
    async with lab.wire() as wire:
        await wire.ask(start(), 1, flags=Flag.SINGLE_CONNECT)
        wire.send(wire.packet(pap(), 2, flags=Flag.UNENCRYPTED))
        assert (await wire.receive()).status == AuthenStatus.ERROR
        assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
        await wire.until_closed()


@in_lab
async def test_an_unknown_type_gets_its_own_header_back(lab):
    """RFC 8907 section 3.6: the same header in the clear, seq_no plus one, length zero."""
    async with lab.wire() as wire:
        wire.send(wire.packet(b"what is this", 0x55667788, kind=9))
        reply = await wire.receive()
        assert reply == (Version.DEFAULT, 9, 2, 0, 0x55667788, b"", None)
        await wire.until_closed()
    assert lab.said("session.failed")[0]["error"].startswith("found packet type 9, wanted 1, 2 or 3")


@in_lab
async def test_an_unknown_type_ends_its_session_alone(lab):
    """RFC 8907 section 3.6: the error ends the session; others share the connection."""
    async with lab.wire() as wire:
        await wire.ask(start(), 1, flags=Flag.SINGLE_CONNECT)
        wire.send(wire.packet(b"", 2, kind=0))
        assert (await wire.receive())[:6] == (Version.DEFAULT, 0, 2, 0, 2, b"")
        assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS
        assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS


@in_lab
async def test_a_first_packet_with_seq_no_3_is_rejected(lab):
    """RFC 8907 section 4.1: the first packet of a session MUST have seq_no 1."""
    async with lab.wire() as wire:
        reply = await wire.ask(author("service=shell", "cmd="), 9, 3)
        assert (reply.status, reply.seq_no) == (AuthorStatus.ERROR, 4)
        await wire.until_closed()
    assert lab.said("tacacs.authorization") == []


@pytest.mark.parametrize("seq_no", [0, 2, 254, 255])
def test_a_first_packet_with_a_number_that_leaves_us_none_ends_in_silence(lab, run, seq_no):
    """RFC 8907 section 4.1: even numbers are the server's, and there is none behind 255."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            wire.send(wire.packet(pap(), 9, seq_no))
            await wire.until_closed()
            assert len(running_lab.said("session.failed")) == 1

    run(main())


@in_lab
async def test_pap_with_minor_version_0_is_an_error(lab):
    """RFC 8907 section 4.1, table 1: PAP is minor version 1; the reply echoes what came."""
    async with lab.wire() as wire:
        reply = await wire.ask(pap(), version=Version.DEFAULT)
        assert (reply.status, reply.version) == (AuthenStatus.ERROR, Version.DEFAULT)
        await wire.until_closed()


@in_lab
async def test_authorization_with_minor_version_1_is_an_error(lab):
    """RFC 8907 section 4.1, table 1: authorization is minor version 0; the reply echoes what came."""
    async with lab.wire() as wire:
        reply = await wire.ask(command("show"), version=Version.ONE)
        assert (reply.status, reply.version) == (AuthorStatus.ERROR, Version.ONE)
        await wire.until_closed()
    assert "minor version 1 on AuthorRequest" in lab.said("session.failed")[0]["error"]


@in_lab
async def test_authorization_with_minor_version_1_is_allowed_by_the_quirk(lab):
    """Palo Alto devices send it: the quirk minor-version-on-author takes it from them, and echoes it."""
    async with lab.wire(labs.QUIRKY) as wire:
        reply = await wire.ask(command("show"), version=Version.ONE)
        assert (reply.status, reply.version) == (AuthorStatus.PASS_ADD, Version.ONE)


@pytest.mark.parametrize(
    "message", [pap(), author("service=shell", "cmd="), record()], ids=lambda m: type(m).__name__
)
def test_trailing_junk_in_a_body_is_an_error(lab, run, message):
    """RFC 8907 section 3.6: the lengths have to add up to the body; else it is discarded, with an ERROR."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            version = labs.version_of(message)
            kind = {"AuthenStart": 1, "AuthorRequest": 2, "AcctRequest": 3}[type(message).__name__]
            reply = await wire.ask(encode_body(message) + b"junk", kind=kind, version=version)
            wanted = {1: AuthenStatus.ERROR, 2: AuthorStatus.ERROR, 3: AcctStatus.ERROR}
            assert reply.status == wanted[kind]
            await wire.until_closed()

    run(main())


@in_lab
async def test_an_argument_without_a_separator_is_an_error_of_its_session_alone(lab):
    """RFC 8907 section 6.1: name=value or name*value. The key was right, so the connection stays open."""
    async with lab.wire() as wire:
        for session_id in (1, 2):
            reply = await wire.ask(author("service=shell", "cmd"), session_id, flags=Flag.SINGLE_CONNECT)
            assert reply.status == AuthorStatus.ERROR
        assert (await wire.ask(record("task_id=1", "junk"), 3)).status == AcctStatus.ERROR
        assert (await wire.ask(author("service=shell", "cmd="), 4)).status == AuthorStatus.PASS_ADD
    assert len(lab.said("session.failed")) == 3


@pytest.mark.parametrize("field", ["port", "rem_addr"])
@pytest.mark.parametrize(
    "message", [pap(), start(), command("show"), record()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("text", ["tty\0", "tty\n1", "ttyä"], ids=["nul", "line-end", "not-ascii"])
def test_a_place_that_is_not_printable_is_an_error_of_its_session_alone(lab, run, message, field, text):
    """RFC 8907 section 3.7: printable US-ASCII. The lengths add up, so the key was right and the connection stays."""
    bad = msgspec.structs.replace(message, **{field: text})

    async def main():
        for source in (labs.DEVICE, labs.TWO_KEYS):
            async with lab() as running_lab, running_lab.wire(source) as wire:
                for session_id in (1, 2):
                    reply = await wire.ask(bad, session_id, flags=Flag.SINGLE_CONNECT)
                    wanted = {"AuthorRequest": AuthorStatus.ERROR, "AcctRequest": AcctStatus.ERROR}
                    assert reply.status == wanted.get(type(bad).__name__, AuthenStatus.ERROR)
                assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS
                failed = running_lab.said("session.failed")
                assert len(failed) == 2
                assert "wanted printable US-ASCII (RFC 8907 sections 3.7" in failed[0]["error"]

    run(main())


@in_lab
async def test_an_argument_without_a_separator_is_allowed_by_the_quirk(lab):
    """The quirk arg-without-separator: one bad pair does not cost the whole request."""
    async with lab.wire(labs.QUIRKY) as wire:
        reply = await wire.ask(author("service=shell", "cmd=", "noise"))
        assert reply.status == AuthorStatus.PASS_ADD


@pytest.mark.parametrize("flags", [0x00, 0x06, 0x0C, 0x0E, 0x01, 0x10])
def test_accounting_flags_without_meaning_are_an_error(lab, run, tmp_path, flags):
    """RFC 8907 section 7.2, table 2: 0, 6, C and E are invalid; so is every bit without a name."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(record(flags=flags))).status == AcctStatus.ERROR
            assert running_lab.said("tacacs.accounting")[0]["outcome"] == "error"
        assert labs.stored(tmp_path) == []

    run(main())


@pytest.mark.parametrize("flags", [0x02, 0x04, 0x08, 0x0A])
def test_accounting_flags_with_meaning_are_stored(lab, run, tmp_path, flags):
    """RFC 8907 section 7.2, table 2: start, stop, watchdog, watchdog with update."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(record(flags=flags))).status == AcctStatus.SUCCESS
            assert len(labs.stored(tmp_path)) == 1

    run(main())


@in_lab
async def test_an_abort_ends_the_session_without_a_reply(lab):
    """RFC 8907 section 5.4.3: no reply to an ABORT; the connection goes on, where it may."""
    async with lab.wire() as wire:
        await wire.ask(start(), 1, flags=Flag.SINGLE_CONNECT)
        wire.send(wire.packet(typed("", ContinueFlag.ABORT), 1, 3))
        await labs.eventually(lambda: lab.manager.session_count == 0)
        # Whatever had been said to the abort would come before this.
        assert (await wire.ask(pap(), 2)).status == AuthenStatus.PASS
    assert lab.said("session.failed") == []


@in_lab
async def test_an_abort_closes_a_connection_of_a_single_session(lab):
    """RFC 8907 sections 4.3 and 5.4.3."""
    async with lab.wire() as wire:
        await wire.ask(start(), 1)
        wire.send(wire.packet(typed("", ContinueFlag.ABORT), 1, 3))
        await wire.until_closed()


@in_lab
async def test_an_ascii_login_and_pap_logins_share_a_connection_in_any_order(lab):
    """RFC 8907 section 4.3: sessions are told apart by session_id and multiplexed freely."""
    async with lab.wire() as wire:
        user_wanted = await wire.ask(start(name=""), 1, flags=Flag.SINGLE_CONNECT)
        assert user_wanted.status == AuthenStatus.GETUSER
        assert (await wire.ask(pap(), 2)).status == AuthenStatus.PASS
        other_wanted = await wire.ask(start(name="ben"), 3)
        assert other_wanted.status == AuthenStatus.GETPASS
        password_wanted = await wire.ask(typed("ana"), 1, 3)
        assert (password_wanted.status, password_wanted.message.flags) == (
            AuthenStatus.GETPASS,
            ReplyFlag.NOECHO,
        )
        assert (await wire.ask(pap(password="wrong"), 4)).status == AuthenStatus.FAIL
        assert (await wire.ask(typed("wrong"), 3, 3)).status == AuthenStatus.FAIL
        assert (await wire.ask(typed(labs.PASSWORD), 1, 5)).status == AuthenStatus.PASS


def test_a_session_that_waits_for_a_backend_blocks_no_other(lab, run):
    """RFC 8907 section 4.3: a directory that hangs costs its own session an ERROR, and nobody else a moment."""

    async def main():
        async with labs.tarpit() as port:
            corporate = Directory(
                name="corp",
                urls=(f"ldap://127.0.0.1:{port}",),
                bind_dn="uid={user},dc=example",
                timeout_s=0.5,
            )
            ana = labs.user("ana", "ops")
            zoe = labs.user("zoe", password="", secret=None, enable=None, directory="corp")
            zoe = labs.msgspec.structs.replace(zoe, password=None)
            async with lab(directories=(corporate,), users=(ana, zoe)) as lab_, lab_.wire() as wire:
                await wire.ask(command("show"), 1, flags=Flag.SINGLE_CONNECT)
                wire.send(wire.packet(pap("zoe"), 2))
                order = []
                wire.send(*(wire.packet(command("show"), 3 + number) for number in range(50)))
                wire.send(wire.packet(pap(), 100))
                for _ in range(52):
                    reply = await wire.receive()
                    order.append((reply.session_id, reply.status))
                assert order[-1] == (2, AuthenStatus.ERROR)
                assert (100, AuthenStatus.PASS) in order

    run(main())


@in_lab
async def test_every_kind_of_packet_is_refused_by_the_error_of_its_kind(lab):
    """RFC 8907 section 3.6: an ERROR of the type of the packet, while a connection takes nothing new."""
    async with lab.wire() as wire:
        await wire.ask(start(), 1, flags=Flag.SINGLE_CONNECT)
        await wire.ask(pap(), 2, key=labs.WRONG_KEY)
        assert (await wire.ask(pap(), 3)).status == AuthenStatus.ERROR
        assert (await wire.ask(command("show"), 4)).status == AuthorStatus.ERROR
        assert (await wire.ask(record(), 5)).status == AcctStatus.ERROR
        wire.send(wire.packet(b"", 6, kind=9), wire.packet(typed("ana"), 7, 3))
        wire.send(wire.packet(typed("", ContinueFlag.ABORT), 1, 3))
        await wire.until_closed()
    assert lab.manager.sessions_refused == 5


def test_an_unknown_device_is_refused_before_anything_is_read(lab, run):
    """RFC 8907 section 10.5.1: only defined known clients may connect."""

    async def main():
        async with lab() as running_lab, running_lab.wire(labs.NOBODY) as wire:
            await wire.until_closed()
            refused = running_lab.said("connection.refused")
            assert refused[0]["peer"] == labs.NOBODY
            assert "RFC 8907 section 10.5.1" in refused[0]["error"]
            assert running_lab.manager.packets_in == 0

    run(main())


def test_all_that_is_asked_at_once_is_answered(lab, run):
    """Many sessions in one segment, and one session cut into single bytes: each gets its answer."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=Flag.SINGLE_CONNECT)
            wire.send(*(wire.packet(command("show"), 10 + number) for number in range(200)))
            replies = [await wire.receive() for _ in range(200)]
            assert {reply.session_id for reply in replies} == set(range(10, 210))
            assert {reply.status for reply in replies} == {AuthorStatus.PASS_ADD}
            for byte in wire.packet(pap(), 500):
                wire.send(bytes((byte,)))
                await wire.writer.drain()
                await asyncio.sleep(0)
            assert (await wire.receive()).status == AuthenStatus.PASS

    run(main())
