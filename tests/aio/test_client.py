"""The asyncio client: all that the blocking one does, and what only coroutines can do."""

from __future__ import annotations

import ast
import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from support.loops import anext_of, begun, in_loop, turn_of_the_loop
from support.peers import FalseServer, open_as_server
from support.servers import COUNTER, Served, background_server, count, nothing, running_server, start_count, tasks
from support.slow import Slow

import bgpy
from bgpy.aio import AsyncClient
from bgpy.errors import (
    AlreadyInitializedError,
    AuthenticationError,
    ClientClosedError,
    ConnectError,
    InvalidResultError,
    MessageTooLargeError,
    NoResponseError,
    NotInitializedError,
    OwnServerError,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    ServerEndingError,
    ServerNotFoundError,
)
from bgpy.held import held_instances
from bgpy.protocol.messages import MessageType, dump
from bgpy.sockets import ClientSocket

Args = dict[str, Any]
State = dict[str, Any]


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
                await client.initialize(init=start_count, exec=count, exit=nothing)
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
            (connection,) = client._connections
            held = held_instances.set((connection.opening.instance,))
            with pytest.raises(OwnServerError):  # over the connection that it has, too
                await client.execute({})
            held_instances.reset(held)
            assert client._connections == {connection}
        async with AsyncClient(port=server.port, token="x" * 43) as client:
            with pytest.raises(AuthenticationError):
                await client.execute({})
        async with AsyncClient(port=server.port, _instance=b"another server's") as client:
            with pytest.raises(ServerNotFoundError):
                await client.execute({})


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
