"""Sequence numbers, single-connection mode, keys and limits, from raw bytes against a live server."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
import tacacs_lab as labs
from tacacs_lab import author, command, pap, record, running, settings, start, typed

from sojourn.core.settings import LimitSettings, ListenerSettings
from sojourn.gateways.tacacs.config import Device
from sojourn.gateways.tacacs.messages import (
    AcctStatus,
    AuthenStatus,
    AuthorStatus,
    Flag,
    PacketType,
    Version,
)

SINGLE = Flag.SINGLE_CONNECT


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


# Sequence numbers


def test_seq_no_never_wraps(lab, run):
    """RFC 8907 section 4.1: at 255 the session must end; there is no number left to say so with."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(name=""), 1, flags=SINGLE)
            (session,) = running_lab.server.registry.live()
            session.seq_no = 252
            assert (await wire.ask(typed(""), 1, 253)).status == AuthenStatus.GETUSER
            wire.send(wire.packet(typed("ana"), 1, 255))
            await labs.eventually(lambda: running_lab.manager.session_count == 0)
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.PASS
            assert "seq_no 255" in running_lab.said("session.failed")[0]["error"]

    run(main())


def test_a_second_packet_before_our_reply_is_an_error(lab, run):
    """RFC 8907 section 4.1: client and server take turns, so the right bound of a session's inbox is one."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=SINGLE)
            slow = wire.packet(pap(password="wrong"), 2)
            wire.send(slow, wire.packet(typed("more"), 2, 3, version=Version.ONE))
            reply = await wire.receive()
            assert (reply.session_id, reply.seq_no, reply.status) == (2, 4, AuthenStatus.ERROR)
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS
            assert (
                "found seq_no 3, wanted our last one plus 1" in running_lab.said("session.failed")[0]["error"]
            )

    run(main())


def test_a_repeated_packet_is_an_error(lab, run):
    """RFC 8907 section 4.1: each packet of a session counts one up."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(name=""), 1, flags=SINGLE)
            await wire.ask(typed("ana"), 1, 3)
            reply = await wire.ask(typed("ana"), 1, 3)
            assert reply.status == AuthenStatus.ERROR
            assert running_lab.manager.session_count == 0

    run(main())


@pytest.mark.parametrize("change", ["type", "version"])
def test_type_and_version_stay_those_of_the_first_packet(lab, run, change):
    """RFC 8907 section 4.1: both are of the session; the ERROR is in the session's own."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1, flags=SINGLE)
            other = {"kind": PacketType.ACCT} if change == "type" else {"version": Version.ONE}
            wire.send(wire.packet(typed(labs.PASSWORD), 1, 3, **other))
            reply = await wire.receive()
            assert (reply.type, reply.version, reply.seq_no) == (PacketType.AUTHEN, Version.DEFAULT, 4)
            assert reply.status == AuthenStatus.ERROR

    run(main())


def test_a_session_id_may_be_used_again_after_its_session(lab, run):
    """RFC 8907 section 4.1: some clients number all sessions alike; what counts is that none runs with the id."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            for _ in range(3):
                assert (await wire.ask(pap(), 77, flags=SINGLE)).status == AuthenStatus.PASS
            assert running_lab.manager.sessions_opened == 3

    run(main())


# Single-connection mode


def test_single_connect_is_granted_in_the_first_reply_only(lab, run):
    """RFC 8907 section 4.3: the flag is looked at in the first two packets of a connection and ignored later."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            first = await wire.ask(start(), 1, flags=SINGLE)
            assert first.flags == SINGLE
            second = await wire.ask(typed(labs.PASSWORD), 1, 3, flags=SINGLE)
            assert second.flags == 0
            third = await wire.ask(pap(), 2, flags=SINGLE)
            assert third.flags == 0
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS

    run(main())


def test_single_connect_cannot_be_asked_for_later(lab, run):
    """RFC 8907 section 4.3: what the first packet did not ask for stays ungranted."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            reply = await wire.ask(typed(labs.PASSWORD), 1, 3, flags=SINGLE)
            assert (reply.status, reply.flags) == (AuthenStatus.PASS, 0)
            await wire.until_closed()

    run(main())


def test_a_device_that_may_not_have_single_connect_does_not_get_it(lab, run):
    """The setting single_connect = false of a device: the flag is not granted, the connection closes."""

    async def main():
        async with lab() as running_lab, running_lab.wire(labs.NO_SINGLE_CONNECT) as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).flags == 0
            await wire.until_closed()

    run(main())


def test_a_second_session_before_the_first_reply_is_refused(lab, run):
    """RFC 8907 section 4.3: no second packet before the first reply; the refusal is not that reply."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            # The first takes as long as a hash, so that the second is surely there before its reply.
            wire.send(wire.packet(pap(), 1, flags=SINGLE), wire.packet(pap(), 2, flags=SINGLE))
            refusal = await wire.receive()
            assert (refusal.session_id, refusal.status, refusal.flags) == (2, AuthenStatus.ERROR, 0)
            first = await wire.receive()
            assert (first.session_id, first.status, first.flags) == (1, AuthenStatus.PASS, SINGLE)
            assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS

    run(main())


def test_a_second_session_without_single_connect_is_refused(lab, run):
    """RFC 8907 section 4.3: not negotiated, so there is one session; the other one is told to go elsewhere."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            assert (await wire.ask(command("show"), 2)).status == AuthorStatus.ERROR
            assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
            await wire.until_closed()

    run(main())


def test_more_sessions_than_the_limit_are_refused(lab, run):
    """Bounded sessions per connection; ERROR sends the device to its next server."""

    async def main():
        async with lab(max_sessions_per_connection_count=3) as running_lab, running_lab.wire() as wire:
            for session_id in (1, 2, 3):
                await wire.ask(start(), session_id, flags=SINGLE)
            assert (await wire.ask(start(), 4)).status == AuthenStatus.ERROR
            assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
            assert (await wire.ask(start(), 5)).status == AuthenStatus.GETPASS

    run(main())


def test_an_idle_connection_is_closed(lab, run):
    """RFC 8907 section 4.3: single-connection mode needs an idle timeout."""

    async def main():
        limits = LimitSettings(idle_timeout_s=0.2)
        async with lab(limits=limits) as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(pap(), 1, flags=SINGLE)).status == AuthenStatus.PASS
            await wire.until_closed()

    run(main())


@pytest.mark.parametrize("deadline", [{"prompt_timeout_s": 0.2}, {"session_timeout_s": 0.2}], ids=str)
def test_a_user_who_types_nothing_ends_the_session_in_silence(lab, run, deadline):
    """Every wait has a deadline; and it is the client's turn (RFC 8907 section 4.1), so nothing can be said."""

    async def main():
        async with lab(**deadline) as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1)
            await wire.until_closed()
            assert running_lab.said("session.failed")[0]["reason"] == "deadline passed"

    run(main())


def test_an_answer_after_the_deadline_is_an_error(lab, run):
    """RFC 8907 section 4.1: the session is gone, so its CONTINUE is no first packet."""

    async def main():
        async with lab(prompt_timeout_s=0.2) as running_lab, running_lab.wire() as wire:
            await wire.ask(start(), 1, flags=SINGLE)
            await labs.eventually(lambda: running_lab.manager.session_count == 0)
            assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.ERROR

    run(main())


# Bytes that no packet begins with


@pytest.mark.parametrize("length", [65_537, 0xFFFF_FFFF])
def test_an_oversize_packet_is_refused_from_its_header(lab, run, length):
    """RFC 8907 section 4.1: a configurable maximum; not a byte of the body is waited for."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            wire.send(struct.pack("!BBBBII", 0xC0, 1, 1, 0, 5, length))
            await wire.until_closed()
            error = running_lab.said("connection.failed")[0]["error"]
            assert error == (
                f"found a body of {length} bytes, wanted at most 65536 bytes (RFC 8907 section 4.1)"
            )

    run(main())


def test_a_packet_of_the_largest_size_is_read(lab, run):
    """RFC 8907 section 4.1: 65,536 bytes by default."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(bytes(65_536), 5)).status == AuthenStatus.ERROR
            assert running_lab.said("connection.failed") == []

    run(main())


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", bytes(12)]
)
def test_another_protocol_is_closed_with_one_line(lab, run, first):
    """RFC 8907 section 4.1: the major version is 0xC."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            wire.send(first)
            await wire.until_closed()
            (failed,) = running_lab.said("connection.failed")
            assert "major version" in failed["error"]

    run(main())


def has_ipv6():
    """Tell whether this machine has an IPv6 loopback."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback on this machine")
def test_devices_are_known_by_their_ipv6_address_too(run, tmp_path):
    """RFC 8907 section 10.5.1: whatever family a device comes from, it is a known one or refused."""
    devices = (Device(name="six", networks=("::1",), secrets=labs.secrets_of(labs.KEY)),)

    async def main():
        listeners = (ListenerSettings(address="[::1]:0"), ListenerSettings(address="127.0.0.1:0"))
        config = settings(tmp_path, devices=devices, rules=())
        async with running(config, listeners=listeners) as running_lab:
            wire = running_lab.wire()
            wire.reader, wire.writer = await asyncio.open_connection("::1", running_lab.ports[0])
            assert (await wire.ask(pap())).status == AuthenStatus.PASS
            await wire.until_closed()
            wire.writer.close()
            assert running_lab.said("tacacs.authentication")[0]["device"] == "six"
            async with labs.Wire(running_lab.ports[1]) as other:
                await other.until_closed()

    run(main())


def test_unknown_flag_bits_are_ignored(lab, run):
    """RFC 8907 section 4.1: other bits are ignored on read and 0 on write."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            reply = await wire.ask(pap(), 1, flags=0xFA | SINGLE)
            assert (reply.status, reply.flags) == (AuthenStatus.PASS, SINGLE)

    run(main())


# Keys


def test_both_keys_of_a_rotation_work_on_new_connections(lab, run):
    """RFC 8907 section 10.5.1: keys change without a moment of truth; the one that fits is remembered."""

    async def main():
        async with lab() as running_lab:
            for key in (labs.KEY, labs.SECOND_KEY, labs.KEY):
                async with running_lab.wire(labs.TWO_KEYS, key) as wire:
                    assert (await wire.ask(pap())).status == AuthenStatus.PASS
            view = running_lab.gateway.config.keys.snapshot(0.0)
            used = [each.last_used for each in view if each.device == "two-keys"]
            assert all(used)

    run(main())


def test_a_device_may_change_its_key_on_a_live_connection(lab, run):
    """Rotation: a session is spoken to in the key of its first packet, whatever others use meanwhile."""

    async def main():
        async with lab() as running_lab, running_lab.wire(labs.TWO_KEYS) as wire:
            old, new = labs.KEY, labs.SECOND_KEY
            await wire.ask(start(name=""), 1, flags=SINGLE, key=old)
            wire.send(wire.packet(start(name=""), 2, key=new))
            assert (await wire.receive(new)).status == AuthenStatus.GETUSER
            wire.send(wire.packet(typed("ana"), 1, 3, key=old))
            assert (await wire.receive(old)).status == AuthenStatus.GETPASS
            wire.send(wire.packet(typed("ana"), 2, 3, key=new))
            assert (await wire.receive(new)).status == AuthenStatus.GETPASS
            wire.send(wire.packet(pap(), 3, key=old))
            assert (await wire.receive(old)).status == AuthenStatus.PASS
            wire.send(wire.packet(typed(labs.PASSWORD), 2, 5, key=new))
            assert (await wire.receive(new)).status == AuthenStatus.PASS
            wire.send(wire.packet(typed(labs.PASSWORD), 1, 5, key=old))
            assert (await wire.receive(old)).status == AuthenStatus.PASS
            assert running_lab.said("session.failed") == []

    run(main())


def test_the_key_of_a_session_is_that_of_its_first_packet(lab, run):
    """RFC 8907 section 4.5: a CONTINUE that this key does not open is a mismatch, though another one would."""

    async def main():
        async with lab() as running_lab, running_lab.wire(labs.TWO_KEYS) as wire:
            await wire.ask(start(), 1, flags=SINGLE)
            wire.send(wire.packet(typed(labs.PASSWORD), 1, 3, key=labs.SECOND_KEY))
            assert (await wire.receive()).status == AuthenStatus.ERROR
            await wire.until_closed()

    run(main())


def test_a_key_that_none_of_several_is_names_the_device_and_no_key(lab, run):
    """RFC 8907 section 10.5.1: secrets are never logged."""

    async def main():
        async with lab() as running_lab, running_lab.wire(labs.TWO_KEYS) as wire:
            wire.send(wire.packet(pap(), 1, key=labs.WRONG_KEY))
            await wire.receive(labs.SECOND_KEY)
            await wire.until_closed()
            error = running_lab.said("session.failed")[0]["error"]
            assert "none of 2 keys of device two-keys opens" in error
            text = repr(running_lab.events)
            assert not any(key.decode() in text for key in (labs.KEY, labs.SECOND_KEY, labs.WRONG_KEY))

    run(main())


# Versions are echoed


@pytest.mark.parametrize(
    ("message", "version", "status"),
    [
        (pap(), Version.ONE, AuthenStatus.PASS),
        (start(), Version.DEFAULT, AuthenStatus.GETPASS),
        (start(), Version.ONE, AuthenStatus.ERROR),
        (author("service=shell", "cmd="), Version.DEFAULT, AuthorStatus.PASS_ADD),
        (record(), Version.DEFAULT, AcctStatus.SUCCESS),
        (record(), Version.ONE, AcctStatus.ERROR),
        (author("service=shell", "cmd="), 0xC7, AuthorStatus.ERROR),
        (pap(), 0xC2, AuthenStatus.ERROR),
    ],
)
def test_replies_echo_the_version(lab, run, message, version, status):
    """RFC 8907 section 4.1 and table 1: the reply has the request's version, right or wrong."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            reply = await wire.ask(message, version=version)
            assert (reply.version, reply.status) == (version, status)

    run(main())
