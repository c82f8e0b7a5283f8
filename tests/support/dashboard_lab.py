"""Debian's Chromium in front of a dashboard: of a real server with TACACS+, or of an API that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import axe_playwright_python
import tacacs_lab
from admin_lab import OrderedView, admin_settings
from dashboard_api import LOGIN_CODE, serving_fake
from playwright.async_api import async_playwright

from sojourn.admin.serving import AdminServer

CHROMIUM = "/usr/bin/chromium"
WITHIN_S = 10.0
WIDE, NARROW = (1440, 900), (390, 844)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
LOOK = "() => axe.run(document, { resultTypes: ['violations'] })"
GRAVE = {"serious", "critical"}


class Tab:
    """A page, and all that its console has complained of."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.complaints = []
        page.set_default_timeout(WITHIN_S * 1000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))

    async def show(self, place, until):
        """Go to a place of the dashboard and wait for something there."""
        await self.page.evaluate("(place) => { location.hash = place; }", place)
        # A locator lets go of what it found; a handle would keep a page that is left in memory.
        await self.page.locator(until).first.wait_for()

    async def see(self, is_seen):
        """Put the tab behind another one, or before it again, as the page is told of it."""
        await self.page.evaluate(
            """(isSeen) => {
              Object.defineProperty(document, "hidden", { get: () => !isSeen, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }""",
            is_seen,
        )

    async def weigh(self):
        """Return how many nodes and listeners the page holds, whether they are shown or not."""
        tools = await self.page.context.new_cdp_session(self.page)
        for what in ("Performance.enable", "HeapProfiler.enable", *["HeapProfiler.collectGarbage"] * 3):
            await tools.send(what)
        found = {one["name"]: one["value"] for one in (await tools.send("Performance.getMetrics"))["metrics"]}
        await tools.detach()
        return found["Nodes"], found["JSEventListeners"]

    async def until(self, is_so):
        """Wait until something is so that is not seen in the page."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                await self.page.evaluate("new Promise(requestAnimationFrame)")

    async def grave_findings(self):
        """Return what axe-core finds serious or worse, as readable lines.

        Its script is evaluated and not loaded: the page's own policy stays in force.
        """
        await self.page.evaluate(AXE)
        found = await self.page.evaluate(LOOK)
        return [
            f"{one['id']}: {node['html'][:160]} {node.get('failureSummary', '')}"
            for one in found["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"][:3]
        ]

    async def is_wider_than_the_screen(self):
        return await self.page.evaluate("document.documentElement.scrollWidth > innerWidth")


@contextlib.asynccontextmanager
async def chromium():
    """Run the browser; yields what opens tabs, each with a profile of its own."""
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)

        @contextlib.asynccontextmanager
        async def open_tab(url, *, size=WIDE, scheme="light"):
            context = await browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            try:
                tab = Tab(await context.new_page(), url)
                await tab.page.goto(url)
                yield tab
            finally:
                await context.close()

        try:
            yield open_tab
        finally:
            await browser.close()


@contextlib.contextmanager
def browsing():
    """Run stories in one browser; yields what runs a coroutine function with a maker of tabs."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        open_tab = runner.run(stack.enter_async_context(chromium()))

        async def bounded(story):
            async with asyncio.timeout(90):
                await story(open_tab)

        try:
            yield lambda story: runner.run(bounded(story))
        finally:
            runner.run(stack.aclose())


class Site(NamedTuple):
    """A real server: TACACS+ on loopback, and the admin API over it."""

    lab: tacacs_lab.Lab
    view: OrderedView
    admin: AdminServer

    def link(self, scope="admin"):
        """Return a login link."""
        secret, _ = self.admin._parts.access.new_link("ana", scope)
        return f"http://{self.admin.address}/login#{secret}"


@contextlib.asynccontextmanager
async def real_site(folder, **more):
    """Run a real server with the laboratory's TACACS+ gateway and an admin API."""
    async with tacacs_lab.running(tacacs_lab.settings(folder, **more)) as lab:
        view = OrderedView(lab.server)
        admin = AdminServer(view, admin_settings(), folder / "control.sock")
        await admin.start()
        try:
            yield Site(lab, view, admin)
        finally:
            await admin.stop()


@contextlib.asynccontextmanager
async def fake_site(fake):
    """Serve an API that a test has made up; yields its login link."""
    async with serving_fake(fake) as url:
        yield f"{url}/login#{LOGIN_CODE}"
