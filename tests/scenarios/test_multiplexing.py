"""One session waits a second for its backend; a thousand others on the same connection do not notice."""

from __future__ import annotations

import sys
import time

import tacacs_lab as labs
from tacacs_lab import command, pap, running, settings

from sojourn.gateways.tacacs.config import Directory
from sojourn.gateways.tacacs.messages import AuthenStatus, AuthorStatus, Flag

OTHERS_COUNT = 1_000
PROMISED_S = 0.1
TOLERANCE = 5
"""The machine that runs the tests may be busy with other things; the number itself is printed."""


def test_a_thousand_sessions_finish_while_one_waits_for_its_backend(run, tmp_path, capsys):
    """Order is kept inside a session only: a directory that hangs holds up the login that asked it, nobody else."""

    async def main():
        async with labs.tarpit() as port:
            directory = Directory(
                name="corp",
                urls=(f"ldap://127.0.0.1:{port}",),
                bind_dn="uid={user},dc=example",
                timeout_s=1.0,
            )
            zoe = labs.msgspec.structs.replace(labs.user("zoe"), password=None, directory="corp")
            config = settings(
                tmp_path,
                directories=(directory,),
                users=(labs.user("ana", "ops"), labs.user("ben", "guests"), zoe),
                max_sessions_per_connection_count=OTHERS_COUNT + 10,
            )
            async with running(config) as lab, lab.wire() as wire:
                # The password is verified once before, as it is for a device that logs in every minute.
                await wire.ask(pap(), 1, flags=Flag.SINGLE_CONNECT)
                others = [
                    wire.packet(pap() if number % 4 == 0 else command("show", "version"), 1_000 + number)
                    for number in range(OTHERS_COUNT)
                ]
                slow_began = time.perf_counter()
                wire.send(wire.packet(pap("zoe", "anything"), 2))
                await labs.eventually(lambda: lab.manager.session_count == 1)
                began = time.perf_counter()
                wire.send(*others)
                replies = [await wire.receive() for _ in others]
                took_s = time.perf_counter() - began
                assert {reply.session_id for reply in replies} == set(range(1_000, 1_000 + OTHERS_COUNT))
                assert {reply.status for reply in replies} == {AuthenStatus.PASS, AuthorStatus.PASS_ADD}
                slow = await wire.receive()
                slow_s = time.perf_counter() - slow_began
                assert (slow.session_id, slow.status) == (2, AuthenStatus.ERROR)
                return took_s, slow_s

    took_s, slow_s = run(main())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{OTHERS_COUNT} sessions in {took_s * 1000:.0f} ms beside one of {slow_s * 1000:.0f} ms\n"
        )
    assert slow_s >= 0.9
    assert took_s < PROMISED_S * TOLERANCE
