"""Whether what a configuration names is there, will last and makes sense: TLS files, key ages, what nobody can reach.

Reads files, unlike the checks of single tables; never shows a key. Dials nothing and looks no name up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from sojourn.config import soundness_exchange, soundness_itv2, soundness_postgres
from sojourn.config.reach import is_loopback
from sojourn.config.settings import SojournSettings
from sojourn.core import tls
from sojourn.core.settings import ListenerSettings
from sojourn.errors import Problem
from sojourn.gateways.tacacs.config import TacacsSettings
from sojourn.gateways.tacacs.devices import KeyRing
from sojourn.gateways.tacacs.pairs import split_pair

_PRIV_LVLS: Final = frozenset(str(level) for level in range(16))
"""RFC 8907 section 9."""


def file_problems(settings: SojournSettings) -> Iterator[Problem]:
    """Yield every problem of the files that the tables name: TLS of every listener, user lists and rules."""
    for table, listener in _listeners(settings):
        for key, found, wanted in tls.file_problems(listener.tls) if listener.tls is not None else ():
            yield Problem("configuration", 0, f"{table}.tls", key, found, wanted)
    if settings.postgres is not None:
        yield from soundness_postgres.file_problems(settings.postgres)
    if settings.exchange is not None:
        yield from soundness_exchange.file_problems(settings.exchange)
    if settings.itv2 is not None:
        yield from soundness_itv2.file_problems(settings.itv2)


def warnings_of(settings: SojournSettings, now: datetime) -> list[str]:
    """Return a sentence for each thing that works today and should be mended all the same.

    Args:
        settings: without problems.
        now: with its time zone.
    """
    sentences = [
        f"{table}: {sentence}"
        for table, listener in _listeners(settings)
        if listener.tls is not None
        for sentence in tls.warnings_of(listener.tls, now)
    ]
    if settings.tacacs is not None:
        sentences += [
            f"tacacs: key {view.index + 1} of device {view.device}: {warning}"
            for view in KeyRing(settings.tacacs).snapshot(now.timestamp())
            for warning in view.warnings
        ]
        sentences += [f"tacacs: {sentence}" for sentence in _senseless(settings.tacacs)]
    if settings.postgres is not None:
        found = soundness_postgres.warnings_of(settings.postgres, now)
        sentences += [f"postgres: {sentence}" for sentence in found]
    if settings.exchange is not None:
        found = soundness_exchange.warnings_of(settings.exchange)
        sentences += [f"exchange: {sentence}" for sentence in found]
    if settings.itv2 is not None:
        sentences += [f"itv2: {sentence}" for sentence in soundness_itv2.warnings_of(settings.itv2)]
    return sentences


def _senseless(tacacs: TacacsSettings) -> Iterator[str]:
    """Yield what is allowed, and hardly meant: it denies everything, or shows what should be hidden."""
    if not tacacs.listeners:
        yield "no listener, so no device can connect"
    sinks = tacacs.accounting
    if not (sinks.files or sinks.syslog or sinks.postgres):
        yield "no accounting sink, so every accounting record is answered with ERROR"
    has_plain = any(listener.tls is None for listener in tacacs.listeners)
    has_tls = any(listener.tls is not None for listener in tacacs.listeners)
    for device in tacacs.devices if tacacs.listeners else ():
        if has_tls and device.certificate_names:
            continue
        if not (has_plain and device.networks and device.secrets):
            yield f"device {device.name} fits no listener: TCP wants networks and secrets, TLS certificate_names"
    for directory in tacacs.directories:
        if directory.start_tls:
            continue
        for url in directory.urls:
            if url.startswith("ldap:") and not is_loopback(urlsplit(url).hostname or ""):
                yield f"directory {directory.name}: passwords go to {url} in the clear; use ldaps:// or start_tls"
    for rule in tacacs.rules:
        for pair in (*rule.add, *rule.replace):
            name, _, value = split_pair(pair)
            if name == "priv-lvl" and value not in _PRIV_LVLS:
                yield f"rule {rule.name} grants {pair}; levels go from 0 to 15"


def _listeners(settings: SojournSettings) -> Iterator[tuple[str, ListenerSettings]]:
    tables = (("tacacs", settings.tacacs), ("exchange", settings.exchange), ("itv2", settings.itv2))
    for name, table in tables:
        for index, listener in enumerate(table.listeners if table is not None else ()):
            yield f"{name}.listeners[{index}]", listener
    http = settings.itv2.http if settings.itv2 is not None else None
    for index, listener in enumerate(http.listeners if http is not None else ()):
        yield f"itv2.http.listeners[{index}]", listener
