"""A gateway's page as the admin API serves it: a running server gets an API, and a test asks it with a scope."""

from __future__ import annotations

import contextlib
import json

import aiohttp
from admin_lab import TOKENS, OrderedView, admin_settings

from sojourn.admin.serving import AdminServer

UNKNOWN = "no-such-thing"


class PanelApi:
    """What asks the operations of one gateway's page."""

    def __init__(self, client, gateway, admin):
        self._client = client
        self._base = f"/api/v1/panels/{gateway}"
        self.admin = admin

    def link(self, scope="admin"):
        """Return what lets a browser in, once."""
        secret, _ = self.admin._parts.access.new_link("ana", scope)
        return f"http://{self.admin.address}/login#{secret}"

    async def ask(self, method, path, scope="view", **options):
        """Return status and JSON of one request with the token of a scope; what has no body is None."""
        headers = {"Authorization": f"Bearer {TOKENS[scope]}"}
        async with self._client.request(method, self._base + path, headers=headers, **options) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if body else None

    async def get(self, path, **query):
        """Return what an operation answers that only looks."""
        status, body = await self.ask("GET", path, params=query)
        assert status == 200, body
        return body

    async def status(self, method, path, scope="view", **options):
        """Return the status of one request."""
        return (await self.ask(method, path, scope, **options))[0]

    async def overview(self, gateway):
        """Return one gateway's row of the overview."""
        async with self._client.get(
            "/api/v1/overview", headers={"Authorization": f"Bearer {TOKENS['view']}"}
        ) as answer:
            rows = (await answer.json())["gateways"]
        return next(row for row in rows if row["name"] == gateway)


@contextlib.asynccontextmanager
async def panel_api(server, gateway, folder):
    """Serve the admin API over a server; yields what asks ``gateway``'s page.

    Args: folder, for the control socket.
    """
    admin = AdminServer(OrderedView(server), admin_settings(), folder / "control.sock")
    await admin.start()
    try:
        async with aiohttp.ClientSession(
            f"http://{admin.address}", cookie_jar=aiohttp.DummyCookieJar()
        ) as client:
            yield PanelApi(client, gateway, admin)
    finally:
        await admin.stop()
