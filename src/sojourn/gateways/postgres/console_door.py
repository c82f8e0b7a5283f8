"""The console's door: who may come in, what an operator is told at the login, and whose command a request cancels.

Knows no command; a client that names the console's database has proved who it is before it comes here.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from sojourn.core.events import EventKind
from sojourn.core.session import Reason
from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.console.console import Console
from sojourn.gateways.postgres.console.conversation import Conversation
from sojourn.gateways.postgres.console.shows import PARAMETERS
from sojourn.gateways.postgres.console_view import EngineView
from sojourn.gateways.postgres.messages import NEWEST_MINOR, SQLSTATE, Refusal
from sojourn.gateways.postgres.states import ClientState
from sojourn.gateways.postgres.workers_view import WorkersView

if TYPE_CHECKING:
    import asyncio

    from sojourn.gateways.postgres.client_session import ClientSession
    from sojourn.gateways.postgres.gateway import PostgresGateway
    from sojourn.gateways.postgres.messages import StartupMessage
    from sojourn.gateways.postgres.talk import StreamTalk

CONSOLE_ENTERED = EventKind("postgres.console_entered", ("user", "peer", "is_admin"), level="debug")
"""An operator has come to the admin console."""

MESSAGE_BYTES: Final = 1 << 20
"""Longest message of an operator; the limit of the login is for strangers."""


class ConsoleDoor:
    """The way into the console of one gateway.

    Life: made with the gateway. Always true: a conversation is in ``_conversations`` from its first command to its
    end, so that its cancel key finds it.
    """

    def __init__(self, gateway: PostgresGateway) -> None:
        self._gateway = gateway
        view = EngineView(gateway) if gateway.link is None else WorkersView(gateway, gateway.link)
        self._console = Console(view)
        self._ticking: asyncio.Task[None] | None = None
        self._conversations: dict[ClientSession, Conversation] = {}

    def tick(self) -> None:
        """Let the console take note of the totals; for every sweep."""
        now = monotonic()
        if self._console.is_due(now) and (self._ticking is None or self._ticking.done()):
            self._ticking = self._gateway.server.spawn(self._console.tick(now))

    def enter(self, session: ClientSession, talk: StreamTalk, startup: StartupMessage) -> None:
        """Welcome a user who has proved who it is, if the settings list it.

        Raises: Refusal.
        """
        listed = self._gateway.settings.console
        if session.user not in (*listed.admin_users, *listed.stats_users):
            if listed.admin_users or listed.stats_users:
                hint = "Add it to postgres.console.admin_users, or to stats_users if it may only look."
            else:
                hint = "No user is listed, so that nobody may; set postgres.console.admin_users."
            raise Refusal(
                SQLSTATE.INSUFFICIENT_PRIVILEGE,
                f'user "{session.user}" may not use the admin console',
                hint=hint,
            )
        is_admin = session.user in listed.admin_users
        talk.allow(MESSAGE_BYTES)
        self._gateway.cancel_keys.give(session, minor=min(startup.minor, NEWEST_MINOR))
        self._conversations[session] = Conversation(self._console, talk, is_admin=is_admin)
        out = [wire.authentication_ok()]
        out += [wire.parameter_status(name, value) for name, value in PARAMETERS.items()]
        out += [wire.backend_key_data(session.pid, session.secret), wire.ready_for_query()]
        talk.send(b"".join(out))
        session.state = ClientState.CONSOLE
        session.note(f"{session.user} is at the console, as {'an admin' if is_admin else 'one who may look'}")
        self._gateway.server.events.emit(CONSOLE_ENTERED, session, session.user, talk.address, is_admin)

    async def serve(self, session: ClientSession, talk: StreamTalk) -> None:
        """Answer an operator who has entered, until it leaves or is closed.

        Raises: ConnectionLost, LimitExceeded or WireError, as ``talk.receive``.
        """
        try:
            await self._conversations[session].serve()
        except Refusal:
            pass  # the operator has been told
        finally:
            self.forget(session)
        talk.close()
        session.finish(reason=Reason.FINISHED)

    def forget(self, session: ClientSession) -> None:
        """Take an operator out who has left, also before its first command."""
        if self._conversations.pop(session, None) is not None:
            self._gateway.cancel_keys.take(session)

    def cancel(self, session: ClientSession) -> bool:
        """End what an operator waits for; False for a session that is no operator's."""
        conversation = self._conversations.get(session)
        if conversation is None:
            return False
        conversation.cancel()
        return True
