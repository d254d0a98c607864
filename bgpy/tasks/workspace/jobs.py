"""
What a job is, and the one table of how its state moves. No threads, no clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from bgpy.tasks.workspace.backends import Order
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.values import Packed, Value

#: (client id, lane, number) of the request that pushed a job.
Identity = tuple[bytes, int, int]

#: Bytes that are kept of each stream of a job: the last ones.
MAX_OUTPUT = 1 << 20


class JobState(str, enum.Enum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    #: It waited when the server ended; `resume` lets it run.
    HELD = "held"
    DONE = "done"
    #: It raised, or could not be read.
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    #: Its worker died, and nobody had asked for that.
    CRASHED = "crashed"
    #: It waited behind a job whose worker died.
    ABORTED = "aborted"

    #: Its name, as clients read it.
    text: str
    #: Whether nothing follows.
    ended: bool
    #: Whether it ran through, None where it has not ended: what Pserve calls the result.
    result: bool | None
    #: What an event tells of an end without an error; one for all jobs.
    told: Mapping[str, Any]

    # Once, and not in properties: they are asked for several times with each job, and members are slow to look up.
    def __init__(self, value: str) -> None:
        self.text = value
        self.ended = value not in ("queued", "running", "held")
        self.result = value == "done" if self.ended else None
        self.told = MappingProxyType({"state": value, "result": self.result, "error": None})

    __hash__ = str.__hash__  # an enum's own one runs Python code


class JobEvent(str, enum.Enum):
    """What moves a job to another state."""

    #: Its turn has come.
    START = "start"
    #: It ran through.
    FINISH = "finish"
    #: It raised.
    FAIL = "fail"
    #: KeyboardInterrupt ended it.
    INTERRUPT = "interrupt"
    #: Its time limit had passed when it ended, or ended it.
    TIME_OUT = "time_out"
    #: Its worker was killed because somebody asked for that.
    KILL = "kill"
    #: Its worker died by itself.
    CRASH = "crash"
    #: Somebody took it out of the queue, or its workspace was destroyed.
    CANCEL = "cancel"
    #: The worker died while it waited, or had just been chosen.
    ABORT = "abort"
    #: The server that had it has ended, and another one has read it from the store.
    RESTART = "restart"
    #: Somebody lets it run after a restart.
    RESUME = "resume"

    __hash__ = str.__hash__  # as above


#: Where each event takes a job. What is not here cannot happen.
TRANSITIONS: Final[Mapping[tuple[JobState, JobEvent], JobState]] = {
    (JobState.QUEUED, JobEvent.START): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobEvent.ABORT): JobState.ABORTED,
    (JobState.QUEUED, JobEvent.RESTART): JobState.HELD,
    (JobState.HELD, JobEvent.RESUME): JobState.QUEUED,
    (JobState.HELD, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.HELD, JobEvent.RESTART): JobState.HELD,
    (JobState.RUNNING, JobEvent.FINISH): JobState.DONE,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.INTERRUPT): JobState.INTERRUPTED,
    (JobState.RUNNING, JobEvent.TIME_OUT): JobState.TIMED_OUT,
    (JobState.RUNNING, JobEvent.KILL): JobState.KILLED,
    (JobState.RUNNING, JobEvent.CRASH): JobState.CRASHED,
    (JobState.RUNNING, JobEvent.ABORT): JobState.ABORTED,
    (JobState.RUNNING, JobEvent.RESTART): JobState.INTERRUPTED,
}


def next_state(state: JobState, event: JobEvent) -> JobState:
    """Return where an event takes a job; raises ValueError for what cannot happen."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise ValueError(f"A job that is {state.value} knows no {event.value}")
    return following


@dataclass(slots=True)
class JobRecord:
    """
    All that is known of a job.

    Attributes
    ----------
    kind
        file, script or clear; of a call the name of its method.
    text
        The path of a file, or a script; "" for clear; of a call what stands for it.
    clear
        Whether the namespace is emptied first.
    error
        ``type``, ``message``, ``traceback``; None where it ran through or has not ended.
    stdout, stderr
        The last of what it wrote, with a mark where it was cut.
    truncated
        Whether it wrote more than is kept.
    pushed, started, ended
        Seconds since 1970; None for what has not been.
    identity
        Which request pushed it: a retry after a restart finds its job by this.
    call
        What it calls, None for scripts; without the argument once it has ended.
    """

    workspace: str
    number: int
    kind: str
    text: str
    clear: bool = False
    time_limit: float | None = None
    state: JobState = JobState.QUEUED
    value: Value | None = None
    error: dict[str, str] | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    pushed: float | None = None
    started: float | None = None
    ended: float | None = None
    identity: Identity | None = None
    call: Call | None = None

    @property
    def kept(self) -> bool:
        """Whether the store has it, where there is one."""
        return self.call is None or self.call.kept

    @property
    def waiting_size(self) -> int:
        """About how many bytes it takes while it waits for its turn: its text, and what was packed for its call."""
        argument = None if self.call is None else self.call.argument
        return len(self.text) + (argument.size if isinstance(argument, Packed) else 0)

    def size(self, enough: int) -> int:
        """Return about how many bytes its value and output have; where they are more than `enough`, no more than that."""
        size = len(self.stdout) + len(self.stderr)
        return size if self.value is None or size > enough else size + self.value.size(enough)

    def takes_along(self, other: JobRecord, count: int) -> bool:
        """Tell whether the next job can be run as one with this one, which has `count` in its batch already."""
        if self.call is None or other.call is None or count >= self.call.batch:
            return False
        # A time limit counts from the job's own start: a job that has one runs alone.
        alone = self.time_limit is not None or other.time_limit is not None
        return not alone and self.call.host == other.call.host and self.call.method == other.call.method


def make_order(records: Sequence[JobRecord]) -> Order:
    """Return what the worker is told of one job, or of calls that are run as one."""
    first = records[0]
    if first.call is None:
        return Order(first.number, first.kind, first.text, first.clear)
    calls = [(record.number, record.call.argument) for record in records if record.call is not None]
    return Order(first.number, first.kind, first.text, first.clear, first.call.host, calls)


class Tail:
    """The last bytes of a stream."""

    __slots__ = ("_kept", "_limit", "size")

    def __init__(self, limit: int = MAX_OUTPUT) -> None:
        self._limit = limit
        self._kept = bytearray()
        #: How many bytes were written.
        self.size = 0

    @property
    def truncated(self) -> bool:
        """Whether something was cut."""
        return self.size > self._limit

    def add(self, data: bytes) -> None:
        """Take what was written next."""
        self.size += len(data)
        self._kept += data
        if len(self._kept) > 2 * self._limit:
            # Not with every piece: moving a megabyte for each line would be the cost of the flood.
            del self._kept[: -self._limit]

    def read(self, since: int = 0) -> bytes:
        """Return what is kept of all behind the first `since` bytes, with a mark before it where something was cut."""
        wanted = self.size - since
        if wanted <= self._limit:
            return bytes(self._kept[len(self._kept) - wanted :])
        return b"[... %d bytes were cut here ...]\n" % (wanted - self._limit) + self._kept[-self._limit :]
