"""The protocol over a blocking socket: openings, frames, the end, and how a client gets there."""

from __future__ import annotations

import errno
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
from support.peers import read_to_end

import bgpy.connection
import bgpy.server
from bgpy.connection import Connection, Dialer, drive_opening, end_politely
from bgpy.errors import (
    ConnectError,
    LocalProtocolError,
    MessageTooLargeError,
    RemoteProtocolError,
)
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_MORE, HEADER, encode_frame
from bgpy.protocol.handshake import ZERO_ID, Admission, ClientHello, Opener, Terms, client_opening, make_view, server_opening
from bgpy.protocol.messages import MessageType, Payload, dump, load
from bgpy.protocol.states import Role, State
from bgpy.sockets import ServerSocket
from bgpy.system import wait_socket
from bgpy.wires import PlainWire

TOKEN = "t" * 32
HELLO = ClientHello(b"c" * 16, 3, False, ZERO_ID)


def terms(max_size: int = 1 << 20) -> Terms:
    return Terms(TOKEN, max_size, make_view("left", "right", None), False, "there")


def open_both(left: socket.socket, right: socket.socket, max_size: int = 1 << 20) -> tuple[Connection, Connection]:
    deadline = time.monotonic() + 20
    wires = PlainWire(left), PlainWire(right)
    with ThreadPoolExecutor(1) as threads:
        server = threads.submit(
            drive_opening, server_opening(terms(max_size), b"i" * 16, lambda hello: Admission.OK), wires[1], deadline
        )
        opening = drive_opening(client_opening(terms(max_size), HELLO), wires[0], deadline)
        return Connection(wires[0], Role.CLIENT, opening, max_size), Connection(
            wires[1], Role.SERVER, server.result(20), max_size
        )


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    """Return the two ends of an open connection, with MACs: these sockets have no addresses."""
    left, right = socket.socketpair()
    ends = open_both(left, right)
    yield ends
    for end in ends:
        end.close()


def test_both_ends_agree_on_the_opening(pair: tuple[Connection, Connection]) -> None:
    client, server = pair[0].opening, pair[1].opening
    assert client.client == server.client == HELLO
    assert client.instance == server.instance == b"i" * 16
    assert (client.send_key, client.receive_key) == (server.receive_key, server.send_key)
    assert client.send_key is not None
    assert TOKEN not in repr(client) + repr(terms())


def test_frames_go_there_and_back_with_their_buffers(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    array = numpy.arange(100_000, dtype="u1")
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(client.transmit, MessageType.EXEC, FLAG_AWAIT, 0, 1, dump({"array": array}))
        frame = server.receive()
        sent.result(20)
    assert (frame.kind, frame.flags, frame.part, frame.number) == (MessageType.EXEC, FLAG_AWAIT, 0, 1)
    assert len(frame.buffers) == 1
    message = load(frame.pickle, frame.buffers)
    assert isinstance(message, dict)
    assert (message["array"] == array).all()
    assert server.send_frame(MessageType.OK, FLAG_MORE, 0, 1, dump({"part": 0}))
    assert server.send_frame(MessageType.END, 0, 1, 1, Payload(b"", [], False))
    assert [client.receive().kind for _ in range(2)] == [MessageType.OK, MessageType.END]
    assert client.state.state is State.IDLE


def test_a_frame_out_of_turn_is_an_error_of_who_sends_it(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    payload = dump({})
    with pytest.raises(LocalProtocolError):
        client.transmit(MessageType.OK, 0, 0, 1, payload)
    client.transmit(MessageType.EXEC, 0, 0, 1, payload)
    with pytest.raises(LocalProtocolError):
        client.transmit(MessageType.EXEC, 0, 0, 2, payload)
    server.receive()
    server.wire.send(encode_frame(MessageType.EXEC, 0, 0, 1, payload.pickle, [], server._mac))
    with pytest.raises(RemoteProtocolError, match="kind 2"):
        client.receive()
    assert not server.send_frame(MessageType.EXEC, 0, 0, 1, payload)


def test_a_frame_that_breaks_off_is_a_broken_connection_at_every_byte() -> None:
    payload = dump({"some": "request"})
    whole = len(b"".join(encode_frame(MessageType.EXEC, 0, 0, 1, payload.pickle, []))) + 32
    for offset in range(whole):
        left, right = socket.socketpair()
        client, server = open_both(left, right)
        data = b"".join(encode_frame(MessageType.EXEC, 0, 0, 1, payload.pickle, [], client._mac))
        left.sendall(data[:offset])
        client.close()
        with pytest.raises(BrokenConnection) as caught:
            server.receive()
        assert caught.value.reason == "the other side closed the connection" + (" within a frame" if offset else "")
        server.close()


@pytest.mark.parametrize("side", ["client", "server"])
def test_an_opening_that_breaks_off_is_a_broken_connection_at_every_byte(side: str) -> None:
    def make(client: bool) -> Opener:
        return client_opening(terms(), HELLO) if client else server_opening(terms(), b"i" * 16, lambda hello: Admission.OK)

    for offset in itertools.count():
        left, right = socket.socketpair()
        with left, right, ThreadPoolExecutor(1) as threads:
            limited = threads.submit(drive_some, make(side == "server"), left, offset)
            try:
                drive_opening(make(side == "client"), PlainWire(right), time.monotonic() + 20)
            except BrokenConnection:
                continue
            else:
                break
            finally:
                right.close()
                limited.result(20)
    assert offset == (136 + 40 if side == "client" else 152 + 40)


def drive_some(opener: Any, sock: socket.socket, size: int) -> None:
    """Drive an opening, and end the stream after so many bytes."""
    step = next(opener)
    while True:
        sock.sendall(step.data[:size])
        if len(step.data) >= size:
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
            return
        size -= len(step.data)
        data = b""
        while len(data) < step.need:
            chunk = sock.recv(step.need - len(data))
            if not chunk:
                return
            data += chunk
        try:
            step = opener.send(data)
        except StopIteration:
            return


def test_a_receive_ends_at_its_deadline(pair: tuple[Connection, Connection]) -> None:
    with pytest.raises(TimeoutError):
        pair[0].receive(time.monotonic() + 0.02)
    with pytest.raises(TimeoutError):
        pair[0].receive(time.monotonic() - 1)
    pair[1].wire.sock.sendall(bytes(5))
    with pytest.raises(TimeoutError):
        pair[0].receive(time.monotonic() + 0.02)


def test_no_progress_within_a_frame_is_a_broken_connection(
    pair: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgpy.connection, "PROGRESS_TIMEOUT", 0.02)
    pair[1].wire.sock.sendall(bytes(5))
    for deadline in (None, time.monotonic() + 20):
        with pytest.raises(BrokenConnection, match="under way"):
            pair[0].receive(deadline)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("deadline", [None, 20.0])
def test_a_peer_that_the_kernel_gives_up_is_a_broken_connection(
    pair: tuple[Connection, Connection], begun: bool, deadline: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is a TimeoutError too, but not our caller's deadline."""
    connection = pair[0]
    if begun:
        pair[1].wire.sock.sendall(bytes(5))
        with pytest.raises(TimeoutError):
            connection.receive(time.monotonic() + 0.02)

    def fail(*args: Any) -> int:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(connection, "_receive_into", fail)
    monkeypatch.setattr(connection, "_receive_now", fail)
    with pytest.raises(BrokenConnection, match="timed out"):
        connection.receive(None if deadline is None else time.monotonic() + deadline)


def test_a_large_frame_is_announced_before_memory_is_taken(pair: tuple[Connection, Connection]) -> None:
    class Refuse(Exception):
        pass

    def refuse(header: Any) -> None:
        assert (header.kind, header.number, header.size) == (MessageType.EXEC, 9, 500_000)
        raise Refuse

    pair[0].wire.sock.sendall(HEADER.pack(MessageType.EXEC, 0, 0, 0, 9, 500_000))
    with pytest.raises(Refuse):
        pair[1].receive(announced=refuse)
    assert pair[1].refused is not None


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_the_limit_of_a_message_is_exact(pair: tuple[Connection, Connection], size: int) -> None:
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(pair[0].transmit, MessageType.EXEC, 0, 0, 1, Payload(bytes(size), [], False))
        if size == 1 << 20:
            assert len(pair[1].receive().pickle) == size
        else:
            with pytest.raises(MessageTooLargeError) as caught:
                pair[1].receive()
            assert (caught.value.size, caught.value.limit) == (size, 1 << 20)
            pair[1].shut_down()
        try:
            sent.result(20)
        except BrokenConnection:
            assert size > 1 << 20


def test_an_answer_that_came_before_the_request_had_left_is_received(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(client.transmit, MessageType.EXEC, 0, 0, 1, Payload(bytes(64 << 20), [], False))
        with pytest.raises(MessageTooLargeError):
            server.receive()
        server.state.received(MessageType.EXEC)
        assert server.send_frame(MessageType.ERROR, 0, 0, 1, dump({"refused": True}))
        server.close()
        sent.result(20)
    assert client.receive().kind == MessageType.ERROR
    assert client.state.state is State.IDLE


def test_a_connection_that_is_shut_down_wakes_who_reads_it(pair: tuple[Connection, Connection]) -> None:
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(pair[0].receive)
        pair[0].shut_down()
        with pytest.raises(BrokenConnection):
            reading.result(20)
    pair[0].shut_down()
    pair[0].close()
    pair[0].close()
    pair[0].shut_down()
    assert pair[0].state.state is State.CLOSED


def test_the_end_of_a_connection_is_waited_for(pair: tuple[Connection, Connection]) -> None:
    pair[1].wire.sock.sendall(b"not expected")
    assert not pair[0].wait_for_end(time.monotonic() + 0.02)
    pair[1].close()
    assert pair[0].wait_for_end(time.monotonic() + 20)


def test_a_connection_is_quiet_unless_something_has_come(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    assert client.quiet()
    client.transmit(MessageType.EXEC, 0, 0, 1, dump({}))
    server.receive()
    mac = server._mac
    first, second = (
        b"".join(encode_frame(kind, flags, part, 1, b"", [], mac)) for kind, flags, part in ((16, FLAG_MORE, 0), (18, 0, 1))
    )
    server.wire.sock.sendall(first + second)
    client.receive()
    assert not client.wire.readable()  # both have been read from the socket
    assert not client.quiet()
    client.receive()
    assert client.quiet()


def test_a_refused_peer_gets_to_read_why() -> None:
    """What it has sent meanwhile would make a reset of the close."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        sock, _ = listener.accept()
        with sock, ThreadPoolExecutor(1) as threads:
            peer.sendall(bytes(1 << 18))
            sock.sendall(b"why")
            done = threads.submit(end_politely, sock)
            peer.sendall(bytes(1 << 18))
            assert read_to_end(peer) == b"why"
            peer.close()
            done.result(20)


@pytest.mark.parametrize("limit", ["_LINGER_TIMEOUT", "_LINGER_SIZE"])
def test_a_refused_peer_does_not_get_for_ever(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.connection, limit, 0.05 if limit == "_LINGER_TIMEOUT" else 1000)
    left, right = socket.socketpair()
    with left, right:
        if limit == "_LINGER_SIZE":
            right.sendall(bytes(20_000))
        end_politely(left)
        if limit == "_LINGER_SIZE":
            left.setblocking(False)
            assert left.recv(10)  # not all of it was read


def test_every_address_of_a_name_is_tried_and_the_reasons_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()
    listener = ServerSocket("127.0.0.1", 0)
    listener.listen()
    addresses = [(socket.AF_INET, dead), (socket.AF_INET, listener.address)]
    monkeypatch.setattr(bgpy.connection, "resolve_addresses", lambda host, port: addresses)
    dialer = Dialer("some name", 1, TOKEN, None, False, 1 << 20, None)
    done = threading.Event()

    def serve() -> None:
        sock = None
        while sock is None:
            wait_socket(listener.sock, timeout=20)
            sock = listener.accept()
        with sock:
            drive_opening(server_opening(terms(), b"i" * 16, lambda hello: Admission.OK), PlainWire(sock), time.monotonic() + 20)
            assert done.wait(20)

    thread = threading.Thread(target=serve)
    thread.start()
    dialer.dial(HELLO, 20).close()
    done.set()
    thread.join()
    listener.close()
    addresses.pop()
    with pytest.raises(ConnectError, match="some name:1: Connection refused"):
        dialer.dial(HELLO, 20)
