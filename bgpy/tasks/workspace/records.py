"""
What changes in the records of workspaces, as data, and what a store gives back of them.

A change names what it is about; a store writes a sequence of them as one, whole or not at all. A change about a job or a
workspace that the store no longer has changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bgpy.tasks.workspace.jobs import JobRecord, JobState


class WorkspaceCreated(NamedTuple):
    """There is a new workspace; `options` is plain JSON data: whatever its creation needs again after a restart."""

    name: str
    options: dict[str, Any]


class WorkspaceGone(NamedTuple):
    """A workspace was destroyed, with all its jobs."""

    name: str


class JobPushed(NamedTuple):
    """A job was taken into the queue; whatever the record says, it is queued, and nothing of its end is there yet."""

    record: JobRecord


class NumbersReserved(NamedTuple):
    """Jobs that are not kept here may have the numbers below this one."""

    workspace: str
    next_number: int


class JobStarted(NamedTuple):
    """A job is about to run."""

    workspace: str
    number: int
    started: float


class JobEnded(NamedTuple):
    """A job has ended; its record is complete."""

    record: JobRecord


class JobsForgotten(NamedTuple):
    """The ended jobs below a number are no longer remembered."""

    workspace: str
    below_number: int


class WorkerStarted(NamedTuple):
    """A workspace has another worker; `start_time` is as `bgpy.system.process_start_time` tells it."""

    workspace: str
    pid: int
    start_time: str


class StateChanged(NamedTuple):
    """A job that waits is in another state: held, or queued again."""

    workspace: str
    number: int
    state: JobState


Change = (
    WorkspaceCreated
    | WorkspaceGone
    | JobPushed
    | NumbersReserved
    | JobStarted
    | JobEnded
    | JobsForgotten
    | WorkerStarted
    | StateChanged
)


class StoredWorkspace(NamedTuple):
    """
    A workspace as an earlier server left it.

    Attributes
    ----------
    next_number
        Of the next job; greater than any that was ever given, also to jobs that are forgotten.
    restarts
        How many workers have followed one that died.
    worker
        Process and start time of its last worker, which may have survived that server. None where it had none.
    jobs
        In the order of their numbers, in the states in which they were.
    left
        The numbers of those whose value and output were left on the disk: `Store.read` gives the whole record.
    """

    name: str
    options: dict[str, Any]
    next_number: int
    restarts: int
    worker: tuple[int, str] | None
    jobs: list[JobRecord]
    left: frozenset[int]
