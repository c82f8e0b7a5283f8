"""The screen of ``sojourn top`` over a real server: what it shows, what its keys do, and a server that goes away."""

from __future__ import annotations

import contextlib

import pytest
import tacacs_lab as labs
from admin_lab import TOKENS
from top_lab import site, watching

from sojourn.cli import top_feed
from sojourn.cli.control import Remote
from sojourn.core.secret import Secret

STRANGE = "[bold red]x[/]\x1b[2J"


def test_gateways_and_sessions_are_shown_as_they_come_and_go(run, tmp_path):
    """Issue 6, build item 4: figures of each gateway; a session appears without a key, and leaves when it ends."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat:
            drawn = await seat.until("sessions 0 open", "ok all is well", "tacacs")
            assert "packets/s" in drawn
            async with place.lab.wire() as wire:
                await wire.ask(labs.start())
                await seat.until("sessions 1 open", "127.0.0.1", "ana", "tacacs-1")
            await seat.until("sessions 0 open", gone="tacacs-1")
            await seat.press("f", "f")
            await seat.until("sessions 1 finished", "tacacs-1")

    run(story())


def test_what_a_peer_calls_itself_is_shown_as_text(run, tmp_path):
    """Issue 6, bad input: neither markup nor control characters do anything, in the list, the trace or a question."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat, place.lab.wire() as wire:
            await wire.ask(labs.start(name=STRANGE))
            await seat.until("[bold red]x[/]\\x1b[2J")
            await seat.press("x")
            await seat.until("Close this session?", "[bold red]x[/]\\x1b[2J")
            await seat.press("n", "enter")
            drawn = await seat.until("esc Back", "[bold red]x[/]\\x1b[2J")
            assert "\x1b" not in drawn

    run(story())


def test_a_session_is_found_by_typing(run, tmp_path):
    """``/`` searches while somebody types, escape ends it, ``g`` and ``f`` filter; the server looks through all."""

    async def story():
        async with (
            site(tmp_path) as place,
            watching(place.socket) as seat,
            place.lab.wire() as one,
            place.lab.wire() as two,
        ):
            await one.ask(labs.start(name="ana"))
            await two.ask(labs.start(name="ben"))
            await seat.until("sessions 2 open", "ana", "ben")
            await seat.press("slash", "b", "e")
            await seat.until("sessions 1 open", "with be", gone=" ana ")
            await seat.press("enter", "escape")
            await seat.until("sessions 2 open", " ana ")
            await seat.press("g", "s")
            await seat.until("sessions 2 open · tacacs · oldest first")
            await seat.press("f")
            await seat.until("sessions 0 failed")

    run(story())


def test_enter_shows_what_happens_in_a_session_while_it_happens(run, tmp_path):
    """Issue 6, build item 2 in a terminal: lifelines, arrows that come as they happen, and how it ended."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat, place.lab.wire() as wire:
            asked = await wire.ask(labs.start())
            await seat.until("tacacs-1")
            await seat.press("enter")
            await seat.until("open tacacs tacacs-1", "─▶│", "AuthenStart", "│◀─")
            await wire.ask(labs.typed(labs.PASSWORD), session_id=asked.session_id, seq_no=3)
            drawn = await seat.until(
                "finished tacacs tacacs-1", "AuthenContinue", "ended after", ": finished"
            )
            assert labs.PASSWORD not in drawn
            await seat.press("home")
            await seat.until("+0.000 s -> AuthenStart")
            await seat.press("escape")
            await seat.until("sessions 0 open")

    run(story())


def test_a_narrow_terminal_shows_a_trace_as_lines(run, tmp_path):
    """Forty columns have no room for lifelines: the words of ``sojourn trace``, and nothing wider than the screen."""

    async def story():
        async with (
            site(tmp_path) as place,
            watching(place.socket, size=(40, 16)) as seat,
            place.lab.wire() as wire,
        ):
            await wire.ask(labs.start())
            drawn = await seat.until("sessions 1 open", "ana")
            assert "gateway" in drawn
            assert "packets/s" not in drawn
            await seat.press("enter")
            await seat.until("+0.000 s -> AuthenStart")

    run(story())


def test_a_session_is_closed_after_a_question(run, tmp_path):
    """``x`` asks, ``n`` leaves it, ``y`` ends it with the protocol's own end."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat, place.lab.wire() as wire:
            await wire.ask(labs.start())
            await seat.until("tacacs-1")
            for answer in ("n", "enter", "escape"):
                await seat.press("x")
                await seat.until("Close this session?")
                await seat.press(answer)
                await seat.until("sessions 1 open", gone="Close this session?")
            await seat.press("x")
            await seat.until("Close this session?")
            await seat.press("y")
            await seat.until("was told to end")
            await seat.until("sessions 0 open")
            await wire.until_closed()

    run(story())


def test_a_token_that_may_only_look_cannot_close(run, tmp_path):
    """Over HTTP with a token of scope view: everything is shown, and ``x`` does nothing."""

    async def story():
        async with site(tmp_path) as place:
            remote = Remote(f"http://{place.admin.address}", Secret(TOKENS["view"]))
            async with watching(remote) as seat, place.lab.wire() as wire:
                await wire.ask(labs.start())
                await seat.until("tacacs-1")
                await seat.press("x", "question_mark")
                await seat.until("pause: what is on the screen stays")
                await seat.press("escape")
                assert "Close this session?" not in seat.text()

    run(story())


def test_a_server_that_goes_away_is_told_and_found_again(run, tmp_path, monkeypatch):
    """The old figures stay under one line that says when the next attempt is; the first answer takes it away."""
    monkeypatch.setattr(top_feed, "FIRST_WAIT_S", 0.2)

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat, place.lab.wire() as wire:
            await wire.ask(labs.start())
            await seat.until("tacacs-1")
            await place.admin.stop()
            drawn = await seat.until("no answer from the server's control socket - trying again")
            assert "tacacs-1" in drawn
            await place.admin.start()
            await seat.until("tacacs-1", gone="no answer")
            async with place.lab.wire() as another:
                await another.ask(labs.start(name="ben"))
                await seat.until("sessions 2 open", "ben")

    run(story())


def test_what_is_paused_stays(run, tmp_path):
    """``p`` holds the screen still; again, and it shows what has happened since."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat:
            await seat.until("sessions 0 open")
            await seat.press("p")
            await seat.until("paused")
            async with place.lab.wire() as wire:
                await wire.ask(labs.start())
                await labs.eventually(seat.screen.board.rows)
                seat.screen.redraw()
                assert "sessions 0 open" in await seat.until("paused")
                await seat.press("p")
                await seat.until("sessions 1 open", gone="paused")

    run(story())


def test_the_colours_are_the_themes(run, tmp_path):
    """``t`` takes the next theme, in a circle."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat:
            await seat.until("tacacs")
            seen = []
            for _ in range(4):
                seen.append(seat.screen.theme)
                await seat.press("t")
            assert seen == ["textual-dark", "textual-light", "ansi-dark", "ansi-light"]
            assert seat.screen.theme == seen[0]

    run(story())


def test_no_color_leaves_none(run, tmp_path, monkeypatch):
    """no-color.org: with NO_COLOR set, nothing has a colour; the cursor is reversed instead."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def story():
        async with site(tmp_path) as place, watching(place.socket) as seat, place.lab.wire() as wire:
            await wire.ask(labs.start())
            await seat.until("tacacs-1")
            strips = seat.screen.screen._compositor.render_strips()
            styles = [segment.style for strip in strips for segment in strip if segment.style is not None]
            assert all(one.color is None or one.color.is_default for one in styles)
            assert all(one.bgcolor is None or one.bgcolor.is_default for one in styles)
            assert any(one.reverse for one in styles)

    run(story())


def test_a_list_longer_than_the_screen_is_walked_through(run, tmp_path):
    """The cursor stays visible, and on its session while others come."""

    async def story():
        async with (
            site(tmp_path) as place,
            watching(place.socket, size=(80, 24)) as seat,
            contextlib.AsyncExitStack() as wires,
        ):
            for _ in range(20):
                wire = await wires.enter_async_context(place.lab.wire())
                await wire.ask(labs.start())
            await seat.until("sessions 20 open", "tacacs-14\n", gone="tacacs-1\n")
            await seat.press("end")
            await seat.until("tacacs-1\n", gone="tacacs-14\n")
            wire = await wires.enter_async_context(place.lab.wire())
            await wire.ask(labs.start(name="ben"))
            await seat.until("sessions 21 open", "tacacs-1\n")
            assert seat.screen.chosen.id == "tacacs-1"
            await seat.press("home")
            await seat.until("ben", gone="tacacs-1\n")

    run(story())


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 50)])
def test_every_size_is_filled_without_overflow(run, tmp_path, size):
    """Nothing is wider than the screen, and the keys are in its last line."""

    async def story():
        async with site(tmp_path) as place, watching(place.socket, size=size) as seat:
            drawn = await seat.until("sessions 0 open", "? Keys q Quit")
            assert "? Keys q Quit" in drawn.splitlines()[-1]
            await seat.press("question_mark")
            await seat.until("what happens in")
            await seat.press("end")
            await seat.until("q  quit")

    run(story())
