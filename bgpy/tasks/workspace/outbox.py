"""
What is to be done without a lock, in the order in which it was found with it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bgpy.tasks.workspace.backends import Backend
from bgpy.tasks.workspace.instructions import Instruction
from bgpy.tasks.workspace.jobs import JobRecord

#: What is called with a job's record; must not block.
Then = Callable[[JobRecord], object]


class Tell(NamedTuple):
    """Tell somebody of a job, beside what the queue wants done."""

    then: Then
    record: JobRecord


class Waiters:
    """Who is to be told of the ends of jobs. Not thread-safe."""

    def __init__(self) -> None:
        self._then: dict[int, list[Then]] = {}

    def add(self, number: int, then: Then) -> None:
        """Take one more that waits for a job."""
        self._then.setdefault(number, []).append(then)

    def take_back(self, number: int, then: Then) -> None:
        """Forget one that does not wait any more; it may have been told."""
        waiting = self._then.get(number, [])
        if then in waiting:
            waiting.remove(then)

    def drop(self, number: int) -> None:
        """Forget all that wait for a job."""
        self._then.pop(number, None)

    def take(self, number: int, record: JobRecord) -> list[Tell]:
        """Return all that wait for a job, who are forgotten here."""
        return [Tell(then, record) for then in self._then.pop(number, ())]

    def take_all(self, record_of: Callable[[int], JobRecord]) -> list[Tell]:
        """As `take`, of every job, whose record is told."""
        return [tell for number in list(self._then) for tell in self.take(number, record_of(number))]


class Outbox:
    """
    A list of instructions that one thread at a time carries out for all; the others do not wait for it.

    Parameters
    ----------
    lock
        Held by whoever calls `put`, by nobody who calls `empty`.
    carry_out
        Does one of the queue's instructions, with the backend that there was when it was put in.
    """

    def __init__(self, lock: threading.Lock, carry_out: Callable[[Instruction, Backend | None], None]) -> None:
        self._lock = lock
        self._carry_out = carry_out
        self._waiting: deque[tuple[Instruction | Tell, Backend | None]] = deque()
        self._busy = False

    def put(self, instruction: Instruction, backend: Backend | None) -> None:
        """Add an instruction."""
        assert self._lock.locked()
        self._waiting.append((instruction, backend))

    def put_all(self, tells: Sequence[Tell]) -> None:
        """Add what needs no backend."""
        assert self._lock.locked()
        self._waiting.extend([(tell, None) for tell in tells])

    def empty(self) -> None:
        """Carry out all that there is, unless another thread does so."""
        waiting = self._waiting
        if not waiting:
            return  # seen without the lock: what this thread has put in is there, or another one has taken it
        with self._lock:
            if self._busy or not waiting:
                return
            self._busy = True
            instruction, backend = waiting.popleft()
        while True:
            try:
                if isinstance(instruction, Tell):
                    instruction.then(instruction.record)
                else:
                    self._carry_out(instruction, backend)
            except Exception:
                # One that fails must not keep the others from being carried out.
                logging.getLogger("bgpy.workspace").exception("Could not %r", instruction)
            with self._lock:
                if not waiting:
                    self._busy = False
                    return
                instruction, backend = waiting.popleft()
