"""Router: which handler gets a message, and in which lane it runs.

Built once at start from decorators; knows nothing of connections or bytes. The lane is found by looking at the
handler: a plain function is called inline, an ``async def`` gets a task while it waits, a conversation keeps its
task for as long as the session lives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, TypeVar

from sojourn.core.recorder import Redactor, redactor_for
from sojourn.errors import LocalProtocolError, RemoteProtocolError

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

Handler = Callable[[Any, Any], Any]
Route = tuple[int, Handler]
Entry = tuple[Redactor | None, int, Handler, Callable[[Any], Route] | None]
"""Of one message class: how to take its secrets out, lane and handler, and how fields refine those."""


class Lane:
    """How a handler runs. Plain ints: this is looked at once per message."""

    INLINE = 1
    TASK = 2
    CONVERSATION = 3


class Router:
    """Message type, and optionally some of its fields, to handler.

    Life: filled while the gateway's module is imported, read-only afterwards; shared by all connections.
    """

    def __init__(self) -> None:
        self._routes: Routes | None = None
        self._plain: dict[type, Route] = {}
        self._refined: dict[
            type, tuple[tuple[str, ...], Callable[[Any], Hashable], dict[Hashable, Route]]
        ] = {}

    def on(self, kind: type, **fields: Hashable) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function for messages of ``kind`` whose ``fields`` have these values.

        A plain ``def`` runs inline and must not block; an ``async def`` runs in a task. Without ``fields`` it
        takes what no other handler of the kind takes.
        """
        return self._registrar(kind, fields, conversation=False)

    def conversation(self, kind: type, **fields: Hashable) -> Callable[[HandlerT], HandlerT]:
        """Register a coroutine that starts with this message and lives as long as the session."""
        return self._registrar(kind, fields, conversation=True)

    def _registrar(
        self, kind: type, fields: dict[str, Hashable], *, conversation: bool
    ) -> Callable[[HandlerT], HandlerT]:
        def register(handler: HandlerT) -> HandlerT:
            if inspect.iscoroutinefunction(handler):
                lane = Lane.CONVERSATION if conversation else Lane.TASK
            elif conversation:
                raise LocalProtocolError(f"plain function {handler!r}", "an async def", "Router.conversation")
            else:
                lane = Lane.INLINE
            self._add(kind, fields, (lane, handler))
            return handler

        return register

    def _add(self, kind: type, fields: dict[str, Hashable], route: Route) -> None:
        self._routes = None
        if not fields:
            if kind in self._plain:
                raise LocalProtocolError(f"a second handler for {kind.__name__}", "one", "Router.on")
            self._plain[kind] = route
            return
        names = tuple(sorted(fields))
        known, _, routes = self._refined.setdefault(kind, (names, attrgetter(*names), {}))
        if known != names:
            raise LocalProtocolError(f"fields {names} for {kind.__name__}", f"{known} as before", "Router.on")
        values = tuple(fields[name] for name in names)
        key: Hashable = values if len(values) > 1 else values[0]
        if key in routes:
            raise LocalProtocolError(f"a second handler for {kind.__name__} {fields}", "one", "Router.on")
        routes[key] = route

    @property
    def routes(self) -> Routes:
        """Return the table that the connection looks messages up in: one look per message."""
        if self._routes is None:
            self._routes = Routes()
            for kind in {*self._plain, *self._refined}:
                self._routes[kind] = self._entry(kind)
        return self._routes

    def _entry(self, kind: type) -> Entry:
        plain = self._plain.get(kind, (Lane.INLINE, _out_of_place))
        refined = self._refined.get(kind)
        if refined is None:
            return (redactor_for(kind), *plain, None)
        _, key_of, routes = refined
        return (redactor_for(kind), *plain, lambda message: routes.get(key_of(message), plain))


class Routes(dict[type, Entry]):
    """Entries by message class; a class that nobody registered is the peer's protocol error."""

    def __missing__(self, kind: type) -> Entry:
        return (redactor_for(kind), Lane.INLINE, _out_of_place, None)


def _out_of_place(_session: Any, message: Any) -> None:
    raise RemoteProtocolError(type(message).__name__, "a message that has a place here", "the router's table")
