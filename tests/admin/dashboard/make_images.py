"""``make images``: the demo with everything in it, looked at by Debian's Chromium, into ``docs/images``.

What the pictures show is what the demo did: no figure in them is made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import re
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp
from PIL import Image

from sojourn.cli.control import ControlClient
from sojourn.cli.top_board import Board
from sojourn.cli.top_screen import Top

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from daemon_process import PROGRAM, environment  # noqa: E402 - after the path
from dashboard_lab import NARROW, WIDE, chromium  # noqa: E402 - after the path

IMAGES = ROOT / "docs" / "images"
STARTED_WITHIN_S = 240.0
LAST_LINE = "Ctrl-C stops everything"
ENOUGH_S = 75.0
"""How long the demo runs before it is looked at: the last minute is the charts', and without the demo's beginning."""
SETTLED_MS = 2_500
"""How long a page has for what comes by itself: figures each second, tables every two."""
CHART_MS = 30_000
"""How long a chart needs to become one."""
TALL = (1440, 1160)
TERMINAL = (120, 34)
"""Columns and lines."""
TERMINAL_S = 8.0
"""How long the terminal's screen needs for the same."""
COLOURS_COUNT = 255
LARGEST_BYTES = 200_000
"""Of one picture: they are in every clone."""
VIEW_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
FONTS_FROM_ELSEWHERE = re.compile(r"@font-face\s*{[^}]*}")


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


def write(name, shot):
    """Write a picture with as many colours as its file may cost; nobody sees those that are missing."""
    with Image.open(io.BytesIO(shot)) as whole:
        small = whole.convert("RGB").quantize(COLOURS_COUNT, dither=Image.Dither.NONE)
    small.save(IMAGES / f"{name}.png", optimize=True)
    size_bytes = (IMAGES / f"{name}.png").stat().st_size
    assert size_bytes <= LARGEST_BYTES, f"{name}.png has {size_bytes} bytes"
    sys.stderr.write(f"docs/images/{name}.png {size_bytes} bytes\n")


async def picture(tab, name, place, until):
    """Go to a place and take its picture."""
    await tab.show(place, until)
    await tab.page.wait_for_timeout(SETTLED_MS)
    await tab.page.evaluate("scrollTo(0, 0)")
    write(name, await tab.page.screenshot())


async def explain(tab):
    """Have a denied command explained, as a reader would."""
    await tab.show("#/gateways/tacacs", "text=no rule matches")
    await tab.page.get_by_role("button", name="Denied").click()
    await tab.page.locator("button[aria-label^='Explain']").first.click()
    await tab.page.wait_for_selector(".verdict")
    await tab.page.wait_for_timeout(SETTLED_MS)
    await tab.page.evaluate("scrollTo(0, 0)")
    write("tacacs", await tab.page.screenshot())


async def terminal(control, open_tab):
    """Let ``sojourn top`` draw itself, and the browser draw that."""
    async with ControlClient(control) as server:
        screen = Top(server, Board(await server.overview()), may_close=True)
        async with screen.run_test(size=TERMINAL) as pilot:
            await asyncio.sleep(TERMINAL_S)
            await pilot.pause()
            drawn = FONTS_FROM_ELSEWHERE.sub("", screen.export_screenshot(title="sojourn top"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "top.svg"
        file.write_text(drawn, encoding="utf-8")
        width, height = map(float, VIEW_BOX.search(drawn).groups())
        async with open_tab(file.as_uri(), size=(math.ceil(width), math.ceil(height))) as tab:
            write("top", await tab.page.screenshot())


async def take(control):
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)

    async def link():
        return (await ask(control, "POST", "/login-links", {}))["url"]

    async def find(query):
        return (await ask(control, "GET", f"/sessions?{query}&limit=100"))["sessions"]

    trading = (await find("gateway=exchange&state=open"))[-1][
        "id"
    ]  # the first trader's, with the kills in it
    logins = await find("gateway=tacacs&state=finished&search=ana")
    longest = max(logins, key=lambda row: (row["ended"] or 0) - row["started"])["id"]
    async with chromium() as open_tab:

        @contextlib.asynccontextmanager
        async def logged_in(**more):
            async with open_tab(await link(), **more) as tab:
                await tab.page.wait_for_selector(".gateway-card")
                yield tab

        async with logged_in(size=WIDE) as tab:
            await picture(tab, "overview", "#/", ".gateway-card")
            await picture(tab, "sessions", "#/sessions", ".virtual-line")
            await picture(tab, "session", f"#/sessions/{trading}", ".seq-arrow")
            await picture(tab, "session-tacacs", f"#/sessions/{longest}", ".seq-arrow")
            await picture(tab, "gateways", "#/gateways", ".strip")
            await picture(tab, "events", "#/events", ".virtual-line")
            await picture(tab, "settings", "#/config", ".toml-table")
        async with logged_in(size=TALL) as tab:
            await explain(tab)
            await tab.show("#/gateways/exchange", ".chart-line")
            await tab.page.wait_for_timeout(CHART_MS)
            await picture(tab, "exchange", "#/gateways/exchange", ".chart-line")
            await picture(tab, "postgres", "#/gateways/postgres", ".node")
            await picture(tab, "itv2", "#/gateways/itv2", ".zone")
        async with logged_in(size=WIDE, scheme="dark") as tab:
            await picture(tab, "overview-dark", "#/", ".gateway-card")
            await picture(tab, "session-dark", f"#/sessions/{trading}", ".seq-arrow")
        async with logged_in(size=NARROW) as tab:
            await picture(tab, "phone-overview", "#/", ".gateway-card")
            await picture(tab, "phone-session", f"#/sessions/{trading}", ".seq-arrow")
            await picture(tab, "phone-itv2", "#/gateways/itv2", ".zone")
        await terminal(control, open_tab)


async def main():
    """Run the demo, let it work, take the pictures."""
    with tempfile.TemporaryDirectory(prefix="sojourn-images-") as folder:
        async with demo(Path(folder)) as control:
            await asyncio.sleep(ENOUGH_S)
            await take(control)


if __name__ == "__main__":
    asyncio.run(main())
