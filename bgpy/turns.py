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
    """
    A lock that is held by one ticket at a time, in the order of the tickets. Thread-safe.

    Where nobody waits, a turn is one step of a lock of Python's own. The queue has a lock of its own: who finds the turn taken
    goes there, and tries once more when it stands in the queue; who gives the turn up looks there afterwards. So either the one
    or the other sees that a turn is free and a ticket waits.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._mutex = threading.Lock()
        self._closed = False
        self._queue: deque[Ticket] = deque()
        self._granted = 0
        # A ticket that is granted at once has no state of its own: one serves for all of them.
        self._at_once = Ticket(self, granted=True)

    @property
    def drawn(self) -> int:
        """How many tickets were drawn; those that were given up do not count."""
        with self._mutex:
            return self._granted + len(self._queue)

    def draw(self) -> Ticket:
        """Take the next place in the queue; raises ServerEndingError after `close`."""
        if not self._queue and self._turn.acquire(False):
            if self._closed:  # looked at with the turn in hand: whoever closes takes the last turn after saying so
                self.release()
                raise ServerEndingError
            self._granted += 1
            return self._at_once
        with self._mutex:
            if self._closed:
                raise ServerEndingError
            ticket = self._enqueue()
        self._pass_on()
        return ticket

    def close(self) -> Ticket:
        """Draw the last ticket: whoever comes later is refused."""
        with self._mutex:
            self._closed = True
            ticket = self._enqueue()
        self._pass_on()
        return ticket

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
        self._turn.release()
        if self._queue:
            self._pass_on()

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

    def _pass_on(self) -> None:
        """Give the turn to the first in the queue, if it is free."""
        with self._mutex:
            if not self._queue or not self._turn.acquire(False):
                return  # whoever holds the turn looks here when it is given up
            following = self._queue.popleft()
            following.granted = True
            self._granted += 1
        following.open_gate()
