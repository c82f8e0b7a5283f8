"""TLS on a transport that is there: bytes in order, whole, and an end that both sides understand."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import uvloop

from sojourn.embedded.certificates import ThrowAwayAuthority
from sojourn.errors import ConnectionLost
from sojourn.gateways.postgres.tls_transport import TlsTransport

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
SIZES = (1, 16_384, 16_385, 300_000)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A server's context and a client's that trusts it."""
    authority = ThrowAwayAuthority(tmp_path_factory.mktemp("tls"))
    identity = authority.issue("server", ("localhost",))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(identity.certificate_file, identity.private_key_file)
    client = ssl.create_default_context(cafile=authority.ca_file)
    return server, client


class Outside(asyncio.Protocol):
    """Wraps what is accepted, then gives everything to an echo."""

    def __init__(self, context):
        self.context = context
        self.lost = asyncio.get_running_loop().create_future()
        self.shaken = None
        self.inside = None

    def connection_made(self, transport):
        """Begin TLS at once."""
        self.inside = TlsTransport(transport, self, self.context, server_side=True)
        self.shaken = asyncio.ensure_future(self.inside.shake_hands(b"", 5))

    def data_received(self, data):
        """Send it back."""
        self.inside.write(data)

    def eof_received(self):
        """End."""
        return False

    def pause_writing(self):
        """Take note of nothing."""

    def resume_writing(self):
        """Take note of nothing."""

    def connection_lost(self, error):
        """Take note."""
        self.lost.set_result(error)


def played(loop_factory, context, play):
    """Run ``play(port, accepted)`` against a server of one protocol."""

    async def run():
        accepted = []

        def accept():
            accepted.append(Outside(context))
            return accepted[-1]

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(20):
                await play(server.sockets[0].getsockname()[1], accepted)
        finally:
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_byte_comes_back_in_order_whatever_the_size_of_the_writes(contexts, loop_factory, version):
    """RFC 8446 section 5.1: a record holds 16 KiB at most; what is longer takes several."""
    server, client = contexts
    client.maximum_version = version

    async def play(port, _accepted):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="localhost"
        )
        sent = b"".join(bytes([number]) * size for number, size in enumerate(SIZES))
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()

    played(loop_factory, server, play)
    client.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_goodbye_inside_ends_the_connection(contexts, loop_factory):
    """RFC 8446 section 6.1: close_notify; the protocol hears of a clean end once."""
    server, client = contexts

    async def play(port, accepted):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="localhost"
        )
        writer.write(b"x")
        await reader.readexactly(1)
        writer.close()
        assert await accepted[0].lost is None

    played(loop_factory, server, play)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_our_own_close_is_a_clean_end_for_the_peer(contexts, loop_factory):
    """RFC 8446 section 6.1: the peer must be able to tell an end from a cut."""
    server, client = contexts

    async def play(port, accepted):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="localhost"
        )
        writer.write(b"x")
        await reader.readexactly(1)
        accepted[0].inside.close()
        assert await reader.read() == b""
        writer.close()

    played(loop_factory, server, play)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_garbage_instead_of_a_handshake_is_an_error_and_a_cut_one_a_lost_connection(contexts, loop_factory):
    """RFC 8446 section 6.2: an alert, and no protocol of ours sees a byte."""
    server, _ = contexts

    async def play(port, accepted):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01" + bytes(600))
        with pytest.raises(ssl.SSLError):
            await wait_for_handshake(accepted, 0)
        writer.close()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16")
        writer.close()
        with pytest.raises(ConnectionLost):
            await wait_for_handshake(accepted, 1)

    played(loop_factory, server, play)


async def wait_for_handshake(accepted, index):
    """Return when the handshake of one accepted connection has ended."""
    while len(accepted) <= index:  # noqa: ASYNC110 - turns of the loop
        await asyncio.sleep(0)
    await accepted[index].shaken


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_damaged_record_ends_the_connection(contexts, loop_factory):
    """RFC 8446 section 5.2: bad_record_mac; nothing of a damaged record is delivered."""
    server, client = contexts

    async def play(port, accepted):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="localhost"
        )
        writer.write(b"x")
        await reader.readexactly(1)
        accepted[0].inside.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
        await accepted[0].lost
        writer.close()

    played(loop_factory, server, play)
