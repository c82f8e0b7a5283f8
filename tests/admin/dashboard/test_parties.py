"""A diagram of more than two in Debian's Chromium: a login that the lock-out ends, with four who took part."""

from __future__ import annotations

import pytest
from dashboard_lab import NARROW, WIDE, browsing, real_site
from tacacs_lab import pap

from sojourn.gateways.tacacs.config import Lockout

pytestmark = pytest.mark.debian("chromium")

PARTIES = ["lab", "tacacs", "local users", "lock-out"]
LIFELINES = (
    "[...document.querySelectorAll('.seq-party')].map((one) => one.querySelector('title').textContent)"
)
IS_SCROLLED_INSIDE = (
    "(() => { const box = document.querySelector('.seq'); return box.scrollWidth > box.clientWidth; })()"
)
WIDTH = "document.querySelector('.seq-body').viewBox.baseVal.width"
OUTSIDE = f"""[...document.querySelectorAll('.seq-row text')].map((one) => one.getBBox())
    .filter((box) => box.x < 0 || box.x + box.width > {WIDTH}).length"""


@pytest.fixture(scope="module")
def browse():
    """Run stories in one browser."""
    with browsing() as run:
        yield run


@pytest.mark.parametrize(("size", "is_scrolled_inside"), [(WIDE, False), (NARROW, True)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_four_lifelines_fit_a_desk_and_scroll_inside_their_box_on_a_phone(
    browse, tmp_path, size, is_scrolled_inside, scheme
):
    """The device at the left, the gateway beside it, who was asked at the right; the page itself is never too wide."""

    async def story(open_tab):
        async with real_site(tmp_path, lockout=Lockout(failures_count=1)) as site:
            async with site.lab.wire() as wire:
                await wire.ask(pap(password="guess"))
            async with open_tab(site.link(), size=size, scheme=scheme) as tab:
                await tab.show("#/sessions/tacacs-1", ".seq-row")
                await tab.page.wait_for_selector("text=locked out now")
                assert await tab.page.evaluate(LIFELINES) == PARTIES
                assert await tab.page.locator(".seq-party.ours title").text_content() == "tacacs"
                assert await tab.page.evaluate(IS_SCROLLED_INSIDE) == is_scrolled_inside
                assert not await tab.is_wider_than_the_screen()
                assert await tab.page.evaluate(OUTSIDE) == 0
                assert await tab.page.locator(".seq-row.leg").count() == 3
                assert await tab.grave_findings() == []
                assert tab.complaints == []

    browse(story)
