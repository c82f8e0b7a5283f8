"""Servers go from state to state as the table of ``states`` says, whatever happens to them."""

from __future__ import annotations

import asyncio

import pytest
import relay_lab as labs
from relay_lab import relay_lab

from sojourn.gateways.postgres import wire
from sojourn.gateways.postgres.server_session import ServerSession
from sojourn.gateways.postgres.states import TRANSITIONS, ServerState

seen: set[tuple[str, str]] = set()


class WatchedServer(ServerSession):
    """A server whose every change of state is put into ``seen``."""

    def __setattr__(self, name, value):
        if name == "state" and getattr(self, "state", value) != value:
            seen.add((self.state, value))
        super().__setattr__(name, value)


def plain(lab):
    """Ask, also with settings that the server has to be given first."""
    ana, ben = lab.client(), lab.client()
    ana.say(wire.query("set work_mem to 1"))
    ben.say(wire.query("select 1"))
    ana.say(wire.query("begin") + wire.query("commit"))


def leaving_amidst(lab):
    """Go away in a transaction, and with one open."""
    client = lab.client()
    client.say(wire.query("begin"))
    client.leave()
    lab.pump()


def leaving_a_session(lab):
    """Go away from a server of one's own, which is reset; another goes while that is under way."""
    lab.client().leave()
    lab.pump()
    lab.client().leave()
    lab.end_servers()


def being_cancelled(lab):
    """Be done while a cancel request is under way, and another time the server ends before that."""
    for _ in range(2):
        client = lab.client()
        client.say(wire.query("begin"))
        server = client.session.server
        server.cancels = 1
        client.say(wire.query("commit"))
        server.cancels = 0
        if server.state == ServerState.BEING_CANCELED:
            lab.pool.cancel_done(server)


@pytest.mark.parametrize(
    ("happens", "mode"),
    [
        (plain, "transaction"),
        (leaving_amidst, "transaction"),
        (leaving_a_session, "session"),
        (being_cancelled, "transaction"),
    ],
)
def test_every_change_of_state_is_in_the_table(happens, mode, monkeypatch):
    """ServerState: a change that is not listed is a server that is lent and free at once, or worse."""
    monkeypatch.setattr(labs, "ServerSession", WatchedServer)
    seen.clear()

    async def body():
        async with relay_lab(mode) as lab:
            happens(lab)
            assert lab.failures == []

    asyncio.run(body())
    assert seen
    assert seen <= TRANSITIONS


def test_a_closed_server_stays_closed():
    """ServerSession: ``connection_lost`` is the only end, and the last state."""
    assert not any(old == ServerState.CLOSED for old, _ in TRANSITIONS)
