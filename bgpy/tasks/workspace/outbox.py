"""
What is to be done without a lock, in the order in which it was found with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bgpy.tasks.workspace.backends import Backend
from bgpy.tasks.workspace.instructions import Instruction
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.ledger import MAX_UNKEPT_VALUE

#: What is called with a job's record; must not block.
Then = Callable[[JobRecord], object]
_new_tuple = tuple.__new__


class Tell(NamedTuple):
    """Tell somebody of a job, beside what the queue wants done."""

    then: Then
    record: JobRecord


class Waiters:
    """
    Who is to be told of the ends of jobs. Not thread-safe.

    Parameters
    ----------
    let_go
        Told last, where memory may have something of a job that need not stay there.
    keeps
        Whether there is a store.
    """

    def __init__(self, let_go: Then, keeps: bool) -> None:
        self._let_go = let_go
        self._keeps = keeps
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
        return [_new_tuple(Tell, (then, record)) for then in self._then.pop(number, ())]

    def settle(self, record: JobRecord) -> list[Tell]:
        """Return all that wait for a job which has ended, and behind them who lets go what is large."""
        tells = self.take(record.number, record)
        if self._keeps if record.kept else record.size(MAX_UNKEPT_VALUE) > MAX_UNKEPT_VALUE:
            tells.append(Tell(self._let_go, record))
        return tells

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
        self._waiting: list[tuple[Instruction | Tell, Backend | None]] = []
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
        if not self._waiting:
            return  # seen without the lock: what this thread has put in is there, or another one has taken it
        with self._lock:
            if self._busy or not self._waiting:
                return
            self._busy = True
            batch = self._take()
        while batch:
            for instruction, backend in batch:
                try:
                    if type(instruction) is Tell:
                        instruction.then(instruction.record)
                    else:
                        self._carry_out(instruction, backend)  # type: ignore[arg-type]  # no Tell
                except Exception:
                    # One that fails must not keep the others from being carried out.
                    logging.getLogger("bgpy.workspace").exception("Could not %r", instruction)
            with self._lock:
                batch = self._take()
                self._busy = bool(batch)

    def _take(self) -> list[tuple[Instruction | Tell, Backend | None]]:
        batch, self._waiting = self._waiting, []
        return batch
