"""Servers in a thread of the test's own process, and detached ones; both end with their test."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bgpy.client import Client
from bgpy.connection import Connection, Dialer
from bgpy.protocol.handshake import ZERO_ID, ClientHello
from bgpy.records import Registry
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.system import kill_process, machine_identity, process_start_time, wait_for_end
from bgpy.taskset import TaskSet
from bgpy.token import find_token

Respond = Callable[..., None]


def nothing(*_: Any) -> dict[str, Any]:
    """Do nothing: an init task with an empty state, or an exit task."""
    return {}


def tasks(
    exec_task: Callable[..., Any], init_task: Callable[..., Any] = nothing, exit_task: Callable[..., Any] = nothing
) -> TaskSet:
    """Return a task set of which only the exec task matters."""
    return TaskSet(init_task, exec_task, exit_task)


def start_count(client_socket: ClientSocket) -> dict[str, Any]:
    """Make the state of a counter."""
    return {"count": 0}


def count(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Add `add` and respond with the count; `die` ends the process."""
    if args.get("die"):
        os._exit(1)
    state = {"count": state["count"] + args.get("add", 0)}
    client_socket.respond(state)
    return state


def end_count(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
    """Respond with the last count."""
    client_socket.respond({**state, "ended": True})


COUNTER = TaskSet(start_count, count, end_count)


def echo(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Respond with the arguments, and whether each array among them can be written to."""
    client_socket.respond({**args, "writable": all(value.flags.writeable for value in args.values())})
    return state


class Served:
    """
    A server that runs in a thread, and the clients that a test made for it.

    Parameters
    ----------
    options
        Those of `Server`.
    entrance
        What a client needs besides, such as its side of TLS.
    """

    def __init__(self, options: dict[str, Any], entrance: dict[str, Any]) -> None:
        self.server = Server(**options)
        self._entrance = {"token": options.get("token"), "host": self.server.host, "timeout": 30, **entrance}
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._exit_codes: list[int] = []
        self._clients: list[Client] = []
        self._thread = threading.Thread(target=self._serve, name="test-server")
        self._thread.start()
        failure = self._answers.get(timeout=20)
        if failure is not None:
            self._thread.join()
            raise failure
        self.port = self.server.port

    def client(self, **options: Any) -> Client:
        """Return a client that is closed with the server; `port` may be a proxy's."""
        client = Client(**{**self._entrance, "port": self.port, **options})
        self._clients.append(client)
        return client

    def join(self) -> int:
        """Wait for the end of the server and return its exit code."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self._exit_codes[0]

    def end(self) -> None:
        """Close the clients and end the server, unless it has ended."""
        for client in self._clients:
            client.close()
        if not self._exit_codes:
            # It may be ending already; whether it has ended is what `join` looks at.
            with Client(**{**self._entrance, "port": self.port}) as client, contextlib.suppress(ConnectionError):
                client.terminate()
        self.join()

    def _serve(self) -> None:
        try:
            self._exit_codes.append(self.server.run(ready=lambda: self._answers.put(None)))
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._answers.put(error)


def client_of(server: Served, **options: Any) -> Client:
    """Return a client that the test closes."""
    return Client(**{"port": server.port, "timeout": 20, **options})


@contextlib.contextmanager
def running_server(
    task_set: TaskSet | None = COUNTER, *, entrance: dict[str, Any] | None = None, **options: Any
) -> Iterator[Served]:
    """Run a server on a free port; see `Served`."""
    served = Served({"tasks": task_set, **options}, entrance or {})
    try:
        yield served
    finally:
        served.end()


@contextlib.contextmanager
def surviving_server(**options: Any) -> Iterator[Served]:
    """Run a server that still counts after all that the test has done to it."""
    with running_server(**options) as served:
        yield served
        assert served.client().execute({"add": 1}, await_response=True) == {"count": 1}


@contextlib.contextmanager
def background_server(task_set: Any = COUNTER, **options: Any) -> Iterator[Server]:
    """Start a detached server and see to it that its process has ended afterwards."""
    server = Server(tasks=task_set, **options)
    server.run_background()
    assert server.pid is not None
    start_time = process_start_time(server.pid)
    try:
        yield server
    finally:
        if start_time is not None:
            kill_process(server.pid, start_time)
            assert wait_for_end(server.pid, start_time, 10)


def end_recorded(registry: Registry) -> None:
    """End the servers that a registry knows, but for those of this very process, which are their tests' to end."""
    for record in registry.running():
        if record.pid != os.getpid():
            kill_process(record.pid, record.start_time)
            wait_for_end(record.pid, record.start_time, 10)
    registry.running()


@contextlib.contextmanager
def recorded_servers() -> Iterator[Registry]:
    """Give the registry, and end what runs in the end."""
    registry = Registry()
    yield registry
    end_recorded(registry)


@contextlib.contextmanager
def dial(
    port: int,
    *,
    token: str | None = None,
    lane: int = 0,
    context: Any = None,
    max_size: int = 1 << 30,
    machine: bytes | None = None,
    host: str = "127.0.0.1",
) -> Iterator[Connection]:
    """Open a connection as a client does, for tests that then misbehave."""
    dialer = Dialer(host, port, find_token(token), context, False, max_size, machine or machine_identity())
    connection = dialer.dial(ClientHello(b"c" * 16, lane, False, ZERO_ID), 20)
    try:
        yield connection
    finally:
        connection.close()
