"""PyPI's ``tacacs_plus``, the client that Ansible users have, against a live server.

The client blocks, connects anew for each session and never asks for single-connection mode. After a PAP or CHAP
login it stays on minor version 1 for everything, which RFC 8907 forbids; so each session here has a client of its
own, and one test shows what the device quirk does for those who cannot do that.
"""

from __future__ import annotations

import asyncio

import pytest
import tacacs_lab as labs
from tacacs_lab import running, settings

from sojourn.gateways.tacacs.messages import AuthenStatus

pytest.importorskip("tacacs_plus")

from tacacs_plus.client import TACACSClient
from tacacs_plus.flags import (
    TAC_PLUS_ACCT_FLAG_START,
    TAC_PLUS_ACCT_FLAG_STOP,
    TAC_PLUS_ACCT_FLAG_WATCHDOG,
    TAC_PLUS_AUTHEN_TYPE_ASCII,
    TAC_PLUS_AUTHEN_TYPE_CHAP,
    TAC_PLUS_AUTHEN_TYPE_PAP,
)

CHAP = {"chap_ppp_id": "A", "chap_challenge": "challenge of sixteen"[:16]}
LOGINS = pytest.mark.parametrize(
    ("kind", "more"),
    [(TAC_PLUS_AUTHEN_TYPE_ASCII, {}), (TAC_PLUS_AUTHEN_TYPE_PAP, {}), (TAC_PLUS_AUTHEN_TYPE_CHAP, CHAP)],
    ids=["ascii", "pap", "chap"],
)


@pytest.fixture
def session(run, tmp_path):
    """Return what runs one session of the client in a thread, against a laboratory of its own."""

    def run_session(work, key=labs.KEY, **changes):
        async def main():
            async with running(settings(tmp_path, **changes)) as lab:
                client = TACACSClient("127.0.0.1", lab.port, key.decode(), timeout=labs.WITHIN_S)
                answer = await asyncio.get_running_loop().run_in_executor(None, work, client)
                await lab.until_idle()
                return answer

        return run(main())

    return run_session


@LOGINS
def test_the_right_password_logs_in(session, kind, more):
    """ASCII, PAP and CHAP succeed."""
    reply = session(lambda client: client.authenticate("ana", labs.PASSWORD, authen_type=kind, **more))
    assert reply.valid


@LOGINS
@pytest.mark.parametrize(("name", "password"), [("ana", "wrong"), ("nobody", labs.PASSWORD), ("", "")])
def test_the_wrong_password_does_not(session, kind, more, name, password):
    """The client sees FAIL, not an error: it would otherwise try another server."""
    reply = session(lambda client: client.authenticate(name, password, authen_type=kind, **more))
    # Without a name ASCII is asked for it, which this client has no answer to.
    asked = kind == TAC_PLUS_AUTHEN_TYPE_ASCII and not name
    assert reply.status == (AuthenStatus.GETUSER if asked else AuthenStatus.FAIL)


@LOGINS
def test_the_wrong_key_logs_nobody_in(session, kind, more):
    """RFC 8907 section 4.5: neither end can read the other; the client must not take that for a yes."""

    def work(client):
        try:
            return client.authenticate("ana", labs.PASSWORD, authen_type=kind, **more)
        except Exception as error:  # noqa: BLE001 - what this client raises on a body of noise is its own matter
            return error

    reply = session(work, key=labs.WRONG_KEY)
    assert isinstance(reply, Exception) or not reply.valid


@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ([b"service=shell", b"cmd=show", b"cmd-arg=version"], True),
        ([b"service=shell", b"cmd="], True),
        ([b"service=shell", b"cmd=reload"], False),
        ([b"service=x25"], False),
    ],
)
def test_commands_are_permitted_and_denied(session, arguments, is_allowed):
    """RFC 8907 section 6: per command and per session."""
    reply = session(lambda client: client.authorize("ana", arguments=arguments))
    assert reply.valid is is_allowed
    if arguments[-1] == b"cmd=":
        assert reply.arguments == [b"priv-lvl=15"]


def test_the_wrong_key_permits_nothing(session):
    """RFC 8907 section 4.5."""

    def work(client):
        try:
            return client.authorize("ana", arguments=[b"service=shell", b"cmd="])
        except Exception as error:  # noqa: BLE001 - as above
            return error

    reply = session(work, key=labs.WRONG_KEY)
    assert isinstance(reply, Exception) or not reply.valid


@pytest.mark.parametrize(
    "flag", [TAC_PLUS_ACCT_FLAG_START, TAC_PLUS_ACCT_FLAG_STOP, TAC_PLUS_ACCT_FLAG_WATCHDOG]
)
def test_records_are_stored(session, tmp_path, flag):
    """RFC 8907 section 7: SUCCESS, and the record is in the file."""
    reply = session(lambda client: client.account("ana", flag, arguments=[b"task_id=9", b"cmd=show version"]))
    assert reply.valid
    (stored,) = labs.stored(tmp_path)
    assert "task_id" in str(stored)


def test_flags_without_meaning_are_refused(session, tmp_path):
    """RFC 8907 section 7.2: start and stop at once is an ERROR."""
    reply = session(lambda client: client.account("ana", 6, arguments=[b"task_id=9"]))
    assert reply.error
    assert labs.stored(tmp_path) == []


def test_one_client_for_several_sessions_needs_the_quirk(session):
    """It reuses its session id, and stays on minor version 1 after PAP: minor-version-on-author."""

    def work(client):
        login = client.authenticate("ana", labs.PASSWORD, authen_type=TAC_PLUS_AUTHEN_TYPE_PAP)
        command = client.authorize("ana", arguments=[b"service=shell", b"cmd=show"])
        record = client.account("ana", TAC_PLUS_ACCT_FLAG_START, arguments=[b"task_id=9"])
        return login.valid, command.valid, record.valid

    strict = labs.Device(name="lab", networks=("127.0.0.1",), secrets=labs.secrets_of(labs.KEY))
    lenient = labs.msgspec.structs.replace(strict, quirks=("minor-version-on-author",))
    assert session(work, devices=(strict,)) == (True, False, False)
    assert session(work, devices=(lenient,)) == (True, True, True)
