"""
The HTTP client of the benchmark of predictions, the same for all servers, and a server that does nothing to tell its own limit.

One thread, connections that are kept, requests made before the time runs, and few steps for an answer: status and length are
checked for each, the numbers for the first one of each connection.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from typing import Any

import numpy as np
from measuring import summary
from predict_models import CLASSES, VARIANTS, expected, inputs, is_expected

#: More than the largest request, so that a send never waits for the server to read.
SEND_BUFFER = 1 << 20
BINARY_HEADER = "Inference-Header-Content-Length"
PATIENCE = 60.0


# Bodies


def body_of(form: str, rows: Any, input_name: str) -> tuple[bytes, str]:
    """Return the body of a request in one of the forms, and its own header lines."""
    if form == "v1":
        return json.dumps({"instances": rows.tolist()}).encode(), ""
    if form == "rows":
        return json.dumps({"x": rows.tolist()}).encode(), ""
    tensor: dict[str, Any] = {"name": input_name, "shape": list(rows.shape), "datatype": "FP32"}
    if form == "v2":
        return json.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}).encode(), ""
    raw = rows.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + raw, f"{BINARY_HEADER}: {len(header)}\r\n"


def numbers_of(form: str, head: bytes, body: bytes) -> Any:
    """Return the numbers of an answer in one of the forms."""
    if form == "v1":
        return np.asarray(json.loads(body)["predictions"])
    if form == "rows":
        return np.asarray(json.loads(body)["y"])
    if form == "v2":
        return np.reshape(json.loads(body)["outputs"][0]["data"], (-1, CLASSES))
    length = int(_header(head, BINARY_HEADER.lower().encode()))
    assert json.loads(body[:length])["outputs"][0]["datatype"] == "FP32"
    return np.frombuffer(body[length:], "<f4").reshape(-1, CLASSES)


def _header(head: bytes, name: bytes) -> bytes:
    found = head.lower().partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()
    assert found, f"no {name!r} in {head!r}"
    return found


class Connection:
    """One connection that asks the same again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.request = request
        self.received = b""
        self.whole = 0
        self.begun = 0.0

    def send(self) -> None:
        """Ask."""
        self.received, self.whole = b"", 0
        self.begun = time.perf_counter()
        self.sock.sendall(self.request)

    def receive(self) -> bool:
        """Take what has come; return whether the answer is whole. Anything but a 200 with a length is the end."""
        data = self.sock.recv(1 << 18)
        assert data, "the server has closed the connection"
        self.received = self.received + data if self.received else data
        if not self.whole:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            assert self.received.startswith(b"HTTP/1.1 200"), self.received[:2000]
            self.whole = end + 4 + int(_header(self.received[: end + 2], b"content-length"))
        assert len(self.received) <= self.whole, self.received
        return len(self.received) == self.whole

    def parts(self) -> tuple[bytes, bytes]:
        """Return head and body of the answer."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        return head + b"\r\n", body


class HttpClient:
    """
    Measures a server.

    Parameters
    ----------
    folder
        Where the expected answers are.
    input_name
        Of the model.
    token
        What servers that ask for one are shown.
    """

    def __init__(self, folder: str, input_name: str, token: str) -> None:
        self.folder, self.input_name, self.token = folder, input_name, token
        self.requests: dict[tuple[Any, ...], list[bytes]] = {}

    def measure(
        self, port: int, path: str, form: str, model: str, batch: int, concurrency: int, seconds: float
    ) -> dict[str, Any]:
        """Keep `concurrency` requests on their way for so many seconds."""
        wanted = expected(self.folder, model, batch)
        requests = self.made(port, path, form, batch)
        connections = [Connection(port, requests[number % VARIANTS]) for number in range(concurrency)]
        with selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection.sock, selectors.EVENT_READ, connection)
            drive(selector, connections, 0)
            for number, connection in enumerate(connections):
                numbers = numbers_of(form, *connection.parts()) if path != TrivialServer.path else wanted[number % VARIANTS]
                assert is_expected(numbers, wanted[number % VARIANTS]), "wrong numbers"
            drive(selector, connections, seconds / 4)  # the larger batches are known to the server then
            start = time.perf_counter()
            times = drive(selector, connections, seconds)
            took = time.perf_counter() - start
        for connection in connections:
            connection.sock.close()
        return summary(times, took)

    def made(self, port: int, path: str, form: str, batch: int) -> list[bytes]:
        """Return the requests, one for each variant."""
        key = (port, path, form, batch)
        if key not in self.requests:
            self.requests[key] = []
            for rows in inputs(batch):
                body, extra = body_of(form, rows, self.input_name)
                kind = "application/octet-stream" if extra else "application/json"
                head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {self.token}\r\n{extra}"
                head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                self.requests[key].append(head.encode() + body)
        return self.requests[key]


def drive(selector: selectors.BaseSelector, connections: list[Connection], seconds: float) -> list[float]:
    """Have each connection ask, and again until the time is over; return the seconds of each answer, the last ones too."""
    times = []
    for connection in connections:
        connection.send()
    end = time.perf_counter() + seconds
    left = len(connections)
    while left:
        ready = selector.select(PATIENCE)
        assert ready, f"no answer in {PATIENCE} s"
        for key, _ in ready:
            connection = key.data
            if connection.receive():
                now = time.perf_counter()
                times.append(now - connection.begun)
                if now < end:
                    connection.send()
                else:
                    left -= 1
    return times


class TrivialServer:
    """Answers every request at once, without looking at more than its length; `ready` tells the port."""

    path = "/trivial"
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.ready = {"port": self.listener.getsockname()[1]}
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Serve, in one thread."""
        left: dict[socket.socket, int] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.listener:
                        sock = self.listener.accept()[0]
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        selector.register(sock, selectors.EVENT_READ)
                    elif not self.take(key.fileobj, left):
                        selector.unregister(key.fileobj)

    def take(self, sock: Any, left: dict[Any, int]) -> bool:
        """Take what has come of a request, and answer it once it is whole; return whether the connection goes on."""
        data = sock.recv(1 << 18)
        if not data:
            sock.close()
            return False
        if sock not in left:
            end = data.index(b"\r\n\r\n") + 4
            left[sock] = end + int(_header(data[:end], b"content-length"))
        left[sock] -= len(data)
        if not left[sock]:
            del left[sock]
            sock.sendall(self.answer)
        return True
