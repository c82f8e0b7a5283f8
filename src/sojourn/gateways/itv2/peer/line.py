"""One connection of a panel: the handshake, then notifications and answers, one at a time.

Theory of operation: bytes come in through :meth:`Line.receive`, time through :meth:`Line.pass_time`, bytes go out
through ``write``. Whatever is not a SimpleAck has to be acknowledged before the next such packet is sent; any packet
with our number as its receiver acknowledges. The handshake is a walk over :class:`Step`, and begins anew whenever it
gets no further. Knows no socket.

Source: itv2-protocol.md sections 5, 7, 8.3, 11 and 13.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Protocol

import msgspec

from sojourn.core.clock import Clock
from sojourn.errors import WireError
from sojourn.gateways.itv2.messages import (
    Command,
    CommandError,
    CommandResponse,
    EncryptionType,
    EndSession,
    Message,
    MultipleMessages,
    NackCode,
    OpenSession,
    Packet,
    Poll,
    RequestAccess,
    SimpleAck,
    Unknown,
    Word,
)
from sojourn.gateways.itv2.peer import ciphers
from sojourn.gateways.itv2.peer.ciphers import RandomBytes
from sojourn.gateways.itv2.peer.desk import Answer
from sojourn.gateways.itv2.peer.faults import Fault, Faults
from sojourn.gateways.itv2.peer.layouts import read_packet, write_packet
from sojourn.gateways.itv2.peer.outbox import Entry, Outbox
from sojourn.gateways.itv2.peer.programme import LineSettings, PanelIdentity
from sojourn.gateways.itv2.peer.wire import Gatherer, from_frame, from_tlink, to_frame, to_tlink
from sojourn.gateways.itv2.peer.zones import NEVER

COMMUNICATOR: Final = 2
FIRST_SENDER: Final = 255
"""The counter before the first packet, which carries 0."""
NOBODYS_WORD: Final = 0x0F77
GARBAGE: Final = b"\xde\xad\xbe\xef no packet \x7f"
OTHER_ID: Final = b"000000000001"
ENDLESS_BYTES: Final = 64 * 1024
HTTP: Final = b"POST /absip HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"


class Step(IntEnum):
    """Where the handshake stands: what the panel has done last. Source: itv2-protocol.md section 7."""

    DIALED = 0
    OPENED = 1
    """OpenSession is sent; its response comes (2)."""
    ANSWERED = 3
    """The response is acknowledged; the server's OpenSession comes (4)."""
    AGREED = 5
    """The server's OpenSession is answered; the acknowledgement comes (6)."""
    ASKED = 7
    """RequestAccess is sent; its response comes, encrypted (8)."""
    GRANTED = 9
    """The response is acknowledged; the server's RequestAccess comes (10)."""
    ANSWERED_ACCESS = 11
    """The server's RequestAccess is answered, encrypted; the acknowledgement comes (12)."""
    CONNECTED = 13
    ENDED = 14


class Told(msgspec.Struct, frozen=True, gc=False):
    """Something that a line has to say: where the handshake stands, and a sentence; never a secret."""

    step: Step
    words: str


class Desk(Protocol):
    """What decides about commands."""

    def answer(self, message: Message) -> Answer:
        """Return what is answered."""


class Watcher(Protocol):
    """Who hears what a line does; every call is synchronous."""

    def told(self, told: Told) -> None:
        """Hear of something that a person may want to know."""

    def connected(self) -> None:
        """Hear that the handshake is done."""

    def sent(self, message: Message) -> None:
        """Hear that a notification or answer is on its way."""

    def acknowledged(self, message: Message) -> None:
        """Hear that the server has acknowledged a notification or answer."""

    def heard(self, message: Message) -> None:
        """Hear of a command or a poll of the server."""


class Randomness(msgspec.Struct, frozen=True):
    """Where a line's random bytes come from; a test gives its own."""

    draw: RandomBytes = secrets.token_bytes
    fill: RandomBytes = secrets.token_bytes
    pad: Callable[[bytes, RandomBytes], bytes] = ciphers.pad_as_panels


class Line:
    """A panel's end of one connection.

    Life: made for a connection that is open, ended by ``hang_up``, which it calls itself or is told of by
    :meth:`end`. Always true: at most one packet waits for an acknowledgement.

    Args:
        write: takes bytes for the server.
        hang_up: closes the connection; gets the reason in words.
        clock: real seconds.
    """

    def __init__(
        self,
        identity: PanelIdentity,
        settings: LineSettings,
        *,
        outbox: Outbox,
        desk: Desk,
        faults: Faults,
        watcher: Watcher,
        write: Callable[[bytes], None],
        hang_up: Callable[[str], None],
        clock: Clock,
        randomness: Randomness = Randomness(),  # noqa: B008 - a frozen struct
        has_wrong_key: bool = False,
    ) -> None:
        self.step = Step.DIALED
        self._identity = identity
        self._settings = settings
        self._header = identity.integration_id.encode()
        self._outbox = outbox
        self._desk = desk
        self._faults = faults
        self._watcher = watcher
        self._write = write
        self._hang_up = hang_up
        self._clock = clock
        self._randomness = randomness
        self._has_wrong_key = has_wrong_key
        self._gatherer = Gatherer()
        self._heard_s = clock()
        self._encryption_type = identity.encryption_type
        self._reset()

    def _reset(self) -> None:
        self._sender = FIRST_SENDER
        self._receiver = 0
        self._previous = b""
        self._in_key: bytes | None = None
        self._out_key: bytes | None = None
        self._command_sequence = 0
        self._opening: OpenSession | None = None
        self._waiting: Entry | None = None
        self._waiting_frame = b""
        self._retransmits_count = 0
        self._retransmit_s = self._restart_s = self._late_s = NEVER
        self._late: Message | None = None
        self._held = b""

    # What comes from outside

    def start(self) -> None:
        """Begin the handshake on a fresh connection. Source: itv2-protocol.md section 7, step 1."""
        if self._faults.take(Fault.HTTP):
            self._write(HTTP)
            return
        offered = EncryptionType.TYPE_3 if self._settings.offers_type_3 else self._identity.encryption_type
        self._open(offered)
        if self._settings.offers_type_3:
            self._restart_s = self._clock() + self._settings.type_3_s

    def _open(self, encryption_type: int) -> None:
        self._give_back()
        self._reset()
        self._encryption_type = encryption_type
        self._command_sequence = self._randomness.draw(1)[0]
        settings = self._settings
        self._opening = OpenSession(
            command_sequence=self._command_sequence,
            device_type=COMMUNICATOR,
            device_id=settings.device_id,
            firmware=settings.firmware,
            protocol=settings.protocol,
            tx_buffer_bytes=settings.buffer_bytes,
            rx_buffer_bytes=settings.buffer_bytes,
            unknown=1,
            encryption_type=encryption_type,
            tail=settings.tail,
        )
        self._go(Step.OPENED, f"sent OpenSession, encryption type {encryption_type}")
        self._send(self._opening)
        self._restart_s = self._clock() + settings.handshake_retry_s

    def receive(self, data: bytes) -> None:
        """Take bytes of the server."""
        if self.is_ended or self._faults.is_set(Fault.SILENCE):
            return
        self._heard_s = self._clock()
        try:
            packets = self._gatherer.cut(data)
        except WireError as error:
            self._drop(str(error))
            return
        for packet in packets:
            if not self.is_ended:  # by the packet before
                self._take(packet)

    def flush(self) -> None:
        """Send what waits in the outbox, if it is its turn; call it after each new notification."""
        if self.step is not Step.CONNECTED or self._waiting is not None or self._faults.is_set(Fault.SILENCE):
            return
        if self._outbox:
            self._send_entry(self._outbox.take())

    def pass_time(self) -> None:
        """Do what is due by now."""
        now = self._clock()
        if self.is_ended:
            return
        if self._restart_s <= now:
            self._restart_s = NEVER
            self._open(self._identity.encryption_type)
        if self._late_s <= now and self._late is not None:
            late, self._late, self._late_s = self._late, None, NEVER
            self._outbox.answer(late)
            self.flush()
        if self._retransmit_s <= now:
            self._retransmit(now)
        if now - self._heard_s >= self._settings.silence_s:
            self._drop(f"nothing heard for {self._settings.silence_s:g} s")

    @property
    def deadline_s(self) -> float:
        """Return when :meth:`pass_time` has something to do."""
        silent_s = self._heard_s + self._settings.silence_s
        return min(self._restart_s, self._late_s, self._retransmit_s, silent_s)

    @property
    def is_ended(self) -> bool:
        """Whether the connection is over."""
        return self.step is Step.ENDED

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for an acknowledgement."""
        return self.step is Step.CONNECTED and self._waiting is None

    def end_session(self) -> None:
        """Say that this is the end; the connection is closed once the server has acknowledged it."""
        self._outbox.forget_answers()
        self._outbox.answer(EndSession())
        self.flush()

    def poll(self) -> None:
        """Ask whether the server is there; it has to acknowledge."""
        self._outbox.answer(Poll())
        self.flush()

    def end(self) -> None:
        """Note that the connection is gone: what was not acknowledged is kept for the next one."""
        self.step = Step.ENDED
        self._give_back()
        self._outbox.forget_answers()

    def flood(self) -> None:
        """Write what never ends, as no panel does."""
        self._write(self._header + b"\x7e" + bytes(ENDLESS_BYTES))

    # Packets of the server

    def _take(self, raw: bytes) -> None:
        try:
            payload = from_tlink(raw).payload  # of the header a panel takes no notice
            if not payload:
                return
            if self._in_key is not None:
                payload = ciphers.decrypt_blocks(self._in_key, payload)
            packet_bytes = from_frame(payload)
        except WireError as error:
            self._tell(f"cannot read a packet: {error}")
            return
        try:
            packet = read_packet(packet_bytes)
        except WireError:
            word = int.from_bytes(packet_bytes[2:4], "big")
            self._accept(packet_bytes[0], packet_bytes[1])
            self._answer_later(CommandError(nacked_word=word, code=NackCode.INVALID_LENGTH))
            return
        self._handle(packet, packet_bytes)

    def _handle(self, packet: Packet, packet_bytes: bytes) -> None:
        message = packet.message
        is_ack_only = isinstance(message, SimpleAck)
        if packet.receiver == self._sender and not self._faults.take(Fault.ACK_UNHEARD):
            self._acknowledged()
        if is_ack_only or self.is_ended:
            return
        if packet_bytes == self._previous:
            self._ack()
            return
        self._previous = packet_bytes
        self._receiver = packet.sender
        if self.step is Step.CONNECTED:
            self._serve(message)
        else:
            self._shake_hands(message)

    def _accept(self, sender: int, receiver: int) -> None:
        if receiver == self._sender:
            self._acknowledged()
        self._receiver = sender
        self._ack()

    def _acknowledged(self) -> None:
        """Go on: the server has our last packet."""
        self._retransmit_s = NEVER
        entry, self._waiting = self._waiting, None
        if entry is not None:
            self._watcher.acknowledged(entry.message)
            if isinstance(entry.message, EndSession):
                self._drop("we ended the session")
                return
            self.flush()
        elif self.step is Step.AGREED:
            self._ask_for_access()
        elif self.step is Step.ANSWERED_ACCESS:
            self._restart_s = NEVER
            self._go(Step.CONNECTED, "connected")
            self._watcher.connected()
            self.flush()

    # The handshake, by what comes from the server

    def _shake_hands(self, message: Message) -> None:
        """Source: itv2-protocol.md section 7."""
        match self.step, message:
            case (Step.OPENED, CommandResponse(code=0)) if self._is_ours(message, 0):
                self._go(Step.ANSWERED, "the server has answered OpenSession")
                self._ack()
            case (Step.ANSWERED, OpenSession()):
                self._compare(message)
            case (Step.ASKED, CommandResponse(code=0)) if self._is_ours(message, 2):
                if not self._settings.ignores_access:
                    self._go(Step.GRANTED, "the server has granted access, encrypted with our code")
                    self._ack(is_clear=True)
            case (Step.GRANTED, RequestAccess()):
                self._take_access(message)
            case (_, EndSession()):
                self._ack()
                self._drop("the server ended the session")
            case (_, CommandError() | CommandResponse()):
                self._tell(f"the server refuses with code {message.code}")
            case _:
                self._tell(f"found {type(message).__name__} of the server in step {int(self.step)}")

    def _is_ours(self, message: CommandResponse, ahead: int) -> bool:
        return message.command_sequence == (self._command_sequence + ahead) & 0xFF

    def _compare(self, theirs: OpenSession) -> None:
        """Take the server's OpenSession, which must return all of ours. Source: itv2-protocol.md section 7.1."""
        ours = self._opening
        if ours is None or msgspec.structs.replace(theirs, command_sequence=ours.command_sequence) != ours:
            self._tell("the server does not return our OpenSession as it was")
            self._send(CommandError(nacked_word=Word.OPEN_SESSION, code=NackCode.INVALID_LENGTH))
            self._restart_s = self._clock() + self._settings.length_retry_s
            return
        self._go(Step.AGREED, "the server has returned OpenSession")
        self._send(CommandResponse(command_sequence=theirs.command_sequence))

    def _ask_for_access(self) -> None:
        """Step 7; from here on the server encrypts. Source: itv2-protocol.md sections 7 and 8."""
        identity = self._identity
        if self._encryption_type == EncryptionType.TYPE_1:
            drawn = self._randomness.draw(ciphers.TYPE_1_RANDOM_BYTES)
            initializer, key = ciphers.type_1_initializer(identity.integration_id, drawn)
        else:
            initializer = self._randomness.draw(ciphers.TYPE_2_RANDOM_BYTES)
            key = ciphers.type_2_key(self._type_2_code(), initializer)
        self._go(Step.ASKED, "sent RequestAccess")
        sequence = (self._command_sequence + 2) & 0xFF
        self._send(RequestAccess(command_sequence=sequence, initializer=initializer))
        self._in_key = key

    def _type_2_code(self) -> str:
        code = self._identity.type_2_code.reveal()
        return _other_code(code) if self._has_wrong_key else code

    def _take_access(self, message: RequestAccess) -> None:
        """Step 10; from here on the panel encrypts. Source: itv2-protocol.md section 8."""
        try:
            if self._encryption_type == EncryptionType.TYPE_1:
                code = self._identity.type_1_code.reveal()
                code = _other_code(code) if self._has_wrong_key else code
                self._out_key = ciphers.type_1_key(code, message.initializer)
            else:
                self._out_key = ciphers.type_2_key(self._type_2_code(), message.initializer)
        except WireError:
            self._tell("the server's initializer was made with another code")
            return
        self._go(Step.ANSWERED_ACCESS, "the server has asked for access")
        self._send(CommandResponse(command_sequence=message.command_sequence))

    # Commands of the server

    def _serve(self, message: Message) -> None:
        self._watcher.heard(message)
        if isinstance(message, EndSession):
            self._ack()
            self._drop("the server ended the session")
        elif isinstance(message, Poll):
            self._answer_poll()
        elif isinstance(message, OpenSession | RequestAccess | CommandResponse | CommandError):
            self._ack()
        elif isinstance(message, Command | Unknown):
            self._obey(message)
        else:
            self._ack()

    def _answer_poll(self) -> None:
        if self._waiting is None and self._outbox and self._faults.take(Fault.DATA_FOR_ACK):
            self.flush()  # it carries the poll's number
        else:
            self._ack()

    def _obey(self, message: Command | Unknown) -> None:
        answer = self._desk.answer(message)
        may_be_direct = self._waiting is None and not self._outbox
        if not (answer.is_direct and may_be_direct):
            self._ack()
        if self._faults.take(Fault.NO_ANSWER):
            pass
        elif self._faults.take(Fault.LATE_ANSWER):
            self._late = answer.message
            self._late_s = self._clock() + self._settings.late_answer_s
        else:
            self._answer_later(answer.message)
        if answer.then is not None:
            answer.then()

    def _answer_later(self, message: Message) -> None:
        if self._faults.take(Fault.ANSWER_IN_MULTIPLE):
            message = MultipleMessages(messages=(message,))
        self._outbox.answer(message)
        self.flush()

    # Packets of the panel

    def _send_entry(self, entry: Entry) -> None:
        if self._faults.take(Fault.UNKNOWN_WORD):
            self._outbox.give_back(entry)
            entry = Entry(Unknown(number=NOBODYS_WORD, body=b"\x01\x02"), is_answer=True)
        self._waiting = entry
        self._retransmits_count = 0
        self._watcher.sent(entry.message)
        self._send(entry.message)

    def _send(self, message: Message) -> None:
        """Send a packet that has to be acknowledged."""
        self._sender = (self._sender + 1) & 0xFF
        self._waiting_frame = self._framed(message)
        if self.step is Step.CONNECTED:
            self._retransmit_s = self._clock() + self._settings.retransmit_s
        self._put(self._sealed(self._waiting_frame, is_data=self.step is Step.CONNECTED))

    def _ack(self, *, is_clear: bool = False) -> None:
        """Acknowledge what the server has sent; step 9 goes in clear although the server encrypts by then."""
        if self.step is Step.CONNECTED and self._faults.take(Fault.ACK_UNSENT):
            return
        packet = self._sealed(self._framed(SimpleAck()), is_clear=is_clear)
        if self.step is Step.CONNECTED and self._faults.take(Fault.MERGED_WRITES):
            self._held += packet
        else:
            self._put(packet)

    def _framed(self, message: Message) -> bytes:
        return to_frame(write_packet(Packet(self._sender, self._receiver, message)))

    def _sealed(self, frame: bytes, *, is_data: bool = False, is_clear: bool = False) -> bytes:
        """Return a whole TLink packet, damaged where that is wanted."""
        if is_data and self._faults.take(Fault.WRONG_CRC):
            frame = frame[:-1] + bytes((frame[-1] ^ 0x01,))
        if self._out_key is not None and not is_clear:
            randomness = self._randomness
            frame = ciphers.encrypt_blocks(self._out_key, randomness.pad(frame, randomness.fill))
        header = OTHER_ID if is_data and self._faults.take(Fault.WRONG_ID) else self._header
        packet = to_tlink(header, frame)
        if is_data and self._faults.take(Fault.BAD_STUFFING):
            packet = packet[:-1] + b"\x7d\x09\x7f"
        return packet

    def _put(self, packet: bytes) -> None:
        if self._faults.is_set(Fault.SILENCE):
            return
        if self.step is Step.CONNECTED:
            if self._faults.take(Fault.GARBAGE):
                packet = GARBAGE + packet
            if self._faults.take(Fault.DUPLICATE):
                packet += packet
        held, self._held = self._held, b""
        self._write(held + packet)

    def _retransmit(self, now: float) -> None:
        if self._retransmits_count >= self._settings.retransmits_count:
            self._drop("the server does not acknowledge")
            return
        self._retransmits_count += 1
        self._retransmit_s = now + self._settings.retransmit_s
        if self._waiting is not None:
            # The same frame, so that it is known again; sealed anew: what was damaged is damaged once.
            self._put(self._sealed(self._waiting_frame, is_data=True))

    def _give_back(self) -> None:
        if self._waiting is not None and not self._waiting.is_answer:
            self._outbox.give_back(self._waiting)
        self._waiting = None

    def _drop(self, why: str) -> None:
        self._tell(why)
        self._hang_up(why)
        self.end()

    def _go(self, step: Step, words: str) -> None:
        self.step = step
        if step is not Step.CONNECTED:
            self._restart_s = self._clock() + self._settings.handshake_retry_s
        self._tell(words)

    def _tell(self, words: str) -> None:
        self._watcher.told(Told(self.step, words))


def _other_code(code: str) -> str:
    """Return a code that is surely another one."""
    return f"{(int(code, 16) ^ 1):0{len(code)}x}"
