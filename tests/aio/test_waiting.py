"""What coroutines wait for: a connection in their order, and an answer, until their time is up or they are cancelled."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from support.loops import anext_of, begun, in_loop, turn_of_the_loop
from support.servers import Served
from support.slow import Slow

from bgpy.aio import AsyncClient, waiting
from bgpy.aio.waiting import LaneQueue, within
from bgpy.errors import RequestTimeoutError


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
