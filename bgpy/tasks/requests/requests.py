"""
The requests of one server: the table with a clock, processes for the scripts, and whoever waits.

A request without a script is an entry of the table and of one heap of deadlines: it costs no thread. One with a script has a
worker of its own, and a thread for the moment in which that is ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from bgpy.errors import BgpyError, RefusedError
from bgpy.serving.deadlines import Deadlines
from bgpy.tasks.requests.answers import OK, SERVER_ENDS, make_answer
from bgpy.tasks.requests.table import MAX_JOBS, MAX_REQUESTS, Answer, Table, size_of
from bgpy.tasks.workspace.events import EventLog
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

#: Events that are remembered: starts and ends of all that may run at once.
MAX_EVENTS = 2 * MAX_REQUESTS
#: Bytes of JSON up to which an answer is in its event; a larger one is recalled by whoever wants it.
MAX_EVENT_ANSWER = 4096
#: Seconds that a script has after the interrupt at the end of its time; then its process is killed.
GRACE = 2.0

#: Takes the answer of a request; must not block.
Then = Callable[[Answer], object]


class Requests:
    """
    The requests of one server. Thread-safe.

    Parameters
    ----------
    workspaces
        Make the workers of scripts.
    max_requests, max_jobs
        How many requests may run at once, and how many scripts among them.
    """

    def __init__(self, workspaces: Workspaces, *, max_requests: int = MAX_REQUESTS, max_jobs: int = MAX_JOBS) -> None:
        self._workspaces = workspaces
        #: What happens, as numbered events; the job of an event is the number of its request.
        self.log = EventLog(MAX_EVENTS)
        #: What tells of the end of a time.
        self.deadlines = Deadlines()
        self._lock = threading.Lock()
        # Numbers go on from the microsecond of the start: nobody who recalls a request of an earlier server is told of another.
        self._table = Table(time.time_ns() // 1000, max_requests=max_requests, max_jobs=max_jobs)
        self._jobs: dict[int, _Job] = {}
        self._waiting: dict[int, list[Then]] = {}
        self._closed = False

    def start(self, connid: str | int | float, seconds: float, script: str | None) -> int:
        """
        Start a request and return its number. A script runs as soon as its worker is there.

        Raises
        ------
        RefusedError
            As `Table.start`; or the server ends.
        OverloadedError
            As `Table.start`.
        """
        with self._lock:
            self._check_open()
            number = self._table.start(connid, seconds, script is not None).number
        if script is None:
            self._begin(number, seconds)
            return number
        try:
            job = _Job(self._workspaces.create_unlisted(f"request {number}"))
        except BaseException:
            with self._lock:
                self._table.drop(number)
                self._table.job_gone()
            raise
        with self._lock:
            self._jobs[number] = job
        try:
            self._begin(number, seconds)
            # What ends it from now on finds the job, which cannot be pushed any more where it has been ended.
            job.number = job.workspace.push("script", script, then=lambda record: self._script_ended(number, job, record))
        except BgpyError as error:
            self._finish(number, {"status": "Error", "message": str(error)})
            self._release(number)
        return number

    def kill(self, connid: str | int | float) -> bool:
        """End a request; returns whether it ran. Blocks until the process of its script is gone, a bounded time."""
        with self._lock:
            request = self._table.kill(connid)
        if request is not None:
            self._stop(request.number, 0.0)
        return request is not None

    def left(self) -> dict[str, float]:
        """Return the seconds that are left of each request that runs, by its connection id."""
        with self._lock:
            return self._table.left(time.monotonic())

    def recall(self, number: int) -> Answer | None:
        """Return the answer of a request, None while it runs; raises RefusedError where it is not known."""
        with self._lock:
            return self._table.recall(number)

    def runs(self, number: int) -> bool:
        """Tell whether a request runs; without the lock, so what it tells may be over."""
        return number in self._table

    def when_ended(self, number: int, then: Then) -> bool:
        """Have `then` called with the answer at the end of a request; returns False where that has come."""
        with self._lock:
            if number not in self._table:
                return False
            self._waiting.setdefault(number, []).append(then)
        return True

    def take_back(self, number: int, then: Then) -> None:
        """Forget what `when_ended` was given; it may have been called."""
        with self._lock:
            waiting = self._waiting.get(number, [])
            if then in waiting:
                waiting.remove(then)

    def shut(self) -> None:
        """Begin to close: all requests end, and whoever waits for one, or watches, is told. Does not block."""
        with self._lock:
            self._closed = True
            numbers = self._table.numbers()
        for number in numbers:
            self._finish(number, SERVER_ENDS, stopped=True)
        self.log.close()

    def close(self) -> None:
        """End all requests; their scripts end with the workspaces, all at once. Again is fine."""
        self.shut()
        self.deadlines.close()

    def time_passed(self, number: int) -> None:
        """Take the end of a request's time. For the thread of the deadlines."""
        with self._lock:
            request = self._table.time_out(number)
        if request is None:
            return
        if request.has_job:
            # Not by this thread, which serves all requests: a script takes its time to end.
            threading.Thread(target=self._stop, args=(number, GRACE), name="bgpy-request-end", daemon=True).start()
        else:
            self._finish(number, OK)

    def _begin(self, number: int, seconds: float) -> None:
        with self._lock:
            self._check_open()
            request = self._table.begin(number, time.monotonic() + seconds)
            self.log.add("started", number, time.time(), {"connid": request.connid, "left": float(seconds)})
        self.deadlines.add(_Timer(self, number), seconds)

    def _script_ended(self, number: int, job: _Job, record: JobRecord) -> None:
        """Take the end of a script; for whatever thread, which must not wait for a worker's end, or a slow client."""
        job.record = record
        threading.Thread(target=self._conclude, args=(number, record), name="bgpy-request-end", daemon=True).start()

    def _conclude(self, number: int, record: JobRecord) -> None:
        """Tell of a script's own end, then end its worker; what is being stopped is left to whoever does that."""
        if self._finish(number, make_answer(record)):
            self._release(number)

    def _stop(self, number: int, grace: float) -> None:
        """End a script and then its request, which has its fate; blocks for the grace and a bounded time."""
        job = self._jobs.get(number)
        if job is not None and grace:
            job.interrupt(grace)
        self._release(number)
        record = None if job is None else job.record
        self._finish(number, OK if record is None else make_answer(record), stopped=True)

    def _release(self, number: int) -> None:
        """End the worker of a script; blocks a bounded time. Again is fine."""
        job = self._jobs.get(number)
        if job is None:
            return
        self._workspaces.release(job.workspace)
        with self._lock:
            if self._jobs.pop(number, None) is not None:
                self._table.job_gone()

    def _finish(self, number: int, answer: Answer, *, stopped: bool = False) -> bool:
        """
        Take the end of a request and tell everybody who waits for it; returns False where it was over, or is another's to end.

        Parameters
        ----------
        stopped
            Whether a request that has its fate may end now.
        """
        with self._lock:
            whole = self._table.end(number, answer, stopped=stopped)
            if whole is None:
                return False
            waiting = self._waiting.pop(number, [])
            told = whole if size_of(whole) <= MAX_EVENT_ANSWER else None
            self.log.add("ended", number, time.time(), {"connid": whole["connid"], "answer": told})
        for then in waiting:
            then(whole)
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise RefusedError(SERVER_ENDS["message"])


class _Job:
    """The script of a request."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        #: Of the job in its workspace, None before it is there.
        self.number: int | None = None
        #: How it has ended, None before that.
        self.record: JobRecord | None = None

    def interrupt(self, grace: float) -> None:
        """Take it back where it still waits for its worker; else interrupt it, and wait for its end for as long."""
        with contextlib.suppress(BgpyError):  # it may have ended, or its worker
            if self.number is None or self.workspace.cancel(self.number):
                return
            if self.workspace.interrupt(self.number):
                self.workspace.wait(self.number, grace)


class _Timer:
    """The end of a request's time."""

    __slots__ = ("_number", "_requests")

    def __init__(self, requests: Requests, number: int) -> None:
        self._requests = requests
        self._number = number

    @property
    def settled(self) -> bool:
        """See `Expiring`."""
        return not self._requests.runs(self._number)

    def expire(self) -> None:
        """See `Expiring`."""
        self._requests.time_passed(self._number)
