"""What conversations share: what a message may be, how many may be under way, who is dropped, and how it ends."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from support.gateways import TOKEN, RunningGateway
from support.scripted_runs import Runs, gateway_of_runs
from support.servers import running_server, tasks
from support.talking import PYTHON, STATS, ask, closing, log_in, receive, stranger, talk, upgrade
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from bgpy.gateway import Limits, create_app, reading
from bgpy.gateway.conversation import MAX_UNDER_WAY


@pytest.fixture
def gateway(runs: Runs) -> Iterator[RunningGateway]:
    with gateway_of_runs(runs) as running:
        yield running


def still_talks(socket: ClientConnection) -> None:
    """Check that a conversation goes on."""
    assert ask(socket, action="list", id="still") == {"type": "[status]:LIST", "sessions": [], "id": "still"}


#: What is no request, and what the error says.
MALFORMED: list[tuple[str | bytes, str]] = [
    ("no json", "The message is not JSON"),
    ("[]", "The message is a JSON object, not an array"),
    ("7", "a JSON object, not a number"),
    ('{"action": NaN}', "The message is not JSON"),
    ("[" * 5000, "nested"),
    ('{"n": %s}' % ("9" * 400), "digits"),
    (b"\xff\xfe{}", "The message is not UTF-8 (byte 0)"),
    (b"\x00\x01", "not JSON"),
    ("", "needs the field 'action'"),
]


def test_a_malformed_message_is_named_and_the_connection_kept(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        for message, said in MALFORMED:
            socket.send(message)
            error = receive(socket)
            assert (error["type"], error["action"]) == ("[error]", None), message
            assert said in error["message"], message
        still_talks(socket)


def test_a_binary_message_is_read_as_text_is(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        socket.send(b'{"action": "list", "id": "\xc3\xa4"}')
        assert receive(socket)["id"] == "ä"


def test_a_text_that_is_no_text_ends_the_connection(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 6455, 8.1: the peer does not speak WebSocket. Anybody could fill the log with it."""
    with stranger(gateway) as socket:
        socket.send(b"\xff", text=True)
        assert closing(socket) == (1007, "The text is not UTF-8")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_an_answer_has_the_id_of_its_request(gateway: RunningGateway) -> None:
    with talk(gateway) as socket:
        for identity in ("a", 7, 1.5, None, {"deep": [1]}):
            assert ask(socket, action="list", id=identity)["id"] == identity
            assert ask(socket, action="nothing", id=identity)["id"] == identity
        assert "id" not in ask(socket, action="list")


def test_many_requests_are_under_way_at_once_and_no_more_is_read_beyond_the_bound(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as socket:
        for number in range(MAX_UNDER_WAY + 8):
            socket.send(json.dumps({**STATS, "id": number}))
        socket.send(json.dumps({"action": "list", "id": "last"}))
        for _ in range(MAX_UNDER_WAY):
            assert runs.begun.acquire(timeout=20)
        assert not runs.begun.acquire(timeout=0.2)
        with talk(gateway) as other:  # the bound is the connection's own
            still_talks(other)
        runs.open.set()
        answered = {receive(socket)["id"] for _ in range(MAX_UNDER_WAY + 9)}
        assert answered == {*range(MAX_UNDER_WAY + 8), "last"}


def test_a_quick_answer_does_not_wait_for_a_slow_one(runs: Runs, gateway: RunningGateway) -> None:
    runs.answers["get_stats"] = runs.wait_at_the_gate
    with talk(gateway) as socket:
        socket.send(json.dumps({**STATS, "id": "slow"}))
        assert runs.begun.acquire(timeout=20)
        still_talks(socket)
        runs.open.set()
        assert receive(socket)["id"] == "slow"


def test_a_gateway_that_fails_says_so_and_goes_on(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(message: Any) -> Any:
        raise ZeroDivisionError("of the gateway's own")

    gateway.server.app._upstream.execute = fail
    with talk(gateway) as socket:
        for number in range(2):
            error = ask(socket, action="list", id=number)
            assert (error["type"], error["message"]) == ("[error]", "The gateway failed; its log says why")
    assert "A request failed" in caplog.text


def test_a_stream_that_the_gateway_cannot_serve_ends_the_connection(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Any) -> Any:
        raise ZeroDivisionError("of the gateway's own")

    gateway.server.app._upstream.stream = fail
    with talk(gateway) as socket:
        assert ask(socket, action="run", python=PYTHON)["sessionId"] == "s0"
        assert closing(socket) == (1011, "The gateway failed")
    assert "A request failed" in caplog.text


def test_large_messages_are_for_who_has_logged_in(runs: Runs) -> None:
    limits = Limits(max_upload_size=1 << 20)
    with gateway_of_runs(runs, limits=limits) as gateway:
        for size in (limits.max_message_size + 1, 8 << 20):  # the second one is under way while the end is said
            with stranger(gateway) as socket:
                with contextlib.suppress(ConnectionClosed):
                    socket.send("x" * size)
                assert closing(socket)[0] == 1009
        assert runs.asked == []
        for login in (talk, stranger):
            with login(gateway) as socket:
                if login is stranger:
                    log_in(socket)
                content = "x" * ((1 << 20) - 500)
                files = [{"filename": "a.py", "content": content}]
                assert ask(socket, action="run", python={**PYTHON, "files": files})["type"] == "[status]:EXECUTION_STARTED"
                with contextlib.suppress(ConnectionClosed):
                    socket.send("x" * ((1 << 20) + 1))
                assert closing(socket)[0] == 1009


def test_who_still_sends_what_is_too_large_learns_why_it_ends(gateway: RunningGateway) -> None:
    """A connection that is closed with bytes unread is reset, and what was said last is lost."""
    connection, head = upgrade(gateway.port, f"Host: 127.0.0.1:{gateway.port}")
    with connection:
        assert head.startswith("HTTP/1.1 101 ")
        connection.sendall(b"\x81\xff" + (64 << 20).to_bytes(8, "big") + b"mask")  # the head of a message of 64 MB
        for _ in range(32):
            connection.sendall(b"x" * (1 << 20))
        connection.shutdown(sockets.SHUT_WR)
        said = connection.recv(4096)
        assert (said[0], int.from_bytes(said[2:4], "big")) == (0x88, 1009)  # a close frame, and its code


def test_a_message_of_pieces_is_as_large_as_one_of_one_piece(runs: Runs) -> None:
    with gateway_of_runs(runs, limits=Limits(max_message_size=1000)) as gateway:
        with stranger(gateway) as socket:
            socket.send(iter(['{"token":', ' "', TOKEN, '"}']))
            assert receive(socket)["type"] == "[status]:LOGGED_IN"
        with stranger(gateway) as socket:
            with contextlib.suppress(ConnectionClosed):
                socket.send(iter(["x" * 600, "x" * 600]))
            assert closing(socket)[0] == 1009


def test_a_message_of_endless_empty_pieces_is_too_large(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PIECES", 100)
    with stranger(gateway) as socket:
        with contextlib.suppress(ConnectionClosed):
            socket.send(iter([""] * 200))
        assert closing(socket) == (1009, "Too many pieces")


class Outer:
    """Another ASGI program, served by a uvicorn of its own with its own settings, that has the gateway mounted."""

    def __init__(self, port: int) -> None:
        app = create_app(port=port, token=TOKEN)

        @contextlib.asynccontextmanager
        async def lifespan(outer: Starlette) -> Any:
            yield
            await app.close()

        outer = Starlette(routes=[Mount("/lab", app)], lifespan=lifespan)
        config = uvicorn.Config(outer, log_config=None, lifespan="on", loop="asyncio", ws="websockets-sansio")
        self.server = uvicorn.Server(config)
        self.listener = sockets.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/lab/"
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, name="test-outer")
        self._thread.start()

    def end(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        self.listener.close()
        assert not self._thread.is_alive()


def test_conversations_work_where_the_gateway_is_mounted(runs: Runs) -> None:
    with running_server(tasks(runs.serve), token=TOKEN) as served:
        outer = Outer(served.port)
        try:
            with talk(outer.url) as socket:
                assert ask(socket, action="run", python=PYTHON)["sessionId"] == "s0"
                runs.finish("s0")
                assert receive(socket)["type"] == "[state]:EXECUTION_FINISHED"
            with stranger(outer.url) as socket:
                assert log_in(socket) == {"type": "[status]:LOGGED_IN"}
                assert ask(socket, action="list")["sessions"] == ["s0"]
            with stranger(outer.url) as socket:  # its own limit holds, also where the server knows of none
                socket.send("x" * (Limits().max_message_size + 1))
                assert closing(socket) == (1009, "A message has at most 65,536 bytes")
        finally:
            runs.end()
            outer.end()
