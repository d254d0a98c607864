"""Bytes over sockets, plain and under TLS: whole, in time, and counted where they break off."""

from __future__ import annotations

import errno
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from support.certificates import Files

import bgpy.wires
from bgpy.protocol.exchange import BrokenConnection
from bgpy.system import wait_socket
from bgpy.wires import PlainWire, TlsWire, Wire

Pair = tuple[Any, Any]


@pytest.fixture(params=["plain", "tls"])
def pair(request: pytest.FixtureRequest, certificates: Files) -> Iterator[Pair]:
    """Return both ends of a connection whose sockets hold very little."""
    left, right = socket.socketpair()
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    if request.param == "plain":
        yield PlainWire(left), PlainWire(right)
    else:
        yield secured(left, right, certificates)
    left.close()
    right.close()


def secured(left: socket.socket, right: socket.socket, certificates: Files) -> Pair:
    client = TlsWire(left, ssl.create_default_context(cafile=certificates.certificate), server=False, host="localhost")
    server = TlsWire(right, certificates.server_context(), server=True)
    with ThreadPoolExecutor(1) as threads:
        shaken = threads.submit(server.handshake, time.monotonic() + 20)
        client.handshake(time.monotonic() + 20)
        shaken.result(20)
    # After the handshake of TLS 1.3 a server sends tickets; they are read with the first bytes.
    server.send([b"x"])
    assert read(client, 1) == b"x"
    return client, server


def read(wire: Wire, size: int) -> bytes:
    """Read exactly so many bytes."""
    data = memoryview(bytearray(size))
    filled = 0
    while filled < size:
        count = wire.receive_into(data[filled:], 20)
        assert count
        filled += count
    return data.tobytes()


@pytest.mark.parametrize("count", [1, 2, 1003, 2500])
def test_all_parts_arrive_in_order_however_few_bytes_go_at_once(pair: Pair, count: int) -> None:
    chance = random.Random(count)
    parts = [chance.randbytes(chance.choice((0, 1, 24, 700, 5000))) for _ in range(count)]
    whole = b"".join(parts)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(pair[0].send, [memoryview(bytearray(part)) for part in parts])
        assert read(pair[1], len(whole)) == whole
        assert sent.result(20) is None


def test_a_large_part_is_sent_and_read_in_both_directions_at_once(pair: Pair) -> None:
    data = random.Random(1).randbytes(3 << 20)
    with ThreadPoolExecutor(4) as threads:
        sends = [threads.submit(wire.send, [b"head", data]) for wire in pair]
        reads = [threads.submit(read, wire, len(data) + 4) for wire in pair]
        assert all(done.result(20) == b"head" + data for done in reads)
        assert [done.result(20) for done in sends] == [None, None]


def test_a_read_ends_at_its_timeout_at_the_end_of_the_stream_and_with_what_there_is(pair: Pair) -> None:
    memory = memoryview(bytearray(100))
    for timeout in (0, 0.02):
        with pytest.raises(TimeoutError):
            pair[0].receive_into(memory, timeout)
    pair[1].send([b"some"])
    assert pair[0].receive_into(memory, None) == 4
    pair[1].sock.close()
    assert pair[0].receive_into(memory, 20) == 0


def test_a_wire_is_readable_when_there_is_something_to_read_also_an_end(pair: Pair) -> None:
    assert not pair[0].readable()
    pair[1].send([b"some bytes"])
    assert pair[0].readable()
    read(pair[0], 4)
    assert pair[0].readable()
    read(pair[0], 6)
    assert not pair[0].readable()
    pair[1].sock.close()
    assert pair[0].readable()


def test_no_progress_breaks_off_and_says_how_much_went(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.wires, "PROGRESS_TIMEOUT", 0.05)
    with pytest.raises(BrokenConnection, match="took no byte") as caught:
        pair[0].send([bytes(24), bytes(1 << 20)])
    if isinstance(pair[0], PlainWire):
        pair[0].sock.close()
        received = 0
        while count := pair[1].receive_into(memoryview(bytearray(1 << 16)), 20):
            received += count
        assert received == caught.value.written
    assert 0 < caught.value.written < 1 << 20


def test_each_wait_for_room_has_the_whole_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, however slow, is progress: the limit is none for the whole frame."""
    waits = []
    taken = 0
    scratch = memoryview(bytearray(4096))

    def wait(sock: Any, *, write: bool = False, timeout: float | None = None) -> bool:
        # Only here does the other end read, a little at a time: so the sender has to wait again and again.
        nonlocal taken
        if write:
            waits.append(timeout)
            while not wait_socket(sock, write=True, timeout=0):
                with suppress(TimeoutError):  # under TLS what has come may be a part of a record
                    taken += pair[1].receive_into(scratch, 0)
        return wait_socket(sock, write=write, timeout=timeout)

    monkeypatch.setattr(bgpy.wires, "wait_socket", wait)
    pair[0].send([bytes(1 << 20)])
    read(pair[1], (1 << 20) - taken)
    assert len(waits) > 1
    assert set(waits) == {bgpy.wires.PROGRESS_TIMEOUT}


def test_a_deadline_ends_a_send_before_its_last_byte(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].send([bytes(1 << 20)], time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        pair[0].send([bytes(1 << 20)], time.monotonic() - 1)


def test_a_connection_that_breaks_says_how_much_went(pair: Pair) -> None:
    pair[1].sock.close()
    for parts in ([b"small"], [bytes(10), bytes(1 << 20)]):
        with pytest.raises(BrokenConnection) as caught:
            pair[0].send(parts)
        # Under TLS a part of a record may have left, so it counts before it goes.
        assert caught.value.written == 0 or isinstance(pair[0], TlsWire)


def test_a_reset_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as left:
        right, _ = listener.accept()
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        wire = PlainWire(left)
        with pytest.raises(ConnectionResetError):
            wire.receive_into(memoryview(bytearray(10)), 20)
        with pytest.raises(BrokenConnection):
            wire.send([b"more"])


class DeadSocket:
    """A connection whose peer the kernel has given up."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv_into = self.send = self.sendmsg = self.fail

    def fileno(self) -> int:
        return self._sock.fileno()

    def fail(self, *args: Any) -> int:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")


def test_a_peer_that_the_kernel_gives_up_is_a_broken_connection_and_no_deadline_of_ours() -> None:
    left, right = socket.socketpair()
    with left, right:
        wire = PlainWire(DeadSocket(left))  # type: ignore[arg-type]
        for parts in ([b"one"], [b"one", b"two"]):
            with pytest.raises(BrokenConnection, match="timed out"):
                wire.send(parts, time.monotonic() + 20)


def test_tls_that_fails_tells_the_other_side_why(certificates: Files) -> None:
    left, right = socket.socketpair()
    with left, right:
        client = TlsWire(left, ssl.create_default_context(cafile=certificates.other), server=False, host="localhost")
        server = TlsWire(right, certificates.server_context(), server=True)
        with ThreadPoolExecutor(1) as threads:
            shaken = threads.submit(server.handshake, time.monotonic() + 20)
            with pytest.raises(ssl.SSLCertVerificationError):
                client.handshake(time.monotonic() + 20)
            with pytest.raises(ssl.SSLError, match="alert"):
                shaken.result(20)


def test_a_tls_handshake_has_one_deadline(certificates: Files) -> None:
    left, right = socket.socketpair()
    with left, right:
        server = TlsWire(right, certificates.server_context(), server=True)
        with pytest.raises(TimeoutError):
            server.handshake(time.monotonic() + 0.02)


def test_bytes_that_are_no_tls_are_an_error(pair: Pair) -> None:
    if isinstance(pair[0], TlsWire):
        pair[1].sock.sendall(b"plain text, and enough of it")
        with pytest.raises(ssl.SSLError):
            pair[0].receive_into(memoryview(bytearray(10)), 20)


class ClosingSocket(DeadSocket):
    """A connection that its other thread closes while this one waits for room."""

    def fail(self, *args: Any) -> int:
        self._sock.close()
        raise BlockingIOError


def test_a_socket_that_is_closed_while_somebody_waits_for_room_is_a_broken_connection() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(BrokenConnection):
        PlainWire(ClosingSocket(left)).send([b"one", b"two"])  # type: ignore[arg-type]
