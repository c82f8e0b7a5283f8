"""The panels' API over real sockets: a started gateway of panels, one that answers like a panel, and tokens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import Any

import aiohttp
from core_lab import until
from itv2_hub_lab import QUICK, FakeSession

from sojourn.core.clock import monotonic
from sojourn.core.secret import Secret
from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings
from sojourn.gateways.itv2.config import Itv2Settings, PanelSettings, Timing
from sojourn.gateways.itv2.gateway import Itv2Gateway
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.http.config import Itv2HttpSettings, LinkSettings, TokenSettings
from sojourn.gateways.itv2.http.gateway import Itv2Api
from sojourn.gateways.itv2.hub_config import ZoneDetails
from sojourn.web.config import AddressRateSettings, RateSettings

BASE = "/api/v1/itv2"
HOUSE_ID = "123456789012"
SHED_ID = "210987654321"
TYPE_2 = "0123456789ABCDEFFEDCBA9876543210"
CODE = "5555"
"""An access code that the panels take."""


def word(name: str) -> str:
    """Return the token of a name."""
    return f"token-of-{name}-0123456789"


def token(name: str, *scopes: str, **more: Any) -> TokenSettings:
    """Return a token's settings."""
    return TokenSettings(name=name, token=Secret(word(name)), scopes=scopes, **more)


TOKENS = (
    token("reader", "read"),
    token("ana", "read", "arm", "disarm", "bypass"),
    token("guard", "read", "arm"),
    token("root", "admin"),
    token("shed", "admin", panels=("shed",)),
    token("careful", "read", "arm", "disarm", needs_code=True),
    TokenSettings(
        name="hashed", sha256=hashlib.sha256(word("hashed").encode()).hexdigest(), scopes=("read",)
    ),
)


def bearer(name: str) -> dict[str, str]:
    """Return the headers of a token's holder."""
    return {"Authorization": f"Bearer {word(name)}"}


def http_settings(**more: Any) -> Itv2HttpSettings:
    """Return settings whose limits are no test's subject."""
    rates = {
        "per_subject": RateSettings(requests_per_s=0.0),
        "per_address": AddressRateSettings(requests_per_s=0.0),
    }
    return Itv2HttpSettings(**{"tokens": TOKENS, **rates, **more})


def links(**more: Any) -> LinkSettings:
    """Return settings of WebSockets."""
    return LinkSettings(**more)


class ApiLab:
    """A running API. ``house`` is what answers for the panel of that name, ``told`` what the operator was told."""

    def __init__(
        self, server: Server, gateway: Itv2Gateway, api: Itv2Api, http: aiohttp.ClientSession
    ) -> None:
        self.server, self.gateway, self.api, self.http = server, gateway, api, http
        self.told: list[tuple[str, dict[str, Any]]] = []
        server.events.add_view(
            lambda batch: self.told.extend((one.kind.name, dict(one.fields())) for one in batch)
        )
        panels, clients = server.listeners
        self.port = int(panels.address.rpartition(":")[2])
        self.url = f"http://{clients.address}"
        self.house = FakeSession()

    @property
    def panel(self) -> Any:
        """The panel called house."""
        return self.gateway.hub.panels["house"]

    async def connect(self, name: str = "house", session: FakeSession | None = None) -> FakeSession:
        """Let a panel come and be read."""
        session = session or self.house
        panel = self.gateway.hub.panels[name]
        panel.connected(session)
        assert await panel.pull()

        def is_read() -> bool:  # users come last
            labels = panel.state.user_labels.values()
            return bool(labels) and not any(label.is_stale for label in labels)

        await until(is_read)
        return session

    async def ask(self, method: str, path: str, who: str | None = "root", **more: Any) -> Any:
        """Send a request; return status and body, read as JSON where it is any."""
        headers = {**(bearer(who) if who else {}), **more.pop("headers", {})}
        url = self.url + (path if path.startswith("/api/ws") or path == "/healthz" else BASE + path)
        async with self.http.request(method, url, headers=headers, **more) as answer:
            raw = await answer.read()
            is_json = answer.content_type in {"application/json", "application/problem+json"}
            return answer.status, json.loads(raw) if is_json and raw else raw

    @contextlib.asynccontextmanager
    async def link(self, who: str | None = "ana", path: str = f"{BASE}/ws", **more: Any) -> Any:
        """Open a WebSocket."""
        headers = {**(bearer(who) if who else {}), **more.pop("headers", {})}
        async with self.http.ws_connect(self.url + path, headers=headers, **more) as ws:
            yield Talk(ws)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the operator was told of a kind."""
        self.server.events.flush()
        return [values for kind, values in self.told if kind == name]


class Talk:
    """One side of a WebSocket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def say(self, **fields: Any) -> None:
        """Send a message."""
        await self.ws.send_str(json.dumps(fields))

    async def hear(self, *types: str) -> Any:
        """Return the next message, or the next of these types."""
        async with asyncio.timeout(10):
            while True:
                message = await self.ws.receive()
                assert message.type == aiohttp.WSMsgType.TEXT, message
                found = json.loads(message.data)
                if not types or found["type"] in types:
                    return found

    async def end(self) -> int | None:
        """Return the code with which the server closes."""
        async with asyncio.timeout(10):
            while (await self.ws.receive()).type == aiohttp.WSMsgType.TEXT:
                pass
        return self.ws.close_code


@contextlib.asynccontextmanager
async def api(folder: Any, http: Itv2HttpSettings | None = None, **house: Any) -> Any:
    """Run panels and their API; at the end nothing of it may be left."""
    panels = (
        PanelSettings(
            name="house",
            integration_id=HOUSE_ID,
            type2_code=Secret(TYPE_2),
            **{
                "default_code": Secret(CODE),
                "master_code": Secret("1234"),
                "zone_details": (ZoneDetails(number=3, device_class="motion"),),
                **house,
            },
        ),
        PanelSettings(name="shed", integration_id=SHED_ID, type2_code=Secret("1" * 32)),
    )
    settings = Itv2Settings(
        panels=panels,
        state=QUICK,
        timing=Timing(replay_quiet_s=0.1, step_timeout_s=1.0),
        history=HistorySettings(file=str(folder / "history.sqlite3")),
        http=http or http_settings(),
    )
    assert settings.http is not None
    assert not [*settings.problems(), *settings.http.problems()]
    before = asyncio.all_tasks()
    server = Server(clock=monotonic)
    gateway, served = Itv2Gateway(settings), Itv2Api(settings.http)
    for one in (gateway, served):
        server.add(one, [ListenerSettings(address="127.0.0.1:0")])
    await server.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield ApiLab(server, gateway, served, client)
    finally:
        await server.stop(timeout_s=0)
        await until(lambda: not (asyncio.all_tasks() - before - {asyncio.current_task()}))
        manager = server.managers[served.name]
        assert not manager.connections
        assert not manager.detached
        assert not served.door.links
