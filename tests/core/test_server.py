"""A server's life: start, reload, the last goodbye, and the signals that ask for each."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trustme
from core_lab import Lab, Say, Wire, address, lab, memory, running, tcp, told, until

from sojourn.core.server import Server
from sojourn.core.settings import ListenerSettings, TlsSettings
from sojourn.errors import ConfigError, Problem
from sojourn.testing import ManualClock

TCP = "127.0.0.1:0"
DAEMON = Path(__file__).resolve().parent.parent / "support" / "core_daemon.py"


def shout(session, ask):
    session.reply(Say(ask.text.upper()))


class Second(Lab):
    """A gateway that cannot start."""

    name = "second"

    async def start(self, server):
        await super().start(server)
        raise OSError("no backend")

    async def stop(self):
        self.was_stopped = True


def test_a_start_that_fails_closes_what_was_opened(run):
    """Gateways that were started are stopped, listeners closed, no task left."""

    async def main():
        before = asyncio.all_tasks()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = Server()
            stopped = []
            first = lab(shout)
            first.stop = lambda: note(stopped)
            server.add(first, [ListenerSettings(address=TCP), ListenerSettings(address=f"127.0.0.1:{port}")])
            with pytest.raises(OSError, match=str(port)):
                await server.start()
            assert stopped == ["stopped"]
            with pytest.raises(ConnectionRefusedError):
                await tcp(server, 0)
        assert asyncio.all_tasks() == before

        server, second = Server(), Second()
        server.add(lab(shout), [ListenerSettings(address=TCP)])
        server.add(second)
        with pytest.raises(OSError, match="no backend"):
            await server.start()
        assert second.was_stopped
        assert not server.is_ready
        assert asyncio.all_tasks() == before

    async def note(stopped):
        stopped.append("stopped")

    run(main())


def test_a_gateway_is_started_before_its_first_peer_and_stopped_after_its_last(run):
    """The order is gateways, listeners; connections, gateways."""

    async def main():
        order = []

        class Ordered(Lab):
            async def start(self, server):
                await super().start(server)
                order.append("start")

            async def stop(self):
                order.append("stop")

            def connected(self, _connection):
                order.append("connected")

            def disconnected(self, _connection):
                order.append("disconnected")

        server = Server(clock=ManualClock())
        gateway = Ordered(router=lab(shout).router)
        server.add(gateway)
        await server.start()
        wire = memory(server)
        assert await wire.ask("a") == "A"
        await server.stop(timeout_s=0)
        assert order == ["start", "connected", "disconnected", "stop"]
        assert told(server)[0] == "server.started"
        assert told(server)[-1] == "server.stopped"
        wire.close()

    run(main())


def test_work_of_the_server_ends_with_it(run):
    """``spawn``: cancelled and awaited."""

    async def main():
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("work")

        async with running(lab(shout)) as server:
            server.spawn(work())
            await asyncio.sleep(0)
        assert ended == ["work"]

    run(main())


def test_work_of_the_server_that_ends_is_forgotten_and_that_fails_is_told(run):
    """At once, not at the end of the server: nobody awaits it before."""

    async def main():
        async def work(error=None):
            if error is not None:
                raise error

        async with running(lab(shout)) as server:
            server.spawn(work())
            server.spawn(work(ValueError("never shown")))
            server.spawn(work(ExceptionGroup("never shown", [ExceptionGroup("", [KeyError("nor this")])])))
            await until(lambda: not server._works)
            first, second = told(server, "server.loop_error")
            assert first["message"] == "work of the server failed"
            assert re.fullmatch(r"ValueError at test_server\.py:\d+", first["error"])
            assert second["error"].startswith("KeyError at ")

    run(main())


def test_what_cannot_be_closed_does_not_keep_the_rest_open(run):
    """A gateway and a listener that fail at the end are told; the others, the ticker and the threads end."""

    async def main():
        async def raising():
            raise OSError("disk full")

        async with running(lab(shout, stop=raising), TCP) as server:
            await server.offload.run(int)
            listener = server.listeners[0]
            close, listener.close = listener.close, raising
            await server.stop(timeout_s=0)
            listener.close = close
            assert (
                told(server, "server.loop_error")
                == [{"message": "a part could not be closed", "error": "OSError"}] * 2
            )
            assert server._ticker.done()
            assert not server.offload.counters().threads

    run(main())


def test_a_drain_that_fails_ends_the_connections_all_the_same(run):
    """It is told, and what it left is ended at once."""

    async def main():
        async def raising(_timeout_s):
            raise ZeroDivisionError

        async with running(lab(shout, keyed=True), TCP) as server:
            wire = await tcp(server)
            assert await wire.ask("a", session=1) == "A"
            server.manager.drain = raising
            await server.stop()
            assert await wire.receive() == "bye: SojournError"
            assert await wire.rest() == b""
            assert told(server, "server.loop_error") == [
                {"message": "the drain failed", "error": "ZeroDivisionError"}
            ]
            del server.manager.drain
            wire.close()

    run(main())


def test_a_reload_that_is_asked_for_too_early_comes_after_the_start(run):
    """SIGHUP ends a process that does not handle it; service managers send it when they like."""

    class Early(Lab):
        async def start(self, server):
            await super().start(server)
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: server._reload_asked)
            assert not reloads

    reloads = []

    async def main():
        server = Server(on_reload=lambda: reloads.append(server.is_ready))
        server.add(Early(router=lab(shout).router), [ListenerSettings(address=TCP)])
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: reloads)
        server.ask_to_stop()
        await serving
        assert reloads == [True]

    run(main())


def test_the_ticker_outlives_a_bug_in_a_sweep_and_in_a_view(run):
    """A gateway's mistake must not stop every deadline; a full disk under the log must not either."""

    async def main():
        seen, sweeps = [], []

        def broken_view(_batch):
            raise OSError("disk full")

        async with running(lab(shout), clock=None) as server:
            server.events.add_view(broken_view)
            server.events.add_view(seen.extend)

            def broken_sweep():
                sweeps.append(len(sweeps))
                raise ZeroDivisionError

            server.sweep = broken_sweep
            await until(lambda: len(sweeps) > 1)
            assert "server.loop_error" in [event.kind.name for event in seen]
            assert server.events.view_errors
            server.events.remove_view(broken_view)

    run(main())


def test_a_complaint_of_the_loop_is_one_line(run):
    """No traceback: an event with the error's name."""

    async def main():
        async with running(lab(shout)) as server:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "first line\nsecond", "exception": KeyError("secret")}
            )
            assert told(server, "server.loop_error") == [{"message": "first line", "error": "KeyError"}]

    run(main())


# Reload


def test_a_reload_with_problems_changes_nothing(run):
    """The application's function raises; by API the caller is told, by signal an event."""

    async def main():
        def bad():
            raise ConfigError([Problem("f", 1, "t", "k", "x", "y"), Problem("f", 2, "t", "k", "x", "y")])

        async with running(lab(shout), on_reload=bad) as server:
            with pytest.raises(ConfigError):
                server.reload()
            server._reload_on_signal()
            assert told(server, "server.reload_refused") == [{"problems": 2}]
            assert not told(server, "server.reloaded")

    run(main())


@pytest.fixture(scope="module")
def authority():
    ca = trustme.CA()
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    return ca, ca.issue_cert("127.0.0.1"), ca.issue_cert("127.0.0.1", not_after=soon)


@pytest.fixture
def tls(authority, tmp_path):
    """Return what writes a certificate and its settings."""

    def settings(which, name="server"):
        certificate = authority[which]
        chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        chain.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        key.write_bytes(certificate.private_key_pem.bytes())
        key.chmod(0o600)
        return TlsSettings(certificate_file=str(chain), private_key_file=str(key))

    return settings


async def serial(server, authority):
    """Return the serial number of the certificate that the listener shows."""
    context = ssl.create_default_context()
    authority[0].configure_trust(context)
    wire = await tcp(server, ssl=context)
    number = wire.writer.get_extra_info("peercert")["serialNumber"]
    wire.close()
    await wire.writer.wait_closed()
    return number


def test_a_reload_reads_tls_files_again_and_warns_of_what_ends_soon(run, tls, authority):
    """New connections get the new certificate; an event for each thing that needs the operator."""

    async def main():
        async with running(lab(shout), ListenerSettings(address=TCP, tls=tls(1))) as server:
            old = await serial(server, authority)
            assert not told(server, "tls.warning")
            tls(2)
            assert await serial(server, authority) == old
            server.reload()
            assert await serial(server, authority) != old
            (event,) = told(server, "tls.warning")
            assert "ends on" in event["warning"]

    run(main())


def test_warnings_are_told_at_the_start_too(run, tls):
    """Before the first peer is refused."""

    async def main():
        async with running(lab(shout), ListenerSettings(address=TCP, tls=tls(2))) as server:
            assert len(told(server, "tls.warning")) == 1

    run(main())


def spoil(file):
    Path(file).write_text("nonsense")


def test_bad_tls_files_leave_their_listener_as_it_was_and_the_rest_is_reloaded(run, tls, authority):
    """One event for each problem, with the table of the configuration; never an exception."""

    async def main():
        gateway = lab(shout)
        async with running(gateway, ListenerSettings(address=TCP, tls=tls(1))) as server:
            old = await serial(server, authority)
            spoil(tls(1).certificate_file)
            server.reload()
            (event,) = told(server, "tls.refused")
            assert "lab.listeners[0].tls.certificate_file" in event["problem"]
            assert told(server, "server.reloaded")
            assert await serial(server, authority) == old

    run(main())


def test_bad_tls_files_at_the_start_name_their_table(run, tls):
    """ConfigError; nothing is left open."""

    async def main():
        broken = msgspec.structs.replace(tls(1), certificate_file="/nonexistent")
        with pytest.raises(ConfigError, match=r"lab\.listeners\[1\]\.tls\.certificate_file"):
            async with running(lab(shout), TCP, ListenerSettings(address=TCP, tls=broken)):
                pass

    run(main())


def test_new_tls_settings_reach_a_listener_with_the_reload(run, tls, authority):
    """``use_listeners``: other files, same address; anything else needs a restart and is said to."""

    async def main():
        first = ListenerSettings(address=TCP, tls=tls(1))
        async with running(lab(shout), first) as server:
            old = await serial(server, authority)
            second = msgspec.structs.replace(first, tls=tls(2, "other"))
            assert server.use_listeners("lab", [second])
            assert await serial(server, authority) == old
            server.reload()
            assert await serial(server, authority) != old
            assert not server.use_listeners("lab", [msgspec.structs.replace(second, reuse_port=True)])
            assert not server.use_listeners("lab", [msgspec.structs.replace(second, tls=None)])
            assert not server.use_listeners("lab", [second, second])
            assert address(server)[1]

    run(main())


# Signals, in a process of its own


@pytest.fixture
def daemon():
    """A server in a process of its own; killed at the end if it is still there."""
    process = subprocess.Popen([sys.executable, DAEMON, "0"], stdout=subprocess.PIPE)
    addresses = json.loads(process.stdout.readline())
    yield process, addresses[0]
    process.kill()
    process.wait()
    process.stdout.close()


async def holding(target):
    wire = Wire(*await asyncio.open_connection(*target))
    assert await wire.ask("hold", session=1) == "held"
    return wire


def events_of(process):
    return json.loads(process.stdout.readline())


def test_sigterm_lets_sessions_finish(run, daemon):
    """Idle connections close at once, nobody new is let in, the busy session says its last word."""
    process, target = daemon

    async def main():
        busy = await holding(target)
        idle = Wire(*await asyncio.open_connection(*target))
        assert await idle.ask("a", session=1) == "A"
        process.terminate()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*target)
        assert await busy.ask("go", session=1) == "GO"
        assert await busy.rest() == b""
        assert "drain.cut_short" not in await asyncio.to_thread(events_of, process)
        assert await asyncio.to_thread(process.wait, 10) == 0
        busy.close()
        idle.close()

    run(main())


def test_a_second_sigterm_ends_now(run, daemon):
    """Sessions get their farewell; nothing is waited for."""
    process, target = daemon

    async def main():
        busy = await holding(target)
        idle = Wire(*await asyncio.open_connection(*target))
        assert await idle.ask("a", session=1) == "A"
        process.terminate()
        assert await idle.rest() == b""
        process.terminate()
        assert await busy.receive() == "bye: SojournError"
        events = await asyncio.to_thread(events_of, process)
        assert events[-2:] == ["server.draining", "server.stopped"]
        assert await asyncio.to_thread(process.wait, 10) == 0
        busy.close()
        idle.close()

    run(main())


def test_sighup_reloads(run, daemon):
    """And the connections stay."""
    process, target = daemon

    async def main():
        wire = await holding(target)
        process.send_signal(signal.SIGHUP)
        assert await wire.ask("go", session=1) == "GO"
        process.terminate()
        events = await asyncio.to_thread(events_of, process)
        assert "server.reloaded" in events
        wire.close()

    run(main())


def test_a_gateway_takes_its_leave_while_it_still_serves(run):
    """``Gateway.leave``: listeners accept and sessions go on until it returns; only then is anything closed."""

    async def main():
        told_in = []

        async def leave(timeout_s):
            told_in.append(timeout_s)
            wire = await tcp(server)
            told_in.append(await wire.ask("a"))
            wire.close()

        async with running(lab(shout, leave=leave, limits={"drain_timeout_s": 7.0}), TCP) as server:
            await server.stop()
            assert told_in == [7.0, "A"]
            with pytest.raises(ConnectionRefusedError):
                await tcp(server)

    run(main())


def test_a_leave_that_never_ends_is_cut_short_by_a_second_signal(run):
    """And by the drain's deadline; one that fails is told and changes nothing."""

    async def main():
        begun = asyncio.Event()

        async def waiting(_timeout_s):
            begun.set()
            await asyncio.Event().wait()

        async def raising(_timeout_s):
            raise ZeroDivisionError

        async with running(lab(shout, leave=waiting), TCP) as server:
            stopping = asyncio.ensure_future(server.stop())
            await begun.wait()
            assert not stopping.done()
            server.ask_to_stop()
            server.ask_to_stop()
            await stopping

        async with running(lab(shout, leave=waiting, limits={"drain_timeout_s": 0.01}), TCP) as server:
            await server.stop()

        async with running(lab(shout, leave=raising), TCP) as server:
            await server.stop()
            assert {"message": "the leave failed", "error": "ZeroDivisionError"} in told(
                server, "server.loop_error"
            )

    run(main())
