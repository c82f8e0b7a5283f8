"""TLS contexts, by handshakes in memory: who gets in, who does not, and what a reload changes."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
from types import SimpleNamespace

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tls_files import DAY, NOW, crl_of, device_context

from sojourn.core.settings import TlsSettings
from sojourn.core.tls import (
    ReloadableContext,
    client_context,
    peer_names,
    server_context,
    warnings_of,
)
from sojourn.errors import ConfigError


@pytest.fixture(scope="module")
def authority():
    """Two authorities, a server and two devices: keys are dear, so once per module."""
    ca, other_ca = trustme.CA(), trustme.CA()
    return SimpleNamespace(
        ca=ca,
        other_ca=other_ca,
        server=ca.issue_cert("sojourn.test"),
        second_server=ca.issue_cert("sojourn.test"),
        device=ca.issue_cert("Router1.test", "192.0.2.7", "2001:db8::7", common_name="router one"),
        stranger=other_ca.issue_cert("stranger.test"),
    )


@pytest.fixture
def files(authority, tmp_path):
    """The files of a server, and settings that name them."""
    paths = SimpleNamespace(
        chain=tmp_path / "chain.pem",
        key=tmp_path / "key.pem",
        ca=tmp_path / "ca.pem",
        crl=tmp_path / "crl.pem",
    )
    paths.chain.write_bytes(b"".join(pem.bytes() for pem in authority.server.cert_chain_pems))
    paths.key.write_bytes(authority.server.private_key_pem.bytes())
    paths.key.chmod(0o600)
    paths.ca.write_bytes(authority.ca.cert_pem.bytes())
    paths.crl.write_bytes(crl_of(authority.ca))

    def settings(**changes):
        return TlsSettings(
            **{
                "certificate_file": str(paths.chain),
                "private_key_file": str(paths.key),
                "client_ca_file": str(paths.ca),
                **changes,
            }
        )

    paths.settings = settings
    return paths


def handshake(server, client, session=None):
    """Do a handshake and one echo in memory; return both ends, or raise what the server raised."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname="sojourn.test", session=session)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    steps = [(theirs, theirs.do_handshake), (ours, ours.do_handshake)]
    steps += [(theirs, lambda: theirs.write(b"a")), (ours, lambda: ours.read(1))]
    steps += [(ours, lambda: ours.write(b"b")), (theirs, lambda: theirs.read(1))]
    for _ in range(10):
        waiting = []
        for end, step in steps:
            try:
                step()
            except ssl.SSLWantReadError:
                waiting.append((end, step))
            except ssl.SSLError:
                if end is ours:
                    raise
                waiting.append((end, step))
        if not waiting:
            return ours, theirs
        steps = waiting
    pytest.fail("the handshake does not end")


def problems_of(settings):
    """Return the problems that a context is refused for, by key."""
    with pytest.raises(ConfigError) as refused:
        server_context(settings, file="sojourn.toml", table="tacacs.listeners[0].tls")
    assert all(problem.file == "sojourn.toml" for problem in refused.value.problems)
    assert all(problem.table == "tacacs.listeners[0].tls" for problem in refused.value.problems)
    return {problem.key: problem.found for problem in refused.value.problems}


def test_a_device_with_a_certificate_gets_in(authority, files):
    """RFC 9887 section 3: mutual authentication, TLS 1.3, no ALPN, no compression."""
    ours, theirs = handshake(server_context(files.settings()), device_context(authority, authority.device))
    assert ours.version() == "TLSv1.3"
    assert theirs.selected_alpn_protocol() is None
    assert ours.compression() is None
    assert peer_names(ours) == ("router1.test", "192.0.2.7", "2001:db8::7")


def test_a_device_without_a_certificate_is_refused(authority, files):
    """With client_ca_file a certificate is required."""
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(server_context(files.settings()), device_context(authority))


def test_a_certificate_of_another_authority_is_refused(authority, files):
    """Only what client_ca_file signed is believed."""
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(files.settings()), device_context(authority, authority.stranger))


def test_tls_1_2_is_refused_unless_the_settings_allow_it(authority, files):
    """RFC 9887 section 3.2: TLS 1.3 or later."""
    old = device_context(authority, authority.device, maximum=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        handshake(server_context(files.settings()), old)
    ours, _ = handshake(server_context(files.settings(min_version="1.2")), old)
    assert ours.version() == "TLSv1.2"


def test_a_revoked_certificate_is_refused(authority, files):
    """RFC 9887 section 3: revocation is checked."""
    settings = files.settings(crl_file=str(files.crl))
    device = device_context(authority, authority.device)
    handshake(server_context(settings), device)
    files.crl.write_bytes(crl_of(authority.ca, authority.device))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        handshake(server_context(settings), device)


def test_a_client_whose_issuer_has_no_list_is_refused(authority, files):
    """Not knowing is not the same as not revoked; the operator is warned of it."""
    files.ca.write_bytes(authority.ca.cert_pem.bytes() + authority.other_ca.cert_pem.bytes())
    settings = files.settings(crl_file=str(files.crl))
    assert any("clients that it signed are refused" in sentence for sentence in warnings_of(settings, NOW))
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
        handshake(server_context(settings), device_context(authority, authority.stranger))


def test_several_lists_in_one_file_are_all_used(authority, files):
    """One file holds the lists of all issuers."""
    files.ca.write_bytes(authority.ca.cert_pem.bytes() + authority.other_ca.cert_pem.bytes())
    files.crl.write_bytes(crl_of(authority.ca) + crl_of(authority.other_ca, authority.stranger))
    context = server_context(files.settings(crl_file=str(files.crl)))
    handshake(context, device_context(authority, authority.device))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        handshake(context, device_context(authority, authority.stranger))


def test_tickets_resume_a_session_and_zero_means_none(authority, files):
    """RFC 9887 section 3: resumption is offered, and can be switched off."""
    device = device_context(authority, authority.device)
    context = server_context(files.settings())
    _, first = handshake(context, device)
    ours, second = handshake(context, device, first.session)
    assert second.session_reused
    assert peer_names(ours)[0] == "router1.test"
    none = server_context(files.settings(session_tickets_count=0))
    _, first = handshake(none, device)
    assert first.session is None or not first.session.has_ticket


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_our_tickets_offer_no_early_data(authority, files, tmp_path):
    """RFC 9887 section 5.1: 0-RTT is never on; OpenSSL's own client reads it from the ticket."""
    device = tmp_path / "device.pem"
    device.write_bytes(authority.device.private_key_and_cert_chain_pem.bytes())
    context = server_context(files.settings())

    def serve(listening):
        accepted, _ = listening.accept()
        with accepted, context.wrap_socket(accepted, server_side=True) as tls:
            tls.sendall(b"bye")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        command = ["openssl", "s_client", "-ign_eof", "-connect", address, "-CAfile", str(files.ca)]
        seen = subprocess.run(
            [*command, "-cert", str(device), "-key", str(device)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
        server.join()
    assert b"New Session Ticket arrived" in seen.stdout
    assert set(re.findall(rb"Max Early Data: (\d+)", seen.stdout)) == {b"0"}


def test_a_ticket_does_not_carry_a_revoked_device_past_a_reload(authority, files):
    """RFC 9887 section 3: OpenSSL checks no list on resumption, so a reload ends every ticket."""
    reloadable = ReloadableContext(files.settings(crl_file=str(files.crl)))
    device = device_context(authority, authority.device)
    _, theirs = handshake(reloadable.current(), device)
    files.crl.write_bytes(crl_of(authority.ca, authority.device))
    reloadable.reload()
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        handshake(reloadable.current(), device, theirs.session)


def test_openssl_itself_resumes_a_revoked_session_of_the_same_context(authority, files):
    """The reason why a context is never changed once made: the day this fails the rule can go."""
    context = server_context(files.settings())
    device = device_context(authority, authority.device)
    _, theirs = handshake(context, device)
    files.crl.write_bytes(crl_of(authority.ca, authority.device))
    context.load_verify_locations(files.crl)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    _, again = handshake(context, device, theirs.session)
    assert again.session_reused


def test_swapping_contexts_by_server_name_leaves_the_demand_for_certificates_behind(authority, files):
    """Why the listener takes a context per accept: CA and CRL follow the swap, the flags do not."""
    front = server_context(files.settings(client_ca_file=""))
    strict = server_context(files.settings())

    def swap(tls, _name, _context):
        tls.context = strict

    front.sni_callback = swap
    ours, _ = handshake(front, device_context(authority))
    assert ours.context is strict
    assert peer_names(ours) == ()


def test_a_reload_takes_new_certificates_authorities_and_settings(authority, files):
    """The next handshake sees them; an old authority is gone."""
    reloadable = ReloadableContext(files.settings())
    _, theirs = handshake(reloadable.current(), device_context(authority, authority.device))
    before = theirs.getpeercert(binary_form=True)
    files.chain.write_bytes(authority.second_server.cert_chain_pems[0].bytes())
    files.key.write_bytes(authority.second_server.private_key_pem.bytes())
    files.ca.write_bytes(authority.other_ca.cert_pem.bytes())
    reloadable.reload()
    _, theirs = handshake(reloadable.current(), device_context(authority, authority.stranger))
    assert theirs.getpeercert(binary_form=True) != before
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(reloadable.current(), device_context(authority, authority.device))
    reloadable.reload(files.settings(client_ca_file=""))
    handshake(reloadable.current(), device_context(authority))


def test_a_reload_that_fails_changes_nothing(authority, files):
    """The old configuration stays."""
    reloadable = ReloadableContext(files.settings())
    context = reloadable.current()
    files.key.write_bytes(authority.second_server.private_key_pem.bytes())
    with pytest.raises(ConfigError):
        reloadable.reload()
    assert reloadable.current() is context
    handshake(context, device_context(authority, authority.device))


def test_every_problem_is_named_at_once(files):
    """Found, wanted and the key; never an error of OpenSSL alone."""
    files.chain.write_bytes(b"no certificate")
    files.key.unlink()
    found = problems_of(files.settings(client_ca_file=str(files.ca) + ".gone", crl_file=str(files.ca)))
    assert found == {
        "certificate_file": f"{files.chain}, which holds something else",
        "private_key_file": f"{files.key}: no such file or directory",
        "client_ca_file": f"{files.ca}.gone: no such file or directory",
        "crl_file": f"{files.ca}, which holds something else",
    }


def test_a_key_of_another_certificate_is_named(authority, files):
    """The usual mistake after a renewal."""
    files.key.write_bytes(authority.second_server.private_key_pem.bytes())
    assert problems_of(files.settings()) == {
        "private_key_file": f"{files.key}, the key of another certificate"
    }


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
def test_a_key_open_to_every_user_is_refused(files, mode):
    """Whoever reads the key is the server."""
    files.key.chmod(mode)
    assert problems_of(files.settings()) == {"private_key_file": f"{files.key}, open to every user"}


def test_a_key_that_its_group_reads_is_taken(files):
    """Groups for keys are usual, such as Debian's ssl-cert."""
    files.key.chmod(0o640)
    server_context(files.settings())


def test_a_key_with_a_passphrase_asks_nobody(authority, files):
    """OpenSSL would ask at the terminal and the daemon would stand still."""
    key = serialization.load_pem_private_key(authority.server.private_key_pem.bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    assert problems_of(files.settings()) == {"private_key_file": f"{files.key}, which holds something else"}


def test_a_list_without_authorities_is_refused(files):
    """It would never be looked at."""
    found = problems_of(files.settings(client_ca_file="", crl_file=str(files.crl)))
    assert found == {"crl_file": "a list without client_ca_file"}


def test_what_ends_is_warned_of(authority, files):
    """Expired or nearly so: a sentence for the log, not a refusal to start."""
    leaf = authority.ca.issue_cert("sojourn.test", not_before=NOW - 9 * DAY, not_after=NOW + 9 * DAY)
    files.chain.write_bytes(leaf.cert_chain_pems[0].bytes())
    files.key.write_bytes(leaf.private_key_pem.bytes())
    files.crl.write_bytes(crl_of(authority.ca, next_update=NOW + 20 * DAY))
    settings = files.settings(crl_file=str(files.crl))
    reloadable = ReloadableContext(settings)

    def endings(days):
        return [
            sentence.split("'")[-1][1:8].strip() for sentence in reloadable.warnings(lambda: NOW + days * DAY)
        ]

    assert endings(-30)[0] == "is not"
    assert endings(-10) == ["is not"]
    assert endings(-8) == []
    assert endings(0) == ["ends on"]
    assert endings(10) == ["ended o"]
    assert endings(21) == ["ended o", "ended o"]


def test_our_client_talks_to_our_server(authority, files, tmp_path):
    """client_context and server_context fit together, certificates both ways."""
    chain, key = tmp_path / "device.pem", tmp_path / "device.key"
    chain.write_bytes(authority.device.cert_chain_pems[0].bytes())
    key.write_bytes(authority.device.private_key_pem.bytes())
    key.chmod(0o600)
    client = client_context(str(files.ca), str(chain), str(key))
    ours, theirs = handshake(server_context(files.settings()), client)
    assert ours.version() == "TLSv1.3"
    assert peer_names(ours) == ("router1.test", "192.0.2.7", "2001:db8::7")
    assert peer_names(theirs) == ("sojourn.test",)


def test_our_client_names_problems_too(files):
    """The same words as for listeners."""
    with pytest.raises(ConfigError) as refused:
        client_context(str(files.crl), str(files.chain), str(files.ca))
    assert [problem.key for problem in refused.value.problems] == ["ca_file", "private_key_file"]


def test_our_client_trusts_the_system_by_default():
    """Without ca_file, names are checked and certificates verified all the same."""
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ((("DNS", "A.Example."), ("DNS", "a.example")), ("a.example",)),
        ((("IP Address", "2001:DB8:0:0:0:0:0:1\n"),), ("2001:db8::1",)),
        ((("DNS", "10.0.0.1"), ("DNS", "::1")), ()),
        ((("IP Address", "<invalid>"), ("email", "a@b"), ("URI", "x:y")), ()),
        ((), ()),
    ],
)
def test_names_come_from_dns_names_and_addresses_only(entries, names):
    """RFC 9887 section 3; a dNSName cannot pass for an address."""
    certificate = {"subjectAltName": entries, "subject": ((("commonName", "x.example"),),)}
    assert peer_names(certificate) == names


def test_the_common_name_counts_only_if_asked_for_and_alone():
    """RFC 6125: only where there is no subjectAltName at all."""
    certificate = {"subject": ((("commonName", "Router1.Example"),),)}
    assert peer_names(certificate) == ()
    assert peer_names(certificate, uses_common_name=True) == ("router1.example",)
    certificate["subjectAltName"] = (("DNS", "other.example"),)
    assert peer_names(certificate, uses_common_name=True) == ("other.example",)


def test_nobody_has_no_names():
    """Neither without TLS nor without a certificate."""
    assert peer_names(None) == peer_names({}) == ()
