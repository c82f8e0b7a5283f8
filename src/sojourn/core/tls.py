"""TLS contexts of listeners and of our own clients, and who a peer is by its certificate.

Knows nothing of sockets and protocols; sees files and contexts only. What it promises, and why that holds:

**0-RTT is never on** (RFC 9887 section 5.1). Early data must be switched on with
``SSL_CTX_set_max_early_data`` and read with ``SSL_read_early_data``; its default is 0 and Python's ``ssl``
calls neither, so our tickets do not offer it and what a client sends early all the same is skipped unread by
OpenSSL.

**A reload needs a new context, taken per accept.** Swapping ``ssl_object.context`` in an SNI callback moves
the certificate, the CAs and the CRLs, but neither ``verify_mode`` nor ``verify_flags``: a listener that got
its first CA or CRL that way would ask for neither. CAs cannot be removed from a context at all. So
:class:`ReloadableContext` builds a fresh one and the listener asks :meth:`ReloadableContext.current` for
every connection.

**A resumed session was checked against the present CRL** (RFC 9887 section 3). OpenSSL does not look at
certificate or CRL again on resumption, not even at a CRL added meanwhile. But a ticket opens only with the
key of the context that issued it, contexts are never changed once made, and a reload makes a new one: after
it every ticket leads to a full handshake. What time alone changes (a certificate or CRL that ends) is noticed
7200 s later at the latest, the lifetime of OpenSSL's tickets; where that is too long, set
``session_tickets_count = 0``.
"""

from __future__ import annotations

import ipaddress
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sojourn.core.clock import WallClock, utc_now
from sojourn.core.settings import TlsSettings
from sojourn.errors import ConfigError, Problem

T = TypeVar("T")

SOON = timedelta(days=14)
"""How long before its end a certificate is warned about."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CRL_BEGIN = b"-----BEGIN X509 CRL-----"
_READABLE_BY_OTHERS = stat.S_IROTH | stat.S_IWOTH


def server_context(settings: TlsSettings, *, file: str = "", table: str = "tls") -> ssl.SSLContext:
    """Return a new context for connections to us.

    TLS 1.3 only, unless the settings say 1.2; no compression, no renegotiation, no ALPN, no early data. With
    ``client_ca_file`` every client must have a certificate; with ``crl_file`` the list of the client's issuer
    is needed as well: a client whose issuer has none is refused.

    Args:
        settings: what the operator declared.
        file: the configuration file, for error texts.
        table: the table in it.

    Raises:
        ConfigError: with every problem of the files.
    """
    problems = [Problem(file, 0, table, *problem) for problem in file_problems(settings)]
    if problems:
        raise ConfigError(problems)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = settings.session_tickets_count
    if not settings.session_tickets_count:
        context.options |= ssl.OP_NO_TICKET
    key = "certificate_file"
    try:
        context.load_cert_chain(settings.certificate_file, settings.private_key_file, _no_password)
        if settings.client_ca_file:
            key = "client_ca_file"
            context.load_verify_locations(settings.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        if settings.crl_file:
            key = "crl_file"
            context.load_verify_locations(settings.crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except OSError as error:
        raise ConfigError([Problem(file, 0, table, key, _words(error), "what OpenSSL takes")]) from error
    return context


def client_context(
    ca_file: str = "",
    certificate_file: str = "",
    private_key_file: str = "",
    *,
    min_version: str = "1.3",
    is_name_checked: bool = True,
) -> ssl.SSLContext:
    """Return a new context for connections that we make; the server's certificate is always verified.

    Args:
        ca_file: PEM certificates that sign servers; the system's when empty.
        certificate_file: PEM chain of ours, where the server wants one.
        private_key_file: its PEM key.
        min_version: ``"1.2"`` or ``"1.3"``.
        is_name_checked: the certificate must be for the name that was dialled.

    Raises:
        ConfigError: with every problem of the files.
    """
    found = list(_bundle_problems("ca_file", ca_file)) if ca_file else []
    if certificate_file:
        found += _chain_problems(certificate_file, private_key_file)
    if found:
        raise ConfigError([Problem("", 0, "tls", *problem) for problem in found])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[min_version]
    context.check_hostname = is_name_checked
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if certificate_file:
            context.load_cert_chain(certificate_file, private_key_file, _no_password)
    except OSError as error:
        problem = Problem("", 0, "tls", "certificate_file", _words(error), "what OpenSSL takes")
        raise ConfigError([problem]) from error
    return context


class ReloadableContext:
    """The context of one listener, replaced as a whole when its files change.

    Made with the listener and as long-lived. Always true: a context that was handed out is never changed
    again, and one that cannot be built never replaces one that works.

    Args:
        settings: what the operator declared.
        file: the configuration file, for error texts.
        table: the table in it.
    """

    def __init__(self, settings: TlsSettings, *, file: str = "", table: str = "tls") -> None:
        self._settings = settings
        self._file = file
        self._table = table
        self._context = server_context(settings, file=file, table=table)

    def current(self) -> ssl.SSLContext:
        """Return the context for the next connection; ask anew for every one."""
        return self._context

    def reload(self, settings: TlsSettings | None = None) -> None:
        """Read the files again; connections that are there stay, older tickets lead to full handshakes.

        Args:
            settings: new ones, when they changed too.

        Raises:
            ConfigError: the new files do not fit; the old context stays.
        """
        wanted = settings or self._settings
        self._context = server_context(wanted, file=self._file, table=self._table)
        self._settings = wanted

    def warnings(self, wall_clock: WallClock = utc_now) -> list[str]:
        """Return what will soon need the operator; see :func:`warnings_of`."""
        return warnings_of(self._settings, wall_clock())


def file_problems(settings: TlsSettings) -> Iterator[tuple[str, str, str]]:
    """Yield ``(key, found, wanted)`` for every file that is missing, unreadable, damaged or does not fit."""
    yield from _chain_problems(settings.certificate_file, settings.private_key_file)
    if settings.client_ca_file:
        yield from _bundle_problems("client_ca_file", settings.client_ca_file)
    if settings.crl_file:
        if not settings.client_ca_file:
            yield "crl_file", "a list without client_ca_file", "the certificates that sign clients too"
        _, found = _read(settings.crl_file, _crls_of)
        if found:
            yield "crl_file", found, "PEM revocation lists"


def warnings_of(settings: TlsSettings, now: datetime) -> list[str]:
    """Return one sentence for each thing in the files that works no more, or will not soon.

    A CRL past its time is worth an alarm: OpenSSL then refuses every client of that issuer.
    """
    sentences = []
    chain, _ = _read(settings.certificate_file, x509.load_pem_x509_certificates)
    issuers, _ = _read(settings.client_ca_file, x509.load_pem_x509_certificates)
    for path, certificates in ((settings.certificate_file, chain), (settings.client_ca_file, issuers)):
        for certificate in certificates or ():
            who = f"{path}: the certificate of {_name_of(certificate.subject)}"
            if now < certificate.not_valid_before_utc:
                sentences.append(f"{who} is not valid before {_day(certificate.not_valid_before_utc)}")
            sentences += _ending(who, certificate.not_valid_after_utc, now, SOON)
    lists, _ = _read(settings.crl_file, _crls_of)
    for crl in lists or ():
        if crl.next_update_utc is not None:
            who = f"{settings.crl_file}: the list of {_name_of(crl.issuer)}"
            sentences += _ending(who, crl.next_update_utc, now, timedelta(0))
    if lists is not None:
        listed = {crl.issuer for crl in lists}
        sentences += [
            f"{settings.crl_file}: no list of {_name_of(issuer.subject)}; clients that it signed are refused"
            for issuer in issuers or ()
            if issuer.subject not in listed
        ]
    return sentences


def peer_names(
    peer: ssl.SSLObject | ssl.SSLSocket | Mapping[str, Any] | None, *, uses_common_name: bool = False
) -> tuple[str, ...]:
    """Return the names in a peer's certificate: dNSName in lower case and iPAddress in its usual form.

    A dNSName that reads like an address is left out, so that it cannot pass for an iPAddress.

    Args:
        peer: the TLS object of the connection, or its ``getpeercert()``.
        uses_common_name: take the subject's common name where there is no subjectAltName at all.

    Returns: the names in the certificate's order, without repetition; empty without a verified certificate.

    Source: RFC 9887 section 3.
    """
    shown = peer.getpeercert() if isinstance(peer, ssl.SSLObject | ssl.SSLSocket) else peer
    certificate: Mapping[str, Any] = dict(shown or {})
    entries: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    names = [_name_in(kind, value) for kind, value in entries]
    if uses_common_name and not entries:
        names = [_name_in("DNS", value) for value in _common_names(certificate)]
    return tuple(dict.fromkeys(name for name in names if name))


def _chain_problems(certificate_file: str, private_key_file: str) -> Iterator[tuple[str, str, str]]:
    chain, found = _read(certificate_file, x509.load_pem_x509_certificates)
    if found:
        yield "certificate_file", found, "PEM certificates"
    public_key, found = _read(private_key_file, _public_key_of)
    if found:
        yield "private_key_file", found, "a PEM key without a passphrase"
        return
    if Path(private_key_file).stat().st_mode & _READABLE_BY_OTHERS:
        yield "private_key_file", f"{private_key_file}, open to every user", "permissions 600 or 640"
    if chain and _spki_of(chain[0].public_key()) != public_key:
        wanted = f"the key of the first certificate in {certificate_file}"
        yield "private_key_file", f"{private_key_file}, the key of another certificate", wanted


def _bundle_problems(key: str, path: str) -> Iterator[tuple[str, str, str]]:
    _, found = _read(path, x509.load_pem_x509_certificates)
    if found:
        yield key, found, "PEM certificates"


def _read(path: str, load: Callable[[bytes], T]) -> tuple[T | None, str]:
    """Return what is in the file, or in words why it cannot be had; neither when there is no path."""
    if not path:
        return None, ""
    try:
        return load(Path(path).read_bytes()), ""
    except OSError as error:
        return None, f"{path}: {(error.strerror or 'not readable').lower()}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The words of these errors may quote the file, and one kind of file is a private key.
        return None, f"{path}, which holds something else"


def _public_key_of(pem: bytes) -> bytes:
    return _spki_of(load_pem_private_key(pem, None).public_key())


def _spki_of(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _crls_of(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Read every list of a file; the library reads only the first of one text."""
    _, *parts = pem.split(_CRL_BEGIN)
    if not parts:
        raise ValueError("no revocation list")
    return [x509.load_pem_x509_crl(_CRL_BEGIN + part) for part in parts]


def _ending(who: str, end: datetime, now: datetime, soon: timedelta) -> Iterator[str]:
    if end <= now:
        yield f"{who} ended on {_day(end)}"
    elif end - now < soon:
        yield f"{who} ends on {_day(end)}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _name_of(name: x509.Name) -> str:
    return ascii(name.rfc4514_string())


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    return [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]


def _name_in(kind: str, value: str) -> str:
    """Return the name of one subjectAltName entry, empty where it names nobody."""
    try:
        address = str(ipaddress.ip_address(value.strip()))
    except ValueError:
        return value.lower().rstrip(".") if kind == "DNS" else ""
    return address if kind == "IP Address" else ""


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "an error of OpenSSL").lower().replace("_", " ")
    return error.strerror or type(error).__name__


def _no_password() -> str:
    """Stand in for OpenSSL's own question, which would stop the daemon at the terminal."""
    return ""
