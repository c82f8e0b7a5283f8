"""What TLS tests share: revocation lists, and the TLS side of a device."""

from __future__ import annotations

import datetime as dt
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def crl_of(ca, *revoked, next_update=NOW + DAY):
    """Return a revocation list of the authority in PEM."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(NOW - 30 * DAY)
        .next_update(next_update)
    )
    for leaf in revoked:
        serial = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def device_context(authority, leaf=None, *, maximum=None):
    """Return a client that trusts the authority and shows the certificate, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.ca.configure_trust(context)
    if leaf is not None:
        leaf.configure_cert(context)
    if maximum is not None:
        context.maximum_version = maximum
    return context
