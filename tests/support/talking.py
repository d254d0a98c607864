"""Real WebSocket clients of a gateway, for conversations."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from support.gateways import BEARER, TOKEN, RunningGateway

#: Seconds for a message or an end.
TIMEOUT = 20
#: What runs, and a question about a value.
PYTHON = {"number": 1, "files": [{"filename": "a.py", "content": ""}], "mainfile": "a.py"}
STATS = {"action": "get_stats", "placeholder": {"sessionId": "s", "name": "x"}}


def talk(where: RunningGateway | str, path: str = "runtime", **options: Any) -> ClientConnection:
    """Open a WebSocket, with a Bearer token unless other headers are given."""
    url = where if isinstance(where, str) else where.url
    headers = options.pop("headers", BEARER)
    address = url.replace("http", "ws", 1) + path
    opened: ClientConnection = connect(address, additional_headers=headers, proxy=None, compression=None, **options)
    return opened


def stranger(where: RunningGateway | str, path: str = "runtime", **options: Any) -> ClientConnection:
    """Open a WebSocket that shows nothing."""
    return talk(where, path, headers={}, **options)


def receive(socket: ClientConnection) -> Any:
    """Return the next message."""
    return json.loads(socket.recv(timeout=TIMEOUT))


def ask(socket: ClientConnection, **request: Any) -> Any:
    """Send a request and return the next message."""
    socket.send(json.dumps(request))
    return receive(socket)


def log_in(socket: ClientConnection, token: str = TOKEN) -> Any:
    """Send the token and return the answer."""
    return ask(socket, token=token)


def closing(socket: ClientConnection) -> tuple[int, str]:
    """Wait for the end of a WebSocket and return code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=TIMEOUT)
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


def upgrade(port: int, *lines: str) -> tuple[sockets.socket, str]:
    """Ask for /runtime on a bare connection, with these lines beside the usual ones; return it and the head of the answer."""
    usual = (
        *("GET /runtime HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    connection = sockets.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.sendall("\r\n".join([*usual, *lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return connection, head.decode()
