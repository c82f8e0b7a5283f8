"""The end of a daemon under load: what it promised it keeps, by SIGTERM, by a second one, and by kill -9."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
import tacacs_lab as labs
from tacacs_daemon import daemon
from tacacs_lab import pap, record, start, typed

from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, Flag

SINGLE = Flag.SINGLE_CONNECT
CONNECTIONS_COUNT = 8
PIPELINED_COUNT = 16


class Load:
    """Devices that hand in records until their connections close, and remember what they were told."""

    def __init__(self, sojourn):
        self.sojourn = sojourn
        self.successes = set()
        self.others = set()

    async def device(self, number):
        """Hand in records over one connection, many at a time."""
        async with self.sojourn.wire() as wire:
            try:
                await wire.ask(record(f"task_id={number}-first"), flags=SINGLE)
                self.successes.add(f"{number}-first")
                serial = 0
                while True:
                    sessions = {}
                    for _ in range(PIPELINED_COUNT):
                        serial += 1
                        sessions[1_000_000 + serial] = f"{number}-{serial}"
                    wire.send(
                        *(wire.packet(record(f"task_id={task}"), one) for one, task in sessions.items())
                    )
                    for _ in sessions:
                        reply = await wire.receive()
                        told = self.successes if reply.status == AcctStatus.SUCCESS else self.others
                        told.add(sessions[reply.session_id])
            except (AssertionError, OSError):
                return  # closed

    def stored(self):
        """Return the task ids of the whole lines in the file."""
        lines = (self.sojourn.folder / "records.jsonl").read_bytes().splitlines(keepends=True)
        return {json.loads(line)["task_id"] for line in lines if line.endswith(b"\n")}


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_every_record_that_was_answered_success_is_in_the_file(run, tmp_path, ending):
    """RFC 8907 section 7.2: SUCCESS only after it is stored; then no signal can take it away."""

    async def main():
        async with daemon(tmp_path) as sojourn:
            load = Load(sojourn)
            async with asyncio.TaskGroup() as devices:
                for number in range(CONNECTIONS_COUNT):
                    devices.create_task(load.device(number))
                await labs.eventually(lambda: len(load.successes) > 1_000, 30.0)
                sojourn.signal(ending)
            code = await sojourn.ends()
            assert code == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
            assert load.successes - load.stored() == set()
            assert len(load.successes) > 1_000

    run(main())


def test_a_drain_lets_sessions_in_flight_finish_and_opens_no_other(run, tmp_path):
    """SIGTERM: the listener closes first, a login under way goes on, a new one on its connection gets ERROR."""

    async def main():
        async with daemon(tmp_path) as sojourn, sojourn.wire() as idle, sojourn.wire() as wire:
            await idle.ask(pap(), 1, flags=SINGLE)
            await wire.ask(start(name=""), 1, flags=SINGLE)
            sojourn.signal(signal.SIGTERM)
            await idle.until_closed()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", sojourn.port)
            assert (await wire.ask(pap(), 2)).status == AuthenStatus.ERROR
            assert (await wire.ask(typed("ana"), 1, 3)).status == AuthenStatus.GETPASS
            assert (await wire.ask(typed(labs.PASSWORD), 1, 5)).status == AuthenStatus.PASS
            await wire.until_closed()
            assert await sojourn.ends() == 0
            assert len(sojourn.said("server.stopped")) == 1
            assert not (tmp_path / "admin.sock").exists()

    run(main())


def test_a_second_sigterm_ends_now(run, tmp_path):
    """Whoever asks twice does not want to wait for a user who types nothing."""

    async def main():
        async with daemon(tmp_path) as sojourn, sojourn.wire() as wire:
            await wire.ask(start(), 1)
            sojourn.signal(signal.SIGTERM)
            await labs.eventually(lambda: sojourn.said("server.draining"))
            assert sojourn.process.returncode is None
            sojourn.signal(signal.SIGTERM)
            assert await sojourn.ends(within_s=5.0) == 0
            await wire.until_closed()

    run(main())


def test_a_record_that_was_torn_by_a_kill_does_not_spoil_the_next_one(run, tmp_path):
    """After kill -9 the file is whole lines again, and the daemon goes on in it."""

    async def main():
        async with daemon(tmp_path) as sojourn:
            async with sojourn.wire() as wire:
                assert (await wire.ask(record("task_id=first"))).status == AcctStatus.SUCCESS
            sojourn.signal(signal.SIGKILL)
            await sojourn.ends()
            with (tmp_path / "records.jsonl").open("a") as torn:
                torn.write('{"task_id": "half of a rec')
            (tmp_path / "log.jsonl").unlink()
            await sojourn.start()
            async with sojourn.wire() as wire:
                assert (await wire.ask(record("task_id=second"))).status == AcctStatus.SUCCESS
            text = (tmp_path / "records.jsonl").read_text()
            assert [name in text for name in ("first", "half of", "second")] == [True, False, True]
            sojourn.signal(signal.SIGINT)
            assert await sojourn.ends() == 0

    run(main())
