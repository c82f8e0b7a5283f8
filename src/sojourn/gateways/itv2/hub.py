"""All panels in one hub: a panel for each integration id, views that are told, and one task for what is due.

Knows nothing of sockets, of the history's files, nor of MQTT and HTTP; what a panel is, says :mod:`panels`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, Final

from sojourn.core.clock import Clock
from sojourn.core.events import EventKind, Events
from sojourn.gateways.itv2.events import PanelEvent
from sojourn.gateways.itv2.hub_config import LockoutSettings, PanelProfile, StateSettings
from sojourn.gateways.itv2.panels import Panel
from sojourn.gateways.itv2.views import PanelView

VIEW_FAILED: Final = EventKind("itv2.view_failed", ("panel", "view", "problem"), level="error")
"""Somebody who is told about panels raised an exception; the others were told nevertheless."""


class PanelHub:
    """All panels, and whoever is told about them.

    Life: made at start; :meth:`run` is its one task and must run for anything to be asked or carried out.

    Args:
        clock: monotonic seconds, for what is due; wall_ms: unix ms, for what people read.
        store: gets the events that :meth:`Panel.take` does not return: pulls, delays, commands, connections.
    """

    def __init__(
        self,
        settings: StateSettings,
        lockout: LockoutSettings,
        *,
        clock: Clock,
        wall_ms: Callable[[], int],
        events: Events,
        store: Callable[[Panel, Sequence[PanelEvent]], None] | None = None,
    ) -> None:
        self.settings = settings
        self.lockout_settings = lockout
        self.clock = clock
        self.wall_ms = wall_ms
        self.events = events
        self.store = store
        self.panels: dict[str, Panel] = {}
        self.by_id: dict[str, Panel] = {}
        self.is_leaving = False
        """Nothing more is asked of panels: the server stops."""
        self._views: tuple[PanelView, ...] = ()
        self._heap: list[tuple[float, int, Panel]] = []
        self._numbers = count()
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    # Who there is

    def add(self, profile: PanelProfile) -> Panel:
        """Add a panel, or give one that is there its new settings."""
        panel = self.panels.get(profile.name)
        if panel is not None and panel.id == profile.integration_id:
            panel.configure(profile)
            return panel
        if panel is not None:
            self.remove(profile.name)
        panel = self.panels[profile.name] = self.by_id[profile.integration_id] = Panel(self, profile)
        self.tell(lambda view: view.configuration_changed(panel), panel)
        return panel

    def remove(self, name: str) -> None:
        """Forget a panel; its session is the gateway's to end."""
        panel = self.panels.pop(name)
        if self.by_id.get(panel.id) is panel:  # another one may have its id already
            del self.by_id[panel.id]
        panel.lost("the panel is not configured any more")
        self.tell(lambda view: view.configuration_changed(panel), panel)

    # Who is told

    def subscribe(self, view: PanelView) -> None:
        """Tell ``view`` from now on."""
        self._views = (*self._views, view)

    def unsubscribe(self, view: PanelView) -> None:
        """Tell ``view`` no more."""
        self._views = tuple(one for one in self._views if one is not view)

    def tell(self, say: Callable[[PanelView], None], panel: Panel) -> None:
        """Tell every view; one that fails does not keep it from the others."""
        for view in self._views:
            try:
                say(view)
            except Exception as error:  # noqa: BLE001 - a bug in one interface must reach neither panels nor others
                self.events.emit(VIEW_FAILED, None, panel.name, type(view).__name__, type(error).__name__)

    def store_events(self, panel: Panel, events: Sequence[PanelEvent]) -> None:
        """Store events that no packet waits for."""
        if self.store is None:
            return
        try:
            self.store(panel, events)
        except Exception as error:  # noqa: BLE001 - as in tell
            self.events.emit(VIEW_FAILED, None, panel.name, "history", type(error).__name__)

    # What is due

    def at(self, due: float, panel: Panel) -> None:
        """Look at a panel at a point in time; infinity is never."""
        if panel.scheduled_at <= due:
            return
        panel.scheduled_at = due
        is_first = not self._heap or due < self._heap[0][0]
        heappush(self._heap, (due, next(self._numbers), panel))
        if is_first:
            self._wake.set()

    def fire(self) -> None:
        """Do everything that is due."""
        now = self.clock()
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap)[2])
        for panel in dict.fromkeys(due):
            panel.scheduled_at = inf
            panel.fire()

    def spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run ``work`` beside the rest; False while the hub does not run, and then nothing is done."""
        if self._group is None:
            work.close()
            return False
        self._group.create_task(work)
        return True

    def look(self) -> None:
        """Look at the clock anew; for clocks that are moved by hand."""
        self._wake.set()

    async def leave(self, timeout_s: float) -> None:
        """Let what is under way with panels come to its end, and begin nothing more."""
        self.is_leaving = True
        turns = [panel.turn for panel in self.panels.values() if panel.session is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(turn.acquire() for turn in turns))

    async def run(self) -> None:
        """Keep states true until cancelled: delays, targeted pulls, refreshes, commands."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    self._wake.clear()
                    self.fire()
                    wait_s = max(0.0, self._heap[0][0] - self.clock()) if self._heap else None
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()
            finally:
                self._group = None
