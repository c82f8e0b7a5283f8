"""The admin API over a server with each gateway there is, for tests that walk all operations of its document."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import exchange_pod_lab
import gateway_lab
import itv2_api_lab
import tacacs_lab
from admin_lab import OrderedView, admin_lab, admin_settings

from sojourn.admin.openapi import PANELS, document
from sojourn.admin.serving import AdminServer
from sojourn.core.server import Server
from sojourn.embedded.postgres import PostgresServer

LAB = "lab"
"""The site whose gateway is the tests' own: it stands for whatever is no gateway's."""
GATEWAYS = ("tacacs", "itv2", "exchange", "postgres")
SITES = (LAB, *GATEWAYS)
KNOWN = {
    LAB: {"id": "lab-2", "name": "lab-1"},
    "tacacs": {"user": "ana"},
    "itv2": {"name": "house", "panel": "house", "number": "1", "partition": "1", "zone": "1"},
    "exchange": {},
    "postgres": {"name": "main"},
}
"""Values of names in paths under which there is something, by site."""
NOWHERE = "no-such-thing"
"""A value under which there is nothing."""


class Asked(NamedTuple):
    """One operation as the document has it. ``scope`` is the least that may, "open" is everybody."""

    method: str
    path: str
    scope: str
    has_body: bool


class Site(NamedTuple):
    """A running server and its API; ``is_ours`` where what is no gateway's is looked at too."""

    server: Server
    view: OrderedView
    admin: AdminServer
    is_ours: bool

    @property
    def url(self):
        return f"http://{self.admin.address}"

    def document(self):
        """Return the OpenAPI document, without the paths that another site stands for."""
        whole = document(self.view.panels())
        paths = {
            path: one for path, one in whole["paths"].items() if self.is_ours or path.startswith(PANELS + "/")
        }
        return {**whole, "paths": paths}

    def operations(self):
        """Yield every operation of the document."""
        for path, methods in self.document()["paths"].items():
            for method, described in methods.items():
                scope = "open" if not described["security"] else described["tags"][0]
                yield Asked(method.upper(), path, scope, "requestBody" in described)


@contextlib.asynccontextmanager
async def _server_of(gateway, folder):
    """Run a server with one gateway, as its own tests do."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        match gateway:
            case "tacacs":
                server = (await enter(tacacs_lab.running(tacacs_lab.settings(folder)))).server
            case "itv2":
                api = await enter(itv2_api_lab.api(folder))
                await api.connect()
                server = api.server
            case "exchange":
                database = PostgresServer()
                await database.start()
                stack.push_async_callback(database.stop)
                server = await enter(exchange_pod_lab.PodLab(folder, database.dsn()).pod())
            case _:
                server = (await enter(gateway_lab.gateway_lab())).server
        yield server


@contextlib.asynccontextmanager
async def admin_site(name, folder):
    """Run the API over a server with the gateway of this name; over the lab's there is a session that failed."""
    if name == LAB:
        async with admin_lab(folder) as lab:
            await lab.wire().ask("Ana")
            await lab.wire().ask("bug")
            yield Site(lab.server, lab.view, lab.admin, is_ours=True)
        return
    async with _server_of(name, folder) as server:
        view = OrderedView(server)
        admin = AdminServer(view, admin_settings(), folder / "admin.sock")
        await admin.start()
        try:
            yield Site(server, view, admin, is_ours=False)
        finally:
            await admin.stop()
