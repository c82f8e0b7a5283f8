"""``sojourn.js`` and the desk in Debian's Chromium, against a server that does what a test says."""

from __future__ import annotations

import pytest
from exchange_browser_lab import TERMS, TOKEN, open_browser
from exchange_peer_lab import SESSION, TICKET, scripted_exchange

from sojourn.gateways.exchange.messages import CLOSE_CODES

pytestmark = pytest.mark.debian("chromium")

TICKETS = f"/v1/sessions/{SESSION}/ticket"


@pytest.fixture(scope="module")
def browse():
    """Run stories with a new tab each, in one browser; the tab's page is the server's and empty."""
    with open_browser() as run:

        def browse(story, path="/empty"):
            async def main(new_tab):
                async with scripted_exchange() as server, new_tab(server.url + path, server) as tab:
                    await story(tab)

            run(main)

        yield browse


def test_a_session_is_made_watched_and_traded_in(browse):
    """The whole of it once: REST, ticket, hello, snapshot, events, rows, an order, the end."""

    async def story(tab):
        link = await tab.open()
        await link.say("md", r=5, full=1, rows=[{"s": "AAPL", "last": "175"}])
        await link.say("pf", r=2, d={"cash": "1000"})
        await link.say("a_frame_of_the_future")
        await link.event(1, {"order": 9, "status": "new"})
        await link.say("hb", n=4)
        assert await link.hear() == {"t": "hb_ack", "n": 4, "o": 1}
        assert await tab.told("event", "offset") == [1]
        assert await tab.told("event", "data") == [{"order": 9, "status": "new"}]
        await tab.ask("session.order({ symbol: 'AAPL', side: 'buy', quantity: 3, price: 175.25 })")
        order = await link.hear("order")
        assert (order["type"], order["price"], order["quantity"]) == ("limit", "175.25", 3)
        await link.say("ok", ref=order["id"], d={"order": 10, "status": "new", "filled": 0})
        await tab.until("answer?.order === 10")
        known = "[session.rows.get('AAPL').last, session.portfolio.cash, session.simulator.state]"
        assert await tab.page.evaluate(known) == ["175", "1000", "running"]
        assert await tab.page.evaluate("session.resume") == {"epoch": 1, "events": 1, "md": 5, "pf": 2}
        await tab.page.evaluate("session.end()")
        await link.say("ended", reason="user")
        await link.close(4009)
        await tab.until("session.state === 'over'")
        assert await tab.told("end", "name") == ["session_ended"]
        assert await tab.told("end", "reason") == ["user"]
        assert tab.complaints == []

    browse(story)


def test_a_page_shows_tickets_and_no_token_is_in_any_url(browse):
    """Section 5.4: a new ticket for each connection, shown as a subprotocol; tokens are in REST's headers only."""

    async def story(tab):
        link = await tab.open()
        link.cut()
        await tab.again()
        upgrades = tab.server.seen("/v1/ws")
        assert len(upgrades) == len(tab.server.seen(TICKETS)) == 2
        for request in upgrades:
            assert request.headers["Sec-WebSocket-Protocol"] == f"session.v1.json, ticket.{TICKET}"
            assert "Authorization" not in request.headers
            assert "Cookie" not in request.headers
        assert tab.server.seen(TICKETS)[0].headers["Authorization"] == f"Bearer {TOKEN}-1"
        assert not [url for url in tab.urls() if TOKEN in url or TICKET in url]

    browse(story)


def test_after_a_cut_it_resumes_and_asks_again_what_was_not_answered(browse):
    """The cursor in the hello, the missed events once and in order, the order under its old id."""

    async def story(tab):
        link = await tab.open()
        await link.event(1)
        await link.say("md", r=7, full=1, rows=[])
        await tab.ask("session.order({ symbol: 'AAPL', side: 'buy', quantity: 3 })")
        first = await link.hear("order")
        link.cut()
        link, hello = await tab.again(missed=[None, None])
        assert hello["resume"] == {"epoch": 1, "events": 1, "md": 7, "pf": 0}
        assert await link.hear("order") == first
        assert first["type"] == "market"
        await link.say("ok", ref=first["id"], d={"order": 2})
        await tab.until("answer?.order === 2")
        assert await tab.told("event", "offset") == [1, 2, 3]
        counted = {"connections": 2, "events": 3, "recovered": 2, "lost": 0, "gaps": 0, "repeated": 1}
        assert await tab.page.evaluate("session.stats") == counted

    browse(story)


def test_a_new_epoch_is_adopted_only_with_its_snapshot(browse):
    """Cut between welcome and snapshot, the old cursor is said again; what was lost is told as lost."""

    async def story(tab):
        link = await tab.open()
        await link.event(1)
        await tab.until("session.resume.events === 1")
        link.cut()
        link = await tab.server.link()
        await link.hear("hello")
        await link.welcome(epoch=5, events=40, reconnect=TERMS)
        link.cut()
        link = await tab.server.link()
        hello = await link.greet(epoch=5, events=41, orders=[{"order": 3, "status": "new"}])
        assert hello["resume"]["epoch"] == 1
        await link.event(42)
        await tab.until("session.resume.events === 42")
        assert await tab.told("snapshot", "isLoss") == [False, True]
        assert await tab.page.evaluate("[...session.orders.keys()]") == [3, 42]

    browse(story)


@pytest.mark.parametrize("offset", [3, 1])
def test_an_event_that_is_not_the_next_one_is_refused_and_asked_for_again(browse, offset):
    """A gap or a repetition: close with 4002, come back, resume; the page hears each event once."""

    async def story(tab):
        link = await tab.open()
        await link.event(1)
        await link.event(offset)
        assert await link.gone() == 4002
        _, hello = await tab.again(missed=[None])
        assert hello["resume"]["events"] == 1
        await tab.until("session.resume.events === 2")
        assert await tab.told("event", "offset") == [1, 2]
        assert await tab.page.evaluate("session.stats.gaps") == 1

    browse(story)


def test_the_table_of_close_codes_is_obeyed(browse):
    """The same table as the server's; each code that lets it come back does, each other one ends it for good."""

    async def story(tab):
        link = await tab.open()
        table = await tab.page.evaluate("codes")
        assert table == {
            str(row.code): {"name": row.name, "comesBack": row.comes_back} for row in CLOSE_CODES
        }
        for row in CLOSE_CODES:
            if row.comes_back:
                await link.close(row.code)
                link, _ = await tab.again()
        assert await tab.page.evaluate("tokens") == [False, True]  # another one after 4001
        await tab.page.evaluate("session.close()")
        for row in CLOSE_CODES:
            if not row.comes_back:
                link = await tab.open()
                await tab.ask("session.cancel(1)")
                await link.hear("cancel")
                await link.close(row.code)
                await tab.until("session.state === 'over' && refusal")
                assert await tab.page.evaluate("refusal") == row.name
                assert await tab.told("end", "code") == [row.code]
        assert tab.server.links.empty()

    browse(story)


def test_waits_grow_with_full_jitter_and_begin_anew_after_a_welcome(browse):
    """Half of 20, 40, 80 and at last of 100 ms, as chance is half here; over the limit a welcome shortens nothing."""

    async def story(tab):
        link = await tab.open()
        link.cut()
        for _ in range(4):
            link = await tab.server.link()
            await link.hear("hello")
            link.cut()
        link, _ = await tab.again()
        await tab.until("session.state === 'live'")
        for _ in range(3):
            await link.close(4029)
            link, _ = await tab.again()
        waits = [round(one) for one in await tab.told("state", "delayMs") if one]
        assert waits == [10, 20, 40, 50, 50, 50, 50, 50]

    browse(story)


def test_before_the_first_welcome_waits_are_those_of_the_specification(browse):
    """Section 5.6: 0.2 to 1 s first; what a server asks for with Retry-After comes on top."""

    async def story(tab):
        tab.server.answer(TICKETS, 503, {}, **{"Retry-After": "1"})
        await tab.begin()
        await (await tab.server.link()).greet()
        assert [one for one in await tab.told("state", "delayMs") if one] == [1600]

    browse(story)


def test_who_is_sent_away_comes_back_when_told(browse):
    """A drain: nothing more is asked there, and the next connection comes after the time that was said."""

    async def story(tab):
        link = await tab.open()
        await link.say("drain", reconnect_after_ms=300, resume={"epoch": 1, "events": 0, "md": 0, "pf": 0})
        await link.say("hb", n=1)
        await link.hear("hb_ack")
        await tab.ask("session.cancel(5)")
        assert await link.gone() == 1000
        assert link.frames.empty()
        link, _ = await tab.again()
        cancel = await link.hear("cancel")
        await link.say("ok", ref=cancel["id"], d={"order": 5})
        await tab.until("answer?.order === 5")
        await link.say("drain", reconnect_after_ms=1_000, resume={"epoch": 1, "events": 0, "md": 0, "pf": 0})
        await link.close(1012)
        await tab.again()
        first, second = (one for one in await tab.told("state", "why") if one)
        assert (first, second) == ("the server sends its clients away", "1012 restart")
        assert 100 < max(await tab.told("state", "delayMs")) <= 1_000

    browse(story)


def test_a_server_that_is_silent_for_too_long_is_left(browse):
    """The welcome says how long to wait for a heartbeat."""

    async def story(tab):
        await tab.begin()
        link = await tab.server.link()
        await link.greet(heartbeat={"every_s": 0.02, "timeout_s": 0.1}, reconnect=TERMS)
        await link.gone()
        await tab.again()
        await tab.until("session.stats.connections === 2")
        assert "silent" in " ".join(await tab.told("state", "why"))

    browse(story)


def test_refusals_are_told_and_what_may_succeed_later_is_asked_again(browse):
    """Final codes reject; the others are asked again after ``retry_after_s`` under the same id."""

    async def story(tab):
        link = await tab.open(options={"timeoutMs": 5_000})
        await tab.ask("session.replace(3, 10, '12.5')")
        asked = await link.hear("replace")
        await link.say("err", ref=asked["id"], code="outcome_unknown", retry_after_s=0.01)
        assert await link.hear("replace") == asked
        await link.say("err", code="rate_limited", retry_after_s=0.01)
        assert await link.hear("replace") == asked
        await link.say("err", ref=asked["id"], code="order_refused", detail="too_many")
        await tab.until("refusal === 'order_refused'")
        await tab.ask("session.order({ symbol: 'AAPL', side: 'buy', quantity: -1 })")
        await link.hear("order")
        await link.say("err", code="bad_frame", detail="quantity")
        await tab.until("refusal === 'bad_frame'")

    browse(story)


def test_no_answer_in_time_is_a_refusal_of_its_own(browse):
    """Every wait has a deadline."""

    async def story(tab):
        await tab.open(options={"timeoutMs": 500})
        await tab.ask("session.startSimulator()")
        await tab.until("refusal === 'no_answer'")
        await tab.page.evaluate("session.close()")
        await tab.ask("session.stopSimulator()")
        await tab.until("refusal === 'over'")

    browse(story)


def test_symbols_are_said_again_and_rows_asked_for_as_a_whole_until_they_are_here(browse):
    """Who was cut before the full frame has rows that are not whole."""

    async def story(tab):
        link = await tab.open(options={"symbols": ["A"]})
        await link.say("md", r=5, full=1, rows=[{"s": "A"}])
        await tab.ask("session.subscribe(['B'])")
        assert (await link.hear("sub"))["symbols"] == ["B"]
        link.cut()
        link, hello = await tab.again(resumed="partial")
        assert (hello["symbols"], hello["resume"]["md"]) == (["A", "B"], 0)
        await link.say("md", r=6, full=1, rows=[{"s": "A"}, {"s": "B"}])
        await tab.until("session.rows.size === 2")
        await tab.ask("session.unsubscribe(['A'])")
        await link.say("ok", ref=(await link.hear("unsub"))["id"])
        await link.say("md", r=7, full=1, rows=[{"s": "B"}])
        await tab.until("[...session.rows.keys()].join() === 'B'")
        link.cut()
        _, hello = await tab.again()
        assert (hello["symbols"], hello["resume"]["md"]) == (["B"], 7)

    browse(story)


def test_a_token_is_asked_for_again_when_it_is_refused_but_not_for_ever(browse):
    """401 twice in a row with new tokens ends it; 404 ends it at once: the session is another's, or gone."""

    async def story(tab):
        tab.server.answer(TICKETS, 401, {})
        link = await tab.open()
        assert await tab.page.evaluate("tokens") == [False, True]
        for _ in range(3):
            tab.server.answer(TICKETS, 401, {"type": "tag:sojourn,2026:problem:invalid_token"})
        link.cut()
        await tab.until("session.state === 'over'")
        assert await tab.told("end", "name") == ["invalid_token"]
        tab.server.answer(TICKETS, 404, {"type": "tag:sojourn,2026:problem:not_found", "title": "no"})
        await tab.begin()
        await tab.until("window.refusal === 'not_found'")

    browse(story)


def test_a_reload_resumes(browse):
    """The cursor is kept in sessionStorage: events are replayed, the rest comes as a whole, nothing counts as lost."""

    async def story(tab):
        link = await tab.open(options={"storageKey": "desk"})
        await link.event(1)
        await link.say("md", r=9, full=1, rows=[])
        await tab.until("session.resume.md === 9")
        await tab.page.reload()
        await tab.begin(storageKey="desk")
        link, hello = await tab.again(resumed="partial", missed=[None])
        assert hello["resume"] == {"epoch": 1, "events": 1, "md": 0, "pf": 0}
        asked = await link.hear("snapshot")
        await link.say("ok", ref=asked["id"])
        await link.say("snapshot", epoch=1, o=2, sim="running", orders=[{"order": 1, "status": "new"}])
        await tab.until("session.orders.size === 1")
        assert await tab.told("event", "offset") == [2]
        assert await tab.told("snapshot", "isLoss") == [False]
        await link.close(4009)
        await tab.until("session.state === 'over'")
        assert await tab.page.evaluate("sessionStorage.getItem('desk')") is None

    browse(story)


def test_the_desk_trades(browse):
    """What a person sees first: log in, a live table, an order, its events; all with its own strict policy."""

    async def story(tab):
        page = tab.page
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Open the session").click()
        link = await tab.server.link()
        await link.greet()
        start = await link.hear("sim")
        await link.say("ok", ref=start["id"], d={"state": "running"})
        await link.say("md", r=1, full=1, rows=[{"s": "AAPL", "bid": "174.9", "ask": "175.1", "last": "175"}])
        await link.say("pf", r=1, d={"cash": "1000", "positions": [{"symbol": "AAPL", "quantity": 7}]})
        await page.get_by_role("cell", name="174.9").wait_for()
        await page.get_by_role("cell", name="7", exact=True).wait_for()
        await page.get_by_label("Quantity").fill("3")
        await page.get_by_label("Limit").fill("175.05")
        await page.get_by_role("button", name="Send").click()
        order = await link.hear("order")
        assert (order["symbol"], order["side"], order["price"]) == ("AAPL", "buy", "175.05")
        body = {
            "order": 4,
            "symbol": "AAPL",
            "side": "buy",
            "quantity": 3,
            "filled": 0,
            "status": "new",
            "price": "175.05",
        }
        await link.event(1, body)
        await link.say("ok", ref=order["id"], d={"order": 4, "status": "new"})
        await page.get_by_text("Order 4: new").wait_for()
        await page.get_by_role("button", name="Cancel order 4").click()
        await link.hear("cancel")
        await page.get_by_role("status").filter(has_text="live").wait_for()
        link.cut()
        link = await tab.server.link()
        await link.regreet(missed=[{**body, "status": "canceled"}])
        await page.get_by_text("0/3 AAPL canceled").wait_for()
        assert not [url for url in [*tab.urls(), page.url] if TOKEN in url]
        assert tab.complaints == []

    browse(story, "/")
