"""
What changes all replicas of a model, for whoever waits for it.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from bgpy.serving.deadlines import Deadlines
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.means import Gate
from bgpy.tasks.workspace.outbox import Then
from bgpy.tasks.workspace.workspace import Workspace

#: How many replicas at least and at most, and the seconds after which one that is not needed goes.
Bounds = tuple[int, int, float]


#: Changes whose end somebody may wait for while a replica takes its time; the oldest is then told that it goes on.
MAX_CHANGES = 100


class Change:
    """
    A deploy, an update or an undeploy of all replicas, for `answer_at_end`: a job that runs until all are done.

    Attributes
    ----------
    number
        Of the first one's job, None before it is queued.
    bounds
        How many replicas there may be, once that has gone well; None for as many as then.
    begun
        Whether the first one's job has ended.
    """

    def __init__(self, home: Workspace, bounds: Bounds | None) -> None:
        self.number: int | None = None
        self.bounds = bounds
        self.begun = False
        self._home = home
        self._lock = threading.Lock()
        self._told = False
        self._over = False
        self._then: list[Then] = []

    @property
    def deadlines(self) -> Deadlines:
        """See `Awaited`."""
        return self._home.deadlines

    def record(self, number: int | None) -> JobRecord:
        """See `Awaited`."""
        record = self._home.record(number)
        if self._over or not record.state.ended:
            return record
        return replace(record, state=JobState.RUNNING, ended=None, value=None, error=None)

    def check_saved(self, number: int) -> None:
        """See `Awaited`."""
        self._home.check_saved(number)

    def when_ended(self, number: int, then: Then) -> bool:
        """See `Awaited`."""
        with self._lock:
            if not self._told:
                self._then.append(then)
            return not self._told

    def wait(self, number: int, timeout: float) -> JobState:
        """See `Awaited`."""
        gate = Gate()
        if self.when_ended(number, gate.open_at_end):
            gate.wait(timeout)
        return self.record(number).state

    def tell(self, *, over: bool = False) -> None:
        """Tell whoever waits that all is done, or that the server ends."""
        with self._lock:
            self._told, self._over = True, over
            waiting, self._then = self._then, []
        if waiting:
            record = self.record(self.number)
            for then in waiting:
                then(record)
