"""
Tell how far a job has come, from inside the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
#: Takes name, number of items done, number of all items or None.
Sink = Callable[[str, float, "float | None"], None]

#: Seconds between two events of one bar.
INTERVAL = 0.1


class Sinks:
    """Where the events go: that of the context, which an interpreter sets for its jobs; else that of the process; else none."""

    def __init__(self) -> None:
        #: Of an interpreter with a process of its own: threads that its jobs start do not inherit their context.
        self.of_process: Sink | None = None
        self._of_context: ContextVar[Sink | None] = ContextVar("bgpy_progress", default=None)

    def get(self) -> Sink | None:
        """Return where the events of this thread go."""
        return self._of_context.get() or self.of_process

    def set(self, sink: Sink | None) -> None:
        """Set where the events of this context go."""
        self._of_context.set(sink)


SINK = Sinks()


def progress(items: Iterable[T], name: str | None = None, total: float | None = None) -> Iterator[T]:
    """
    Yield the items, and tell whoever watches the job how many are done: ``for x in progress(items)``.

    Events are sent at the beginning, then at most ten a second, and at the end, also where the loop is left early. Outside of a
    job it only yields the items, and so it does in a thread that a job of a ``thread`` workspace started.

    Parameters
    ----------
    name
        What is counted, for people; needed only to tell several bars of one job apart.
    total
        How many items there are, where `items` has no length.
    """
    sink = SINK.get()
    if sink is None:
        return iter(items)
    if total is None:
        try:
            total = len(items)  # type: ignore[arg-type]
        except TypeError:
            pass  # nobody knows before the last one
    return _tell(items, name or "", total, sink)


def _tell(items: Iterable[T], name: str, total: float | None, sink: Sink) -> Iterator[T]:
    done, told = 0, -1
    clock, due = time.monotonic, 0.0
    try:
        for item in items:
            if clock() >= due:
                sink(name, done, total)
                told, due = done, clock() + INTERVAL
            yield item
            done += 1
    finally:
        if done != told:
            sink(name, done, total)
