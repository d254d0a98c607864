"""
Tell, from inside a job, what happens in it: how far it has come, what it has saved.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

#: What a job can tell, and the fields of each event.
NEWS: Mapping[str, tuple[str, ...]] = {"progress": ("name", "done", "total"), "saved": ("name",)}
#: Seconds between two events of one bar.
INTERVAL = 0.1


class Sink:
    """
    Where one interpreter's jobs tell what happens. Any thread of theirs.

    Parameters
    ----------
    tell
        Takes an event of `NEWS` and its fields.
    """

    def __init__(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        self._tell = tell

    def progress(self, name: str, done: float, total: float | None) -> None:
        """Tell how many items are done, and of how many, where that is known."""
        self._tell("progress", {"name": _plain(name), "done": float(done), "total": None if total is None else float(total)})

    def saved(self, name: str) -> None:
        """Tell that there is a value of that name to be read."""
        self._tell("saved", {"name": _plain(name)})


class Sinks:
    """Where the events go: as the context says, which an interpreter sets for its jobs; else the process; else the namespace."""

    def __init__(self) -> None:
        #: Of an interpreter with a process of its own.
        self.of_process: Sink | None = None
        self._of_context: ContextVar[Sink | None] = ContextVar("bgpy_progress", default=None)
        #: Of the interpreters that share a process, by the ids of their namespaces, which are kept beside them.
        self._of_namespaces: dict[int, tuple[Mapping[str, Any], Sink]] = {}

    def get(self) -> Sink | None:
        """Return where the events of this thread go."""
        return self._of_context.get() or self.of_process or self._of_code()

    def set(self, sink: Sink | None) -> None:
        """Set where the events of this context go."""
        self._of_context.set(sink)

    def add(self, namespace: Mapping[str, Any], sink: Sink) -> None:
        """Let the events of code of a namespace go there also in threads, which do not inherit the context."""
        self._of_namespaces[id(namespace)] = namespace, sink

    def remove(self, namespace: Mapping[str, Any]) -> None:
        """Undo `add`."""
        self._of_namespaces.pop(id(namespace), None)

    def _of_code(self) -> Sink | None:
        """Return the sink of the innermost code of such a namespace that this thread runs."""
        frame = sys._getframe(1) if self._of_namespaces else None
        while frame is not None:
            found = self._of_namespaces.get(id(frame.f_globals))
            if found is not None:
                return found[1]
            frame = frame.f_back
        return None


SINK = Sinks()


def progress(items: Iterable[T], name: str | None = None, total: float | None = None, *, desc: str | None = None) -> Iterator[T]:
    """
    Yield the items, and tell whoever watches the job how many are done: ``for x in progress(items)``.

    Events are sent at the beginning, then at most ten a second, and at the end, also where the loop is left early. Outside of a
    job it only yields the items. In a thread that a job started it tells of the job that runs then; in one of a ``thread``
    workspace only where code of the workspace itself calls it, or code that it calls.

    Parameters
    ----------
    name
        What is counted, for people; needed only to tell several bars of one job apart.
    total
        How many items there are, where `items` has no length.
    desc
        The name, in the words of tqdm.
    """
    sink = SINK.get()
    if sink is None:
        return iter(items)
    if total is None:
        try:
            total = len(items)  # type: ignore[arg-type]
        except TypeError:
            pass  # nobody knows before the last one
    return _tell(items, name or desc or "", total, sink)


def _tell(items: Iterable[T], name: str, total: float | None, sink: Sink) -> Iterator[T]:
    done, told = 0, -1
    clock, due = time.monotonic, 0.0
    try:
        for item in items:
            if clock() >= due:
                sink.progress(name, done, total)
                told, due = done, clock() + INTERVAL
            yield item
            done += 1
    finally:
        if done != told:
            sink.progress(name, done, total)


def _plain(name: object) -> str:
    """Return a text that is a `str` itself, and that UTF-8 can carry."""
    return str.encode(str(name), "utf-8", "backslashreplace").decode("utf-8")
