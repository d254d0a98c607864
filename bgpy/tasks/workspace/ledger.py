"""
The jobs that a workspace remembers, and what may be told of them. No threads, no clock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from bgpy.errors import RefusedError, StoreError
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.jobs import TRANSITIONS, Identity, JobEvent, JobRecord, JobState, Tail, next_state
from bgpy.tasks.workspace.records import Change, NumbersReserved
from bgpy.tasks.workspace.values import Value

#: How many of the last jobs are looked at for those that ended lately.
MAX_LOOK = 1000
#: How many jobs are remembered that are kept in memory only, like predictions, and how many bytes of the value of each.
MAX_UNKEPT = 1000
MAX_UNKEPT_VALUE = 64 << 10
#: Numbers that are set aside at once for jobs that the store does not have.
RESERVED = 1000
_RUNNING = JobState.RUNNING  # members are slow to look up
_new_tuple = tuple.__new__


class Ledger:
    """
    The records of one workspace by number. Not thread-safe.

    A job that has ended is told as if it still ran, or waited, until `settle` says that its end is on the disk.
    """

    def __init__(self, workspace: str, max_jobs: int) -> None:
        self.workspace = workspace
        self.max_jobs = max_jobs
        self.next_number = 0
        #: Numbers below this one are not given again by another server.
        self.reserved = 0
        #: How many jobs are in each state.
        self.counts: Counter[JobState] = Counter()
        #: What the running job has written so far.
        self.output: Mapping[str, Tail] = {"stdout": Tail(), "stderr": Tail()}
        #: Why the ends of these jobs could not be kept.
        self.unsaved: dict[int, StoreError] = {}
        #: The jobs of which value and output are in the store only.
        self.left: set[int] = set()
        # A plain dict would pass through all that were forgotten to find its first.
        self._jobs: OrderedDict[int, JobRecord] = OrderedDict()
        self._identities: dict[Identity, int] = {}
        self._unsettled: dict[int, JobState] = {}
        self._unkept: deque[int] = deque()

    def __contains__(self, number: int) -> bool:
        return number in self._jobs

    def __getitem__(self, number: int) -> JobRecord:
        """Return a record as it is; `view` is for everybody else."""
        return self._jobs[number]

    def numbers(self) -> list[int]:
        """Return the numbers of all jobs that are remembered, in their order."""
        return list(self._jobs)

    def results(self) -> list[bool | None]:
        """Return the results of all jobs that are remembered, in the order of their numbers."""
        return [self.state(number).result for number in self._jobs]

    def ended_since(self, time: float) -> list[dict[str, Any]]:
        """Return state and times of the jobs that ended later than `time`, among the last `MAX_LOOK`, newest first."""
        found: list[dict[str, Any]] = []
        for record in islice(reversed(self._jobs.values()), MAX_LOOK):
            if record.ended is None or record.ended <= time or record.number in self._unsettled:
                continue
            began = record.started or record.ended
            times = {"ended": record.ended, "waited": began - (record.pushed or began), "ran": record.ended - began}
            found.append({"job": record.number, "state": record.state.value, **times})
        return found

    def bounds(self) -> dict[str, int]:
        """Return the number of the oldest job that is remembered, that of the next one where there is none; and that one."""
        return {"first_job": next(iter(self._jobs), self.next_number), "next_job": self.next_number}

    def add(self, record: JobRecord) -> None:
        """Take a new job, or one from the store."""
        self._jobs[record.number] = record
        self.counts[record.state] += 1
        if record.identity is not None:
            self._identities[record.identity] = record.number
        if not record.kept:
            self._unkept.append(record.number)
        self.next_number = max(self.next_number, record.number + 1)

    def reserve(self, number: int) -> list[Change]:
        """Return what has to be committed before a job that is not kept may have this number."""
        if number < self.reserved:
            return []
        self.reserved = number + RESERVED
        return [NumbersReserved(self.workspace, self.reserved)]

    def remove(self, number: int) -> None:
        """Forget a job."""
        record = self._jobs.pop(number)
        self.counts[record.state] -= 1
        self._unsettled.pop(number, None)
        self.unsaved.pop(number, None)
        self.left.discard(number)
        if record.identity is not None:
            self._identities.pop(record.identity, None)
        if not record.kept:
            self._unkept.remove(number)  # the oldest goes first, or the newest that could not be pushed

    def forget(self) -> int | None:
        """Forget the oldest jobs above the limit, up to one that has not ended; returns the number behind them, if any went."""
        kept = None
        while len(self._unkept) > MAX_UNKEPT and self._may_go(self._unkept[0]):
            self.remove(self._unkept[0])
        while len(self._jobs) > self.max_jobs and self._may_go(number := next(iter(self._jobs))):
            self.remove(number)
            kept = number + 1
        return kept

    def _may_go(self, number: int) -> bool:
        return self._jobs[number].state.ended and number not in self._unsettled

    def find(self, identity: Identity | None) -> int | None:
        """Return the job that a request has pushed, None where it has pushed none."""
        return self._identities.get(identity) if identity is not None else None

    def move(self, record: JobRecord, event: JobEvent) -> None:
        """Move a job to its next state."""
        before, counts = record.state, self.counts
        record.state = after = TRANSITIONS.get((before, event)) or next_state(before, event)
        counts[before] -= 1
        counts[after] += 1

    def end(self, number: int, event: JobEvent, now: float, type_name: str = "", message: str = "") -> None:
        """Move a job to its end, which nobody hears of before `settle`."""
        record = self._jobs[number]
        before = self._unsettled[number] = record.state
        self.move(record, event)
        record.ended = now
        if record.call is not None:
            # Without its argument: it may be large, and is of no more use.
            host, method, _, batch, kept = record.call
            record.call = _new_tuple(Call, (host, method, {}, batch, kept))
        if type_name:
            record.error = {"type": type_name, "message": message, "traceback": ""}
        if before is _RUNNING:
            stdout, stderr = self.output["stdout"], self.output["stderr"]
            if stdout.size or stderr.size:
                record.stdout, record.stderr = stdout.read(), stderr.read()
                record.truncated = stdout.truncated or stderr.truncated
                self.output = {"stdout": Tail(), "stderr": Tail()}

    def settle(self, number: int) -> JobRecord | None:
        """Let the end of a job be told; returns its record, None where it had not ended, or has been told."""
        return self._jobs[number] if self._unsettled.pop(number, None) is not None else None

    def let_go(self, number: int, limit: int) -> None:
        """Keep value and output of an ended job in the store only, where they have more than `limit` bytes and it has them."""
        record = self._jobs[number]
        if not record.kept:
            self._trim(record)
            return
        size = len(record.stdout) + len(record.stderr)
        if record.value is not None:
            # The JSON of a value is bounded where it is made; what is large in memory is its pickle.
            size += limit if record.value.packed is None else record.value.packed.size
        if size > limit and number not in self.unsaved:
            self.left.add(number)
            record.stdout = record.stderr = b""
            record.value = None

    def _trim(self, record: JobRecord) -> None:
        """Let a large value of a job that no store has go: whoever waited for it has it."""
        if record.value is not None and record.value.size(MAX_UNKEPT_VALUE) > MAX_UNKEPT_VALUE:
            record.value = Value({"type": "list", "truncated": True}, None, record.value.type)

    def unsettled(self) -> bool:
        """Tell whether a job has ended and nobody may hear of it yet."""
        return bool(self._unsettled)

    def view(self, number: int | None) -> JobRecord:
        """
        Return a job's record as everybody may see it. None is the last job.

        Raises RefusedError where there is no such job, or it is gone.
        """
        number = self._check(number)
        record = self._jobs[number]
        before = self._unsettled.get(number)
        if before is not None:
            return replace(record, state=before, ended=None, value=None, error=None)
        if record.state is JobState.RUNNING:
            stdout, stderr = self.output["stdout"], self.output["stderr"]
            return replace(record, stdout=stdout.read(), stderr=stderr.read(), truncated=stdout.truncated or stderr.truncated)
        return record

    def state(self, number: int | None) -> JobState:
        """Return the state of a job; as `view`, without the rest."""
        number = self._check(number)
        return self._unsettled.get(number) or self._jobs[number].state

    def _check(self, number: int | None) -> int:
        if number is None:
            number = self.next_number - 1
            if number < 0:
                raise RefusedError(f"The workspace {self.workspace!r} has had no job yet", "job")
        if number not in self._jobs:
            if number >= self.next_number:
                raise RefusedError(f"The workspace {self.workspace!r} has no job {number}", "job")
            last = f"the last {self.max_jobs:,} jobs are remembered, and of predictions the last {MAX_UNKEPT:,}"
            reason = f"Job {number} of the workspace {self.workspace!r} is gone: {last}"
            raise RefusedError(reason, "job")
        return number
