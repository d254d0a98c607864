"""
One budget of memory for the large messages of all connections.
"""

from __future__ import annotations

import threading

from bgpy.errors import OverloadedError


class MemoryBudget:
    """
    Let connections take memory for large messages only while there is some left. Thread-safe.

    Parameters
    ----------
    total
        Bytes for all messages that are being received or worked on.
    patience
        Seconds that a message waits for room; its sender meanwhile makes no progress and would give up by itself.
    """

    def __init__(self, total: int, patience: float) -> None:
        self._changed = threading.Condition()
        self._left = total
        self._total = total
        self._patience = patience

    def take(self, size: int) -> None:
        """Take `size` bytes; blocks until there is room. Raises OverloadedError when there is none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._left >= size or self._left == self._total, self._patience):
                raise OverloadedError(f"{self._total - self._left:,} of {self._total:,} bytes for messages are in use")
            self._left -= size

    def give_back(self, size: int) -> None:
        """Give back what `take` took."""
        with self._changed:
            self._left += size
            self._changed.notify_all()
