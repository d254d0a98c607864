"""
For the queue alone: how it stands, for those who ask.
"""

from __future__ import annotations

from typing import Any

from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.ledger import Ledger
from bgpy.tasks.workspace.line import Line
from bgpy.tasks.workspace.phases import Phase, Turn, Worker


class Standing:
    """
    What is known of a queue. Not thread-safe.

    Parameters
    ----------
    workspace
        Its name.
    max_jobs
        How many jobs are remembered.
    """

    def __init__(self, workspace: str, max_jobs: int) -> None:
        self.workspace = workspace
        self.jobs = Ledger(workspace, max_jobs)
        #: How many workers have died.
        self.restarts = 0
        self._waiting = Line(workspace)
        self._held: set[int] = set()
        self._turn = Turn()
        self._worker = Worker.NONE
        self._was_ready = False
        self._expects = False  # whether the next worker may be that of an earlier server
        self._current = -1
        self._finished = -1
        self._last: JobState | None = None  # how that one has ended

    def runs(self, number: int) -> bool:
        """Tell whether a job runs now."""
        return number in self._turn.numbers

    def is_running(self) -> bool:
        """Tell whether a job runs now."""
        return bool(self._turn.numbers)

    def is_being_handed(self) -> bool:
        """Tell whether the running job is on its way to the worker, or its worker on its way to us: it cannot be stopped yet."""
        return bool(self._turn.numbers) and (self._turn.phase is Phase.HANDING or self._expects)

    def lacks_worker(self) -> bool:
        """Tell whether there is no worker and none on its way."""
        return self._worker is Worker.NONE

    def status(self) -> dict[str, Any]:
        """Return the keys of the original, and how many jobs are held and how many workers have died."""
        if self._turn.numbers or self.jobs.unsettled():
            status = "BUSY"
        elif not self._was_ready:
            status = "INITIAL"
        elif self._worker is not Worker.READY and self._waiting:
            status = "BUSY"
        else:
            status = "IDLE" if self._last in (None, JobState.DONE) else "EXCEPT"
        return {
            "STATUS": status,
            "CUR_JOB_NUM": self._current,
            "FIN_JOB_NUM": self._finished,
            "last_state": None if self._last is None else self._last.value,
            "JOB_COUNT": len(self._waiting),
            "held": len(self._held),
            "restarts": self.restarts,
        }
