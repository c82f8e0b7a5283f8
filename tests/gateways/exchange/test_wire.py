"""Frames of ``session.v1``: what clients may send, what they get, and that no bytes do anything else."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from sojourn.errors import WireError
from sojourn.gateways.exchange import wire
from sojourn.gateways.exchange.messages import (
    CLOSE_CODES,
    CancelOrder,
    ClientFrame,
    Close,
    Hello,
    PlaceOrder,
    Resume,
    ServerHeartbeat,
)

ORDER = {"t": "order", "id": "r1", "symbol": "AAPL", "side": "buy", "quantity": 5, "price": "175.25"}
FRAMES = (
    Hello("1", "browser-1", Resume(3, 17, 5, 6), ("AAPL",)),
    PlaceOrder("2", "AAPL", "sell", 5, "market"),
    CancelOrder("3", 77),
)


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_is_written_is_read_as_the_same(frame, is_binary):
    """In JSON and in MessagePack."""
    assert wire.read_frame(wire.write_frame(frame, is_binary=is_binary), is_binary=is_binary) == frame


def test_a_newer_client_may_say_more():
    """Fields that we do not know are ignored."""
    assert wire.read_frame(json.dumps({**ORDER, "color": ["blue", {"x": 1}]})).quantity == 5


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quantity": 0}, "$.quantity"),
        ({"quantity": -1}, "$.quantity"),
        ({"quantity": 10**30}, "$.quantity"),
        ({"quantity": 1.5}, "$.quantity"),
        ({"quantity": True}, "$.quantity"),
        ({"quantity": "5"}, "$.quantity"),
        ({"price": 175.25}, "$.price"),
        ({"price": "NaN"}, "$.price"),
        ({"price": "-1"}, "$.price"),
        ({"price": "1e9"}, "$.price"),
        ({"price": "1" * 40}, "$.price"),
        ({"side": "BUY"}, "$.side"),
        ({"id": ""}, "$.id"),
        ({"id": "x" * 65}, "$.id"),
        ({"symbol": "x" * 13}, "$.symbol"),
    ],
)
def test_a_wrong_field_is_named(changed, told):
    """The error says which field, what was found and what is wanted."""
    with pytest.raises(WireError) as caught:
        wire.read_frame(json.dumps(ORDER | changed))
    assert told in caught.value.found
    assert caught.value.wanted != wire.KNOWN_TYPE


@pytest.mark.parametrize("text", ['{"t":"fly"}', '{"id":"1"}', '{"t":5}', '{"t":null}'])
def test_a_type_that_is_none_of_ours_is_told_apart(text):
    """It has an error code of its own."""
    with pytest.raises(WireError) as caught:
        wire.read_frame(text)
    assert caught.value.wanted == wire.KNOWN_TYPE


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '{"t":"order","quantity":NaN}',
        b"\xff\xfe",
        "[" * 60_000,
        '{"t":"bye","x":' + "[" * 60_000,
    ],
    ids=range(9),
)
@pytest.mark.parametrize("is_binary", [False, True])
def test_what_is_no_frame_is_an_error_and_nothing_else(data, is_binary):
    """Whatever it is, however deep."""
    with pytest.raises(WireError):
        wire.read_frame(data, is_binary=is_binary)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_a_frame_or_an_error(data, is_binary):
    """Nothing else comes out."""
    with contextlib.suppress(WireError):
        assert isinstance(wire.read_frame(data, is_binary=is_binary), ClientFrame)


@settings(max_examples=300)
@given(st.sampled_from(FRAMES), st.integers(0, 500), st.integers(0, 255), st.booleans())
def test_a_damaged_frame_is_a_frame_or_an_error(frame, place, byte, is_binary):
    """One byte changed anywhere."""
    data = bytearray(wire.write_frame(frame, is_binary=is_binary))
    data[place % len(data)] = byte
    with contextlib.suppress(WireError):
        assert isinstance(wire.read_frame(bytes(data), is_binary=is_binary), ClientFrame)


def messages_of(data):
    """Read WebSocket messages with the sans-IO core of another library."""
    client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=2**22)
    client.receive_data(data)
    return client.events_received()


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("is_binary", [False, True])
def test_a_message_with_our_header_is_read_by_others(size, is_binary):
    """RFC 6455 section 5.2: the three lengths of a length."""
    first, second = messages_of(wire.websocket(b"x" * size, is_binary=is_binary) * 2)
    assert first == second
    assert (bytes(first.data), first.fin) == (b"x" * size, True)
    assert first.opcode == (Opcode.BINARY if is_binary else Opcode.TEXT)


def test_frames_around_encoded_values_are_what_an_encoder_makes():
    """Splicing bytes gives the same as encoding the whole."""
    body = {"status": "filled", "text": 'quo"te'}
    rows = [{"s": "AAPL", "bid": "1.5"}, {"s": "MSFT"}]
    for is_binary, read in ((False, json.loads), (True, msgspec.msgpack.decode)):
        encoded = [wire.value(row, is_binary=is_binary) for row in rows]
        assert read(wire.event(7, 'or"der', json.dumps(body).encode(), is_binary=is_binary)) == {
            "t": "ev",
            "o": 7,
            "y": 'or"der',
            "d": body,
        }
        assert read(wire.market(9, encoded, is_full=False, is_binary=is_binary)) == {
            "t": "md",
            "r": 9,
            "rows": rows,
        }
        assert read(wire.market(9, [], is_full=True, is_binary=is_binary)) == {
            "t": "md",
            "r": 9,
            "full": 1,
            "rows": [],
        }
        assert read(wire.portfolio(3, encoded[0], is_binary=is_binary)) == {"t": "pf", "r": 3, "d": rows[0]}
    assert json.loads(wire.write_frame(ServerHeartbeat(4))) == {"t": "hb", "n": 4}


def test_every_close_code_is_in_the_table_once():
    """The table is what clients go by."""
    named = {value for name, value in vars(Close).items() if not name.startswith("_")}
    assert sorted(named) == [row.code for row in CLOSE_CODES]
