"""
The jobs of one workspace that wait for their turn, and the memory that they take meanwhile. No threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from bgpy.errors import OverloadedError
from bgpy.tasks.workspace.jobs import JobRecord

#: Jobs that may wait: none of them can be forgotten.
MAX_WAITING = 10_000
#: Bytes that they may take together. One job alone may take more: what came as one message can also wait.
MAX_WAITING_SIZE = 1 << 30


class Line:
    """
    Numbers of jobs, the next one first. Not thread-safe.

    Parameters
    ----------
    workspace
        Its name, for people.
    """

    def __init__(self, workspace: str) -> None:
        self._workspace = workspace
        self._sizes: OrderedDict[int, int] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __contains__(self, number: int) -> bool:
        return number in self._sizes

    @property
    def first(self) -> int | None:
        """The job whose turn is next."""
        return next(iter(self._sizes), None)

    def admit(self, record: JobRecord) -> None:
        """Put a new job at the end; raises OverloadedError where too many wait, or too much."""
        size = record.waiting_size
        if len(self._sizes) >= MAX_WAITING:
            raise OverloadedError(f"{len(self):,} jobs wait in the workspace {self._workspace!r}")
        if self._sizes and self._size + size > MAX_WAITING_SIZE:
            raise OverloadedError(f"{self._size:,} bytes of jobs wait in the workspace {self._workspace!r}")
        self._sizes[record.number] = size
        self._size += size

    def join(self, records: Iterable[JobRecord]) -> None:
        """Put jobs that were let in before into the order of the numbers."""
        for record in records:
            self._sizes[record.number] = size = record.waiting_size
            self._size += size
        self._sizes = OrderedDict(sorted(self._sizes.items()))

    def take(self) -> int:
        """Take the first one out."""
        number, size = self._sizes.popitem(last=False)
        self._size -= size
        return number

    def leave(self, number: int) -> None:
        """Take one out, if it is there."""
        self._size -= self._sizes.pop(number, 0)

    def clear(self) -> None:
        """Take all out."""
        self._sizes.clear()
        self._size = 0
