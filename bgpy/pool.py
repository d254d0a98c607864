"""
The lanes of a client: which connection carries the next request. No I/O.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from bgpy.errors import ClientClosedError, RequestTimeoutError
from bgpy.protocol.exchange import LaneNumbers


class Closable(Protocol):
    """What a lane holds: a connection of either client."""

    def close(self) -> None:
        """Close it. Does not block."""


C = TypeVar("C", bound=Closable)


class PoolLane(Generic[C]):
    """One lane: its index, the numbers it has used, and its connection while it has one."""

    __slots__ = ("__weakref__", "connection", "draining", "index", "numbers")

    def __init__(self, index: int, numbers: LaneNumbers) -> None:
        self.index = index
        self.numbers = numbers
        self.connection: C | None = None
        #: Whether the end of a request that nobody waits for is still to be read from the connection.
        self.draining = False

    def drop(self) -> None:
        """Close the connection, if there is one: the next request makes a new one."""
        connection, self.connection = self.connection, None
        self.draining = False
        if connection is not None:
            connection.close()


class Lanes(Generic[C]):
    """
    The lanes of one client, and which of them are free. Nothing blocks. Not thread-safe: `LanePool` is.

    The lane that came free last serves. Where none is free a new one is made, up to `size`; then one whose last request is
    confirmed but not ended is handed out, oldest first, for its taker to wait for that end.

    A lane that is in use belongs to its user. One that is never given back, as where a Ctrl-C came between two steps, makes room
    for another of its index when it is gone, which goes on with its numbers.
    """

    def __init__(self, size: int, first: int = 0) -> None:
        self.size = size
        self._first = first
        #: One step of the interpreter takes the last or puts one back, and no thread sees half of it.
        self._free: list[PoolLane[C]] = []
        self._draining: deque[PoolLane[C]] = deque()
        self._all: WeakValueDictionary[int, PoolLane[C]] = WeakValueDictionary()
        self._numbers: dict[int, LaneNumbers] = {}
        self._closed = False

    def take_now(self) -> PoolLane[C] | None:
        """Take a lane, None where all are in use; raises ClientClosedError."""
        if self._closed:
            raise ClientClosedError
        lane = self._last_free()
        if lane is not None:
            return lane
        return self._make() or (self._draining.popleft() if self._draining else None)

    def give_back(self, lane: PoolLane[C]) -> None:
        """Give a lane back; one that drains goes to the end of those."""
        if self._closed:
            lane.drop()
        elif lane.draining:
            self._draining.append(lane)
        else:
            self._free.append(lane)

    def oldest_draining(self) -> PoolLane[C] | None:
        """Take the lane that has drained for longest, None where there is none: for who looks whether its end has come."""
        return self._draining.popleft() if self._draining else None

    def put_back(self, lane: PoolLane[C]) -> None:
        """Undo `oldest_draining`."""
        self._draining.appendleft(lane)

    def close(self) -> None:
        """Close all connections that are not in use; those that are close when they are given back."""
        self._closed = True
        while (lane := self._last_free()) is not None:
            lane.drop()
        for lane in self._draining:
            lane.drop()
        self._draining.clear()

    def _last_free(self) -> PoolLane[C] | None:
        try:
            return self._free.pop()
        except IndexError:
            return None  # there is none, or another thread was faster

    def _make(self) -> PoolLane[C] | None:
        """Make a lane, None where there are as many as there may be."""
        if len(self._all) >= self.size:
            return None
        index = next(index for index in range(self._first, self._first + self.size) if index not in self._all)
        lane = self._all[index] = PoolLane(index, self._numbers.setdefault(index, LaneNumbers()))
        return lane


class LanePool(Lanes[C]):
    """
    Hand out lanes to threads: where all are in use, a thread waits for one to be given back. Thread-safe.

    A free lane is taken and given back without the lock. Who waits, or closes, says so first and looks at the free lanes
    afterwards; who gives one back looks afterwards whether somebody has said so. So either the one or the other sees it.
    """

    def __init__(self, size: int, first: int = 0) -> None:
        super().__init__(size, first)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0

    def take(self, timeout: float | None) -> PoolLane[C]:
        """
        Take a lane; blocks until there is one.

        Raises
        ------
        RequestTimeoutError
            None came free in time; nothing was sent.
        ClientClosedError
            The pool was closed.
        """
        with self._lock:
            return self.take_now() or self._wait_for_lane(timeout)

    def take_free(self) -> PoolLane[C] | None:
        """Take a free lane, None where there is none or one drains: the usual case of `take`, in the fewest steps."""
        if self._draining:
            return None
        try:
            return self._free.pop()
        except IndexError:
            return None  # there is none, or another thread was faster

    def give_back(self, lane: PoolLane[C]) -> None:
        """Give a lane back, and wake one thread that waits for it."""
        if lane.draining:
            with self._lock:
                super().give_back(lane)
        else:
            self._free.append(lane)
        if self._waiting or self._closed:
            with self._lock:
                if self._closed:
                    super().close()
                self._changed.notify()

    def oldest_draining(self) -> PoolLane[C] | None:
        """See `Lanes`."""
        if not self._draining:
            return None
        with self._lock:
            return super().oldest_draining()

    def put_back(self, lane: PoolLane[C]) -> None:
        """See `Lanes`."""
        with self._changed:
            super().put_back(lane)
            self._changed.notify()

    def close(self) -> None:
        """See `Lanes`; who waits for a lane gets ClientClosedError."""
        with self._changed:
            super().close()
            self._changed.notify_all()

    def abandon(self) -> None:
        """
        Close every connection, in use or not: for a forked child, where the threads that hold the lock, or wait, are gone.

        Who still has a lane, a stream that was under way, can give it back.
        """
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        for lane in list(self._all.values()):
            with suppress(OSError):  # closed already, by who closes all descriptors of a child
                lane.drop()

    def _wait_for_lane(self, timeout: float | None) -> PoolLane[C]:
        deadline = None if timeout is None else time.monotonic() + timeout
        in_time = True
        self._waiting += 1
        try:
            while (lane := self.take_now()) is None:
                # Asked also when it is late: a lane may have come for this thread, and nobody else was told.
                if not in_time:
                    assert timeout is not None
                    raise RequestTimeoutError(timeout, f"one of {self.size} connections to come free", False)
                left = None if deadline is None else min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
                in_time = self._changed.wait(left)
            return lane
        finally:
            self._waiting -= 1
