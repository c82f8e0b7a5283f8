"""A real server with TACACS+ and an admin API, and ``sojourn top`` over it, driven by textual's own pilot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import tacacs_lab as labs
from admin_lab import OrderedView, admin_settings

from sojourn.admin.serving import AdminServer
from sojourn.cli.control import ControlClient
from sojourn.cli.top_board import Board
from sojourn.cli.top_screen import Top

WITHIN_S = 20.0


class Site(NamedTuple):
    """The server, and where its control socket is."""

    lab: labs.Lab
    admin: AdminServer
    socket: Path


class Seat(NamedTuple):
    """Somebody in front of the screen."""

    screen: Top
    pilot: object

    def text(self):
        """Return what is drawn, line by line."""
        return "\n".join(strip.text.rstrip() for strip in self.screen.screen._compositor.render_strips())

    async def press(self, *keys):
        await self.pilot.press(*keys)

    async def until(self, *texts, gone=""):
        """Wait until all texts are drawn, and another one is not; return what is drawn then."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            drawn = self.text()
            if all(text in drawn for text in texts) and not (gone and gone in drawn):
                return drawn
            assert time.monotonic() < deadline, f"wanted {texts}, not {gone!r}; drawn:\n{drawn}"
            await self.pilot.pause(0.01)


@contextlib.asynccontextmanager
async def site(folder, **more):
    """Run the server; its admin API may be stopped and started again by the test."""
    async with labs.running(labs.settings(folder, **more)) as lab:
        admin = AdminServer(OrderedView(lab.server), admin_settings(), folder / "control.sock")
        await admin.start()
        try:
            yield Site(lab, admin, admin.control)
        finally:
            await admin.stop()


@contextlib.asynccontextmanager
async def watching(place, *, size=(100, 30)):
    """Sit down in front of a screen of this size."""
    async with ControlClient(place) as server:
        may_close = (await server.visitor()).scope != "view"
        screen = Top(server, Board(await server.overview()), may_close=may_close)
        async with screen.run_test(size=size, notifications=True) as pilot, asyncio.timeout(WITHIN_S * 2):
            yield Seat(screen, pilot)
        if screen.failure is not None:
            raise screen.failure
