"""Debian's Chromium with a session of the exchange gateway in a page, for tests of ``sojourn.js`` and the desk."""

from __future__ import annotations

import asyncio
import contextlib
import os

from exchange_peer_lab import WITHIN_S
from playwright.async_api import async_playwright

CHROMIUM = "/usr/bin/chromium"
TOKEN = "the-token-of-ana"
TERMS = {"min_s": 0.02, "max_s": 0.1, "jitter": 1.0}
OPEN = """async (more) => {
  const { SojournSession, CLOSE_CODES } = await import("/v1/sojourn.js");
  window.codes = CLOSE_CODES;
  window.told = [];
  window.tokens = [];
  window.session = new SojournSession({
    device: "d1",
    random: () => 0.5,
    token: ({ isRefused }) => { window.tokens.push(isRefused); return more.bearer ?? `TOKEN-${window.tokens.length}`; },
    ...more,
  });
  for (const kind of ["state", "event", "snapshot", "rows", "portfolio", "simulator", "quality", "warn", "end"])
    session.addEventListener(kind, ({ detail }) => told.push({ ...detail, kind }));
  session.open().catch((error) => { window.refusal = error.code; });
}""".replace("TOKEN", TOKEN)


class Tab:
    """A page with a session in it, and the scripted server that it talks to, if that is one."""

    def __init__(self, page, server=None):
        self.server, self.page = server, page
        self.complaints = []
        page.set_default_timeout(WITHIN_S * 1000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))

    async def begin(self, **more):
        """Make a session in the page."""
        await self.page.evaluate(OPEN, more)

    async def open(self, *, options=None, **greeting):
        """Make a session in the page, and return the server's side of its first connection, greeted."""
        await self.begin(**(options or {}))
        link = await self.server.link()
        await link.greet(**{"reconnect": TERMS, **greeting})
        await self.until("session.state === 'live'")
        return link

    async def again(self, **greeting):
        """Return the server's side of the next connection, which resumes, and the hello on it."""
        link = await self.server.link()
        return link, await link.regreet(**{"reconnect": TERMS, **greeting})

    async def until(self, condition):
        await self.page.wait_for_function(condition)

    async def told(self, kind, field):
        """Return one field of all that the page was told of one kind."""
        script = "([kind, field]) => told.filter((one) => one.kind === kind).map((one) => one[field])"
        return await self.page.evaluate(script, [kind, field])

    async def ask(self, call):
        """Begin to ask something; ``answer`` or ``refusal`` will be set."""
        script = f"{{ window.answer = window.refusal = null; {call}"
        await self.page.evaluate(
            script + ".then((value) => { answer = value; }, (error) => { refusal = error.code; }); 0; }"
        )

    def urls(self):
        return [str(request.url) for request in self.server.requests]


@contextlib.contextmanager
def open_browser():
    """Run the browser; yields what runs a coroutine function with a maker of tabs, each of a user of its own."""
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with asyncio.Runner() as runner:
        playwright = runner.run(async_playwright().start())
        browser = runner.run(playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))

        @contextlib.asynccontextmanager
        async def new_tab(url, server=None):
            context = await browser.new_context()
            try:
                page = await context.new_page()
                tab = Tab(page, server)
                await page.goto(url)
                yield tab
            finally:
                await context.close()

        async def bounded(main):
            async with asyncio.timeout(60):
                await main(new_tab)

        yield lambda main: runner.run(bounded(main))
        runner.run(browser.close())
        runner.run(playwright.stop())
