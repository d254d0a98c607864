"""Connections that cannot be made, break, or lead to another server: what is sent again, and what is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from support.loops import in_loop
from support.peers import FalseServer, open_as_server
from support.proxies import Plan, Proxy
from support.servers import Served, background_server, nothing, running_server

from bgpy.aio import AsyncClient
from bgpy.client import Client
from bgpy.errors import ConnectError, ConnectionLostError, RequestTimeoutError
from bgpy.protocol.messages import MessageType, dump


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
                    await client.execute({}, timeout=2)  # enough for the first connection on a busy machine
            finally:
                done.set()
            assert caught.value.executed is None
