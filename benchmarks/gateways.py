"""
Several gateways in front of one server: how much more they carry than one does, and what each takes of the server.

    python benchmarks/gateways.py [--rounds 7] [--seconds 2] [--connections 16]

The same number of connections asks one gateway, or is shared between two, in turns within one run; each connection has a
workspace of its own, in a process, and asks again as soon as it is answered. The client is one thread of this process, and the
server one process, so on two cores two gateways share with those what there is.

Then for one, two and four gateways: the connections that they have to the server, and its threads, files and memory, before the
first request, after as many requests at once as there are connections, and with as many watchers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import ratio
from predict_http import Connection, drive

import bgpy
from bgpy.token import token_create

ROOT = Path(__file__).resolve().parents[1]
JOB = {"job": "x = 1", "type": "script", "timeout": 20}
FLEETS = (1, 2, 4)
SCRIPT = """
import json, sys
from bgpy.gateway import GatewayServer, Settings
server = GatewayServer(Settings(**json.loads(sys.stdin.readline())))
print(server.address[1], flush=True)
import threading
threading.Thread(target=lambda: (sys.stdin.read(), server.stop()), daemon=True).start()
server.run()
"""


@contextlib.contextmanager
def gateways(number: int, port: int, token: str) -> Iterator[list[int]]:
    """Run gateways as processes of their own, in front of the server at a port; give theirs."""
    started = []
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
            )
            stack.enter_context(process)
            stack.callback(end, process)
            process.stdin.write(json.dumps({"port": port, "token": token, "bind_port": 0}) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            started.append(process)
        yield [int(process.stdout.readline()) for process in started]  # type: ignore[union-attr]


def end(process: subprocess.Popen[str]) -> None:
    """Let a gateway end, which the end of its input tells it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    finally:
        process.kill()


class Load:
    """
    Connections that ask gateways.

    Parameters
    ----------
    ports
        Of the gateways, which the connections are shared between.
    """

    def __init__(self, ports: list[int], token: str, number: int, path: str, **fields: Any) -> None:
        self.connections = []
        for index in range(number):
            port = ports[index % len(ports)]
            body = json.dumps({"name": f"w{index}", **fields}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            self.connections.append(Connection(port, request))

    def rate(self, seconds: float) -> float:
        """Return the answers a second, over that time."""
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                selector.register(connection.sock, selectors.EVENT_READ, connection)
            times = drive(selector, self.connections, seconds)
        for connection in self.connections:
            answer = json.loads(connection.parts()[1])
            assert answer["request_result"] is True, answer
        return len(times) / seconds

    def close(self) -> None:
        """Leave."""
        for connection in self.connections:
            connection.sock.close()


def compare(port: int, token: str, args: argparse.Namespace) -> None:
    """Print how much two gateways carry, against one."""
    with gateways(3, port, token) as (alone, *two):
        for name, path, fields in (("jobs", "/push_job", JOB), ("status", "/get_status", {})):
            loads = {"one": Load([alone], token, args.connections, path, **fields)}
            loads["two"] = Load(two, token, args.connections, path, **fields)
            rates: dict[str, list[float]] = {"one": [], "two": []}
            for load in loads.values():
                load.rate(args.seconds / 4)
            for _ in range(args.rounds):
                for which, load in loads.items():
                    rates[which].append(load.rate(args.seconds))
            for load in loads.values():
                load.close()
            one, both = (statistics.median(rates[which]) for which in ("one", "two"))
            print(f"{name:8}{one:10.0f} /s{both:10.0f} /s    two against one: {ratio(rates, 'two', 'one'):.2f}", flush=True)


def footprint(client: bgpy.Client, pid: int) -> tuple[float, ...]:
    """Return connections, threads, open files and MiB of the server."""
    status = client.status()
    counts = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("task", "fd"))
    return status["connections"], *counts, status["memory"] / 2**20


def watch(ports: list[int], token: str, number: int) -> list[Connection]:
    """Return connections that watch a workspace each, once the first event of each is there."""
    body = json.dumps({"name": "w0"}).encode()
    head = f"POST /watch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    connections = [Connection(ports[index % len(ports)], head.encode() + body) for index in range(number)]
    for connection in connections:
        connection.send()
    for connection in connections:
        assert connection.sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
    return connections


def measure_footprint(server: bgpy.Server, token: str, args: argparse.Namespace) -> None:
    """Print what gateways take of a server; only Linux tells threads and files."""
    assert server.pid is not None
    print(f"\n{'gateways':10}{'':24}{'connections':>12}{'threads':>10}{'files':>8}{'MiB':>8}")
    with bgpy.Client(server.host, server.port, token) as client:
        for number in FLEETS:
            with gateways(number, server.port, token) as ports:
                base = footprint(client, server.pid)
                said = {"before a request": base}
                load = Load(ports, token, args.connections * number, "/get_status")
                load.rate(0.5)
                said[f"{args.connections} requests each"] = footprint(client, server.pid)
                watchers = watch(ports, token, args.connections * number)
                said[f"{args.connections} watchers each"] = footprint(client, server.pid)
                load.close()
                for connection in watchers:
                    connection.sock.close()
            for what, counts in said.items():
                connections, threads, files, memory = (count - before for count, before in zip(counts, base, strict=True))
                print(f"{number:<10}{what:24}{connections:12}{threads:10}{files:8}{memory:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=16)
    args = parser.parse_args()
    token = token_create()
    server = bgpy.Server("127.0.0.1", 0, token, tasks="bgpy.tasks.workspace")
    server.run_background()
    with bgpy.Client(server.host, server.port, token) as client:
        try:
            for index in range(args.connections * max(FLEETS)):
                kind = "process" if index < args.connections else "thread"
                client.execute({"command": "create_workspace", "name": f"w{index}", "type": kind}, await_response=True)
            print(f"{args.connections} connections{'one':>8}{'two':>14}", flush=True)
            compare(server.port, token, args)
            measure_footprint(server, token, args)
        finally:
            client.terminate()


if __name__ == "__main__":
    main()
