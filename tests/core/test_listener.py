"""Bound addresses: TCP, unix, TLS, PROXY; who may come in, and what survives there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from core_lab import Say, Wire, address, lab, only, packet, running, tcp, told, turns, until

from sojourn.core.listener import parse_address
from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.errors import ConfigError
from sojourn.sansio.proxy_protocol import Address, encode_v1, encode_v2

TCP = "127.0.0.1:0"
DAEMON = Path(__file__).resolve().parent.parent / "support" / "core_daemon.py"


def who(session, _ask):
    peer = session.connection.peer
    names = ",".join(peer.certificate_names)
    session.reply(Say(f"{peer} via {peer.via or 'nobody'} tls {peer.is_tls} {names}".strip()))


async def closed(wire):
    """Wait for the close; a FIN is as good as a reset."""
    with contextlib.suppress(ConnectionResetError):
        assert await wire.rest() == b""


async def asked(server, context):
    """Connect, ask, close."""
    wire = await tcp(server, ssl=context)
    try:
        return await wire.ask("a")
    finally:
        wire.close()


def plain(**more):
    return ListenerSettings(address=TCP, **more)


def proxied(*networks, **more):
    return plain(proxy_protocol=True, trusted_proxies=networks or ("127.0.0.0/8",), **more)


# Addresses


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:49", ("127.0.0.1", 49)),
        (":49", ("0.0.0.0", 49)),
        ("[::1]:49", ("::1", 49)),
        ("unix:/run/x", Path("/run/x")),
    ],
)
def test_an_address_is_host_and_port_or_a_path(text, target):
    """As the setting's help says."""
    assert parse_address(text) == target


@pytest.mark.parametrize("text", ["49", "localhost", "host:65536", "host:x", ""])
def test_a_bad_address_is_the_operator_s_problem(text):
    """ConfigError says what was found and wanted."""
    with pytest.raises(ConfigError, match="host:port"):
        parse_address(text)


def test_a_bad_network_of_proxies_is_the_operator_s_problem(run):
    """At start, with the words of the setting; host bits are forgiven."""

    async def main():
        async with running(lab(who), proxied("10.1.2.3/8")):
            pass
        with pytest.raises(ConfigError, match="trusted_proxies"):
            async with running(lab(who), proxied("not a network")):
                pass

    run(main())


def test_port_0_takes_a_free_one_and_a_taken_one_is_named(run):
    """OSError with the address in its text; what was opened before is closed."""

    async def main():
        async with running(lab(who), TCP) as server:
            host, port = address(server)
            assert port
            with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}") as error:
                async with running(lab(who), TCP, f"{host}:{port}"):
                    pass
            assert error.value.errno == errno.EADDRINUSE

    run(main())


def test_nodelay_is_set_on_both_ways_of_accepting(run):
    """TCP_NODELAY: answers are small, and whole."""

    async def main():
        async with running(lab(who), plain(), proxied()) as server:
            for index, greeting in ((0, b""), (1, b"PROXY UNKNOWN\r\n")):
                wire = await tcp(server, index)
                wire.writer.write(greeting)
                await wire.ask("a")
                sock = only(server).connection.transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                wire.close()
                await until(lambda: not server.manager.connections)

    run(main())


def test_reuse_port_lets_processes_share_an_address(run):
    """SO_REUSEPORT: asked for by both."""

    async def main():
        async with running(lab(who), plain(reuse_port=True)) as first:
            host, port = address(first)
            both = ListenerSettings(address=f"{host}:{port}", reuse_port=True)
            async with running(lab(who), both) as second:
                assert address(second) == (host, port)

    run(main())


def test_ipv4_peers_of_an_ipv6_listener_have_their_ipv4_address(run):
    """``::ffff:192.0.2.1`` is 192.0.2.1 to devices, limits and trusted proxies."""

    async def main():
        any_v6 = ListenerSettings(address="[::]:0")
        trusting = ListenerSettings(address="[::]:0", proxy_protocol=True, trusted_proxies=("127.0.0.1/32",))
        async with running(lab(who), any_v6, trusting) as server:
            for index, greeting in ((0, b""), (1, b"PROXY UNKNOWN\r\n")):
                _, port = address(server, index)
                wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
                wire.writer.write(greeting)
                assert (await wire.ask("a")).startswith("127.0.0.1:")
                wire.close()

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    run(main())


# Unix sockets


def test_a_unix_socket_has_its_permissions_from_the_start_and_goes_with_the_listener(run, tmp_path):
    """``unix_mode``; the file is removed at the end."""

    async def main():
        path = tmp_path / "lab.sock"
        async with running(lab(who), ListenerSettings(address=f"unix:{path}", unix_mode="640")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            wire = Wire(*await asyncio.open_unix_connection(path))
            assert await wire.ask("a") == "unix via nobody tls False"
            wire.close()
        assert not path.exists()

    run(main())


def test_a_unix_socket_that_another_put_in_our_place_is_not_removed(run, tmp_path):
    """The name is ours only while the file is."""

    async def main():
        path = tmp_path / "lab.sock"
        async with running(lab(who), f"unix:{path}"):
            path.rename(tmp_path / "moved")
            async with running(lab(who), f"unix:{path}") as second:
                await second.listeners[0].close()
                path.write_text("precious")
        assert path.read_text() == "precious"

    run(main())


def test_a_server_that_does_not_accept_does_not_hold_up_the_start_of_another(run, tmp_path):
    """A full queue makes connect() wait; the file is in use all the same."""

    async def main():
        path = tmp_path / "lab.sock"
        with contextlib.ExitStack() as stack:
            deaf = stack.enter_context(socket.socket(socket.AF_UNIX))
            deaf.bind(str(path))
            deaf.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(str(path))
            with pytest.raises(OSError, match="in use"):
                async with running(lab(who), f"unix:{path}"):
                    pass

    run(main())


def test_a_stale_unix_socket_is_replaced_a_live_one_and_a_file_are_not(run, tmp_path):
    """What a killed process left behind is no obstacle; anything else is not ours to delete."""

    async def main():
        path = tmp_path / "lab.sock"
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()
        async with running(lab(who), f"unix:{path}"):
            with pytest.raises(OSError, match="in use"):
                async with running(lab(who), f"unix:{path}"):
                    pass
            wire = Wire(*await asyncio.open_unix_connection(path))
            assert await wire.ask("a")
            wire.close()
        path.write_text("precious")
        with pytest.raises(OSError, match="in use"):
            async with running(lab(who), f"unix:{path}"):
                pass
        assert path.read_text() == "precious"

    run(main())


# PROXY protocol

CLIENT, SERVER = Address("198.51.100.7", 4321), Address("192.0.2.1", 49)


@pytest.mark.parametrize("header", [encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER, crc32c=True)])
def test_a_trusted_proxy_says_who_the_peer_is(run, header):
    """Versions 1 and 2; what follows the header in the same segment is the protocol's."""

    async def main():
        async with running(lab(who), proxied()) as server:
            wire = await tcp(server)
            wire.writer.write(header + packet("a"))
            assert await wire.receive() == "198.51.100.7:4321 via 127.0.0.1 tls False"
            assert list(server.manager._per_peer) == ["198.51.100.7"]
            wire.close()

    run(main())


def test_a_proxy_that_speaks_for_itself_keeps_its_address(run):
    """LOCAL and UNKNOWN: health checks."""

    async def main():
        async with running(lab(who), proxied()) as server:
            for header in (encode_v1(None, None), encode_v2(None, None)):
                wire = await tcp(server)
                wire.writer.write(header + packet("a"))
                assert (await wire.receive()).startswith("127.0.0.1:")
                wire.close()

    run(main())


def test_a_stranger_s_proxy_header_is_not_read(run):
    """Refused before a byte, with one event that says where trusted proxies are listed."""

    async def main():
        async with running(lab(who), proxied("203.0.113.0/24")) as server:
            wire = await tcp(server)
            wire.writer.write(encode_v1(CLIENT, SERVER) + packet("a"))
            await closed(wire)
            (event,) = told(server, "connection.refused")
            assert "trusted_proxies" in event["error"]
            assert server.manager.connections_opened == 0
            wire.close()

    run(main())


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4", b"\r\n\r\n\x00\r\nQUIT\n\xff" + bytes(20)]
)
def test_garbage_instead_of_a_proxy_header_is_closed_with_one_event(run, garbage):
    """Whole or cut short: closed, one line, nothing left in the handshake."""

    async def main():
        async with running(lab(who), proxied()) as server:
            wire = await tcp(server)
            wire.writer.write(garbage)
            wire.writer.write_eof()
            await closed(wire)
            await until(lambda: not server.manager._reserved_count)
            assert len(told(server, "listener.handshake_failed")) == 1
            assert server.manager.connections_opened == 0
            wire.close()

    run(main())


def test_silence_instead_of_a_proxy_header_has_a_deadline(run):
    """The loop's own timer: nothing is there yet that a sweep could look at."""

    async def main():
        async with running(lab(who, limits={"first_byte_timeout_s": 0.05}), proxied()) as server:
            wire = await tcp(server)
            assert await wire.rest() == b""
            assert told(server, "listener.handshake_failed")[0]["error"] == "no handshake in time"
            wire.close()

    run(main())


def test_handshakes_count_for_the_limits_and_the_rate_is_asked_once(run):
    """A connection in its handshake takes a place; one that is through takes it once."""

    async def main():
        limits = {"connections_per_peer_count": 2, "accepts_per_s": 0.001, "accepts_burst_count": 3}
        async with running(lab(who, limits=limits), proxied()) as server:
            waiting = [await tcp(server) for _ in range(2)]
            await until(lambda: server.manager._reserved_count == 2)
            third = await tcp(server)
            await until(lambda: server.manager.connections_refused == 1)
            waiting[0].writer.write(b"PROXY UNKNOWN\r\n" + packet("a"))
            assert await waiting[0].receive()
            assert server.manager._per_peer == {"127.0.0.1": 2}
            waiting[1].close()
            await until(lambda: server.manager._per_peer == {"127.0.0.1": 1})
            fourth = await tcp(server)
            fourth.writer.write(b"PROXY UNKNOWN\r\n" + packet("a"))
            assert await fourth.receive()
            for wire in (*waiting, third, fourth):
                wire.close()

    run(main())


def test_a_drain_ends_handshakes_too(run):
    """Half a PROXY header keeps nobody."""

    async def main():
        async with running(lab(who), proxied()) as server:
            wire = await tcp(server)
            wire.writer.write(b"PROXY ")
            await until(lambda: server.manager._reserved_count)
        assert await wire.rest() == b""
        wire.close()

    run(main())


# TLS


@pytest.fixture(scope="module")
def authority():
    """Keys are dear: one authority, one server, one device per module."""
    ca = trustme.CA()
    return ca, ca.issue_cert("sojourn.test", "127.0.0.1"), ca.issue_cert("router1.test")


@pytest.fixture
def tls(authority, tmp_path):
    """TLS settings of a listener, and a context for its clients."""
    ca, server, device = authority
    chain, key, trusted = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
    key.write_bytes(server.private_key_pem.bytes())
    key.chmod(0o600)
    trusted.write_bytes(ca.cert_pem.bytes())
    context = ssl.create_default_context()
    ca.configure_trust(context)
    device.configure_cert(context)
    settings = TlsSettings(
        certificate_file=str(chain),
        private_key_file=str(key),
        client_ca_file=str(trusted),
        handshake_timeout_s=5.0,
    )
    return settings, context


def test_a_tls_peer_is_known_by_its_certificate(run, tls):
    """Names from the certificate; with a PROXY header in front of the handshake as well."""

    async def main():
        settings, context = tls
        async with running(lab(who), plain(tls=settings), proxied(tls=settings)) as server:
            wire = await tcp(server, 0, ssl=context)
            assert (await wire.ask("a")).endswith("via nobody tls True router1.test")
            wire.close()
            sock = socket.create_connection(address(server, 1))
            sock.sendall(encode_v1(CLIENT, SERVER))
            wire = Wire(*await asyncio.open_connection(sock=sock, ssl=context, server_hostname="127.0.0.1"))
            assert await wire.ask("a") == "198.51.100.7:4321 via 127.0.0.1 tls True router1.test"
            wire.close()
            await wire.writer.wait_closed()

    run(main())


def test_a_failed_handshake_is_one_event(run, tls):
    """Plain text, no certificate, an early leave: the listener goes on."""

    async def main():
        settings, context = tls
        async with running(lab(who), plain(tls=settings)) as server:
            wire = await tcp(server)
            wire.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await wire.rest()
            wire.close()
            await until(lambda: len(told(server, "listener.handshake_failed")) == 1)
            nobody = ssl.create_default_context(cafile=settings.client_ca_file)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await asked(server, nobody)
            await until(lambda: len(told(server, "listener.handshake_failed")) == 2)
            wire = await tcp(server)
            wire.close()
            await until(lambda: len(told(server, "listener.handshake_failed")) == 3)
            await turns()
            assert len(told(server, "listener.handshake_failed")) == 3
            assert not told(server, "server.loop_error")
            assert not server.manager._reserved_count
            wire = await tcp(server, ssl=context)
            assert await wire.ask("a")
            wire.close()
            await wire.writer.wait_closed()

    run(main())


def test_silence_instead_of_a_handshake_has_a_deadline(run, tls):
    """``handshake_timeout_s``."""

    async def main():
        settings, _ = tls
        short = type(settings)(
            certificate_file=settings.certificate_file,
            private_key_file=settings.private_key_file,
            handshake_timeout_s=0.05,
        )
        async with running(lab(who), plain(tls=short)) as server:
            wire = await tcp(server)
            assert await wire.rest() == b""
            await until(lambda: len(told(server, "listener.handshake_failed")) == 1)
            assert not server.manager._reserved_count
            wire.close()

    run(main())


def test_a_drain_ends_tls_handshakes_too(run, tls):
    """Nobody holds up the end by saying nothing."""

    async def main():
        settings, _ = tls
        async with running(lab(who), plain(tls=settings)) as server:
            wire = await tcp(server)
            await until(lambda: server.manager._reserved_count)
        await closed(wire)
        wire.close()

    run(main())


# Out of descriptors


@pytest.mark.parametrize("index", [0, 1], ids=["accepted by the loop", "accepted by us"])
def test_a_server_that_is_out_of_descriptors_serves_again_when_there_are_some(run, index):
    """RLIMIT_NOFILE in a process of its own: it survives, tells, and goes on listening."""

    async def main(daemon):
        greeting = b"PROXY UNKNOWN\r\n" if index else b""
        addresses = json.loads(await asyncio.to_thread(daemon.stdout.readline))
        host, port = addresses[index]
        crowd = [await asyncio.open_connection(host, port) for _ in range(100)]
        for _, writer in crowd:
            writer.write(greeting + packet("a", session=1))
        served = 0
        for reader, _ in crowd[:20]:
            served += bool(await reader.read(1))
        assert served
        for _, writer in crowd:
            writer.close()
        async with asyncio.timeout(20):
            while True:
                wire = Wire(*await asyncio.open_connection(host, port))
                wire.writer.write(greeting)
                try:
                    assert await wire.ask("again", session=2) == "AGAIN"
                    break
                except (ConnectionError, asyncio.IncompleteReadError):
                    continue  # the crowd has not quite gone
                finally:
                    wire.close()
        daemon.terminate()
        events = json.loads(await asyncio.to_thread(daemon.stdout.readline))
        assert daemon.wait(10) == 0
        assert ("listener.accept_failed" in events) == bool(index)
        assert "server.loop_error" not in events

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 400, "this test itself needs some descriptors"
    with subprocess.Popen([sys.executable, DAEMON, "48"], stdout=subprocess.PIPE) as daemon:
        run(main(daemon))
