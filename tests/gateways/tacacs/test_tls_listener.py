"""TACACS+ over TLS 1.3 (RFC 9887): who gets in, by which name, and what the flag means there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import tacacs_lab as labs
import trustme
from tacacs_lab import command, pap, record, running, settings, start, typed
from tls_files import crl_of, device_context

from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.gateways.tacacs.config import Device
from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, AuthorStatus, Flag, Version
from sojourn.gateways.tacacs.wire import encode_body, encode_packet

CLEAR = Flag.UNENCRYPTED
SINGLE = Flag.SINGLE_CONNECT
VECTORS = {
    vector["name"]: vector
    for vector in json.loads(Path(__file__).with_name("tacacs_vectors.json").read_text())["vectors"]
}


@pytest.fixture(scope="module")
def authority():
    """An authority, its server and devices, and a device of another authority; keys are dear."""
    ca = trustme.CA()
    return SimpleNamespace(
        ca=ca,
        server=ca.issue_cert("sojourn.test"),
        core=ca.issue_cert("core-1.example.net"),
        edge=ca.issue_cert("r7.branch.example.net"),
        by_address=ca.issue_cert("192.0.2.7"),
        deep=ca.issue_cert("x.r7.branch.example.net"),
        stranger=ca.issue_cert("printer.example.net"),
        revoked=ca.issue_cert("core-1.example.net"),
        foreign=trustme.CA().issue_cert("core-1.example.net"),
    )


@pytest.fixture
def lab(authority, tmp_path):
    """Return what runs a laboratory with one TLS listener."""
    chain, key, ca, crl = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem", "crl.pem"))
    chain.write_bytes(b"".join(pem.bytes() for pem in authority.server.cert_chain_pems))
    key.write_bytes(authority.server.private_key_pem.bytes())
    key.chmod(0o600)
    ca.write_bytes(authority.ca.cert_pem.bytes())
    crl.write_bytes(crl_of(authority.ca, authority.revoked))
    tls = TlsSettings(
        certificate_file=str(chain),
        private_key_file=str(key),
        client_ca_file=str(ca),
        crl_file=str(crl),
    )
    devices = (
        Device(name="core", certificate_names=("core-1.example.net",)),
        Device(name="branches", certificate_names=("*.branch.example.net",)),
        Device(name="seven", certificate_names=("192.0.2.7",)),
        # The address of every test: over TLS it identifies nobody.
        Device(name="loopback", networks=("127.0.0.0/8",), secrets=labs.secrets_of(labs.KEY)),
    )

    def run_lab(handshake_timeout_s=5.0):
        changed = msgspec.structs.replace(tls, handshake_timeout_s=handshake_timeout_s)
        listener = ListenerSettings(address="127.0.0.1:0", tls=changed)
        return running(settings(tmp_path, devices=devices), listeners=(listener,))

    return run_lab


async def is_refused(running_lab, context):
    """Say whether the server ends a connection before it carries a session.

    In TLS 1.3 a client has done its part before the server has looked at the certificate.
    """
    try:
        async with running_lab.wire(tls=context) as wire:
            wire.send(wire.packet(pap(), 1))
            async with asyncio.timeout(labs.WITHIN_S):
                return not await wire.reader.read(1)
    except (ssl.SSLError, ConnectionError):
        return True


# Who gets in: RFC 9887 section 3


@pytest.mark.parametrize(
    ("leaf", "device"), [("core", "core"), ("edge", "branches"), ("by_address", "seven")]
)
def test_a_device_is_known_by_the_name_in_its_certificate(lab, run, authority, leaf, device):
    """RFC 9887 section 3.4.1: dNSName, with a wildcard of one label on our side, and iPAddress."""

    async def main():
        context = device_context(authority, getattr(authority, leaf))
        async with lab() as running_lab, running_lab.wire(tls=context) as wire:
            reply = await wire.ask(pap())
            assert (reply.status, reply.flags) == (AuthenStatus.PASS, CLEAR)
            await wire.until_closed()
            assert running_lab.said("tacacs.authentication")[0]["device"] == device

    run(main())


@pytest.mark.parametrize("leaf", ["stranger", "deep"])
def test_a_certificate_of_no_device_is_refused(lab, run, authority, leaf):
    """RFC 8907 section 10.5.1: known clients only; the address counts for nothing where there is a certificate."""

    async def main():
        async with lab() as running_lab:
            assert await is_refused(running_lab, device_context(authority, getattr(authority, leaf)))
            refused = await labs.eventually(lambda: running_lab.said("connection.refused"))
            assert "found a certificate for" in refused[0]["error"]
            assert running_lab.manager.packets_in == 0

    run(main())


@pytest.mark.parametrize(
    "case",
    [
        ("core", ssl.TLSVersion.TLSv1_2, "unsupported protocol"),
        (None, None, "peer did not return a certificate"),
        ("revoked", None, "certificate revoked"),
        ("foreign", None, "certificate refused"),
    ],
)
def test_a_handshake_against_the_rules_is_refused(lab, run, authority, case):
    """RFC 9887 sections 3.1 to 3.4: TLS 1.3 at least, mutual certificates, path and revocation checked."""
    leaf, maximum, why = case

    async def main():
        async with lab() as running_lab:
            context = device_context(authority, leaf and getattr(authority, leaf), maximum=maximum)
            assert await is_refused(running_lab, context)
            (failed,) = await labs.eventually(lambda: running_lab.said("listener.handshake_failed"))
            assert why in failed["error"]
            assert failed["peer"] == "127.0.0.1"

    run(main())


def test_plain_tacacs_on_the_tls_port_is_closed(lab, run):
    """RFC 9887 section 3: a TLS server MUST NOT accept anything else; there is no STARTTLS.

    To OpenSSL the first bytes look like a long hello of SSL 2: the listener looks at the first one before it asks it.
    """

    async def main():
        async with lab(handshake_timeout_s=600.0) as running_lab, running_lab.wire() as wire:
            wire.send(wire.packet(pap(), 1))
            async with asyncio.timeout(labs.WITHIN_S):
                with contextlib.suppress(ConnectionResetError):
                    assert await wire.reader.read() == b""
            await labs.eventually(lambda: running_lab.said("listener.handshake_failed"))
            (failed,) = running_lab.said("listener.handshake_failed")
            assert "first byte 0xc1" in failed["error"]
            assert running_lab.manager.packets_in == 0

    run(main())


# The flag: RFC 9887 section 4


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (pap(), AuthenStatus.ERROR),
        (command("show"), AuthorStatus.ERROR),
        (record(), AcctStatus.ERROR),
    ],
    ids=["authen", "author", "acct"],
)
def test_a_cleared_flag_is_an_error_with_the_flag_set(lab, run, authority, message, error):
    """RFC 9887 section 4: the type's ERROR, with the flag set, and the end of the session."""

    async def main():
        async with (
            lab() as running_lab,
            running_lab.wire(tls=device_context(authority, authority.core)) as wire,
        ):
            kind = labs._TYPES[type(message)]
            body = encode_body(message)
            wire.send(encode_packet(labs.version_of(message), kind, 1, 0, 5, body, labs.KEY))
            reply = await wire.receive()
            assert (reply.flags, reply.seq_no, reply.status) == (CLEAR, 2, error)
            await wire.until_closed()
            assert "RFC 9887 section 4" in running_lab.said("session.failed")[0]["error"]

    run(main())


def test_after_a_cleared_flag_running_sessions_finish_and_no_other_begins(lab, run, authority):
    """RFC 9887 section 4 is silent on single connections; it is treated like a key that does not fit."""

    async def main():
        async with (
            lab() as running_lab,
            running_lab.wire(tls=device_context(authority, authority.core)) as wire,
        ):
            await wire.ask(start(), 1, flags=SINGLE)
            wire.send(encode_packet(Version.ONE, 1, 1, 0, 2, encode_body(pap()), labs.KEY))
            assert (await wire.receive()).status == AuthenStatus.ERROR
            refused = await wire.ask(pap(), 3)
            assert (refused.status, refused.flags) == (AuthenStatus.ERROR, CLEAR)
            assert (await wire.ask(typed(labs.PASSWORD), 1, 3)).status == AuthenStatus.PASS
            await wire.until_closed()

    run(main())


def test_an_unknown_type_over_tls_keeps_the_flag(lab, run, authority):
    """RFC 9887 section 4: every packet has the flag set, a bare header as well."""

    async def main():
        async with (
            lab() as running_lab,
            running_lab.wire(tls=device_context(authority, authority.core)) as wire,
        ):
            wire.send(wire.packet(b"?", 5, kind=9))
            assert await wire.receive() == (Version.DEFAULT, 9, 2, CLEAR, 5, b"", None)

    run(main())


def test_the_tls_vector_passes(lab, run, authority):
    """The vector tls-authen-start-pap: the body is in the clear, single connection is granted."""

    async def main():
        async with (
            lab() as running_lab,
            running_lab.wire(tls=device_context(authority, authority.core)) as wire,
        ):
            wire.send(bytes.fromhex(VECTORS["tls-authen-start-pap"]["packet"]))
            reply = await wire.receive()
            # Its user is not ours; what counts is that it was read.
            assert (reply.status, reply.flags) == (AuthenStatus.FAIL, CLEAR | SINGLE)
            assert running_lab.said("tacacs.authentication")[0]["user"] == "demo"

    run(main())


# Connections


def test_sessions_share_a_tls_connection(lab, run, authority):
    """RFC 9887 section 4 and RFC 8907 section 4.3: single connection, in any order, never obfuscated."""

    async def main():
        async with (
            lab() as running_lab,
            running_lab.wire(tls=device_context(authority, authority.core)) as wire,
        ):
            asked = await wire.ask(start(name=""), 1, flags=SINGLE)
            assert asked.flags == SINGLE | CLEAR
            assert (await wire.ask(pap(), 2)).flags == CLEAR
            assert (await wire.ask(typed("ana"), 1, 3)).status == AuthenStatus.GETPASS
            assert (await wire.ask(command("show"), 3)).status == AuthorStatus.PASS_ADD
            assert (await wire.ask(typed(labs.PASSWORD), 1, 5)).status == AuthenStatus.PASS
            assert running_lab.manager.connections_opened == 1

    run(main())


def test_no_ticket_offers_early_data(lab, run, authority, tmp_path):
    """RFC 9887 section 5.1: 0-RTT MUST NOT be used; OpenSSL's own client reads it from the ticket."""
    device = tmp_path / "device.pem"
    device.write_bytes(authority.core.private_key_and_cert_chain_pem.bytes())

    async def main():
        async with lab() as running_lab:
            address = f"127.0.0.1:{running_lab.port}"
            openssl = await asyncio.create_subprocess_exec(
                *(
                    "openssl",
                    "s_client",
                    "-ign_eof",
                    "-connect",
                    address,
                    "-CAfile",
                    str(tmp_path / "ca.pem"),
                ),
                *("-cert", str(device), "-key", str(device)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            seen, _ = await openssl.communicate(
                encode_packet(Version.ONE, 1, 1, CLEAR, 5, encode_body(pap()))
            )
            assert b"New Session Ticket arrived" in seen
            assert set(re.findall(rb"Max Early Data: (\d+)", seen)) == {b"0"}

    run(main())


def test_a_reload_refuses_what_was_revoked_meanwhile(lab, run, authority, tmp_path):
    """RFC 9887 section 3: revocation is checked for every handshake, with the list of the moment."""

    async def main():
        async with lab() as running_lab:
            context = device_context(authority, authority.core)
            async with running_lab.wire(tls=context) as wire:
                assert (await wire.ask(pap())).status == AuthenStatus.PASS
            (tmp_path / "crl.pem").write_bytes(crl_of(authority.ca, authority.revoked, authority.core))
            running_lab.server.reload()
            assert await is_refused(running_lab, context)
            assert not await is_refused(running_lab, device_context(authority, authority.edge))

    run(main())


def test_a_list_that_cannot_be_read_changes_nothing_at_a_reload(lab, run, authority, tmp_path):
    """A reload with bad files keeps what works, and says so."""

    async def main():
        async with lab() as running_lab:
            (tmp_path / "crl.pem").write_text("not a list")
            running_lab.server.reload()
            assert await is_refused(running_lab, device_context(authority, authority.revoked))
            assert not await is_refused(running_lab, device_context(authority, authority.core))

    run(main())
