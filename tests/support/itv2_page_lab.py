"""The page of alarm panels: the real gateway with simulated panels, and the admin API over it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from admin_lab import TOKENS, OrderedView, admin_settings
from itv2_simulator_lab import SimulatorLab, simulator_lab

from sojourn.admin.serving import AdminServer

BASE = "/api/v1/panels/itv2"


class PanelSite(NamedTuple):
    """A gateway with its panels, and the admin API over it."""

    lab: SimulatorLab
    admin: AdminServer
    http: aiohttp.ClientSession

    def link(self, scope: str = "admin") -> str:
        """Return a login link."""
        secret, _ = self.admin._parts.access.new_link("ana", scope)
        return f"http://{self.admin.address}/login#{secret}"

    async def ask(self, method: str, path: str, scope: str = "view", body: Any = None, **query: Any) -> Any:
        """Ask an operation of the page with the token of a scope; return status and answer."""
        headers = {"Authorization": f"Bearer {TOKENS[scope]}"}
        async with self.http.request(
            method, f"{BASE}{path}", headers=headers, json=body, params=query
        ) as answer:
            raw = await answer.read()
            return answer.status, msgspec.json.decode(raw) if raw else None

    async def order(self, verb: str, partition: int = 1, number: int = 0, **body: Any) -> Any:
        """Order something of a panel; return status and answer."""
        path = f"/panels/house-{number}/partitions/{partition}/{verb}"
        return await self.ask("POST", path, "operate", body)


@contextlib.asynccontextmanager
async def panel_site(folder: Path, **options: Any) -> AsyncIterator[PanelSite]:
    """Run the gateway and the admin API; ``options`` are those of ``simulator_lab``."""
    async with simulator_lab(folder, **options) as lab:
        admin = AdminServer(OrderedView(lab.server), admin_settings(), folder / "control.sock")
        await admin.start()
        try:
            async with aiohttp.ClientSession(f"http://{admin.address}") as http:
                yield PanelSite(lab, admin, http)
        finally:
            await admin.stop()
