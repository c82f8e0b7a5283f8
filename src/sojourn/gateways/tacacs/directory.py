"""LDAP and Active Directory: does this user exist there, is this the password, which groups.

The blocking calls run in the offload pool, at most ``pool_size_count`` of them per directory, so that a
directory that hangs cannot take the whole pool. Addresses are tried in order, each under its own circuit
breaker and each with its share of the time that is left.

Knows nothing of local users, lock-outs or what is answered to a device. A directory that does not answer is
:class:`~sojourn.errors.BackendUnavailable`, never a refusal.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from sojourn.core.breaker import Breakers
from sojourn.core.clock import Clock
from sojourn.core.offload import OffloadPool
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs.config import Directory
from sojourn.gateways.tacacs.ldap import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    DirectoryAnswer,
    Endpoint,
    canonical_name,
    load_ldap3,
)


def directory_problems(directory: Directory) -> Iterator[tuple[str, str, str]]:
    """Yield ``(key, found, wanted)`` for settings of a directory that cannot work."""
    for url in directory.urls:
        if not _is_ldap_url(url):
            yield "urls", repr(url), "ldap://host[:port] or ldaps://host[:port]"
        elif url.startswith("ldaps:") and directory.start_tls:
            yield "start_tls", f"true with {url!r}", "StartTLS with ldap:// only"
    if "{user}" not in directory.bind_dn:
        if not directory.search_base:
            yield "search_base", "neither a search_base nor {user} in bind_dn", "one of the two"
        if not directory.bind_password:
            yield "bind_password", "no password of the search account", "one: an empty one proves nothing"
    if directory.search_base and "{user}" not in directory.search_filter:
        yield "search_filter", repr(directory.search_filter), "a filter with {user}"
    if directory.ca_file and not os.access(directory.ca_file, os.R_OK):
        yield "ca_file", f"{directory.ca_file!r}, which cannot be read", "a PEM file"
    try:
        load_ldap3()
    except ImportError:
        yield "", "no ldap3 package", "sojourn[ldap] installed"


def _is_ldap_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("ldap", "ldaps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Call:
    """One call of an address in an offload thread, which may find that its time is nearly over."""

    __slots__ = ("_clock", "_deadline", "_endpoint", "_password", "_user", "has_begun")

    def __init__(
        self, endpoint: Endpoint, user: str, password: bytes | None, deadline: float, clock: Clock
    ) -> None:
        self._endpoint = endpoint
        self._user = user
        self._password = password
        self._deadline = deadline
        self._clock = clock
        self.has_begun = False

    def __call__(self) -> DirectoryAnswer:
        self.has_begun = True
        return self._endpoint.check(self._user, self._password, self._deadline - self._clock())


def _is_text(password: bytes) -> bool:
    try:
        password.decode()
    except UnicodeDecodeError:
        return False
    return True


class Directories:
    """Every directory of one configuration snapshot; the gateway makes one and closes it when it is replaced.

    Args:
        directories: their settings, without problems.
        offload: where the blocking calls run.
        breakers: circuits by URL; they outlive the snapshot.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        directories: Iterable[Directory],
        offload: OffloadPool,
        breakers: Breakers,
        clock: Clock = time.monotonic,
    ) -> None:
        self._offload = offload
        self._breakers = breakers
        self._clock = clock
        self._directories = {directory.name: directory for directory in directories}
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        for directory in self._directories.values():
            encrypted = directory.start_tls or any(url.startswith("ldaps:") for url in directory.urls)
            context = ssl.create_default_context(cafile=directory.ca_file or None) if encrypted else None
            self._endpoints[directory.name] = tuple(
                Endpoint(directory, url, context, clock) for url in directory.urls
            )
            self._places[directory.name] = asyncio.Semaphore(directory.pool_size_count)

    async def check(self, name: str, user: str, password: bytes, *, decoy: bool = False) -> DirectoryAnswer:
        """Ask a directory whether this is the user's password.

        Args:
            name: the directory's name.
            user: as the peer wrote it.
            password: an empty one, or one that is not UTF-8 (RFC 4513 section 5.1.3), takes as long and is
                refused without being shown: a bind with the former would prove nothing.
            decoy: take as long as otherwise, but do not show the password to the directory, and do not
            accept.

        Raises:
            BackendUnavailable: no address of the directory answered within its ``timeout_s``.
            LimitExceeded: more logins are waiting for this directory, or for threads, than fit.
        """
        directory = self._directories[name]
        deadline = self._clock() + directory.timeout_s
        if canonical_name(user) is None:
            return DirectoryAnswer(UNKNOWN, "a name that cannot exist")
        offered = None if decoy or not password or not _is_text(password) else password
        places = self._places[name]
        try:
            async with asyncio.timeout(directory.timeout_s):
                await places.acquire()
        except TimeoutError:
            # Our own lack of places says nothing of the directory: its circuit must not count it.
            count = directory.pool_size_count
            raise LimitExceeded(f"logins at directory {name}", count + 1, count) from None
        try:
            answer = await self._try_addresses(directory, user, offered, deadline)
        finally:
            places.release()
        if answer.outcome == ACCEPTED and offered is None:
            return DirectoryAnswer(REFUSED, "not asked")
        return answer

    def close(self) -> None:
        """Close idle connections; calls under way end by themselves."""
        for endpoints in self._endpoints.values():
            for endpoint in endpoints:
                endpoint.close()

    async def _try_addresses(
        self, directory: Directory, user: str, password: bytes | None, deadline: float
    ) -> DirectoryAnswer:
        began = self._clock()
        causes: list[str] = []
        endpoints = self._endpoints[directory.name]
        for number, endpoint in enumerate(endpoints):
            share_s = (deadline - self._clock()) / (len(endpoints) - number)
            if share_s <= 0:
                break
            call = _Call(endpoint, user, password, self._clock() + share_s, self._clock)
            try:
                with self._breakers.guard(endpoint.url):
                    return await self._run(call, share_s)
            except BackendUnavailable as error:
                causes.append(f"{endpoint.url}: {error.cause}")
        raise BackendUnavailable(
            f"directory {directory.name}", self._clock() - began, "; ".join(causes) or "no time left"
        )

    async def _run(self, call: _Call, within_s: float) -> DirectoryAnswer:
        try:
            return await self._offload.run(call, within_s=within_s)
        except BackendUnavailable as error:
            if call.has_begun:
                raise
            # No thread was free in time: that is not the directory's failure.
            raise LimitExceeded("calls waiting for a thread", within_s, within_s) from error
