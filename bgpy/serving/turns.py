"""
A fair lock: turns are taken in the order in which the tickets were drawn. Python's own locks promise no order.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from bgpy.errors import ServerEndingError


class Ticket:
    """One place in the queue of a `TurnLock`. Use as a context manager: waits for the turn, and passes it on."""

    __slots__ = ("_lock", "gate", "granted", "refused")

    def __init__(self, lock: TurnLock, granted: bool) -> None:
        self._lock = lock
        self.granted = granted
        self.refused = False
        self.gate: threading.Lock | None = None
        if not granted:
            self.gate = threading.Lock()
            self.gate.acquire()

    def wait(self, timeout: float | None = None) -> bool:
        """
        Wait for the turn; return whether it came within `timeout` seconds. If not, the place in the queue is given up.

        Raises ServerEndingError where the lock was abandoned first.
        """
        if self.gate is not None and not self.gate.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            return self._lock.give_up(self)
        if self.refused:
            raise ServerEndingError
        return True

    def open_gate(self) -> None:
        """Wake whoever waits."""
        if self.gate is not None:
            self.gate.release()

    def __enter__(self) -> Ticket:
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()


class TurnLock:
    """A lock that is held by one ticket at a time, in the order of the tickets. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._closed = False
        self._queue: deque[Ticket] = deque()
        # A ticket that is granted at once has no state of its own: one serves for all of them.
        self._at_once = Ticket(self, granted=True)
        #: How many tickets were drawn.
        self.drawn = 0

    def draw(self) -> Ticket:
        """Take the next place in the queue; raises ServerEndingError after `close`."""
        with self._mutex:
            if self._closed:
                raise ServerEndingError
            self.drawn += 1
            if self._held:
                return self._enqueue()
            self._held = True
            return self._at_once

    def close(self) -> Ticket:
        """Draw the last ticket: whoever comes later is refused."""
        with self._mutex:
            self._closed = True
            self.drawn += 1
            if self._held:
                return self._enqueue()
            self._held = True
            return self._at_once

    def abandon(self) -> None:
        """Refuse all who still wait; whoever holds the lock keeps it."""
        with self._mutex:
            self._closed = True
            waiting, self._queue = self._queue, deque()
        for ticket in waiting:
            ticket.refused = True
            ticket.open_gate()

    def release(self) -> None:
        """Pass the turn on; for `Ticket`."""
        with self._mutex:
            if not self._queue:
                self._held = False
                return
            following = self._queue.popleft()
            following.granted = True
        following.open_gate()

    def give_up(self, ticket: Ticket) -> bool:
        """Leave the queue; True where the turn came at the last moment after all. For `Ticket`."""
        with self._mutex:
            if ticket.granted:
                return True
            if ticket in self._queue:
                self._queue.remove(ticket)
        if ticket.refused:
            raise ServerEndingError
        return False

    def _enqueue(self) -> Ticket:
        ticket = Ticket(self, granted=False)
        self._queue.append(ticket)
        return ticket
