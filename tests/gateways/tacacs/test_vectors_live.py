"""The 31 vectors, sent to a live server: what it answers to each that a client would send.

Five of them are the answers of another server and three show pads alone; those are decoded in ``test_vectors`` and
named here, so that none is forgotten.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tacacs_lab as labs
from tacacs_lab import running

from sojourn.core.secret import Secret
from sojourn.gateways.tacacs.config import Accounting, Device, FileSink, Rule, TacacsSettings
from sojourn.gateways.tacacs.messages import AcctStatus, AuthenStatus, AuthorStatus
from sojourn.gateways.tacacs.passwords import seal

VECTORS = {
    vector["name"]: vector
    for vector in json.loads(Path(__file__).with_name("tacacs_vectors.json").read_text())["vectors"]
}
KEY = b"testing123testing123"
OF_THE_SERVER = {
    "obf-empty",
    "authen-reply-pass",
    "authen-reply-getuser",
    "authen-reply-getpass",
    "authen-reply-fail",
    "author-reply-pass-add",
    "author-reply-fail",
    "acct-reply-success",
    "unknown-type-error",
}
PASS, FAIL, ERROR = AuthenStatus.PASS, AuthenStatus.FAIL, AuthenStatus.ERROR
ONE_PACKET = {
    "authen-start-pap": PASS,
    "authen-start-chap": PASS,
    "authen-start-mschapv1": PASS,
    "authen-start-mschapv2": PASS,
    "author-shell-session": AuthorStatus.PASS_ADD,
    "author-cmd-show": AuthorStatus.PASS_ADD,
    "author-cmd-reload": AuthorStatus.FAIL,
    "acct-start": AcctStatus.SUCCESS,
    "acct-stop": AcctStatus.SUCCESS,
    "acct-watchdog-update": AcctStatus.SUCCESS,
    "acct-invalid-start-stop": AcctStatus.ERROR,
    "wrong-key-start": ERROR,
    # Bodies of rising bytes are no START: their lengths do not add up.
    "obf-1byte": ERROR,
    "obf-16": ERROR,
    "obf-17": ERROR,
}
OTHERS = {
    "authen-start-ascii-nouser",
    "authen-cont-user",
    "authen-cont-pass",
    "authen-start-ascii-abort",
    "authen-cont-abort",
    "obf-300-seq255",
    "tls-authen-start-pap",
}


def raw(name):
    """Return a vector's packet."""
    return bytes.fromhex(VECTORS[name]["packet"])


@pytest.fixture
def lab(tmp_path):
    """Return a laboratory that knows the vectors' key and user."""
    demo = labs.user("demo", "demo", password="demo", secret=Secret(seal("demo", labs.SEAL_KEY, "demo")))
    config = TacacsSettings(
        devices=(Device(name="vectors", networks=("127.0.0.1",), secrets=labs.secrets_of(KEY)),),
        users=(demo,),
        rules=(
            Rule(name="reload", commands=("reload",), action="deny", message="denied"),
            Rule(name="demo", user_groups=("demo",), add=("priv-lvl=15",)),
        ),
        accounting=Accounting(files=(FileSink(name="records", path=str(tmp_path / "records.jsonl")),)),
        seal_key=labs.SEAL_KEY,
        username_prompt="Username: ",
        password_prompt="Password: ",
    )
    return lambda: running(config)


def test_every_vector_is_here():
    """31 vectors: of the server, of one packet, and those with a test of their own."""
    assert OF_THE_SERVER | set(ONE_PACKET) | OTHERS == set(VECTORS)
    assert len(OF_THE_SERVER) + len(ONE_PACKET) + len(OTHERS) == 31


@pytest.mark.parametrize("name", ONE_PACKET)
def test_a_vector_of_one_packet_gets_its_answer(lab, run, name):
    """RFC 8907 sections 5 to 7: sent byte by byte as it stands."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(raw(name))
            reply = await wire.receive()
            vector = VECTORS[name]
            header = (reply.version, reply.type, reply.seq_no, reply.session_id)
            assert header == (vector["version"], vector["type"], 2, vector["session_id"])
            assert reply.status == ONE_PACKET[name]

    run(main())


@pytest.mark.parametrize(
    ("request_name", "reply_name"),
    [
        ("authen-start-pap", "authen-reply-pass"),
        ("author-shell-session", "author-reply-pass-add"),
        ("author-cmd-reload", "author-reply-fail"),
        ("acct-start", "acct-reply-success"),
    ],
)
def test_our_answer_is_the_vectors_answer_byte_by_byte(lab, run, request_name, reply_name):
    """RFC 8907 sections 4.1 and 4.5: header, pad and body of what another implementation expects to read."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(raw(request_name))
            assert await wire.reader.readexactly(len(raw(reply_name))) == raw(reply_name)

    run(main())


def test_the_ascii_vectors_are_a_login(lab, run):
    """RFC 8907 section 5.4.2.1: three packets of theirs, two vectors and a verdict of ours."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            for sent, wanted in (
                ("authen-start-ascii-nouser", "authen-reply-getuser"),
                ("authen-cont-user", "authen-reply-getpass"),
            ):
                wire.send(raw(sent))
                assert await wire.reader.readexactly(len(raw(wanted))) == raw(wanted)
            wire.send(raw("authen-cont-pass"))
            reply = await wire.receive()
            assert (reply.status, reply.seq_no) == (PASS, 6)

    run(main())


def test_the_abort_vectors_end_in_silence(lab, run):
    """RFC 8907 section 5.4.3."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(raw("authen-start-ascii-abort"))
            assert (await wire.receive()).status == AuthenStatus.GETPASS
            wire.send(raw("authen-cont-abort"))
            await wire.until_closed()

    run(main())


def test_the_vector_with_seq_no_255_ends_in_silence(lab, run):
    """RFC 8907 section 4.1: no first packet, and no number is left for an answer."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(raw("obf-300-seq255"))
            await wire.until_closed()

    run(main())


def test_the_tls_vector_is_rejected_on_plain_tcp(lab, run):
    """RFC 8907 section 10.5.2; over TLS it passes, see ``test_tls_listener``."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(raw("tls-authen-start-pap"))
            assert (await wire.receive()).status == ERROR
            await wire.until_closed()

    run(main())


def test_a_packet_of_the_unknown_type_gets_the_vectors_answer(lab, run):
    """RFC 8907 section 3.6: byte by byte."""

    async def main():
        async with lab() as running_lab, running_lab.wire(key=KEY) as wire:
            wire.send(wire.packet(b"?", 0x55667788, kind=9))
            assert await wire.reader.read() == raw("unknown-type-error")

    run(main())
