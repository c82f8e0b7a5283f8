"""Access: what the files and tables of one configuration say about who may come in, and how.

Users, rules, certificate maps and the TLS towards clients, read together and never changed, so that a reload with a
mistake changes nothing and a login under way ends by the configuration that it began with. Knows no connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sojourn.core.tls import server_context
from sojourn.errors import ConfigError, Problem
from sojourn.gateways.postgres.dial import end_point
from sojourn.gateways.postgres.hba import HbaRules
from sojourn.gateways.postgres.ident import IdentMaps
from sojourn.gateways.postgres.secret_source import SecretSource
from sojourn.gateways.postgres.userlist import parse_userlist

if TYPE_CHECKING:
    from sojourn.core.secret import Secret
    from sojourn.gateways.postgres.auth import AllowsCertificate
    from sojourn.gateways.postgres.config import ClientTls, PostgresSettings

ALPN: Final = "postgresql"
"""What a client offers that begins with TLS at once. Source: IANA, TLS ALPN Protocol IDs."""

AuthQuery = Callable[[str, str, str], Awaitable[list[list[bytes | None]]]]
"""Runs a statement in a database with a user's name as its parameter: database, statement, user."""

SOURCES_COUNT: Final = 64
"""Databases of which the users' secrets are kept: whoever is not logged in yet may name any."""

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Tls:
    """What clients are shown, and the channel binding data that goes with it (RFC 5929)."""

    mode: str
    context: ssl.SSLContext
    channel_binding: bytes


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in by one configuration; made by ``read``."""

    settings: PostgresSettings
    known: Mapping[str, Secret]
    rules: HbaRules | None
    maps: IdentMaps
    tls: Tls | None
    _sources: dict[str, SecretSource] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: PostgresSettings) -> Access:
        """Read the files that the settings name.

        Raises: ConfigError with what is wrong in one of them.
        """
        auth = settings.auth
        listed: Mapping[str, Secret] = {}
        if auth.userlist_file:
            listed = parse_userlist(_text("userlist_file", auth.userlist_file), auth.userlist_file)
        own = {user.name: user.password for user in settings.users if user.password is not None}
        rules = HbaRules.parse(_text("hba_file", auth.hba_file), auth.hba_file) if auth.hba_file else None
        maps = IdentMaps({})
        if auth.ident_file:
            maps = IdentMaps.parse(_text("ident_file", auth.ident_file), auth.ident_file)
        tls = None
        if settings.tls is not None and settings.tls.mode != "disable":
            tls = _tls(settings.tls)
        return cls(settings, {**listed, **own}, rules, maps, tls)

    def method_for(
        self, *, is_tls: bool, is_unix: bool, address: str, database: str, user: str
    ) -> tuple[str, str]:
        """Return the authentication method for a client and its rule's certificate map; no method: no rule."""
        method = self.settings.auth.method
        if method != "hba":
            return method, ""
        rule = None if self.rules is None else self.rules.find(is_tls, is_unix, address, database, user)
        return ("", "") if rule is None else (rule.method, rule.map_name)

    def certificate_rule(self, map_name: str) -> AllowsCertificate | None:
        """Return which certificate names may be which user; None: the name must be the user's."""
        return partial(self.maps.allows, map_name) if map_name else None

    def secrets_for(self, database: str, run: AuthQuery) -> SecretSource:
        """Return where the secrets of users of ``database`` are found; ``run`` runs the query where there is one."""
        auth = self.settings.auth
        is_asked = bool(auth.query)
        if database in self.settings.console.databases and not auth.query_database:
            is_asked = False  # there is no such database in which it could run
        where = (auth.query_database or database) if is_asked else ""
        source = self._sources.pop(where, None)
        if source is None:
            source = SecretSource(
                self.known,
                query=auth.query if is_asked else "",
                run=partial(run, where) if is_asked else None,
                cache_s=auth.query_cache_s,
            )
        self._sources[where] = source  # the one that was used last comes last
        if len(self._sources) > SOURCES_COUNT:
            del self._sources[next(iter(self._sources))]
        return source

    def forget(self, user: str) -> None:
        """Ask anew for a user's secret at the next login: a server refused what was known."""
        for source in self._sources.values():
            source.forget(user)


def common_name(peer: ssl.SSLObject) -> str:
    """Return the subject's first common name in a verified client certificate; empty without.

    PostgreSQL compares this name, and no other, with the user's.
    """
    certificate = peer.getpeercert() or {}
    subject: tuple[tuple[tuple[str, str], ...], ...] = certificate.get("subject", ())  # type: ignore[assignment]
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    # A NUL inside would let "admin" and what follows it be two different names to two readers.
    return names[0] if names and "\0" not in names[0] else ""


def _tls(settings: ClientTls) -> Tls:
    context = server_context(settings, file="configuration", table="postgres.tls")
    if settings.mode != "verify-full" and context.verify_mode == ssl.CERT_REQUIRED:
        # Whether one is needed is said by the rule that fits the client, which is not known yet.
        context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([ALPN])
    pem = Path(settings.certificate_file).read_text(encoding="ascii", errors="replace")
    start = pem.index(_BEGIN)
    own = pem[start : pem.index(_END, start) + len(_END)]
    return Tls(settings.mode, context, end_point(ssl.PEM_cert_to_DER_cert(own)))


def _text(key: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        found = f"{file}: {(error.strerror or 'not readable').lower()}"
    except UnicodeDecodeError:
        found = f"{file}, which is not UTF-8"
    raise ConfigError([Problem("configuration", 0, "postgres.auth", key, found, "a file that can be read")])
