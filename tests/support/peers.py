"""Peers that hold to the protocol as far as a test wants, and no further."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from bgpy.connection import Connection, drive_opening
from bgpy.protocol.handshake import Admission, Terms, make_view, server_opening
from bgpy.protocol.states import Role
from bgpy.system import machine_identity
from bgpy.token import find_token
from bgpy.wires import PlainWire


class FalseServer:
    """
    Listen on a free port and let `serve` have each connection, in one thread. Use as a context manager.

    Parameters
    ----------
    serve
        Called with each new socket, which is closed afterwards; an OSError or AssertionError ends the connection.
    """

    def __init__(self, serve: Callable[[socket.socket], Any]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="test-false-server")
        #: How many connections there were.
        self.served = 0

    def __enter__(self) -> FalseServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.served += 1
            with sock:
                sock.settimeout(20)
                try:
                    self._serve(sock)
                except OSError:
                    pass  # the client has gone: the test looks at what it says


def open_as_server(
    sock: socket.socket,
    *,
    token: str | None = None,
    max_size: int = 1 << 30,
    instance: bytes = b"i" * 16,
    machine: bytes | None = None,
) -> Connection:
    """Prove the token as a server does; return the open connection."""
    sock.settimeout(None)
    view = make_view(sock.getsockname(), sock.getpeername(), machine or machine_identity())
    terms = Terms(find_token(token), max_size, view, False, "here")
    wire = PlainWire(sock)
    opening = drive_opening(server_opening(terms, instance, lambda hello: Admission.OK), wire, time.monotonic() + 20)
    return Connection(wire, Role.SERVER, opening, max_size)


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the other side closes or resets the connection."""
    received = b""
    sock.settimeout(20)
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass  # an end as well
    return received
