"""The exchange gateway's page in Debian's Chromium, over a real pod whose simulators are child processes."""

from __future__ import annotations

import contextlib
import os
import tempfile

import pytest
from dashboard_lab import NARROW, WIDE, browsing
from exchange_pod_lab import PodLab, joined, running_postgres, simulator_row, soon
from panel_lab import panel_api

from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.market.settings import InstrumentSettings, MarketSettings
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings

pytestmark = pytest.mark.debian("chromium")

SCRIPT = "<script>alert(1)</script>"
MARKET = MarketSettings(
    seed=7,
    instruments=(InstrumentSettings("AAA", "100", shares=1000), InstrumentSettings("BBB", "2000", shares=10)),
    step_ms=50,
)


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser, each against a pod of its own."""
    with browsing() as run:
        yield run


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def trading(postgres, tmp_path):
    """Return what runs a pod on which a user has a market and an order; yields pod, API and the user's link."""
    lab = PodLab(tmp_path, postgres.dsn())

    @contextlib.asynccontextmanager
    async def run_pod(subject="ana"):
        with tempfile.TemporaryDirectory(prefix="sims-") as directory:
            settings = {
                "simulators": SimulatorsSettings(driver="process", market=MARKET),
                "process": ProcessSettings(directory=directory, dies_with_parent=True),
            }
            async with (
                lab.pod(**settings) as pod,
                panel_api(pod, "exchange", tmp_path) as api,
                lab.client(subject) as http,
                joined(http, pod) as user,
            ):
                await user.start()
                await user.insist(5)
                yield pod, api, user

    return run_pod


async def opened(tab):
    """Go from the overview to the page, whose market is open."""
    await tab.page.wait_for_selector(".gateway-card")
    await tab.show("#/gateways/exchange", ".chart-line")
    return tab.page


def row_of(page, table, text):
    """Return a row of a table."""
    return page.get_by_role("region", name=table, exact=True).get_by_role("row").filter(has_text=text)


def test_a_market_is_seen_live_as_its_user_sees_it(browse, trading):
    """Prices move, the chart grows, an order appears when it is placed, and what the user holds is counted."""

    async def story(open_tab):
        async with trading() as (_, api, user), open_tab(api.link()) as tab:
            page = await opened(tab)
            chart = page.locator(".chart-line")
            first = await chart.get_attribute("d")
            await page.wait_for_function(
                "(old) => document.querySelector('.chart-line').getAttribute('d') !== old", arg=first
            )
            assert "as ana sees it" in await page.locator(".panel").inner_text()
            order = row_of(page, "Orders", "buy 5 AAA")
            assert "5 of 5" in await order.inner_text()
            await page.wait_for_selector("dd:has-text('1,005 AAA')")
            await user.insist(7)
            await row_of(page, "Orders", "buy 7 AAA").wait_for()
            await user.buy(10_000_000)
            await row_of(page, "Orders", "rejected").wait_for()
            await row_of(page, "Prices", "BBB").get_by_role("button").click()
            await page.wait_for_selector("h3:has-text('BBB, last price')")
            label = await page.locator(".chart").get_attribute("aria-label")
            assert label is not None
            assert label.startswith("Last price: ")
            assert tab.complaints == []

    browse(story)


def test_a_change_of_price_is_told_without_its_colour(browse, trading):
    """An arrow and a percentage, since the page shows the price."""

    async def story(open_tab):
        async with trading() as (_, api, _user), open_tab(api.link()) as tab:
            page = await opened(tab)
            moved = page.get_by_role("region", name="Prices").locator(".up, .down").first
            await moved.wait_for()
            assert (await moved.inner_text())[0] in "▲▼"

    browse(story)


def test_a_simulator_is_stopped_from_the_page(browse, trading):
    """After a question; its process ends, the market closes, the session stays."""

    async def story(open_tab):
        async with trading() as (pod, api, user), open_tab(api.link("operate")) as tab:
            page = await opened(tab)
            row = await simulator_row(pod, user.welcome["session"])
            pid = row.handle["place"]["pid"]
            line = row_of(page, "Simulators", row.id[-12:])
            assert "ana" in await line.inner_text()
            await line.get_by_role("button").click()
            await page.get_by_role("dialog").get_by_role("button", name="Stop").click()
            await page.wait_for_selector(".toast.ok")
            await user.hear("sim", state="stopped")
            await row_of(page, "Simulators", "stopped").wait_for()
            await row_of(page, "Sessions", "ana").locator(".badge:has-text('stopped')").wait_for()

            def is_gone():
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    return True
                return False

            await soon(is_gone)
            assert tab.complaints == []

    browse(story)


def test_what_users_call_themselves_is_text(browse, trading):
    """A script in a user's name is shown and never run; a backend that is away is said so."""

    async def story(open_tab):
        async with trading(SCRIPT) as (pod, api, _user), open_tab(api.link("view")) as tab:
            page = await opened(tab)
            await row_of(page, "Sessions", SCRIPT).wait_for()
            assert await page.get_by_role("button", name="Stop").count() == 0
            health = page.get_by_role("region", name="Health and pool")
            assert await health.locator(".badge.ok").count() == 4
            await row_of(page, "Pods", "pod-1").wait_for()
            assert tab.complaints == []
            await pod.gateway.store.stop()
            await health.locator(".badge.bad").wait_for()

    browse(story)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_is_accessible_fits_and_complains_of_nothing(browse, trading, scheme, size):
    """No serious finding of axe-core, no sideways scrolling, no line in the console; with every table filled."""

    async def story(open_tab):
        async with (
            trading("somebody-with-quite-a-long-name@example.org") as (_, api, user),
            open_tab(api.link(), size=size, scheme=scheme) as tab,
        ):
            await user.buy(10_000_000)
            page = await opened(tab)
            for table, text in (
                ("Orders", "rejected"),
                ("Simulators", "running"),
                ("Pods", "pod-1"),
                ("Prices", "BBB"),
            ):
                await row_of(page, table, text).first.wait_for()
            assert await tab.grave_findings() == []
            assert not await tab.is_wider_than_the_screen()
            assert tab.complaints == []

    browse(story)
