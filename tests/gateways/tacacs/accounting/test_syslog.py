"""The syslog sink against receivers of the test's own: RFC 5424 messages over four transports."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from pathlib import Path
from typing import Self

import pytest
import trustme

from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs.accounting.sinks import Accounting
from sojourn.gateways.tacacs.accounting.syslog import SyslogFormat
from sojourn.gateways.tacacs.config import Accounting as AccountingSettings
from sojourn.gateways.tacacs.config import SyslogSink

MESSAGE = re.compile(
    rb"<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z aaa-1 sojourn \d+ (\w+) "
    rb'\[tacacs@32473 id="([0-9a-f-]{36})"((?: \w+="(?:[^"\\\]]|\\["\\\]])*")*)\] (.*)',
    re.DOTALL,
)
"""RFC 5424 section 6 as far as we use it; facility 13, severity 6."""


def settings_for(address: str, **values: object) -> AccountingSettings:
    return AccountingSettings(syslog=(SyslogSink(name="log", address=address, **values),))


def id_in(message: bytes) -> str:
    match = MESSAGE.fullmatch(message)
    assert match, message
    return match[2].decode()


class Collector:
    """A TCP or TLS syslog receiver that undoes RFC 6587's octet counting."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.ids: list[str] = []
        self.port = 0
        self._context = context
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._receive, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.hang_up()
        async with asyncio.timeout(10):
            while self._writers:
                self._news.clear()
                await self._news.wait()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """Stop listening and say good-bye; over TLS the farewell ends only when the peer answers it."""
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def wait_for(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.ids) < count:
                self._news.clear()
                await self._news.wait()
        return self.ids

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                length = int(await reader.readuntil(b" "))
                self.ids.append(id_in(await reader.readexactly(length)))
                self._news.set()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()
        finally:
            self._writers.discard(writer)
            self._news.set()


def test_a_message_has_every_part_that_the_standard_asks_for(make_record) -> None:
    """RFC 5424 section 6: PRI, version, timestamp, host, app, process, kind, structured data, text."""
    record = make_record("task_id=1", "cmd=show", "x=1", "x=1")
    match = MESSAGE.fullmatch(SyslogFormat(13, "tacacs@32473").message(record))
    assert match
    assert match[1] == b"stop"
    assert match[2].decode() == record.record_id
    assert b' task_id="1"' in match[3]
    assert match[3].endswith(b' arg="task_id=1" arg="cmd=show" arg="x=1" arg="x=1"')
    assert match[4] == b"stop ana on core-1: show"


def test_the_three_special_characters_are_escaped(make_record) -> None:
    """RFC 5424 section 6.3.3: quote, backslash and closing bracket."""
    record = make_record('cmd=say "]\\"', user="ünal")
    message = SyslogFormat(13, "tacacs@32473").message(record)
    assert b'cmd="say \\"\\]\\\\\\""' in message
    assert 'user="ünal"'.encode() in message
    assert MESSAGE.fullmatch(message)


def test_records_go_over_tcp_with_their_length_in_front(run, make_record) -> None:
    """RFC 6587 section 3.4.1."""

    async def scenario() -> None:
        async with (
            Collector() as collector,
            Accounting(settings_for(f"tcp://127.0.0.1:{collector.port}")) as accounting,
        ):
            records = [make_record(f"cmd=show {number}", "line=\n") for number in range(100)]
            await asyncio.gather(*[accounting.store(record) for record in records])
            assert await collector.wait_for(100) == [record.record_id for record in records]
            assert accounting.snapshot()[0].batches_count < 10

    run(scenario())


def test_a_collector_that_restarts_costs_nobody_an_error(run, make_record, alarms) -> None:
    """The closed connection is seen before the batch, and a new one is made."""

    async def scenario() -> None:
        async with Collector() as collector:
            settings = settings_for(f"tcp://127.0.0.1:{collector.port}")
            async with Accounting(settings, on_alarm=alarms) as accounting:
                first, second = make_record(), make_record()
                await accounting.store(first)
                await collector.wait_for(1)
                await collector.stop()
                await collector.start()
                await accounting.store(second)
                assert await collector.wait_for(2) == [first.record_id, second.record_id]
        assert alarms.heard == []

    run(scenario())


def test_a_dead_collector_is_an_error_until_it_is_back(run, make_record, alarms) -> None:
    """ERROR to the device, an alarm for us, recovery by itself, nothing acknowledged that did not arrive."""

    async def scenario() -> None:
        collector = Collector()
        await collector.start()
        settings = settings_for(f"tcp://127.0.0.1:{collector.port}")
        async with Accounting(settings, on_alarm=alarms) as accounting:
            first, second = make_record(), make_record()
            await accounting.store(first)
            await collector.wait_for(1)
            await collector.stop()
            with pytest.raises(BackendUnavailable, match="Connection refused"):
                await accounting.store(make_record())
            await collector.start()
            await alarms.wait_for("log", "available again")
            await accounting.store(second)
            assert await collector.wait_for(2) == [first.record_id, second.record_id]
        await collector.stop()
        assert [what for _, what in alarms.heard] == ["unavailable: Connection refused", "available again"]

    run(scenario())


def test_records_go_over_tls_to_a_collector_whose_name_is_proven(run, tmp_path: Path, make_record) -> None:
    """RFC 5425: octet counting inside of TLS."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)

    async def scenario() -> None:
        async with Collector(context) as collector:
            settings = settings_for(f"tls://127.0.0.1:{collector.port}", ca_file=str(ca_file))
            async with Accounting(settings) as accounting:
                first, second = make_record(), make_record()
                await accounting.store(first)
                await collector.wait_for(1)
                collector.hang_up()
                await collector.start()
                await accounting.store(second)
                assert await collector.wait_for(2) == [first.record_id, second.record_id]

    run(scenario())


def test_a_collector_with_a_stranger_s_certificate_gets_nothing(run, make_record, alarms) -> None:
    """Records are personal data; without proof of who listens they stay here."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def scenario() -> None:
        async with Collector(context) as collector:
            settings = settings_for(f"tls://127.0.0.1:{collector.port}")
            async with Accounting(settings, on_alarm=alarms) as accounting:
                with pytest.raises(BackendUnavailable):
                    await accounting.store(make_record())
                assert "certificate verify failed" in alarms.heard[0][1]
            assert collector.ids == []

    run(scenario())


def test_records_go_over_udp_one_to_a_datagram(run, make_record) -> None:
    """RFC 5426 section 3.1."""

    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(10)
            async with Accounting(settings_for(f"udp://127.0.0.1:{receiver.getsockname()[1]}")) as accounting:
                records = [make_record() for _ in range(20)]
                await asyncio.gather(*[accounting.store(record) for record in records])
            assert [id_in(receiver.recv(65536)) for _ in records] == [record.record_id for record in records]

    run(scenario())


def test_a_closed_udp_port_is_noticed_by_its_answer(run, make_record, alarms, until) -> None:
    """ICMP port unreachable is all that UDP ever tells; on this host it comes at once."""

    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            address = receiver.getsockname()
        async with Accounting(settings_for(f"udp://127.0.0.1:{address[1]}"), on_alarm=alarms) as accounting:
            with pytest.raises(BackendUnavailable, match="refused"):
                await accounting.store(make_record())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
                receiver.bind(address)
                receiver.settimeout(10)
                record = make_record()
                await until(lambda: accounting.snapshot()[0].health == "trial")
                await accounting.store(record)
                assert id_in(receiver.recv(65536)) == record.record_id
            await alarms.wait_for("log", "available again")

    run(scenario())


def test_a_record_too_large_for_a_datagram_is_refused_alone(run, make_record) -> None:
    """255 arguments of 255 bytes are legal in TACACS+ but not in UDP."""

    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(10)
            async with Accounting(settings_for(f"udp://127.0.0.1:{receiver.getsockname()[1]}")) as accounting:
                small, large = make_record(), make_record(*[f"x={'y' * 253}"] * 255)
                outcomes = await asyncio.gather(
                    accounting.store(large), accounting.store(small), return_exceptions=True
                )
            assert isinstance(outcomes[0], LimitExceeded)
            assert outcomes[1] is None
            assert id_in(receiver.recv(65536)) == small.record_id

    run(scenario())


def test_records_go_to_a_unix_socket_and_a_full_one_is_an_error(
    run, tmp_path: Path, make_record, alarms, until
) -> None:
    """A receiver that stops reading fills its queue; then nothing is stored any more."""
    path = tmp_path / "log"

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            receiver.settimeout(10)
            settings = settings_for(f"unix://{path}", timeout_s=0.1)
            async with Accounting(settings, on_alarm=alarms) as accounting:
                acknowledged = []
                with pytest.raises(BackendUnavailable):  # noqa: PT012
                    while True:
                        record = make_record()
                        await accounting.store(record)
                        acknowledged.append(record.record_id)
                received = [id_in(receiver.recv(65536)) for _ in acknowledged]
                assert received == acknowledged
                await until(lambda: accounting.snapshot()[0].health == "trial")
                await accounting.store(make_record())
                assert [what for _, what in alarms.heard][1:] == ["available again"]

    run(scenario())


@pytest.mark.parametrize(
    "address", ["tcp:host:1", "http://host:1", "tcp://", "udp://host:70000", "unix://log", "tcp://h:0"]
)
def test_an_address_that_is_none_is_a_problem_of_the_configuration(address: str) -> None:
    """Every problem is told before anything starts."""
    assert list(SyslogSink(name="log", address=address).problems())
    assert not list(SyslogSink(name="log", address="tls://[::1]:6514").problems())
