"""
Round trips of bgpy beside a bare socket and multiprocessing.connection, interleaved in one run on one core.

Prints medians and ratios as a table, or as JSON with ``--json``. A time means nothing by itself: compare within one run.
The floor is a blocking socket with an 8-byte length and pickle protocol 5; large buffers go out of band, as a careful hand would
do it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.connection
import os
import pickle
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from measuring import interleave, ratio

from bgpy import Client, Server
from bgpy.protocol.handshake import ZERO_ID, ClientHello

ARRAY_BYTES = 64 << 20
#: How often both processes of a small request are started anew. Where things lie in memory, and how dicts are seeded, makes one
#: start a tenth slower than the next, which no number of rounds evens out.
SMALL_STARTS = 9
MEBIBYTE = 1 << 20
PLAIN_START = "import socket, pickle, threading"
TOKEN = secrets.token_urlsafe(32)


# The two peers and the tasks of bgpy: each adds to a counter and answers with it, or sends an array back.


def answer(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Do what all three servers do."""
    if "array" in message:
        return {"array": message["array"]}
    state["value"] += message["value_change"]
    return {"value": state["value"]}


def init_task() -> dict[str, Any]:
    """Make the state."""
    return {"value": 0}


def exec_task(client_socket: Any, state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Answer one message."""
    if "array" in message:
        client_socket.respond({"array": message["array"]})
        return state
    state["value"] += message["value_change"]
    client_socket.respond({"value": state["value"]})
    return state


def exit_task(client_socket: Any, state: dict[str, Any], message: dict[str, Any]) -> None:
    """Do nothing."""


class BareSocket:
    """The floor."""

    length = struct.Struct("!Q")

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        self.sock.sendall(self.length.pack(len(data)) + data)
        for buffer in buffers:
            self.sock.sendall(self.length.pack(buffer.raw().nbytes))
            self.sock.sendall(buffer.raw())

    def recv(self) -> dict[str, Any]:
        """Receive one message."""
        data = self._read()
        buffers = [self._read()] if b"numpy" in data else []
        message: dict[str, Any] = pickle.loads(data, buffers=buffers)
        return message

    def _read(self) -> bytearray:
        (length,) = self.length.unpack(self._exactly(8))
        return self._exactly(length)

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            view = view[self.sock.recv_into(view) :]
        return data


def serve_peer(kind: str) -> None:
    """Be the server of a peer: print the port, serve one client."""
    state = {"value": 0}
    if kind == "floor":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            connection: Any = BareSocket(listener.accept()[0])
    else:
        with multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"benchmark") as listener:
            print(listener.address[1], flush=True)
            connection = listener.accept()
    while True:
        try:
            message = connection.recv()
        except (EOFError, ValueError, OSError, struct.error):
            return
        if "stop" in message:
            return
        connection.send(answer(state, message))


@contextmanager
def peer(kind: str) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Run the server of a peer and yield a function that calls it."""
    process = subprocess.Popen([sys.executable, __file__, "--peer", kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    connection: Any
    if kind == "floor":
        connection = BareSocket(socket.create_connection(("127.0.0.1", port)))
    else:
        connection = multiprocessing.connection.Client(("127.0.0.1", port), authkey=b"benchmark")

    def call(message: dict[str, Any]) -> dict[str, Any]:
        connection.send(message)
        response: dict[str, Any] = connection.recv()
        return response

    try:
        yield call
    finally:
        connection.send({"stop": True})
        process.wait(10)
        process.stdout.close()


@contextmanager
def bgpy_server() -> Iterator[tuple[Server, Client]]:
    """Run a background server of bgpy and yield it with a client."""
    server = Server(token=TOKEN)
    server.run_background()
    with Client(port=server.port, token=TOKEN) as client:
        client.initialize(init_task, exec_task, exit_task)
        try:
            yield server, client
        finally:
            client.terminate()


def caller(client: Client) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that calls bgpy and awaits the response."""
    return lambda message: client.execute(message, await_response=True)


# Measuring


def small(rounds: int) -> dict[str, float]:
    """Measure a small request with its response: medians of several starts of all processes."""
    starts = [json.loads(run_here("--small-start", "--rounds", str(rounds))) for _ in range(SMALL_STARTS)]
    ratios = [start["bgpy / multiprocessing"] for start in starts]
    return {
        **{name: statistics.median(start[name] for start in starts) for name in starts[0]},
        "the same, best start": min(ratios),
        "the same, worst start": max(ratios),
    }


def small_start(rounds: int) -> dict[str, float]:
    """Measure a small request with this process and one start of each server."""
    message = {"command": "increase", "value_change": 10}
    with peer("floor") as floor, peer("multiprocessing") as pipe, bgpy_server() as (_, client):
        call = caller(client)
        calls = {"floor": lambda: floor(message), "multiprocessing": lambda: pipe(message), "bgpy": lambda: call(message)}
        interleave(calls, 3, 200)
        figures = interleave(calls, rounds, 200)
    return {
        **{f"{name} us": statistics.median(figures[name]) * 1e6 for name in figures},
        "multiprocessing / floor": ratio(figures, "multiprocessing", "floor"),
        "bgpy / floor": ratio(figures, "bgpy", "floor"),
        "bgpy / multiprocessing": ratio(figures, "bgpy", "multiprocessing"),
    }


def large(rounds: int) -> dict[str, float]:
    """Measure 64 MB of float64 there and back, and the peak memory of the server."""
    message = {"array": np.random.default_rng(0).random(ARRAY_BYTES // 8)}
    with peer("floor") as floor, peer("multiprocessing") as pipe, bgpy_server() as (server, client):
        call = caller(client)
        calls = {"floor": lambda: floor(message), "multiprocessing": lambda: pipe(message), "bgpy": lambda: call(message)}
        figures = interleave(calls, rounds)
        back = call(message)["array"]
        assert back.flags.writeable
        assert (back == message["array"]).all()
        peak = peak_memory(server.pid)
    speeds = {f"{name} GB/s": 2 * ARRAY_BYTES / 1e9 / statistics.median(times) for name, times in figures.items()}
    return {
        **speeds,
        "bgpy / floor throughput": 1 / ratio(figures, "bgpy", "floor"),
        "server peak MB": peak / MEBIBYTE,
        "client peak MB": float(run_here("--client-memory")) / MEBIBYTE,
        "allowed peak MB": (2 * ARRAY_BYTES + 64 * MEBIBYTE) / MEBIBYTE,
    }


def client_memory() -> None:
    """Send and receive the array once in a fresh process and print its peak memory."""
    with bgpy_server() as (_, client):
        array = np.zeros(ARRAY_BYTES // 8)
        array[:] = 1.5
        message = {"array": array}
        del array
        back = client.execute(message, await_response=True)
        assert back["array"][-1] == 1.5
        print(peak_memory(os.getpid()))


def starts(rounds: int) -> dict[str, float]:
    """Measure a start until ready, and the import of bgpy, beside a plain start of Python."""

    def python(code: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    servers = []

    def start() -> None:
        server = Server(token=TOKEN)
        server.run_background()
        servers.append(server)

    figures: dict[str, list[float]] = {}
    calls = {"plain": python(PLAIN_START), "import bgpy": python("import bgpy"), "ready": start}
    for _ in range(rounds):
        for name, times in interleave(calls, 1).items():
            figures.setdefault(name, []).extend(times)
        Client(port=servers[-1].port, token=TOKEN).terminate()
    return {
        **{f"{name} ms": statistics.median(times) * 1e3 for name, times in figures.items()},
        "ready / plain": ratio(figures, "ready", "plain"),
        "import bgpy / plain": ratio(figures, "import bgpy", "plain"),
    }


def idle_clients(rounds: int, number: int = 1000) -> dict[str, float]:
    """Measure the memory of idle connections, and the small request beside them."""
    message = {"command": "increase", "value_change": 10}
    with bgpy_server() as (_, alone), bgpy_server() as (server, beside):
        before = resident_memory(server.pid)
        dialer = beside._dialer
        idle = [dialer.dial(ClientHello(os.urandom(16), 0, False, ZERO_ID), 30) for _ in range(number)]
        beside.status()
        each = (resident_memory(server.pid) - before) / number
        call_alone, call_beside = caller(alone), caller(beside)
        calls = {"alone": lambda: call_alone(message), "beside": lambda: call_beside(message)}
        interleave(calls, 3, 200)
        figures = interleave(calls, rounds, 200)
        for connection in idle:
            connection.close()
    return {"kB each": each / 1000, "small request slowed by": ratio(figures, "beside", "alone")}


def many_threads(threads: int = 64, requests: int = 200) -> dict[str, float]:
    """Let many threads share one client; the counter must be exact."""
    with bgpy_server() as (_, client):

        def work() -> None:
            for _ in range(requests):
                client.execute({"value_change": 1}, await_response=True)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        value = client.execute({"value_change": 0}, await_response=True)["value"]
    assert value == threads * requests, value
    return {"requests": float(value), "requests/s": value / seconds}


def peak_memory(pid: int | None) -> int:
    """Return the peak resident memory of a process in bytes."""
    return _status_field(pid, "VmHWM")


def resident_memory(pid: int | None) -> int:
    """Return the resident memory of a process in bytes."""
    return _status_field(pid, "VmRSS")


def _status_field(pid: int | None, field: str) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def run_here(*options: str) -> str:
    """Run this script with options and return what it prints."""
    return subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True).stdout


SECTIONS: dict[str, Callable[[int], dict[str, float]]] = {
    "small": small,
    "large": lambda rounds: large(max(rounds // 4, 3)),
    "starts": starts,
    "idle clients": idle_clients,
    "64 threads": lambda rounds: many_threads(),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each comparison")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section only")
    parser.add_argument("--cpu", type=int, default=0, help="the core that everything is pinned to; -1 for none")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--client-memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--small-start", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        serve_peer(options.peer)
        return
    if options.client_memory:
        client_memory()
        return
    if options.small_start:
        print(json.dumps(small_start(options.rounds)))
        return
    if options.cpu >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    with tempfile.TemporaryDirectory() as home:
        os.environ["BGPY_HOME"] = home
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        results = {name: SECTIONS[name](options.rounds) for name in options.only or SECTIONS}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for section, figures in results.items():
        print(f"\n{section}")
        for name, value in figures.items():
            print(f"  {name:28} {value:10.2f}")


if __name__ == "__main__":
    main()
