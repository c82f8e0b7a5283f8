"""What the dashboard does with much, and with what strangers may call their things: an API that a test has made up."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from dashboard_api import EVIL, FakeApi, login_trace
from dashboard_lab import browsing, fake_site

from sojourn.admin.values import Configuration
from sojourn.admin.view import SessionRow, TraceEntry
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


def evil_tables():
    """Return the core's tables with nothing but script for names."""
    fake = FakeApi()
    tables = fake.core_tables()
    named = {
        "/listeners": ("listeners", {"address": EVIL}),
        "/limits": ("limits", {"name": EVIL}),
        "/breakers": ("breakers", {"endpoint": EVIL, "state": EVIL}),
        "/audit": ("entries", {"what": EVIL, "who": EVIL, "outcome": EVIL}),
    }
    for path, (field, names) in named.items():
        (row, *_) = getattr(tables[path], field)
        tables[path] = type(tables[path])(**{field: (msgspec.structs.replace(row, **names),)})
    peers = fake.peers({})
    evil = msgspec.structs.replace(peers.peers[0], address=EVIL, names=(EVIL,))
    tables["/peers"] = msgspec.structs.replace(peers, peers=(evil,))
    tables["/config"] = Configuration(toml=f"[x]\nname = {json.dumps(EVIL)}\n")
    return tables


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
        fake.titles = dict.fromkeys(fake.titles, EVIL)
        fake.tables = evil_tables()
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".problem")
            assert EVIL in await page.locator(".problem-text").inner_text()
            for place, until in (
                ("#/sessions", ".virtual-line"),
                (f"#/sessions/{row.id}", ".seq-row"),
                ("#/events", ".virtual-line"),
                ("#/gateways", ".badge:has-text('img src')"),
                ("#/gateways/tacacs", ".tile"),
                ("#/config", ".toml-table"),
            ):
                await tab.show(place, until)
                assert "<img" in await page.locator("main").inner_text()
                assert await page.locator("#app img[src=x], #app script").count() == 0
            assert await page.evaluate("window.wasRun") is None
            assert tab.complaints == []

    browse(story)


def test_a_server_that_is_gone_is_told_and_found_again(browse):
    """A banner says that it is away; the numbers stay. When it is back all is read that was missed."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=3)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".line.ok")
            await tab.show("#/sessions", ".virtual-line")
            await page.context.set_offline(True)
            for queue in tuple(fake.streams):
                queue.put_nowait(None)
            await page.wait_for_selector(".line.bad")
            await page.wait_for_selector(".banner.bad:has-text('this page comes back by itself')")
            assert await page.locator(".virtual-line:not([hidden])").count() == 3
            with_trace(fake)
            await page.context.set_offline(False)
            await page.wait_for_selector(".line.ok")
            await page.wait_for_selector(".virtual-line:has-text('ana')")
            assert await page.locator(".banner").inner_text() == ""

    browse(story)


def test_a_tab_that_nobody_sees_holds_no_stream(browse):
    """Both streams end with the tab out of sight and begin anew when it is seen; what was missed is there then."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=3)
        row = with_trace(fake)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show(f"#/sessions/{row.id}", ".seq-row")
            await tab.until(lambda: fake.streams and fake.followers.get(row.id))
            await tab.see(False)
            await tab.until(lambda: not fake.streams and not fake.followers[row.id])
            told = TraceEntry(at=time.time(), kind="in", name="Later", source="switch-7", target="tacacs")
            fake.add_entries(row.id, told)
            await tab.see(True)
            await tab.until(lambda: len(fake.streams) == 1 and len(fake.followers[row.id]) == 1)
            await page.locator(".seq-name:has-text('Later')").wait_for()
            assert await page.locator(".seq-name:has-text('Later')").count() == 1
            assert tab.complaints == []

    browse(story)


def test_a_long_diagram_holds_what_can_be_seen_and_says_what_is_not_kept(browse):
    """Of 2,500 entries the last 2,000 stay, some dozen of them in the page, all in the exported picture."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=3)
        row = with_trace(fake, [])
        names = [
            f"{'abcdefghij'[i // 100 % 10]}{'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i % 10]}{i // 1000 * 'z'}"
            for i in range(2_500)
        ]
        entries = [
            TraceEntry(at=row.started + i / 1000, kind="in", name=name, source="switch-7", target="tacacs")
            for i, name in enumerate(names)
        ]
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.wait_for_selector(".gateway-card")
            await tab.show(f"#/sessions/{row.id}", ".seq")
            await tab.until(lambda: fake.followers.get(row.id))
            fake.add_entries(row.id, *entries[:2_400])
            fake.add_entries(row.id, *entries[2_400:], has_gap=True)
            await page.locator(f".seq-name:has-text('{names[-1]}')").wait_for()
            assert await page.locator(".seq-row").count() < LINES_AT_MOST * 2
            await page.locator(".seq").focus()
            await page.keyboard.press("Home")
            await page.locator(".seq-gap:has-text('500 earlier entries')").wait_for()
            await page.locator(".menu summary").click()
            async with page.expect_download() as waiting:
                await page.get_by_role("button", name="SVG picture").click()
            picture = (await (await waiting.value).path()).read_text()
            assert picture.count('class="seq-row') == 2_000
            assert "more than is kept has happened here" in picture
            assert tab.complaints == []

    browse(story)


def test_pages_leave_nothing_behind(browse):
    """However often pages are gone through: no node, listener or stream of theirs stays."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=200)
        row = with_trace(fake)
        places = {
            "#/sessions": ".virtual-line",
            f"#/sessions/{row.id}": ".seq-row",
            "#/gateways": "td",
            "#/gateways/tacacs": ".tile",
            "#/events": ".virtual-line",
            "#/config": ".toml-table",
            "#/": ".gateway-card",
            "#/nowhere": "h1:has-text('no such page')",
        }
        async with fake_site(fake) as link, open_tab(link) as tab:
            await tab.page.locator(".gateway-card").first.wait_for()
            weights = []
            for _ in range(3):
                for place, until in places.items():
                    await tab.show(place, until)
                weights.append(await tab.weigh())
            assert weights[1] == weights[2]
            await tab.until(lambda: len(fake.streams) == 1 and not fake.followers[row.id])

    browse(story)


def test_what_has_the_focus_keeps_it_while_things_come(browse):
    """The overview's feed stands still under the focus, and goes on when it is gone."""

    async def story(open_tab):
        fake = FakeApi(sessions_count=5)
        async with fake_site(fake) as link, open_tab(link) as tab:
            page = tab.page
            await page.locator("a.feed-line").first.wait_for()
            await page.locator("a.feed-line").nth(1).focus()
            before = await page.evaluate("document.activeElement.textContent")
            with_trace(fake)
            fake.tell("overview", fake.tick())
            await page.wait_for_function(
                "(at) => performance.now() > at", arg=await page.evaluate("performance.now() + 1200")
            )
            assert await page.evaluate("document.activeElement.textContent") == before
            await page.evaluate("document.activeElement.blur()")
            await page.locator("a.feed-line:has-text('ana')").wait_for()

    browse(story)


def test_a_setting_of_many_lines_is_one_setting(browse):
    """An array that TOML writes over lines, with brackets in its texts, belongs to its key; a table follows it."""
    toml = (
        '[tacacs]\nrules = [\n    "a ] b",\n    ["c"],\n]\nnext = 1\n\n'
        '[[tacacs.devices]]\nsecrets = [\n    "***",\n]\n'
    )

    async def story(open_tab):
        fake = FakeApi(sessions_count=1)
        fake.tables["/config"] = Configuration(toml=toml)
        async with fake_site(fake) as link, open_tab(link) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            await tab.show("#/config", ".toml-table")
            assert await tab.page.locator(".toml-table dt").all_text_contents() == [
                "rules",
                "next",
                "secrets",
            ]
            assert await tab.page.locator(".toml-table h3").all_text_contents() == [
                "tacacs",
                "tacacs.devices",
            ]
            values = await tab.page.locator(".toml-table dd").all_text_contents()
            assert values[0].splitlines()[1:3] == ['    "a ] b",', '    ["c"],']
            assert await tab.page.locator("dd.masked").count() == 1

    browse(story)
