"""What strangers, slow peers and large messages may cost: a connection, never the server."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.certificates import Files
from support.peers import FalseServer, open_as_server, read_to_end
from support.servers import Served, dial, running_server, start_count, surviving_server, tasks

import bgpy
import bgpy.connection
import bgpy.serving.reception
import bgpy.serving.running
import bgpy.wires
from bgpy.client import Client
from bgpy.errors import MessageTooLargeError, OverloadedError
from bgpy.protocol import frames
from bgpy.protocol.failures import load_failure
from bgpy.protocol.frames import FLAG_AWAIT, HEADER
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket, ServerSocket
from bgpy.system import wait_socket

ROOT = str(Path(bgpy.__file__).parents[1])
Args = dict[str, Any]


@pytest.fixture
def server() -> Iterator[Served]:
    with surviving_server() as served:
        yield served


def stranger(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


# Before the proof


def drip_until_closed(port: int, first: bytes) -> None:
    """Send one byte at a time, each long before any limit for a single read."""
    with stranger(port) as sock:
        sock.sendall(first)
        sent = 0
        while not wait_socket(sock, timeout=0.02):
            sock.sendall(b"\x01")
            sent += 1
        assert read_to_end(sock) == b""
        assert 5 < sent < 100


def test_a_drip_does_not_hold_an_opening_open(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.serving.reception, "OPENING_TIMEOUT", 0.3)
    drip_until_closed(server.port, b"BGPY\x01\x01\x01\x01")


def test_a_drip_does_not_hold_a_tls_handshake_open(certificates: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.serving.reception, "OPENING_TIMEOUT", 0.3)
    entrance = {"ssl_context": ssl.create_default_context(cafile=certificates.certificate)}
    with running_server(ssl_context=certificates.server_context(), entrance=entrance) as server:
        drip_until_closed(server.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")


def test_at_the_cap_the_oldest_unproved_connection_is_dropped(server: Served) -> None:
    with ExitStack() as stack:
        strangers = [stack.enter_context(stranger(server.port)) for _ in range(64)]
        assert server.client().execute({}, await_response=True) == {"count": 0}
        assert strangers[0].recv(1) == b""
        assert not wait_socket(strangers[1], timeout=0)


def test_a_burst_of_strangers_leaves_as_many_as_are_allowed(server: Served) -> None:
    with ExitStack() as stack:
        strangers = [stack.enter_context(stranger(server.port)) for _ in range(300)]
        for sock in strangers[:-64]:
            assert read_to_end(sock) == b""
        assert server.client().execute({}, await_response=True) == {"count": 0}
        assert not any(wait_socket(sock, timeout=0) for sock in strangers[-63:])


FEW_FILES = """
import logging, resource, sys
from bgpy.server import Server
logging.basicConfig(format="%(message)s", stream=sys.stderr)
server = Server(tasks="bgpy.example.tasks")
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
sys.exit(server.run(ready=lambda: print(server.port, flush=True)))
"""


def test_a_server_out_of_files_turns_connections_away_without_a_busy_loop(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(FEW_FILES)
    with (
        subprocess.Popen(
            [sys.executable, str(tmp_path / "serve.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with Client(port=port, timeout=20) as client:
            client.execute({"command": "increase", "value_change": 1})
            strangers = [stack.enter_context(stranger(port)) for _ in range(60)]
            # It is polite to nobody: who is turned away sees the end at once. The last one is.
            assert strangers[-1].recv(1) == b""
            away = sum(wait_socket(sock, timeout=0) for sock in strangers)
            assert 20 < away < 60
            # The connections that are open go on, and with files free again new ones get in.
            assert client.execute({"command": "increase", "value_change": 1}, await_response=True)["value"] == 1002
            for sock in strangers:
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)
            assert client.status()["initialized"] is True
            client.terminate()
        errors = process.communicate(timeout=20)[1]
        assert process.returncode == 0
        assert errors.count("Cannot take a connection") == away


def test_the_file_given_up_for_a_connection_may_be_taken_by_another_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the loop goes on without it, and gets it back when there is one."""
    failing = threading.Event()
    accept, open_file = ServerSocket.accept, os.open

    def accept_nothing(self: ServerSocket) -> Any:
        if failing.is_set():
            raise OSError(24, "Too many open files")
        return accept(self)

    def open_nothing(path: Any, *args: Any, **options: Any) -> int:
        if failing.is_set() and path == os.devnull:
            failed.set()
            raise OSError(24, "Too many open files")
        return open_file(path, *args, **options)

    failed = threading.Event()
    with running_server() as server:
        monkeypatch.setattr(ServerSocket, "accept", accept_nothing)
        monkeypatch.setattr(os, "open", open_nothing)
        failing.set()
        with stranger(server.port):
            assert failed.wait(20)
            failing.clear()
            assert server.client().execute({"add": 1}, await_response=True) == {"count": 1}
        failing.set()
        failed.clear()
        with stranger(server.port):
            assert failed.wait(20)
            failing.clear()
            assert server.client().execute({"add": 1}, await_response=True) == {"count": 2}
        monkeypatch.undo()


def test_a_server_out_of_threads_drops_that_connection_only(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    left = [3]

    def start_some(self: threading.Thread) -> None:
        if self.name == "bgpy-connection" and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    for _ in range(3):
        with stranger(server.port) as sock:
            assert read_to_end(sock) == b""
    assert server.client().status()["connections"] == 1


# After it


def announce(connection: Any, size: int, number: int = 1) -> None:
    """Send the header of a request of this size, and nothing else."""
    connection.wire.sock.sendall(HEADER.pack(MessageType.EXEC, FLAG_AWAIT, 0, 0, number, size))


def test_a_size_above_the_limit_is_refused_from_the_header(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "anonymous_memory", None)  # nothing is to be taken
    with dial(server.port) as connection:
        connection.state.sending(MessageType.EXEC)
        announce(connection, (1 << 30) + 1)
        failure = load_failure(connection.receive().pickle)
        assert isinstance(failure, MessageTooLargeError)
        assert (failure.size, failure.limit, failure.executed) == ((1 << 30) + 1, 1 << 30, False)
        connection.wire.sock.shutdown(socket.SHUT_WR)
        assert read_to_end(connection.wire.sock) == b""


def test_an_announced_size_takes_no_memory_until_it_comes(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = threading.Event()
    real = frames.anonymous_memory

    def take(size: int) -> Any:
        memory = real(size)
        taken.set()
        return memory

    monkeypatch.setattr(frames, "anonymous_memory", take)
    before = server.client().status()["memory"]
    with dial(server.port) as connection:
        announce(connection, 900 << 20)
        assert taken.wait(20)
        assert server.client().status()["memory"] - before < 50 << 20


@pytest.mark.parametrize("limit", [1 << 20, 48 << 20])
def test_one_budget_of_memory_over_all_connections(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Also for a request that is larger than all that lies between: its sender hears why, not only that the connection broke."""
    monkeypatch.setattr(bgpy.serving.running, "PROGRESS_TIMEOUT", 0.2)
    taken = threading.Semaphore(0)
    real = frames.FrameReader.allocate

    def allocate(self: frames.FrameReader) -> None:
        real(self)
        taken.release()

    monkeypatch.setattr(frames.FrameReader, "allocate", allocate)
    with running_server(max_message_size=limit) as server, ExitStack() as stack:
        for number in range(4):
            announce(stack.enter_context(dial(server.port, lane=number)), limit)
            assert taken.acquire(timeout=20)
        client = server.client()
        with pytest.raises(OverloadedError) as caught:
            client.execute({"add": 1, "data": bytes(limit - 1000)}, await_response=True)
        assert caught.value.executed is False
        # What fits into the first read needs no budget.
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}
        stack.close()
        assert client.execute({"add": 1, "data": bytes(limit - 1000)}, await_response=True) == {"count": 2}


def test_no_progress_within_a_frame_closes_and_an_idle_connection_stays(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.connection, "PROGRESS_TIMEOUT", 0.1)
    with (
        dial(server.port, lane=1) as idle,
        dial(server.port, lane=2) as stuck,
        dial(server.port, lane=3) as large,
    ):
        stuck.wire.sock.sendall(bytes(10))
        announce(large, 10 << 20)
        large.wire.sock.sendall(bytes(1 << 20))
        assert read_to_end(stuck.wire.sock) == b""
        assert read_to_end(large.wire.sock) == b""
        assert not idle.wire.readable()


def test_an_answer_that_stops_in_the_middle_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgpy.connection, "PROGRESS_TIMEOUT", 0.1)
    connections = []

    def serve(sock: socket.socket) -> None:
        connection = open_as_server(sock)
        connections.append(connection)
        frame = connection.receive()
        if len(connections) == 1:
            sock.sendall(HEADER.pack(MessageType.OK, 0, 0, 0, frame.number, 100) + b"half")
        else:
            connection.transmit(MessageType.OK, 0, 0, frame.number, dump({"second": frame.number}))
        read_to_end(sock)

    with FalseServer(serve) as false, Client(port=false.port) as client:
        assert client.execute({}, await_response=True) == {"second": 1}


def echo(client_socket: ClientSocket, state: Args, args: Args) -> Args:
    client_socket.respond(args)
    return state


def test_more_buffers_than_a_frame_may_have_and_of_all_sizes() -> None:
    """1,000 travel out of band, the rest and the small ones in band; the whole is far larger than a socket's memory."""
    arrays = [numpy.full((32 << 10) + number, number % 251, "u1") for number in range(1100)]
    message = {"arrays": arrays, "small": numpy.arange(10), "empty": numpy.zeros(0), "large": numpy.arange(1 << 20)}
    with running_server(tasks(echo)) as server:
        answer = server.client().execute(message, await_response=True)
    assert all((a == b).all() for a, b in zip(answer["arrays"], arrays, strict=True))
    assert (answer["large"] == message["large"]).all()
    assert (answer["small"] == message["small"]).all()
    assert answer["empty"].size == 0
    answer["large"][0] = 1
    answer["arrays"][0][0] = 1


def test_connections_notice_a_dead_peer_and_send_small_frames_at_once() -> None:
    listener = ServerSocket("127.0.0.1", 0)
    listener.listen()
    served = []

    def serve() -> None:
        assert wait_socket(listener.sock, timeout=20)
        sock = listener.accept()
        assert sock is not None
        served.append(sock)
        open_as_server(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    with dial(listener.address[1]) as connection:
        thread.join()
        for sock in (served[0], connection.wire.sock):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    served[0].close()
    assert listener.accept() is None
    listener.close()


def test_the_stack_of_a_connections_thread_is_pythons_own() -> None:
    sizes = []

    def measure(client_socket: ClientSocket, state: Args, args: Args) -> Args:
        sizes.append(threading.stack_size())
        client_socket.respond({})
        return state

    with running_server(tasks(measure, start_count)) as server:
        server.client().execute({}, await_response=True)
    assert sizes == [0]
