"""
What happens in a workspace, as numbered events: a bounded log, and watchers that read it at their own pace.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

#: Events that a workspace remembers.
MAX_EVENTS = 10_000
#: Characters of text in them: a flood of output must not keep 10,000 large pieces.
MAX_TEXT = 8 << 20


class EventLog:
    """
    The last events of one workspace, numbered from 1. Thread-safe; only `Watcher.next` blocks.

    The log is every watcher's queue: a watcher holds a place in it, and who falls behind its beginning is told what was missed.
    """

    def __init__(self, max_events: int = MAX_EVENTS, max_text: int = MAX_TEXT) -> None:
        self._changed = threading.Condition()
        self._events: deque[tuple[dict[str, Any], int]] = deque()
        self._max_events = max_events
        self._max_text = max_text
        self._text = 0
        self._watched = 0
        #: The number of the last event.
        self.last = 0
        #: Whether nothing follows.
        self.closed = False

    def add(self, event: str, job: int | None, time: float, details: Mapping[str, Any] | None = None) -> None:
        """Append an event and wake all watchers."""
        details = details or {}
        size = _text_size(details)
        with self._changed:
            self.last += 1
            self._events.append(({"event": event, "number": self.last, "time": time, "job": job, **details}, size))
            self._text += size
            while len(self._events) > self._max_events or (self._text > self._max_text and len(self._events) > 1):
                _, oldest = self._events.popleft()
                self._text -= oldest
            if self._watched:
                self._changed.notify_all()

    def close(self) -> None:
        """Wake all watchers for the last time."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def watch(self, since: int | None) -> Watcher:
        """
        Return a watcher of what follows number `since`, or of what is new for None.

        A `since` that this log has not reached comes from before a restart: all of this log follows, behind a gap.
        """
        with self._changed:
            return Watcher(self, self.last if since is None else since)

    def read(self, after: int, time: float) -> tuple[list[dict[str, Any]], int]:
        """Return what follows number `after`, behind a gap where the log does not reach back, and the last number of it all."""
        with self._changed:
            return self._read(after, time)

    def wait(self, after: int, timeout: float) -> bool:
        """Wait for an event behind number `after`, or for the end; returns whether one came in time."""
        with self._changed:
            self._watched += 1
            try:
                return self._changed.wait_for(lambda: self.last != after or self.closed, timeout)
            finally:
                self._watched -= 1

    def _read(self, after: int, time: float) -> tuple[list[dict[str, Any]], int]:
        if after == self.last:
            return [], after
        first = self.last - len(self._events) + 1
        events = []
        if after > self.last:
            events.append({"event": "gap", "number": 0, "time": time, "job": None, "missed": None})
            after = 0
        if after + 1 < first:
            events.append({"event": "gap", "number": first - 1, "time": time, "job": None, "missed": [after + 1, first - 1]})
            after = first - 1
        # From the end: usually one event is new, and the log is long.
        new = [event for event, _ in islice(reversed(self._events), self.last - after)]
        return events + new[::-1], self.last


class Watcher:
    """A place in an `EventLog`. For one thread."""

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        #: The number of the last event that was returned.
        self.position = position

    def next(self, timeout: float, time: float) -> list[dict[str, Any]]:
        """Return the events that follow, in their order; blocks until there is one, the log is closed, or the time is up."""
        events, self.position = self._log.read(self.position, time)
        if not events and self._log.wait(self.position, timeout):
            events, self.position = self._log.read(self.position, time)
        return events

    @property
    def ended(self) -> bool:
        """Whether the log is closed and all of it was returned."""
        return self._log.closed and self.position == self._log.last


def _text_size(details: Mapping[str, Any]) -> int:
    size = 0
    for value in details.values():
        if type(value) is str:
            size += len(value)
        elif type(value) is dict:
            size += _text_size(value)
    return size
