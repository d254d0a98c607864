"""What a client does for its callers: waits that end, threads, forks, streams, futures, tasks that answer later."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.peers import FalseServer, open_as_server
from support.proxies import Proxy
from support.servers import Served, count, running_server, start_count, tasks

import bgpy
import bgpy.serving.requests
import bgpy.sockets
from bgpy.client import Client
from bgpy.connection import Dialer
from bgpy.errors import (
    ClientClosedError,
    ConnectError,
    NoResponseError,
    OwnServerError,
    PythonVersionError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    TokenError,
)
from bgpy.protocol import exchange
from bgpy.protocol.frames import encode_frame
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket
from bgpy.taskset import concurrent

Args = dict[str, Any]
State = dict[str, Any]
ROOT = str(Path(bgpy.__file__).parents[1])


class Slow:
    """A counter whose requests wait at a gate where `slow` is said."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> State:
        if args.get("slow"):
            self.begun.release()
            assert self.open.wait(20)
        return count(client_socket, state, args)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def server(slow: Slow) -> Iterator[Served]:
    with running_server(tasks(slow.run, start_count)) as served:
        yield served
        slow.open.set()


@pytest.mark.parametrize("connected", [False, True])
def test_a_timeout_gives_up_the_wait_and_not_the_request(server: Served, slow: Slow, connected: bool) -> None:
    client = server.client()
    if connected:
        client.execute({}, await_response=True)
    with pytest.raises(RequestTimeoutError) as caught:
        client.execute({"add": 1, "slow": True}, await_response=True, timeout=0.5)
    assert caught.value.executed is None
    assert caught.value.timeout == 0.5
    second = client.submit({"add": 10})
    slow.open.set()
    # The late answer met nobody: this is the answer to this request.
    assert second.result(20) == {"count": 11}


def test_the_clients_own_timeout_is_that_of_each_request(server: Served, slow: Slow) -> None:
    client = server.client(timeout=0.5)  # enough to connect
    with pytest.raises(RequestTimeoutError):
        client.execute({"slow": True}, await_response=True)
    slow.open.set()
    assert client.execute({"add": 1}, await_response=True, timeout=20) == {"count": 1}


def test_a_submitted_request_times_out_in_its_future(server: Served, slow: Slow) -> None:
    client = server.client()
    future = client.submit({"add": 1, "slow": True}, timeout=0.1)
    with pytest.raises(RequestTimeoutError) as caught:
        future.result(20)
    assert caught.value.executed is None
    slow.open.set()
    assert client.execute({}, await_response=True) == {"count": 1}


def test_a_pool_that_is_used_up_lets_threads_wait_until_their_time_is_up(server: Served, slow: Slow) -> None:
    client = server.client(max_connections=2)
    futures = [client.submit({"add": 1, "slow": True}) for _ in range(2)]
    with pytest.raises(RequestTimeoutError, match="2 connections") as caught:
        client.execute({"add": 1}, timeout=0.05)
    assert caught.value.executed is False
    assert client.status()["connections"] == 3  # a connection of its own: it gets through
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.execute, {"add": 1}, await_response=True)
        slow.open.set()
        assert waiting.result(20) == {"count": 3}
    assert [future.result(20)["count"] for future in futures] == [1, 2]


def test_a_server_that_takes_no_bytes_is_given_up_after_the_timeout() -> None:
    """The request is larger than all that lies between: its last byte never leaves."""
    done = threading.Event()

    def serve(sock: Any) -> None:
        open_as_server(sock)
        assert done.wait(20)

    with FalseServer(serve) as server, Client(port=server.port) as client:
        try:
            with pytest.raises(RequestTimeoutError) as caught:
                client.execute({"data": bytes(64 << 20)}, timeout=0.2)
        finally:
            done.set()
        assert caught.value.executed is False


def test_a_server_that_does_not_come_back_is_given_up_after_the_timeout() -> None:
    """The connection is cut after the request, and the new one is taken but never answered."""
    done = threading.Event()
    connections: list[Any] = []

    def serve(sock: Any) -> None:
        connections.append(sock)
        if len(connections) == 1:
            open_as_server(sock).receive()
        else:
            assert done.wait(20)

    with FalseServer(serve) as server, Client(port=server.port) as client:
        try:
            with pytest.raises(RequestTimeoutError) as caught:
                client.execute({}, timeout=0.2)
        finally:
            done.set()
        assert caught.value.executed is None


def test_a_port_that_does_not_answer_the_opening_costs_the_connect_timeout() -> None:
    done = threading.Event()
    with FalseServer(lambda sock: done.wait(20)) as server, Client(port=server.port, connect_timeout=0.1) as client:
        try:
            with pytest.raises(ConnectError, match=r"within 0\.1 s") as caught:
                client.execute({})
        finally:
            done.set()
        assert caught.value.executed is False


def test_nobody_listens_and_unknown_names() -> None:
    with Proxy(1) as closed:
        port = closed.port
    with Client(port=port) as client, pytest.raises(ConnectError, match="refused"):
        client.execute({})
    with Client("no-such-host.invalid", 1) as client, pytest.raises(ConnectError):
        client.status()


@pytest.mark.parametrize("frames", ["unasked", "other number", "other kind", "garbage", "no dict"])
def test_what_no_server_sends_is_a_protocol_error(frames: str) -> None:
    def serve(sock: Any) -> None:
        connection = open_as_server(sock)
        frame = connection.receive()
        payload = dump({"fine": True})
        if frames == "unasked":
            connection.transmit(MessageType.OK, 0, 5, frame.number, payload)
        elif frames == "other number":
            connection.transmit(MessageType.OK, 0, 0, frame.number + 1, payload)
        elif frames == "other kind":
            connection.wire.send(encode_frame(MessageType.EXEC, 0, 0, frame.number, payload.pickle, []))
        elif frames == "garbage":
            sock.sendall(b"\xff" * 64)
        else:
            connection.transmit(MessageType.OK, 0, 0, frame.number, dump([1]))
        assert sock.recv(1) == b""

    with FalseServer(serve) as server, Client(port=server.port, timeout=20) as client:
        with pytest.raises(RemoteProtocolError):
            client.execute({}, await_response=True)


def test_a_closed_client_says_so(server: Served) -> None:
    with server.client() as client:
        client.execute({})
    with pytest.raises(ClientClosedError):
        client.execute({})
    client.close()


def test_closing_a_client_leaves_its_submitted_request_its_answer(server: Served, slow: Slow) -> None:
    client = server.client()
    future = client.submit({"add": 1, "slow": True})
    client.close()
    slow.open.set()
    assert future.result(20) == {"count": 1}


def test_a_client_logs_where_it_is_told_to(server: Served, tmp_path: Path) -> None:
    logger = logging.getLogger("bgpy.client")
    level = logger.level
    try:
        with server.client(log_level="DEBUG", log_file=str(tmp_path / "client.log")):
            logger.debug("a line")
        assert logger.level == logging.DEBUG
        assert "a line" in (tmp_path / "client.log").read_text()
        assert not logger.handlers
    finally:
        logger.setLevel(level)


def stream(client_socket: ClientSocket, state: State, args: Args) -> State:
    """Respond with some parts, then as told."""
    for part in range(args["parts"]):
        client_socket.respond({"part": part}, more=True)
    if args.get("then") == "last":
        client_socket.respond({"part": "last"})
    if args.get("then") == "raise":
        raise ValueError("in the middle")
    return state


def test_a_stream_ends_with_its_last_part_with_the_task_or_with_its_error() -> None:
    with running_server(tasks(stream)) as server:
        client = server.client()
        assert list(client.stream({"parts": 3, "then": "last"})) == [{"part": 0}, {"part": 1}, {"part": 2}, {"part": "last"}]
        assert list(client.stream({"parts": 2})) == [{"part": 0}, {"part": 1}]
        parts = client.stream({"parts": 1, "then": "raise"})
        assert next(parts) == {"part": 0}
        with pytest.raises(RemoteError, match="in the middle"):
            next(parts)
        with pytest.raises(NoResponseError):
            list(client.stream({"parts": 0}))
        # Who does not stream gets the last one alone, and left in the middle the rest meets nobody.
        assert client.execute({"parts": 3, "then": "last"}, await_response=True) == {"part": "last"}
        parts = client.stream({"parts": 5, "then": "last"})
        assert next(parts) == {"part": 0}
        parts.close()  # type: ignore[attr-defined]
        assert list(client.stream({"parts": 1})) == [{"part": 0}]


class Later:
    """A concurrent task that answers when somebody lets it."""

    def __init__(self) -> None:
        self.sockets: list[ClientSocket] = []
        self.deferred = threading.Semaphore(0)
        self.together = threading.Barrier(3)
        self.answers: list[BaseException] = []
        self.task = concurrent(lambda client_socket, state, args: self.run(client_socket, state, args))

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> Any:
        how = args["how"]
        if how == "together":
            self.together.wait(20)
            client_socket.respond({"together": True})
            return None
        if how == "raise":
            client_socket.defer()
            raise ValueError("instead of deferring")
        if how == "number":
            return 7
        client_socket.defer(args.get("timeout", 3600))
        self.sockets.append(client_socket)
        self.deferred.release()
        return None


@pytest.fixture
def later() -> Iterator[tuple[Later, Served]]:
    tasks_ = Later()
    with running_server(tasks(tasks_.task)) as served:
        yield tasks_, served


def test_concurrent_tasks_run_at_the_same_time(later: tuple[Later, Served]) -> None:
    client = later[1].client()
    futures = [client.submit({"how": "together"}) for _ in range(3)]
    assert [future.result(20) for future in futures] == [{"together": True}] * 3


def test_a_deferred_request_is_answered_from_another_thread(later: tuple[Later, Served]) -> None:
    client = later[1].client()
    futures = [client.submit({"how": "defer"}) for _ in range(3)]
    for _ in futures:
        assert later[0].deferred.acquire(timeout=20)
    assert client.execute({"how": "number"}) == {"message": "Received 'EXEC'"}  # nobody stands in the way
    for number, client_socket in enumerate(reversed(later[0].sockets)):
        client_socket.respond({"number": number})
    assert sorted(future.result(20)["number"] for future in futures) == [0, 1, 2]
    with pytest.raises(ResponseError):
        later[0].sockets[0].respond({"number": 9})


def test_a_deferred_stream(later: tuple[Later, Served]) -> None:
    parts = later[1].client().stream({"how": "defer"})
    with ThreadPoolExecutor(1) as threads:
        everything = threads.submit(list, parts)
        assert later[0].deferred.acquire(timeout=20)
        for number in range(3):
            later[0].sockets[0].respond({"part": number}, more=number < 2)
        assert everything.result(20) == [{"part": 0}, {"part": 1}, {"part": 2}]


def test_a_deferred_request_that_nobody_answers_ends_at_its_deadline(later: tuple[Later, Served]) -> None:
    client = later[1].client()
    with pytest.raises(NoResponseError):
        client.execute({"how": "defer", "timeout": 0.05}, await_response=True)
    with pytest.raises(ResponseError, match="deadline"):
        later[0].sockets[0].respond({"too": "late"})


def test_a_concurrent_task_that_raises_or_does_not_respond_is_told_at_once(later: tuple[Later, Served]) -> None:
    client = later[1].client()
    with pytest.raises(RemoteError, match="instead of deferring"):
        client.execute({"how": "raise"}, await_response=True)
    with pytest.raises(NoResponseError):
        client.execute({"how": "number"}, await_response=True)


def test_a_deferred_request_that_nobody_waits_for_ends_with_its_task(later: tuple[Later, Served]) -> None:
    client = later[1].client(max_connections=1)
    client.execute({"how": "defer"})
    client.execute({"how": "defer"})
    assert client.status()["failed"] == 0


class Inward:
    """A task that calls its own server."""

    def __init__(self) -> None:
        self.client: Client

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> State:
        if args.get("status"):
            client_socket.respond({"requests": self.client.status()["requests"]})
        elif args.get("inward"):
            client_socket.respond(self.client.execute({"add": 1}, await_response=True))
        else:
            return count(client_socket, state, args)
        return state


def test_a_task_that_calls_its_own_server_is_told_at_once() -> None:
    inward = Inward()
    with running_server(tasks(inward.run, start_count)) as server:
        inward.client = server.client()
        client = server.client()
        with pytest.raises(RemoteError) as caught:
            client.execute({"inward": True}, await_response=True)
        assert isinstance(caught.value.__cause__, OwnServerError)
        assert client.execute({"status": True}, await_response=True)["requests"] == 3  # the status is no wait for itself
        assert client.execute({}, await_response=True) == {"count": 0}


def test_a_concurrent_task_may_call_its_own_server() -> None:
    inward = Inward()

    def run(client_socket: ClientSocket, state: State, args: Args) -> None:
        if args.get("inward"):
            client_socket.respond(inward.client.execute({"add": 1}, await_response=True))
        else:
            client_socket.respond({"reached": True})

    with running_server(tasks(concurrent(run))) as server:
        inward.client = server.client()
        assert server.client().execute({"inward": True}, await_response=True) == {"reached": True}


def test_a_task_may_call_another_server() -> None:
    inward = Inward()
    with running_server() as other, running_server(tasks(inward.run, start_count)) as server:
        inward.client = other.client()
        assert server.client().execute({"inward": True}, await_response=True) == {"count": 1}
        assert server.client().execute({}, await_response=True) == {"count": 0}


FORKING = """
import os, sys, threading
from bgpy.client import Client

client = Client(port=int(sys.argv[1]), timeout=20)
print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
held, free = threading.Event(), threading.Event()

def hold():
    with client._status_pool._lock:
        held.set()
        free.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    # The lock that another thread of the parent held at the fork does not hold the child up.
    client.status()
    print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
    client.close()
    os._exit(0)
free.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(client.execute({"add": 1}, await_response=True)["count"], flush=True)
client.close()
"""


def test_a_forked_child_uses_connections_and_numbers_of_its_own(server: Served, tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(server.port)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=50,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n2\n3\n", "", 0)


def give_code(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"function": lambda: 1} if args.get("code") else {"fine": True})
    return state


def test_code_by_value_does_not_travel_between_two_versions_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tasks(give_code)) as server:
        client = server.client()
        assert client.execute({"code": True}, await_response=True)["function"]() == 1
        assert client.execute({"function": lambda: 2}, await_response=True) == {"fine": True}
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        for module, args, executed in ((exchange, {"function": lambda: 2}, False), (bgpy.sockets, {"code": True}, True)):
            with monkeypatch.context() as patched:
                patched.setattr(module, "own_python", lambda: "3.99")
                with pytest.raises(PythonVersionError) as caught:
                    client.execute(args, await_response=True)
            assert (caught.value.ours, caught.value.theirs, caught.value.executed) == ("3.99", here, executed)
            assert client.execute({"plain": 1}, await_response=True) == {"fine": True}


def test_connections_are_kept_and_reused(server: Served) -> None:
    with Proxy(server.port) as proxy:
        client = server.client(port=proxy.port)
        for _ in range(50):
            client.execute({"add": 1}, await_response=True)
            client.execute({"add": 1})
        client.execute({}, await_response=True)
        assert len(proxy.links) <= 3


def test_futures_cannot_be_cancelled_and_hold_the_tasks_error(server: Served, slow: Slow) -> None:
    client = server.client()
    future = client.submit({"slow": True, "add": "text"})
    assert not future.cancel()
    slow.open.set()
    with pytest.raises(RemoteError, match="TypeError"):
        future.result(20)


def test_the_log_of_a_client_tells_of_its_connections(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "client.log"
    with server.client(log_level="DEBUG", log_file=str(path)) as client:
        client.execute({"add": 1}, await_response=True)
    assert "DEBUG bgpy.client: Lane 0 connected to 127.0.0.1:" in path.read_text()


def test_a_closed_client_has_no_status(server: Served) -> None:
    client = server.client()
    client.close()
    with pytest.raises(ClientClosedError):
        client.status()


FORKED_THREADS = """
import os, sys, threading
from bgpy.client import Client

client = Client(port=int(sys.argv[1]), timeout=20)
client.execute({"who": "parent"}, await_response=True)
child = os.fork()
if not child:
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(12)
    wrong = []

    def work(who):
        barrier.wait()
        for _ in range(2):
            try:
                answer = client.execute({"who": who}, await_response=True)
            except Exception as error:
                answer = error
            if answer != {"who": who}:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(min(len(wrong), 100))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def echo_who(client_socket: ClientSocket, state: State, args: Args) -> State:
    client_socket.respond({"who": args["who"]})
    return state


def test_threads_of_a_forked_child_do_not_share_a_lane(tmp_path: Path) -> None:
    """Two of them began anew at once, with one id and two pools: each got answers of the other."""
    script = tmp_path / "forking.py"
    script.write_text(FORKED_THREADS)
    with running_server(tasks(echo_who)) as server:
        for _ in range(5):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", str(script), str(server.port)],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": ROOT},
                timeout=50,
            )
            assert (done.stdout, done.stderr) == ("0\n", "")


class Told(Exception):
    """An exception that both sides know."""


def raise_at_length(client_socket: ClientSocket, state: State, args: Args) -> State:
    raise Told("x" * 5000)


def test_an_error_is_cut_to_what_the_client_takes() -> None:
    """It was above the client's limit: an awaited one was lost, and one that nobody awaited hit the next request."""
    with running_server(tasks(raise_at_length)) as server:
        client = server.client(max_message_size=3000, max_connections=1)
        client.execute({})
        with pytest.raises(RemoteError) as caught:
            client.execute({}, await_response=True)
        assert caught.value.type_name.endswith("Told")
        assert caught.value.message.startswith("xxx")


def raise_local(client_socket: ClientSocket, state: State, args: Args) -> State:
    class Local(Exception):
        pass

    raise Local("by value")


def test_an_exception_by_value_does_not_travel_to_another_version_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tasks(raise_local)) as server:
        client = server.client()
        with pytest.raises(RemoteError, match="by value") as caught:
            client.execute({}, await_response=True)
        assert caught.value.__cause__ is not None
        monkeypatch.setattr(bgpy.serving.requests, "own_python", lambda: "9.9")
        with pytest.raises(RemoteError, match="by value") as caught:
            client.execute({}, await_response=True)
        assert caught.value.__cause__ is None


def test_only_a_concurrent_task_may_defer() -> None:
    def task(client_socket: ClientSocket, state: State, args: Args) -> State:
        client_socket.defer()
        return state

    with running_server(tasks(task)) as server, pytest.raises(ResponseError, match=r"@bgpy\.concurrent"):
        server.client().execute({}, await_response=True)


@pytest.mark.parametrize("timeout", [float("nan"), -1.0])
def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(server: Served, timeout: float) -> None:
    client = server.client()
    with pytest.raises(ValueError, match="number of seconds"):
        client.execute({"add": 1}, timeout=timeout)
    with pytest.raises(ValueError, match="number of seconds"):
        server.client(timeout=timeout)
    assert client.execute({"add": 0}, await_response=True) == {"count": 0}


@pytest.mark.parametrize("timeout", [1e7, 1e10, float("inf")])
def test_a_very_long_timeout_is_a_long_wait(server: Served, timeout: float) -> None:
    """The system's own wait takes milliseconds in 32 bits: the request ran, and the call raised OverflowError."""
    assert server.client(timeout=timeout).execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_client_off_loopback_proves_no_token_that_can_be_guessed() -> None:
    dialer = Dialer("192.0.2.1", 9, "short", None, False, 1 << 20, None)
    with pytest.raises(TokenError, match="too short"):
        dialer.terms(("192.0.2.7", 5), ("192.0.2.1", 9), False)
    dialer.terms(("127.0.0.1", 5), ("127.0.0.1", 9), False)
