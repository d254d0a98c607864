"""
The way to the server: one client for requests, one for those that wait there, and one for streams.

So neither watchers nor who waits ever take the last connection: what is answered at once never stands behind them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from bgpy.aio import AsyncClient
from bgpy.errors import BgpyError, OverloadedError
from bgpy.gateway.limits import Limits
from bgpy.gateway.metrics import Labels, Metrics, View

#: Seconds for what the gateway itself asks the server.
OWN_TIMEOUT = 5.0


class _Clients(NamedTuple):
    requests: AsyncClient
    waits: AsyncClient
    streams: AsyncClient


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
        self._made: _Clients | None = None
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
        wait = own_wait(message)
        client = self._clients().waits if wait else self._clients().requests
        if timeout is None:
            timeout = self._limits.request_timeout + wait
        return await client.execute(message, await_response=True, timeout=timeout)

    async def stream(self, message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Send one dict and yield each response; whoever leaves early closes it. Raises as `AsyncClient.stream`."""
        if self.watchers >= self._limits.max_watchers:
            raise OverloadedError(f"{self.watchers} watchers are the most that this gateway takes")
        streams = self._clients().streams
        self.watchers += 1
        try:
            async with aclosing(streams.stream(message)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response
        finally:
            self.watchers -= 1

    async def status(self) -> dict[str, Any]:
        """Ask the server how it is, which it answers whatever its tasks are; raises as `AsyncClient.status`."""
        return await self._clients().requests.status(OWN_TIMEOUT)

    async def view(self, metrics: Metrics, labels: Labels | None = None) -> View:
        """Return what was counted here, and what the server says that it has."""
        server, up = None, True
        try:
            response = await self.execute({"command": "get_metrics"}, OWN_TIMEOUT)
            server = response.get("result") if response.get("request_result") is True else None
        except BgpyError as error:
            up = error.executed is True  # it has answered, though it knows no such command
        return View(metrics, self.watchers, up, server if isinstance(server, dict) else None, labels or {})

    async def close(self) -> None:
        """Close this event loop's connections, those in use after their request. The next request opens new ones."""
        made, loop = self._made, self._loop
        self._made = self._loop = None
        if made is not None and loop is asyncio.get_running_loop():
            for client in made:
                await client.close()

    def _clients(self) -> _Clients:
        loop = asyncio.get_running_loop()
        if self._made is None or self._loop is not loop:
            limits = self._limits
            self._loop = loop
            self._made = _Clients(*map(self._make_client, (limits.max_requests, limits.max_waits, limits.max_watchers)))
        return self._made


def own_wait(message: dict[str, Any]) -> float:
    """Return the seconds that a request says it waits, itself or in an object in it; the server refuses what is no number."""
    wait = _seconds(message.get("timeout", 0))
    for value in message.values():
        if isinstance(value, dict):
            wait = max(wait, _seconds(value.get("timeout", 0)))
    return wait


def _seconds(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not math.isfinite(timeout):
        return 0.0
    return max(float(timeout), 0.0)
