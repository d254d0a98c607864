"""
Jobs through one workspace beside a bare worker process and a Jupyter kernel, in one run.

Prints medians and ratios as a table, or as JSON with ``--json``. A time means nothing by itself: compare within one run.
The floor is a process on a pipe that executes each script that comes and says that it is done. Needs the extra ``gateway``; the
Jupyter kernel takes part where it is installed (``pip install jupyter_client ipykernel``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from measuring import interleave, ratio

from bgpy import Client, Server

SCRIPT = "x = 1"
PUSHED = 2000
CONNECTIONS = 16
BUSY = 49
#: Seconds.
PAUSE = 0.05
TOKEN = secrets.token_urlsafe(32)
BUSY_SCRIPT = "import threading\ndef work():\n    while True: pass\nthreading.Thread(target=work, daemon=True).start()\n"
LENGTH = struct.Struct("!Q")


# The floor: a worker on a pipe.


def serve_floor() -> None:
    """Execute what comes on standard input, one script after the other, in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    while header := reader.read(LENGTH.size):
        script = reader.read(*LENGTH.unpack(header))
        exec(compile(script, "<job>", "exec"), namespace)
        writer.write(b"\1")
        writer.flush()


@contextmanager
def floor() -> Iterator[Callable[[], Any]]:
    """Run a bare worker and yield a function that has it execute the script."""
    # In a session of its own, as a worker is: the scheduler shares the machine among sessions.
    process = subprocess.Popen(
        [sys.executable, __file__, "--floor"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    reader, writer = process.stdout, process.stdin
    assert reader is not None
    assert writer is not None
    script = SCRIPT.encode()

    def call() -> None:
        writer.write(LENGTH.pack(len(script)) + script)
        writer.flush()
        assert reader.read(1) == b"\1"

    try:
        yield call
    finally:
        writer.close()
        process.wait(10)
        reader.close()


# bgpy: a server with one workspace, and a gateway.


@contextmanager
def bgpy_server() -> Iterator[Client]:
    """Run a background server with the workspace task set and yield a client."""
    server = Server(token=TOKEN, tasks="bgpy.tasks.workspace")
    server.run_background()
    with Client(port=server.port, token=TOKEN) as client:
        try:
            yield client
        finally:
            client.terminate()


def ask(client: Client, command: str, **fields: Any) -> Any:
    """Have the server carry out a command; return the result."""
    answer = client.execute({"command": command, **fields}, await_response=True)
    assert answer["request_result"], answer
    return answer["result"]


def push(client: Client, name: str, timeout: float = 60) -> None:
    """Push the script; wait for its end where there is a timeout."""
    answer = ask(client, "push_job", name=name, job=SCRIPT, type=1, timeout=timeout, variables=False)
    assert answer["result"] is True or not timeout, answer


def gateway(port: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start a gateway for the server at `port`; return it and its own port."""
    process = subprocess.Popen([sys.executable, __file__, "--gateway", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(TOKEN.encode() + b"\n")
    process.stdin.flush()
    return process, int(process.stdout.readline())


def serve_gateway_here(port: int) -> None:
    """Be the gateway, and print the port once it accepts connections."""
    from bgpy.gateway import Settings, serve_gateway

    settings = Settings(port=port, token=sys.stdin.readline().strip(), bind_port=0)
    serve_gateway(settings, ready=lambda address: print(address.rstrip("/").rpartition(":")[2], flush=True))


# Measuring


def one_at_a_time(rounds: int) -> dict[str, float]:
    """Measure one job after the other with its result waited for."""
    with ExitStack() as stack:
        calls: dict[str, Callable[[], Any]] = {"floor": stack.enter_context(floor())}
        client = stack.enter_context(bgpy_server())
        ask(client, "create_workspace", name="bench")
        calls["bgpy"] = lambda: push(client, "bench")
        if jupyter_installed():
            calls["jupyter_client"] = stack.enter_context(jupyter())
        interleave(calls, 2, 50)
        figures = interleave(calls, rounds, 50)
    return {
        **{f"{name} us": statistics.median(times) * 1e6 for name, times in figures.items()},
        **{f"{name} / floor": ratio(figures, name, "floor") for name in figures if name != "floor"},
        **({"bgpy / jupyter_client": ratio(figures, "bgpy", "jupyter_client")} if "jupyter_client" in figures else {}),
    }


def jupyter_installed() -> bool:
    """Tell whether the peer is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("jupyter_client", "ipykernel"))


@contextmanager
def jupyter() -> Iterator[Callable[[], Any]]:
    """Run a Jupyter kernel and yield a function that has it execute the script."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def call() -> None:
        reply = client.execute(SCRIPT, reply=True, timeout=60)
        assert reply["content"]["status"] == "ok"

    try:
        yield call
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def pushed(rounds: int) -> dict[str, float]:
    """Measure many jobs pushed without waiting, until the last one has ended."""
    rates = []
    with bgpy_server() as client:
        for number in range(max(rounds // 4, 3)):
            name = f"bench{number}"
            ask(client, "create_workspace", name=name)
            push(client, name)
            start = time.perf_counter()
            for _ in range(PUSHED - 1):
                push(client, name, timeout=0)
            push(client, name)
            rates.append(PUSHED / (time.perf_counter() - start))
            results = ask(client, "get_result", name=name)
            assert results == [True] * (PUSHED + 1), "lost"
    return {"jobs": float(PUSHED), "jobs/s": statistics.median(rates)}


def over_http(rounds: int) -> dict[str, float]:
    """Measure jobs over HTTP with many connections that are kept, beside one at a time from Python."""
    with bgpy_server() as client:
        ask(client, "create_workspace", name="bench")
        process, port = gateway(client.port)
        try:
            each, beside = [], []
            for _ in range(max(rounds // 2, 3)):
                beside.append(interleave({"python": lambda: push(client, "bench")}, 1, 200)["python"][0])
                each.append(http_round(port, 400))
        finally:
            process.terminate()
            process.wait(20)
    figures = {"http": each, "python": beside}
    return {
        "connections": float(CONNECTIONS),
        "http us a job": statistics.median(each) * 1e6,
        "python us a job": statistics.median(beside) * 1e6,
        "http / python one at a time": ratio(figures, "http", "python"),
    }


def http_round(port: int, jobs: int) -> float:
    """
    Push `jobs` jobs over all connections and return the seconds for each.

    One thread and few steps for an answer, as a client in C would have: what is measured is the gateway.
    """
    body = json.dumps({"name": "bench", "job": SCRIPT, "type": 1, "timeout": 60, "variables": False})
    head = f"POST /push_job/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        received: dict[Any, bytearray] = {}
        for _ in range(CONNECTIONS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(sock, selectors.EVENT_READ)
            received[sock] = bytearray()
        start = time.perf_counter()
        for sock in received:
            sock.sendall(request)
        sent, left = CONNECTIONS, jobs
        while left:
            for key, _ in selector.select():
                sock, answer = key.fileobj, received[key.fileobj]  # type: ignore[assignment]
                answer += sock.recv(65536)
                if is_whole(answer):
                    assert b'"result":true,"time"' in answer.replace(b" ", b""), answer
                    answer.clear()
                    left -= 1
                    if sent < jobs:
                        sock.sendall(request)
                        sent += 1
        return (time.perf_counter() - start) / jobs


def is_whole(received: bytearray) -> bool:
    """Tell whether an answer of HTTP/1.1 with a Content-Length has come whole."""
    head, separator, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(separator) and len(body) == int(length)


def beside_busy_ones(rounds: int) -> dict[str, float]:
    """
    Measure a small job in an idle workspace, alone and beside many busy ones; and beside the same busy ones the floor, and a
    request for which the server asks no worker.

    Each after a pause: who asks all the time is one more who is busy, and waits for its share of the cores.
    """
    with floor() as bare, bgpy_server() as client:
        ask(client, "create_workspace", name="idle")
        calls = {"floor": bare, "request": lambda: ask(client, "get_status", name="idle"), "bgpy": lambda: push(client, "idle")}
        interleave(calls, 2, 20)
        alone = now_and_then(calls, rounds * 5)
        for number in range(BUSY):
            ask(client, "create_workspace", name=f"busy{number}")
            ask(client, "push_job", name=f"busy{number}", job=BUSY_SCRIPT, type=1, timeout=60, variables=False)
        beside = now_and_then(calls, rounds * 5)
    slowed = {name: statistics.median(beside[name]) / statistics.median(alone[name]) for name in calls}
    return {
        "busy workspaces": float(BUSY),
        **{f"{name} alone us": statistics.median(alone[name]) * 1e6 for name in calls},
        **{f"{name} beside them us": statistics.median(beside[name]) * 1e6 for name in calls},
        **{f"{name} slowed by": value for name, value in slowed.items()},
    }


def now_and_then(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, once a round after a pause."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            threading.Event().wait(PAUSE)
            times[name] += interleave({name: call}, 1, 1)[name]
    return times


SECTIONS: dict[str, Callable[[int], dict[str, float]]] = {
    "one at a time": one_at_a_time,
    "pushed": pushed,
    "http": over_http,
    "busy": beside_busy_ones,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each comparison")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section only")
    parser.add_argument("--cpu", type=int, default=-1, help="the core that everything is pinned to; -1 for none")
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--gateway", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.floor:
        serve_floor()
        return
    if options.gateway:
        serve_gateway_here(options.gateway)
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
            print(f"  {name:32} {value:12.2f}")


if __name__ == "__main__":
    main()
