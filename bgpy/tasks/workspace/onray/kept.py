"""
What a keeper keeps of the last job, for a server that was away. No threads, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.jobs import Tail

_Stream = Literal["stdout", "stderr"]


class Kept:
    """
    The last job that the interpreter was given: what it wrote, and how it ended.

    A server hands the next job over when it has written down how this one ended; that is its acknowledgement.
    """

    def __init__(self) -> None:
        #: Its number; of calls that run as one that of the first. None before the first job.
        self.number: int | None = None
        #: The numbers of calls that run as one, () of all other jobs.
        self.together: tuple[int, ...] = ()
        #: How it ended, None while it runs.
        self.outcome: Outcome | None = None
        self._output: Mapping[_Stream, Tail] = {}

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.number is not None and self.outcome is None

    def begin(self, number: int, together: tuple[int, ...]) -> None:
        """Take another job; what was of the one before is forgotten."""
        self.number, self.together, self.outcome = number, together, None
        self._output = {"stdout": Tail(), "stderr": Tail()}

    def write(self, number: int | None, stream: _Stream, data: bytes) -> int:
        """Take what it wrote, and return how much it has written so far; what was written between two jobs is not kept."""
        if number is None or number != self.number:
            return 0
        self._output[stream].add(data)
        return self._output[stream].size

    def end(self, number: int, outcome: Outcome) -> None:
        """Take how it ended."""
        if number == self.number:
            self.outcome = outcome

    def output(self, seen: Mapping[str, int]) -> dict[_Stream, tuple[bytes, int]]:
        """
        Return what it has written beyond what was `seen` of each stream, and how much it has written in all.

        It is the last of it, with a mark where something was cut.
        """
        return {
            stream: (tail.read(seen.get(stream, 0)), tail.size)
            for stream, tail in self._output.items()
            if tail.size > seen.get(stream, 0)
        }

    def hello(self) -> dict[str, Any]:
        """Return what a server is told that connects."""
        return {"job": self.number, "running": self.running}
