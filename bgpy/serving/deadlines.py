"""
The deadlines of deferred requests: one thread that sleeps until the next one is due.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Protocol


class Expiring(Protocol):
    """Something that may be settled before its deadline."""

    @property
    def settled(self) -> bool:
        """Whether nothing is to be done any more."""

    def expire(self) -> None:
        """Called at the deadline, unless settled."""


class Deadlines:
    """Call `expire` of what is not settled in time. Thread-safe; the thread starts with the first deadline."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[float, int, Expiring]] = []
        self._count = 0
        self._compact_at = 64
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, item: Expiring, timeout: float) -> None:
        """Let `item` expire in `timeout` seconds."""
        with self._lock:
            self._count += 1
            entry = (time.monotonic() + timeout, self._count, item)
            heapq.heappush(self._heap, entry)
            if len(self._heap) > self._compact_at:
                # What is settled leaves here, not when its hour is over: the heap stays in proportion to what is pending.
                self._heap = [entry for entry in self._heap if not entry[2].settled]
                heapq.heapify(self._heap)
                self._compact_at = 2 * len(self._heap) + 64
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bgpy-deadlines", daemon=True)
                self._thread.start()
            if self._heap and self._heap[0] is entry:  # else the thread wakes early enough, or the item is settled meanwhile
                self._changed.notify()

    def close(self) -> list[Expiring]:
        """End the thread and return what was pending."""
        with self._lock:
            self._closed = True
            pending = [entry[2] for entry in self._heap if not entry[2].settled]
            self._heap = []
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)
        return pending

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                while self._heap and self._heap[0][2].settled:  # at once, not each when its time has come
                    heapq.heappop(self._heap)
                if not self._heap or self._heap[0][0] > now:
                    self._changed.wait(min(self._heap[0][0] - now, threading.TIMEOUT_MAX) if self._heap else None)
                    continue
                _, _, item = heapq.heappop(self._heap)
            if not item.settled:
                item.expire()
