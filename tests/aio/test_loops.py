"""The asyncio client in uvloop, which the gateway has, as in asyncio's own event loop."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy
import pytest
from support.servers import Served, running_server, tasks

from bgpy.aio import AsyncClient
from bgpy.aio.connection import AsyncConnection
from bgpy.connection import Dialer
from bgpy.errors import RequestTimeoutError
from bgpy.protocol.exchange import BrokenConnection
from bgpy.protocol.handshake import ZERO_ID, ClientHello
from bgpy.sockets import ClientSocket
from bgpy.system import machine_identity

uvloop: Any = pytest.importorskip("uvloop", reason="uvloop comes with the extra of the gateway, but on Windows")

LOOPS = pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Parts = dict[str, Any]


def run(make_loop: Callable[[], asyncio.AbstractEventLoop], work: Any) -> None:
    loop = make_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def answer(client_socket: ClientSocket, state: Parts, args: Parts) -> Parts:
    """Respond with as many parts as are asked for."""
    count = args["parts"]
    for part in range(count):
        client_socket.respond({"part": part, "array": args.get("array")}, more=part + 1 < count)
    return state


async def use(server: Served) -> None:
    array = numpy.arange(300_000.0)
    async with AsyncClient(port=server.port, timeout=20) as client:
        asked = [client.execute({"parts": 1, "array": array}, await_response=True) for _ in range(8)]
        for response in await asyncio.gather(*asked):
            assert numpy.array_equal(response["array"], array)
        assert (await client.execute({"parts": 1}))["message"] == "Received 'EXEC'"
        async with aclosing(client.stream({"parts": 3})) as parts:  # type: ignore[type-var]
            assert [part["part"] async for part in parts] == [0, 1, 2]
        async with aclosing(client.stream({"parts": 3})) as parts:  # type: ignore[type-var]
            assert (await parts.__anext__())["part"] == 0
        assert (await (await client.submit({"parts": 1})))["part"] == 0
        with pytest.raises(RequestTimeoutError):
            await client.execute({"parts": 1, "array": array}, await_response=True, timeout=0)
        assert (await client.status())["initialized"]


@LOOPS
def test_requests_streams_and_a_timeout(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with running_server(tasks(answer)) as server:
        run(make_loop, use(server))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a socket that was reset is told in other ways, or refused")
@LOOPS
def test_a_connection_that_was_reset_before_its_opening_is_broken(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Nobody knows the other side's address any more: there was an error of types in place of the reason."""

    async def open_late() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            accepted = listener.accept()[0]
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        sock.setblocking(False)
        _, connection = await loop.create_connection(lambda: AsyncConnection(loop, 1 << 20), sock=sock)
        dialer = Dialer("127.0.0.1", 1, "token" * 8, None, False, 1 << 20, machine_identity())
        try:
            with pytest.raises(BrokenConnection):
                await connection.open(dialer, ClientHello(b"i" * 16, 0, False, ZERO_ID))
        finally:
            connection.close()
            assert await connection.wait_for_end(20)

    run(make_loop, open_late())
