"""Whether what an ``[itv2]`` table names is there and makes sense: files, packages, what is hardly meant.

Reads files, unlike the checks of the table itself; never shows a code. Dials nothing and looks no name up.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sojourn.config.reach import is_near
from sojourn.errors import Problem
from sojourn.gateways.itv2.config import Itv2Settings, PanelSettings
from sojourn.gateways.itv2.http.config import Itv2HttpSettings

FACTORY_TYPE_1: Final = "12345678"
FACTORY_TYPE_2: Final = FACTORY_TYPE_1 * 4
"""Source: itv2-protocol.md section 1.1."""

_NAME_CHARACTERS: Final = 32


def file_problems(settings: Itv2Settings) -> Iterator[Problem]:
    """Yield every problem of the files that the table names and the packages that it needs."""
    folder = Path(settings.history.file).absolute().parent
    if not folder.is_dir():
        found = f"{settings.history.file!r}, and no folder {folder}"
        yield Problem("configuration", 0, "itv2.history", "file", found, "a file in a folder that exists")
    if settings.capture is not None and not _may_write(settings.capture.directory):
        found = repr(settings.capture.directory)
        wanted = "a folder that exists and in which this process can write"
        yield Problem("configuration", 0, "itv2.capture", "directory", found, wanted)
    if settings.mqtt is not None and importlib.util.find_spec("aiomqtt") is None:
        found = "a table, and no package aiomqtt"
        yield Problem("configuration", 0, "itv2", "mqtt", found, "pip install 'sojourn[itv2]'")


def _may_write(folder: str) -> bool:
    return Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)


def warnings_of(settings: Itv2Settings) -> Iterator[str]:
    """Yield what is allowed, and hardly meant."""
    if not settings.panels:
        yield "no panel is configured, so none may connect"
    if len(settings.public_address) > _NAME_CHARACTERS:
        yield f"public_address has {len(settings.public_address)} characters; panels take {_NAME_CHARACTERS}"
    for panel in settings.panels:
        yield from _warnings_of(panel)
    if settings.http is not None:
        yield from _warnings_of_http(settings.http)


def _warnings_of_http(http: Itv2HttpSettings) -> Iterator[str]:
    if not http.tokens:
        yield "http has no tokens, so nobody may ask for anything"
    bare = [one for one in http.listeners if one.tls is None and not is_near(one.address)]
    if bare and not http.trusted_proxies:
        way = "use TLS, or name the proxy that has it in http.trusted_proxies"
        yield f"tokens and access codes come to {bare[0].address} in the clear; {way}"


def _warnings_of(panel: PanelSettings) -> Iterator[str]:
    if panel.type2_code is None:
        yield (
            f"panel {panel.name} has a Type 1 code only: whoever reads the line can read what is sent to the panel, "
            "user codes included; use Type 2 where the panel has it"
        )
    for key, code, factory in (
        ("type1_code", panel.type1_code, FACTORY_TYPE_1),
        ("type2_code", panel.type2_code, FACTORY_TYPE_2),
    ):
        if code is not None and code.reveal() == factory:
            yield f"panel {panel.name}: {key} is the factory's, which everybody knows"
    if len(panel.integration_id) and panel.integration_id == panel.integration_id[0] * 12:
        yield f"panel {panel.name}: integration_id is twelve times the same digit; compare [851][422]"
