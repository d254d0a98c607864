"""
Which requests run, how each ends, and what is remembered of the ends. No threads, no clock.

A request is over with its first end: the end of its time, the end of its script, a kill, or the end of the server. What is to be
stopped first, because it has a script, has a `Fate` from then on.
"""

from __future__ import annotations

import enum
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.requests.commands import MAX_CONNID, MAX_TIME

#: Requests that may run at once, and scripts among them: each of those has a process.
MAX_REQUESTS = 10_000
MAX_JOBS = 32
#: Ends that are remembered, and bytes of JSON in all of them.
MAX_ENDS = 10_000
MAX_ENDS_SIZE = 64 << 20
#: What an answer over a WebSocket has beside the connection ids, or in place of them.
RESERVED = frozenset({"id", "status"})

Answer = dict[str, Any]


class Fate(str, enum.Enum):
    """What stops a script before it ends by itself: the word of the answer."""

    KILLED = "Killed"
    TIMEOUT = "Timeout"


@dataclass(slots=True)
class Running:
    """
    One request that runs.

    Attributes
    ----------
    connid
        As its client gave it.
    ends
        When its time is over, by the clock of whoever keeps the table; None while it is made ready, which nobody sees.
    has_job
        Whether a script runs in it.
    fate
        What stops its script, None while nothing does.
    """

    number: int
    connid: str | int
    has_job: bool
    ends: float | None = None
    fate: Fate | None = None


class Table:
    """
    The requests of one server. Not thread-safe.

    Parameters
    ----------
    first
        The number of the first request.
    """

    def __init__(self, first: int = 1, *, max_requests: int = MAX_REQUESTS, max_jobs: int = MAX_JOBS) -> None:
        self._next = self._first = first
        self._max_requests = max_requests
        self._max_jobs = max_jobs
        self._running: dict[int, Running] = {}
        self._by_connid: dict[str, Running] = {}
        #: How many processes of scripts there are, those of requests that are over too.
        self._jobs = 0
        self._ends: OrderedDict[int, tuple[Answer, int]] = OrderedDict()
        self._ends_size = 0

    def __contains__(self, number: int) -> bool:
        return number in self._running

    def start(self, connid: str | int | float, seconds: float, has_job: bool) -> Running:
        """
        Take a request; `begin` lets its time run.

        Raises
        ------
        RefusedError
            The connection id runs already, or cannot be used; the time is no positive number, or too large.
        OverloadedError
            Too many requests, or scripts, run.
        """
        connid = check_connid(connid)
        if connid in RESERVED:
            raise RefusedError(f"The connection id {connid!r} would be mistaken for a field of an answer; take another", "connid")
        if not 0 < seconds <= MAX_TIME:  # so that NaN is refused too
            raise RefusedError(f"The field 'time' is a number of seconds, more than 0 and at most {MAX_TIME:,}", "time")
        if str(connid) in self._by_connid:
            raise RefusedError(f"A request with the connection id {str(connid)!r} runs already", "connid")
        if len(self._running) >= self._max_requests:
            raise OverloadedError(f"{len(self._running):,} requests run, which are the most")
        if has_job and self._jobs >= self._max_jobs:
            raise OverloadedError(f"{self._jobs:,} scripts run, which are the most")
        request = Running(self._next, connid, has_job)
        self._next += 1
        self._jobs += has_job
        self._running[request.number] = self._by_connid[str(connid)] = request
        return request

    def begin(self, number: int, ends: float) -> Running:
        """Let the time of a request run, until then."""
        request = self._running[number]
        request.ends = ends
        return request

    def drop(self, number: int) -> None:
        """Forget a request that could not be made ready."""
        request = self._running.pop(number, None)
        if request is not None:
            del self._by_connid[str(request.connid)]

    def kill(self, connid: str | int | float) -> Running | None:
        """Give a request that end; returns None where no such request runs, or one is being killed."""
        request = self._by_connid.get(str(check_connid(connid)))
        if request is None or request.ends is None or request.fate is Fate.KILLED:
            return None
        request.fate = Fate.KILLED
        return request

    def time_out(self, number: int) -> Running | None:
        """
        Take the end of a request's time; returns None where it is over, or something stops it already.

        It is over then, unless it has a script, which is to be stopped.
        """
        request = self._running.get(number)
        if request is None or request.fate is not None:
            return None
        if request.has_job:
            request.fate = Fate.TIMEOUT
        return request

    def end(self, number: int, answer: Answer, *, stopped: bool = False) -> Answer | None:
        """
        Take the end of a request; returns the whole answer to whoever has started it.

        None where it was over, and where it has a fate that has not been carried out.

        Parameters
        ----------
        answer
            Without the connection id; its status gives way to the request's fate.
        stopped
            Whether what was to be stopped has been.
        """
        request = self._running.get(number)
        if request is None or (request.fate is not None and not stopped):
            return None
        self.drop(number)
        whole: Answer = {"status": answer["status"], "connid": request.connid, **answer}
        if request.fate is not None:
            whole = _with_fate(whole, request.fate)
        self._remember(number, whole)
        return whole

    def job_gone(self) -> None:
        """Take the end of a script's process."""
        self._jobs -= 1

    def numbers(self) -> list[int]:
        """Return the numbers of all that run, in their order."""
        return list(self._running)

    def left(self, now: float) -> dict[str, float]:
        """Return the seconds that are left of each, by its connection id."""
        begun = ((connid, request.ends) for connid, request in self._by_connid.items())
        return {connid: round(max(ends - now, 0.0), 3) for connid, ends in begun if ends is not None}

    def recall(self, number: int) -> Answer | None:
        """Return the answer of a request that is over, None for one that runs; raises RefusedError for one that is not known."""
        if number in self._running:
            return None
        if number not in self._ends:
            what = "is no longer known" if self._first <= number < self._next else "was never given"
            raise RefusedError(f"The request {number} {what}", "requests")
        return self._ends[number][0]

    def _remember(self, number: int, answer: Answer) -> None:
        size = size_of(answer)
        self._ends[number] = answer, size
        self._ends_size += size
        while len(self._ends) > MAX_ENDS or (self._ends_size > MAX_ENDS_SIZE and len(self._ends) > 1):
            _, (_, oldest) = self._ends.popitem(last=False)
            self._ends_size -= oldest


def check_connid(connid: str | int | float) -> str | int:
    """Return a connection id as it is kept: 2.0 is 2, as in JSON. Raises RefusedError for one that is too long."""
    if isinstance(connid, str):
        fits = 0 < len(connid) <= MAX_CONNID
    else:
        connid = int(connid)
        fits = abs(connid) < 10**MAX_CONNID
    if not fits:
        raise RefusedError(f"A connection id has 1 to {MAX_CONNID} characters", "connid")
    return connid


def size_of(data: Any) -> int:
    """Return how many bytes plain data has as JSON."""
    return len(json.dumps(data))


def _with_fate(answer: Answer, fate: Fate) -> Answer:
    """Return an answer with another status, and with nothing that belongs to the one it had."""
    kept = {name: value for name, value in answer.items() if name in ("connid", "output")}
    return {"status": fate.value, **kept}
