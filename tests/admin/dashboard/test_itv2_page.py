"""The page of alarm panels in Debian's Chromium, on the real gateway with simulated panels: what an operator does."""

from __future__ import annotations

import pytest
from dashboard_api import EVIL
from dashboard_lab import NARROW, WIDE, browsing
from itv2_page_lab import panel_site
from itv2_simulator_lab import identity

from sojourn.gateways.itv2.peer.programme import ZoneProgramme, house

pytestmark = pytest.mark.debian("chromium")
PAGE = "#/gateways/itv2"
CODE, WRONG = "2345", "9876"
NO_DELAY = {"exit_delay_s": 0.0}
LABEL_CHARACTERS = 28
"""What a panel has room for in a zone's name."""
LINES_AT_MOST = 60


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser, each against a gateway of its own."""
    with browsing() as run:
        yield run


def zone(page, name):
    """Return the tile of a zone."""
    return page.locator(".zone", has=page.get_by_text(name, exact=True))


async def give(page, code):
    """Type a code into the dialog and send it."""
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Access code").fill(code)
    await dialog.get_by_label("Access code").press("Enter")


def test_a_panel_is_armed_and_disarmed(browse, tmp_path):
    """Stay with a code, then disarm: the page follows what the panel says, and the history has both orders."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected(programme=NO_DELAY) as panel,
            open_tab(site.link("operate")) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".partition-status:has-text('Disarmed')")
            assert await page.get_by_role("button", name="Disarm, partition 1").is_disabled()
            await page.get_by_role("button", name="Arm stay, partition 1").click()
            await give(page, CODE)
            await page.wait_for_selector(".partition-status:has-text('Armed stay')")
            assert panel.house.partitions[1].is_armed
            await page.wait_for_selector("text=Armed by Ana")
            await page.get_by_role("button", name="Disarm, partition 1").click()
            await give(page, CODE)
            await page.wait_for_selector(".partition-status:has-text('Disarmed')")
            await page.wait_for_selector("td:has-text('disarm partition: accepted')")
            assert tab.complaints == []

    browse(story)


def test_a_wrong_code_is_one_clear_line_and_kept_nowhere(browse, tmp_path):
    """The dialog stays for another try, its field is empty, and the code is in no address, storage or event."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected() as panel,
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".partition-status")
            await page.get_by_role("button", name="Arm away, partition 1").click()
            field = page.get_by_role("dialog").get_by_label("Access code")
            assert await field.get_attribute("type") == "password"
            await give(page, "12345")
            await page.wait_for_selector("dialog .problem-line:has-text('A code has 4, 6 or 8 digits')")
            await give(page, WRONG)
            line = page.locator("dialog .problem-line", has_text="wrong access code")
            await line.wait_for()
            assert await line.inner_text() == "Not done: wrong access code."
            assert await field.input_value() == ""
            await page.wait_for_selector("td:has-text('rejected, wrong access code')")
            kept = await page.evaluate(
                "JSON.stringify([location.href, {...localStorage}, {...sessionStorage}])"
            )
            site.lab.server.events.flush()
            assert WRONG not in f"{kept} {await page.content()} {site.lab.told}"
            await page.keyboard.press("Escape")
            assert await page.get_by_role("dialog").count() == 0
            assert not panel.house.partitions[1].is_armed
            assert tab.complaints == []

    browse(story)


def test_a_zone_is_bypassed_and_restored(browse, tmp_path):
    """From its tile, with a code; the tile and the partition say so."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected() as panel,
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".zone")
            await page.get_by_role("button", name="Bypass Kitchen Window").click()
            await give(page, CODE)
            await zone(page, "Kitchen Window").locator(".badge:has-text('Bypassed')").wait_for()
            assert panel.house.zones[5].is_bypassed
            await page.wait_for_selector(".partition .badge:has-text('Zones bypassed')")
            await page.get_by_role("button", name="Restore Kitchen Window").click()
            await give(page, CODE)
            await page.get_by_role("button", name="Bypass Kitchen Window").wait_for()
            assert not panel.house.zones[5].is_bypassed
            assert tab.complaints == []

    browse(story)


def test_a_zone_that_opens_is_seen_at_once_and_an_alarm_first(browse, tmp_path):
    """Zone, partition, history and doctor, without a click; what had the focus keeps it."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected() as panel,
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".finding.ok")
            bypass = page.get_by_role("button", name="Bypass Front Door")
            await bypass.focus()
            panel.open_zone(1)
            await zone(page, "Front Door").locator(".badge:has-text('Open')").wait_for()
            await page.wait_for_selector(".partition:has-text('Open: Front Door')")
            await page.wait_for_selector("td:has-text('Front Door')")
            assert await bypass.evaluate("(button) => button === document.activeElement")
            panel.open_zone(7)
            await page.wait_for_selector(".partition.bad .partition-status:has-text('Alarm')")
            await page.wait_for_selector(".finding.bad:has-text('Alarm in House: Smoke Upstairs')")
            await tab.show("#/", ".problem.bad:has-text('Alarm in House: Smoke Upstairs')")
            assert tab.complaints == []

    browse(story)


def test_a_panel_that_is_gone_is_shown_as_it_was_and_said_to_be_so(browse, tmp_path):
    """Nobody takes an old state for true: marked, no orders, and the doctor says what to look at."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected() as panel,
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".trust.ok:has-text('Everything here is so now')")
            panel.cut()
            await page.wait_for_selector(".trust.warn:has-text('when it was last heard')")
            await page.wait_for_selector(".partition.is-stale")
            await page.wait_for_selector(".finding.bad:has-text('Not connected')")
            assert await page.locator(".zone.is-stale").count() == 16
            assert await page.get_by_role("button", name="Arm stay, partition 1").is_disabled()
            panel.mend()
            await page.wait_for_selector(".trust.ok")
            await page.wait_for_selector(".finding.ok")
            assert tab.complaints == []

    browse(story)


def test_script_in_a_zones_name_is_text(browse, tmp_path):
    """In its tile, its button, the doctor, the history and the dialog: shown, never run."""
    label = EVIL[:LABEL_CHARACTERS]

    async def story(open_tab):
        programme = {"zones": (ZoneProgramme(label, 3), ZoneProgramme("<b>Hall</b>", 3))}
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected(programme=programme) as panel,
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".zone")
            panel.open_zone(1)
            panel.house.set_low_battery(2, is_low=True)
            await zone(page, label).locator(".badge:has-text('Open')").wait_for()
            await page.get_by_role("button", name="Read anew").click()
            await page.wait_for_selector(".finding:has-text('Low battery: <b>Hall</b>')")
            await page.get_by_role("button", name=f"Bypass {label}").click()
            await page.get_by_role("dialog").get_by_text(label).wait_for()
            assert await page.locator("main img, main b b, dialog img").count() == 0
            assert await page.evaluate("window.wasRun") is None
            assert tab.complaints == []

    browse(story)


def test_the_history_is_narrowed_and_read_on(browse, tmp_path):
    """By kind and zone; older pages come when they are asked for."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected() as panel,
            open_tab(site.link()) as tab,
        ):
            for _ in range(40):
                panel.open_zone(1)
                panel.restore_zone(1)
                await panel.acknowledged()
            panel.open_zone(2)
            await site.lab.until(lambda: site.lab.zone(2).open.value)
            page = tab.page
            rows = page.get_by_role("region", name="History").locator("tbody tr")
            await tab.show(PAGE, ".house td")
            await page.get_by_label("What happened").select_option("Zones")
            await rows.filter(has_text="eady").first.wait_for(state="detached")
            assert await rows.count() == 50
            await page.get_by_role("button", name="Older").click()
            await page.get_by_role("button", name="Older").wait_for(state="hidden")
            assert await rows.count() == 81
            await page.get_by_label("Zone", exact=True).select_option("Back Door")
            await rows.nth(1).wait_for(state="detached")
            assert "Back Door" in await rows.first.inner_text()
            assert tab.complaints == []

    browse(story)


def test_two_hundred_panels_are_found_by_name_and_state(browse, tmp_path):
    """The list holds what can be seen; one that needs a look is found without scrolling."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path, count=200) as site,
            site.lab.connected() as panel,
            site.lab.connected(identity(150)),
            open_tab(site.link()) as tab,
        ):
            page = tab.page
            await tab.show(PAGE, ".house-line")
            await page.wait_for_selector("text=200 panels, 198 not connected")
            assert await page.locator(".house-line").count() < LINES_AT_MOST
            await page.get_by_label("Find panels").fill("house-150")
            await page.locator(".house-line:not([hidden])", has_text="house-150").click()
            await page.wait_for_selector(".house-name h2:has-text('house-150')")
            await page.wait_for_selector(".trust.ok")
            await page.get_by_label("Find panels").fill("alarm")
            await page.wait_for_selector(".house-list .nothing:not([hidden])")
            panel.open_zone(7)
            await page.locator(".house-line:not([hidden])", has_text="house-0").click()
            await page.wait_for_selector(".partition.bad")
            assert tab.complaints == []

    browse(story)


def test_who_may_only_look_is_offered_no_order(browse, tmp_path):
    """A visitor of scope view sees everything and no button that would be refused."""

    async def story(open_tab):
        async with (
            panel_site(tmp_path) as site,
            site.lab.connected(),
            open_tab(site.link("view")) as tab,
        ):
            await tab.show(PAGE, ".finding.ok")
            for name in ("Disarm", "Arm stay", "Bypass", "Read anew", "Learn"):
                assert await tab.page.get_by_role("button", name=name).count() == 0
            assert tab.complaints == []

    browse(story)


def test_an_unknown_caller_is_learnt(browse, tmp_path):
    """Without a panel the page says what to do; learning shows who calls and what to add."""

    async def story(open_tab):
        async with panel_site(tmp_path, count=0) as site, open_tab(site.link()) as tab:
            page = tab.page
            await tab.show(PAGE, "text=No panel is configured")
            await page.get_by_role("button", name="Learn for 5 minutes").click()
            await page.wait_for_selector("text=Learning for another")
            async with site.lab.simulated(identity(9)):
                await page.wait_for_selector(f"td:has-text('{identity(9).integration_id}')")
            await page.get_by_role("button", name="End", exact=True).click()
            await page.get_by_role("button", name="Learn for 5 minutes").wait_for()
            assert not site.lab.gateway.learnt
            assert tab.complaints == []

    browse(story)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_is_accessible_and_fits(browse, tmp_path, scheme, size):
    """No serious finding of axe-core, no sideways scrolling, no line in the console; the dialog, too."""

    async def story(open_tab):
        programme = {"zones": house(24, 2), "partitions": ("House", "Workshop")}
        async with (
            panel_site(tmp_path, count=2) as site,
            site.lab.connected(programme=programme) as panel,
            open_tab(site.link(), size=size, scheme=scheme) as tab,
        ):
            panel.arm(2, 2, user=2)
            panel.open_zone(1)
            panel.house.set_low_battery(6, is_low=True)
            panel.bypass(3)
            panel.open_zone(7)
            await site.lab.until(lambda: bool(site.lab.partition().alarm.value))
            page = tab.page
            await tab.show(PAGE, ".finding.bad")
            await page.wait_for_selector(".house td")
            findings = await tab.grave_findings()
            assert not await tab.is_wider_than_the_screen()
            await page.get_by_role("button", name="Bypass Front Door").click()
            findings += await tab.grave_findings()
            await page.keyboard.press("Escape")
            panel.cut()
            await page.wait_for_selector(".partition.is-stale")
            findings += await tab.grave_findings()
            assert not await tab.is_wider_than_the_screen()
            assert findings == []
            assert tab.complaints == []

    browse(story)
