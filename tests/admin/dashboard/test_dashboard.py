"""The dashboard in Debian's Chromium, on a real server with the TACACS+ gateway: what an operator does with it."""

from __future__ import annotations

import re

import pytest
from admin_lab import admin_settings
from dashboard_lab import NARROW, WIDE, browsing, real_site
from tacacs_lab import command, pap, record, start, typed

from sojourn.admin.serving import AdminServer

pytestmark = pytest.mark.debian("chromium")


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser, each against a server of its own."""
    with browsing() as run:
        yield run


def test_a_login_link_opens_the_dashboard_once_and_leaves_no_trace_in_the_address(browse, tmp_path):
    """The link's secret is in no history, works once, and is followed by a cookie that scripts cannot read."""

    async def story(open_tab):
        async with real_site(tmp_path) as site:
            link = site.link()
            async with open_tab(link) as tab:
                await tab.page.wait_for_selector("h1:has-text('Overview')")
                assert "#" not in tab.page.url
                assert await tab.page.evaluate("document.cookie") == ""
                await tab.page.reload()
                await tab.page.wait_for_selector("h1:has-text('Overview')")
                assert tab.complaints == []
                await tab.page.get_by_role("button", name="Log out").click()
                await tab.page.wait_for_selector(".login-card")
            async with open_tab(link) as tab:
                await tab.page.wait_for_selector(".problem-line:not(:empty)")
                assert await tab.page.locator(".frame").count() == 0

    browse(story)


def test_a_first_visit_asks_for_a_login_without_a_failed_request(browse, tmp_path):
    """Who was never let in sees how to get in, and no error in the console."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(f"http://{site.admin.address}/") as tab:
            await tab.page.wait_for_selector("text=sojourn login-link")
            assert tab.complaints == []
            assert await tab.grave_findings() == []

    browse(story)


def test_a_forged_cookie_is_shown_the_login_page(browse, tmp_path):
    """A cookie that the server did not make is nobody's: what stood in the address is shown after a login."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(f"http://{site.admin.address}/") as tab:
            port = site.admin.address.rpartition(":")[2]
            cookie = {"name": f"sojourn_{port}", "value": "forged" * 8, "url": tab.url}
            await tab.page.context.add_cookies([cookie])
            await tab.page.evaluate("localStorage.setItem('sojourn.known', 'yes')")
            await tab.page.goto(f"{tab.url}#/config")
            await tab.page.reload()
            await tab.page.wait_for_selector(".login-card")
            assert await tab.page.locator(".frame").count() == 0
            await tab.page.get_by_label("Login code").fill(site.link())
            await tab.page.get_by_role("button", name="Log in").click()
            await tab.page.wait_for_selector("h1:has-text('Settings')")

    browse(story)


def test_a_login_from_a_page_of_somebody_else_is_refused(browse, tmp_path):
    """A request that says another Origin than the server's own lets nobody in, and uses no link up."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(f"http://{site.admin.address}/") as tab:
            link = site.link()

            async def elsewhere(route):
                headers = {**route.request.headers, "origin": "http://evil.example"}
                await route.fulfill(response=await route.fetch(headers=headers))

            await tab.page.route("**/api/v1/login", elsewhere)
            await tab.page.get_by_label("Login code").fill(link)
            await tab.page.get_by_role("button", name="Log in").click()
            await tab.page.wait_for_selector(".problem-line:not(:empty)")
            assert await tab.page.locator(".frame").count() == 0
            await tab.page.unroute("**/api/v1/login")
            await tab.page.get_by_label("Login code").fill(link)
            await tab.page.get_by_role("button", name="Log in").click()
            await tab.page.wait_for_selector("h1:has-text('Overview')")

    browse(story)


def test_who_logs_out_in_one_tab_is_logged_out_in_all(browse, tmp_path):
    """The other tab's stream ends with a word, and it shows the login page without being touched."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            await tab.page.wait_for_selector(".line.ok")
            other = await tab.page.context.new_page()
            await other.goto(f"http://{site.admin.address}/")
            await other.get_by_role("button", name="Log out").click()
            await tab.page.wait_for_selector("text=Your session has ended.")

    browse(story)


def test_a_server_that_was_restarted_asks_for_a_login_and_shows_the_same_page(browse, tmp_path):
    """While it is away a banner says since when and what to do; browsers that an older server let in log in anew."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            await tab.show("#/gateways/tacacs", ".tile")
            await tab.page.wait_for_selector(".line.ok")
            await site.admin.stop()
            banner = tab.page.locator(".banner.bad")
            await banner.wait_for()
            assert "sojourn sessions list" in await banner.inner_text()
            again = AdminServer(
                site.view, admin_settings(address=site.admin.address), tmp_path / "again.sock"
            )
            await again.start()
            try:
                await tab.page.wait_for_selector("text=Your session has ended.")
                await tab.page.get_by_label("Login code").fill(again.login_link())
                await tab.page.get_by_role("button", name="Log in").click()
                await tab.page.wait_for_selector("h1:has-text('TACACS+')")
                await tab.page.wait_for_selector(".line.ok")
            finally:
                await again.stop()

    browse(story)


def test_a_refusal_names_each_field_or_setting_and_what_is_wrong_with_it(browse, tmp_path):
    """RFC 9457 with errors of fields; a refused reload tells every setting as the command line does."""
    ask = "import('/static/api.js').then(({ Api }) => new Api().get('/sessions', { limit: 0 })).catch(String)"

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            assert "The query is wrong: query.limit: " in await tab.page.evaluate(ask)
            site.view.is_bad = True
            await tab.show("#/config", ".toml-table")
            await tab.page.get_by_role("button", name="Reload").click()
            await tab.page.get_by_role("dialog").get_by_role("button", name="Reload").click()
            words = await tab.page.locator(".toast.bad span").first.inner_text()
            assert 'sojourn.toml:3: log.level: found "x", wanted one of ...' in words

    browse(story)


def test_the_keyboard_skips_to_the_page_and_follows_it(browse, tmp_path):
    """The skip link is no address of a page; a session that is opened from the list takes the focus along."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, site.lab.wire() as wire, open_tab(site.link()) as tab:
            page = tab.page
            await wire.ask(start(name=""), session_id=7)
            await page.wait_for_selector(".gateway-card")
            await page.locator(".skip").focus()
            await page.keyboard.press("Enter")
            assert await page.evaluate("document.activeElement.id") == "main"
            assert await page.locator("h1").inner_text() == "Overview"
            await tab.show("#/sessions", ".virtual-line")
            await page.locator(".virtual").focus()
            await page.keyboard.press("Enter")
            await page.wait_for_selector(".seq-arrow")
            assert await page.evaluate("document.activeElement.id") == "main"

    browse(story)


def test_an_address_that_means_nothing_says_so(browse, tmp_path):
    """Also one whose escapes are none."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            for place in ("#/nowhere", "#/sessions/%E0%A4%A"):
                await tab.show(place, "h1:has-text('no such page')")
                await tab.show("#/", ".gateway-card")
            assert tab.complaints == []

    browse(story)


def test_a_session_is_found_its_diagram_grows_and_it_is_closed(browse, tmp_path):
    """Search, open, watch messages arrive, close it with a confirmation: its protocol says goodbye."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, site.lab.wire() as wire, open_tab(site.link()) as tab:
            page = tab.page
            first = await wire.ask(start(name=""), session_id=7)
            await tab.show("#/sessions", ".virtual-line")
            await page.get_by_label("Find sessions").fill("127.0.0.1")
            await page.locator(".virtual-line:not([hidden])").first.click()
            await page.wait_for_selector(".seq-arrow")
            assert await page.locator(".seq-arrow").count() == 2
            await wire.ask(typed("ana"), session_id=7, seq_no=3)
            await page.locator(".seq-arrow").nth(3).wait_for()
            names = await page.locator(".seq-arrow .seq-name").all_text_contents()
            assert names == ["AuthenStart", "AuthenReply", "AuthenContinue", "AuthenReply"]
            assert first.status is not None
            await page.get_by_role("button", name="Close session").click()
            await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
            assert site.lab.manager.session_count == 1
            await page.get_by_role("button", name="Close session").click()
            await page.get_by_role("dialog").get_by_role("button", name="Close session").click()
            await page.wait_for_selector(".page-head .badge:not(.ok)")
            assert await page.get_by_role("button", name="Close session").count() == 0
            assert tab.complaints == []

    browse(story)


def test_who_may_only_look_is_offered_nothing_else(browse, tmp_path):
    """A visitor of scope view sees no button that would be refused."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, site.lab.wire() as wire, open_tab(site.link("view")) as tab:
            await wire.ask(start(name=""), session_id=7)
            await tab.show("#/sessions", ".virtual-line")
            await tab.page.locator(".virtual-line:not([hidden])").first.click()
            await tab.page.wait_for_selector(".seq-arrow")
            assert await tab.page.get_by_role("button", name="Close session").count() == 0
            await tab.show("#/config", ".toml")
            assert await tab.page.get_by_role("button", name="Drain").count() == 0

    browse(story)


def test_a_denied_command_is_explained_rule_by_rule(browse, tmp_path):
    """The decision with its rule and reason, and why each rule before it did not match."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, site.lab.wire() as wire, open_tab(site.link()) as tab:
            page = tab.page
            await wire.ask(command("configure", "terminal", name="ben"), session_id=9)
            await tab.show("#/gateways/tacacs", "text=no rule matches")
            await page.get_by_role("button", name="Explain configure terminal of ben").click()
            await page.wait_for_selector(".verdict.bad:has-text('no rule matches')")
            steps = await page.locator(".steps li").all_text_contents()
            assert len(steps) == 4
            assert "guests-show" in steps[2]
            assert "'configure terminal'" in steps[2]
            assert tab.complaints == []

    browse(story)


def test_a_locked_out_user_is_let_in_again(browse, tmp_path):
    """Wrong passwords lock a user; an operator ends the lock from the page."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            page = tab.page
            table = site.lab.gateway.login_state.lockout
            while not table.is_locked("ben"):
                table.record_failure("ben", site.lab.gateway.config.settings.lockout)
            await tab.show("#/gateways/tacacs", "[aria-label='End the lock of ben']")
            await page.get_by_role("button", name="End the lock of ben").click()
            await page.get_by_role("dialog").get_by_role("button", name="End the lock").click()
            await page.wait_for_selector("text=Nobody is locked out")
            assert not table.is_locked("ben")

    browse(story)


def test_drain_asks_before_it_is_ordered(browse, tmp_path):
    """Nothing that cannot be undone happens by one click."""

    async def story(open_tab):
        async with real_site(tmp_path) as site, open_tab(site.link()) as tab:
            page = tab.page
            await tab.show("#/config", ".toml-table")
            assert "***" in await page.locator(".toml").inner_text()
            await page.get_by_role("button", name="Drain").click()
            await page.keyboard.press("Escape")
            assert site.view.orders == []
            await page.get_by_role("button", name="Reload").click()
            await page.get_by_role("dialog").get_by_role("button", name="Reload").click()
            await page.wait_for_selector(".toast.ok")
            assert site.view.orders == ["reload"]
            assert re.search(r"reload", await page.locator(".table").inner_text())

    browse(story)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_is_accessible_fits_and_complains_of_nothing(browse, tmp_path, scheme, size):
    """No serious finding of axe-core, no sideways scrolling, no line in the console; light and dark, phone and desk."""
    places = {
        "#/": ".gateway-card",
        "#/sessions": ".virtual-line",
        "#/gateways": "td",
        "#/gateways/tacacs": "text=no-reload",
        "#/events": ".virtual-line",
        "#/config": ".toml-table",
    }

    async def story(open_tab):
        async with (
            real_site(tmp_path) as site,
            site.lab.wire() as wire,
            open_tab(site.link(), size=size, scheme=scheme) as tab,
        ):
            for message in (pap(), command("reload"), record("task_id=1")):
                async with site.lab.wire() as other:
                    await other.ask(message, session_id=1)
            await wire.ask(start(name=""), session_id=1)
            findings = []
            for place, until in places.items():
                await tab.show(place, until)
                findings += [f"{place} {one}" for one in await tab.grave_findings()]
                if await tab.is_wider_than_the_screen():
                    findings.append(f"{place} is wider than the screen")
            await tab.show("#/sessions", ".virtual-line")
            await tab.page.locator(".virtual-line:not([hidden])").first.click()
            await tab.page.wait_for_selector(".seq-arrow")
            findings += [f"a session: {one}" for one in await tab.grave_findings()]
            assert findings == []
            assert tab.complaints == []

    browse(story)
