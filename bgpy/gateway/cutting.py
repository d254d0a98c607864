"""
Blocks of coroutines that are ended from outside.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Cut:
    """
    A block that `make` ends: what its task waits for there is cancelled, and the task goes on behind the block.

    A scope of anyio does this and more, at ten times the cost; each request has two of these.

    Attributes
    ----------
    made
        Whether `make` was called.
    """

    __slots__ = ("_task", "made")

    def __init__(self) -> None:
        self.made = False

    def __enter__(self) -> Cut:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        return self

    def make(self) -> None:
        """End the block. For callbacks and other tasks, while the block is there; again is fine."""
        if not self.made:
            self.made = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> bool:
        if not self.made:
            return False
        # Who else has cancelled the task is not forgotten; before Python 3.11 nobody counts them.
        uncancel = getattr(self._task, "uncancel", None)
        others = 0 if uncancel is None else uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError) and not others
