"""Tasks that run beside others, that answer later, and that call a server themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.servers import Served, count, running_server, start_count, tasks

from bgpy.client import Client
from bgpy.errors import NoResponseError, OwnServerError, RemoteError, ResponseError
from bgpy.sockets import ClientSocket
from bgpy.taskset import concurrent

Args = dict[str, Any]
State = dict[str, Any]


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


def test_a_client_that_does_not_read_its_stream_holds_up_no_deadline_but_its_own(later: tuple[Later, Served]) -> None:
    """One thread sees to all deadlines: it waited for the part that was stuck with that client."""
    large = {"large": bytearray(64 << 20)}
    stream = later[1].client().stream({"how": "defer", "timeout": 2})
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(next, stream)
        assert later[0].deferred.acquire(timeout=20)
        later[0].sockets[0].respond({"first": 1}, more=True)
        assert first.result(20) == {"first": 1}
        stuck = threads.submit(later[0].sockets[0].respond, large, more=True)
        with pytest.raises(NoResponseError):
            later[1].client().execute({"how": "defer", "timeout": 3}, await_response=True, timeout=12)
        assert not stuck.done()
        assert next(stream) == large
        with pytest.raises(NoResponseError):
            next(stream)
        stuck.result(20)


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
        for _ in range(2):  # over a connection that it makes, and over one that it has
            with pytest.raises(RemoteError) as caught:
                client.execute({"inward": True}, await_response=True)
            assert isinstance(caught.value.__cause__, OwnServerError)
            assert inward.client.execute({}, await_response=True) == {"count": 0}
        assert client.execute({"status": True}, await_response=True)["requests"] == 6  # the status is no wait for itself
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


def test_only_a_concurrent_task_may_defer() -> None:
    def task(client_socket: ClientSocket, state: State, args: Args) -> State:
        client_socket.defer()
        return state

    with running_server(tasks(task)) as server, pytest.raises(ResponseError, match=r"@bgpy\.concurrent"):
        server.client().execute({}, await_response=True)
