"""A TCP proxy that cuts connections at a given byte, and holds bytes back."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections import deque
from typing import NamedTuple

_STUCK = 10.0


class Plan(NamedTuple):
    """
    What becomes of one connection.

    Attributes
    ----------
    to_server, to_client
        How many bytes get through in that direction before the connection is cut (with 0: when the first one comes).
    reset
        Whether both ends see a reset in place of an end of the stream.
    hold
        Whether only the client sees the cut: the server's end stays open, and gets the rest from `Proxy.deliver`.
    shut
        Whether new connections have to wait from then on, until `Proxy.gate` is set.
    """

    to_server: int | None = None
    to_client: int | None = None
    reset: bool = False
    hold: bool = False
    shut: bool = False


class Link:
    """One connection through the proxy; `sent` are the bytes that got through, to the server and to the client."""

    def __init__(self, client: socket.socket, server: socket.socket, plan: Plan) -> None:
        self.client = client
        self.server = server
        self.plan = plan
        self.sent = [0, 0]
        self.ended = [False, False]
        self.held = b""


class Proxy:
    """
    Stand between clients and a server. Use as a context manager.

    The thread of the proxy takes one `Plan` for each new connection, from `plan` in turn, then the ones that let all through.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self.links: list[Link] = []
        #: Cleared, it keeps new connections waiting.
        self.gate = threading.Event()
        self.gate.set()
        #: Set by each cut.
        self.has_cut = threading.Event()
        self._plans: deque[Plan] = deque()
        self._held: list[Link] = []
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake_reader, self._wake_writer = socket.socketpair()
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="test-proxy")

    def __enter__(self) -> Proxy:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._wake_writer.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        for link in self.links:
            self._close(link)
        self._listener.close()
        self._wake_reader.close()
        self._selector.close()

    def plan(self, *plans: Plan) -> None:
        """Let the next new connections go as planned."""
        self.has_cut.clear()
        with self._lock:
            self._plans.extend(plans)

    def replan(self, plan: Plan) -> None:
        """Let the newest connection go on as planned; its bytes count from now."""
        self.has_cut.clear()
        with self._lock:
            self.links[-1].plan = plan
            self.links[-1].sent = [0, 0]

    def sent(self) -> list[int]:
        """Return how many bytes of the newest connection got through, to the server and to the client."""
        with self._lock:
            return list(self.links[-1].sent)

    def cut(self) -> None:
        """Cut all connections now."""
        with self._lock:
            for link in self.links:
                self._close(link)

    def deliver(self) -> bool:
        """Give the server what was held back last, and then the end of the stream; False where it does not take it any more."""
        link = self._held[-1]
        try:
            link.server.sendall(link.held)
            # It may believe this connection to be the client's: where its thread was slow, it has let it in after the one that
            # was made in its place.
            link.server.shutdown(socket.SHUT_WR)
            while link.server.recv(4096):
                pass  # whatever it answers to nobody; then it ends the connection
        except TimeoutError:
            raise
        except OSError:
            return False
        return True

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_reader:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                    continue
                with self._lock:
                    # An event of a socket that another event of the same turn has closed is stale.
                    if self._selector.get_map().get(key.fd) == key:
                        self._forward(*key.data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.gate.wait()
        with self._lock:
            plan = self._plans.popleft() if self._plans else Plan()
            try:
                server = socket.create_connection((self.host, self.target))
            except OSError:
                client.close()
                return
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_STUCK)
            link = Link(client, server, plan)
            self.links.append(link)
            self._selector.register(client, selectors.EVENT_READ, (link, 0))
            self._selector.register(server, selectors.EVENT_READ, (link, 1))

    def _forward(self, link: Link, direction: int) -> None:
        source, target = (link.client, link.server) if direction == 0 else (link.server, link.client)
        limit = link.plan[direction]
        try:
            data = source.recv(65536)
            left = len(data) if limit is None else min(limit - link.sent[direction], len(data))
            if left:
                target.sendall(data[:left])
                link.sent[direction] += left
        except OSError:
            self._close(link, reset=True)
            return
        if not data:
            self._end(link, direction, source, target)
        elif limit is not None and link.sent[direction] == limit:
            self._cut(link, direction, data[left:])

    def _end(self, link: Link, direction: int, source: socket.socket, target: socket.socket) -> None:
        self._selector.unregister(source)
        link.ended[direction] = True
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # gone altogether
        if all(link.ended):
            self._close(link)

    def _cut(self, link: Link, direction: int, rest: bytes) -> None:
        if link.plan.shut:
            self.gate.clear()
        if link.plan.hold:
            assert direction == 0
            # What the client has sent by now is on the way; the client itself sees the end.
            self._selector.unregister(link.client)
            self._selector.unregister(link.server)
            link.held = rest
            self._held.append(link)
            self._close_socket(link.client, link.plan.reset)
        else:
            self._close(link, link.plan.reset)
        self.has_cut.set()

    def _close(self, link: Link, reset: bool = False) -> None:
        for sock in (link.client, link.server):
            if sock.fileno() >= 0 and sock.fileno() in self._selector.get_map():
                self._selector.unregister(sock)
            self._close_socket(sock, reset)

    def _close_socket(self, sock: socket.socket, reset: bool) -> None:
        if sock.fileno() >= 0:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
