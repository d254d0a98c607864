"""One state, which requests have in the order of their arrival, each to its end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.servers import client_of, count, dial, running_server, start_count, tasks

from bgpy.protocol.frames import FLAG_AWAIT
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket

Args = dict[str, Any]
State = dict[str, Any]


def note(client_socket: ClientSocket, state: State, args: Args) -> State:
    state["seen"].append(args["number"])
    client_socket.respond({"seen": list(state["seen"])})
    return state


def start_notes() -> State:
    return {"seen": []}


@pytest.mark.parametrize("method", ["execute", "submit", "mixed"])
def test_requests_of_one_thread_run_in_the_order_in_which_it_made_them(method: str) -> None:
    """Without the ticket drawn before the confirmation two of them swap."""
    with running_server(tasks(note, start_notes)) as server, client_of(server, max_connections=16) as client:
        futures = []
        for number in range(300):
            if method == "submit" or (method == "mixed" and number % 2):
                futures.append(client.submit({"number": number}))
            else:
                client.execute({"number": number})
        for future in futures:
            future.result(20)
        assert client.execute({"number": 300}, await_response=True)["seen"] == list(range(301))


def test_waiting_requests_have_their_turns_in_order_of_arrival() -> None:
    """Many connections queue up one after the other behind a task that holds the state."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(client_socket: ClientSocket, state: State, args: Args) -> State:
        if args["number"] == 0:
            begun.set()
            assert go_on.wait(20)
        return note(client_socket, state, args)

    with running_server(tasks(hold, start_notes)) as server, client_of(server) as client:
        futures = [client.submit({"number": 0})]
        assert begun.wait(20)
        futures += [client.submit({"number": number}) for number in range(1, 41)]
        go_on.set()
        assert futures[-1].result(20)["seen"] == list(range(41))
        for future in futures:
            future.result(20)


def test_many_threads_share_one_client_and_the_state_is_exact() -> None:
    with running_server() as server, client_of(server, timeout=60) as client:

        def add(_: int) -> list[int]:
            return [client.execute({"add": 1}, await_response=True)["count"] for _ in range(200)]

        with ThreadPoolExecutor(64) as threads:
            counts = [number for numbers in threads.map(add, range(64)) for number in numbers]
        assert sorted(counts) == list(range(1, 64 * 200 + 1))


def test_a_request_whose_client_dies_while_it_runs_still_runs() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(client_socket: ClientSocket, state: State, args: Args) -> State:
        if args.get("slow"):
            begun.set()
            assert go_on.wait(20)
        return count(client_socket, state, args)

    with running_server(tasks(slow, start_count)) as server, client_of(server) as client:
        with dial(server.port) as connection:
            connection.transmit(MessageType.EXEC, FLAG_AWAIT, 0, 1, dump({"add": 1, "slow": True}))
            assert begun.wait(20)
        go_on.set()
        assert client.execute({"add": 1}, await_response=True) == {"count": 2}
