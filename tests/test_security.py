"""Strangers, false servers, relays and the network: what they send is never unpickled, and never run."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.peers import FalseServer, open_as_server, read_to_end
from support.proxies import Proxy
from support.security import TOKEN, WRONG, Args, Trap, trap_frame
from support.servers import Served, background_server, dial, running_server, surviving_server, tasks

from bgpy.client import Client
from bgpy.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    RemoteProtocolError,
    VersionMismatchError,
)
from bgpy.protocol import handshake
from bgpy.protocol.frames import FLAG_AWAIT, encode_frame
from bgpy.protocol.handshake import (
    ZERO_ID,
    ClientHello,
    Refusal,
    Terms,
    client_opening,
    make_view,
    refusal_message,
    server_opening,
)
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket
from bgpy.system import machine_identity


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "trapped")


@pytest.fixture
def server() -> Iterator[Served]:
    with surviving_server(token=TOKEN) as served:
        yield served


def hello_of(sock: socket.socket, token: str) -> tuple[Any, bytes]:
    """Return the opener of a client with this token, and its hello."""
    terms = Terms(token, 1 << 30, make_view(sock.getsockname(), sock.getpeername(), machine_identity()), False, "there")
    opener = client_opening(terms, ClientHello(b"s" * 16, 0, False, ZERO_ID))
    return opener, next(opener).data


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk
        data += chunk
    return data


HELLO_SIZE, PROOF_SIZE = 136, 40


REQUESTS = [MessageType.INIT, MessageType.EXEC, MessageType.EXIT, MessageType.STATUS]


def pretend(sock: socket.socket, hello: bytes) -> bytes:
    """Return the hello of a server that does not know the token."""
    terms = Terms(WRONG, 1 << 30, make_view(sock.getsockname(), sock.getpeername(), machine_identity()), False, "here")
    opener = server_opening(terms, b"f" * 16, lambda hello: handshake.Admission.OK)
    next(opener)
    opener.send(hello[:8])
    return opener.send(hello[8:]).data


class Relay:
    """Somebody on a stale port who passes the opening on to the real server, and then speaks for both."""

    def __init__(self, target: int, folder: Path) -> None:
        self._target = target
        self.server_trap = Trap(folder / "server")
        self.client_trap = Trap(folder / "client")

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target), timeout=20) as server:
            for source, target, size in (
                (client, server, 152),
                (server, client, HELLO_SIZE),
                (client, server, PROOF_SIZE),
                (server, client, PROOF_SIZE),
            ):
                target.sendall(read_exactly(source, size))
            server.sendall(trap_frame(MessageType.EXEC, self.server_trap))
            server.shutdown(socket.SHUT_WR)
            read_to_end(server)
            client.sendall(trap_frame(MessageType.OK, self.client_trap))
            client.shutdown(socket.SHUT_WR)
            read_to_end(client)


def tls_hello() -> bytes:
    """Return the first bytes of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def show_environment(client_socket: ClientSocket, state: Args, args: Args) -> Args:
    client_socket.respond({"token": os.environ.get("BGPY_TOKEN"), "command": Path("/proc/self/cmdline").read_text()})
    return state


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    "place", ["hello", "half a hello", "after a hello", "proof", "half a proof", "after a wrong proof", "at once"]
)
def test_what_a_stranger_sends_is_not_unpickled(server: Served, trap: Trap, kind: MessageType, place: str) -> None:
    frame = trap_frame(kind, trap)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        opener, hello = hello_of(sock, WRONG)
        if place == "hello":
            sock.sendall(frame)
        elif place == "half a hello":
            sock.sendall(hello[: len(hello) // 2] + frame * 3)
        elif place == "at once":
            sock.sendall(hello + bytes(PROOF_SIZE) + frame)
        else:
            sock.sendall(hello)
            answer = read_exactly(sock, HELLO_SIZE)
            if place in ("after a hello", "proof"):
                sock.sendall(frame if place == "proof" else frame[:PROOF_SIZE] + frame)
            else:
                opener.send(answer[:8])
                proof = opener.send(answer[8:]).data
                sock.sendall((proof[:20] if place == "half a proof" else proof) + frame)
        sock.shutdown(socket.SHUT_WR)
        read_to_end(sock)
    assert not trap.path.exists()


def test_the_trap_would_have_worked_after_a_proof(trap: Trap) -> None:
    with running_server(token=TOKEN) as server:
        with dial(server.port, token=TOKEN) as connection:
            connection.wire.sock.sendall(trap_frame(MessageType.EXEC, trap))
            connection.state.sending(MessageType.EXEC)
            assert connection.receive().kind == MessageType.OK
    assert trap.path.exists()


@pytest.mark.parametrize("kind", [MessageType.OK, MessageType.ERROR, MessageType.END])
@pytest.mark.parametrize("place", ["unasked", "hello", "proof", "after a wrong proof", "after a copied proof", "refusal"])
def test_what_a_false_server_sends_is_not_unpickled(trap: Trap, kind: MessageType, place: str) -> None:
    frame = trap_frame(kind, trap)

    def serve(sock: socket.socket) -> None:
        if place == "unasked":
            sock.sendall(frame)
        hello = read_exactly(sock, 152)
        if place == "hello":
            sock.sendall(frame)
        elif place == "refusal":
            sock.sendall(refusal_message(Refusal.WRONG_TOKEN) + frame)
        else:
            sock.sendall(pretend(sock, hello))
            proof = read_exactly(sock, PROOF_SIZE)
            if place == "after a wrong proof":
                frame_before = b"BGPY\x04\x00\x00\x00" + bytes(32)
            elif place == "after a copied proof":
                frame_before = b"BGPY\x04\x00\x00\x00" + proof[8:]
            else:
                frame_before = b""
            sock.sendall(frame_before + frame)
        read_to_end(sock)

    with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        with pytest.raises((AuthenticationError, RemoteProtocolError)) as caught:
            client.execute({}, await_response=True)
        assert caught.value.executed is False
        with pytest.raises((AuthenticationError, RemoteProtocolError)):
            client.status()
    assert not trap.path.exists()


def test_the_trap_would_have_worked_from_a_server_that_proves_the_token(trap: Trap) -> None:
    def serve(sock: socket.socket) -> None:
        open_as_server(sock, token=TOKEN).receive()
        sock.sendall(trap_frame(MessageType.OK, trap))
        read_to_end(sock)

    with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        assert client.execute({}, await_response=True) == {"trap": None}
    assert trap.path.exists()


def test_a_relay_of_both_proofs_cannot_inject_a_message(server: Served, tmp_path: Path) -> None:
    relay = Relay(server.port, tmp_path)
    with FalseServer(relay.serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        with pytest.raises((RemoteProtocolError, ConnectionLostError)) as caught:
            client.execute({"add": 0}, await_response=True)
        assert caught.value.executed is None
    assert not relay.server_trap.path.exists()
    assert not relay.client_trap.path.exists()


def test_the_relay_would_have_worked_without_the_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_frames_go_bare", lambda *args: True)
    with running_server(token=TOKEN) as server:
        relay = Relay(server.port, tmp_path)
        with FalseServer(relay.serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
            assert client.execute({"add": 0}, await_response=True) == {"trap": None}
    assert relay.server_trap.path.exists()
    assert relay.client_trap.path.exists()


def test_frames_go_bare_on_one_machines_loopback_only(server: Served) -> None:
    with dial(server.port, token=TOKEN) as direct:
        assert direct.opening.send_key is None
    with Proxy(server.port) as proxy, dial(proxy.port, token=TOKEN) as through:
        assert through.opening.send_key is not None
        assert through.opening.send_key != through.opening.receive_key
    for machine in (b"another machine's identity, 32 b", bytes(32)):
        with dial(server.port, token=TOKEN, machine=machine) as other:
            assert other.opening.send_key is not None


@pytest.mark.parametrize("offset", [0, 1, 5, 23, 24, 40, -33, -32, -1])
def test_a_changed_byte_closes_the_connection_without_an_answer_and_nothing_runs(server: Served, offset: int) -> None:
    with dial(server.port, token=TOKEN, machine=bytes(32)) as connection:
        payload = dump({"add": 1})
        data = bytearray(b"".join(encode_frame(MessageType.EXEC, FLAG_AWAIT, 0, 1, payload.pickle, [], connection._mac)))
        data[offset] ^= 1
        connection.wire.sock.sendall(data)
        connection.wire.sock.shutdown(socket.SHUT_WR)
        assert read_to_end(connection.wire.sock) == b""


def test_a_frame_that_is_repeated_or_left_out_closes_the_connection(server: Served) -> None:
    payload = dump({"add": 0})
    with dial(server.port, token=TOKEN, machine=bytes(32)) as connection:
        first = b"".join(encode_frame(MessageType.EXEC, FLAG_AWAIT, 0, 1, payload.pickle, [], connection._mac))
        connection.wire.sock.sendall(first)
        connection.state.sending(MessageType.EXEC)
        assert connection.receive().kind == MessageType.OK
        connection.wire.sock.sendall(first)
        assert read_to_end(connection.wire.sock) == b""
    with dial(server.port, token=TOKEN, machine=bytes(32)) as connection:
        encode_frame(MessageType.EXEC, FLAG_AWAIT, 0, 1, payload.pickle, [], connection._mac)  # this one is left out
        connection.wire.send(encode_frame(MessageType.EXEC, FLAG_AWAIT, 0, 2, payload.pickle, [], connection._mac))
        assert read_to_end(connection.wire.sock) == b""


def test_an_answer_that_was_changed_on_the_way_is_not_read(server: Served) -> None:
    """The request ran, but the client cannot know that."""
    done: list[bytes] = []

    def serve(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as behind:
            for source, target, size in (
                (client, behind, 152),
                (behind, client, 136),
                (client, behind, 40),
                (behind, client, 40),
            ):
                target.sendall(read_exactly(source, size))
            behind.sendall(client.recv(65536))
            answer = bytearray(behind.recv(65536))
            answer[30] ^= 1
            done.append(bytes(answer))
            client.sendall(answer)
            read_to_end(client)

    with FalseServer(serve) as relay, Client(port=relay.port, token=TOKEN, timeout=20) as client:
        with pytest.raises(RemoteProtocolError, match="MAC") as caught:
            client.execute({"add": 0}, await_response=True)
        assert caught.value.executed is None
    assert done


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        tls_hello,
        lambda: b"BGPY" + b"\xff" * 4,
        lambda: b"\0" * 10_000,
        lambda: os.urandom(1_000_000),
    ],
    ids=["http", "tls", "magic", "zeros", "noise"],
)
def test_strangers_get_a_refusal_and_are_counted(server: Served, make: Callable[[], bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(make())
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == refusal_message(Refusal.NOT_BGPY)
    assert server.client().status()["refused"] == 1


def test_a_stranger_who_says_nothing_and_leaves_costs_nothing(server: Served) -> None:
    for _ in range(10):
        socket.create_connection(("127.0.0.1", server.port)).close()


def test_another_version_gets_a_clear_error_on_both_sides(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        _, hello = hello_of(sock, TOKEN)
        sock.sendall(hello[:5] + b"\x07\x09" + hello[7:])
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == refusal_message(Refusal.VERSION)

    def newer(sock: socket.socket) -> None:
        read_exactly(sock, 152)
        sock.sendall(b"BGPY\x7f\x02\x07\x09")
        read_to_end(sock)

    def other(sock: socket.socket) -> None:
        hello = pretend(sock, read_exactly(sock, 152))
        sock.sendall(hello[:5] + b"\x07" + hello[6:])
        read_to_end(sock)

    for serve, theirs in ((newer, "7 to 9"), (other, "7")):
        with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
            with pytest.raises(VersionMismatchError) as caught:
                client.execute({})
            assert (caught.value.ours, caught.value.theirs) == ("1", theirs)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100, b"BGPY\x03\0\0\0" + bytes(300)])
def test_a_client_at_a_port_of_something_else_says_so(data: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(data)
        read_to_end(sock)

    with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        with pytest.raises(RemoteProtocolError) as caught:
            client.execute({})
        assert caught.value.executed is False


def test_a_client_at_a_port_that_hangs_up_gives_up() -> None:
    with FalseServer(lambda sock: sock.recv(1000)) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        with pytest.raises(ConnectError):
            client.execute({})
        assert 1 < false.served < 10


def test_a_client_with_a_token_does_not_talk_to_a_server_that_asks_for_none(server: Served, trap: Trap) -> None:
    def serve(sock: socket.socket) -> None:
        terms = Terms("", 1 << 30, make_view(sock.getsockname(), sock.getpeername(), machine_identity()), False, "here")
        opener = server_opening(terms, b"f" * 16, lambda hello: handshake.Admission.OK)
        next(opener)
        hello = read_exactly(sock, 152)
        opener.send(hello[:8])
        sock.sendall(opener.send(hello[8:]).data + trap_frame(MessageType.OK, trap))
        assert read_to_end(sock) == b""

    with FalseServer(serve) as false, Client(port=false.port, token=TOKEN, timeout=20) as client:
        with pytest.raises(AuthenticationError, match="no token"):
            client.execute({})
    assert not trap.path.exists()


@pytest.mark.process
def test_tasks_do_not_see_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPY_TOKEN", TOKEN)
    with background_server(tasks(show_environment)) as server, Client(port=server.port, timeout=20) as client:
        seen = client.execute({}, await_response=True)
        assert seen["token"] is None
        assert TOKEN not in seen["command"]
        assert TOKEN not in repr(client) + repr(server) + str(client.status())
        assert server.log_file is not None
        assert TOKEN not in Path(server.log_file).read_text()
