"""One address of an LDAP directory: blocking calls, pooled connections, names made safe for filters and DNs.

Each address has two small pools of connections: one bound as the search account, one used for nothing but
user binds (a connection may be bound again and again, so a login costs no TLS handshake).

Knows nothing of threads, circuits or which address comes next. A directory that does not answer is
:class:`~sojourn.errors.BackendUnavailable`, never a refusal. Referrals are not followed: passwords go to the
configured addresses only.
"""

from __future__ import annotations

import importlib
import math
import re
import secrets
import select
import ssl
import unicodedata
import warnings
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sojourn.core.clock import Clock
from sojourn.core.secret import Secret
from sojourn.errors import BackendUnavailable
from sojourn.gateways.tacacs.config import Directory

ACCEPTED: Final = 1
REFUSED: Final = 2
UNKNOWN: Final = 3
"""Outcomes of :meth:`Endpoint.check`; UNKNOWN is only said where the directory lets us see it."""

IDLE_S: Final = 120.0
"""A pooled connection unused for longer is not trusted: firewalls forget connections without telling."""

_MIN_WAIT_S: Final = 0.01
_START_TLS: Final = "1.3.6.1.4.1.1466.20037"
"""Source: RFC 4511 section 4.14.1."""

_SUCCESS, _SIZE_LIMIT_EXCEEDED = 0, 4
_REFUSALS: Final = frozenset({19, 32, 34, 48, 49, 50, 53})
"""Result codes of a bind that mean "not with this name and password". Source: RFC 4511 appendix A.2."""

_AD_REASONS: Final = {
    "525": "unknown user",
    "52e": "wrong password",
    "530": "not at this time",
    "531": "not from this workstation",
    "532": "password expired",
    "533": "account disabled",
    "701": "account expired",
    "773": "password must be changed",
    "775": "locked by the directory",
}
"""What Active Directory adds to invalidCredentials as ``data XXX``. Source: Windows system error codes."""

_AD_DATA: Final = re.compile(r"\bdata ([0-9a-f]{3})\b")
_FILTER_ATTRIBUTE: Final = re.compile(r"\(([A-Za-z][A-Za-z0-9.;-]*)=\{user\}\)")
_FILTER_ESCAPES: Final = {ord(char): f"\\{ord(char):02x}" for char in "\\*()\0"}
_DN_ESCAPES: Final = {ord(char): "\\" + char for char in '"#+,;<>=\\'} | {0: "\\00"}
_NOT_IN_LOGON_NAMES: Final = frozenset('"/\\[]:;|=,+*?<>@')
"""Source: the characters that sAMAccountName excludes, and ``@``, which would choose another domain."""


class DirectoryAnswer(NamedTuple):
    """What a directory says of a user.

    Shape: ``reason`` is for the log; ``groups`` are user groups of the policy; ``is_certain`` is false
    where a refusal may also mean that the directory does not have the user.
    """

    outcome: int
    reason: str
    groups: tuple[str, ...] = ()
    is_certain: bool = True


def canonical_name(user: str) -> str | None:
    """Return what all spellings of a directory user share, or None for what cannot be a name.

    Directories compare names without case and with spaces squeezed; policy and lock-outs must not be
    escaped by writing ``Ana`` for ``ana``. Invisible characters and odd spaces make no name.
    """
    if not user or not user.isprintable() or user != " ".join(user.split(" ")).strip() or "  " in user:
        return None
    return unicodedata.normalize("NFKC", user).casefold()


def escape_filter(value: str) -> str:
    """Escape a value for a search filter.

    Source: RFC 4515 section 3.
    """
    return value.translate(_FILTER_ESCAPES)


def escape_dn(value: str) -> str:
    """Escape a value for a distinguished name.

    Source: RFC 4514 section 2.4.
    """
    escaped = value.translate(_DN_ESCAPES)
    if escaped.startswith(" "):
        escaped = "\\" + escaped
    if value.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped


def map_groups(values: Iterable[str], group_map: dict[str, str]) -> tuple[str, ...]:
    """Return the user groups of directory groups; a key of the map is a DN, or a CN wherever it lies."""
    wanted = {_dn_key(key) if "=" in key else key.casefold(): group for key, group in group_map.items()}
    found: dict[str, None] = {}
    for value in values:
        key = _dn_key(value)
        name = re.sub(r"\\(.)", r"\1", re.split(r"(?<!\\),", key, maxsplit=1)[0].removeprefix("cn="))
        for candidate in (key, name):
            if candidate in wanted:
                found[wanted[candidate]] = None
    return tuple(found)


def _dn_key(dn: str) -> str:
    """Return a DN without what does not count: case, and spaces around separators."""
    return re.sub(r"\s*(?<!\\)([,=+])\s*", r"\1", dn.strip()).casefold()


def load_ldap3() -> Any:  # a module without types
    """Import ldap3 on first use: it is an optional extra, and warns of its own use of old pyasn1 names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("ldap3")


class _Tls:
    """What ldap3 is to use instead of its own TLS: OpenSSL checks chain and name, the deadline holds."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._context = context
        self._host = host
        self.problem = ""

    def wrap_socket(self, connection: Any, do_handshake: bool = True) -> None:  # noqa: ARG002
        """Replace the connection's socket by its TLS side, with the handshake done."""
        try:
            connection.socket = self._context.wrap_socket(connection.socket, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            self.problem = f"certificate refused: {error.verify_message}"
            raise
        except ssl.SSLError as error:
            self.problem = f"TLS failed: {error.reason or 'no answer'}"
            raise


class Endpoint:
    """One address of a directory and its idle connections; every method blocks and runs in threads."""

    def __init__(self, directory: Directory, url: str, context: ssl.SSLContext | None, clock: Clock) -> None:
        parts = urlsplit(url)
        self.url = url
        self._directory = directory
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "ldaps"
        self._port = parts.port or (636 if self._tls else 389)
        self._context = context
        self._clock = clock
        self._ldap3 = load_ldap3()
        # Appending to and popping from a deque is atomic, so that threads need no lock.
        self._searching: deque[tuple[Any, float]] = deque(maxlen=directory.pool_size_count)
        self._binding: deque[tuple[Any, float]] = deque(maxlen=directory.pool_size_count)
        self._is_closed = False

    def check(self, user: str, password: bytes | None, within_s: float) -> DirectoryAnswer:
        """Find the user and bind as the user; ``None`` = take as long, and refuse."""
        began = self._clock()
        deadline = began + within_s
        try:
            if "{user}" in self._directory.bind_dn:
                return self._check_directly(user, password, deadline)
            return self._check_by_search(user, password, deadline)
        except BackendUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - ldap3 raises anything at all on answers it does not expect
            # The exception's text may hold what was sent: only its kind is told.
            cause = type(error).__name__
            raise BackendUnavailable(self._directory.name, self._clock() - began, cause) from None

    def close(self) -> None:
        """Close the idle connections, and from now on each one after its call."""
        self._is_closed = True
        for idle in (self._searching, self._binding):
            while idle:
                _discard(idle.pop()[0])

    def _check_directly(self, user: str, password: bytes | None, deadline: float) -> DirectoryAnswer:
        template = self._directory.bind_dn
        name = user if password is not None else secrets.token_hex(8)
        if "=" in template:
            name = escape_dn(name)
        elif not _NOT_IN_LOGON_NAMES.isdisjoint(name):
            return DirectoryAnswer(UNKNOWN, "a name that cannot exist")
        dn = template.replace("{user}", name)
        connection, answer = self._bind_as(dn, password or secrets.token_hex(8).encode(), deadline)
        if answer.outcome == ACCEPTED and password is not None:
            groups: tuple[str, ...] = ()
            if self._directory.search_base:
                entries = self._search(connection, self._directory.search_base, self._filter(user), deadline)
                groups = self._groups(entries[0]) if len(entries) == 1 else ()
            elif "=" in template:
                entries = self._search(connection, dn, "(objectClass=*)", deadline, whole_tree=False)
                groups = self._groups(entries[0]) if entries else ()
            answer = DirectoryAnswer(ACCEPTED, "accepted", groups)
        elif answer.outcome == REFUSED:
            answer = answer._replace(is_certain=False)
        self._give_back(self._binding, connection)
        return answer

    def _check_by_search(self, user: str, password: bytes | None, deadline: float) -> DirectoryAnswer:
        entries = self._search_as_account(user, deadline)
        entry = entries[0] if len(entries) == 1 and self._is_named(entries[0], user) else None
        # A name that does not exist costs a bind too, or the time would tell.
        if entry is None or password is None:
            dn, offered = (
                f"cn={secrets.token_hex(8)},{self._directory.search_base}",
                secrets.token_hex(8).encode(),
            )
        else:
            dn, offered = entry["dn"], password
        connection, answer = self._bind_as(dn, offered, deadline)
        self._give_back(self._binding, connection)
        if entry is None:
            return DirectoryAnswer(UNKNOWN, "several entries match" if len(entries) > 1 else "unknown user")
        if password is None:
            return DirectoryAnswer(REFUSED, "not asked")
        return answer._replace(groups=self._groups(entry)) if answer.outcome == ACCEPTED else answer

    def _bind_as(self, dn: str, password: bytes, deadline: float) -> tuple[Any, DirectoryAnswer]:
        """Bind as a user; return the connection for more questions, and the answer."""
        if not password or not dn:
            # RFC 4513 section 5.1.2: a bind with an empty password succeeds and proves nothing.
            raise ValueError("a bind without a name or a password")
        connection, is_reused = self._take(self._binding, deadline)
        try:
            self._bind(connection, dn, password, deadline)
        except self._ldap3.core.exceptions.LDAPException:
            if not is_reused:
                raise
            connection = self._open(deadline)
            self._bind(connection, dn, password, deadline)
        code = connection.result["result"]
        if code == _SUCCESS:
            return connection, DirectoryAnswer(ACCEPTED, "accepted")
        if code in _REFUSALS:
            data = _AD_DATA.search(connection.result["message"] or "")
            reason = _AD_REASONS.get(data[1] if data else "", "wrong password")
            return connection, DirectoryAnswer(REFUSED, reason)
        _discard(connection)
        raise self._refused("bind", connection)

    def _search_as_account(self, user: str, deadline: float) -> list[dict[str, Any]]:
        base, search_filter = self._directory.search_base, self._filter(user)
        connection, is_reused = self._take(self._searching, deadline)
        if is_reused:
            try:
                entries = self._search(connection, base, search_filter, deadline)
            except self._ldap3.core.exceptions.LDAPException:
                connection = self._open(deadline)
            else:
                self._give_back(self._searching, connection)
                return entries
        account = self._directory.bind_password or Secret("")
        self._bind(connection, self._directory.bind_dn, account.reveal().encode(), deadline)
        if connection.result["result"] != _SUCCESS:
            _discard(connection)
            raise self._refused("bind of the search account", connection)
        entries = self._search(connection, base, search_filter, deadline)
        self._give_back(self._searching, connection)
        return entries

    def _bind(self, connection: Any, dn: str, password: bytes, deadline: float) -> None:
        """Send a simple bind; the result is the connection's."""
        self._wait_until(connection, deadline)
        connection.user, connection.password, connection.authentication = dn, password, self._ldap3.SIMPLE
        try:
            connection.bind(read_server_info=False)
        except BaseException:
            _discard(connection)
            raise
        finally:
            connection.user = connection.password = connection.request = None

    def _search(
        self,
        connection: Any,
        base: str,
        search_filter: str,
        deadline: float,
        *,
        whole_tree: bool = True,
    ) -> list[dict[str, Any]]:
        """Return at most two entries: the second one shows that the filter is not clear."""
        self._wait_until(connection, deadline)
        names = _FILTER_ATTRIBUTE.findall(self._directory.search_filter)
        try:
            connection.search(
                base,
                search_filter,
                search_scope=self._ldap3.SUBTREE if whole_tree else self._ldap3.BASE,
                attributes=sorted({*names, self._directory.group_attribute}),
                size_limit=2,
                time_limit=max(1, math.ceil(deadline - self._clock())),
            )
        except BaseException:
            _discard(connection)
            raise
        if connection.result["result"] not in (_SUCCESS, _SIZE_LIMIT_EXCEEDED):
            _discard(connection)
            raise self._refused("search", connection)
        return [entry for entry in connection.response if entry["type"] == "searchResEntry"]

    def _filter(self, user: str) -> str:
        return self._directory.search_filter.replace("{user}", escape_filter(user))

    def _is_named(self, entry: dict[str, Any], user: str) -> bool:
        """Tell whether the entry has the user's name in our reading too; the directory's may be looser."""
        attributes = {name.casefold() for name in _FILTER_ATTRIBUTE.findall(self._directory.search_filter)}
        names = [
            canonical_name(value.decode("utf-8", "replace"))
            for attribute, values in entry["raw_attributes"].items()
            if attribute.casefold() in attributes
            for value in values
        ]
        return not attributes or canonical_name(user) in names

    def _groups(self, entry: dict[str, Any]) -> tuple[str, ...]:
        wanted = self._directory.group_attribute.casefold()
        values = [
            value.decode("utf-8", "replace")
            for attribute, values in entry["raw_attributes"].items()
            if attribute.casefold() == wanted
            for value in values
        ]
        return map_groups(values, self._directory.group_map)

    def _take(self, idle: deque[tuple[Any, float]], deadline: float) -> tuple[Any, bool]:
        """Return a connection, and whether it was used before."""
        while idle:
            try:
                connection, since = idle.pop()
            except IndexError:
                break
            if self._clock() - since <= IDLE_S and _is_alive(connection):
                return connection, True
            _discard(connection)
        return self._open(deadline), False

    def _give_back(self, idle: deque[tuple[Any, float]], connection: Any) -> None:
        """Keep a connection for the next call, if it still is one."""
        if connection.closed or self._is_closed or len(idle) >= self._directory.pool_size_count:
            _discard(connection)
        else:
            idle.append((connection, self._clock()))

    def _open(self, deadline: float) -> Any:
        """Connect, with TLS where configured."""
        ldap3 = self._ldap3
        left_s = max(_MIN_WAIT_S, deadline - self._clock())
        # A new Server each time: it remembers addresses that failed and then does not try them for a while.
        server = ldap3.Server(self._host, self._port, self._tls, get_info=ldap3.NONE, connect_timeout=left_s)
        server.tls = tls = _Tls(self._context, self._host) if self._context is not None else None
        connection = ldap3.Connection(
            server,
            auto_referrals=False,
            check_names=False,
            raise_exceptions=False,
            receive_timeout=math.ceil(left_s),
        )
        try:
            connection.open(read_server_info=False)
            if self._directory.start_tls and tls is not None:
                self._start_tls(connection, tls, deadline)
        except BaseException as error:
            _discard(connection)
            if tls is not None and tls.problem and isinstance(error, Exception):
                raise BackendUnavailable(self._directory.name, 0.0, tls.problem) from None
            raise
        return connection

    def _start_tls(self, connection: Any, tls: _Tls, deadline: float) -> None:
        self._wait_until(connection, deadline)
        connection.extended(_START_TLS)
        if connection.result["result"] != _SUCCESS:
            raise self._refused("StartTLS", connection)
        self._wait_until(connection, deadline)
        tls.wrap_socket(connection)
        connection.tls_started = True

    def _wait_until(self, connection: Any, deadline: float) -> None:
        """Let the next answer of the directory take until the deadline."""
        connection.socket.settimeout(max(_MIN_WAIT_S, deadline - self._clock()))

    def _refused(self, what: str, connection: Any) -> BackendUnavailable:
        code = connection.result["description"] if connection.result else "nothing"
        return BackendUnavailable(self._directory.name, 0.0, f"{what} answered with {code}")


def _discard(connection: Any) -> None:
    """Close a connection in whatever state it is: ldap3 forgets sockets that never became connections."""
    sock = connection.socket
    connection.strategy.close()
    if sock is not None:
        sock.close()


def _is_alive(connection: Any) -> bool:
    """Tell whether an idle connection has nothing to read: an end, or a notice of disconnection."""
    if connection.closed or connection.socket is None:
        return False
    poll = select.poll()
    poll.register(connection.socket.fileno(), select.POLLIN)
    return not poll.poll(0)
