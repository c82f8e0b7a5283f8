"""HTTP on the core's listeners: what the core promises of every gateway holds for requests and WebSockets too."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import struct

import aiohttp
import pytest
import trustme
import uvloop
import websockets
from aiohttp import web
from core_lab import told, turns, until
from http_lab import raw, serving

from sojourn.core.settings import LimitSettings, ListenerSettings, TlsSettings
from sojourn.testing import ManualClock
from sojourn.web.config import HttpSettings
from sojourn.web.server import (
    Forwarding,
    connection_of,
    protocol_of,
    transport_of,
)


@pytest.fixture(params=["uvloop", "asyncio"])
def run_on_both(request):
    """Run a coroutine on uvloop and on asyncio's own loop."""

    def run_coroutine(coroutine):
        async def bounded():
            async with asyncio.timeout(60):
                return await coroutine

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(bounded())

    return run_coroutine


class Room:
    """An application whose handlers stop where the test wants them."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.may_go = asyncio.Event()
        self.finished = 0
        self.app = web.Application(client_max_size=1024)
        self.app.add_routes(
            [
                web.get("/", self.hello),
                web.get("/wait", self.wait),
                web.get("/big", self.big),
                web.get("/bug", self.bug),
                web.get("/stream", self.stream),
                web.post("/echo", self.echo),
                web.get("/ws", self.socket),
            ]
        )

    async def hello(self, request):
        return web.Response(text=f"hello {connection_of(request).peer.address}")

    async def wait(self, _request):
        self.entered.set()
        await self.may_go.wait()
        self.finished += 1
        return web.Response(text="done")

    async def big(self, _request):
        return web.Response(body=bytes(8_000_000))

    async def bug(self, _request):
        raise ValueError("a secret of the handler")

    async def stream(self, request):
        protocol_of(request).serves_only_its_client = True
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        self.entered.set()
        try:
            await self.may_go.wait()
        finally:
            self.finished += 1
        return response

    async def echo(self, request):
        return web.Response(body=await request.read())

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert transport_of(request) is connection_of(request).transport
        protocol_of(request).end_visit()
        self.entered.set()
        async for message in socket:
            await socket.send_str(message.data)
        self.finished += 1
        return socket


def test_an_http_client_is_answered_and_its_connection_is_kept(run_on_both):
    """RFC 9112 section 9.3: connections persist; both loops hand the transport over the same way."""

    async def go():
        async with serving(Room().app) as server, aiohttp.ClientSession() as client:
            for _ in range(3):
                async with client.get(f"{server.url}/") as answer:
                    assert await answer.text() == "hello 127.0.0.1"
            assert server.manager.connections_opened == 1
            assert server.manager.packets_in == 3

    run_on_both(go())


def test_a_websocket_client_of_another_maker_is_served(run_on_both):
    """RFC 6455 section 4: the upgrade gives the handler the transport and the core's connection."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            async with websockets.connect(server.url.replace("http", "ws") + "/ws") as client:
                await client.send("ping")
                assert await client.recv() == "ping"
                assert not next(iter(server.manager.connections)).table.live
            await until(lambda: room.finished == 1)

    run_on_both(go())


def test_requests_that_come_at_once_are_answered_in_their_order(run):
    """RFC 9112 section 9.3.2: a pipeline's answers come in the order of its requests."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            client = await raw(server)
            client.get("/wait")
            client.get("/")
            await room.entered.wait()
            room.may_go.set()
            assert (await client.answer())[2] == b"done"
            assert (await client.answer())[2] == b"hello 127.0.0.1"
            client.close()

    run(go())


def test_limits_hold_before_a_byte_is_read(run):
    """The core's admission: beyond connections_per_peer_count a peer is not even greeted."""

    async def go():
        limits = LimitSettings(connections_per_peer_count=2)
        async with serving(Room().app, limits=limits) as server:
            first, second = await raw(server), await raw(server)
            await until(lambda: len(server.manager.connections) == 2)
            third = await raw(server)
            third.get()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await third.answer()
            assert server.manager.connections_refused == 1
            for client in (first, second, third):
                client.close()

    run(go())


def test_tls_certificates_are_renewed_without_a_restart(run_on_both, tmp_path):
    """The core's ReloadableContext: the next handshake shows the new certificate, an open connection stays."""

    async def go():
        authority = trustme.CA()
        certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

        def issue():
            leaf = authority.issue_cert("localhost", "127.0.0.1")
            certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
            key.touch(mode=0o600)
            key.write_bytes(leaf.private_key_pem.bytes())

        issue()
        tls = TlsSettings(certificate_file=str(certificate), private_key_file=str(key))
        listener = ListenerSettings(address="127.0.0.1:0", tls=tls)
        async with serving(Room().app, listener) as server:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            old = await raw(server, ssl=context)
            issue()
            server.reload()
            new = await raw(server, ssl=context)
            serials = []
            for client in (old, new):
                client.get()
                assert (await client.answer())[0] == 200
                serials.append(client.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])
                client.close()
            assert serials[0] != serials[1]

    run_on_both(go())


def test_the_address_behind_a_proxy_header_is_the_clients(run_on_both):
    """PROXY protocol version 2: limits and logs are about the client, not about the load balancer."""

    async def go():
        listener = ListenerSettings(
            address="127.0.0.1:0", proxy_protocol=True, trusted_proxies=("127.0.0.0/8",)
        )
        async with serving(Room().app, listener) as server:
            client = await raw(server)
            client.send(
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
                + bytes((192, 0, 2, 7, 127, 0, 0, 1))
                + struct.pack("!HH", 4444, 80)
            )
            client.get()
            assert (await client.answer())[2] == b"hello 192.0.2.7"
            client.close()

    run_on_both(go())


def test_a_unix_socket_serves_as_tcp_does(run, tmp_path):
    """A reverse proxy on the same machine needs no port."""

    async def go():
        async with serving(Room().app, f"unix:{tmp_path}/http.sock"):
            connector = aiohttp.UnixConnector(f"{tmp_path}/http.sock")
            async with aiohttp.ClientSession(connector=connector) as client:
                assert await (await client.get("http://local/")).text() == "hello unix"

    run(go())


def test_a_head_that_does_not_come_to_its_end_has_a_deadline(run):
    """Slow loris: packet_timeout_s counts from the first byte of the head, however many bytes trickle in."""

    async def go():
        clock = ManualClock()
        async with serving(Room().app, clock=clock, limits=LimitSettings(packet_timeout_s=10)) as server:
            client = await raw(server)
            client.send("GET / HTTP/1.1\r\n")
            connection = await _only_connection(server)
            await until(lambda: connection.partial_since)
            for _ in range(3):
                clock.advance(3)
                client.send("X-Slow: yes\r\n")
                bytes_in = connection.bytes_in
                await until(lambda before=bytes_in: connection.bytes_in > before)
                server.sweep()
            assert not connection.closed
            clock.advance(3)
            server.sweep()
            assert connection.closed == "silence inside a packet"
            assert await client.rest() == b""
            client.close()

    run(go())


def test_a_second_head_has_a_deadline_of_its_own(run):
    """A connection that was good once may not sit on half a request either."""

    async def go():
        clock = ManualClock()
        async with serving(Room().app, clock=clock) as server:
            client = await raw(server)
            client.get()
            await client.answer()
            connection = await _only_connection(server)
            assert not connection.partial_since
            client.send("GET / HT")
            await until(lambda: connection.partial_since)
            clock.advance(16)
            server.sweep()
            assert connection.closed == "silence inside a packet"
            client.close()

    run(go())


def test_a_kept_connection_ends_after_its_silence(run):
    """keep_alive_timeout_s: nobody keeps a socket for nothing."""

    async def go():
        settings = HttpSettings(keep_alive_timeout_s=0.05)
        async with serving(Room().app, settings=settings) as server:
            client = await raw(server)
            client.get()
            assert (await client.answer())[0] == 200
            assert await client.rest() == b""
            client.close()

    run(go())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GARBAGE\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (f"GET /{'a' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\nHost: a\r\nX: {'a' * 9000}\r\n\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: a\r\n" + "".join(f"X-{n}: 1\r\n" for n in range(100)) + "\r\n", 400),
    ],
)
def test_what_is_no_http_gets_a_problem_and_the_end(run, head, status):
    """RFC 9112 section 2.2: answer 400 and close; not a word of what was sent comes back."""

    async def go():
        async with serving(Room().app) as server:
            client = await raw(server)
            client.send(head)
            found, headers, body = await client.answer()
            assert found == status
            assert headers["content-type"].startswith("application/problem+json")
            assert json.loads(body)["status"] == status
            assert b"GARBAGE" not in body
            assert b"aaaa" not in body
            assert await client.rest() == b""
            assert told(server, "http.request_malformed")
            client.close()

    run(go())


def test_a_handlers_bug_is_told_to_the_operator_only(run):
    """Nothing internal leaks: the client reads a problem, the log has class and line."""

    async def go():
        async with serving(Room().app) as server:
            client = await raw(server)
            client.get("/bug")
            status, _, body = await client.answer()
            assert status == 500
            assert b"secret" not in body
            (event,) = told(server, "http.request_failed")
            assert event["error"] == "ValueError"
            assert "secret" not in str(event)
            client.close()

    run(go())


def test_a_drain_lets_the_answer_out_and_ends_the_connection(run_on_both):
    """The core's drain: what is under way finishes, what is idle ends at once, nothing new comes in."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            busy, idle = await raw(server), await raw(server)
            busy.get("/wait")
            await room.entered.wait()
            idle.get()
            await idle.answer()
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(server.stop(timeout_s=10))
                assert await idle.rest() == b""
                assert not stopping.done()
                room.may_go.set()
                assert (await busy.answer())[2] == b"done"
                assert await busy.rest() == b""
            for client in (busy, idle):
                client.close()

    run_on_both(go())


def test_a_request_that_came_just_before_the_drain_is_answered(run):
    """What was received is served, also if its handler has not begun."""

    async def go():
        async with serving(Room().app) as server:
            client = await raw(server)
            connection = await _only_connection(server)
            client.get()
            await until(lambda: connection.bytes_in)
            async with asyncio.TaskGroup() as group:
                group.create_task(server.stop(timeout_s=10))
                assert (await client.answer())[0] == 200
                assert await client.rest() == b""
            client.close()

    run(go())


def test_a_drain_that_takes_too_long_is_cut_short(run):
    """After the drain's deadline the connection ends; after stop_timeout_s its handler does."""

    async def go():
        room = Room()
        async with serving(room.app, settings=HttpSettings(stop_timeout_s=0.05)) as server:
            client = await raw(server)
            client.get("/wait")
            await room.entered.wait()
            await server.stop(timeout_s=0.05)
            assert await client.rest() == b""
            assert room.finished == 0
            assert not server.gateway.http.orphans_count
            client.close()

    run(go())


def test_a_handler_goes_on_when_its_client_is_gone(run_on_both):
    """Half an order is worse than an answer that nobody reads; the end of the server waits for it."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            client = await raw(server)
            client.get("/wait")
            await room.entered.wait()
            client.reset()
            await until(lambda: not server.manager.connections)
            assert server.gateway.http.orphans_count == 1
            room.may_go.set()
            await until(lambda: room.finished == 1)
            await until(lambda: not server.gateway.http.orphans_count)

    run_on_both(go())


def test_a_stream_ends_with_its_client(run_on_both):
    """An event stream serves only its client: its handler is cancelled, so that nothing is fed for nobody."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            client = await raw(server)
            client.get("/stream")
            await room.entered.wait()
            client.close()
            await until(lambda: room.finished == 1)
            await until(lambda: not server.manager.connections)

    run_on_both(go())


def test_a_client_that_has_said_all_still_gets_its_answer(run_on_both):
    """RFC 9112 section 9.6: a half-closed connection carries the answer that is owed."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            client = await raw(server)
            client.get("/wait")
            client.writer.write_eof()
            await room.entered.wait()
            room.may_go.set()
            assert (await client.answer())[2] == b"done"
            assert await client.rest() == b""
            client.close()

    run_on_both(go())


def test_all_requests_before_the_half_close_are_answered(run_on_both):
    """RFC 9112 section 9.6: what came in one piece with the end, as from ``printf | nc``, is served to the last."""

    async def go():
        async with serving(Room().app) as server:
            client = await raw(server)
            client.send(PIPELINE)
            client.writer.write_eof()
            assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 4
            client.close()
            await until(lambda: not server.manager.connections)

    run_on_both(go())


def test_a_client_that_says_nothing_and_goes_leaves_nothing_behind(run_on_both):
    """A half-close without a request is the end."""

    async def go():
        async with serving(Room().app) as server:
            client = await raw(server)
            await until(lambda: server.manager.connections)
            client.writer.write_eof()
            assert await client.rest() == b""
            await until(lambda: not server.manager.connections)
            client.close()

    run_on_both(go())


def test_a_client_that_takes_nothing_is_closed_by_the_cores_deadline(run_on_both):
    """write_timeout_s: the water marks of the transport are reported to the core's connection."""

    async def go():
        clock = ManualClock()
        async with serving(Room().app, clock=clock, limits=LimitSettings(write_timeout_s=5)) as server:
            client = await raw(server, limit=1024)
            client.reader._transport.pause_reading()
            client.get("/big")
            connection = await _only_connection(server)
            await until(lambda: connection.blocked_since)
            assert not connection.writable
            clock.advance(6)
            server.sweep()
            await until(lambda: not server.manager.connections)
            client.close()

    run_on_both(go())


def test_a_slow_client_that_does_take_is_served_to_the_end(run_on_both):
    """Resumed writing clears the core's deadline."""

    async def go():
        async with serving(Room().app) as server, aiohttp.ClientSession(read_bufsize=1024) as client:
            async with client.get(f"{server.url}/big") as answer:
                connection = await _only_connection(server)
                await until(lambda: connection.blocked_since)
                assert len(await answer.read()) == 8_000_000
            await until(lambda: not connection.blocked_since)
            assert connection.writable

    run_on_both(go())


def test_a_body_beyond_the_limit_is_refused_unread(run):
    """RFC 9110 section 15.5.14: 413 from the declared length, without reading it all."""

    async def go():
        async with serving(Room().app) as server, aiohttp.ClientSession() as client:
            async with client.post(f"{server.url}/echo", data=b"x" * 1024) as answer:
                assert answer.status == 200
            async with client.post(f"{server.url}/echo", data=b"x" * 5000) as answer:
                assert answer.status == 413

    run(go())


def test_a_request_is_no_session_in_the_counts_once_it_is_answered(run):
    """The visit is in the table only while an answer is owed, and never in the flight recorder."""

    async def go():
        room = Room()
        async with serving(room.app) as server:
            client = await raw(server)
            client.get("/wait")
            await room.entered.wait()
            assert server.manager.session_count == 1
            room.may_go.set()
            await client.answer()
            await turns()
            assert server.manager.session_count == 0
            assert server.manager.sessions_opened == 0
            assert not list(server.recorder.ended())
            client.close()

    run(go())


def test_forwarded_addresses_are_believed_from_trusted_proxies_only(run):
    """The rightmost address that no trusted proxy has is the client; what a client writes itself counts nothing."""

    async def go():
        found = []
        forwarding = [Forwarding(()), Forwarding(("127.0.0.0/8", "10.0.0.0/8"))]
        app = web.Application()

        async def who(request):
            found.append([one.address_of(request) for one in forwarding])
            return web.Response()

        app.add_routes([web.get("/", who)])
        async with serving(app) as server, aiohttp.ClientSession() as client:
            for told_by_headers in ("6.6.6.6, 192.0.2.1, 10.1.1.1", "junk", "", "10.0.0.9"):
                await client.get(server.url, headers={"X-Forwarded-For": told_by_headers})
        assert [trusting for _, trusting in found] == ["192.0.2.1", "127.0.0.1", "127.0.0.1", "10.0.0.9"]
        assert {plain for plain, _ in found} == {"127.0.0.1"}

    run(go())


PIPELINE = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)


def test_any_cutting_of_the_bytes_gives_the_same_answers(run):
    """The law of every codec: where the network cuts changes nothing."""

    async def go():
        async with serving(Room().app) as server:
            for cut in range(1, len(PIPELINE), 3):
                client = await raw(server)
                connection = await _only_connection(server)
                client.send(PIPELINE[:cut])
                await until(lambda one=connection, count=cut: one.bytes_in == count)
                client.send(PIPELINE[cut:])
                bodies = [(await client.answer())[2] for _ in range(4)]
                assert bodies == [b"hello 127.0.0.1", b"hello", b"abc", b"hello 127.0.0.1"]
                assert await client.rest() == b""
                client.close()
                await until(lambda: not server.manager.connections)

    run(go())


def test_damaged_requests_break_nothing(run):
    """The law of every codec: a valid message with bytes damaged is answered or refused, and never a bug of ours."""

    async def go():
        chance = random.Random(8)
        async with serving(Room().app, settings=HttpSettings(keep_alive_timeout_s=0.05)) as server:
            for _ in range(200):
                damaged = bytearray(PIPELINE)
                for _ in range(chance.randrange(1, 5)):
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
                client = await raw(server)
                client.send(bytes(damaged))
                client.writer.write_eof()
                answers = await client.rest()
                assert answers == b"" or answers.startswith(b"HTTP/1.")
                client.close()
            await until(lambda: not server.manager.connections)
            assert not told(server, "http.request_failed")
            assert not told(server, "server.loop_error")

    run(go())


def test_settings_of_http_say_what_is_wrong_with_them():
    """A wildcard is no origin: with credentials it would open the API to every page."""
    settings = HttpSettings(origins=("*", "https://good.example", "https://bad/path"), trusted_proxies=("x",))
    assert [key for key, _, _ in settings.problems()] == ["origins", "origins", "trusted_proxies"]
    assert not list(HttpSettings().problems())


async def _only_connection(server):
    await until(lambda: server.manager.connections)
    (connection,) = server.manager.connections
    return connection
