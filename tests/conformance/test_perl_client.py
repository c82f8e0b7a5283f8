"""Debian's ``libauthen-tacacsplus-perl``, a client in C of 1998, against a live server.

It knows authentication only (its manual: "only authentication is supported"), by ASCII, PAP and CHAP, and goes to
its next server on everything but a denial.
"""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import tacacs_lab as labs
from tacacs_lab import running, settings

from sojourn.gateways.tacacs.config import Directory

pytestmark = pytest.mark.debian("libauthen-tacacsplus-perl")

SCRIPT = r"""
use strict; use warnings; use Authen::TacacsPlus;
my ($kind, $user, $password, $key, @ports) = @ARGV;
my %kinds = (ascii => 1, pap => 2, chap => 3);
$password = "A" . "0123456789abcdef" . pack("H*", $password) if $kind eq "chap";
my @servers = map { [ Host => "127.0.0.1", Key => $key, Port => $_, Timeout => 10 ] } @ports;
my $client = Authen::TacacsPlus->new(@servers);
die "no session: ", Authen::TacacsPlus::errmsg(), "\n" unless $client;
print $client->authen($user, $password, $kinds{$kind}) ? "granted" : "denied: " . Authen::TacacsPlus::errmsg();
$client->close();
"""


async def login(kind, name, password, *ports, key=labs.KEY):
    """Return what the client printed."""
    if kind == "chap":
        digest = hashlib.md5(b"A" + password.encode() + b"0123456789abcdef").hexdigest()
        password = digest
    perl = await asyncio.create_subprocess_exec(
        *("perl", "-e", SCRIPT, kind, name, password, key.decode(), *map(str, ports)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(3 * labs.WITHIN_S):
        output, _ = await perl.communicate()
    return output.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", ["ascii", "pap", "chap"])
def test_the_right_password_logs_in(run, tmp_path, kind):
    """RFC 8907 section 5.4.2: each type that the client knows."""

    async def main():
        async with running(settings(tmp_path)) as lab:
            assert await login(kind, "ana", labs.PASSWORD, lab.port) == "granted"
            await lab.until_idle()
            assert lab.said("tacacs.authentication")[0]["method"] == kind

    run(main())


@pytest.mark.parametrize("kind", ["ascii", "pap", "chap"])
@pytest.mark.parametrize("name", ["ana", "nobody"])
def test_the_wrong_password_does_not(run, tmp_path, kind, name):
    """RFC 8907 section 5.2: a denial is final, so the client does not ask its second server."""

    async def main():
        async with (
            running(settings(tmp_path)) as first,
            running(settings(tmp_path, accounting=labs.Accounting())) as second,
        ):
            answer = await login(kind, name, "wrong", first.port, second.port)
            assert answer.startswith("denied: Authentication failed")
            await first.until_idle()
            assert second.manager.connections_opened == 0

    run(main())


@pytest.mark.parametrize("kind", ["ascii", "pap"])
def test_the_wrong_key_logs_nobody_in(run, tmp_path, kind):
    """RFC 8907 section 4.5."""

    async def main():
        async with running(settings(tmp_path)) as lab:
            answer = await login(kind, "ana", labs.PASSWORD, lab.port, key=labs.WRONG_KEY)
            assert answer.startswith("denied")
            await lab.until_idle()
            assert lab.said("tacacs.authentication") == []

    run(main())


def test_an_error_sends_the_client_to_its_next_server(run, tmp_path):
    """RFC 8907 section 5.2: ERROR is not a denial; a directory that is down must not lock people out."""

    async def main():
        async with labs.tarpit() as port:
            directory = Directory(
                name="corp", urls=(f"ldap://127.0.0.1:{port}",), bind_dn="uid={user},dc=x", timeout_s=0.3
            )
            zoe = labs.msgspec.structs.replace(labs.user("zoe"), password=None, directory="corp")
            broken = settings(tmp_path, directories=(directory,), users=(zoe,), rules=())
            working = settings(tmp_path, users=(labs.user("zoe"),), rules=(), accounting=labs.Accounting())
            async with running(broken) as first, running(working) as second:
                assert await login("pap", "zoe", labs.PASSWORD, first.port, second.port) == "granted"
                assert first.said("tacacs.authentication")[0]["outcome"] == "error"
                assert second.said("tacacs.authentication")[0]["outcome"] == "pass"

    run(main())
