"""One connection of a simulated panel, in memory: a server half made of vectors and of the panel's own codec."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.peer import ciphers, layouts, wire
from sojourn.gateways.itv2.peer.desk import Answer
from sojourn.gateways.itv2.peer.faults import ALWAYS, Fault, Faults
from sojourn.gateways.itv2.peer.line import Line, Randomness, Step
from sojourn.gateways.itv2.peer.outbox import Outbox
from sojourn.gateways.itv2.peer.programme import LineSettings, PanelIdentity
from sojourn.gateways.itv2.peer.record import Record
from sojourn.testing.clock import ManualClock

FILE = Path(__file__).parents[1] / "itv2_vectors.json"
VECTORS = {vector["id"]: vector for vector in json.loads(FILE.read_text())["vectors"]}
ID = "123456789012"
TYPE_2 = "0123456789ABCDEFFEDCBA9876543210"
TYPE_1 = "87654321"
READY = m.ReadyStatus(partition=1, status=1)


class QuietDesk:
    """Answers every command with success."""

    def __init__(self) -> None:
        self.asked: list[m.Message] = []

    def answer(self, message: m.Message) -> Answer:
        self.asked.append(message)
        sequence = getattr(message, "command_sequence", 0)
        is_direct = isinstance(message, m.ExitConfiguration)
        return Answer(m.CommandResponse(command_sequence=sequence), is_direct=is_direct)


class Bench:
    """A line on a bench: what it writes is gathered, time is moved by hand."""

    def __init__(
        self, encryption_type: int = 2, randomness: Randomness | None = None, **settings: Any
    ) -> None:
        self.clock = ManualClock()
        self.settings = LineSettings(**settings)
        self.outbox = Outbox(self.settings.queue_count)
        self.faults = Faults()
        self.desk = QuietDesk()
        self.record = Record(100, lambda: None)
        self.written = b""
        self.hung_up: list[str] = []
        self.identity = PanelIdentity(ID, encryption_type, Secret(TYPE_1), Secret(TYPE_2))
        self.randomness = randomness or Randomness()
        self.line = self.new_line()

    def new_line(self, **options: Any) -> Line:
        return Line(
            self.identity,
            self.settings,
            outbox=self.outbox,
            desk=self.desk,
            faults=self.faults,
            watcher=self.record,
            write=self._write,
            hang_up=self.hung_up.append,
            clock=self.clock,
            randomness=self.randomness,
            **options,
        )

    def _write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> bytes:
        written, self.written = self.written, b""
        return written

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.line.pass_time()


class ServerHalf:
    """A server on the bench: reads and writes with the panel's own codec, numbers as the vectors do."""

    def __init__(self, bench: Bench, code: str = TYPE_2, type_1_code: str = TYPE_1) -> None:
        self.bench = bench
        self.code = code
        self.type_1_code = type_1_code
        self.forget()

    def forget(self) -> None:
        self.sender = 0
        self.receiver = 0
        self.out_key: bytes | None = None
        self.in_key: bytes | None = None
        self.rest = wire.Gatherer()

    def read(self) -> list[m.Packet]:
        """What the panel has written by now; the key may only change between two reads."""
        packets = []
        for one in self.rest.cut(self.bench.take()):
            payload = wire.from_tlink(one).payload
            if self.in_key is not None:
                payload = ciphers.decrypt_blocks(self.in_key, payload)
            packets.append(layouts.read_packet(wire.from_frame(payload)))
            if not isinstance(packets[-1].message, m.SimpleAck):
                self.receiver = packets[-1].sender
        return packets

    def read_one(self) -> m.Packet:
        (packet,) = self.read()
        return packet

    def send(self, message: m.Message, *, is_again: bool = False) -> None:
        if not isinstance(message, m.SimpleAck) and not is_again:
            self.sender = (self.sender + 1) & 0xFF
        packet = layouts.write_packet(m.Packet(self.sender, self.receiver, message))
        self.put(wire.to_frame(packet))

    def put(self, frame: bytes) -> None:
        if self.out_key is not None:
            frame = ciphers.encrypt_blocks(self.out_key, ciphers.pad_with_zeros(frame))
        self.bench.line.receive(wire.to_tlink(ID.encode(), frame))

    def ack(self) -> None:
        self.send(m.SimpleAck())

    def agree(self, tail: bytes | None = None) -> m.RequestAccess:
        """Steps 1 to 7; ``tail``: sent back instead of the panel's own."""
        opening = self.read_one().message
        assert isinstance(opening, m.OpenSession)
        self.send(m.CommandResponse(command_sequence=opening.command_sequence))
        assert self.read_one().message == m.SimpleAck()
        mine = (opening.command_sequence + 1) & 0xFF
        echo = opening if tail is None else msgspec.structs.replace(opening, tail=tail)
        self.send(msgspec.structs.replace(echo, command_sequence=mine))
        packet = self.read_one()
        if isinstance(packet.message, m.CommandError):
            raise ConnectionError(f"refused with {packet.message.code}")
        assert packet.message == m.CommandResponse(command_sequence=mine)
        self.ack()
        access = self.read_one().message
        assert isinstance(access, m.RequestAccess)
        assert access.command_sequence == (opening.command_sequence + 2) & 0xFF
        return access

    def grant(self, access: m.RequestAccess) -> None:
        """Step 8."""
        if len(access.initializer) == 48:
            self.out_key = ciphers.type_1_key(ID, access.initializer)
        else:
            self.out_key = ciphers.type_2_key(self.code, access.initializer)
        self.send(m.CommandResponse(command_sequence=access.command_sequence))

    def shake_hands(self) -> None:
        """Steps 1 to 12."""
        access = self.agree()
        self.grant(access)
        assert self.read_one().message == m.SimpleAck()
        if len(access.initializer) == 48:
            initializer, self_key = ciphers.type_1_initializer(self.type_1_code, bytes(range(32)))
        else:
            initializer = bytes(range(16))
            self_key = ciphers.type_2_key(self.code, initializer)
        self.send(m.RequestAccess(command_sequence=9, initializer=initializer))
        self.in_key = self_key
        assert self.read_one().message == m.CommandResponse(command_sequence=9)
        self.ack()


def connected(encryption_type: int = 2, **settings: Any) -> tuple[Bench, ServerHalf]:
    bench = Bench(encryption_type, **settings)
    server = ServerHalf(bench)
    bench.line.start()
    server.shake_hands()
    assert bench.line.step is Step.CONNECTED
    return bench, server


@pytest.mark.parametrize(("number", "encryption_type"), [("V64", 2), ("V65", 1)])
def test_the_whole_handshake_is_the_vectors_byte_for_byte(number: str, encryption_type: int) -> None:
    """V64 and V65: every packet of the panel, in its order, answered by the server's packets."""
    given = VECTORS[number]["input"]
    draws = iter([bytes([given["panel_cmdseq0"]]), bytes.fromhex(given["panel_random"])])
    randomness = Randomness(draw=lambda _: next(draws), pad=lambda frame, _: ciphers.pad_with_zeros(frame))
    bench = Bench(encryption_type, randomness)
    bench.outbox.notify(READY)
    bench.line.start()
    steps = VECTORS[number]["expect"]["steps"]
    said, expected = b"", b""
    for step in steps:
        if step["from"] == "panel":
            expected += bytes.fromhex(step["wire"])
        else:
            said += bench.take()
            assert said == expected, step["what"]
            bench.line.receive(bytes.fromhex(step["wire"]))
    assert said + bench.take() == expected
    assert bench.record.handshakes_count == 1
    assert list(bench.record.acknowledgements) == [READY]


@pytest.mark.parametrize("encryption_type", [1, 2])
def test_any_server_with_the_right_code_gets_through(encryption_type: int) -> None:
    """Section 7."""
    bench, server = connected(encryption_type)
    bench.outbox.notify(READY)
    bench.line.flush()
    assert server.read_one() == m.Packet(4, 4, READY)


@pytest.mark.parametrize("size", [1, 5])
def test_a_handshake_in_pieces_is_the_same(size: int) -> None:
    """Section 2: TCP has no packets."""
    bench, server = connected()
    whole = bench.line.receive
    server.bench.line.receive = (
        lambda data: [  # type: ignore[method-assign,assignment]
            whole(data[at : at + size]) for at in range(0, len(data), size)
        ]
    )
    server.send(m.Poll())
    assert server.read_one().message == m.SimpleAck()


def test_without_progress_the_panel_opens_anew_on_the_same_connection() -> None:
    """Section 7.5 and 11: after about 16 s, with numbers from 0."""
    bench = Bench()
    server = ServerHalf(bench)
    bench.line.start()
    server.agree()
    bench.wait(15)
    assert bench.take() == b""
    bench.wait(1)
    server.forget()
    server.shake_hands()
    assert bench.line.step is Step.CONNECTED
    assert bench.hung_up == []


def test_a_tail_that_does_not_come_back_is_refused() -> None:
    """Section 7.1: 0501 with code 1, and a new OpenSession 15 s later on the same connection."""
    bench = Bench(tail=b"\1\2\3\4")
    server = ServerHalf(bench)
    bench.line.start()
    with pytest.raises(ConnectionError, match="refused with 1"):
        server.agree(tail=b"")
    bench.wait(14.9)
    assert bench.take() == b""
    bench.wait(0.1)
    server.forget()
    server.shake_hands()
    assert bench.line.step is Step.CONNECTED


def test_type_3_is_offered_first_and_type_2_after_it() -> None:
    """Section 7.5: firmware 5.63."""
    bench = Bench(offers_type_3=True)
    server = ServerHalf(bench)
    bench.line.start()
    assert server.read_one().message.encryption_type == 3
    bench.wait(0.55)
    server.shake_hands()
    assert bench.line.step is Step.CONNECTED


def test_a_panel_can_ignore_the_grant() -> None:
    """Section 7.5: what one owner of firmware 5.63 saw."""
    bench = Bench(ignores_access=True)
    server = ServerHalf(bench)
    bench.line.start()
    server.grant(server.agree())
    assert server.read() == []
    assert bench.line.step is Step.ASKED


def test_a_server_with_another_code_is_ignored_until_the_handshake_begins_anew() -> None:
    """Section 7.5: a wrong key is silence, then OpenSession."""
    bench = Bench()
    server = ServerHalf(bench, code="F" * 32)
    bench.line.start()
    server.grant(server.agree())
    assert server.read() == []
    assert "cannot read" in bench.record.words
    bench.wait(16)
    server.forget()
    assert isinstance(server.read_one().message, m.OpenSession)


def test_the_next_notification_waits_for_the_acknowledgement() -> None:
    """Section 5.1: strictly stop-and-wait, numbers go up by one."""
    bench, server = connected()
    for zone in range(1, 4):
        bench.outbox.notify(m.ZoneLifestyle(zone=zone, state=1))
    bench.line.flush()
    senders = []
    for zone in range(1, 4):
        packet = server.read_one()
        assert packet.message.zone == zone
        senders.append(packet.sender)
        assert bench.record.acknowledged_count == zone - 1
        server.ack()
    assert server.read() == []
    assert all(after - before == 1 for before, after in pairwise(senders))
    assert bench.record.acknowledged_count == 3


def test_any_packet_with_our_number_acknowledges() -> None:
    """Section 5.2."""
    bench, server = connected()
    bench.outbox.notify(READY)
    bench.line.flush()
    server.read()
    server.send(m.Poll())
    assert bench.record.acknowledged_count == 1


def test_a_deferred_command_is_acknowledged_first_and_a_direct_one_by_its_answer() -> None:
    """Section 5.4, forms A and B."""
    _, server = connected()
    server.send(m.Arm(partition=1, mode=2, command_sequence=7))
    ack, answer = server.read()
    assert (ack.message, ack.receiver) == (m.SimpleAck(), server.sender)
    assert answer.message == m.CommandResponse(command_sequence=7)
    server.ack()
    server.send(m.ExitConfiguration(partition=1, command_sequence=8))
    answer = server.read_one()
    assert (answer.message, answer.receiver) == (m.CommandResponse(command_sequence=8), server.sender)


def test_a_command_waits_behind_the_replay() -> None:
    """Section 11: commands are not answered while queued notifications are sent."""
    bench, server = connected()
    for _ in range(2):
        bench.outbox.notify(READY)
    bench.line.flush()
    server.read()
    server.send(m.ExitConfiguration(partition=1))  # acknowledges the first notification, too
    said = [packet.message for packet in server.read()]
    assert said == [READY, m.SimpleAck()]
    server.ack()
    assert server.read_one().message == m.CommandResponse()


def test_a_packet_that_comes_twice_is_obeyed_once() -> None:
    """Section 5.1."""
    bench, server = connected()
    server.send(m.Arm(partition=1, mode=2))
    server.read()
    server.ack()
    frame = wire.to_frame(
        layouts.write_packet(m.Packet(server.sender, 3, m.Disarm(partition=1, code="1234")))
    )
    server.put(frame)
    server.put(frame)
    assert len(bench.desk.asked) == 2
    assert [packet.message for packet in server.read()].count(m.SimpleAck()) == 2


def test_an_unreadable_body_is_refused_as_too_short() -> None:
    """Section 13, point 6: 0501 with code 1, after the acknowledgement."""
    _, server = connected()
    server.sender += 1
    server.put(wire.to_frame(bytes((server.sender, server.receiver)) + bytes.fromhex("09002101")))
    ack, refusal = server.read()
    assert ack.message == m.SimpleAck()
    assert refusal.message == m.CommandError(nacked_word=0x0900, code=m.NackCode.INVALID_LENGTH)


def test_what_is_not_acknowledged_is_sent_again_and_then_the_connection_ends() -> None:
    """Section 13, point 4: the retransmission has the same number and the same bytes."""
    bench, server = connected(retransmit_s=5.0, retransmits_count=2)
    bench.outbox.notify(READY)
    bench.line.flush()
    first = server.read_one()
    for _ in range(2):
        bench.wait(5)
        assert server.read_one() == first
    bench.wait(5)
    assert bench.hung_up == ["the server does not acknowledge"]
    assert len(bench.outbox) == 1


def test_a_notification_that_was_not_acknowledged_comes_first_on_the_next_connection() -> None:
    """Section 13, point 4: nothing is lost, the oldest is first."""
    bench, server = connected()
    bench.outbox.notify(READY)
    bench.line.flush()
    server.read()
    bench.outbox.notify(m.ZoneLifestyle(zone=1, state=1))
    bench.line.end()
    bench.line = bench.new_line()
    server.forget()
    bench.line.start()
    server.shake_hands()
    assert server.read_one() == m.Packet(4, 4, READY)


def test_the_queue_is_bounded_and_keeps_the_oldest() -> None:
    """Section 11: about 70."""
    bench = Bench()
    for zone in range(1, 100):
        bench.outbox.notify(m.ZoneLifestyle(zone=zone, state=1))
    assert len(bench.outbox) == 70
    assert bench.outbox.lost_count == 29
    assert bench.outbox.take().message.zone == 1


def test_a_silent_server_is_left_after_120_s() -> None:
    """Section 11."""
    bench, server = connected()
    bench.wait(60)
    server.send(m.Poll())
    server.read()
    bench.wait(119)
    assert bench.hung_up == []
    bench.wait(1)
    assert bench.hung_up == ["nothing heard for 120 s"]


def test_the_servers_goodbye_is_acknowledged_and_ends_the_connection() -> None:
    """Section 9.1."""
    bench, server = connected()
    server.send(m.EndSession())
    assert server.read_one().message == m.SimpleAck()
    assert bench.hung_up == ["the server ended the session"]


def test_our_goodbye_waits_for_its_acknowledgement() -> None:
    """Section 9.1."""
    bench, server = connected()
    bench.line.end_session()
    assert server.read_one().message == m.EndSession()
    assert bench.hung_up == []
    server.ack()
    assert bench.hung_up == ["we ended the session"]


@pytest.mark.parametrize(
    ("fault", "damage"),
    [(Fault.WRONG_CRC, "checksum"), (Fault.BAD_STUFFING, "stuffed")],
)
def test_a_damaged_packet_is_sent_again_whole(fault: Fault, damage: str) -> None:
    """Section 13, point 7: the server drops it, the timer brings it again."""
    bench, server = connected()
    bench.faults.inject(fault)
    bench.outbox.notify(READY)
    bench.line.flush()
    with pytest.raises(Exception, match=damage):
        server.read()
    bench.wait(5)
    assert server.read_one().message == READY


def test_an_acknowledgement_that_was_not_heard_makes_a_duplicate() -> None:
    """Section 13, point 7."""
    bench, server = connected()
    bench.outbox.notify(READY)
    bench.line.flush()
    first = server.read_one()
    bench.faults.inject(Fault.ACK_UNHEARD)
    server.ack()
    assert bench.record.acknowledged_count == 0
    bench.wait(5)
    assert server.read_one() == first
    server.ack()
    assert bench.record.acknowledged_count == 1


def test_a_poll_can_be_acknowledged_by_data() -> None:
    """Section 5.2: data with the poll's number instead of a SimpleAck."""
    bench, server = connected()
    bench.outbox.notify(READY)
    bench.faults.inject(Fault.DATA_FOR_ACK)
    server.send(m.Poll())
    packet = server.read_one()
    assert (packet.message, packet.receiver) == (READY, server.sender)


def test_an_answer_can_be_late_missing_or_inside_of_another_message() -> None:
    """Section 13, point 7."""
    bench, server = connected()
    bench.faults.inject(Fault.LATE_ANSWER)
    server.send(m.Arm(partition=1, mode=2))
    assert server.read_one().message == m.SimpleAck()
    bench.wait(20)
    assert server.read_one().message == m.CommandResponse()
    server.ack()
    bench.faults.inject(Fault.NO_ANSWER)
    server.send(m.Arm(partition=1, mode=2))
    assert server.read_one().message == m.SimpleAck()
    bench.faults.inject(Fault.ANSWER_IN_MULTIPLE)
    server.send(m.Arm(partition=1, mode=2))
    assert server.read()[1].message == m.MultipleMessages(messages=(m.CommandResponse(),))


def test_silence_is_silence() -> None:
    """Section 13, point 7: nothing is answered, nothing is sent again."""
    bench, server = connected()
    bench.faults.inject(Fault.SILENCE, ALWAYS)
    server.send(m.Poll())
    bench.outbox.notify(READY)
    bench.line.flush()
    bench.wait(10)
    assert bench.take() == b""


def test_garbage_duplicates_and_unknown_words_come_beside_a_good_packet() -> None:
    """Section 13, point 7."""
    bench, server = connected()
    bench.faults.inject(Fault.GARBAGE)
    bench.outbox.notify(READY)
    bench.line.flush()
    garbage, _, good = bench.take().partition(b"\x7f")
    assert b"\x7e" not in garbage
    bench.written = good
    assert server.read_one().message == READY
    server.ack()
    bench.faults.inject(Fault.DUPLICATE)
    bench.faults.inject(Fault.UNKNOWN_WORD)
    bench.outbox.notify(READY)
    bench.line.flush()
    first, second = server.read()
    assert first == second
    assert isinstance(first.message, m.Unknown)
    server.ack()
    assert server.read_one().message == READY


def test_a_pro_panel_speaks_http_and_a_broken_one_never_ends() -> None:
    """Sections 1 and 2: both must be recognised by a server."""
    bench = Bench()
    bench.faults.inject(Fault.HTTP)
    bench.line.start()
    assert bench.take().startswith(b"POST /absip ")
    bench, _ = connected()
    bench.line.flood()
    assert len(bench.written) > 64 * 1024
    assert b"\x7f" not in bench.written


def test_nothing_secret_is_ever_told() -> None:
    """House rule: codes and keys are nowhere to be read."""
    bench = Bench()
    server = ServerHalf(bench, code="F" * 32)
    bench.line.start()
    server.grant(server.agree())
    words = " ".join(told.words for told in bench.record.sayings) + repr(bench.identity)
    assert TYPE_2 not in words
    assert TYPE_1 not in words
