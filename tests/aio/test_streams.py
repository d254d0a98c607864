"""Streams of parts: how they end, how long each part may take, and readers that are slow."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest
from support.loops import in_loop
from support.servers import running_server, tasks

from bgpy.aio import AsyncClient
from bgpy.aio.connection import _MAX_UNREAD
from bgpy.calling import Wait
from bgpy.errors import NoResponseError, RemoteError
from bgpy.sockets import ClientSocket

Args = dict[str, Any]
State = dict[str, Any]


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
