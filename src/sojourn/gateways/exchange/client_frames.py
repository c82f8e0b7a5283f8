"""A client's WebSocket bytes to messages, within bounds; and the two answers that a client's bytes may ask for.

Frames, masks, close codes and the handshake are the library ``websockets``' own, without its I/O; what is added is that
fragments make one message. The other direction is :func:`.wire.websocket`, as what is sent is framed once for many.
Knows no transport, and nothing of what the messages say.

Source: RFC 6455 sections 4.2 and 5.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

from sojourn.errors import WireError

CONTINUATION: Final = int(Opcode.CONT)
TEXT: Final = int(Opcode.TEXT)
BINARY: Final = int(Opcode.BINARY)
CLOSE: Final = int(Opcode.CLOSE)
PING: Final = int(Opcode.PING)
PONG: Final = int(Opcode.PONG)

_CONTROL: Final = frozenset({CLOSE, PING, PONG})
_SWITCHING: Final = 101
_HANDSHAKE: Final = ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol")


class Message(NamedTuple):
    """One whole message, or a control frame; text is a str."""

    kind: int
    data: bytes | str


class FrameReader:
    """Puts a client's messages together.

    Life: one per connection; after an error it is of no more use. Always true: it keeps less than one frame more than
    ``limit_bytes``, and a parser only while a frame is under way.

    Args:
        limit_bytes: of one message, its fragments together.
    """

    __slots__ = ("_fragments", "_kind", "_limit_bytes", "_parser", "_stream", "close_code")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._stream = StreamReader()
        self._parser: Generator[None, None, Frame] | None = None
        self._fragments = b""
        self._kind = CONTINUATION
        self.close_code = 0
        """What to close with, after an error."""

    def feed(self, data: bytes) -> None:
        """Take bytes as they came; ``next_message`` is to be called until it returns None."""
        self._stream.feed_data(data)

    def next_message(self) -> Message | None:
        """Return the next message, None if bytes are missing.

        Raises: WireError; then ``close_code`` is the one to close with.
        """
        while True:
            frame = self._next_frame()
            if frame is None:
                return None
            opcode, data = int(frame.opcode), bytes(frame.data)
            if opcode in _CONTROL:
                return Message(opcode, data)
            if (opcode == CONTINUATION) != (self._kind != CONTINUATION):
                raise self._bad(
                    "a continuation of nothing" if opcode == CONTINUATION else "a message within another"
                )
            if self._fragments:
                data = self._fragments + data
            if not frame.fin:
                self._fragments, self._kind = data, self._kind or opcode
                continue
            kind, self._kind, self._fragments = self._kind or opcode, CONTINUATION, b""
            return Message(kind, self._text_of(data) if kind == TEXT else data)

    def _next_frame(self) -> Frame | None:
        """Let the parser go on. Raises: WireError."""
        parser = self._parser
        if parser is None:
            if not self._stream.buffer:
                return None
            limit = self._limit_bytes - len(self._fragments)
            parser = self._parser = Frame.parse(self._stream.read_exact, mask=True, max_size=limit)
        try:
            next(parser)
        except StopIteration as done:
            self._parser = None
            frame: Frame = done.value
            return frame
        except PayloadTooBig:
            raise self._bad("a message that is longer", CloseCode.MESSAGE_TOO_BIG) from None
        except (ProtocolError, ValueError) as error:
            raise self._bad(str(error)) from None
        return None

    def _text_of(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._bad("text that is not UTF-8", CloseCode.INVALID_DATA) from None

    def _bad(self, found: str, close_code: int = CloseCode.PROTOCOL_ERROR) -> WireError:
        self.close_code = int(close_code)
        return WireError(
            found, f"frames of a client, of at most {self._limit_bytes} bytes", "RFC 6455 section 5"
        )


def close_code_of(data: bytes) -> int:
    """Return the code in a close frame's payload; 1005 if it says none, 1002 if it says what it must not.

    Source: RFC 6455 sections 5.5.1 and 7.4.
    """
    try:
        return int(Close.parse(data).code)
    except (ProtocolError, UnicodeDecodeError):
        return int(CloseCode.PROTOCOL_ERROR)


def answer_to(
    path: str, headers: Iterable[tuple[str, str]], protocols: Sequence[str]
) -> tuple[dict[str, str], str] | None:
    """Return the headers of the 101 answer to a handshake, and the subprotocol: the client's first that we have.

    None if it is no handshake of a WebSocket. Source: RFC 6455 section 4.2.
    """

    def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((one for one in offered if one in protocols), None)

    server = ServerProtocol(select_subprotocol=select, extensions=None)
    response = server.accept(Request(path, Headers(headers)))
    if response.status_code != _SWITCHING:
        return None
    answer = {name: response.headers[name] for name in _HANDSHAKE if name in response.headers}
    return answer, answer.get("Sec-WebSocket-Protocol", "")
