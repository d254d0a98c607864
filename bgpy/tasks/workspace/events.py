"""
What happens in a workspace, as numbered events: a bounded log, and watchers that read it at their own pace.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from time import monotonic
from types import MappingProxyType
from typing import Any

#: Events that a workspace remembers.
MAX_EVENTS = 10_000
#: Characters of text in them: a flood of output must not keep 10,000 large pieces.
MAX_TEXT = 8 << 20
#: Characters of pieces of output that are handed out as one.
MAX_JOINED = 64 << 10
#: Seconds in which a watcher that has got output gets no more of it by itself: what is written meanwhile comes as one.
PAUSE = 0.02
NO_DETAILS: Mapping[str, Any] = MappingProxyType({})


class EventLog:
    """
    The last events of one workspace, numbered from 1. Thread-safe; only `Watcher.next` blocks.

    The log is every watcher's queue: a watcher holds a place in it, and who falls behind its beginning is told what was missed.
    """

    def __init__(self, max_events: int = MAX_EVENTS, max_text: int = MAX_TEXT) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._other = threading.Condition(self._lock)  # told of what is no output
        #: Event, number, time, job, details, and how many characters of text those have: most events are read by nobody.
        self._events: deque[tuple[str, int, float, int | None, Mapping[str, Any], int]] = deque()
        self._max_events = max_events
        self._max_text = max_text
        self._text = 0
        self._watched = 0
        self._last_other = 0  # the number of the last event that is no output
        #: The number of the last event.
        self.last = 0
        #: Whether nothing follows.
        self.closed = False

    def add(self, event: str, job: int | None, time: float, details: Mapping[str, Any] = NO_DETAILS) -> None:
        """Append an event and wake all watchers."""
        self.add_all([(event, job, details)], time)

    def add_all(self, announced: Sequence[tuple[str, int | None, Mapping[str, Any]]], time: float) -> None:
        """
        Append events, each as event, job and details, and wake all watchers. Either all of them are output, or none is.

        Details that many events share, and nobody can change, are a `MappingProxyType`: they take no room of their own.
        """
        events = self._events
        output = announced[0][0] == "output"
        with self._lock:
            number = self.last
            for event, job, details in announced:
                number += 1
                size = 0
                if type(details) is dict:
                    size = _text_size(details)
                    self._text += size
                events.append((event, number, time, job, details, size))
            self.last = number
            if not output:
                self._last_other = number
            if len(events) > self._max_events or self._text > self._max_text:
                self._forget()
            if self._watched:
                self._changed.notify_all()
                if not output:
                    self._other.notify_all()

    def _forget(self) -> None:
        events = self._events
        while len(events) > self._max_events or (self._text > self._max_text and len(events) > 1):
            self._text -= events.popleft()[-1]

    def close(self) -> None:
        """Wake all watchers for the last time."""
        with self._lock:
            self.closed = True
            self._changed.notify_all()
            self._other.notify_all()

    def watch(self, since: int | None) -> Watcher:
        """
        Return a watcher of what follows number `since`, or of what is new for None.

        A `since` that this log has not reached comes from before a restart: all of this log follows, behind a gap.
        """
        with self._lock:
            return Watcher(self, self.last if since is None else since)

    def read(self, after: int, time: float) -> tuple[list[dict[str, Any]], int]:
        """Return what follows number `after`, behind a gap where the log does not reach back, and the last number of it all."""
        with self._lock:
            last = self.last
            first = last - len(self._events) + 1
            # From the end: usually one event is new, and the log is long.
            new = [*islice(reversed(self._events), last - after if after <= last else last)]
        events: list[dict[str, Any]] = []
        if after > last:
            events.append({"event": "gap", "number": 0, "time": time, "job": None, "missed": None})
            after = 0
        if after + 1 < first:
            events.append({"event": "gap", "number": first - 1, "time": time, "job": None, "missed": [after + 1, first - 1]})
        for event, number, happened, job, details, _ in reversed(new):
            events.append({"event": event, "number": number, "time": happened, "job": job, **details})
        return events, last

    def wait(self, after: int, timeout: float) -> bool:
        """Wait for an event behind number `after`, or for the end; returns whether one came in time."""
        with self._lock:
            return self._wait_at(self._changed, lambda: self.last != after or self.closed, timeout)

    def pause(self, after: int, timeout: float) -> None:
        """Wait for an event behind number `after` that is no output, for the end, or for the end of the time."""
        with self._lock:
            self._wait_at(self._other, lambda: self._last_other > after or self.closed, timeout)

    def _wait_at(self, condition: threading.Condition, came: Callable[[], bool], timeout: float) -> bool:
        self._watched += 1
        try:
            return condition.wait_for(came, timeout)
        finally:
            self._watched -= 1


class Watcher:
    """A place in an `EventLog`. For one thread."""

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        #: The number of the last event that was returned.
        self.position = position
        self._resume = 0.0

    def next(self, timeout: float, time: float) -> list[dict[str, Any]]:
        """
        Return the events that follow, in their order; blocks until there is one, the log is closed, or the time is up.

        Output that waits is joined, see `join_output`, and some is let wait: a job that prints line by line must not cost its
        watchers a message each, whatever lies between here and them.
        """
        pause = min(self._resume - monotonic(), timeout)
        if pause > 0:
            self._log.pause(self.position, pause)
        events, self.position = self._log.read(self.position, time)
        if not events and self._log.wait(self.position, timeout):
            events, self.position = self._log.read(self.position, time)
        if events and events[-1]["event"] == "output":
            self._resume = monotonic() + PAUSE
        return join_output(events)

    @property
    def ended(self) -> bool:
        """Whether the log is closed and all of it was returned."""
        return self._log.closed and self.position == self._log.last


def join_output(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return events, pieces of output of one job and stream that follow one another as one of at most `MAX_JOINED` characters.

    It is like the last of them, number included: whoever asks for what came after it misses nothing and gets nothing twice.
    """
    joined: list[dict[str, Any]] = []
    texts: list[str] = []
    size = 0
    for event in events:
        text = event["text"] if event["event"] == "output" else ""
        if texts and _is_more_of(joined[-1], event) and size + len(text) <= MAX_JOINED:
            joined[-1] = event
        else:
            _close(joined, texts)
            texts, size = [], 0
            joined.append(event)
        if text:
            texts.append(text)
            size += len(text)
    _close(joined, texts)
    return joined


def _is_more_of(held: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    return event["event"] == "output" and (held["job"], held["stream"]) == (event["job"], event["stream"])


def _close(joined: list[dict[str, Any]], texts: list[str]) -> None:
    if len(texts) > 1:
        joined[-1]["text"] = "".join(texts)


def _text_size(details: Mapping[str, Any]) -> int:
    size = 0
    for value in details.values():
        if type(value) is str:
            size += len(value)
        elif type(value) is dict:
            size += _text_size(value)
    return size
