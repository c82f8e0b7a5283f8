"""Who is let in to a session, and who is not: answers before the upgrade, and what the operator sees of it.

Source: exchange-session-service.md sections 5.3 and 5.4.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from exchange_pod_lab import (
    LabClock,
    PodLab,
    Talk,
    joined,
    new_session,
    refused,
    running_postgres,
    soon,
    talking,
)

from sojourn.gateways.exchange.config import ExchangeLimits
from sojourn.gateways.exchange.http_config import HttpSettings, RateSettings

NOBODYS = "01990000-0000-7000-8000-000000000000"
DESK = "https://desk.example.net"


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def lab(postgres, tmp_path):
    return PodLab(tmp_path, postgres.dsn())


def test_a_ticket_opens_one_websocket_once(lab, run):
    """Section 5.3: a browser shows a ticket instead of a token; used once it is worthless, and it names its session."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, aiohttp.ClientSession() as browser:
            session = await new_session(http, pod)
            async with http.post(f"{pod.url}/v1/sessions/{session}/ticket") as answer:
                ticket = (await answer.json())["ticket"]
            protocols = ("session.v1.json", f"ticket.{ticket}")
            async with browser.ws_connect(f"{pod.url}/v1/ws", protocols=protocols) as socket:
                assert socket.protocol == "session.v1.json"
                assert (await Talk(socket).greet())["session"] == session
            assert (await refused(browser, f"{pod.url}/v1/ws", protocols=protocols))[0] == 401
            async with http.post(f"{pod.url}/v1/sessions/{session}/ticket") as answer:
                ticket = (await answer.json())["ticket"]
            other = f"{pod.url}/v1/ws?session={NOBODYS}"
            protocols = ("session.v1.json", f"ticket.{ticket}")
            assert (await refused(browser, other, protocols=protocols))[0] == 404

    run(scenario())


def test_a_ticket_is_not_used_up_by_a_handshake_that_could_not_be(lab, run):
    """Without an upgrade, or in another protocol, a ticket is not taken."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, aiohttp.ClientSession() as browser:
            session = await new_session(http, pod)
            async with http.post(f"{pod.url}/v1/sessions/{session}/ticket") as answer:
                ticket = (await answer.json())["ticket"]
            async with browser.get(f"{pod.url}/v1/ws?ticket={ticket}") as answer:
                assert answer.status == 400
                assert "upgrade" in (await answer.json())["detail"]
            alone = await refused(browser, f"{pod.url}/v1/ws", protocols=(f"ticket.{ticket}",))
            assert alone[0] == 400
            async with talking(browser, pod.url, f"{session}&ticket={ticket}") as ana:
                await ana.greet()

    run(scenario())


def test_a_strangers_session_and_none_at_all_are_the_same(lab, run):
    """Both get 404 before the upgrade; the stranger's attempt opens nothing."""

    async def scenario():
        async with lab.pod() as pod, lab.client("ana") as http, lab.client("bob") as stranger:
            session = await new_session(http, pod)
            answers = []
            for id_ in (session, NOBODYS, "no-id", "../../etc/passwd", "%00"):
                async with stranger.get(f"{pod.url}/v1/ws?session={id_}", headers=UPGRADE) as answer:
                    body = await answer.json()
                    answers.append((answer.status, {**body, "request_id": ""}))
            assert answers == [answers[0]] * 5
            assert answers[0][0] == 404
            assert not pod.gateway.keeper.rooms
            async with joined(http, pod, session) as ana:
                assert (await refused(stranger, f"{pod.url}/v1/ws?session={session}"))[0] == 404
                assert len(pod.gateway.keeper.rooms[session].links) == 1
                assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_bad_tokens_get_401_and_those_without_the_scope_403(lab, run):
    """Section 5.4: rejected before the upgrade; a token in the URL is refused whatever it is worth."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, aiohttp.ClientSession() as nobody:
            session = await new_session(http, pod)
            url = f"{pod.url}/v1/ws?session={session}"
            good = lab.token()
            head, body, signature = good.split(".")
            forged = f"{head}.{body}.{signature[:-8]}AAAAAAA{signature[-1]}"
            expired = lab.token(lifetime_s=-600)
            shown = [{}, {"Authorization": "Basic YTpi"}]
            shown += [
                {"Authorization": f"Bearer {token}"} for token in ("x", forged, expired, f"{head}.{body}.")
            ]
            for headers in shown:
                status, answer = await refused(nobody, url, headers=headers)
                assert status == 401, headers
                assert answer["WWW-Authenticate"].startswith("Bearer")
            other = {"Authorization": f"Bearer {lab.token(scopes=('reports',))}"}
            assert (await refused(nobody, url, headers=other))[0] == 403
            assert (await refused(nobody, f"{url}&access_token={good}"))[0] == 400
            assert not pod.gateway.keeper.rooms

    run(scenario())


def test_only_listed_web_pages_may_open_a_websocket(lab, run):
    """RFC 6455 section 10.2: origins by list, and our own; whatever is no browser sends none."""

    async def scenario():
        http_settings = HttpSettings(origins=(DESK,))
        async with lab.pod(http=http_settings) as pod, lab.client() as http:
            session = await new_session(http, pod)
            url = f"{pod.url}/v1/ws?session={session}"
            for origin in ("https://evil.example.net", "null", "http://desk.example.net"):
                assert (await refused(http, url, headers={"Origin": origin}))[0] == 403
            for origin in (DESK, pod.url):
                async with talking(http, pod.url, session, headers={"Origin": origin}) as ana:
                    await ana.greet()

    run(scenario())


def test_a_pod_that_leaves_says_so(lab, run):
    """Section 5.6: 503 with Retry-After to new sessions and handshakes, readiness 503, clients sent away with 1012."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            session = ana.welcome["session"]
            async with http.post(f"{pod.url}/v1/sessions/{session}/ticket") as answer:
                ticket = (await answer.json())["ticket"]
            async with http.get(f"{pod.url}/readyz") as answer:
                assert answer.status == 200
            leaving = asyncio.ensure_future(pod.gateway.leave(10.0))
            advice = await ana.hear("drain")
            assert advice["resume"]["epoch"] == ana.welcome["epoch"]
            protocols = ("session.v1.json", f"ticket.{ticket}")
            status, headers = await refused(http, f"{pod.url}/v1/ws", protocols=protocols)
            assert (status, headers["Retry-After"]) == (503, "1")
            async with http.post(f"{pod.url}/v1/sessions", json={"device": "d9"}) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
            async with http.get(f"{pod.url}/readyz") as answer:
                assert answer.status == 503
            async with http.get(f"{pod.url}/healthz") as answer:
                assert answer.status == 200
            assert await ana.end() == 1012
            await leaving
            assert (await pod.gateway.desk.take(ticket)).session == session  # good for another pod

    run(scenario())


def test_a_flood_of_handshakes_meets_its_limit(lab, run):
    """Requests of one address are counted before anything is done for them: 429 with Retry-After."""

    async def scenario():
        few = HttpSettings(per_address=RateSettings(requests_per_s=1.0, burst_count=20))
        async with lab.pod(http=few) as pod, lab.client() as http, joined(http, pod) as ana:
            url = f"{pod.url}/v1/ws?session={NOBODYS}"
            answers = await asyncio.gather(*(refused(http, url) for _ in range(60)))
            statuses = [status for status, _ in answers]
            assert statuses.count(429) >= 35
            assert set(statuses) == {404, 429}
            assert all("Retry-After" in headers for status, headers in answers if status == 429)
            assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())


def test_too_many_connections_of_one_address_are_not_let_in(lab, run):
    """The core's limit counts before a byte is read; who is there notices nothing, and a place is free again later."""

    async def scenario():
        limits = ExchangeLimits(connections_per_peer_count=3)
        async with (
            lab.pod(limits=limits) as pod,
            lab.client() as http,
            joined(http, pod) as ana,
            joined(http, pod) as second,
        ):
            session = ana.welcome["session"]
            async with joined(http, pod, session):
                with pytest.raises(aiohttp.ClientError):
                    await http.ws_connect(f"{pod.url}/v1/ws?session={session}")
                assert (await second.ask("snapshot"))["t"] == "ok"
            await soon(lambda: len(pod.manager.connections) < 3)
            async with joined(http, pod, session):
                assert (await ana.ask("snapshot"))["t"] == "ok"

    run(scenario())


def test_bytes_that_are_no_http_touch_nobody_else(lab, run):
    """Garbage, half a request and an upgrade that breaks off: answered with 400 or closed, and nobody notices."""

    async def scenario():
        async with lab.pod() as pod, lab.client() as http, joined(http, pod) as ana:
            await ana.start()
            host, port = pod.url.removeprefix("http://").split(":")
            heads = (
                b"\x16\x03\x01\x02\x00\x01\x00",
                b"GET\r\n\r\n",
                b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
                b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"\x00" * 100_000,
            )
            for head in heads:
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(head)
                async with asyncio.timeout(10):
                    line = await reader.readline()
                writer.close()
                assert line[:4] + line[8:10] in (b"HTTP 4", b""), (head[:40], line)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v1/ws?session=")
            writer.transport.abort()
            await ana.hear("md")
            assert (await ana.buy())["t"] == "ok"
            await soon(lambda: len(pod.manager.connections) == 1 + len(_kept(http)))

    run(scenario())


def _kept(http):
    """Return the idle connections that a client keeps."""
    return [one for conns in http.connector._conns.values() for one in conns]


def test_the_operator_sees_figures_and_traces(lab, run):
    """Metrics of rooms, links, backends, requests and tokens; a session's frames in the flight recorder."""

    async def scenario():
        clock = LabClock()
        async with lab.pod(clock=clock) as pod, lab.client() as http, aiohttp.ClientSession() as nobody:
            async with joined(http, pod) as ana:
                await ana.start()
                await ana.buy(1)
                await ana.events(2)
                await refused(nobody, f"{pod.url}/v1/ws")
                found = {(name, *labels.values()): value for name, labels, value in pod.gateway.counters()}
                assert found["sojourn_exchange_sessions_owned",] == 1
                assert found["sojourn_exchange_links",] == 1
                assert found["sojourn_exchange_links_opened_total",] == 1
                assert found["sojourn_exchange_ready",] == 1
                assert found["sojourn_exchange_pods",] == 1
                assert found["sojourn_exchange_simulators", "running"] == 1
                assert found["sojourn_exchange_events_waiting",] == 0
                for backend in ("database", "bus", "auth", "simulators"):
                    assert found["sojourn_exchange_backend_up", backend] == 1
                assert found["sojourn_exchange_auth_refused_total", "no_token"] == 1
                assert found["sojourn_exchange_http_requests_total", "GET", "/v1/ws", "401"] == 1
                (live,) = pod.registry.snapshots(gateway="exchange", state="live")
                trace = pod.registry.trace(live.id)
                told = [(entry.source, entry.target, entry.name) for entry in trace]
                assert ("ana", "exchange", "PlaceOrder") in told
                assert ("exchange", "ana", "Welcome") in told
                assert ("exchange", "ana", "OrderEvent") in told
                assert any(name.startswith("owned here") for _, _, name in told)
                await ana.say("bye")
                assert await ana.end() == 1000
            await soon(lambda: not pod.gateway.door.links_count)
            closed = {
                labels["code"]: value
                for name, labels, value in pod.gateway.counters()
                if name == "sojourn_exchange_links_closed_total"
            }
            assert closed == {"1000": 1}

    run(scenario())
