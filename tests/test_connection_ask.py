"""A request and the first frame of its answer in one step: what it takes on, what it leaves, and how it fails."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgpy.connection import Connection
from bgpy.errors import MessageTooLargeError, RemoteProtocolError
from bgpy.protocol.exchange import BrokenConnection, LaneNumbers
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_CONFIRM, FLAG_MORE, HEADER, SMALL_SIZE, brief, encode_frame
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello, Opening, own_python
from bgpy.protocol.messages import END, ERROR, EXEC, OK, REQUEST, Payload
from bgpy.protocol.states import Role, State
from bgpy.wires import PlainWire

PICKLE = b"\x80\x05}."
NUMBER = 7


def open_end(sock: socket.socket, role: Role, key: bytes | None = None, limit: int = 1 << 20, size: int = 1 << 20) -> Connection:
    """Return one end whose other side takes messages up to `limit`, and which itself takes them up to `size`."""
    hello = ClientHello(bytes(16), 0, False, ZERO_ID)
    return Connection(PlainWire(sock), role, Opening(hello, b"i" * 16, Admission.OK, own_python(), limit, key, key), size)


@pytest.fixture
def socks() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def client(socks: tuple[socket.socket, socket.socket]) -> Connection:
    return open_end(socks[0], Role.CLIENT)


@pytest.fixture
def server(socks: tuple[socket.socket, socket.socket]) -> Connection:
    return open_end(socks[1], Role.SERVER)


@pytest.fixture
def numbers() -> LaneNumbers:
    made = LaneNumbers()
    made.last = NUMBER - 1
    return made


def frame(kind: int, flags: int = 0, part: int = 0, number: int = NUMBER, pickle: bytes = PICKLE) -> bytes:
    return b"".join(encode_frame(kind, flags, part, number, pickle, []))


def fill(sock: socket.socket) -> None:
    """Send until there is no room for one byte more."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x")
    sock.setblocking(True)


def test_a_header_in_brief_is_the_header() -> None:
    for kind, flags in ((EXEC, FLAG_AWAIT), (OK, 0), (ERROR, FLAG_MORE)):
        assert brief(kind, flags).to_bytes(8, "big") == HEADER.pack(kind, flags, 0, 0, 0, 0)[:8]


@pytest.mark.parametrize("timed", [False, True])
def test_a_request_goes_there_and_its_answer_comes_back(
    client: Connection, server: Connection, numbers: LaneNumbers, timed: bool
) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.ask, REQUEST, numbers, PICKLE, time.monotonic() + 20 if timed else None)
        request = server.receive()
        assert (request.kind, request.flags, request.part, request.number) == (EXEC, FLAG_AWAIT, 0, NUMBER)
        assert (bytes(request.pickle), request.buffers) == (PICKLE, [])
        assert server.state.state is client.state.state is State.WAITING
        assert server.send_frame(OK, 0, 0, NUMBER, Payload(b"answer", [], False))
        kind, flags, part, number, pickle, buffers = asked.result(20) or ()
    assert (kind, flags, part, number, bytes(pickle), buffers) == (OK, 0, 0, NUMBER, b"answer", [])
    assert server.state.state is client.state.state is State.IDLE
    assert client.asked == numbers.last == NUMBER


@pytest.mark.parametrize(
    ("kind", "flags", "after"), [(ERROR, 0, State.IDLE), (END, 0, State.IDLE), (OK, FLAG_MORE, State.WAITING)]
)
def test_any_first_frame_of_an_answer_is_returned(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers, kind: int, flags: int, after: State
) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.ask, brief(EXEC, FLAG_AWAIT | FLAG_CONFIRM), numbers, PICKLE, None)
        assert socks[1].recv(1000) == frame(EXEC, FLAG_AWAIT | FLAG_CONFIRM)
        socks[1].sendall(frame(kind, flags))
        answer = asked.result(20)
    assert answer is not None
    assert answer[:4] == (kind, flags, 0, NUMBER)
    assert client.state.state is after


@pytest.mark.parametrize("size", [0, 10, SMALL_SIZE - HEADER.size, SMALL_SIZE - HEADER.size + 1, 100_000])
def test_an_answer_in_two_pieces_is_put_together_at_every_byte(
    client: Connection, socks: tuple[socket.socket, socket.socket], size: int
) -> None:
    answer = frame(OK, pickle=bytes(size))
    offsets = [*range(1, min(len(answer), 40)), len(answer) - 1]
    numbers = LaneNumbers()
    for offset in offsets:
        numbers.last = NUMBER - 1
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(client.ask, REQUEST, numbers, PICKLE, None)
            assert socks[1].recv(1000) == frame(EXEC, FLAG_AWAIT)
            socks[1].sendall(answer[:offset])
            socks[1].sendall(answer[offset:])
            got = asked.result(20)
        assert got is not None
        assert bytes(got[4]) == bytes(size)


@pytest.mark.parametrize("broken", ["other number", "other part", "a request", "garbage", "too large"])
def test_what_is_no_answer_is_told_and_the_request_known_to_have_left(
    socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers, broken: str
) -> None:
    client = open_end(socks[0], Role.CLIENT, size=100)
    data = {
        "other number": frame(OK, number=NUMBER - 1),
        "other part": frame(OK, part=1),
        "a request": frame(EXEC),
        "garbage": b"\xff" * 100,
        "too large": frame(OK, pickle=bytes(101)),
    }[broken]
    socks[1].setblocking(True)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.ask, REQUEST, numbers, PICKLE, None)
        assert socks[1].recv(1000)
        socks[1].sendall(data)
        with pytest.raises(MessageTooLargeError if broken == "too large" else RemoteProtocolError):
            asked.result(20)
    assert client.asked == NUMBER


def test_nothing_is_done_where_a_request_cannot_surely_go(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers
) -> None:
    with_macs = open_end(socks[0], Role.CLIENT, key=b"k" * 32)
    narrow = open_end(socks[0], Role.CLIENT, limit=3)
    busy = open_end(socks[0], Role.CLIENT)
    busy.state.sending(EXEC)
    for connection, pickle in ((client, bytes(SMALL_SIZE + 1)), (with_macs, PICKLE), (narrow, PICKLE), (busy, PICKLE)):
        assert connection.ask(REQUEST, numbers, pickle, None) is None
    socks[1].sendall(b"x")  # nobody asked for that: whoever looks closer finds out what it is
    assert client.ask(REQUEST, numbers, PICKLE, None) is None
    assert (numbers.last, client.asked, client.state.state) == (NUMBER - 1, 0, State.IDLE)
    socks[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        socks[1].recv(1)


def test_half_an_answer_that_came_early_leaves_no_connection_to_ask(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers
) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.ask, REQUEST, numbers, PICKLE, None)
        socks[1].recv(1000)
        socks[1].sendall(frame(OK) + frame(OK)[:5])
        assert asked.result(20) is not None
    assert client.ask(REQUEST, numbers, PICKLE, None) is None
    assert numbers.last == NUMBER


@pytest.mark.parametrize("timed", [False, True])
def test_a_connection_that_ends_before_the_answer_is_broken(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers, timed: bool
) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.ask, REQUEST, numbers, PICKLE, time.monotonic() + 20 if timed else None)
        socks[1].recv(1000)
        socks[1].close()
        with pytest.raises(BrokenConnection, match="closed the connection"):
            asked.result(20)
    assert client.asked == NUMBER


def test_a_connection_that_breaks_while_the_request_goes_out_is_told_apart(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers
) -> None:
    socks[0].shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenConnection) as caught:
        client.ask(REQUEST, numbers, PICKLE, None)
    assert caught.value.written == 0
    assert (client.asked, numbers.last) == (0, NUMBER)


def test_no_answer_in_time_is_told_with_the_request_known_to_have_left(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers
) -> None:
    with pytest.raises(TimeoutError):
        client.ask(REQUEST, numbers, PICKLE, time.monotonic() + 0.02)
    assert client.asked == NUMBER
    assert socks[1].recv(1000) == frame(EXEC, FLAG_AWAIT)


def test_a_request_that_finds_no_room_at_once_waits_for_it_and_is_given_up_in_time(
    client: Connection, socks: tuple[socket.socket, socket.socket], numbers: LaneNumbers
) -> None:
    fill(socks[0])
    with pytest.raises(TimeoutError):
        client.ask(REQUEST, numbers, PICKLE, time.monotonic() + 0.02)
    assert (client.asked, numbers.last) == (0, NUMBER)


def test_an_answer_to_a_client_that_is_gone_ends_the_connection(
    server: Connection, socks: tuple[socket.socket, socket.socket]
) -> None:
    socks[0].sendall(frame(EXEC, FLAG_AWAIT))
    server.receive()
    socks[0].close()
    assert not server.send_frame(OK, 0, 0, NUMBER, Payload(PICKLE, [], False))


@pytest.mark.parametrize(("kind", "flags"), [(EXEC, FLAG_AWAIT), (OK, 0)])
def test_what_is_usual_from_the_one_side_is_refused_from_the_other(
    socks: tuple[socket.socket, socket.socket], kind: int, flags: int
) -> None:
    wrong = open_end(socks[0], Role.CLIENT if kind == EXEC else Role.SERVER)
    socks[1].sendall(frame(kind, flags))
    with pytest.raises(RemoteProtocolError, match="sent a frame of kind"):
        wrong.receive()


def test_a_request_out_of_turn_is_refused(server: Connection, socks: tuple[socket.socket, socket.socket]) -> None:
    socks[0].sendall(frame(EXEC, FLAG_AWAIT))
    server.receive()
    socks[0].sendall(frame(EXEC, FLAG_AWAIT, number=NUMBER + 1))
    with pytest.raises(RemoteProtocolError, match="that is waiting"):
        server.receive()


def test_a_request_above_the_limit_is_refused_however_small(socks: tuple[socket.socket, socket.socket]) -> None:
    server = open_end(socks[1], Role.SERVER, size=10)
    socks[0].sendall(frame(EXEC, FLAG_AWAIT, pickle=bytes(11)))
    with pytest.raises(MessageTooLargeError):
        server.receive()
    assert server.refused is not None
