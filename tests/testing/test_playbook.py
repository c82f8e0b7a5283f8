"""A playbook passes for the conversation that is written down, and shows any other one."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from sojourn.core.gateway import Gateway
from sojourn.core.peer import Peer
from sojourn.core.router import Lane, Router
from sojourn.core.session import Reason, Session
from sojourn.errors import LocalProtocolError
from sojourn.testing import playbook


class Ask(msgspec.Struct):
    number: int


class Answer(msgspec.Struct):
    number: int


class Bye(msgspec.Struct):
    pass


def double(session, ask):
    session.finish(Answer(2 * ask.number))


async def sum_of_two(session, ask):
    second = await session.ask(Answer(0), Ask, within_s=5)
    await session.send(Answer(ask.number + second.number))


async def slow_double(session, ask):
    await asyncio.sleep(30)
    session.finish(Answer(2 * ask.number))


async def double_in_a_thread(session, ask):
    session.finish(Answer(await session.gateway.server.offload.run(in_a_thread, ask.number)))


def in_a_thread(number):
    time.sleep(0.02)  # the work itself, in the pool's thread: what a password hash costs
    return 2 * number


@pytest.fixture
def play():
    """Playbooks that are closed even where a test left one open."""
    made = []

    def make(*args, **options):
        made.append(playbook(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_an_inline_handler_answers_at_once():
    """Lane 1: a plain function."""
    playbook(double).receives(Ask(2)).sends(Answer(4)).ends(Reason.FINISHED)


def test_a_conversation_goes_back_and_forth():
    """Lane 3: ends when its coroutine returns."""
    (
        playbook(sum_of_two)
        .receives(Ask(2))
        .sends(Answer(0))
        .receives(Ask(3))
        .sends(Answer(5))
        .ends(Reason.FINISHED)
    )


def test_time_passes_by_hand_for_the_core_and_for_timers_of_the_handler():
    """``after``: sweeps deadlines, fires ``asyncio.sleep``; nobody waits in real time."""
    began = time.monotonic()
    playbook(slow_double, lane=Lane.TASK).receives(Ask(4)).sends_nothing().after(30).sends(Answer(8)).ends(
        Reason.FINISHED
    )
    playbook(sum_of_two).receives(Ask(1)).sends(Answer(0)).after(5).ends(Reason.DEADLINE)
    assert time.monotonic() - began < 5


def test_work_in_threads_is_waited_for():
    """The offload pool runs in real time; a step lasts until it is done."""
    playbook(double_in_a_thread, lane=Lane.TASK).receives(Ask(4)).sends(Answer(8)).ends(Reason.FINISHED)


def test_a_peer_that_goes_away_ends_the_session():
    """``disconnects``: ConnectionLost is raised where the conversation waits."""
    seen = []

    async def curious(session, _ask):
        try:
            await session.receive()
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    playbook(curious).receives(Ask(1)).disconnects().ends(Reason.CONNECTION_LOST)
    assert seen == ["ConnectionLost"]


def test_messages_of_one_batch_go_through_the_inbox(play):
    """``receives`` with several messages: the second waits while the session is busy."""
    play(sum_of_two).receives(Ask(2), Ask(3)).sends(Answer(0), Answer(5)).ends(Reason.FINISHED)


def test_another_answer_shows_both_conversations(play):
    """The error is the conversation with - for expected and + for got."""
    book = play(double).receives(Ask(2))
    with pytest.raises(AssertionError) as failure:
        book.sends(Answer(5))
    lines = str(failure.value).splitlines()
    assert lines[1:4] == ["  receives Ask(number=2)", "- sends Answer(number=5)", "+ sends Answer(number=4)"]


def test_an_answer_that_nobody_expected_is_noticed(play):
    """At the next line, whatever it is, and at the end."""
    with pytest.raises(AssertionError, match=r"\+ sends Answer\(number=0\)"):
        play(sum_of_two).receives(Ask(1)).receives(Ask(2))
    with pytest.raises(AssertionError, match=r"\+ sends Answer\(number=2\)"):
        play(double).receives(Ask(1)).ends(Reason.FINISHED)


def test_a_missing_answer_says_what_the_session_does_instead(play):
    """Waiting, idle, ended, or never opened."""
    with pytest.raises(AssertionError, match=r"\+ waits for the peer"):
        play(sum_of_two).receives(Ask(1)).sends(Answer(0)).sends(Answer(1))
    with pytest.raises(AssertionError, match=r"\+ waits for something else"):
        play(slow_double).receives(Ask(1)).sends(Answer(2))
    with pytest.raises(AssertionError, match=r"\+ no session was opened"):
        play(double).sends(Answer(2))
    with pytest.raises(AssertionError, match=r"\+ ends 'finished'"):
        play(double).receives(Ask(1)).sends(Answer(2)).ends(Reason.ABORTED)


def test_a_bug_of_the_handler_is_told_with_its_event(play):
    """The error names the events, so that a crash does not look like silence."""

    def broken(_session, _ask):
        raise ZeroDivisionError

    with pytest.raises(AssertionError, match=r"session\.handler_failed"):
        play(broken).receives(Ask(1)).sends(Answer(2))


router = Router()


@router.on(Ask)
def count(session, ask):
    session.state = (session.state or 0) + ask.number
    session.reply(Answer(session.state))


@router.on(Bye)
def bye(session, _bye):
    session.finish()


def test_a_router_picks_the_handler_of_each_message():
    """One session, several handlers."""
    playbook(router).receives(Ask(2)).sends(Answer(2)).receives(Ask(3)).sends(Answer(5)).receives(Bye()).ends(
        Reason.FINISHED
    )


class Counting(Gateway):
    name = "counting"
    router = router
    config = "first"

    async def start(self, server):
        await super().start(server)
        self.was_started = True

    def farewell(self, _session, _error):
        return Bye()


def test_a_gateway_keeps_its_answers_and_is_not_changed():
    """A copy is played with: start, farewell and limits are the gateway's own."""
    gateway = Counting()
    playbook(gateway).receives(Ask(2)).sends(Answer(2)).receives(Answer(1)).sends(Bye()).ends(
        Reason.PROTOCOL_ERROR
    )
    assert not hasattr(gateway, "was_started")
    assert gateway.session_class is Session


def test_config_peer_and_session_class_are_the_test_s_own():
    """What a handler takes from its session."""

    class Named(Session):
        name: str = "nobody"

    def who(session, _ask):
        session.finish((session.name, session.config, session.connection.peer.address))

    (
        playbook(who, config="snapshot", peer=Peer("198.51.100.7"), session_class=Named)
        .receives(Ask(1))
        .sends(("nobody", "snapshot", "198.51.100.7"))
        .ends(Reason.FINISHED)
    )


def test_a_lane_that_does_not_fit_is_refused_at_once():
    """A plain function has no task."""
    with pytest.raises(LocalProtocolError):
        playbook(double, lane=Lane.CONVERSATION)


def test_a_playbook_can_be_closed_early():
    """As a context manager, and twice."""
    with playbook(sum_of_two) as book:
        book.receives(Ask(1)).sends(Answer(0))
        book.close()
