"""A block that is ended from outside: its task goes on behind it, and who cancels the task itself is heard all the same."""

from __future__ import annotations

import asyncio
import sys

import pytest

from bgpy.gateway.cutting import Cut


async def wait_in(cut: Cut, said: list[str]) -> None:
    with cut:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            said.append("ended")
    said.append("went on")


async def begun(cut: Cut, said: list[str]) -> asyncio.Task[None]:
    """Return a task that waits in the block."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(wait_in(cut, said))
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn
    return task


def test_a_block_is_ended_and_its_task_goes_on() -> None:
    async def check() -> None:
        cut, said = Cut(), list[str]()
        task = await begun(cut, said)
        cut.make()
        cut.make()
        await task
        assert said == ["ended", "went on"]
        assert cut.made

    asyncio.run(check())


def test_a_cancelled_task_ends_also_in_a_block() -> None:
    async def check() -> None:
        cut, said = Cut(), list[str]()
        task = await begun(cut, said)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said == ["ended"]
        assert not cut.made

    asyncio.run(check())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before Python 3.11 a task does not count who cancels it")
@pytest.mark.parametrize("first", ["cut", "cancel"])
def test_a_task_that_is_cancelled_together_with_its_block_ends(first: str) -> None:
    async def check() -> None:
        cut, said = Cut(), list[str]()
        task = await begun(cut, said)
        for call in (cut.make, task.cancel) if first == "cut" else (task.cancel, cut.make):
            call()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said == ["ended"]

    asyncio.run(check())


def test_what_a_block_raises_gets_out() -> None:
    async def check() -> None:
        with pytest.raises(ValueError, match="own"), Cut():
            raise ValueError("own")

    asyncio.run(check())
