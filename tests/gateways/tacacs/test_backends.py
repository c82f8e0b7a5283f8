"""What a device is told while something that we depend on is down: ERROR, never FAIL, and never nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat

import msgspec
import pytest
import tacacs_lab as labs
from tacacs_lab import eventually, pap, record, running, settings, start, typed

from sojourn.core.settings import OffloadSettings
from sojourn.gateways.tacacs import users
from sojourn.gateways.tacacs.config import Accounting, Directory, FileSink, SyslogSink
from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, Flag
from sojourn.gateways.tacacs.passwords import verify_password

SINGLE = Flag.SINGLE_CONNECT


@pytest.fixture
def lab(tmp_path):
    """Return what runs a laboratory with the usual settings, changed as said."""
    return lambda **changes: running(settings(tmp_path, **changes))


def corporate(port, **more):
    """Return a directory on a port of loopback that may be anything but a directory."""
    given = {"name": "corp", "bind_dn": "uid={user},dc=example,dc=net", "timeout_s": 0.5}
    return Directory(urls=(f"ldap://127.0.0.1:{port}",), **given | more)


def in_directory(name):
    """Return a user whose password is in the directory."""
    return msgspec.structs.replace(labs.user(name, secret=None, enable=None), password=None, directory="corp")


async def closed_port():
    """Return a port of loopback where nobody listens."""
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    return port


def test_a_directory_that_is_down_is_an_error(lab, run):
    """RFC 8907 section 5.2: ERROR sends the device to its next server, FAIL would lock everybody out."""

    async def main():
        directory = corporate(await closed_port())
        local = labs.user("ana", "ops")
        async with lab(directories=(directory,), users=(local, in_directory("zoe")), rules=()) as running_lab:
            for name, password, status in (
                ("zoe", "anything", AuthenStatus.ERROR),
                ("stranger", "anything", AuthenStatus.ERROR),
                ("ana", labs.PASSWORD, AuthenStatus.PASS),
                ("ana", "wrong", AuthenStatus.FAIL),
            ):
                async with running_lab.wire() as wire:
                    assert (await wire.ask(pap(name, password))).status == status
            reasons = [each["reason"] for each in running_lab.said("tacacs.authentication")]
            assert reasons[0].startswith("directory corp did not answer: ")

    run(main())


class Answers:
    """As much of a directory as a simple bind needs (RFC 4511 section 4.2), with one person in it."""

    DN = b"uid=zoe,dc=example,dc=net"
    PASSWORD = b"zoe-password"

    def __init__(self):
        self.listener = None
        self.port = 0
        self.connections = set()

    async def start(self):
        """Listen; on the same port as before, if there was one."""
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def stop(self):
        """Close everything, as a server does that goes down."""
        self.listener.close()
        for writer in self.connections:
            writer.transport.abort()
        await self.listener.wait_closed()

    async def serve(self, reader, writer):
        """Answer binds and searches; every message here is shorter than 128 bytes."""
        self.connections.add(writer)
        try:
            while True:
                tag, size = await reader.readexactly(2)
                message = await reader.readexactly(
                    size if size < 128 else int.from_bytes(await reader.read(size & 127))
                )
                number, operation = message[2], message[3]
                if operation == 0x60:
                    fits = self.DN in message and self.PASSWORD in message
                    answer = bytes((0x61, 7, 0x0A, 1, 0 if fits else 49, 4, 0, 4, 0))
                elif operation == 0x63:
                    answer = bytes((0x65, 7, 0x0A, 1, 0, 4, 0, 4, 0))
                else:
                    break
                writer.write(bytes((tag, 3 + len(answer), 2, 1, number)) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()


def test_a_directory_decides_while_it_is_there_and_errors_while_it_is_not(lab, run):
    """Wrong password = FAIL, directory down = ERROR, and back again without a restart of ours."""

    async def main():
        directory = Answers()
        await directory.start()
        people = (in_directory("zoe"), labs.user("ana"))
        settings_ = {"directories": (corporate(directory.port, timeout_s=2.0),), "users": people, "rules": ()}
        async with lab(**settings_) as lab_, lab_.wire() as wire:
            assert (await wire.ask(pap("zoe", "zoe-password"), 1, flags=SINGLE)).status == AuthenStatus.PASS
            refused = [
                await wire.ask(pap(name, "wrong"), number)
                for number, name in enumerate(("zoe", "stranger", "ana"), start=2)
            ]
            assert {(reply.status, reply.body) for reply in refused} == {(AuthenStatus.FAIL, refused[0].body)}
            ends = {
                (entry.source, entry.target)
                for entry in lab_.server.registry.trace("tacacs-1")
                if entry.is_leg
            }
            assert ends == {("tacacs", "LDAP corp"), ("LDAP corp", "tacacs")}
            await directory.stop()
            assert (await wire.ask(pap("zoe", "wrong"), 5)).status == AuthenStatus.ERROR
            assert (await wire.ask(pap("stranger", "wrong"), 6)).status == AuthenStatus.ERROR
            # What was right a moment ago is still known.
            assert (await wire.ask(pap("zoe", "zoe-password"), 7)).status == AuthenStatus.PASS
            await directory.start()
            assert (await wire.ask(pap("zoe", "wrong"), 8)).status == AuthenStatus.FAIL
        await directory.stop()

    run(main())


def test_a_directory_that_hangs_is_an_error_in_time(lab, run):
    """Every backend call has a deadline; after a few of them the breaker answers at once."""

    async def main():
        async with labs.tarpit() as port:
            directory = corporate(port, timeout_s=0.2, accept_unknown_users=False)
            async with lab(directories=(directory,), users=(in_directory("zoe"),), rules=()) as running_lab:
                async with running_lab.wire() as wire:
                    for number in range(8):
                        reply = await wire.ask(pap("zoe"), number + 1, flags=SINGLE)
                        assert reply.status == AuthenStatus.ERROR
                changed = running_lab.said("breaker.changed")
                assert [each["new"] for each in changed] == ["open"]

    run(main())


def test_an_ascii_login_ends_in_the_same_error(lab, run):
    """RFC 8907 section 5.2: the verdict after the prompts is ERROR as well."""

    async def main():
        directory = corporate(await closed_port())
        people = (in_directory("zoe"),)
        async with lab(directories=(directory,), users=people, rules=()) as lab_, lab_.wire() as wire:
            await wire.ask(start(name="zoe"), 1)
            assert (await wire.ask(typed("anything"), 1, 3)).status == AuthenStatus.ERROR

    run(main())


def test_a_login_that_began_before_a_reload_ends_by_the_configuration_it_began_with(lab, run, tmp_path):
    """A session keeps its snapshot: directories that were closed under it answer all the same, or with ERROR."""

    async def main():
        async with labs.tarpit() as port:
            directory = corporate(port, timeout_s=0.2)
            people = (in_directory("zoe"),)
            async with lab(directories=(directory,), users=people, rules=()) as lab_, lab_.wire() as wire:
                await wire.ask(start(name="zoe"), 1, flags=SINGLE)
                lab_.reload(settings(tmp_path))
                assert (await wire.ask(typed("anything"), 1, 3)).status == AuthenStatus.ERROR
                assert (await wire.ask(pap("zoe"), 2)).status == AuthenStatus.FAIL
                assert (await wire.ask(pap(), 3)).status == AuthenStatus.PASS

    run(main())


def test_more_hashes_than_fit_are_errors(lab, run, tmp_path):
    """The offload pool is bounded: what does not fit is answered, with ERROR, and nothing is kept waiting."""

    async def main():
        pool = OffloadSettings(threads_count=1, queue_count=2)
        async with running(settings(tmp_path), offload=pool) as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=SINGLE)
            wire.send(*(wire.packet(pap(password=f"wrong {number}"), number) for number in range(10, 30)))
            statuses = [(await wire.receive()).status for _ in range(20)]
            assert set(statuses) == {AuthenStatus.FAIL, AuthenStatus.ERROR}
            assert statuses.count(AuthenStatus.FAIL) >= 2
            assert any(
                "too many at once" in each["reason"] for each in running_lab.said("tacacs.authentication")
            )

    run(main())


@pytest.fixture
def hashing(monkeypatch):
    """Give the algorithm and the cost of each verification, as it is done."""
    work = []

    def counted(hashed, password):
        work.append(hashed.split("$")[1:4])
        return verify_password(hashed, password)

    monkeypatch.setattr(users, "verify_password", counted)
    return work


@pytest.mark.parametrize("name", ["ana", "nobody", "", "locked"])
def test_every_wrong_password_costs_one_hash(lab, run, hashing, name):
    """Alike in time: a wrong password, nobody, no name and a disabled account take the same slow way."""

    async def main():
        people = (labs.user("ana"), labs.user("locked", disabled=True))
        async with lab(users=people, rules=()) as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(pap(name, "wrong"))).status == AuthenStatus.FAIL

    run(main())
    assert hashing == [labs.hashed(labs.PASSWORD).split("$")[1:4]]


@pytest.mark.parametrize("name", ["ana", "nobody", "ben", ""])
def test_every_wrong_enable_password_costs_one_hash(lab, run, hashing, name):
    """Alike in time for ENABLE too, whether or not there is such a password."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(pap(name, "wrong", service=2))).status == AuthenStatus.FAIL

    run(main())
    assert len(hashing) == 1
    assert hashing[0][:2] == labs.hashed(labs.ENABLE_PASSWORD).split("$")[1:3]


# Accounting


def test_a_sink_that_cannot_be_written_is_an_error_and_an_alarm(lab, run, tmp_path):
    """RFC 8907 section 7.2: SUCCESS only for what is stored; never a lost record."""

    async def main():
        (tmp_path / "taken").mkdir()
        sinks = Accounting(files=(FileSink(name="bad", path=str(tmp_path / "taken")),), timeout_s=1.0)
        async with lab(accounting=sinks) as running_lab, running_lab.wire() as wire:
            reply = await wire.ask(record())
            assert reply.status == AcctStatus.ERROR
            (event,) = running_lab.said("tacacs.accounting")
            assert event["outcome"] == "error"
            assert os.strerror(errno.EISDIR) in event["reason"]
            assert running_lab.said("tacacs.sink_alarm")[0]["sink"] == "bad"

    run(main())


def test_one_sink_of_two_that_is_down_is_an_error(lab, run, tmp_path):
    """SUCCESS when every sink has stored the record; the good one keeps what it has."""

    async def main():
        port = await closed_port()
        sinks = Accounting(
            files=(FileSink(name="good", path=str(tmp_path / "records.jsonl")),),
            syslog=(SyslogSink(name="bad", address=f"tcp://127.0.0.1:{port}", timeout_s=0.2),),
            timeout_s=2.0,
        )
        async with lab(accounting=sinks) as running_lab, running_lab.wire() as wire:
            assert (await wire.ask(record())).status == AcctStatus.ERROR

    run(main())


def test_no_sink_at_all_is_an_error(lab, run):
    """RFC 8907 section 7.2: a record that is stored nowhere is not stored."""

    async def main():
        async with lab(accounting=Accounting()) as running_lab, running_lab.wire() as wire:
            reply = await wire.ask(record())
            assert reply.status == AcctStatus.ERROR

    run(main())


def test_what_was_answered_success_is_in_the_file(lab, run, tmp_path):
    """RFC 8907 section 7.2: at the moment of the answer, for every record of a burst."""

    async def main():
        async with lab() as running_lab, running_lab.wire() as wire:
            await wire.ask(pap(), 1, flags=SINGLE)
            packets = [wire.packet(record(f"task_id={number}"), number) for number in range(100, 400)]
            wire.send(*packets)
            for _ in packets:
                reply = await wire.receive()
                assert reply.status == AcctStatus.SUCCESS
            assert len(labs.stored(tmp_path)) == 300
            assert stat.S_IMODE((tmp_path / "records.jsonl").stat().st_mode) == 0o600

    run(main())


def test_a_device_that_is_gone_while_its_login_is_checked_leaves_nothing_behind(lab, run):
    """A lost connection ends its sessions; the work under way is given up or finished, never forgotten."""

    async def main():
        async with labs.tarpit() as port:
            directory = corporate(port)
            async with lab(directories=(directory,), users=(in_directory("zoe"),), rules=()) as running_lab:
                for _ in range(3):
                    async with running_lab.wire() as wire:
                        wire.send(wire.packet(pap("zoe"), 1))
                        await eventually(lambda: running_lab.manager.session_count == 1)
                    await running_lab.until_idle()

    run(main())
