"""The asyncio client: all that the blocking one does, and what only coroutines can do."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import gc
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.peers import FalseServer, open_as_server
from support.proxies import Plan, Proxy
from support.servers import COUNTER, Served, background_server, count, nothing, running_server, start_count, tasks

import bgpy
from bgpy.aio import AsyncClient, waiting
from bgpy.aio import connection as connection_module
from bgpy.aio.connection import _MAX_UNREAD, _PIECE, AsyncConnection, _pieces
from bgpy.aio.waiting import LaneQueue, within
from bgpy.calling import Wait
from bgpy.client import Client
from bgpy.connection import end_politely
from bgpy.errors import (
    AlreadyInitializedError,
    AuthenticationError,
    ClientClosedError,
    ConnectError,
    ConnectionLostError,
    InvalidResultError,
    MessageTooLargeError,
    NoResponseError,
    NotInitializedError,
    OverloadedError,
    OwnServerError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    SerializationError,
    ServerEndingError,
    ServerNotFoundError,
)
from bgpy.protocol.failures import dump_failure
from bgpy.protocol.frames import HEADER
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket
from bgpy.tls import check_token_tls

Args = dict[str, Any]
State = dict[str, Any]
NEEDS_PSK = pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="pre-shared keys came with Python 3.13")


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))  # type: ignore[arg-type]

    return run


async def begun(event: threading.Event | threading.Semaphore) -> None:
    """Wait for an event of another thread without holding up the loop."""
    waited = event.wait if isinstance(event, threading.Event) else event.acquire
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: waited(timeout=20))


class Slow:
    """A counter whose requests wait at a gate where `slow` is said; it remembers the order of its requests."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.order: list[Any] = []

    def run(self, client_socket: ClientSocket, state: State, args: Args) -> State:
        self.order.append(args.get("name"))
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


def echo(client_socket: ClientSocket, state: State, args: Args) -> State:
    """Respond with the arguments, and whether an array among them can be written to."""
    client_socket.respond({**args, "writable": all(value.flags.writeable for value in args.values())})
    return state


@pytest.mark.process
@in_loop
async def test_every_verb_with_a_detached_server() -> None:
    with background_server(None) as server:
        async with AsyncClient(port=server.port, timeout=20, max_connections=1) as client:
            with pytest.raises(NotInitializedError):
                await client.execute({"add": 1})
            with pytest.raises(NotInitializedError):
                await client.submit({"add": 1})
            assert await client.initialize(start_count, count, nothing) == {"message": "Initialization successful."}
            with pytest.raises(AlreadyInitializedError):
                await client.initialize(COUNTER)
            assert await client.initialize(COUNTER, exist_ok=True) == {"message": "Already initialized."}
            assert await client.execute({"add": 1}) == {"message": "Received 'EXEC'"}
            assert await client.execute({"add": 1}, await_response=True) == {"count": 2}
            future = await client.submit({"add": 1})
            assert await future == {"count": 3}
            assert [part async for part in client.stream({"add": 1})] == [{"count": 4}]
            assert (await client.status())["pid"] == server.pid
            assert await client.terminate() == {"message": "Received 'EXIT'"}
            with pytest.raises(ConnectError):
                await client.execute({})


@in_loop
async def test_terminate_returns_what_the_exit_task_says_when_the_port_is_free() -> None:
    with running_server() as first:
        async with AsyncClient(port=first.port) as client:
            await client.execute({"add": 3})
            assert await client.terminate(await_response=True) == {"count": 3, "ended": True}
            with running_server(port=first.port):
                assert await client.execute({}, await_response=True) == {"count": 0}


@in_loop
async def test_terminate_returns_when_the_server_has_closed_the_connection() -> None:
    release = threading.Event()

    def serve(sock: Any) -> None:
        connection = open_as_server(sock)
        frame = connection.receive()
        connection.transmit(MessageType.OK, 0, 0, frame.number, dump({"message": "Received 'EXIT'"}))
        assert release.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port) as client:
            ending = asyncio.ensure_future(client.terminate())
            done, _ = await asyncio.wait([ending], timeout=0.2)
            release.set()
            assert not done
            assert await ending == {"message": "Received 'EXIT'"}


@in_loop
async def test_one_of_two_that_end_the_server_is_told_that_the_other_one_does(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port) as client:
        await client.submit({"slow": True})
        await begun(slow.begun)
        ending = asyncio.ensure_future(client.terminate())
        # Both are under way before the task may end; the server takes them in either order.
        other = asyncio.ensure_future(client.terminate())
        done, _ = await asyncio.wait({ending, other}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert isinstance(done.pop().exception(), (ServerEndingError, ConnectError))
        slow.open.set()
        results = await asyncio.gather(ending, other, return_exceptions=True)
    assert {"message": "Received 'EXIT'"} in results


@pytest.mark.parametrize("maced", [False, True])
def test_large_arrays_go_both_ways_and_can_be_written_to(maced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(port: int) -> None:
        array = numpy.arange(3 << 20, dtype="f8")
        async with AsyncClient(port=port) as client:
            for small in (numpy.arange(7.0), numpy.zeros((0, 3))):
                response = await client.execute({"a": array, "b": small, "c": array[: 1 << 17]}, await_response=True)
                assert response.pop("writable")
                numpy.testing.assert_equal(response, {"a": array, "b": small, "c": array[: 1 << 17]})
                assert response["a"].flags.writeable
            (connection,) = client._connections
            assert (connection.opening.send_key is not None) is maced

    with running_server(tasks(echo)) as server:
        if maced:
            # A client that cannot say which machine it is on asks for a MAC on every frame.
            monkeypatch.setattr("bgpy.calling.machine_identity", lambda: None)
        asyncio.run(check(server.port))


def test_a_large_request_is_cut_into_views_and_small_parts_are_joined() -> None:
    large = memoryview(bytearray(range(256)) * 2048)
    parts = [b"head", b"p" * _PIECE, large, b"a", b"b"]
    pieces = list(_pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert max(map(len, pieces)) <= _PIECE
    assert [piece.obj is large.obj for piece in pieces if isinstance(piece, memoryview)] == [True] * (len(large) // _PIECE)
    assert pieces[-1] == b"ab"


class Hungry:
    """A transport that takes whatever it gets."""

    limits: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.taken = bytearray()

    def set_write_buffer_limits(self, *limits: int) -> None:
        self.limits = limits

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, piece: Any) -> None:
        self.taken += piece


@in_loop
async def test_a_large_request_to_a_fast_reader_lets_the_loop_do_other_work() -> None:
    transport: Any = Hungry()
    connection = AsyncConnection(asyncio.get_running_loop(), 1 << 30)
    connection.connection_made(transport)
    connection.state.opened()
    payload = dump({"data": numpy.zeros(50 * _PIECE, "u1")})
    sending = asyncio.ensure_future(connection.transmit(MessageType.EXEC, 0, 0, 1, payload, None))
    seen = {len(transport.taken)}
    while not sending.done():
        await turn_of_the_loop()
        seen.add(len(transport.taken))
    await sending
    assert len(seen) > 20
    assert transport.limits == (0,)  # what the kernel has not taken has not been handed over


@pytest.mark.parametrize("most", [64, 3])
@in_loop
async def test_fifty_requests_at_once_leave_the_exact_state(server: Served, most: int) -> None:
    async with AsyncClient(port=server.port, max_connections=most) as client:
        counts = await asyncio.gather(*(client.execute({"add": 1}, await_response=True) for _ in range(50)))
        assert sorted(response["count"] for response in counts) == list(range(1, 51))
        assert (await client.status())["connections"] == min(most, 50) + 1
        await asyncio.gather(*(client.execute({"add": 1}) for _ in range(50)))
        assert await client.execute({}, await_response=True) == {"count": 100}
        assert len(client._connections) <= most + 1


@in_loop
async def test_requests_that_wait_for_a_connection_get_it_in_their_order(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port, max_connections=1) as client:
        first = asyncio.ensure_future(client.execute({"name": "first", "slow": True}, await_response=True))
        await begun(slow.begun)
        names = [str(number) for number in range(20)]
        others = [asyncio.ensure_future(client.execute({"name": name}, await_response=True)) for name in names]
        with pytest.raises(RequestTimeoutError, match="1 connections") as caught:
            await client.execute({"name": "late"}, timeout=0.05)
        assert caught.value.executed is False
        others.pop(3).cancel()
        assert (await client.status())["connections"] == 2  # a connection of its own: it gets through
        slow.open.set()
        await asyncio.gather(first, *others)
        assert slow.order == ["first", *names[:3], *names[4:]]


@in_loop
async def test_submitted_requests_run_in_their_order_and_a_confirmed_one_keeps_its_lane(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port) as client:
        futures = [await client.submit({"name": number, "add": 1, "slow": not number}) for number in range(10)]
        slow.open.set()
        assert [response["count"] for response in await asyncio.gather(*futures)] == list(range(1, 11))
    assert slow.order == list(range(10))
    assert not client._submitted


@in_loop
async def test_a_confirmed_request_leaves_its_connection_to_the_next_one(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port) as client:
        for _ in range(20):
            await client.execute({"add": 1})
            await client.status()  # the server has answered more than once by now: the end is on its way, or here
        assert (await client.execute({}, await_response=True)) == {"count": 20}
        assert len(client._connections) < 20  # where the end is here, no new one was made
    async with AsyncClient(port=server.port, max_connections=1) as client:
        await client.execute({"add": 1, "slow": True})
        await begun(slow.begun)
        waiting = asyncio.ensure_future(client.execute({"add": 1}, await_response=True))
        with pytest.raises(RequestTimeoutError) as caught:
            await client.execute({}, timeout=0.05)
        assert caught.value.executed is False
        slow.open.set()
        assert await waiting == {"count": 22}


def speak(client_socket: ClientSocket, state: State, args: Args) -> State:
    """Respond with parts of some size."""
    for part in range(args["parts"]):
        client_socket.respond({"part": part, "data": bytes(args.get("size", 0))}, more=True)
    if args.get("raise"):
        raise ValueError("in the middle")
    return {"told": args["parts"]}


@in_loop
async def test_a_stream_ends_with_the_task_or_its_error_and_may_be_left_in_the_middle() -> None:
    with running_server(tasks(speak)) as server:
        async with AsyncClient(port=server.port, max_connections=1) as client:
            assert [part["part"] async for part in client.stream({"parts": 1000})] == list(range(1000))
            with pytest.raises(RemoteError, match="in the middle"):
                async for _ in client.stream({"parts": 2, "raise": True}):
                    pass
            with pytest.raises(NoResponseError):
                async for _ in client.stream({"parts": 0}):
                    pass
            async with contextlib.aclosing(client.stream({"parts": 9})) as parts:
                async for part in parts:
                    assert part["part"] == 0
                    break
            async for part in client.stream({"parts": 9}):
                if part["part"] == 4:
                    break
            gc.collect()  # where the collector must find the generator, as on PyPy
            # The lane is free again, and what was left meets nobody.
            assert [part["part"] async for part in client.stream({"parts": 3})] == [0, 1, 2]


@in_loop
async def test_the_time_limit_of_a_stream_is_that_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[Wait] = []
    with running_server(tasks(speak)) as server:
        async with AsyncClient(port=server.port) as client:
            with monkeypatch.context() as patch:
                patch.setattr(Wait, "renew", lambda wait: renewed.append(wait))
                assert len([part async for part in client.stream({"parts": 3})]) == 3
    assert renewed[-3:] == [renewed[0]] * 3  # after each part


@in_loop
async def test_a_stream_that_is_read_slowly_does_not_pile_up() -> None:
    with running_server(tasks(speak)) as server:
        async with AsyncClient(port=server.port) as client:
            most = 0
            async for part in client.stream({"parts": 600, "size": 50_000}):
                (connection,) = [one for one in client._connections if one._unread] or [None]
                most = max(most, connection._unread if connection else 0)
                if part["part"] < 3:
                    for _ in range(50):
                        await client.status()  # the loop has every chance to read on
            assert part["part"] == 599
            assert 0 < most < _MAX_UNREAD + 3 * 50_200


@in_loop
async def test_a_timeout_gives_up_the_wait_and_not_the_request(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port, max_connections=1, timeout=0.5) as client:
        with pytest.raises(RequestTimeoutError) as caught:
            await client.execute({"add": 1, "slow": True}, await_response=True)
        assert (caught.value.executed, caught.value.timeout) == (None, 0.5)
        slow.open.set()
        # The late answer meets nobody: this is the answer to this request.
        assert await client.execute({"add": 10}, await_response=True, timeout=20) == {"count": 11}
        slow.open.clear()
        future = await client.submit({"add": 1, "slow": True}, timeout=0.05)
        with pytest.raises(RequestTimeoutError) as caught:
            await future
        assert caught.value.executed is None
        slow.open.set()
        assert await client.execute({}, await_response=True, timeout=20) == {"count": 12}


@in_loop
async def test_cancelling_gives_up_the_wait_and_gives_the_lane_back(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port, max_connections=1) as client:
        verbs = [
            client.execute({"add": 1, "slow": True}, await_response=True),
            anext_of(client.stream({"add": 1, "slow": True})),
        ]
        for number, verb in enumerate(verbs, 1):
            slow.open.clear()
            request = asyncio.ensure_future(verb)
            await begun(slow.begun)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            slow.open.set()
            # It ran, and its answer is not taken for this one.
            assert await client.execute({}, await_response=True) == {"count": number}
        submitted = await client.submit({"add": 1})
        submitted.cancel()  # before it has taken its first step
        assert await client.execute({}, await_response=True) == {"count": 3}
        assert submitted.cancelled()
    assert not client._connections


async def anext_of(parts: Any) -> Any:
    return await parts.__anext__()


@in_loop
async def test_a_lane_that_comes_together_with_a_cancellation_is_not_lost() -> None:
    lanes: LaneQueue[Any] = LaneQueue(1)
    lane = await lanes.take(None)
    for _ in range(3):
        first, second = asyncio.ensure_future(lanes.take(None)), asyncio.ensure_future(lanes.take(5))
        await turn_of_the_loop()
        lanes.give_back(lane)
        first.cancel()
        assert await second is lane
        assert first.cancelled()
    lanes.give_back(lane)
    assert await lanes.take(0) is lane


async def turn_of_the_loop() -> None:
    """Let everything that is ready run."""
    ready = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(ready.set_result, None)
    await ready


@in_loop
async def test_a_cancellation_that_meets_the_end_of_a_wait_is_neither_swallowed_nor_complained_about() -> None:
    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    for end in (lambda future: future.set_result(1), waiting._expire):
        future = loop.create_future()
        task = asyncio.ensure_future(within(future, 10))
        await turn_of_the_loop()
        end(future)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del future
        gc.collect()
    assert not complaints


@in_loop
async def test_a_port_that_does_not_answer_the_opening_costs_the_connect_timeout_or_a_cancellation() -> None:
    with FalseServer(lambda sock: sock.recv(1000) and sock.recv(1)) as server:
        async with AsyncClient(port=server.port, connect_timeout=0.1) as client:
            with pytest.raises(ConnectError, match=r"within 0\.1 s") as caught:
                await client.execute({})
            assert caught.value.executed is False
        async with AsyncClient(port=server.port) as client:
            with pytest.raises(ConnectError, match=r"within 0\.\d+ s"):
                await client.execute({}, timeout=0.1)
            opening = asyncio.ensure_future(client.execute({}))
            while server.served < 3:
                await asyncio.get_running_loop().run_in_executor(None, nothing)  # as long as a thread takes to begin
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing goes on behind the back


@in_loop
async def test_nobody_listens_unknown_names_and_names_with_several_addresses(server: Served) -> None:
    with Proxy(1) as closed:
        port = closed.port
    async with AsyncClient(port=port) as client:
        with pytest.raises(ConnectError, match="refused"):
            await client.execute({})
    async with AsyncClient("no-such-host.invalid", 1) as client:
        with pytest.raises(ConnectError):
            await client.status()
    async with AsyncClient("localhost", server.port) as client:
        assert await client.execute({"add": 1}, await_response=True) == {"count": 1}


@pytest.mark.parametrize("cut", ["closed by the server", "cut, and the loop has not looked", "one byte too many"])
@in_loop
async def test_a_connection_found_dead_before_a_byte_is_replaced_silently(server: Served, cut: str) -> None:
    with Proxy(server.port) as proxy:
        async with AsyncClient(port=proxy.port) as client:
            await client.execute({"add": 1}, await_response=True)
            (before,) = client._connections
            if cut.startswith("one byte"):
                proxy.links[0].client.sendall(b"\0")
            else:
                proxy.cut()
            if cut.startswith("closed"):
                await asyncio.wait([before.ended], timeout=20)
                assert not client._connections
            assert await client.execute({"add": 1}, await_response=True) == {"count": 2}
            assert before not in client._connections
            assert len(proxy.links) == 2


@pytest.mark.parametrize("looked", [True, False])
@in_loop
async def test_an_idle_connection_goes_on_with_the_servers_successor(looked: bool) -> None:
    with running_server() as first:
        async with AsyncClient(port=first.port) as client:
            await client.execute({"add": 5}, await_response=True)
            if looked:
                await asyncio.get_running_loop().run_in_executor(None, first.end)
            else:
                first.end()  # the loop stands still meanwhile
            with running_server(port=first.port):
                assert await client.execute({"add": 1}, await_response=True) == {"count": 1}


@pytest.mark.process
@in_loop
async def test_a_request_under_way_is_lost_with_its_server_and_not_sent_to_the_successor() -> None:
    with background_server() as first:
        async with AsyncClient(port=first.port) as client:
            with pytest.raises(ConnectionLostError) as caught:
                await client.execute({"die": True}, await_response=True)
            assert caught.value.executed is None
            with running_server(port=first.port):
                assert await client.execute({}, await_response=True) == {"count": 0}


@in_loop
async def test_a_request_that_is_taken_up_again_by_a_successor_does_not_run_there(server: Served) -> None:
    with running_server() as other, Proxy(server.port) as proxy:
        async with AsyncClient(port=proxy.port) as client:
            await client.execute({}, await_response=True)
            proxy.replan(Plan(to_client=3))
            proxy.target = other.port
            with pytest.raises(ConnectionLostError, match="anew") as caught:
                await client.execute({"add": 1}, await_response=True)
            assert caught.value.executed is None
            assert await client.execute({}, await_response=True) == {"count": 0}


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_a_connection_that_was_refused_to_a_resume_is_not_used_again(kind: type[AsyncClient] | type[Client]) -> None:
    """The successor of a server has refused the resume and not yet closed the connection when the next request comes."""

    def serve(sock: Any) -> None:
        connection = open_as_server(sock, instance=(b"first" if server.served == 1 else b"other").ljust(16))
        if server.served == 2:
            connections.append(sock.dup())
            return
        frame = connection.receive()
        if server.served == 3:
            connection.transmit(MessageType.OK, 0, 0, frame.number, dump({"fine": True}))
            sock.recv(1)  # until the client closes

    async def call(client: AsyncClient) -> None:
        async with client:
            with pytest.raises(ConnectionLostError, match="anew"):
                await client.execute({}, await_response=True)
            assert await client.execute({}, await_response=True) == {"fine": True}

    connections: list[Any] = []
    with FalseServer(serve) as server:
        if kind is AsyncClient:
            asyncio.run(call(AsyncClient(port=server.port, timeout=20)))
        else:
            with Client(port=server.port, timeout=20) as client:
                with pytest.raises(ConnectionLostError, match="anew"):
                    client.execute({}, await_response=True)
                assert client.execute({}, await_response=True) == {"fine": True}
    connections[0].close()


@pytest.mark.parametrize("reset", [False, True])
@in_loop
async def test_requests_run_once_with_the_connection_cut_at_many_offsets(server: Served, reset: bool) -> None:
    with Proxy(server.port) as proxy:
        async with AsyncClient(port=proxy.port) as client:
            await client.execute({}, await_response=True)
            whole = proxy.sent()
        plans = [Plan(to_server=offset, reset=reset) for offset in range(reset, whole[0] + 1, 4)]
        plans += [Plan(to_client=offset, reset=reset) for offset in range(reset, whole[1] + 1, 4)]
        for number, plan in enumerate(plans, 1):
            proxy.plan(plan)
            async with AsyncClient(port=proxy.port, timeout=20) as client:
                verb = number % 3
                if verb == 0:
                    assert await client.execute({"add": 1}, await_response=True) == {"count": number}, plan
                elif verb == 1:
                    assert await client.execute({"add": 1}) == {"message": "Received 'EXEC'"}, plan
                else:
                    assert await (await client.submit({"add": 1})) == {"count": number}, plan
        async with AsyncClient(port=proxy.port) as client:
            assert await client.execute({}, await_response=True) == {"count": len(plans)}


@in_loop
async def test_many_coroutines_over_a_line_that_keeps_breaking(server: Served) -> None:
    with Proxy(server.port) as proxy:
        proxy.plan(*(Plan(to_server=330 + 7 * number) for number in range(60)))
        proxy.plan(*(Plan(to_client=180 + 5 * number) for number in range(60)))
        async with AsyncClient(port=proxy.port, max_connections=8) as client:
            counts = await asyncio.gather(*(client.execute({"add": 1}, await_response=True) for _ in range(400)))
        assert sorted(response["count"] for response in counts) == list(range(1, 401))
        assert len(proxy.links) > 60


def misbehave(client_socket: ClientSocket, state: State, args: Args) -> Any:
    if args["how"] == "raise":
        raise LookupError("nothing there")
    if args["how"] == "number":
        return 7
    if args["how"] == "large":
        client_socket.respond({"data": bytes(20_000)})
    if args["how"] == "inward":
        own = args["port"]

        async def call() -> Any:
            async with AsyncClient(port=own) as client:
                await client.status()  # no wait for itself
                return await client.execute({"how": "raise"})

        client_socket.respond(asyncio.run(call()))
    return state


class Stubborn:
    def __reduce__(self) -> Any:
        raise TypeError("stays here")


@in_loop
async def test_errors_are_those_of_the_blocking_client() -> None:
    with running_server(tasks(misbehave), max_message_size=100_000) as server:
        async with AsyncClient(port=server.port, timeout=20, max_message_size=10_000) as client:
            with pytest.raises(RemoteError, match="nothing there") as remote:
                await client.execute({"how": "raise"}, await_response=True)
            assert isinstance(remote.value.__cause__, LookupError)
            assert "misbehave" in remote.value.traceback_text
            with pytest.raises(InvalidResultError):
                await client.execute({"how": "number"}, await_response=True)
            with pytest.raises(NoResponseError):
                await (await client.submit({"how": "nothing"}))
            with pytest.raises(MessageTooLargeError) as large:
                await client.execute({"how": "large"}, await_response=True)
            assert large.value.executed is True
            with pytest.raises(MessageTooLargeError) as large:
                await client.execute({"how": bytes(200_000)})
            assert large.value.executed is False
            with pytest.raises(SerializationError):
                await client.execute({"how": Stubborn()})
            with pytest.raises(TypeError, match="args must be a dict"):
                await client.submit([])  # type: ignore[arg-type]
            with pytest.raises(RemoteError) as remote:
                await client.execute({"how": "inward", "port": server.port}, await_response=True)
            assert isinstance(remote.value.__cause__, OwnServerError)
            assert len(client._connections) == 1
        async with AsyncClient(port=server.port, token="x" * 43) as client:
            with pytest.raises(AuthenticationError):
                await client.execute({})
        async with AsyncClient(port=server.port, _instance=b"another server's") as client:
            with pytest.raises(ServerNotFoundError):
                await client.execute({})


@pytest.mark.parametrize("frames", ["unasked", "garbage", "greeting"])
@in_loop
async def test_what_no_server_sends_is_a_protocol_error(frames: str) -> None:
    def serve(sock: Any) -> None:
        if frames == "greeting":
            sock.sendall(b"220 mail.example.com ESMTP\r\n" * 20)
        else:
            connection = open_as_server(sock)
            frame = connection.receive()
            if frames == "unasked":
                connection.transmit(MessageType.OK, 0, 5, frame.number, dump({"fine": True}))
            else:
                sock.sendall(b"\xff" * 64)
        while sock.recv(4096):
            pass  # until the client closes

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            with pytest.raises(RemoteProtocolError) as caught:
                await client.execute({}, await_response=True)
            # Once the request was sent nobody can know what such a peer has done with it.
            assert caught.value.executed is (False if frames == "greeting" else None)
        assert server.served == 1


@in_loop
async def test_a_refusal_that_comes_before_the_request_is_read_is_told() -> None:
    """The server reads the header of a large request, says no, and closes."""

    def serve(sock: Any) -> None:
        open_as_server(sock)
        header = sock.recv(HEADER.size, 0x100)  # MSG_WAITALL
        _, _, _, part, number, _ = HEADER.unpack(header)
        failure = dump_failure(OverloadedError("no memory"))
        sock.sendall(HEADER.pack(MessageType.ERROR, 0, 0, part, number, len(failure.pickle)) + bytes(failure.pickle))
        end_politely(sock)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            with pytest.raises(OverloadedError):
                await client.execute({"data": bytes(64 << 20)})
        assert server.served == 1


@pytest.mark.parametrize("direction", ["write", "read"])
@in_loop
async def test_a_peer_that_stands_still_within_a_frame_is_given_up(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROGRESS_TIMEOUT", 0.1)
    done = threading.Event()

    def serve(sock: Any) -> None:
        if server.served > 1:
            return  # no second chance
        connection = open_as_server(sock)
        if direction == "read":
            connection.receive()
            sock.sendall(HEADER.pack(MessageType.OK, 0, 0, 0, 1, 1 << 20) + bytes(1000))
        assert done.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20, connect_timeout=0.5) as client:
            reason = "took no byte" if direction == "write" else "no byte of a frame"
            try:
                with pytest.raises(ConnectionLostError, match=reason) as caught:
                    await client.execute({"data": bytes((32 << 20) if direction == "write" else 1)})
            finally:
                done.set()
            assert caught.value.executed is (False if direction == "write" else None)


@in_loop
async def test_a_peer_that_is_slow_but_moves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PROGRESS_TIMEOUT", 0.1)
    steps = threading.Semaphore(0)
    seen: list[int] = []
    look = waiting.Watch._look

    def look_and_let_go(watch: waiting.Watch) -> None:
        look(watch)
        seen.append(1)
        steps.release()  # the peer moves on each time that somebody has looked

    monkeypatch.setattr(waiting.Watch, "_look", look_and_let_go)

    def serve(sock: Any) -> None:
        connection = open_as_server(sock)
        frame = connection.receive()
        payload = dump({"data": bytes(50_000)})
        data = HEADER.pack(MessageType.OK, 0, 0, 0, frame.number, len(payload.pickle)) + bytes(payload.pickle)
        for offset in range(0, len(data), 20_000):
            sock.sendall(data[offset : offset + 20_000])
            if offset + 20_000 < len(data):
                assert steps.acquire(timeout=20)
        sock.recv(1)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port, timeout=20) as client:
            assert await client.execute({}, await_response=True) == {"data": bytes(50_000)}
    assert seen


@in_loop
async def test_a_server_that_takes_no_bytes_is_given_up_after_the_timeout() -> None:
    done = threading.Event()

    def serve(sock: Any) -> None:
        open_as_server(sock)
        assert done.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port) as client:
            try:
                with pytest.raises(RequestTimeoutError) as caught:
                    await client.execute({"data": bytes(64 << 20)}, timeout=0.2)
            finally:
                done.set()
            assert caught.value.executed is False


@in_loop
async def test_a_server_that_does_not_come_back_is_given_up_after_the_timeout() -> None:
    """The connection is cut after the request, and the new one is taken but never answered."""
    done = threading.Event()

    def serve(sock: Any) -> None:
        if server.served == 1:
            open_as_server(sock).receive()
        else:
            assert done.wait(20)

    with FalseServer(serve) as server:
        async with AsyncClient(port=server.port) as client:
            try:
                with pytest.raises(RequestTimeoutError) as caught:
                    await client.execute({}, timeout=0.2)
            finally:
                done.set()
            assert caught.value.executed is None


@in_loop
async def test_a_closed_client_says_so_and_lets_requests_under_way_end(server: Served, slow: Slow) -> None:
    async with AsyncClient(port=server.port, max_connections=1) as client:
        future = await client.submit({"add": 1, "slow": True})
        waiting_for_a_lane = asyncio.ensure_future(client.execute({}))
        await turn_of_the_loop()
    with pytest.raises(ClientClosedError):
        await waiting_for_a_lane
    slow.open.set()
    assert await future == {"count": 1}
    for verb in (client.execute({}), client.submit({}), client.status(), client.terminate(), anext_of(client.stream({}))):
        with pytest.raises(ClientClosedError):
            await verb
    await client.close()
    await asyncio.wait([connection.ended for connection in client._connections] or [asyncio.ensure_future(turn_of_the_loop())])


def test_a_client_belongs_to_the_event_loop_that_used_it_first(server: Served) -> None:
    client = AsyncClient(port=server.port)

    async def use() -> None:
        async with client:
            assert await client.execute({"add": 1}, await_response=True) == {"count": 1}

    asyncio.run(use())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(client.execute({}))
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(client.status())


def test_repr_shows_no_token() -> None:
    assert repr(AsyncClient("::1", 7, token="secret" * 5)) == "AsyncClient('::1', 7)"


async def exercise(server: Served, **options: Any) -> None:
    """Send small and large requests over TLS, at once and one after the other."""
    array = numpy.arange(1 << 20, dtype="f8")
    async with AsyncClient(port=server.port, timeout=20, **options) as client:
        response = await client.execute({"a": array}, await_response=True)
        assert (response["a"] == array).all()
        await asyncio.gather(*(client.execute({"a": array[:number]}, await_response=True) for number in range(20)))
        (first, *_) = client._connections
        assert first._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert first.opening.send_key is None
        first.close()
        assert (await client.execute({"a": array[:3]}, await_response=True))["writable"]


@NEEDS_PSK
def test_tls_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(connection_module, "check_token_tls", lambda *args: checked.append(check_token_tls(*args)))
    with running_server(tasks(echo), tls="token", entrance={"tls": "token"}) as server:
        asyncio.run(exercise(server, tls="token"))
    assert checked


@NEEDS_PSK
@in_loop
async def test_tls_by_token_needs_the_token_and_tls_on_both_sides() -> None:
    with running_server(tls="token", entrance={"tls": "token"}) as server:
        async with AsyncClient(port=server.port, tls="token", token="x" * 43) as client:
            with pytest.raises(AuthenticationError, match="TLS failed"):
                await client.execute({})
        async with AsyncClient(port=server.port) as client:
            with pytest.raises((RemoteProtocolError, ConnectError)):
                await client.execute({})
    with running_server() as bare:
        async with AsyncClient(port=bare.port, tls="token") as client:
            with pytest.raises((AuthenticationError, ConnectError)):
                await client.execute({})


def test_tls_by_certificate(certificate: tuple[str, str]) -> None:
    entrance = {"tls": bgpy.Certificates(cafile=certificate[0])}
    with running_server(tasks(echo), tls=bgpy.Certificates(*certificate), entrance=entrance) as server:
        asyncio.run(exercise(server, **entrance))
        with pytest.raises(AuthenticationError, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(exercise(server, tls=bgpy.Certificates()))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1 and its key."""
    files = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=bgpy test", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return files


def test_the_core_does_without_asyncio() -> None:
    package = Path(bgpy.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "asyncio" in names or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asyncio")):
                found.add(str(path.relative_to(package)))
    assert {name for name in found if not name.startswith(("aio", "gateway", "tasks"))} == set()
    assert found
