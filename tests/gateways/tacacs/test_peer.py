"""The client against scripted servers on loopback: what it sends, what it makes of every answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from sojourn.core.tls import client_context
from sojourn.errors import (
    BackendUnavailable,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    WireError,
)
from sojourn.gateways.tacacs import mschap
from sojourn.gateways.tacacs.messages import (
    AcctFlag,
    AcctReply,
    AcctRequest,
    Action,
    AuthenContinue,
    AuthenReply,
    AuthenStart,
    AuthenStatus,
    AuthenType,
    AuthorReply,
    AuthorRequest,
    Flag,
    Message,
    ReplyFlag,
    Service,
)
from sojourn.gateways.tacacs.peer import TacacsClient
from sojourn.gateways.tacacs.wire import (
    Packet,
    TacacsFraming,
    decode_body,
    encode_body,
    encode_packet,
    obfuscate,
)

KEY = b"testing123testing123"
VECTORS = {
    vector["name"]: vector
    for vector in json.loads(Path(__file__).with_name("tacacs_vectors.json").read_text())["vectors"]
}

Respond = Callable[[Packet, Message], Message | None]


def raw(name: str) -> bytes:
    """Return a vector's packet."""
    return bytes.fromhex(VECTORS[name]["packet"])


def session_ids(*names: str) -> Callable[[], int]:
    """Return a source of the session ids of these vectors."""
    return iter([VECTORS[name]["session_id"] for name in names]).__next__


class Server:
    """A server made for one test: remembers what came in, and how many connections it had."""

    def __init__(self) -> None:
        self.port = 0
        self.connections_count = 0
        self.packets: list[Packet] = []
        self.messages: list[Message] = []
        self.received: list[bytes] = []
        self.all_closed = asyncio.Condition()
        self.open_count = 0

    async def wait_until_all_are_closed(self) -> None:
        """Wait until no connection is open any more."""
        async with self.all_closed:
            await self.all_closed.wait_for(lambda: self.open_count == 0)


@asynccontextmanager
async def serving(
    serve: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Run a server whose every connection is handled by ``serve`` and then closed."""
    state = Server()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections_count += 1
        state.open_count += 1
        try:
            await serve(state, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            async with state.all_closed:
                state.open_count -= 1
                state.all_closed.notify_all()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with listener:
        state.port = listener.sockets[0].getsockname()[1]
        yield state
        async with asyncio.timeout(5):
            await state.wait_until_all_are_closed()


def scripted(*lines: tuple[bytes, bytes]):
    """Serve from raw bytes: for each line, read what is wanted, and send what is answered."""

    async def serve(state: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for wanted, answer in lines:
            state.received.append(await reader.readexactly(len(wanted)))
            assert state.received[-1] == wanted
            writer.write(answer)
        state.received.append(await reader.read())

    return serve


def answering(respond: Respond, key: bytes | None = KEY, flags: int = 0):
    """Serve by the codec: ``respond`` makes the reply to each message, or None for silence."""

    async def serve(state: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        while data := await reader.read(65_536):
            buffer += data
            packets, consumed, _ = TacacsFraming().split(buffer)
            buffer = buffer[consumed:]
            for packet in packets:
                message = decode_body(packet.type, packet.seq_no, readable(packet, key))
                state.packets.append(packet)
                state.messages.append(message)
                reply = respond(packet, message)
                if reply is not None:
                    writer.write(reply_to(packet, reply, key, flags))

    return serve


def readable(packet: Packet, key: bytes | None) -> bytes:
    """Return the body as a server reads it."""
    if key is None:
        return packet.body
    return obfuscate(packet.body, key, packet.session_id, packet.version, packet.seq_no)


def reply_to(packet: Packet, reply: Message, key: bytes | None = KEY, flags: int = 0) -> bytes:
    """Write the packet that answers another."""
    return encode_packet(
        packet.version, packet.type, packet.seq_no + 1, flags, packet.session_id, encode_body(reply), key
    )


def always_pass(_packet: Packet, message: Message) -> Message:
    """Say yes to everything."""
    if isinstance(message, AuthorRequest):
        return AuthorReply(1)
    if isinstance(message, AcctRequest):
        return AcctReply(1)
    return AuthenReply(AuthenStatus.PASS)


def test_pap_on_a_kept_open_connection_is_byte_by_byte_the_vector(run):
    """RFC 8907 sections 4.3 and 5.4.2.2: minor version 1, SINGLE_CONNECT in the first packet."""

    async def scenario():
        async with serving(scripted((raw("authen-start-pap"), raw("authen-reply-pass")))) as server:
            ids = session_ids("authen-start-pap")
            async with TacacsClient(
                "127.0.0.1", server.port, key=KEY, single_connect=True, new_session_id=ids
            ) as client:
                outcome = await client.login("demo", "demo", authen_type=AuthenType.PAP)
                assert client.connections_count == 1
        assert (outcome.status, outcome.passed, outcome.packets) == ("PASS", True, 2)
        assert outcome.seconds > 0

    run(scenario())


def test_an_ascii_login_answers_each_question_as_in_the_vectors(run):
    """RFC 8907 section 5.4.2.1: GETUSER, GETPASS, then the verdict; minor version 0."""

    async def scenario():
        lines = (
            (raw("authen-start-ascii-nouser"), raw("authen-reply-getuser")),
            (raw("authen-cont-user"), raw("authen-reply-getpass")),
            (raw("authen-cont-pass"), raw("authen-reply-fail")),
        )
        questions = []

        def answer(question):
            questions.append((question.status, question.server_msg, question.flags))
            return "demo"

        async with serving(scripted(*lines)) as server:
            ids = session_ids("authen-start-ascii-nouser")
            async with TacacsClient("127.0.0.1", server.port, key=KEY, new_session_id=ids) as client:
                start = AuthenStart(Action.LOGIN, 0, AuthenType.ASCII, Service.LOGIN, "", "tty0", "127.0.0.1")
                outcome = await client.converse(start, answer)
        assert (outcome.status, outcome.server_msg) == ("FAIL", "Password incorrect.\n")
        assert (outcome.passed, outcome.packets) == (False, 6)
        assert questions == [
            (AuthenStatus.GETUSER, "Username: ", 0),
            (AuthenStatus.GETPASS, "Password: ", ReplyFlag.NOECHO),
        ]

    run(scenario())


def test_giving_up_sends_the_abort_of_the_vector_and_waits_for_nothing(run):
    """RFC 8907 section 5.4.3: ABORT ends the session without a reply."""

    async def scenario():
        start = TacacsFraming().split(raw("authen-start-ascii-abort"))[0][0]
        question = reply_to(start, AuthenReply(AuthenStatus.GETPASS, 1, "Password: "))
        async with serving(
            scripted((raw("authen-start-ascii-abort"), question), (raw("authen-cont-abort"), b""))
        ) as server:
            ids = session_ids("authen-start-ascii-abort")
            async with TacacsClient("127.0.0.1", server.port, key=KEY, new_session_id=ids) as client:
                outcome = await client.abort("demo", "user hung up")
                await server.wait_until_all_are_closed()
        assert (outcome.status, outcome.packets) == ("ABORTED", 3)
        assert server.received[1:] == [raw("authen-cont-abort"), b""]

    run(scenario())


def test_a_client_connects_from_the_address_that_it_is_told(run):
    """Servers know a device by its address: several devices on one machine need several."""
    addresses = []

    async def serve(_state, reader, writer):
        addresses.append(writer.get_extra_info("peername")[0])
        await answering(always_pass)(_state, reader, writer)

    async def scenario():
        async with serving(serve) as server:
            async with TacacsClient("127.0.0.1", server.port, key=KEY, from_address="127.0.0.9") as client:
                assert (await client.authorize("demo", ("service=shell", "cmd="))).passed
            async with TacacsClient("127.0.0.1", server.port, key=KEY, from_address="192.0.2.1") as client:
                with pytest.raises(BackendUnavailable):
                    await client.authorize("demo", ("service=shell", "cmd="))

    run(scenario())
    assert addresses == ["127.0.0.9"]


def test_the_session_is_open_while_the_user_types(run):
    """RFC 8907 section 5.4.2: the server waits for an answer; whoever types too long is not waited for by us."""

    def ask_first(_packet: Packet, message: Message) -> Message:
        status = AuthenStatus.GETPASS if isinstance(message, AuthenStart) else AuthenStatus.PASS
        return AuthenReply(status, 1, "Password: ")

    async def scenario():
        async with serving(answering(ask_first)) as server:
            async with TacacsClient("127.0.0.1", server.port, key=KEY, typing_s=0.01) as client:
                outcome = await client.login("demo", "demo")
            assert outcome.passed
            assert outcome.seconds >= 0.01
            async with TacacsClient(
                "127.0.0.1", server.port, key=KEY, typing_s=10.0, timeout_s=0.05
            ) as client:
                with pytest.raises(BackendUnavailable, match="no verdict in time"):
                    await client.login("demo", "demo")

    run(scenario())


def test_authorization_is_byte_by_byte_the_vector(run):
    """RFC 8907 section 6: one pair; the server adds a pair of its own."""

    async def scenario():
        async with serving(scripted((raw("author-shell-session"), raw("author-reply-pass-add")))) as server:
            ids = session_ids("author-shell-session")
            async with TacacsClient("127.0.0.1", server.port, key=KEY, new_session_id=ids) as client:
                outcome = await client.authorize("demo", ("service=shell", "cmd="))
        assert (outcome.status, outcome.args, outcome.passed) == ("PASS_ADD", ("priv-lvl=15",), True)

    run(scenario())


def test_a_denied_command_is_an_outcome_and_not_an_error(run):
    """RFC 8907 section 6.2: FAIL is a decision."""

    async def scenario():
        async with serving(scripted((raw("author-cmd-reload"), raw("author-reply-fail")))) as server:
            ids = session_ids("author-cmd-reload")
            async with TacacsClient("127.0.0.1", server.port, key=KEY, new_session_id=ids) as client:
                outcome = await client.authorize("demo", ("service=shell", "cmd=reload", "cmd-arg=<cr>"))
        assert (outcome.status, outcome.server_msg, outcome.passed) == ("FAIL", "denied", False)

    run(scenario())


def test_accounting_is_byte_by_byte_the_vector(run):
    """RFC 8907 section 7: a START record, stored."""

    async def scenario():
        args = ("task_id=1", "start_time=1700000000", "service=shell", "cmd=show version <cr>")
        async with serving(scripted((raw("acct-start"), raw("acct-reply-success")))) as server:
            ids = session_ids("acct-start")
            async with TacacsClient("127.0.0.1", server.port, key=KEY, new_session_id=ids) as client:
                outcome = await client.account(AcctFlag.START, "demo", args)
        assert (outcome.status, outcome.passed) == ("SUCCESS", True)

    run(scenario())


PROOFS = {
    AuthenType.PAP: lambda start: start.data == b"pa55",
    AuthenType.CHAP: lambda start: mschap.verify_chap(start.data, b"pa55"),
    AuthenType.MSCHAP: lambda start: mschap.verify_mschap_v1(start.data, b"pa55"),
    AuthenType.MSCHAPV2: lambda start: mschap.verify_mschap_v2(start.data, start.user, b"pa55"),
}


@pytest.mark.parametrize("authen_type", PROOFS)
def test_a_login_carries_a_proof_that_the_server_can_verify(run, authen_type):
    """RFC 8907 sections 5.4.2.2 to 5.4.2.5: one START with minor version 1, one verdict."""

    def respond(packet, start):
        assert packet.version == 0xC1
        right = start.authen_type == authen_type and PROOFS[authen_type](start)
        return AuthenReply(AuthenStatus.PASS if right else AuthenStatus.FAIL)

    async def scenario():
        async with (
            serving(answering(respond)) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            assert (await client.login("ana", "pa55", authen_type=authen_type)).status == "PASS"
            assert (await client.login("ana", "guess", authen_type=authen_type)).status == "FAIL"

    run(scenario())


def test_more_answers_are_typed_at_the_questions_after_the_password(run):
    """RFC 8907 section 5.4.2.1: a second factor is one more question; without an answer the user gives up."""

    def respond(_packet, message):
        if isinstance(message, AuthenStart):
            return AuthenReply(AuthenStatus.GETPASS, 1)
        if message.user_msg == b"pa55":
            return AuthenReply(AuthenStatus.GETDATA)
        return AuthenReply(AuthenStatus.PASS if message.user_msg == b"123456" else AuthenStatus.FAIL)

    async def scenario():
        async with (
            serving(answering(lambda p, m: None if getattr(m, "flags", 0) else respond(p, m))) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            assert (await client.login("ana", "pa55", more_answers=("123456",))).status == "PASS"
            assert (await client.login("ana", "pa55")).status == "ABORTED"

    run(scenario())


def test_enable_asks_for_its_level_with_the_service_enable(run):
    """RFC 8907 section 5.4.2.6: action LOGIN, service ENABLE, the wanted level."""

    def respond(_packet, message):
        return AuthenReply(AuthenStatus.GETPASS if isinstance(message, AuthenStart) else AuthenStatus.PASS)

    async def scenario():
        async with (
            serving(answering(respond)) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            assert (await client.enable("ana", "pa55", priv_lvl=7)).passed
        start, typed = server.messages
        assert (start.action, start.service, start.priv_lvl) == (Action.LOGIN, Service.ENABLE, 7)
        assert typed == AuthenContinue(b"pa55")

    run(scenario())


def test_a_password_change_gives_the_old_one_to_getdata_and_the_new_one_to_getpass(run):
    """RFC 8907 section 5.4.2.7."""
    answers = {
        AuthenStart: lambda _message: AuthenReply(AuthenStatus.GETDATA, 1, "Old password: "),
        AuthenContinue: lambda message: AuthenReply(
            AuthenStatus.GETPASS if message.user_msg == b"old" else AuthenStatus.PASS
        ),
    }

    async def scenario():
        async with (
            serving(answering(lambda _packet, message: answers[type(message)](message))) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            assert (await client.change_password("ana", "old", "new")).status == "PASS"
        assert server.messages[0].action == Action.CHPASS
        assert [message.user_msg for message in server.messages[1:]] == [b"old", b"new"]

    run(scenario())


def test_many_sessions_share_one_connection_and_are_answered_in_any_order(run):
    """RFC 8907 section 4.3: the second packet leaves only after the first reply has granted it."""
    count = 50

    async def serve(state, reader, writer):
        held, buffer = [], b""
        while data := await reader.read(65_536):
            packets, consumed, _ = TacacsFraming().split(buffer + data)
            buffer = (buffer + data)[consumed:]
            for packet in packets:
                state.packets.append(packet)
                if len(state.packets) == 1:
                    assert len(packets) == 1, "a second packet came before the first reply"
                    writer.write(reply_to(packet, AuthorReply(1, ("first=yes",)), flags=Flag.SINGLE_CONNECT))
                    continue
                held.append(packet)
            if len(held) == count - 1:
                for packet in reversed(held):
                    request = decode_body(2, 1, readable(packet, KEY))
                    writer.write(reply_to(packet, AuthorReply(1, request.args)))

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY, single_connect=True) as client,
        ):
            async with asyncio.TaskGroup() as users:
                tasks = [
                    users.create_task(client.authorize("ana", (f"n={number}",))) for number in range(count)
                ]
            args = [task.result().args for task in tasks]
            assert client.connections_count == 1
        assert args == [("first=yes",), *((f"n={number}",) for number in range(1, count))]
        assert server.connections_count == 1
        assert len({packet.session_id for packet in server.packets}) == count
        assert [packet.flags for packet in server.packets] == [Flag.SINGLE_CONNECT] + [0] * (count - 1)

    run(scenario())


def test_without_a_grant_every_session_has_its_own_connection_and_asks_no_more(run):
    """RFC 8907 section 4.3: not negotiated, so both sides close after the session."""

    async def scenario():
        async with (
            serving(answering(always_pass)) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY, single_connect=True) as client,
        ):
            async with asyncio.TaskGroup() as users:
                for _ in range(3):
                    users.create_task(client.login("ana", "pa55"))
            await server.wait_until_all_are_closed()
            assert client.connections_count == 0
        assert server.connections_count == 3
        assert [packet.flags for packet in server.packets] == [Flag.SINGLE_CONNECT, 0, 0]

    run(scenario())


def test_a_shared_connection_that_the_server_closed_is_opened_anew(run):
    """RFC 8907 section 4.3: either side may close an idle connection."""

    async def serve(_state, reader, writer):
        packet = TacacsFraming().split(await reader.read(65_536))[0][0]
        writer.write(reply_to(packet, AuthenReply(AuthenStatus.PASS), flags=Flag.SINGLE_CONNECT))

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY, single_connect=True) as client,
        ):
            for _ in range(2):
                assert (await client.login("ana", "pa55")).passed
                await server.wait_until_all_are_closed()
                for link in tuple(client._links):
                    await link._writer.wait_closed()
                assert client.connections_count == 0
        assert server.connections_count == 2

    run(scenario())


def test_a_wrong_key_is_named_as_such(run):
    """RFC 8907 section 4.5: a reply that our key does not make readable."""

    async def serve(_state, reader, writer):
        packet = TacacsFraming().split(await reader.read(65_536))[0][0]
        writer.write(reply_to(packet, AuthenReply(AuthenStatus.ERROR), b"another key"))
        await reader.read()

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            with pytest.raises(RemoteProtocolError, match="the shared secret differs") as caught:
                await client.login("ana", "pa55", authen_type=AuthenType.PAP)
        assert KEY.decode() not in str(caught.value)

    run(scenario())


def test_after_an_unreadable_reply_no_new_session_starts_on_that_connection(run):
    """RFC 8907 section 4.4: running sessions may finish, new ones go elsewhere."""
    keys = iter([KEY, b"another key", KEY])

    async def serve(_state, reader, writer):
        while data := await reader.read(65_536):
            packet = TacacsFraming().split(data)[0][0]
            writer.write(
                reply_to(packet, AuthenReply(AuthenStatus.PASS), next(keys), flags=Flag.SINGLE_CONNECT)
            )

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY, single_connect=True) as client,
        ):
            assert (await client.login("ana", "pa55")).passed
            with pytest.raises(RemoteProtocolError, match="the shared secret differs"):
                await client.login("ana", "pa55")
            assert (await client.login("ana", "pa55")).passed
        assert server.connections_count == 2

    run(scenario())


def test_a_server_that_hangs_up_on_us_is_reported_with_its_likely_cause(run):
    """A server closes on devices that it does not know, and some close on a wrong key."""

    async def serve(_state, reader, _writer):
        await reader.read(65_536)

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            with pytest.raises(ConnectionLost, match="is this device known there"):
                await client.login("ana", "pa55")

    run(scenario())


def test_a_server_that_is_not_there_is_unavailable(run):
    """The address is in the error, so that the operator knows which one."""

    async def scenario():
        async with serving(answering(always_pass)) as server:
            port = server.port
        async with TacacsClient("127.0.0.1", port, key=KEY) as client:
            with pytest.raises(BackendUnavailable, match=rf"127\.0\.0\.1:{port} unavailable"):
                await client.login("ana", "pa55")

    run(scenario())


def test_a_server_that_never_answers_is_unavailable_after_the_deadline(run):
    """Every wait has a deadline, and a session that ran into it leaves no connection behind."""

    async def scenario():
        async with (
            serving(answering(lambda _packet, _message: None)) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY, timeout_s=0.05) as client,
        ):
            with pytest.raises(BackendUnavailable, match="no verdict in time"):
                await client.login("ana", "pa55")
            await server.wait_until_all_are_closed()

    run(scenario())


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda p: encode_packet(0xC0, 2, 2, 0, p.session_id, b"\1\0\0\0\0\0", KEY), "a reply of type 2"),
        (lambda p: encode_packet(0xC0, 1, 4, 0, p.session_id, b"\1\0\0\0\0\0", KEY), "and seq_no 4"),
        (lambda p: encode_packet(0xC0, 1, 2, 0, p.session_id, b"", KEY), "a header alone"),
        (lambda p: encode_packet(0xC0, 1, 2, 1, p.session_id, b"\1\0\0\0\0\0"), "flags 0x01"),
    ],
)
def test_a_reply_that_does_not_belong_to_the_request_is_refused(run, answer, found):
    """RFC 8907 sections 3.6, 4.1 and 4.5."""

    async def serve(_state, reader, writer):
        writer.write(answer(TacacsFraming().split(await reader.read(65_536))[0][0]))
        await reader.read()

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            with pytest.raises(RemoteProtocolError, match=found):
                await client.login("ana", "pa55")

    run(scenario())


def test_bytes_that_are_no_packet_end_the_session_with_the_rule_they_break(run):
    """RFC 8907 section 4.1: another major version is another protocol."""

    async def serve(_state, _reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def scenario():
        async with (
            serving(serve) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            with pytest.raises(WireError, match="wanted major version 0xc"):
                await client.login("ana", "pa55")

    run(scenario())


def test_questions_without_end_are_ended_before_the_numbers_wrap(run):
    """RFC 8907 section 4.1: seq_no never wraps."""

    async def scenario():
        async with (
            serving(answering(lambda _packet, _message: AuthenReply(AuthenStatus.GETUSER))) as server,
            TacacsClient("127.0.0.1", server.port, key=KEY) as client,
        ):
            with pytest.raises(RemoteProtocolError, match="questions without end"):
                await client.login("ana", "pa55")
        assert server.packets[-1].seq_no == 253

    run(scenario())


def test_an_error_inside_the_client_leaves_as_it_is(run):
    """What the caller raises is not wrapped in a group, and the connections are closed all the same."""

    async def scenario():
        async with serving(answering(always_pass, flags=Flag.SINGLE_CONNECT)) as server:

            async def fail_inside() -> None:
                async with TacacsClient("127.0.0.1", server.port, key=KEY, single_connect=True) as client:
                    assert (await client.login("ana", "pa55")).passed
                    raise LookupError

            with pytest.raises(LookupError):
                await fail_inside()
            await server.wait_until_all_are_closed()

    run(scenario())


def test_a_client_needs_a_key_or_tls_and_not_both():
    """RFC 9887 section 4: no obfuscation over TLS, and none left out without it."""
    with pytest.raises(LocalProtocolError):
        TacacsClient("127.0.0.1", 49)
    with pytest.raises(LocalProtocolError):
        TacacsClient("127.0.0.1", 300, key=KEY, tls=ssl.create_default_context())


class Certificates:
    """An authority, a server's TLS side, and a device's files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.minimum_version = ssl.TLSVersion.TLSv1_3
        self.server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.server)
        authority.issue_cert("tacacs.example.net").configure_cert(self.server)
        self.ca_file, self.certificate_file, self.key_file = (
            str(folder / name) for name in ("ca.pem", "device.pem", "device.key")
        )
        authority.cert_pem.write_to_path(self.ca_file)
        device = authority.issue_cert("router1.example.net")
        device.private_key_pem.write_to_path(self.key_file)
        Path(self.key_file).chmod(0o600)
        for blob in device.cert_chain_pems:
            blob.write_to_path(self.certificate_file, append=True)

    def device(self) -> ssl.SSLContext:
        """Return the device's TLS side."""
        return client_context(self.ca_file, self.certificate_file, self.key_file)


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


def test_over_tls_bodies_are_clear_and_every_packet_says_so(run, certificates):
    """RFC 9887 section 4: UNENCRYPTED set, no obfuscation; single connection as ever."""
    names = []
    certificates.server.sni_callback = lambda _ssl, name, _context: names.append(name)

    async def scenario():
        async with (
            serving(
                answering(always_pass, None, Flag.UNENCRYPTED | Flag.SINGLE_CONNECT), certificates.server
            ) as server,
            TacacsClient(
                "127.0.0.1",
                server.port,
                tls=certificates.device(),
                server_name="tacacs.example.net",
                single_connect=True,
            ) as client,
        ):
            assert (await client.login("ana", "pa55", authen_type=AuthenType.PAP)).status == "PASS"
            assert (await client.authorize("ana", ("service=shell", "cmd="))).status == "PASS_ADD"
        assert [packet.flags for packet in server.packets] == [5, 1]
        assert server.packets[0].body.endswith(b"pa55")
        assert server.connections_count == 1
        assert names == ["tacacs.example.net"]

    run(scenario())


def test_over_tls_a_server_of_another_name_is_refused(run, certificates):
    """RFC 9887 section 3: the server's certificate carries the name that we dialled."""

    async def scenario():
        async with (
            serving(answering(always_pass, None, Flag.UNENCRYPTED), certificates.server) as server,
            TacacsClient(
                "127.0.0.1", server.port, tls=certificates.device(), server_name="other.example.net"
            ) as client,
        ):
            with pytest.raises(BackendUnavailable, match="certificate"):
                await client.login("ana", "pa55")

    run(scenario())


def test_over_tls_a_reply_without_the_flag_is_refused(run, certificates):
    """RFC 9887 section 4: UNENCRYPTED is set in every packet."""

    async def serve(_state, reader, writer):
        packet = TacacsFraming().split(await reader.read(65_536))[0][0]
        body = encode_body(AuthenReply(AuthenStatus.PASS))
        writer.write(encode_packet(0xC0, 1, 2, 0, packet.session_id, body, KEY))
        await reader.read()

    async def scenario():
        async with (
            serving(serve, certificates.server) as server,
            TacacsClient(
                "127.0.0.1", server.port, tls=certificates.device(), server_name="tacacs.example.net"
            ) as client,
        ):
            with pytest.raises(RemoteProtocolError, match="flags 0x00, wanted UNENCRYPTED set over TLS"):
                await client.login("ana", "pa55")

    run(scenario())
