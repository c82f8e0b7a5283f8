"""REST: from a request to a look at the panels or a command, and from what comes of it to an answer.

Everything that is the same for all operations is done once, driven by the routes table: who asks, what may be asked,
the body, the Idempotency-Key. A GET changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from aiohttp import web

from sojourn import __version__
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.itv2.commands import UNSUPPORTED, Scope
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.carrying import Ask
from sojourn.gateways.itv2.http.openapi import document
from sojourn.gateways.itv2.http.orders import ORDERS
from sojourn.gateways.itv2.http.problems import Kind, Refusal
from sojourn.gateways.itv2.http.routes import OPERATIONS, PATH_SCHEMAS
from sojourn.gateways.itv2.http.searching import listed, page_of, query_of
from sojourn.gateways.itv2.http.shown import (
    learning_of,
    panel_of,
    partition_of,
    partitions_of,
    summary_of,
    zone_of,
    zones_of,
)
from sojourn.web.server import protocol_of
from sojourn.web.serving import in_time, read_request

if TYPE_CHECKING:
    from sojourn.gateways.itv2.gateway import Itv2Gateway
    from sojourn.gateways.itv2.history import History, HistoryQuery
    from sojourn.gateways.itv2.history.export import ExportFormat
    from sojourn.gateways.itv2.http.carrying import Carrier
    from sojourn.gateways.itv2.http.failures import Failures
    from sojourn.gateways.itv2.http.tokens import Holder, TicketDesk, TokenTable
    from sojourn.gateways.itv2.panels import Panel
    from sojourn.web.config import HttpSettings
    from sojourn.web.front import Rates
    from sojourn.web.operations import Operation

STATUSES: Final = {"accepted": 200, "rejected": 409, "unsupported": 501, "unknown": 504}
"""The status that says the same as an outcome's result."""

_NEEDED: Final[Mapping[str, Scope]] = {"read": "read", "admin": "admin"}
"""What an operation needs by its ``access``; commands need what their order says."""


class Call(NamedTuple):
    """One request, read and checked."""

    request: web.Request
    holder: Holder
    query: Mapping[str, Any]
    body: Any
    key: str | None

    def number(self, name: str) -> int:
        """Return a number of the path; 0 where the path has none of this name.

        Raises: Refusal: there is nothing with such a number.
        """
        text = self.request.match_info.get(name, "0")
        highest = PATH_SCHEMAS[name]["maximum"]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest))) or int(text) > highest:
            raise Refusal(Kind.NOT_FOUND)
        return int(text)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Rest:
    """The handlers of one application.

    Args:
        house: the panels' gateway.
        tokens: who may come.
        desk: gives tickets for WebSockets.
        carrier: carries commands out.
        failures: connections that came to nothing.
        rates: counts requests per token.
        settings: of HTTP.
    """

    def __init__(
        self,
        house: Itv2Gateway,
        tokens: TokenTable,
        desk: TicketDesk,
        carrier: Carrier,
        failures: Failures,
        *,
        rates: Rates,
        settings: HttpSettings,
    ) -> None:
        self._house = house
        self._tokens = tokens
        self._desk = desk
        self._carrier = carrier
        self._failures = failures
        self._rates = rates
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return every operation as a route."""
        return [web.route(one.method, one.path, self._serving(one), name=one.handler) for one in OPERATIONS]

    def _serving(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        is_command = operation.handler in ORDERS
        handler: Handler = self._command if is_command else getattr(self, f"_{operation.handler}")
        if operation.access == "open":

            async def serve_anybody(_request: web.Request) -> web.StreamResponse:
                return await handler(None)  # type: ignore[arg-type]  # it looks at nothing of the call

            return serve_anybody

        async def serve(request: web.Request) -> web.StreamResponse:
            holder = self._tokens.authenticate(request)
            self._rates.take(holder.name)
            needed = _NEEDED.get(operation.access)
            if needed is not None and not holder.may(needed):
                raise Refusal(Kind.FORBIDDEN, f"this needs the scope {needed}")
            query, key, _, body = await read_request(request, operation, self._settings)
            call = Call(request, holder, query, body, key)
            if operation.media != "application/json":
                return await handler(call)
            # A command goes on behind its deadline.
            return await in_time(operation, handler(call), self._settings.request_timeout_s)

        return serve

    def _panel(self, call: Call) -> Panel:
        return self._carrier.panel(call.holder, call.request.match_info["panel"])

    # Panels

    async def _list_panels(self, call: Call) -> web.StreamResponse:
        panels = (panel for name, panel in sorted(self._house.hub.panels.items()) if call.holder.sees(name))
        return _json(t.Panels(tuple(map(summary_of, panels))))

    async def _get_panel(self, call: Call) -> web.StreamResponse:
        return _json(panel_of(self._panel(call)))

    async def _list_zones(self, call: Call) -> web.StreamResponse:
        return _json(t.Zones(zones_of(self._panel(call))))

    async def _get_zone(self, call: Call) -> web.StreamResponse:
        panel, number = self._panel(call), call.number("zone")
        state = panel.state.zones.get(number)
        if state is None:
            raise Refusal(Kind.NOT_FOUND)
        return _json(zone_of(panel, number, state))

    async def _list_partitions(self, call: Call) -> web.StreamResponse:
        return _json(t.Partitions(partitions_of(self._panel(call))))

    async def _get_partition(self, call: Call) -> web.StreamResponse:
        number = call.number("partition")
        state = self._panel(call).state.partitions.get(number)
        if state is None:
            raise Refusal(Kind.NOT_FOUND)
        return _json(partition_of(number, state))

    async def _command(self, call: Call) -> web.StreamResponse:
        order = ORDERS[str(call.request.match_info.route.name)]
        panel = self._panel(call)
        number = call.number(order.target) if order.target != "panel" else 0
        if order.target != "panel" and not number:
            raise Refusal(Kind.NOT_FOUND)
        ask = Ask(panel, order, number, call.body, call.key, "REST")
        outcome = await self._carrier.carry_out(call.holder, ask)
        return _json(outcome, STATUSES[outcome.result])

    async def _list_unsupported(self, _call: Call) -> web.StreamResponse:
        rows = (
            t.UnsupportedCommand(what, f"{word:04x}", meaning)
            for what, (word, meaning) in UNSUPPORTED.items()
        )
        return _json(t.UnsupportedCommands(tuple(rows)))

    # History

    async def _search_history(self, call: Call) -> web.StreamResponse:
        return _json(await page_of(self._house.history, _query_of(call)))

    async def _export_csv(self, call: Call) -> web.StreamResponse:
        return await self._export(call, "csv", "text/csv; charset=utf-8")

    async def _export_jsonl(self, call: Call) -> web.StreamResponse:
        return await self._export(call, "jsonl", "application/jsonl")

    async def _export(self, call: Call, form: ExportFormat, media: str) -> web.StreamResponse:
        """Stream everything that is found, a page at a time, as fast as the client takes it.

        Raises: Refusal before the first byte; what breaks later ends the connection, so that half is not taken for all.
        """
        pages = self._history().export(_query_of(call), form)
        try:
            # The header alone tells nothing: the first page must be there before the status is sent.
            begin = await anext(pages, b"") + await anext(pages, b"")
        except (BackendUnavailable, LimitExceeded):
            raise Refusal(Kind.HISTORY_UNAVAILABLE) from None
        protocol_of(call.request).serves_only_its_client = True
        name = f'attachment; filename="history.{form}"'
        response = web.StreamResponse(headers={"Content-Type": media, "Content-Disposition": name})
        await response.prepare(call.request)
        await response.write(begin)
        try:
            async for page in pages:
                await response.write(page)
        except (BackendUnavailable, LimitExceeded):
            raise ConnectionError("the history broke off") from None
        await response.write_eof()
        return response

    def _history(self) -> History:
        history = self._house.history
        if history is None:
            raise Refusal(Kind.HISTORY_UNAVAILABLE)
        return history

    # The gateway itself

    async def _get_token(self, call: Call) -> web.StreamResponse:
        holder = call.holder
        return _json(
            t.TokenInfo(
                holder.name, tuple(sorted(holder.scopes)), tuple(sorted(holder.panels)), holder.needs_code
            )
        )

    async def _give_ticket(self, call: Call) -> web.StreamResponse:
        return _json(t.Ticket(self._desk.give(call.holder), self._desk.ttl_s()))

    async def _get_doctor(self, call: Call) -> web.StreamResponse:
        _for_all_panels(call)
        panels = (summary_of(panel) for _, panel in sorted(self._house.hub.panels.items()))
        return _json(t.Doctor(tuple(panels), self._failures.newest_first()))

    async def _get_learning(self, call: Call) -> web.StreamResponse:
        _for_all_panels(call)
        return _json(learning_of(self._house.learning_left_s, self._house.learnt))

    async def _start_learning(self, call: Call) -> web.StreamResponse:
        _for_all_panels(call)
        self._house.learn(call.body.for_s)
        return await self._get_learning(call)

    async def _stop_learning(self, call: Call) -> web.StreamResponse:
        _for_all_panels(call)
        self._house.learn(0)
        return web.Response(status=204)

    async def _healthz(self, _call: Call) -> web.StreamResponse:
        return _json(t.Health("up", __version__))

    async def _openapi(self, _call: Call) -> web.StreamResponse:
        return web.Response(body=document(), content_type="application/json")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def _for_all_panels(call: Call) -> None:
    """Refuse a token of some panels what is about others too. Raises: Refusal."""
    if call.holder.panels:
        raise Refusal(Kind.FORBIDDEN, "this is about all panels, and the token is for some")


def _query_of(call: Call) -> HistoryQuery:
    """Return what is searched; a token of some panels finds theirs only. Raises: Refusal."""
    panels = listed(call.query["panels"])
    if not all(map(call.holder.sees, panels)):
        raise Refusal(Kind.NOT_FOUND, "there is no such panel")
    return query_of(call.query, panels or tuple(sorted(call.holder.panels)))
