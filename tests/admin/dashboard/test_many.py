"""What the dashboard does with much, and with what strangers may call their things: an API that a test has made up."""

from __future__ import annotations

import time

import msgspec
import pytest
from dashboard_api import EVIL, FakeApi, login_trace
from dashboard_lab import browsing, fake_site

from sojourn.admin.view import SessionRow
from sojourn.core.report import TroubleRow

pytestmark = pytest.mark.debian("chromium")
LINES_AT_MOST = 60


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser."""
    with browsing() as run:
        yield run


def with_trace(fake, entries=None, **changes):
    """Add an open session with what happened in it; return it."""
    started = time.time() - 20
    row = SessionRow(
        id="tacacs-live", gateway="tacacs", peer="192.0.2.7:49152", about="ana", state="open", started=started
    )
    row = msgspec.structs.replace(row, **changes)
    fake.add_session(row, login_trace(started) if entries is None else entries)
    return row


def test_ten_thousand_sessions_are_some_dozen_lines_in_the_page(browse):
    """The list holds what can be seen, reads on as one scrolls, and stays still while sessions come."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=10_000)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show("#/sessions", ".virtual-line")
            while "10,000 sessions" not in await page.locator(".about").inner_text():
                await page.evaluate(
                    "{ const list = document.querySelector('.virtual'); list.scrollTop = list.scrollHeight; }"
                )
                await page.wait_for_selector(".virtual")
            assert await page.locator(".virtual-line").count() < LINES_AT_MOST
            await page.evaluate("document.querySelector('.virtual').scrollTop = 4000")
            await page.wait_for_selector('.virtual-line[data-index="100"]')
            seen = await page.locator('.virtual-line[data-index="102"] .strong').inner_text()
            with_trace(fake)
            await page.wait_for_selector(".fresh:has-text('1 new')")
            assert await page.locator('.virtual-line[data-index="102"] .strong').inner_text() == seen
            await page.locator(".fresh").click()
            await page.wait_for_selector('.virtual-line[data-index="0"]:has-text("ana")')
            assert tab.complaints == []

    browse(story)


def test_repetitions_are_folded_until_they_are_opened(browse):
    """Six equal exchanges are one and a line that counts five; Enter shows them; gaps and errors stay in place."""

    async def story(open_tab):
        fake = FakeApi()
        row = with_trace(fake)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show(f"#/sessions/{row.id}", ".seq-fold")
            assert "the same, every 2.0 s" in await page.locator(".seq-fold").text_content()
            assert await page.locator(".seq-row.error").count() == 1
            assert await page.locator(".seq-gap").count() == 3
            shown = await page.locator(".seq-arrow").count()
            await page.locator(".seq-fold").focus()
            await page.keyboard.press("Enter")
            await page.locator(".seq-arrow").nth(shown + 9).wait_for()

    browse(story)


def test_the_keyboard_walks_through_a_diagram_and_shows_what_is_kept(browse):
    """Arrow keys go from message to message; the summary of each is shown, without a pointer."""

    async def story(open_tab):
        fake = FakeApi()
        row = with_trace(fake)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show(f"#/sessions/{row.id}", ".seq-arrow")
            await page.locator(".seq").focus()
            for key in ("Home", "ArrowDown"):
                await page.keyboard.press(key)
            assert "user=ana port=tty0" in await page.locator(".looked-at").inner_text()
            assert await page.locator(".seq-tip").is_visible()

    browse(story)


def test_a_diagram_is_exported_as_a_picture_of_its_own(browse):
    """SVG with its style inside and no script; JSON lines and Mermaid come from the server."""

    async def story(open_tab):
        fake = FakeApi()
        row = with_trace(fake)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show(f"#/sessions/{row.id}", ".seq-arrow")
            texts = {}
            for name in ("SVG picture", "JSON lines"):
                await page.locator(".menu summary").click()
                async with page.expect_download() as waiting:
                    await page.get_by_role("button", name=name).click()
                texts[name] = (await (await waiting.value).path()).read_text()
            assert texts["SVG picture"].startswith("<svg")
            assert "AuthorRequest" in texts["SVG picture"]
            assert len(texts["JSON lines"].splitlines()) == len(fake.traces[row.id])
            assert tab.complaints == []

    browse(story)


def test_script_in_what_strangers_say_is_shown_as_text(browse):
    """Names, summaries, problems and events are text, wherever they come from; nothing of them runs."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=3)
        started = time.time() - 20
        evil = [
            msgspec.structs.replace(one, name=EVIL, text=EVIL, source=EVIL) for one in login_trace(started)
        ]
        row = with_trace(fake, evil, about=EVIL, peer=EVIL)
        fake.problems = (TroubleRow(severity="error", gateway=EVIL, text=EVIL, since=started),)
        fake.events = (("error", EVIL, {EVIL: EVIL}),)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".problem")
            assert EVIL in await page.locator(".problem-text").inner_text()
            for place, until in (
                ("#/sessions", ".virtual-line"),
                (f"#/sessions/{row.id}", ".seq-row"),
                ("#/events", ".virtual-line"),
            ):
                await tab.show(place, until)
                assert await page.locator("#app img[src=x], #app script").count() == 0
            await page.wait_for_selector(".virtual-line")
            assert await page.evaluate("window.wasRun") is None
            assert tab.complaints == []

    browse(story)


def test_a_server_that_is_gone_is_told_and_found_again(browse):
    """The line says that it is down; the numbers stay and go on when it is back."""

    async def story(open_tab):
        fake = FakeApi()
        async with fake_site(fake) as link, open_tab(link) as tab:
            await tab.page.wait_for_selector(".line.ok")
            await tab.page.context.set_offline(True)
            for queue in tuple(fake.streams):
                queue.put_nowait(None)
            await tab.page.wait_for_selector(".line.bad")
            await tab.page.context.set_offline(False)
            await tab.page.wait_for_selector(".line.ok")

    browse(story)
