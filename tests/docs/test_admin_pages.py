"""What the pages about dashboard and flight recorder tell in numbers and names is what the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from sojourn.admin.config import AdminSettings, BrowserSettings, StreamSettings
from sojourn.core.panel import Scope
from sojourn.core.settings import RecorderSettings
from sojourn.gateways.postgres.config import PostgresSettings

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDER = (DOCS / "explanation/flight-recorder.md").read_text(encoding="utf-8")
ACCESS = (DOCS / "howto/let-people-into-the-dashboard.md").read_text(encoding="utf-8")


def test_how_long_the_recorder_keeps_what_is_what_the_page_says() -> None:
    """Numbers in prose get old first."""
    settings = RecorderSettings()
    assert f"its last {settings.entries_per_session_count} happenings" in RECORDER
    finished = (settings.finished_keep_s, settings.finished_sessions_count, settings.finished_sessions_per_s)
    assert finished == (300, 2_000, 100)
    assert "| finished | 5 minutes | 2,000 of them, 100 more per second |" in RECORDER
    assert (settings.failed_keep_s, settings.failed_sessions_count) == (3_600, 500)
    assert "| failed | 1 hour | 500 of them |" in RECORDER
    assert PostgresSettings().query_log.mask_literals


def test_how_long_a_browser_stays_logged_in_is_what_the_page_says() -> None:
    """As above; the first screen of the demo says five minutes, too."""
    browsers = BrowserSettings()
    assert (browsers.lifetime_s, browsers.idle_timeout_s, browsers.link_lifetime_s) == (43_200, 3_600, 300)
    assert "good for 12 hours, or until an hour has passed" in " ".join(ACCESS.split())
    assert f"says something every {StreamSettings().comment_s:.0f} s" in ACCESS
    assert AdminSettings().audit_entries_count == 1_000
    assert "the last thousand in memory" in ACCESS


@pytest.mark.parametrize("page", [RECORDER, ACCESS], ids=["recorder", "access"])
def test_settings_that_a_page_names_exist(page: str) -> None:
    """A setting by another name helps nobody."""
    tables = {
        "recorder": RecorderSettings,
        "browsers": BrowserSettings,
        "admin": AdminSettings,
        "postgres": PostgresSettings,
    }
    names = re.findall(r"`(recorder|browsers|admin|postgres)\.(\w+)[`.]", page)
    assert names
    for table, key in names:
        known = {field.name for field in msgspec.structs.fields(tables[table])}
        assert key in known or (table, key) == ("admin", "order"), f"{table}.{key}"


def test_the_scopes_of_the_page_are_those_of_the_code() -> None:
    """One row each, in the order in which each may more."""
    assert re.findall(r"^\| `(\w+)` \| ", ACCESS, re.MULTILINE) == list(get_args(Scope))
