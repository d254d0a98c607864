"""
The way to the server: one client for requests and one for streams, so that watchers never take the last connection.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from bgpy.aio import AsyncClient
from bgpy.errors import OverloadedError
from bgpy.gateway.limits import Limits

#: Seconds for what the gateway itself asks the server.
OWN_TIMEOUT = 5.0


class Upstream:
    """
    Make the clients where they are first used, and anew in another event loop: an app may be mounted where no lifespan is told.

    Parameters
    ----------
    make_client
        Makes an `AsyncClient` with at most that many connections.
    """

    def __init__(self, make_client: Callable[[int], AsyncClient], limits: Limits) -> None:
        self._make_client = make_client
        self._limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests: AsyncClient | None = None
        self._streams: AsyncClient | None = None
        #: How many streams are open.
        self.watchers = 0

    async def execute(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """
        Send one dict and return the response; raises as `AsyncClient.execute`.

        Parameters
        ----------
        timeout
            Seconds; by default those of the limits and those that the message itself says.
        """
        requests, _ = self._clients()
        if timeout is None:
            timeout = self._limits.request_timeout + _own_wait(message)
        return await requests.execute(message, await_response=True, timeout=timeout)

    async def stream(self, message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Send one dict and yield each response; whoever leaves early closes it. Raises as `AsyncClient.stream`."""
        if self.watchers >= self._limits.max_watchers:
            raise OverloadedError(f"{self.watchers} watchers are the most that this gateway takes")
        _, streams = self._clients()
        self.watchers += 1
        try:
            async with aclosing(streams.stream(message)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response
        finally:
            self.watchers -= 1

    async def close(self) -> None:
        """Close this event loop's connections, those in use after their request. The next request opens new ones."""
        requests, streams, loop = self._requests, self._streams, self._loop
        self._requests = self._streams = self._loop = None
        if loop is asyncio.get_running_loop():
            for client in (requests, streams):
                if client is not None:
                    await client.close()

    def _clients(self) -> tuple[AsyncClient, AsyncClient]:
        loop = asyncio.get_running_loop()
        if self._requests is None or self._streams is None or self._loop is not loop:
            self._loop = loop
            self._requests = self._make_client(self._limits.max_requests)
            self._streams = self._make_client(self._limits.max_watchers)
        return self._requests, self._streams


def _own_wait(message: dict[str, Any]) -> float:
    """Return the seconds that a request says it waits, itself or in an object in it; the server refuses what is no number."""
    own = [message, *(value for value in message.values() if isinstance(value, dict))]
    return max(_seconds(fields.get("timeout", 0)) for fields in own)


def _seconds(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not math.isfinite(timeout):
        return 0.0
    return max(float(timeout), 0.0)
