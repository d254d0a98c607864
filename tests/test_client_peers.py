"""Servers that take nothing, do not answer, are not there, or send what no server sends."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.peers import FalseServer, open_as_server
from support.proxies import Proxy

from bgpy.client import Client
from bgpy.connection import Dialer
from bgpy.errors import ConnectError, RemoteProtocolError, RequestTimeoutError, TokenError
from bgpy.protocol.frames import encode_frame
from bgpy.protocol.messages import MessageType, dump


def test_a_server_that_takes_no_bytes_is_given_up_after_the_timeout() -> None:
    """The request is larger than all that lies between: its last byte never leaves."""
    done = threading.Event()

    def serve(sock: Any) -> None:
        open_as_server(sock)
        assert done.wait(20)

    with FalseServer(serve) as server, Client(port=server.port) as client:
        try:
            with pytest.raises(RequestTimeoutError) as caught:
                client.execute({"data": bytes(64 << 20)}, timeout=0.2)
        finally:
            done.set()
        assert caught.value.executed is False


def test_a_server_that_does_not_come_back_is_given_up_after_the_timeout() -> None:
    """The connection is cut after the request, and the new one is taken but never answered."""
    done = threading.Event()
    connections: list[Any] = []

    def serve(sock: Any) -> None:
        connections.append(sock)
        if len(connections) == 1:
            open_as_server(sock).receive()
        else:
            assert done.wait(20)

    with FalseServer(serve) as server, Client(port=server.port) as client:
        try:
            with pytest.raises(RequestTimeoutError) as caught:
                client.execute({}, timeout=2)  # enough for the first connection on a busy machine
        finally:
            done.set()
        assert caught.value.executed is None


def test_a_port_that_does_not_answer_the_opening_costs_the_connect_timeout() -> None:
    done = threading.Event()
    with FalseServer(lambda sock: done.wait(20)) as server, Client(port=server.port, connect_timeout=0.1) as client:
        try:
            with pytest.raises(ConnectError, match=r"within 0\.1 s") as caught:
                client.execute({})
        finally:
            done.set()
        assert caught.value.executed is False


def test_nobody_listens_and_unknown_names() -> None:
    with Proxy(1) as closed:
        port = closed.port
    with Client(port=port) as client, pytest.raises(ConnectError, match="refused"):
        client.execute({})
    with Client("no-such-host.invalid", 1) as client, pytest.raises(ConnectError):
        client.status()


@pytest.mark.parametrize("frames", ["unasked", "other number", "other kind", "garbage", "no dict"])
@pytest.mark.parametrize("before", [0, 1])
def test_what_no_server_sends_is_a_protocol_error_and_ends_the_connection(frames: str, before: int) -> None:
    """In place of the answer to the first request of a connection, and to a later one."""
    ended = threading.Event()

    def serve(sock: Any) -> None:
        connection = open_as_server(sock)
        payload = dump({"fine": True})
        for _ in range(before):
            connection.transmit(MessageType.OK, 0, 0, connection.receive().number, payload)
        frame = connection.receive()
        if frames == "unasked":
            connection.transmit(MessageType.OK, 0, 5, frame.number, payload)
        elif frames == "other number":
            connection.transmit(MessageType.OK, 0, 0, frame.number + 1, payload)
        elif frames == "other kind":
            connection.wire.send(encode_frame(MessageType.EXEC, 0, 0, frame.number, payload.pickle, []))
        elif frames == "garbage":
            sock.sendall(b"\xff" * 64)
        else:
            connection.transmit(MessageType.OK, 0, 0, frame.number, dump([1]))
        assert sock.recv(1) == b""
        ended.set()

    with FalseServer(serve) as server, Client(port=server.port, timeout=20) as client:
        for _ in range(before):
            assert client.execute({}, await_response=True) == {"fine": True}
        with pytest.raises(RemoteProtocolError) as caught:
            client.execute({}, await_response=True)
        assert caught.value.executed is (True if frames == "no dict" else None)
        if frames != "no dict":  # whose frame was in order
            assert ended.wait(20), "the next request would meet whatever else comes"


def test_a_client_off_loopback_proves_no_token_that_can_be_guessed() -> None:
    dialer = Dialer("192.0.2.1", 9, "short", None, False, 1 << 20, None)
    with pytest.raises(TokenError, match="too short"):
        dialer.terms(("192.0.2.7", 5), ("192.0.2.1", 9), False)
    dialer.terms(("127.0.0.1", 5), ("127.0.0.1", 9), False)
