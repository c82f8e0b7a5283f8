"""The postgres gateway's page in Debian's Chromium, before real servers: what an operator sees when a primary dies."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psycopg
import pytest
from dashboard_lab import NARROW, WIDE, browsing
from failover_lab import running_failover_lab
from gateway_lab import gateway_lab
from panel_lab import panel_api

from sojourn.gateways.postgres.config import QueryLogSettings

pytestmark = pytest.mark.debian("chromium")

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser, each against a server of its own."""
    with browsing() as run:
        yield run


@contextlib.asynccontextmanager
async def site(folder, **options):
    """Run a server with clients that have done something slow and something wrong; yields laboratory and API."""
    settings = {"query_log": QueryLogSettings(slow_ms=50)}
    async with (
        gateway_lab(settings=settings, **options) as lab,
        panel_api(lab.server, "postgres", folder) as api,
    ):
        client = await lab.connect()
        await client.execute("SELECT pg_sleep(0.06)")
        with pytest.raises(psycopg.Error):
            await client.execute(f'SELECT "{SCRIPT}"')
        yield lab, api


@contextlib.asynccontextmanager
async def pair(folder):
    """Run a primary, its replica and a gateway before them; yields laboratory, gateway and API."""
    async with running_failover_lab(18) as lab:
        way = await lab.gateway("transaction")
        async with panel_api(way.server, "postgres", folder) as api:
            yield lab, way, api


async def opened(tab):
    """Go from the overview to the page."""
    await tab.page.wait_for_selector(".gateway-card")
    await tab.show("#/gateways/postgres", ".node")
    return tab.page


def row_of(page, table, text):
    """Return a row of a table."""
    return page.get_by_role("region", name=table, exact=True).get_by_role("row").filter(has_text=text)


def test_a_failover_is_watched_from_the_death_to_the_last_client_served(browse, tmp_path):
    """The dead node stops being the primary, clients wait, another takes over; how long it took and what they met."""

    async def story(open_tab):
        async with pair(tmp_path) as (lab, way, api), open_tab(api.link()) as tab:
            idle, asking = await way.connect(autocommit=True), await way.connect(autocommit=True)
            for client in (idle, asking):
                await client.execute("SELECT 1")
            lost = asyncio.ensure_future(idle.execute("SELECT pg_sleep(600)"))
            await lab.until_running("pg_sleep")
            page = await opened(tab)
            await page.wait_for_selector(".node[data-state=primary]:has-text('db-1')")
            await page.wait_for_selector(".node[data-state=replica]:has-text('db-2')")
            await lab.crash()
            with pytest.raises(psycopg.Error):
                await lost
            waiting = asyncio.ensure_future(asking.execute("SELECT 1"))
            await page.wait_for_selector(".node[data-state=down]:has-text('db-1')")
            assert await page.locator(".node.primary").count() == 0
            ongoing = row_of(page, "Failovers", "so far")
            await ongoing.wait_for()
            assert "buffering" in await ongoing.inner_text()
            await row_of(page, "Pools", "postgres").locator(".badge.warn").wait_for()
            await lab.promote()
            await waiting
            await page.wait_for_selector(".node[data-state=primary]:has-text('db-2')")
            over = row_of(page, "Failovers", "db-2")
            await over.wait_for()
            await page.wait_for_function("!document.body.textContent.includes('so far')")
            cells = await over.get_by_role("cell").all_inner_texts()
            assert cells[1:4] == ["failover", "db-1", "db-2"]
            assert all(cell.endswith((" s", " ms")) for cell in cells[4:6])
            assert (int(cells[6]) >= 1, cells[7]) == (True, "0")
            met = row_of(page, "What became of clients", "(08007)")
            assert "its outcome is unknown" in await met.inner_text()
            assert tab.complaints == []
            for client in (idle, asking):
                await client.close()

    browse(story)


def test_a_switchover_is_ordered_from_the_page(browse, tmp_path):
    """It is asked for twice, and nobody is disconnected."""

    async def story(open_tab):
        async with (
            pair(tmp_path) as (_, way, api),
            await way.connect(autocommit=True) as client,
            open_tab(api.link()) as tab,
        ):
            await client.execute("SELECT 1")
            page = await opened(tab)
            await page.get_by_role("button", name="Make db-2 the primary").click()
            await page.get_by_role("dialog").get_by_role("button", name="Switch over").click()
            await page.wait_for_selector(".toast.ok:has-text('db-2 is the primary now')")
            await page.wait_for_selector(".node[data-state=primary]:has-text('db-2')")
            await row_of(page, "Failovers", "switchover").wait_for()
            await client.execute("SELECT 1")
            assert tab.complaints == []

    browse(story)


def test_statements_are_text_whatever_is_in_them(browse, tmp_path):
    """Slow and failed ones, found by what is in them; a script in SQL is never run."""

    async def story(open_tab):
        async with site(tmp_path) as (_, api), open_tab(api.link()) as tab:
            page = await opened(tab)
            failed = row_of(page, "Statements", SCRIPT)
            await failed.wait_for()
            assert "failed 42703" in await failed.inner_text()
            slow = row_of(page, "Statements", "pg_sleep(?)")
            assert "slow" in await slow.inner_text()
            await page.get_by_label("Find statements").fill("42703")
            await slow.wait_for(state="detached")
            assert await failed.count() == 1
            await page.get_by_label("Find statements").fill("no such thing")
            await page.wait_for_selector("text=No statement was slow or failed")
            assert tab.complaints == []

    browse(story)


def test_a_pause_is_ordered_and_ended_from_the_page(browse, tmp_path):
    """Who waits is counted meanwhile; then the database is open again, and nothing was lost."""

    async def story(open_tab):
        async with site(tmp_path) as (lab, api), open_tab(api.link("operate")) as tab:
            client = await lab.connect()
            page = await opened(tab)
            await page.get_by_role("button", name="Pause postgres").click()
            await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
            assert not lab.gateway.paused
            await page.get_by_role("button", name="Pause postgres").click()
            await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
            await row_of(page, "Databases", "paused").wait_for()
            waiting = asyncio.ensure_future(client.execute("SELECT 2"))
            await row_of(page, "Pools", "postgres").locator(".badge.warn").wait_for()
            await page.get_by_role("button", name="Resume postgres").click()
            await row_of(page, "Databases", "open").wait_for()
            assert await (await waiting).fetchone() == (2,)
            assert await page.get_by_role("button", name="Make").count() == 0
            assert tab.complaints == []

    browse(story)


def test_who_may_only_look_is_offered_nothing_else(browse, tmp_path):
    """A visitor of scope view sees no button that would be refused."""

    async def story(open_tab):
        async with site(tmp_path) as (_, api), open_tab(api.link("view")) as tab:
            page = await opened(tab)
            await row_of(page, "Databases", "open").wait_for()
            assert await page.locator(".panel button").count() == 0

    browse(story)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_is_accessible_fits_and_complains_of_nothing(browse, tmp_path: Path, scheme, size):
    """No serious finding of axe-core, no sideways scrolling, no line in the console; with every table filled."""

    async def story(open_tab):
        async with site(tmp_path) as (lab, api), open_tab(api.link(), size=size, scheme=scheme) as tab:
            lab.gateway.count_loss("autocommit_unanswered")
            page = await opened(tab)
            for table, text in (
                ("Statements", SCRIPT),
                ("Servers", "db-1"),
                ("Pools", "postgres"),
                ("What became of clients", "08007"),
            ):
                await row_of(page, table, text).first.wait_for()
            assert await tab.grave_findings() == []
            assert not await tab.is_wider_than_the_screen()
            assert tab.complaints == []

    browse(story)
