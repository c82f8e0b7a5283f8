"""Which handler gets a message, and in which lane."""

from __future__ import annotations

import msgspec
import pytest

from sojourn.core.router import Lane, Router
from sojourn.errors import LocalProtocolError, RemoteProtocolError


class Start(msgspec.Struct):
    type: int = 1
    action: int = 1


class Stop(msgspec.Struct):
    pass


def found(router, message):
    """Return lane and handler as a connection finds them."""
    _, lane, handler, refine = router.routes[type(message)]
    return (lane, handler) if refine is None else refine(message)


def test_the_lane_is_found_by_looking_at_the_handler():
    """def: inline; async def: a task while it waits; conversation: as long as the session."""
    router = Router()

    @router.on(Start, type=1)
    def inline(session, message): ...

    @router.on(Start, type=2)
    async def task(session, message): ...

    @router.conversation(Start, type=3)
    async def talk(session, message): ...

    assert found(router, Start(1)) == (Lane.INLINE, inline)
    assert found(router, Start(2)) == (Lane.TASK, task)
    assert found(router, Start(3)) == (Lane.CONVERSATION, talk)


def test_fields_refine_and_a_plain_handler_takes_the_rest():
    """One field or several; the values decide."""
    router = Router()

    @router.on(Start)
    def rest(session, message): ...

    @router.on(Start, type=1, action=2)
    def special(session, message): ...

    assert found(router, Start(1, 2)) == (Lane.INLINE, special)
    assert found(router, Start(1, 1)) == (Lane.INLINE, rest)


@pytest.mark.parametrize("message", [Stop(), Start(9)], ids=["another class", "other values"])
def test_what_nobody_takes_is_the_peer_s_error(message):
    """A message that has no place here; its content is not in the words."""
    router = Router()
    router.on(Start, type=1)(lambda _session, _message: None)
    lane, handler = found(router, message)
    assert lane == Lane.INLINE
    with pytest.raises(RemoteProtocolError, match=type(message).__name__):
        handler(None, message)


def test_two_handlers_for_the_same_messages_are_our_mistake():
    """Told while the module is imported."""
    router = Router()
    router.on(Stop)(lambda _session, _message: None)
    router.on(Start, type=1)(lambda _session, _message: None)
    with pytest.raises(LocalProtocolError, match="second handler for Stop"):
        router.on(Stop)(lambda _session, _message: None)
    with pytest.raises(LocalProtocolError, match="second handler for Start"):
        router.on(Start, type=1)(lambda _session, _message: None)
    with pytest.raises(LocalProtocolError, match="fields"):
        router.on(Start, action=1)(lambda _session, _message: None)


def test_a_plain_function_is_no_conversation():
    """It has nothing to wait with."""
    with pytest.raises(LocalProtocolError, match="async def"):
        Router().conversation(Start)(lambda _session, _message: None)


def test_a_handler_that_is_added_later_is_found():
    """The table is made again."""
    router = Router()
    assert Stop not in router.routes
    handler = router.on(Stop)(lambda _session, _message: None)
    assert found(router, Stop())[1] is handler
