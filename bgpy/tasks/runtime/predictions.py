"""
Predictions under way: jobs of a run that no thread waits for, each with a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from bgpy.errors import RefusedError
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.workspace import Workspace

#: Seconds that a run, or a prediction, has after its interrupt; then it is killed.
GRACE = 2.0


class Prediction:
    """
    One question to a model, until `then` was called, once, with it. Thread-safe.

    Parameters
    ----------
    timeout
        Seconds; then it leaves the queue, or is interrupted, and killed where that does not end it.
    then
        Called by whoever hears of the end; must not block.

    Attributes
    ----------
    number
        Of its job; -1 before that is queued.
    late
        Whether its time was over.
    record
        Its job, when `then` is called; one that has not ended where the server ends, or it could not be stopped.
    """

    def __init__(self, workspace: Workspace, name: str, timeout: float, then: Callable[[Prediction], object]) -> None:
        self.name = name
        self.timeout = timeout
        self.number = -1
        self.late = False
        self.record: JobRecord | None = None
        self._workspace = workspace
        self._then = then
        self._told = threading.Lock()

    def begin(self, call: Call) -> None:
        """Queue it; raises RefusedError, OverloadedError."""
        self.number = self._workspace.call(call, self.name, then=self.tell)
        self._workspace.deadlines.add(self, self.timeout)

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return self._told.locked()

    def expire(self) -> None:
        """See `Expiring`: stop it, by a thread of its own where it runs, as that may take a while."""
        self.late = True
        with contextlib.suppress(RefusedError):  # the session goes, which tells
            if not self.cancel():
                threading.Thread(target=self._give_up, name="bgpy-prediction-end", daemon=True).start()

    def cancel(self) -> bool:
        """Take it out of the queue; returns whether it was waiting there. Raises RefusedError where the session goes."""
        return self._workspace.cancel(self.number)

    def stop(self, grace: float = GRACE) -> None:
        """Interrupt it, if it runs, and kill it `grace` seconds later; blocks a bounded time. Raises as `cancel`."""
        if grace:
            self._workspace.interrupt(self.number)
        if not self._workspace.wait(self.number, grace).ended:
            self._workspace.kill(self.number)

    def tell(self, record: JobRecord) -> None:
        """Take the end of the job."""
        if self._told.acquire(blocking=False):
            self.record = record
            self._then(self)

    def _give_up(self) -> None:
        with contextlib.suppress(RefusedError):
            self.stop()
            self.tell(self._workspace.record(self.number))  # also where nothing has ended it
