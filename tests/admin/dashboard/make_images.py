"""``make images``: the demo with everything in it, looked at by Debian's Chromium, into ``docs/images``.

What the pictures show is what the demo did: no figure in them is made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from daemon_process import PROGRAM, environment  # noqa: E402 - after the path
from dashboard_lab import NARROW, WIDE, chromium  # noqa: E402 - after the path

IMAGES = ROOT / "docs" / "images"
STARTED_WITHIN_S = 120.0
LAST_LINE = "Ctrl-C stops everything"
ENOUGH_S = 40.0
"""How long the demo runs before it is looked at, so that there is something in the last minute."""
SETTLED_MS = 2_500
"""How long a page has for what comes by itself: figures each second, tables every two."""
TALL = (1440, 1160)


@contextlib.asynccontextmanager
async def demo(folder):
    """Run the demo; yields its control socket."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("run", "--demo"),
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
        env=environment(folder) | {"TMPDIR": str(folder)},
    )
    try:
        async with asyncio.timeout(STARTED_WITHIN_S):
            while line := await process.stdout.readline():
                sys.stderr.buffer.write(line)
                if LAST_LINE in line.decode():
                    break
        reading = asyncio.ensure_future(process.stdout.read())
        yield folder / "sojourn.sock"
        process.send_signal(signal.SIGINT)
        await reading
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def ask(control, method, path, body=None):
    """Ask the demo's control socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(control))) as session,
        session.request(method, f"http://local/api/v1{path}", json=body) as answer,
    ):
        return json.loads(await answer.read())


async def picture(tab, name, place, until, *, whole=False):
    """Go to a place and take its picture."""
    await tab.show(place, until)
    await tab.page.wait_for_timeout(SETTLED_MS)
    await tab.page.screenshot(path=IMAGES / f"{name}.png", full_page=whole)
    sys.stderr.write(f"docs/images/{name}.png\n")


async def explain(tab):
    """Have a denied command explained, as a reader would."""
    await tab.show("#/gateways/tacacs", "text=no rule matches")
    await tab.page.get_by_role("button", name="Denied").click()
    await tab.page.locator("button[aria-label^='Explain reload']").first.click()
    await tab.page.wait_for_selector(".verdict")
    await tab.page.evaluate("scrollTo(0, 0)")
    await tab.page.wait_for_timeout(SETTLED_MS)
    await tab.page.screenshot(path=IMAGES / "tacacs.png")
    sys.stderr.write("docs/images/tacacs.png\n")


async def take(control):
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)

    async def link():
        return (await ask(control, "POST", "/login-links", {}))["url"]

    trading = (await ask(control, "GET", "/sessions?gateway=exchange&limit=1"))["sessions"][0]["id"]
    login = (await ask(control, "GET", "/sessions?gateway=tacacs&state=finished&search=ana&limit=100"))[
        "sessions"
    ]
    longest = max(login, key=lambda row: (row["ended"] or 0) - row["started"])["id"]
    async with chromium() as open_tab:
        async with open_tab(await link(), size=WIDE) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            await picture(tab, "overview", "#/", ".gateway-card")
            await picture(tab, "sessions", "#/sessions", ".virtual-line")
            await picture(tab, "session", f"#/sessions/{trading}", ".seq-arrow")
            await picture(tab, "session-tacacs", f"#/sessions/{longest}", ".seq-arrow")
            await picture(tab, "events", "#/events", ".virtual-line")
        async with open_tab(await link(), size=TALL) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            await explain(tab)
            await tab.show("#/gateways/exchange", ".chart-line")
            await tab.page.wait_for_timeout(30_000)  # a chart needs time to become one
            await picture(tab, "exchange", "#/gateways/exchange", ".chart-line")
            await picture(tab, "postgres", "#/gateways/postgres", ".node")
        async with open_tab(await link(), size=WIDE, scheme="dark") as tab:
            await tab.page.wait_for_selector(".gateway-card")
            await picture(tab, "overview-dark", "#/", ".gateway-card")
            await picture(tab, "session-dark", f"#/sessions/{trading}", ".seq-arrow")
        async with open_tab(await link(), size=NARROW) as tab:
            await tab.page.wait_for_selector(".gateway-card")
            await picture(tab, "phone-overview", "#/", ".gateway-card")
            await picture(tab, "phone-session", f"#/sessions/{trading}", ".seq-arrow")


async def main():
    """Run the demo, let it work, take the pictures."""
    with tempfile.TemporaryDirectory(prefix="sojourn-images-") as folder:
        async with demo(Path(folder)) as control:
            await asyncio.sleep(ENOUGH_S)
            await take(control)


if __name__ == "__main__":
    asyncio.run(main())
