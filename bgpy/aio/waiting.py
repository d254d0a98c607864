"""
Waits of an event loop: with a time limit, for a lane, for progress.

`asyncio.wait_for` is not used: up to Python 3.11 it can swallow a cancellation that meets the end of its wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from bgpy.errors import ClientClosedError, RequestTimeoutError
from bgpy.pool import C, Lanes, PoolLane
from bgpy.wires import PROGRESS_TIMEOUT

T = TypeVar("T")


async def within(future: asyncio.Future[T], timeout: float | None) -> T:
    """Wait for a future that is this caller's alone; raises TimeoutError after `timeout` seconds."""
    if timeout is None:
        return await future
    timer = future.get_loop().call_later(max(timeout, 0), _expire, future)
    try:
        return await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class LaneQueue(Lanes[C]):
    """Hand out lanes to coroutines of one event loop: where all are in use they wait, first come, first served."""

    def __init__(self, size: int, first: int = 0) -> None:
        super().__init__(size, first)
        self._waiting: dict[asyncio.Future[PoolLane[C]], None] = {}

    async def take(self, timeout: float | None) -> PoolLane[C]:
        """
        Take a lane.

        Raises
        ------
        RequestTimeoutError
            None came free in time; nothing was sent.
        ClientClosedError
            The queue was closed.
        """
        lane = self.take_now()
        if lane is not None:
            return lane
        turn: asyncio.Future[PoolLane[C]] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            return await within(turn, timeout)
        except TimeoutError:
            assert timeout is not None
            raise RequestTimeoutError(timeout, f"one of {self.size} connections to come free", False) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result())  # it came together with the cancellation
            raise
        finally:
            self._waiting.pop(turn, None)

    def take_free(self) -> PoolLane[C] | None:
        """Take a free lane, None where there is none or one drains: the usual case of `take`, in the fewest steps."""
        return None if self._draining else self._last_free()

    def give_back(self, lane: PoolLane[C]) -> None:
        """Give a lane back: to the one who has waited for longest, if anybody waits."""
        super().give_back(lane)
        if self._waiting:
            self._serve()

    def close(self) -> None:
        """See `Lanes`; who waits for a lane gets ClientClosedError."""
        super().close()
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            turn = next(iter(self._waiting))
            if not turn.done():
                try:
                    lane = self.take_now()
                except ClientClosedError as closed:
                    turn.set_exception(closed)
                else:
                    if lane is None:
                        return
                    turn.set_result(lane)
            del self._waiting[turn]


class Watch:
    """
    Tell when something under way has stood still for `PROGRESS_TIMEOUT`, at most twice that: it looks once in that time.

    Parameters
    ----------
    progress
        Returns a number that changes with each progress, None where nothing is under way.
    stuck
        Called once when it has not changed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: Callable[[], int | None], stuck: Callable[[], None]) -> None:
        self._loop = loop
        self._progress = progress
        self._stuck = stuck
        self._seen: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Look from now on, for as long as something is under way."""
        if self._timer is None:
            self._seen = self._progress()
            self._timer = self._loop.call_later(PROGRESS_TIMEOUT, self._look)

    def disarm(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        progress = self._progress()
        if progress is None:
            return
        if progress == self._seen:
            self._stuck()
        else:
            self.arm()
