"""
What a run tells, in the words of the Runtime server: from the events of its workspace to messages. No threads, no clock.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from bgpy.tasks.workspace.jobs import JobState

Message = dict[str, Any]
Event = Mapping[str, Any]

#: The number of the first message: the first event of a workspace is about its worker or its queue, and so none of the run's.
FIRST: Final = 1


class Status(str, enum.Enum):
    """How a run is."""

    ALIVE = "Alive"
    #: Its main file ran to its end.
    FINISHED = "Finished"
    #: It raised, or its process died.
    FAILED = "Failed"
    #: Somebody wanted it to stop.
    STOPPED = "Stopped"
    #: There is none, or none any more.
    NOT_FOUND = "Session not found"


#: How a run is whose main job has ended like this; all other ends are failures.
_STATUS: Final[Mapping[JobState, Status]] = {
    JobState.DONE: Status.FINISHED,
    JobState.INTERRUPTED: Status.STOPPED,
    JobState.KILLED: Status.STOPPED,
    JobState.CANCELLED: Status.STOPPED,
}


class Ending(NamedTuple):
    """
    How a run has ended.

    Attributes
    ----------
    error
        ``type``, ``message``, ``traceback``; None where it ran to its end.
    time
        Seconds since 1970.
    placeholders
        How many it has left.
    """

    status: Status
    error: dict[str, str] | None
    time: float
    placeholders: int = 0


def status_of(state: JobState) -> Status:
    """Return how a run is whose main job is in this state."""
    return _STATUS.get(state, Status.FAILED) if state.ended else Status.ALIVE


class Story:
    """
    The messages of one run, for one who listens.

    Parameters
    ----------
    session
        The id that they all have.
    mainfile
        What is run.
    """

    def __init__(self, session: str, mainfile: str) -> None:
        self._session = session
        self._mainfile = mainfile

    def started(self) -> Message:
        """Return the first message of all."""
        return self._make("[status]:EXECUTION_STARTED", FIRST, message=f"{self._mainfile} was started")

    def alive(self, number: int) -> Message:
        """Return what is told where nothing else is to be told, so that the end of a connection is found."""
        return self._make("[status]:STATUS", number, status=Status.ALIVE.value)

    def forgotten(self, number: int) -> Message:
        """Return the last message of a run that ended with its server."""
        return self._make("[status]:FORGOTTEN", number)

    def ended(self, ending: Ending, number: int) -> Message:
        """Return the last message of a run."""
        if ending.error is None:
            return self._make(
                "[state]:EXECUTION_FINISHED", number, message=f"{self._mainfile} ran to its end", status=ending.status.value
            )
        message = f"{ending.error['type']}: {ending.error['message']}".rstrip(": ")
        return self._make("[state]:EXECUTION_FAILED", number, message=message, error=ending.error, status=ending.status.value)

    def tell(self, events: Iterable[Event]) -> Iterator[Message]:
        """Yield what events of the workspace are in the words of a run; many are nothing of a run's."""
        for event in events:
            message = self._translate(event)
            if message is not None:
                yield message

    def _translate(self, event: Event) -> Message | None:
        kind, number = event["event"], event["number"]
        if kind == "output":
            return self._make(f"[output]:{event['stream'].upper()}", number, text=event["text"])
        if kind == "progress":
            return self._make("[progress]:UPDATE", number, **{field: event[field] for field in ("name", "done", "total")})
        if kind == "gap":
            return self._make("[output]:GAP", number, missed=event["missed"])
        if kind == "saved":
            return self._make("[placeholder]:READY", number, name=event["name"])
        return None

    def _make(self, kind: str, number: int, **details: Any) -> Message:
        return {"type": kind, "sessionId": self._session, "number": number, **details}
