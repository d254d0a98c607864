"""
How a workspace hears of its worker, and of the time.
"""

from __future__ import annotations

import codecs
from typing import Any, Literal, Protocol

from bgpy.tasks.workspace.backends import Outcome


class Hearer(Protocol):
    """What a workspace is to those who tell it something."""

    def heard_output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes, text: str) -> None:
        """Take what was written, and the text that it makes with what came before."""

    def heard_news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """Take what a job tells of itself."""

    def heard_end(self, ear: Ear, number: int, outcome: Outcome) -> None:
        """Take the end of a job."""

    def heard_death(self, ear: Ear, reason: str, memory: bool) -> None:
        """Take the end of a worker."""

    def time_passed(self, number: int) -> None:
        """Take the end of a job's time."""

    def runs(self, number: int) -> bool:
        """Tell whether a job runs now."""


class Ear:
    """The listener of one backend: what an old one still says does not count for its successor."""

    def __init__(self, workspace: Hearer) -> None:
        self.death: tuple[str, bool] | None = None
        self._workspace = workspace
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """See `Listener`."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        self._workspace.heard_output(number, stream, data, decoder.decode(data))

    def news(self, number: int, event: str, details: dict[str, Any]) -> None:
        """See `Listener`."""
        self._workspace.heard_news(number, event, details)

    def ended(self, number: int, outcome: Outcome) -> None:
        """See `Listener`."""
        if self._decoders:
            decoders, self._decoders = self._decoders, {}
            for stream in ("stdout", "stderr"):
                rest = decoders[stream].decode(b"", True) if stream in decoders else ""
                if rest:  # the job ended in the midst of a character
                    self._workspace.heard_output(number, stream, b"", rest)
        self._workspace.heard_end(self, number, outcome)

    def died(self, reason: str, memory: bool) -> None:
        """See `Listener`."""
        self._workspace.heard_death(self, reason, memory)


class JobTimer:
    """A job's time limit, or the grace after it."""

    def __init__(self, workspace: Hearer, number: int) -> None:
        self._workspace = workspace
        self._number = number

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return not self._workspace.runs(self._number)

    def expire(self) -> None:
        """See `Expiring`."""
        self._workspace.time_passed(self._number)
