"""Throw-away certificates work in real handshakes."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from sojourn.core import tls
from sojourn.core.clock import utc_now
from sojourn.core.settings import TlsSettings
from sojourn.embedded.certificates import Identity, ThrowAwayAuthority


def settings(authority: ThrowAwayAuthority, server: Identity, crl: Path | None = None) -> TlsSettings:
    """Return a listener's settings with these files."""
    return TlsSettings(
        certificate_file=str(server.certificate_file),
        private_key_file=str(server.private_key_file),
        client_ca_file=str(authority.ca_file),
        crl_file=str(crl or ""),
    )


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Do a handshake in memory and return the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(8):
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    return theirs


def test_both_ends_believe_each_other(tmp_path: Path) -> None:
    """TLS 1.3, the server by name and by address, the client by its subjectAltName; keys are their owner's."""
    authority = ThrowAwayAuthority(tmp_path)
    server = authority.issue("server", ("sojourn.example.net", "127.0.0.1"))
    switch = authority.issue("switch", ("switch.example.net", "2001:db8::1"))
    wanted = settings(authority, server)
    assert list(tls.file_problems(wanted)) == []
    context = tls.server_context(wanted)
    client = tls.client_context(
        str(authority.ca_file), str(switch.certificate_file), str(switch.private_key_file)
    )
    for name in ("sojourn.example.net", "127.0.0.1"):
        theirs = shake(context, client, name)
        assert theirs.version() == "TLSv1.3"
        assert tls.peer_names(theirs) == ("switch.example.net", "2001:db8::1")
    assert stat.S_IMODE(server.private_key_file.stat().st_mode) == 0o600
    assert tls.warnings_of(wanted, utc_now()) == []


def test_a_revoked_certificate_is_refused(tmp_path: Path) -> None:
    """The list names exactly those that were given."""
    authority = ThrowAwayAuthority(tmp_path)
    server = authority.issue("server", ("localhost",))
    good, bad = authority.issue("good", ("good",)), authority.issue("bad", ("bad",))
    context = tls.server_context(settings(authority, server, authority.revoke(bad)))
    for identity, is_refused in ((good, False), (bad, True)):
        client = tls.client_context(
            str(authority.ca_file), str(identity.certificate_file), str(identity.private_key_file)
        )
        if is_refused:
            with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
                shake(context, client, "localhost")
        else:
            shake(context, client, "localhost")
