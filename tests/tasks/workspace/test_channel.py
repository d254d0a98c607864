from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from bgpy.errors import MessageTooLargeError, ProtocolError, RemoteProtocolError
from bgpy.protocol.frames import MAX_BUFFERS, Frame, FrameReader, encode_frame
from bgpy.tasks.workspace.channel import KINDS, Channel, Kind, Message, close_value, decode, encode, take_value
from bgpy.tasks.workspace.values import Packed


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    with left, right:
        yield Channel(left, 1 << 24), Channel(right, 1 << 24)


class Trap:
    """What must never be opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was opened",)


def frame_of(data: bytes, kind: int = Kind.ANSWER) -> Frame:
    return Frame(kind, 0, 0, 1, data, [])


def test_messages_arrive_in_order_with_all_that_is_in_them(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    fields = {"a": [1, 2.5, None, True, "ü\udc80", b"x"], "b": {"c": (1,)}}
    left.send(Kind.RUN, 5, {"text": "print('ü\udc80')"}, 3)
    left.send(Kind.ANSWER, 6, fields)
    left.send(Kind.ENDED, 7, {}, 1)
    assert right.receive() == Message(Kind.RUN, 5, 3, {"text": "print('ü\udc80')"})
    assert right.receive() == Message(Kind.ANSWER, 6, 0, fields)
    assert right.receive() == Message(Kind.ENDED, 7, 1, {})


def test_an_empty_script_is_a_message_without_fields(pair: tuple[Channel, Channel]) -> None:
    pair[0].send(Kind.RUN, 5, {"text": ""})
    assert pair[1].receive() == Message(Kind.RUN, 5, 0, {})


def test_values_travel_closed_with_their_buffers_behind(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    large = bytearray(os.urandom(1 << 20))
    packed = Packed.of({"x": pickle.PickleBuffer(large)})
    assert len(packed.buffers) == 1
    sender = threading.Thread(target=left.send, args=(Kind.ANSWER, 1, {"value": close_value(packed)}))
    sender.start()
    message = right.receive()
    sender.join()
    assert message is not None
    assert bytes(take_value(message.fields["value"]).open()["x"]) == large


def test_more_buffers_than_a_frame_takes_go_inside() -> None:
    packed = Packed(b"p", tuple(bytes(40_000) for _ in range(MAX_BUFFERS + 5)))
    parts = encode(Kind.ANSWER, 1, 0, {"value": close_value(packed)})
    assert len(parts) == 2 + MAX_BUFFERS
    frame = Frame(Kind.ANSWER, 0, 0, 1, parts[1], [memoryview(part) for part in parts[2:]])
    assert len(take_value(decode(frame).fields["value"]).buffers) == MAX_BUFFERS + 5


def test_a_value_is_not_opened_on_the_way(pair: tuple[Channel, Channel]) -> None:
    packed = Packed(pickle.dumps(Trap()))
    pair[0].send(Kind.ANSWER, 1, {"value": close_value(packed)})
    message = pair[1].receive()
    assert message is not None
    assert bytes(take_value(message.fields["value"]).pickle) == packed.pickle


def test_plain_data_that_names_a_class_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="no plain data"):
        decode(frame_of(pickle.dumps({"x": Trap()})))
    with pytest.raises(RemoteProtocolError, match="no plain data"):
        decode(frame_of(pickle.dumps({"x": {1, 2}.__class__})))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frame_of(b"", kind=99), "unknown kind 99"),
        (frame_of(b"rubbish"), "no plain data"),
        (frame_of(pickle.dumps([1])), "no dict"),
        (frame_of(b"\xff", kind=Kind.RUN), "no plain data"),
    ],
)
def test_what_is_no_message_is_refused(frame: Frame, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(frame)


@pytest.mark.parametrize("value", [None, 5, (b"", 5), ("text", []), (b"", ["text"]), (b"", [], 1)])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="a value in a shape"):
        take_value(value)


def test_the_limit_holds_before_anything_is_sent_and_before_anything_is_taken(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    fields = {"x": bytes(2000)}
    size = len(encode(Kind.ANSWER, 1, 0, fields)[0]) - 24
    encode(Kind.ANSWER, 1, 0, fields, size)
    with pytest.raises(MessageTooLargeError):
        encode(Kind.ANSWER, 1, 0, fields, size - 1)
    right._reader.max_size = size - 1
    left.send(Kind.ANSWER, 1, fields)
    with pytest.raises(MessageTooLargeError):
        right.receive()


def test_a_wait_that_is_given_up_keeps_what_has_come(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    (data,) = encode(Kind.ANSWER, 1, 0, {"x": 1})
    left._sock.sendall(bytes(data)[:30])
    with pytest.raises(TimeoutError):
        right.receive(0.01)
    left._sock.sendall(bytes(data)[30:])
    assert right.receive(5) == Message(Kind.ANSWER, 1, 0, {"x": 1})


@pytest.mark.parametrize("end", ["finish", "close", "shutdown"])
def test_the_end_of_the_other_side_is_none(pair: tuple[Channel, Channel], end: str) -> None:
    getattr(pair[0], end)()
    assert pair[1].receive() is None


def test_a_shutdown_of_a_dead_socket_is_fine(pair: tuple[Channel, Channel]) -> None:
    pair[0].close()
    pair[1].shutdown()
    pair[1].finish()
    pair[1].shutdown()


@hypothesis.given(st.sampled_from(sorted(KINDS)), st.binary(max_size=60))
def test_property_any_bytes_give_a_message_or_the_documented_error(kind: int, data: bytes) -> None:
    (frame_bytes,) = encode_frame(kind, 0, 0, 1, data, [])
    reader = FrameReader(1000)
    view = reader.memory()
    view[: len(frame_bytes)] = bytes(frame_bytes)
    reader.advance(len(frame_bytes))
    frame = reader.next_frame()
    assert frame is not None
    try:
        assert isinstance(decode(frame), Message)
    except ProtocolError:
        pass
