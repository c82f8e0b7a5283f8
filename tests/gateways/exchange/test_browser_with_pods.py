"""The desk in Debian's Chromium with pods of the gateway: nothing between the two but what users have.

Source: exchange-session-service.md section 5.4.
"""

from __future__ import annotations

import pytest
from exchange_browser_lab import open_browser
from exchange_pod_lab import PodLab, becomes, running_postgres

from sojourn.core.settings import ListenerSettings
from sojourn.gateways.exchange.config import SimulatorsSettings
from sojourn.gateways.exchange.spawners.process_config import ProcessSettings

pytestmark = pytest.mark.debian("chromium")


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def browse():
    """Run a story with a maker of tabs, each of a browser of its own."""
    with open_browser() as run:
        yield run


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


async def log_in(tab, token):
    """Type a token, and see the market."""
    await tab.page.get_by_label("Token").fill(token)
    await tab.page.get_by_role("button", name="Open the session").click()
    await tab.page.get_by_role("cell", name="AAA").wait_for()


async def buy(tab, quantity, offset):
    """Buy at the market, and see the last event of it."""
    await tab.page.get_by_label("Quantity").fill(str(quantity))
    await tab.page.get_by_role("button", name="Send").click()
    await tab.page.locator("#offset", has_text=f"{offset} (").wait_for()


async def shown(tab, name):
    return await tab.page.locator(f"#{name}").text_content()


async def events(tab):
    """Return the offsets of the events that the page shows, the oldest first."""
    lines = await tab.page.locator("#events li span:first-child").all_text_contents()
    return [int(line.split()[0]) for line in reversed(lines)]


def test_a_browser_holds_its_session_through_a_restart_of_the_server(lab, browse):
    """Issue 4, "must show" 4: the page trades before and after, and hears every event once."""

    async def story(new_tab):
        simulators = SimulatorsSettings(driver="process", market=lab.settings().simulators.market)
        more = {"simulators": simulators, "process": ProcessSettings(dies_with_parent=False)}
        async with lab.pod(**more) as pod:
            address = pod.url.removeprefix("http://")
            entering = new_tab(pod.url)
            tab = await entering.__aenter__()
            await log_in(tab, lab.token())
            await buy(tab, 3, offset=2)
        await tab.page.get_by_role("status").filter(has_text="back in").wait_for()
        async with lab.pod(listeners=(ListenerSettings(address=address),), **more):
            await tab.page.get_by_role("status").filter(has_text="live").wait_for()
            await buy(tab, 4, offset=4)
            assert await events(tab) == [1, 2, 3, 4]
            assert [await shown(tab, name) for name in ("reconnects", "lost")] == ["1", "0"]
            await tab.page.get_by_role("button", name="End the session").click()
            await tab.page.get_by_text("session_ended: user").wait_for()
            await entering.__aexit__(None, None, None)

    browse(story)


def test_a_page_whose_session_another_device_took_over_does_not_come_back(lab, browse):
    """4003 is what the browser sees, not 1006: or two pages of one user would throw each other out without end."""

    async def story(new_tab):
        async with lab.pod() as pod, new_tab(pod.url) as first, new_tab(pod.url) as second:
            await log_in(first, lab.token())
            await log_in(second, lab.token())
            await first.page.get_by_text("replaced: by web-").wait_for()
            await buy(second, 1, offset=2)
            assert pod.gateway.door.closes == {4003: 1}
            assert first.complaints == second.complaints == []

    browse(story)


def test_a_page_that_is_reloaded_goes_on_where_it_was(lab, browse):
    """The cursor is in sessionStorage, the token is not: it is asked for again."""

    async def story(new_tab):
        async with lab.pod() as pod, new_tab(pod.url) as tab:
            await log_in(tab, lab.token())
            await buy(tab, 1, offset=2)
            (session,) = pod.gateway.keeper.rooms
            await tab.page.goto("about:blank")
            await becomes(pod, session, links_count=0)
            async with lab.client() as http:
                order = {"symbol": "AAA", "side": "buy", "quantity": 1, "type": "market", "tif": "ioc"}
                headers = {"Idempotency-Key": "meanwhile"}
                placed = await http.post(
                    f"{pod.url}/v1/sessions/{session}/orders", json=order, headers=headers
                )
                assert placed.status == 201
            await tab.page.goto(pod.url)
            await log_in(tab, lab.token())
            await buy(tab, 1, offset=6)
            assert await events(tab) == [3, 4, 5, 6]
            assert await tab.page.locator("#orders li").count() == 3
            assert [await shown(tab, name) for name in ("recovered", "lost")] == ["2", "0"]
            stored = await tab.page.evaluate("JSON.stringify({ ...sessionStorage, ...localStorage })")
            assert lab.token()[:20] not in stored

    browse(story)


def test_a_token_that_is_not_good_is_told_to_the_person(lab, browse):
    """No loop, no silence: the words of the server, and the field again."""

    async def story(new_tab):
        async with lab.pod() as pod, new_tab(pod.url) as tab:
            await tab.page.get_by_label("Token").fill(lab.token(lifetime_s=-600.0))
            await tab.page.get_by_role("button", name="Open the session").click()
            await tab.page.get_by_role("status").filter(has_text="invalid_token").wait_for()
            assert await tab.page.get_by_label("Token").is_visible()

    browse(story)
