"""Whether what a configuration names is there and will last: TLS files, the dates in them, the age of device keys.

Reads files, unlike the checks of single tables; never shows a key. Knows nothing of how any of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sojourn.config.settings import SojournSettings
from sojourn.core import tls
from sojourn.core.settings import ListenerSettings
from sojourn.errors import Problem
from sojourn.gateways.tacacs.devices import KeyRing


def file_problems(settings: SojournSettings) -> Iterator[Problem]:
    """Yield every problem of the TLS files of every listener."""
    for table, listener in _listeners(settings):
        for key, found, wanted in tls.file_problems(listener.tls) if listener.tls is not None else ():
            yield Problem("configuration", 0, f"{table}.tls", key, found, wanted)


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
    return sentences


def _listeners(settings: SojournSettings) -> Iterator[tuple[str, ListenerSettings]]:
    if settings.tacacs is not None:
        for index, listener in enumerate(settings.tacacs.listeners):
            yield f"tacacs.listeners[{index}]", listener
