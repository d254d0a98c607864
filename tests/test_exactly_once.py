"""Every request runs once and its client knows, however the connections break."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.proxies import Plan, Proxy
from support.servers import Served, background_server, count, dial, running_server, tasks

from bgpy.client import Client
from bgpy.errors import AnswerLostError, ConnectionLostError
from bgpy.protocol.calls import execute_flags, read_answer
from bgpy.protocol.handshake import View
from bgpy.protocol.lanes import Answer, Lane, LaneTable, Outlet, Verdict
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket

Args = dict[str, Any]


@pytest.fixture
def server() -> Iterator[Served]:
    with running_server() as served:
        yield served


@pytest.fixture(params=["with MACs", "bare"])
def proxy(server: Served, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Run a proxy. Both ends see that it is there, and put MACs on their frames; or they do not, as where there is none."""
    if request.param == "bare":
        monkeypatch.setattr(View, "mirrors", lambda ours, theirs: True)
    with Proxy(server.port) as between:
        yield between


def sizes(server: Served, proxy: Proxy) -> tuple[list[int], list[int]]:
    """Return the bytes to server and client of an opening alone, and of an opening with a request and its answer."""
    with server.client(port=proxy.port) as client:
        client.execute({"add": 0}, await_response=True)
        whole = proxy.sent()
        proxy.replan(Plan())
        client.execute({"add": 0}, await_response=True)
        alone = proxy.sent()
    return [a - b for a, b in zip(whole, alone, strict=True)], whole


def test_a_thousand_requests_and_more_are_each_counted_once_with_the_connection_cut_at_every_byte(
    server: Served, proxy: Proxy
) -> None:
    """Each offset of opening, request and answer, with an end of the stream or a reset, each time on a new connection."""
    _, whole = sizes(server, proxy)
    plans = [Plan(to_server=offset) for offset in range(whole[0] + 1)] + [
        Plan(to_client=offset) for offset in range(whole[1] + 1)
    ]
    plans += [plan._replace(reset=True) for plan in plans]
    plans += plans[: max(0, 1000 - len(plans))]
    for number, plan in enumerate(plans, 1):
        proxy.plan(plan)
        with server.client(port=proxy.port, timeout=20) as client:
            assert client.execute({"add": 1}, await_response=True) == {"count": number}, plan
        assert proxy.has_cut.wait(10), plan
    assert server.client().execute({}, await_response=True) == {"count": len(plans)}


@pytest.mark.parametrize("reset", [False, True])
def test_a_standing_connection_is_cut_at_every_byte_of_request_and_answer(server: Served, proxy: Proxy, reset: bool) -> None:
    opening, whole = sizes(server, proxy)
    request, answer = whole[0] - opening[0], whole[1] - opening[1]
    plans = [Plan(to_server=offset, reset=reset) for offset in range(request + 1)]
    plans += [Plan(to_client=offset, reset=reset) for offset in range(answer + 1)]
    client = server.client(port=proxy.port)
    for number, plan in enumerate(plans, 1):
        client.execute({"add": 0}, await_response=True)  # there is a connection, and it is idle
        proxy.replan(plan)
        assert client.execute({"add": 1}, await_response=True) == {"count": number}, plan
        assert proxy.has_cut.wait(10), plan


def test_the_resume_itself_is_cut_at_every_byte(server: Served, proxy: Proxy) -> None:
    """The request ran, its answer was lost on the way, and so is each second connection."""
    opening, whole = sizes(server, proxy)
    plans = [Plan(to_server=offset) for offset in range(whole[0] + 1)] + [
        Plan(to_client=offset) for offset in range(whole[1] + 1)
    ]
    for number, plan in enumerate(plans, 1):
        proxy.plan(Plan(to_client=opening[1]), plan)
        with server.client(port=proxy.port) as client:
            assert client.execute({"add": 1}, await_response=True) == {"count": number}, plan


def test_sixteen_threads_on_one_client_through_a_line_that_keeps_breaking(server: Served, proxy: Proxy) -> None:
    opening, _ = sizes(server, proxy)
    chance = random.Random(2)
    proxy.plan(*[Plan(to_server=opening[0] + chance.randrange(1, 700), reset=chance.random() < 0.5) for _ in range(150)])
    proxy.plan(*[Plan(to_client=opening[1] + chance.randrange(1, 700), reset=chance.random() < 0.5) for _ in range(150)])
    client = server.client(port=proxy.port, max_connections=16)

    def add(_: int) -> int:
        count: int = client.execute({"add": 1}, await_response=True)["count"]
        return count

    with ThreadPoolExecutor(16) as threads:
        counts = list(threads.map(add, range(1600)))
    assert sorted(counts) == list(range(1, 1601))
    assert len(proxy.links) > 100


def speak(client_socket: ClientSocket, state: dict[str, Any], args: Args) -> dict[str, Any]:
    """Respond with `parts` numbers, the last of them final."""
    for part in range(args["parts"]):
        client_socket.respond({"part": part}, more=part + 1 < args["parts"])
    return {"count": state["count"] + 1}


def test_parts_of_a_stream_are_neither_lost_nor_doubled_with_it_cut_at_every_byte() -> None:
    """Each offset of opening, request and parts; every other one with a reset, and of the answer each second cut soon again."""
    with running_server(tasks(speak, lambda: {"count": 0}, lambda *a: None)) as server, Proxy(server.port) as proxy:
        with server.client(port=proxy.port) as client:
            assert len(list(client.stream({"parts": 7}))) == 7
            whole = proxy.sent()
        cuts = [(Plan(to_server=offset), Plan()) for offset in range(whole[0] + 1)]
        cuts += [(Plan(to_client=offset), Plan(to_client=max(offset, 200))) for offset in range(whole[1] + 1)]
        for number, (first, second) in enumerate(cuts):
            plans = [plan._replace(reset=number % 2 == 1) for plan in (first, second)]
            proxy.plan(*plans)
            with server.client(port=proxy.port, timeout=20) as client:
                assert [part["part"] for part in client.stream({"parts": 7})] == list(range(7)), plans
        assert server.client().status()["requests"] == len(cuts) + 2  # with the status request itself


def test_confirmations_are_cut_at_every_byte_and_each_unawaited_request_runs_once(server: Served, proxy: Proxy) -> None:
    with server.client(port=proxy.port) as client:
        assert client.execute({"add": 0}) == {"message": "Received 'EXEC'"}
        client.execute({"add": 0}, await_response=True)  # over the same connection: its end frame is in the sum
        whole = proxy.sent()
    plans = [Plan(to_server=offset) for offset in range(whole[0])] + [Plan(to_client=offset) for offset in range(whole[1])]
    for number, plan in enumerate(plans, 1):
        proxy.plan(plan)
        with server.client(port=proxy.port) as client:
            assert client.execute({"add": 1}) == {"message": "Received 'EXEC'"}
            assert client.execute({}, await_response=True) == {"count": number}, plan


def test_submitted_requests_are_cut_at_every_byte_and_their_futures_hold_the_answer(server: Served, proxy: Proxy) -> None:
    with server.client(port=proxy.port) as client:
        client.submit({"add": 0}).result(20)
        whole = proxy.sent()
    plans = [Plan(to_server=offset) for offset in range(whole[0] + 1)] + [
        Plan(to_client=offset) for offset in range(whole[1] + 1)
    ]
    for number, plan in enumerate(plans, 1):
        proxy.plan(plan)
        with server.client(port=proxy.port) as client:
            assert client.submit({"add": 1}).result(20) == {"count": number}, plan


def bring_large(client_socket: ClientSocket, state: dict[str, Any], args: Args) -> dict[str, Any]:
    """Respond with 2 MB that travel out of band: too much to be kept."""
    import numpy

    client_socket.respond({"data": numpy.zeros(2 << 20, "u1")})
    return {"count": state["count"] + 1}


def test_an_answer_too_large_to_be_kept_is_lost_and_known_to_have_run() -> None:
    with running_server(tasks(bring_large, lambda: {"count": 0}, lambda *a: None)) as server, Proxy(server.port) as proxy:
        with server.client(port=proxy.port) as client:
            assert client.execute({}, await_response=True)["data"].nbytes == 2 << 20
            opening, whole = sizes_of_last(proxy, client)
        offsets = [*range(opening + 1, opening + 80), *range(opening + 80, whole, 250_000), whole - 1]
        for offset in offsets:
            proxy.plan(Plan(to_client=offset))
            with server.client(port=proxy.port) as client, pytest.raises(AnswerLostError) as caught:
                client.execute({}, await_response=True)
            assert caught.value.executed is True
        assert server.client().status()["requests"] == len(offsets) + 2 + 1


def sizes_of_last(proxy: Proxy, client: Client) -> tuple[int, int]:
    """Return the bytes to the client of an opening, and of an opening with an answer, after one request."""
    whole = proxy.sent()[1]
    proxy.replan(Plan())
    client.execute({}, await_response=True)
    return whole - proxy.sent()[1], whole


def test_bytes_of_the_old_connection_that_arrive_after_the_resume_do_not_run(server: Served, proxy: Proxy) -> None:
    """The proxy holds back the rest of a request, the client takes it up again, and then the rest arrives after all."""
    opening, whole = sizes(server, proxy)
    for number, offset in enumerate(range(opening[0], whole[0]), 1):
        proxy.plan(Plan(to_server=offset, hold=True))
        with server.client(port=proxy.port) as client:
            assert client.execute({"add": 1}, await_response=True) == {"count": number}, offset
            proxy.deliver()
            assert client.execute({}, await_response=True) == {"count": number}, offset


class Gate:
    """A task that says that it has begun, and goes on when the test lets it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def pass_through(self, client_socket: ClientSocket, state: dict[str, Any], args: Args) -> dict[str, Any]:
        self.begun.set()
        assert self.open.wait(20)
        return count(client_socket, state, args)


def test_a_new_request_of_a_connection_that_has_lost_its_lane_does_not_run(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had arrived as a whole when the lane went to another connection, and its number is new: only the fence keeps it out."""
    arrived, go_on = threading.Event(), threading.Event()
    verdicts: queue.SimpleQueue[Verdict] = queue.SimpleQueue()
    claim = LaneTable.claim

    def late(table: LaneTable, lane: Lane, owner: Outlet, number: int) -> tuple[Verdict, Answer | None]:
        if not arrived.is_set():
            arrived.set()
            assert go_on.wait(20)
        claimed = claim(table, lane, owner, number)
        verdicts.put(claimed[0])
        return claimed

    monkeypatch.setattr(LaneTable, "claim", late)
    request = MessageType.EXEC, execute_flags(True), 0, 1, dump({"add": 1})
    with dial(server.port) as old:
        assert old.send_frame(*request)
        assert arrived.wait(20)
        with dial(server.port) as new:
            go_on.set()
            assert verdicts.get(timeout=20) is Verdict.FENCED
            assert new.send_frame(*request)
            assert read_answer({}, new.receive()) == {"count": 1}


@pytest.mark.parametrize("method", ["execute", "submit"])
def test_a_request_that_runs_while_its_connection_is_cut_is_waited_for(method: str) -> None:
    gate = Gate()
    with running_server(tasks(gate.pass_through, lambda: {"count": 0}, lambda *a: None)) as server, Proxy(server.port) as proxy:
        client = server.client(port=proxy.port)
        with ThreadPoolExecutor(1) as threads:
            if method == "execute":
                future = threads.submit(client.execute, {"add": 1}, await_response=True)
            else:
                future = client.submit({"add": 1})
            assert gate.begun.wait(20)
            proxy.cut()
            gate.open.set()
            assert future.result(20) == {"count": 1}
        assert client.execute({}, await_response=True) == {"count": 1}


def test_a_large_request_cut_on_its_way_runs_once() -> None:
    import numpy

    with running_server() as server, Proxy(server.port) as proxy:
        data = numpy.arange(1 << 20, dtype="u1")
        for number, offset in enumerate((300, 400, 70_000, 1 << 19, 1 << 20), 1):
            proxy.plan(Plan(to_server=offset), Plan(to_server=offset + 500, reset=True))
            with server.client(port=proxy.port) as client:
                assert client.execute({"add": 1, "data": data}, await_response=True) == {"count": number}


@pytest.mark.parametrize("offset", [1, 20, -1, 0])
def test_a_request_in_flight_is_never_sent_to_a_restarted_server(offset: int) -> None:
    """Cut after some bytes of the request, before its last one, and after it."""
    with running_server() as first, Proxy(first.port) as proxy:
        opening, whole = sizes(first, proxy)
        proxy.plan(Plan(to_server=opening[0] + offset if offset > 0 else whole[0] + offset, shut=True))
        with Client("127.0.0.1", proxy.port, timeout=20) as client, ThreadPoolExecutor(1) as threads:
            future = threads.submit(client.execute, {"add": 1}, await_response=True)
            assert proxy.has_cut.wait(20)
            first.end()
            with running_server(port=first.port) as second:
                proxy.gate.set()
                with pytest.raises(ConnectionLostError, match="anew") as caught:
                    future.result(20)
                assert caught.value.executed is None
                assert second.client().execute({}, await_response=True) == {"count": 0}
                assert client.execute({"add": 1}, await_response=True) == {"count": 1}


def test_a_request_whose_last_byte_never_left_did_not_run() -> None:
    import numpy

    with running_server() as server, Proxy(server.port) as proxy:
        proxy.plan(Plan(to_server=1000, shut=True))
        with Client("127.0.0.1", proxy.port, timeout=20) as client, ThreadPoolExecutor(1) as threads:
            future = threads.submit(client.execute, {"data": numpy.zeros(64 << 20, "u1")}, await_response=True)
            assert proxy.has_cut.wait(20)
            server.end()
            proxy.gate.set()
            with pytest.raises(ConnectionLostError) as caught:
                future.result(20)
            assert caught.value.executed is False


def test_a_resent_terminate_does_not_end_the_successor() -> None:
    with running_server() as first, Proxy(first.port) as proxy:
        opening, _ = sizes(first, proxy)
        proxy.plan(Plan(to_client=opening[1] + 1, shut=True))
        with Client("127.0.0.1", proxy.port, timeout=20) as client, ThreadPoolExecutor(1) as threads:
            future = threads.submit(client.terminate)
            assert proxy.has_cut.wait(20)
            assert first.join() == 0
            with running_server(port=first.port) as second:
                proxy.gate.set()
                with pytest.raises(ConnectionLostError) as caught:
                    future.result(20)
                assert caught.value.executed is None
                assert second.client().execute({"add": 1}, await_response=True) == {"count": 1}


def test_idle_connections_to_a_restarted_server_are_replaced_silently(server: Served) -> None:
    with Client("127.0.0.1", server.port, timeout=20) as client:
        client.status()
        assert client.execute({"add": 5}, await_response=True) == {"count": 5}
        server.end()
        with running_server(port=server.port):
            assert client.execute({"add": 1}, await_response=True) == {"count": 1}
            assert client.status()["requests"] == 2


def test_requests_in_flight_to_a_killed_server_end_at_once_and_nobody_knows() -> None:
    with background_server() as server, Client("127.0.0.1", server.port, timeout=20) as client:
        assert client.execute({"add": 1}, await_response=True) == {"count": 1}
        lost = client.submit({"die": True})
        with pytest.raises(ConnectionLostError) as caught:
            lost.result(20)
        assert caught.value.executed is None
