"""Streams of other processes, waited for together with sockets; both ways run here for real."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bgpy import system
from bgpy.system import streams, wait_socket

Opened = Callable[[], tuple[Any, int]]


@pytest.fixture(params=[False, True], ids=["pipe", "pumped"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, int]]:
    """A stream and its writing end, which the test closes."""
    monkeypatch.setattr(streams, "WINDOWS", request.param)
    stream, fd = streams.open_stream()
    yield stream, fd
    stream.close()


@pytest.fixture
def pumped(monkeypatch: pytest.MonkeyPatch) -> tuple[streams.PumpedStream, int]:
    monkeypatch.setattr(streams, "WINDOWS", True)
    stream, fd = streams.open_stream()
    assert isinstance(stream, streams.PumpedStream)
    return stream, fd


def test_what_is_written_can_be_waited_for_and_read(opened: tuple[Any, int]) -> None:
    stream, fd = opened
    with pytest.raises(BlockingIOError):
        stream.read(10)
    os.write(fd, b"abcdef")
    assert wait_socket(stream.fileno(), timeout=10)
    assert stream.read(4) == b"abcd"
    assert stream.read(4) == b"ef"
    os.close(fd)
    assert wait_socket(stream.fileno(), timeout=10)
    assert stream.read(4) == b""


def test_the_rest_of_the_dead_is_all_that_they_wrote(opened: tuple[Any, int]) -> None:
    stream, fd = opened
    os.write(fd, b"x" * 50_000)
    os.close(fd)
    pieces = list(stream.rest(10_000))
    assert b"".join(pieces) == b"x" * 50_000
    assert max(map(len, pieces)) <= 10_000
    assert list(stream.rest(10_000)) == []


def test_a_writer_that_got_away_keeps_nobody(opened: tuple[Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "REST_TIMEOUT", 0.1)
    stream, fd = opened
    os.write(fd, b"abc")
    assert b"".join(stream.rest(100)) == b"abc"
    os.close(fd)


def test_a_writer_that_never_stops_keeps_nobody_either(
    pumped: tuple[streams.PumpedStream, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, fd = pumped
    os.set_blocking(fd, False)
    moment = iter(range(100))
    monkeypatch.setattr(streams.time, "monotonic", lambda: next(moment) / 10)
    read = stream.read

    def write_and_read(size: int) -> bytes:
        data = read(size)
        os.write(fd, b"more")
        return data

    stream.read = write_and_read
    os.write(fd, b"first")
    assert 1 <= len(list(stream.rest(1))) <= 21
    monkeypatch.undo()
    os.close(fd)
    stream.close()


def test_a_writer_waits_where_nobody_reads_and_goes_on_where_somebody_does(pumped: tuple[streams.PumpedStream, int]) -> None:
    stream, fd = pumped
    os.set_blocking(fd, False)
    written = 0
    # Full is what does not become ready again: the thread that copies may still be about to take some.
    while wait_socket(fd, write=True, timeout=0.2):
        written += os.write(fd, bytes(4096))
        assert written < 8 << 20
    os.close(fd)
    assert sum(map(len, stream.rest(1 << 16))) == written
    stream.close()


def test_the_copying_ends_when_nobody_reads_and_the_writer_writes(pumped: tuple[streams.PumpedStream, int]) -> None:
    stream, fd = pumped
    thread = stream._thread
    closing = threading.Thread(target=stream.close)
    closing.start()
    with contextlib.suppress(BrokenPipeError):
        while thread.is_alive():
            os.write(fd, b"for nobody")
    closing.join(10)
    assert not thread.is_alive()
    os.close(fd)


def test_a_pair_of_sockets_holds_no_small_message_back_where_it_is_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    for sock in system.socket_pair():
        sock.close()
    monkeypatch.setattr(socket, "socketpair", lambda: (socket.socket(), socket.socket()))  # as on Windows
    for sock in system.socket_pair():
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()
