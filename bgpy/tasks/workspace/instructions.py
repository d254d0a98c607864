"""
What a `JobQueue` wants done, as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bgpy.errors import StoreError
from bgpy.tasks.workspace.backends import Order
from bgpy.tasks.workspace.records import Change


class Commit(NamedTuple):
    """Commit these changes in one transaction, then call `JobQueue.committed` with this."""

    changes: Sequence[Change]
    pushed: int | None
    started: Sequence[int]
    ended: Sequence[int]


class Run(NamedTuple):
    """Hand a job to the worker, then call `JobQueue.handed`."""

    order: Order


class StartWorker(NamedTuple):
    """Start a worker, then call `JobQueue.ready` or `JobQueue.start_failed`."""


class Interrupt(NamedTuple):
    """Raise KeyboardInterrupt in a job, which runs as far as the queue knows."""

    number: int


class Kill(NamedTuple):
    """Kill the worker that runs a job; call `JobQueue.kill_failed` where that cannot be done."""

    number: int


class SetTimer(NamedTuple):
    """Call `JobQueue.time_passed` in so many seconds, unless the job has ended."""

    number: int
    seconds: float


class Announce(NamedTuple):
    """Tell the watchers."""

    event: str
    job: int | None
    details: Mapping[str, Any]


class Acknowledge(NamedTuple):
    """Tell who pushed a job, and waits for the store, that it will not be lost, or that it could not be kept."""

    number: int
    error: StoreError | None


class Settle(NamedTuple):
    """Wake whoever waits for a job's end."""

    number: int


Instruction = Commit | Run | StartWorker | Interrupt | Kill | SetTimer | Announce | Acknowledge | Settle
