"""
For the queue alone: where its running jobs, its worker and the stop that was asked for are.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.jobs import JobEvent

# For every job's path: members are slow to look up.
_FINISH = JobEvent.FINISH


class Phase(enum.Enum):
    """How far the running job has come on its way to the worker."""

    #: RUNNING is not on the disk yet.
    COMMITTING = 0
    #: There was no worker when that was done.
    WAITING = 1
    #: The driver is handing it over.
    HANDING = 2
    HANDED = 3


class Worker(enum.Enum):
    """What a queue knows of its worker."""

    NONE = 0
    STARTING = 1
    READY = 2
    #: A kill is under way: whatever it would be given now would die with it.
    DOOMED = 3


class Stop(enum.IntEnum):
    """Who asked the running job to end; the strongest counts."""

    NOBODY = 0
    INTERRUPT = 1
    LIMIT = 2
    KILL = 3


class Turn:
    """
    The jobs whose turn it is: one script, or calls that are run as one.

    Attributes
    ----------
    numbers
        Of those that have not ended, in the order in which they were queued.
    stopped
        Which of them somebody asked to end, by the means of `stop`.
    grace
        Whether the time limit has passed.
    """

    phase = Phase.COMMITTING
    stop = Stop.NOBODY
    stopped: int | None = None
    grace = False

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.numbers = list(numbers)

    @property
    def first(self) -> int | None:
        """The job that stands for all of them where only one can."""
        return self.numbers[0] if self.numbers else None

    @property
    def is_with_worker(self) -> bool:
        """Whether the worker has the jobs, or is just being given them."""
        return self.phase in (Phase.HANDING, Phase.HANDED)

    def ask(self, stop: Stop, number: int) -> None:
        """Note that a job shall end."""
        if stop >= self.stop:
            self.stop, self.stopped = stop, number

    def end_of(self, outcome: Outcome) -> JobEvent:
        """Return what the worker's word of a job's end is to that job."""
        if outcome.state == "done":
            return _FINISH
        if self.stop is Stop.LIMIT:
            return JobEvent.TIME_OUT
        return JobEvent.INTERRUPT if outcome.state == "interrupted" else JobEvent.FAIL

    def cause_of_death(self, reason: str) -> str:
        """Return why its worker died, as those are told who waited behind it."""
        if self.stop in (Stop.KILL, Stop.LIMIT):
            return f"job {self.stopped} was killed" + (" at its time limit" if self.stop is Stop.LIMIT else "")
        return reason

    def death_of(self, number: int, limit: float | None, reason: str, memory: bool) -> tuple[JobEvent, str, str]:
        """Return what the death of the worker is to a job that it had: the event, and type and message of its error."""
        if self.stop is Stop.KILL and number != self.stopped:
            return JobEvent.ABORT, "Aborted", f"The worker was killed with job {self.stopped}, which ran as one with it"
        if self.stop is Stop.KILL:
            return JobEvent.KILL, "Killed", "It was killed"
        if self.stop is Stop.LIMIT:
            return JobEvent.TIME_OUT, "TimedOut", f"It was killed, still running after its time limit of {limit} s"
        message = f"Its worker died: {reason}"
        if memory:
            message += "; the memory limit of the workspace is the likely cause"
        return JobEvent.CRASH, "WorkerDied", message
