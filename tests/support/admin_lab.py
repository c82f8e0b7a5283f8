"""A real server with the lab's gateway and the admin API over it, on TCP with a token of each scope."""

from __future__ import annotations

import contextlib
import json
from typing import ClassVar, NamedTuple

import aiohttp
import msgspec
from core_lab import Ask, Lab, Say, memory, running

from sojourn.admin.config import (
    AdminSettings,
    AttemptSettings,
    BrowserSettings,
    StreamSettings,
    TokenSettings,
)
from sojourn.admin.core_view import CoreView
from sojourn.admin.serving import AdminServer
from sojourn.core.panel import AdminPanel, PanelOperation, PanelParameter
from sojourn.core.router import Router
from sojourn.core.secret import Secret
from sojourn.errors import ConfigError, LimitExceeded, Problem
from sojourn.testing import ManualClock
from sojourn.web.config import AddressRateSettings

TOKENS = {scope: f"token-of-{scope}-0123456789" for scope in ("view", "operate", "admin")}
SCRIPT = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
"""What somebody may call a thing of theirs."""


class Device(msgspec.Struct):
    """What the lab's page shows."""

    name: str
    is_locked: bool = False


class Rename(msgspec.Struct, forbid_unknown_fields=True):
    """What it may order."""

    name: str


class PanelLab(Lab):
    """The lab's gateway with a page of its own."""

    devices: ClassVar = {}

    def __init__(self, **attributes):
        super().__init__(**attributes)
        self.devices = {"lab-1": Device("lab-1"), "weird": Device(SCRIPT)}
        self.broken = []

    def panel(self):
        operations = (
            PanelOperation(
                "GET",
                "/devices",
                "view",
                "Devices.",
                self._list,
                answer=list[Device],
                query=(PanelParameter("search", "Part of the name."),),
            ),
            PanelOperation("GET", "/devices/{name}", "view", "One device.", self._find, answer=Device),
            PanelOperation(
                "POST",
                "/devices/{name}/rename",
                "operate",
                "Rename a device.",
                self._rename,
                answer=Device,
                body=Rename,
            ),
            PanelOperation("DELETE", "/devices/{name}", "admin", "Forget a device.", self._forget),
            PanelOperation(
                "GET", "/ticks", "view", "Three numbers.", self._ticks, answer=int, is_stream=True
            ),
            PanelOperation("POST", "/too-much", "operate", "More than allowed.", self._too_much),
        )
        return AdminPanel("The lab", self.script, operations)

    def troubles(self):
        yield from self.broken

    async def _list(self, values, _body):
        return [one for one in self.devices.values() if values["search"] in one.name]

    async def _find(self, values, _body):
        return self.devices.get(values["name"])

    async def _rename(self, values, body):
        device = self.devices.get(values["name"])
        if device is not None:
            device.name = body.name
        return device

    async def _forget(self, values, _body):
        self.devices.pop(values["name"], None)

    async def _ticks(self, _values, _body):
        async def ticks():
            for number in range(3):
                yield number

        return ticks()

    async def _too_much(self, _values, _body):
        raise LimitExceeded("a secret text", 2, 1)


class OrderedView(CoreView):
    """What a daemon adds: a configuration, reload and drain."""

    def __init__(self, server):
        super().__init__(server)
        self.orders = []
        self.is_bad = False

    def configuration(self):
        return '[admin]\ntoken = "***"\n'

    async def reload(self):
        self.orders.append("reload")
        if self.is_bad:
            raise ConfigError([Problem("sojourn.toml", 3, "log", "level", '"x"', "one of ...")])

    async def drain(self):
        self.orders.append("drain")


class AdminLab(NamedTuple):
    """What a test works with: the server, its API, and a client on TCP and one on the control socket."""

    server: object
    gateway: PanelLab
    view: OrderedView
    admin: AdminServer
    remote: aiohttp.ClientSession
    local: aiohttp.ClientSession
    clock: ManualClock
    wires: list

    def wire(self, **options):
        """Return a client of the gateway without a socket, which ends with the lab."""
        self.wires.append(memory(self.server, **options))
        return self.wires[-1]

    async def ask(self, method, path, scope="view", **options):
        """Return status and JSON of one request, with the token of a scope; none with an empty one."""
        headers = {**options.pop("headers", {})}
        if scope:
            headers["Authorization"] = f"Bearer {TOKENS[scope]}"
        async with self.remote.request(method, path, headers=headers, **options) as answer:
            body = await answer.read()
            is_json = answer.content_type.endswith("json")
            return answer.status, json.loads(body) if is_json else body.decode()


def handle(session, ask):
    """Answer, end or fail, as the text says."""
    session.about = ask.text
    if ask.text == "bug":
        raise ZeroDivisionError
    if ask.text == "end":
        session.finish(Say("ended"))
    else:
        session.reply(Say("here"))


def admin_settings(**changes):
    """Return settings with a token of each scope and no limit of rate."""
    unlimited = AttemptSettings(requests_per_s=0.0)
    given = {
        "address": "127.0.0.1:0",
        "tokens": tuple(
            TokenSettings(name=scope, token=Secret(token), scope=scope) for scope, token in TOKENS.items()
        ),
        "requests": AddressRateSettings(requests_per_s=0.0),
        "browsers": BrowserSettings(attempts=unlimited),
        "streams": StreamSettings(),
    }
    return AdminSettings(**{**given, **changes})


@contextlib.asynccontextmanager
async def admin_lab(tmp_path, settings=None, **options):
    """Run the server, its API and two clients."""
    router = Router()
    router.on(Ask)(handle)
    gateway = PanelLab(router=router)
    gateway.script = tmp_path / "panel.js"
    gateway.script.write_text("export const title = 'The lab';\n")
    clock = ManualClock()
    control = tmp_path / "control.sock"
    async with running(gateway, clock=clock, **options) as server:
        view = OrderedView(server)
        admin = AdminServer(view, settings or admin_settings(), control)
        await admin.start()
        try:
            async with (
                aiohttp.ClientSession(
                    f"http://{admin.address}", cookie_jar=aiohttp.DummyCookieJar()
                ) as remote,
                aiohttp.ClientSession("http://local", connector=aiohttp.UnixConnector(str(control))) as local,
            ):
                lab = AdminLab(server, gateway, view, admin, remote, local, clock, [])
                yield lab
                for wire in lab.wires:
                    wire.close()
        finally:
            await admin.stop()


async def told(response, count):
    """Return the first events of a stream as pairs of name and data."""
    found = []
    name = ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                break
    return found
