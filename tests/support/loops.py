"""Tests that are coroutines, each in an event loop of its own, and what they wait for there."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any


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


async def anext_of(parts: Any) -> Any:
    return await parts.__anext__()


async def turn_of_the_loop() -> None:
    """Let everything that is ready run."""
    ready = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(ready.set_result, None)
    await ready
