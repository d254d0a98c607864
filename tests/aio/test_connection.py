"""Bytes of a connection: large ones both ways, and peers that stand still, are slow, or send what no server sends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy
import pytest
from support.loops import begun, in_loop, turn_of_the_loop
from support.peers import FalseServer, open_as_server
from support.servers import echo, running_server, tasks

from bgpy.aio import AsyncClient, waiting
from bgpy.aio.connection import _PIECE, AsyncConnection, _pieces
from bgpy.connection import end_politely
from bgpy.errors import ConnectionLostError, OverloadedError, RemoteProtocolError, RequestTimeoutError
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import HEADER
from bgpy.protocol.messages import MessageType, dump


@pytest.mark.parametrize("maced", [False, True])
def test_large_arrays_go_both_ways_and_can_be_written_to(maced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(port: int) -> None:
        array = numpy.arange(3 << 20, dtype="f8")
        async with AsyncClient(port=port) as client:
            for small in (numpy.arange(7.0), numpy.zeros((0, 3))):
                response = await client.execute({"a": array, "b": small, "c": array[: 1 << 17]}, await_response=True)
                assert response.pop("writable")
                numpy.testing.assert_equal(response, {"a": array, "b": small, "c": array[: 1 << 17]})
                assert response["a"].flags.writeable
            (connection,) = client._connections
            assert (connection.opening.send_key is not None) is maced

    with running_server(tasks(echo)) as server:
        if maced:
            # A client that cannot say which machine it is on asks for a MAC on every frame.
            monkeypatch.setattr("bgpy.calling.machine_identity", lambda: None)
        asyncio.run(check(server.port))


def test_a_large_request_is_cut_into_views_and_small_parts_are_joined() -> None:
    large = memoryview(bytearray(range(256)) * 2048)
    parts = [b"head", b"p" * _PIECE, large, b"a", b"b"]
    pieces = list(_pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= _PIECE
    assert [piece.obj is large.obj for piece in pieces if isinstance(piece, memoryview)] == [True] * (len(large) // _PIECE)
    assert pieces[-1] == b"ab"


class Hungry:
    """A transport that takes whatever it gets."""

    limits: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.taken = bytearray()

    def set_write_buffer_limits(self, *limits: int) -> None:
        self.limits = limits

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, piece: Any) -> None:
        self.taken += piece


@in_loop
async def test_a_large_request_to_a_fast_reader_lets_the_loop_do_other_work() -> None:
    transport: Any = Hungry()
    connection = AsyncConnection(asyncio.get_running_loop(), 1 << 30)
    connection.connection_made(transport)
    connection.state.opened()
    payload = dump({"data": numpy.zeros(50 * _PIECE, "u1")})
    sending = asyncio.ensure_future(connection.transmit(MessageType.EXEC, 0, 0, 1, payload, None))
    seen = {len(transport.taken)}
    while not sending.done():
        await turn_of_the_loop()
        seen.add(len(transport.taken))
    await sending
    assert len(seen) > 20
    assert transport.limits == (0,)  # what the kernel has not taken has not been handed over


@pytest.mark.parametrize(("frames", "before"), [("unasked", 0), ("unasked", 1), ("garbage", 0), ("garbage", 1), ("greeting", 0)])
@in_loop
async def test_what_no_server_sends_is_a_protocol_error_and_ends_the_connection(frames: str, before: int) -> None:
    """In place of the answer to the first request of a connection, and to a later one."""
    ended = threading.Event()

    def serve(sock: Any) -> None:
        if frames == "greeting":
            sock.sendall(b"220 mail.example.com ESMTP\r\n" * 20)
        else:
            connection = open_as_server(sock)
            for part in (*[0] * before, 5):
                frame = connection.receive()
                if part and frames == "garbage":
                    sock.sendall(b"\xff" * 64)
                else:
                    connection.transmit(MessageType.OK, 0, part, frame.number, dump({"fine": True}))
        try:
            while sock.recv(4096):
                pass  # until the client closes
        finally:
            ended.set()

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            for _ in range(before):
                assert await client.execute({}, await_response=True) == {"fine": True}
            with pytest.raises(RemoteProtocolError) as caught:
                await client.execute({}, await_response=True)
            # Once the request was sent nobody can know what such a peer has done with it.
            assert caught.value.executed is (False if frames == "greeting" else None)
            await begun(ended)  # else the next request would meet whatever else comes
        assert server.served == 1


@in_loop
async def test_a_refusal_that_comes_before_the_request_is_read_is_told() -> None:
    """The server reads the header of a large request, says no, and closes."""

    def serve(sock: Any) -> None:
        open_as_server(sock)
        header = sock.recv(HEADER.size, 0x100)  # MSG_WAITALL
        _, _, _, part, number, _ = HEADER.unpack(header)
        failure = dump_failure(OverloadedError("no memory"))
        sock.sendall(HEADER.pack(MessageType.ERROR, 0, 0, part, number, len(failure.pickle)) + bytes(failure.pickle))
        end_politely(sock)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            with pytest.raises(OverloadedError):
                await client.execute({"data": bytes(64 << 20)})
        assert server.served == 1


@pytest.mark.parametrize("direction", ["write", "read"])
@in_loop
async def test_a_peer_that_stands_still_within_a_frame_is_given_up(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROGRESS_TIMEOUT", 0.1)
    done = threading.Event()

    def serve(sock: Any) -> None:
        if server.served > 1:
            return  # no second chance
        connection = open_as_server(sock)
        if direction == "read":
            connection.receive()
            sock.sendall(HEADER.pack(MessageType.OK, 0, 0, 0, 1, 1 << 20) + bytes(1000))
        assert done.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20, connect_timeout=0.5) as client:
            reason = "took no byte" if direction == "write" else "no byte of a frame"
            try:
                with pytest.raises(ConnectionLostError, match=reason) as caught:
                    await client.execute({"data": bytes((32 << 20) if direction == "write" else 1)})
            finally:
                done.set()
            assert caught.value.executed is (False if direction == "write" else None)


@in_loop
async def test_a_peer_that_is_slow_but_moves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROGRESS_TIMEOUT", 0.1)
    steps = threading.Semaphore(0)
    seen: list[int] = []
    look = waiting.Watch._look

    def look_and_let_go(watch: waiting.Watch) -> None:
        look(watch)
        seen.append(1)
        steps.release()  # the peer moves on each time that somebody has looked

    monkeypatch.setattr(waiting.Watch, "_look", look_and_let_go)

    def serve(sock: Any) -> None:
        connection = open_as_server(sock)
        frame = connection.receive()
        payload = dump({"data": bytes(50_000)})
        data = HEADER.pack(MessageType.OK, 0, 0, 0, frame.number, len(payload.pickle)) + bytes(payload.pickle)
        for offset in range(0, len(data), 20_000):
            sock.sendall(data[offset : offset + 20_000])
            if offset + 20_000 < len(data):
                assert steps.acquire(timeout=20)
        sock.recv(1)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            assert await client.execute({}, await_response=True) == {"data": bytes(50_000)}
    assert seen


@in_loop
async def test_a_server_that_takes_no_bytes_is_given_up_after_the_timeout() -> None:
    done = threading.Event()

    def serve(sock: Any) -> None:
        open_as_server(sock)
        assert done.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port) as client:
            try:
                with pytest.raises(RequestTimeoutError) as caught:
                    await client.execute({"data": bytes(64 << 20)}, timeout=0.2)
            finally:
                done.set()
            assert caught.value.executed is False
