"""The end of a server: the exit task runs once with the last state, whatever is still going on, and then the port is free."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.servers import (
    COUNTER,
    Served,
    background_server,
    count,
    dial,
    end_count,
    nothing,
    running_server,
    start_count,
    tasks,
)

import bgpy
from bgpy.client import Client
from bgpy.errors import (
    AnswerLostError,
    ConnectError,
    ConnectionLostError,
    ExitSkippedError,
    NoResponseError,
    RemoteError,
    SerializationError,
    ServerEndingError,
)
from bgpy.protocol.calls import Call, read_answer
from bgpy.protocol.frames import FLAG_AWAIT, FLAG_STREAM
from bgpy.protocol.messages import MessageType, dump
from bgpy.records import Registry
from bgpy.server import Server
from bgpy.sockets import ClientSocket
from bgpy.system import process_alive, process_start_time, wait_for_end
from bgpy.taskset import concurrent

Args = dict[str, Any]
State = dict[str, Any]
ROOT = str(Path(bgpy.__file__).parents[1])

SCRIPT = """
import ctypes, os, sys, threading
import bgpy.serving.ending
from bgpy.server import Server
from bgpy.taskset import TaskSet

bgpy.serving.ending._WATCHDOG_MARGIN = 0.2

def start():
    return {"count": 0}

def count(client_socket, state, args):
    if args.get("hang"):
        ctypes.PyDLL(None).pause()  # holds the interpreter's lock
    return {"count": state["count"] + 1}

def end(client_socket, state, args):
    how = sys.argv[1]
    if how == "hang in C":
        hang_in_c()
    print("exit task", state["count"], flush=True)
    if how == "hang":
        threading.Event().wait()
    if how == "hang with the lock held":
        ctypes.PyDLL(None).pause()
    if how == "raise":
        raise ValueError("at the end")

def hang_in_c():
    # The line is printed when this thread first lets another one run: when it waits for ever, and no signal wakes it.
    gate = threading.Event()
    sys.setswitchinterval(1000)
    threading.Thread(target=lambda: gate.wait() and print("exit task 0", flush=True), daemon=True).start()
    mutex = ctypes.create_string_buffer(64)
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    wait = ctypes.CDLL(None).pthread_mutex_lock
    gate.set()
    wait(mutex)

server = Server(tasks=TaskSet(start, count, end))
sys.exit(server.run(ready=lambda: print(server.port, flush=True)))
"""


class Process:
    """A foreground server in a process of its own."""

    def __init__(self, folder: Path, how: str) -> None:
        script = folder / "serve.py"
        script.write_text(SCRIPT)
        self.popen = subprocess.Popen(
            [sys.executable, str(script), how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        self.port = int(self.line())

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the errors."""
        _, errors = self.popen.communicate(timeout=20)
        return self.popen.returncode, errors


@contextlib.contextmanager
def process(folder: Path, how: str = "") -> Iterator[Process]:
    started = Process(folder, how)
    try:
        yield started
    finally:
        started.popen.kill()
        started.popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_runs_the_exit_task_once_with_the_last_state(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path) as server:
        with Client(port=server.port, timeout=20) as client:
            for _ in range(3):
                client.execute({})  # confirmed: these run before the end
            server.popen.send_signal(number)
            assert server.line() == "exit task 3"
            assert server.end() == (0, "")


def test_an_exit_task_that_raises_is_exit_code_1(tmp_path: Path) -> None:
    with process(tmp_path, "raise") as server:
        server.popen.terminate()
        assert server.line() == "exit task 0"
        code, errors = server.end()
        assert code == 1
        assert "at the end" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["hang", "hang in C"])
def test_a_second_signal_is_the_end(tmp_path: Path, number: signal.Signals, how: str) -> None:
    """Also where the main thread waits in C, and no handler of Python runs."""
    with process(tmp_path, how) as server:
        server.popen.terminate()
        assert server.line() == "exit task 0"
        server.popen.send_signal(number)
        assert server.end() == (128 + number, "")


def test_an_exit_task_that_holds_the_interpreters_lock_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    with process(tmp_path, "hang with the lock held") as server, Client(port=server.port) as client:
        with pytest.raises(ConnectionLostError) as caught:
            client.terminate(timeout=0.1)
        assert caught.value.executed is None
        code, errors = server.end()
        assert code == 1
        assert "Timeout" in errors
        assert "in end\n" in errors


def test_terminate_returns_what_the_exit_task_responds() -> None:
    with running_server() as server:
        client = server.client()
        client.execute({"add": 5})
        assert client.terminate(await_response=True) == {"count": 5, "ended": True}
        assert server.join() == 0


def test_terminate_without_a_wait_for_the_response_is_confirmed() -> None:
    with running_server() as server:
        assert server.client().terminate() == {"message": "Received 'EXIT'"}
        assert server.join() == 0


def test_a_server_without_tasks_ends_too() -> None:
    with running_server(None) as server:
        assert server.client().terminate() == {"message": "Received 'EXIT'"}
        assert server.join() == 0
    with running_server(None) as server, pytest.raises(NoResponseError):
        server.client().terminate(await_response=True)


def raise_at_the_end(client_socket: ClientSocket, state: State, args: Args) -> None:
    raise ValueError(f"at the end of {args['what']}")


def test_an_exit_task_that_raises_or_does_not_respond_is_told_and_the_server_ends() -> None:
    with running_server(tasks(count, start_count, raise_at_the_end)) as server:
        with pytest.raises(RemoteError, match="at the end of all") as caught:
            server.client().terminate({"what": "all"})
        assert isinstance(caught.value.__cause__, ValueError)
        assert server.join() == 1
    with running_server(tasks(count)) as server:
        with pytest.raises(NoResponseError):
            server.client().terminate(await_response=True)
        assert server.join() == 0


class Held:
    """A counter whose requests wait at a gate where `hold` is said, and an exit task that may wait too."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.exiting = threading.Event()
        self.exit = threading.Event()

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> State:
        if args.get("hold"):
            self.begun.set()
            assert self.open.wait(20)
        return count(client_socket, state, args)

    def end(self, client_socket: ClientSocket, state: State, args: Args) -> None:
        self.exiting.set()
        if args.get("hold"):
            assert self.exit.wait(20)
        end_count(client_socket, state, args)


@pytest.fixture
def held() -> Iterator[tuple[Held, Served]]:
    gates = Held()
    with running_server(tasks(gates.run, start_count, gates.end)) as server:
        yield gates, server
        gates.open.set()
        gates.exit.set()


def test_requests_confirmed_before_terminate_run_before_the_exit_task(held: tuple[Held, Served]) -> None:
    gates, server = held
    client = server.client()
    first = client.submit({"add": 1, "hold": True})
    assert gates.begun.wait(20)
    for _ in range(10):
        client.execute({"add": 1})
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(server.client().terminate, await_response=True)
        gates.open.set()
        assert ended.result(20) == {"count": 11, "ended": True}
    assert first.result(20) == {"count": 1}


def test_requests_that_come_while_the_server_ends_are_refused(held: tuple[Held, Served]) -> None:
    gates, server = held
    early = server.client(max_connections=1)
    early.execute({"add": 1}, await_response=True)
    early.status()
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(server.client().terminate, {"hold": True}, await_response=True)
        assert gates.exiting.wait(20)
        for awaited in (True, False):
            with pytest.raises(ServerEndingError) as caught:
                early.execute({"add": 1}, await_response=awaited)
            assert caught.value.executed is False
        with pytest.raises(ServerEndingError):
            early.terminate()
        assert early.status()["initialized"] is True
        with pytest.raises(ConnectError):
            server.client().execute({"add": 1})
        gates.exit.set()
        assert ended.result(20) == {"count": 1, "ended": True}


@pytest.mark.parametrize("grace", [0, 0.1])
def test_a_task_that_outlasts_the_grace_costs_the_exit_task_and_nobody_waits_for_ever(
    held: tuple[Held, Served], grace: float
) -> None:
    gates, server = held
    client = server.client()
    running = client.submit({"add": 1, "hold": True})
    assert gates.begun.wait(20)
    waiting = [client.submit({"add": 1}) for _ in range(40)]
    with pytest.raises(ExitSkippedError) as caught:
        server.client().terminate(timeout=grace)
    assert caught.value.grace == grace
    for future in waiting:
        with pytest.raises(ServerEndingError) as refused:
            future.result(20)
        assert refused.value.executed is False
    with pytest.raises(ConnectionLostError) as lost:
        running.result(20)
    assert lost.value.executed is None
    gates.open.set()
    assert server.join() == 1
    assert not gates.exiting.is_set()


def test_concurrent_tasks_end_before_the_exit_task() -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def run(client_socket: ClientSocket, state: State, args: Args) -> None:
        begun.set()
        assert go_on.wait(20)
        order.append("task")
        client_socket.respond({"done": True})

    def end(client_socket: ClientSocket, state: State, args: Args) -> None:
        order.append("exit task")

    with running_server(tasks(concurrent(run), exit_task=end)) as server:
        future = server.client().submit({})
        assert begun.wait(20)
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(server.client().terminate)
            go_on.set()
            ended.result(20)
        assert future.result(20) == {"done": True}
        assert order == ["task", "exit task"]


def test_what_is_still_deferred_at_the_end_is_told_to_be_lost() -> None:
    def run(client_socket: ClientSocket, state: State, args: Args) -> None:
        client_socket.defer()

    with running_server(tasks(concurrent(run))) as server:
        future = server.client().submit({})
        server.client().terminate()
        with pytest.raises(AnswerLostError) as caught:
            future.result(20)
        assert caught.value.executed is True


def test_a_client_that_does_not_read_its_stream_does_not_hold_up_the_end() -> None:
    """The end waited for the part that was stuck with that client: its own answer was never sent."""
    waiting: list[ClientSocket] = []
    deferred = threading.Event()

    def run(client_socket: ClientSocket, state: State, args: Args) -> None:
        client_socket.defer()
        waiting.append(client_socket)
        deferred.set()

    def end(client_socket: ClientSocket, state: State, args: Args) -> None:
        client_socket.respond({"exit": "task ran"})

    with (
        running_server(tasks(concurrent(run), exit_task=end)) as server,
        dial(server.port) as connection,
        ThreadPoolExecutor(1) as threads,
    ):
        connection.transmit(MessageType.EXEC, FLAG_AWAIT | FLAG_STREAM, 0, 1, dump({}))
        assert deferred.wait(20)
        stuck = threads.submit(waiting[0].respond, {"large": bytearray(64 << 20)}, more=True)
        assert select.select([connection.wire.sock], [], [], 20)[0]  # the part is on its way, and nobody takes it
        assert server.client().terminate(await_response=True, timeout=2) == {"exit": "task ran"}
        connection.close()
        stuck.result(20)


def test_the_port_is_free_when_terminate_returns() -> None:
    with running_server() as first:
        port = first.port
        for _ in range(10):
            first.client().execute({}, await_response=True)
        first.client().terminate()
        for _ in range(20):
            with running_server(port=port) as server:
                server.client().execute({}, await_response=True)
                server.client().status()
                server.client().terminate()


FORKS = """
import os

def init_task():
    return {}

def exec_task(client_socket, state, args):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"x")  # what is to be closed in the child is closed by now
        with open(args["fifo"]) as fifo:
            fifo.read()
        os._exit(0)
    os.read(read, 1)
    client_socket.respond({"child": child})
    return state

def exit_task(client_socket, state, args):
    pass
"""


@pytest.mark.process
def test_a_forked_child_of_a_task_keeps_neither_port_nor_connections_nor_name_alive(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with background_server(None, init_file=str(tmp_path / "forks.py"), name="forking") as server:
        assert server.pid is not None
        with Client(port=server.port, timeout=20) as client, socket.create_connection(("127.0.0.1", server.port)) as idle:
            child = client.execute({"fifo": str(fifo)}, await_response=True)["child"]
            start_time = process_start_time(child)
            assert start_time is not None
            with open(fifo, "w"):
                os.kill(server.pid, signal.SIGKILL)
                idle.settimeout(20)
                assert idle.recv(1) == b""
                with pytest.raises((ConnectError, ConnectionLostError)):
                    client.execute({})
                with background_server(name="forking", port=server.port) as successor, Client(port=successor.port) as second:
                    assert second.execute({"add": 1}, await_response=True) == {"count": 1}
                assert process_alive(child, start_time)


@pytest.mark.process
def test_a_detached_server_ends_by_a_signal_with_its_record_gone_and_its_exit_task_run(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with background_server(tasks(count, start_count, print_count), name="counted", log_file=str(log)) as server:
        assert server.pid is not None
        with Client(port=server.port, timeout=20) as client:
            client.execute({"add": 7})
            assert [record.name for record in Registry().running()] == ["counted"]
            start_time = process_start_time(server.pid)
            assert start_time is not None
            os.kill(server.pid, signal.SIGTERM)
            assert wait_for_end(server.pid, start_time, 20)
    assert "exit task 7" in log.read_text()
    assert list(Registry().running()) == []


def print_count(client_socket: ClientSocket, state: State, args: Args) -> None:
    sys.stdout.write(f"exit task {state['count']}\n")


def test_two_servers_cannot_have_one_name() -> None:
    with running_server(name="one"), pytest.raises(bgpy.errors.NameTakenError):
        Server(tasks=COUNTER, name="one").run()
    with running_server(tasks(nothing), name="one"):
        assert [record.name for record in Registry().running()] == ["one"]
    assert list(Registry().running()) == []


@pytest.mark.parametrize("grace", [float("inf"), float("nan"), -1.0, 1e10])
def test_a_grace_that_is_none_is_refused_and_the_server_can_be_ended_all_the_same(grace: float) -> None:
    """It was found out when the end had begun: from then on nothing ended the server."""
    with running_server() as server:
        client = server.client()
        with pytest.raises(ValueError, match="within 0 to 86400 s"):
            client.terminate(timeout=grace)
        message: dict[str, Any] = {"args": {}, "grace": grace}
        call = Call(MessageType.EXIT, FLAG_AWAIT, dump(message), message)
        with pytest.raises(SerializationError, match="within 0 to 86400 s") as caught:
            read_answer(call.message, client._first_frame(call, None))
        assert caught.value.executed is False
        assert client.terminate(await_response=True) == {"count": 0, "ended": True}
        assert server.join() == 0


def test_a_forked_child_of_a_task_ends_by_a_signal_as_any_process_does() -> None:
    """It had the server's handler, and wrote the signal to whatever file had the number of the server's pipe."""
    with background_server(tasks(end_a_child)) as server, Client(port=server.port, timeout=30) as client:
        assert client.execute({}, await_response=True) == {"exit code": -signal.SIGTERM}


def end_a_child(client_socket: ClientSocket, state: State, args: Args) -> State:
    child = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
    child.start()
    child.terminate()
    child.join(20)
    client_socket.respond({"exit code": child.exitcode})
    return state
