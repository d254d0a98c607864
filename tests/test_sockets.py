"""What listens, and what a task gets of its client."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

import bgpy.server
import bgpy.sockets
from bgpy.addresses import format_address
from bgpy.errors import (
    LocalProtocolError,
    MessageTooLargeError,
    PythonVersionError,
    ResponseError,
    SerializationError,
)
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_MORE, FLAG_STREAM
from bgpy.protocol.messages import MessageType, PayloadFields, load
from bgpy.sockets import ClientSocket, ServerSocket, respond


def test_a_listener_takes_the_first_address_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, free = ("192.0.2.1", 0), ("127.0.0.1", 0)
    monkeypatch.setattr(
        bgpy.sockets, "resolve_addresses", lambda host, port: [(socket.AF_INET, elsewhere), (socket.AF_INET, free)]
    )
    listener = ServerSocket("some name", 0)
    assert listener.address[0] == "127.0.0.1"
    listener.listen()
    assert listener.accept() is None
    listener.close()
    listener.close()


def test_a_port_in_use_is_not_evaded_by_another_address_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with two addresses gave a second server beside the one that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()
        monkeypatch.setattr(
            bgpy.sockets,
            "resolve_addresses",
            lambda host, port: [(socket.AF_INET, busy), (socket.AF_INET, ("127.0.0.2", busy[1]))],
        )
        with pytest.raises(OSError, match="in use"):
            ServerSocket("some name", busy[1])


def test_a_listener_binds_the_port_that_its_predecessor_has_left_and_none_that_somebody_holds() -> None:
    first = ServerSocket("127.0.0.1", 0)
    first.listen()
    with socket.create_connection(first.address) as peer:
        accepted = first.accept()
        assert accepted is not None
        with pytest.raises(OSError, match="in use"):
            ServerSocket("127.0.0.1", first.address[1])
        first.close()
        accepted.close()  # our side closes first: the port is in TIME_WAIT afterwards
        peer.recv(1)
    second = ServerSocket("127.0.0.1", first.address[1])
    second.close()


def test_a_listener_of_ipv6_is_one_of_ipv6_only() -> None:
    listener = ServerSocket("::1", 0)
    assert listener.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert format_address(*listener.address) == f"[::1]:{listener.address[1]}"
    listener.close()


class FakeAnswer:
    """Keep what is sent."""

    connected = True

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, PayloadFields]] = []
        self.ended = False

    def send(self, kind: int, flags: int, payload: PayloadFields) -> None:
        if self.ended:
            raise LocalProtocolError("The last part is out")
        self.ended = not flags & FLAG_MORE
        self.sent.append((kind, flags, payload))


class FakeOpening:
    peer_max_size = 50_000
    peer_python = "2.7"


def handle(flags: int = FLAG_AWAIT | FLAG_STREAM) -> tuple[ClientSocket, FakeAnswer]:
    answer = FakeAnswer()
    return ClientSocket(answer, FakeOpening(), flags), answer  # type: ignore[arg-type]


def test_a_response_is_sent_and_the_last_one_is_the_last() -> None:
    client_socket, answer = handle()
    respond(client_socket, {"part": 0}, more=True)
    respond(client_socket, {"part": 1})
    assert [(kind, flags, load(payload[0])) for kind, flags, payload in answer.sent] == [
        (MessageType.OK, FLAG_MORE, {"part": 0}),
        (MessageType.OK, 0, {"part": 1}),
    ]
    for more in (True, False):
        with pytest.raises(ResponseError, match="is out"):
            client_socket.respond({"part": 2}, more=more)
    assert client_socket.responded
    assert bgpy.server.respond is respond


def test_a_client_that_does_not_wait_gets_nothing_and_one_that_does_not_stream_the_last_one() -> None:
    client_socket, answer = handle(0)
    client_socket.respond({"lock": threading.Lock()})  # nothing is pickled either
    with pytest.raises(ResponseError):
        client_socket.respond({})
    assert answer.sent == []
    client_socket, answer = handle(FLAG_AWAIT)
    client_socket.respond({"part": 0}, more=True)
    client_socket.respond({"part": 1})
    assert [flags for _, flags, _ in answer.sent] == [0]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        ([1], ResponseError),
        ({"lock": threading.Lock()}, SerializationError),
        ({"data": bytes(60_000)}, MessageTooLargeError),
        ({"code": lambda: 1}, PythonVersionError),
    ],
)
def test_a_response_that_cannot_be_sent_leaves_room_for_one_that_can(response: Any, error: type[Exception]) -> None:
    client_socket, answer = handle()
    with pytest.raises(error) as caught:
        client_socket.respond(response)
    assert client_socket.failure is caught.value
    assert answer.sent == []
    client_socket.respond({"fine": True})
    assert len(answer.sent) == 1


def test_a_response_after_somebody_else_ended_the_request() -> None:
    client_socket, answer = handle()
    answer.ended = True
    with pytest.raises(ResponseError, match="deadline"):
        client_socket.respond({})


def test_a_handle_without_a_client() -> None:
    client_socket = ClientSocket(None, None, 0)
    assert not client_socket.connected
    client_socket.respond({"nobody": "listens"})
    assert handle()[0].connected
