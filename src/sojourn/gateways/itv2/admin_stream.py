"""What the page of panels sees change, as it does: a view of the hub that gathers what is new and tells it together.

Knows no HTTP. What is gathered is bounded by what there is: names of panels, numbers of zones and partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sojourn.gateways.itv2.findings import has_trouble, is_in_alarm
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.shown import panel_of, partition_of, summary_of, zone_of
from sojourn.gateways.itv2.session import PanelSession
from sojourn.gateways.itv2.state import Status, is_on

if TYPE_CHECKING:
    from sojourn.gateways.itv2.events import PanelEvent
    from sojourn.gateways.itv2.hub import PanelHub
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.gateways.itv2.state import Change

PAUSE_S: Final = 0.15
"""What happens within it is told together: a panel says several things about one door."""
BEAT_S: Final = 5.0
"""So often the watched panel's row is told all the same: nobody tells that it was heard again."""


class PanelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One panel in a list; ``statuses`` of its partitions by number, ``session`` the id of the one that it has."""

    panel: t.PanelSummary
    statuses: tuple[str, ...]
    open_count: int
    bypassed_count: int
    is_in_alarm: bool
    has_trouble: bool
    session: str


class PanelNews(msgspec.Struct, frozen=True, kw_only=True):
    """What is new; the first of a stream is everything.

    Shape: ``rows`` of panels that are other than before, ``gone`` those that are configured no more. ``panel`` is the
    watched one, whole where more than ``zones`` and ``partitions`` of it is new. ``has_happened``: its history grew.
    Units: ``now_ms`` is unix time.
    """

    now_ms: int
    rows: tuple[PanelRow, ...] = ()
    gone: tuple[str, ...] = ()
    panel: t.PanelDetail | None = None
    zones: tuple[t.Zone, ...] = ()
    partitions: tuple[t.Partition, ...] = ()
    has_happened: bool = False


class PanelWatch:
    """One page that is open.

    Life: from the page's first look until it goes away; subscribed to the hub meanwhile.

    Args:
        hub: the panels.
        watched: the name of the one that is shown in full; empty = none.
    """

    def __init__(self, hub: PanelHub, watched: str) -> None:
        self._hub = hub
        self._watched = watched
        self._names: set[str] = set()
        self._zones: set[int] = set()
        self._partitions: set[int] = set()
        self._is_whole = False
        self._has_happened = False
        self._stirred = asyncio.Event()

    # What the hub tells

    def changed(self, panel: Panel, changes: Sequence[Change]) -> None:
        """Note which zones and partitions are other now."""
        self._stir(panel)
        if panel.name != self._watched:
            return
        for change in changes:
            if change.field == "" or change.scope not in {"zone", "partition"}:
                self._is_whole = True
            else:
                (self._zones if change.scope == "zone" else self._partitions).add(change.number)

    def happened(self, panel: Panel, _events: Sequence[PanelEvent]) -> None:
        """Note that its history grew."""
        if panel.name == self._watched:
            self._has_happened = True
            self._stirred.set()

    def phase_changed(self, panel: Panel) -> None:
        """Tell everything anew: all that was known may be uncertain now."""
        self._is_whole = self._is_whole or panel.name == self._watched
        self._stir(panel)

    configuration_changed = phase_changed

    def _stir(self, panel: Panel) -> None:
        self._names.add(panel.name)
        self._stirred.set()

    # What the page hears

    async def news(self) -> AsyncIterator[PanelNews]:
        """Yield everything, then what is new, until the page goes away."""
        self._hub.subscribe(self)
        try:
            self._names.update(self._hub.panels)
            self._is_whole = True
            yield self._take()
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await self._stirred.wait()
                await asyncio.sleep(PAUSE_S)
                self._names.add(self._watched)
                yield self._take()
        finally:
            self._hub.unsubscribe(self)

    def _take(self) -> PanelNews:
        panels = self._hub.panels
        watched = panels.get(self._watched)
        names, self._names = self._names - {""}, set()
        zones, self._zones = self._zones, set()
        partitions, self._partitions = self._partitions, set()
        is_whole, self._is_whole = self._is_whole, False
        has_happened, self._has_happened = self._has_happened, False
        self._stirred.clear()
        more: dict[str, object] = {}
        if watched is not None and is_whole:
            more["panel"] = panel_of(watched)
        elif watched is not None:
            state = watched.state
            more["zones"] = tuple(
                zone_of(watched, number, state.zones[number]) for number in sorted(zones & state.zones.keys())
            )
            more["partitions"] = tuple(
                partition_of(number, state.partitions[number])
                for number in sorted(partitions & state.partitions.keys())
            )
        return PanelNews(
            now_ms=self._hub.wall_ms(),
            rows=tuple(row_of(panels[name]) for name in sorted(names & panels.keys())),
            gone=tuple(sorted(names - panels.keys())),
            has_happened=has_happened,
            **more,  # type: ignore[arg-type]  # as the two branches above say
        )


def row_of(panel: Panel) -> PanelRow:
    """Return what a list shows of a panel."""
    state, session = panel.state, panel.session
    return PanelRow(
        panel=summary_of(panel),
        statuses=tuple(
            Status.UNKNOWN if one.status is None else one.status.value for _, one in sorted(state.partitions.items())
        ),
        open_count=sum(is_on(zone.open) for zone in state.zones.values()),
        bypassed_count=sum(is_on(zone.bypassed) for zone in state.zones.values()),
        is_in_alarm=is_in_alarm(panel),
        has_trouble=has_trouble(panel),
        session=session.id if isinstance(session, PanelSession) else "",
    )  # fmt: skip
