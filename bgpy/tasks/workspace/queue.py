"""
The queue of one workspace, sans-I/O: what happens goes in, what is to be done comes out. No threads, no clock, no store.

Whoever drives it calls one method for each thing that happens and then does what `take` returns, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from bgpy.errors import RefusedError, StoreError
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.events import NO_DETAILS
from bgpy.tasks.workspace.instructions import (
    Acknowledge,
    Announce,
    Commit,
    Instruction,
    Interrupt,
    Kill,
    Run,
    SetTimer,
    Settle,
    StartWorker,
)
from bgpy.tasks.workspace.jobs import Identity, JobEvent, JobRecord, JobState, make_order
from bgpy.tasks.workspace.phases import Phase, Stop, Turn, Worker
from bgpy.tasks.workspace.records import (
    Change,
    JobEnded,
    JobPushed,
    JobsForgotten,
    JobStarted,
    StateChanged,
    WorkerStarted,
    WorkspaceGone,
)
from bgpy.tasks.workspace.standing import Standing

#: Jobs that a workspace remembers, unless it was told otherwise.
MAX_JOBS = 10_000
#: Seconds from the interrupt at a time limit to the kill.
GRACE = 2.0
# For every job's path: members are slow to look up.
_READY, _HANDING, _HANDED, _START, _ABORTED = Worker.READY, Phase.HANDING, Phase.HANDED, JobEvent.START, JobState.ABORTED
_new_tuple = tuple.__new__


class JobQueue(Standing):
    """
    Jobs of one workspace, in the order of their numbers. Not thread-safe.

    Parameters
    ----------
    workspace
        Its name.
    on_crash
        "abort": jobs that wait when the worker dies are aborted, for they counted on its variables. "continue": they run.
    max_jobs
        How many jobs are remembered; the oldest that have ended are forgotten first.
    volatile
        Whether nothing is kept on a disk: then only the end of the workspace is a `Commit`.
    """

    def __init__(
        self,
        workspace: str,
        *,
        on_crash: Literal["abort", "continue"] = "abort",
        max_jobs: int = MAX_JOBS,
        volatile: bool = False,
    ) -> None:
        super().__init__(workspace, max_jobs)
        self._continue = on_crash == "continue"
        self._volatile = volatile
        #: Whether a kill may follow the interrupt at a time limit.
        self.can_kill = True
        self._first_new = 0  # jobs from this number on wait behind those that are held
        self._unacknowledged: set[int] = set()
        self._used = False  # whether this worker was given a job
        self._closed = False
        self._left: list[int] = []  # what waited for that one
        self._out: list[Instruction] = []

    def take(self) -> list[Instruction]:
        """Return what is to be done since the last call."""
        out, self._out = self._out, []
        return out

    # What is asked of it.

    def push(
        self,
        kind: str,
        text: str,
        *,
        clear: bool,
        time_limit: float | None,
        identity: Identity | None,
        now: float,
        call: Call | None = None,
    ) -> int:
        """
        Queue a job and return its number; that of the job which the same request has pushed before, if it has.

        Raises OverloadedError where too many wait, or too much; RefusedError where the end has begun.
        """
        known = self.jobs.find(identity)
        if known is not None:
            return known
        if self._closed:
            raise RefusedError(f"The workspace {self.workspace!r} is gone", "name")
        number = self.jobs.next_number
        record = JobRecord(self.workspace, number, kind, text, clear, time_limit, pushed=now, identity=identity, call=call)
        self._waiting.admit(record)
        self.jobs.add(record)
        self.want_worker()
        self._advance(now, pushed=record)
        return number

    def waits_for_store(self, number: int) -> bool:
        """Tell whether an `Acknowledge` of a push will follow: what is in memory only needs none."""
        return number in self._unacknowledged

    def cancel(self, number: int, now: float) -> bool:
        """Take a waiting job out of the queue; returns whether it was waiting."""
        self.jobs.state(number)  # refuses what there is not
        if number not in self._waiting and number not in self._held:
            return False
        self._leave_queue(number)
        self._end(number, JobEvent.CANCEL, now, "Cancelled", "It was cancelled before its turn came")
        self._advance(now, ended=[number])
        return True

    def resume(self, number: int | None, now: float) -> int:
        """Let one or all held jobs run, in their order and before newer ones; returns how many."""
        if number is not None:
            self.jobs.state(number)  # refuses what there is not
            if number not in self._held:
                return 0
        resumed = sorted(self._held) if number is None else [number]
        for each in resumed:
            self._held.discard(each)
            self.jobs.move(self.jobs[each], JobEvent.RESUME)
            self._announce("resumed", each)
        if resumed:
            self._waiting.join(self.jobs[each] for each in resumed)
            changes = [StateChanged(self.workspace, each, JobState.QUEUED) for each in resumed]
            self._commit(changes)
            self.want_worker()
            self._advance(now)
        return len(resumed)

    def ask_interrupt(self, number: int | None, now: float) -> int | None:
        """
        Interrupt the running job, if it is `number`; returns its number, None where it does not run.

        One that is not with its worker yet ends here; for any other an `Interrupt` comes out.
        """
        running = self._running_as(number)
        if running is None:
            return None
        if not self._turn.is_with_worker:
            self._end(running, JobEvent.INTERRUPT, now, "KeyboardInterrupt", "It was interrupted before its first line")
            self._advance(now, ended=[running])
        else:
            self._turn.ask(Stop.INTERRUPT, running)
            self._out.append(Interrupt(running))
        return running

    def ask_kill(self, number: int | None, now: float) -> int | None:
        """Kill the running job, as `ask_interrupt`; a `Kill` comes out."""
        running = self._running_as(number)
        if running is None:
            return None
        if not self._turn.is_with_worker:
            self._end(running, JobEvent.KILL, now, "Killed", "It was killed before its first line")
            self._advance(now, ended=[running])
        else:
            self._turn.ask(Stop.KILL, running)
            self._doom(running)
        return running

    def destroy(self, now: float) -> None:
        """End the workspace: what runs is killed, what waits is cancelled."""
        self._closed = True
        ended = [*self._waiting, *sorted(self._held)]
        for number in ended:
            self._end(number, JobEvent.CANCEL, now, "Cancelled", "Its workspace was destroyed")
        self._waiting.clear()
        self._held.clear()
        running = list(self._turn.numbers)
        for number in running:
            self._end(number, JobEvent.KILL, now, "Killed", "Its workspace was destroyed")
        self._out.append(Commit([WorkspaceGone(self.workspace)], None, (), [*running, *ended]))

    def close(self) -> None:
        """Start nothing any more: the server ends, and another one will find what is in the store."""
        self._closed = True

    def want_worker(self) -> None:
        """Have a worker started where there is none, and none on its way."""
        if self._worker is Worker.NONE and not self._closed:
            self._worker = Worker.STARTING
            self._out.append(StartWorker())

    def restore(self, jobs: Iterable[JobRecord], next_number: int, restarts: int, now: float, *, survivor: bool = False) -> None:
        """
        Take up what an earlier server has left in the store. Only at the start.

        `survivor`: its worker may live, and `ready` tells whether it does: until then a job that ran is believed to run.
        """
        self._expects = survivor
        changes: list[Change] = []
        for record in jobs:
            number = record.number
            self.jobs.add(record)
            if record.state is JobState.RUNNING and survivor:
                self._current = number
                self._turn.numbers.append(number)
                self._turn.phase = Phase.WAITING
            elif record.state is JobState.RUNNING:
                self._current = number
                self._end(number, JobEvent.RESTART, now, "Interrupted", "The server ended while it ran")
                self._settle(number)  # also should that not come to the disk: the next server would find the same
                changes.append(JobEnded(record))
            elif not record.state.ended:
                if record.state is JobState.QUEUED:
                    self._left.append(number)
                changes.append(StateChanged(self.workspace, number, JobState.HELD))
                self.jobs.move(record, JobEvent.RESTART)
                self._held.add(number)
                self._announce("held", number)
            elif record.started is not None:
                self._current = max(self._current, number)
                self._finished = number
                self._last = record.state
        self.restarts = restarts
        self.jobs.next_number = self.jobs.reserved = self._first_new = max(next_number, self.jobs.next_number)
        if changes:
            self._commit(changes)

    # What happens to it.

    def committed(self, commit: Commit, error: StoreError | None, now: float) -> None:
        """Take note that the changes of a `Commit` are on the disk, or that they could not be written."""
        if error is not None:
            self._commit_failed(commit, error, now)
        else:
            self._confirm(commit.pushed, commit.started, commit.ended)
        self._advance(now)

    def handed(self, number: int) -> None:
        """Take note that the worker has the job of a `Run`: its time begins."""
        if number == self._turn.first and self._turn.phase is _HANDING:
            self._turn.phase = _HANDED
            limit = self.jobs[number].time_limit
            if limit is not None:
                self._out.append(SetTimer(number, limit))

    def ready(self, process: tuple[int, str] | None, now: float, *, adopted: bool = False) -> None:
        """Take note that a worker is ready, in which process, and whether it is the one that an earlier server has left."""
        self._worker = Worker.READY
        self._was_ready = True
        self._used = adopted
        lost = self._lose(now) if self._expects and not adopted else []
        self._expects = False
        if process is not None:
            self._commit([WorkerStarted(self.workspace, *process)])
        self._announce("worker_started", None, pid=process[0] if process is not None else None)
        if self._turn.numbers and self._turn.phase is Phase.WAITING:
            self._hand_over()
        self._advance(now, ended=lost)
        left, self._left = self._left, []
        for number in left if adopted else ():
            if number in self._held:
                self.resume(number, now)

    def _lose(self, now: float) -> list[int]:
        """Take note that the worker of an earlier server is there no more; returns the jobs that it ran."""
        self.restarts += 1
        reason = "it ended while no server was there"
        self._announce("worker_died", self._turn.first, reason=reason, memory=False, restarts=self.restarts)
        lost = list(self._turn.numbers)
        for number in lost:
            self._end(number, JobEvent.CRASH, now, "WorkerDied", f"Its worker died: {reason}")
        return lost

    def start_failed(self, reason: str, now: float) -> None:
        """Take note that no worker could be started: what waits for one is aborted. The next push tries again."""
        self._worker = Worker.NONE
        self._announce("worker_failed", None, reason=reason)
        self._advance(now, ended=self._abort("WorkerNotStarted", f"No worker could be started: {reason}", now))

    def output(self, number: int | None, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Take what a job has written; kept is what the running one wrote, of several the first."""
        if number is not None and number == self._turn.first:
            self.jobs.output[stream].add(data)

    def ended(self, number: int, outcome: Outcome, now: float) -> None:
        """Take note of how the worker says that the running job ended, or all calls that ran as one with it."""
        if number != self._turn.first:
            return  # it was ended here, by a workspace that goes
        ended = list(self._turn.numbers)
        outcomes = (outcome, *(outcome.rest or [outcome] * (len(ended) - 1)))
        for each, its_outcome in zip(ended, outcomes, strict=True):
            record = self.jobs[each]
            record.value, record.error = its_outcome.value, its_outcome.error
            self._end(each, self._turn.end_of(its_outcome), now)
        self._advance(now, ended=ended)

    def died(self, reason: str, memory: bool, now: float) -> bool:
        """Take note that the worker has died, asked for or not: the running job ends; returns whether a fresh one may follow."""
        self._worker = Worker.NONE
        if self._closed:
            return False
        self.restarts += 1
        self._announce("worker_died", self._turn.first, reason=reason, memory=memory, restarts=self.restarts)
        ended = list(self._turn.numbers) if self._turn.is_with_worker else []
        for number in ended:
            event, type_name, message = self._turn.death_of(number, self.jobs[number].time_limit, reason, memory)
            self._end(number, event, now, type_name, message)
        if not self._continue:
            cause = self._turn.cause_of_death(reason) if ended else reason
            ended += self._abort("Aborted", f"The worker died before it, and with it all variables: {cause}", now)
        if self._used or self._waiting or self._turn.numbers:
            # A worker that died unused may do so again at once, and again: it waits for who needs it.
            self.want_worker()
        self._advance(now, ended=ended)
        return True

    def time_passed(self, number: int, now: float) -> None:
        """Take note that the time of a `SetTimer` is over: an `Interrupt` comes out, and after the grace a `Kill`."""
        if number != self._turn.first:
            return
        if not self._turn.grace:
            self._turn.grace = True
            self._turn.ask(Stop.LIMIT, number)
            self._out += [Interrupt(number), SetTimer(number, GRACE)]
        elif self.can_kill:
            self._doom(number)

    def kill_failed(self, now: float) -> None:
        """Take note that the worker could not be killed."""
        if self._worker is Worker.DOOMED:
            self._worker = Worker.READY
        self._turn.stop = Stop.LIMIT if self._turn.grace else Stop.NOBODY
        self._advance(now)

    # How it goes on.

    def _advance(self, now: float, pushed: JobRecord | None = None, ended: Sequence[int] = ()) -> None:
        """Choose the next job, if it may run, and commit that together with what has happened."""
        pushed_number = None if pushed is None else pushed.number
        kept = None if pushed is None else self.jobs.forget()
        started = () if self._closed else self._choose(pushed_number, now)
        changes: list[Change] = []
        if not self._volatile:
            if pushed is not None:
                changes += [JobPushed(pushed)] if pushed.kept else self.jobs.reserve(pushed.number)
            if kept is not None:
                changes.append(JobsForgotten(self.workspace, kept))
            changes += [JobEnded(self.jobs[number]) for number in ended if self.jobs[number].kept]
            changes += [JobStarted(self.workspace, number, now) for number in started if self.jobs[number].kept]
        if changes:
            if pushed is not None:
                self._unacknowledged.add(pushed.number)
            self._commit(changes, pushed_number, started, ended)
        else:
            self._confirm(pushed_number, started, ended)

    def _commit(
        self, changes: Sequence[Change], pushed: int | None = None, started: Sequence[int] = (), ended: Sequence[int] = ()
    ) -> None:
        if not self._volatile:
            self._out.append(Commit(changes, pushed, started, ended))

    def _confirm(self, pushed: int | None, started: Sequence[int], ended: Sequence[int]) -> None:
        """Tell what is on the disk now, and hand over the job that has been chosen."""
        if pushed is not None:
            if pushed in self._unacknowledged:
                self._unacknowledged.remove(pushed)
                self._out.append(Acknowledge(pushed, None))
            self._announce("queued", pushed)
        for number in ended:
            self._settle(number)
        if started and self._turn.first in started:
            self._hand_over()

    def _choose(self, pushed: int | None, now: float) -> Sequence[int]:
        """Take the jobs whose turn it is out of the line: the first, and the calls behind it that can be run as one with it."""
        if self._turn.numbers or self._worker is not _READY:
            return ()
        chosen: list[int] = []
        while (number := self._waiting.first) is not None and self._may_join(number, chosen, pushed):
            chosen.append(self._waiting.take())
            record = self.jobs[number]
            record.started = now
            self.jobs.move(record, _START)
        if chosen:
            self._turn = Turn(chosen)
            self._current = chosen[-1]
        return chosen

    def _may_join(self, number: int, chosen: Sequence[int], pushed: int | None) -> bool:
        if (number in self._unacknowledged and number != pushed) or (self._held and number >= self._first_new):
            return False
        return not chosen or self.jobs[chosen[0]].takes_along(self.jobs[number], len(chosen))

    def _hand_over(self) -> None:
        turn = self._turn
        if self._worker is not _READY:
            turn.phase = Phase.WAITING
            return
        turn.phase = _HANDING
        self._used = True
        for number in turn.numbers:
            self._announce("started", number)
        self._out.append(_new_tuple(Run, (make_order([self.jobs[number] for number in turn.numbers]),)))

    def _end(self, number: int, event: JobEvent, now: float, type_name: str = "", message: str = "") -> None:
        self.jobs.end(number, event, now, type_name, message)
        if number in self._turn.numbers:
            self._turn.numbers.remove(number)

    def _settle(self, number: int) -> None:
        record = self.jobs.settle(number)
        if record is None:
            return
        if record.started is not None and record.state is not _ABORTED:
            self._finished = number
            self._last = record.state
        details = record.state.told
        if record.error is not None:
            details = {**details, "error": record.error}
        if number in self.jobs.unsaved:
            details = {**details, "unsaved": str(self.jobs.unsaved[number])}
        self._out += (_new_tuple(Announce, ("finished", number, details)), _new_tuple(Settle, (number,)))

    def _abort(self, type_name: str, message: str, now: float) -> list[int]:
        """End all that wait for a worker, but for what is held, or may run in one not found yet; returns their numbers."""
        aborted = [*(() if self._expects else self._turn.numbers), *self._waiting]
        for number in aborted:
            self._end(number, JobEvent.ABORT, now, type_name, message)
        self._waiting.clear()
        return aborted

    def _commit_failed(self, commit: Commit, error: StoreError, now: float) -> None:
        for number in commit.ended:
            if number in self.jobs and self.jobs[number].kept:
                self.jobs.unsaved[number] = error
            self._settle(number)
        if commit.pushed is not None:
            self._unacknowledged.discard(commit.pushed)
            self.jobs.remove(commit.pushed)
            self.jobs.reserved = 0
            self._leave_queue(commit.pushed)
            self._out.append(Acknowledge(commit.pushed, error))
        # None runs without that being on the disk: after a restart it would run again.
        for number in [number for number in commit.started if number in self._turn.numbers]:
            self._end(number, JobEvent.ABORT, now, "StoreError", str(error))
            self.jobs.unsaved[number] = error
            self._settle(number)

    def _doom(self, number: int) -> None:
        self._worker = Worker.DOOMED
        self._out.append(Kill(number))

    def _leave_queue(self, number: int) -> None:
        self._held.discard(number)
        if number in self._turn.numbers:
            self._turn.numbers.remove(number)
        self._waiting.leave(number)

    def _running_as(self, number: int | None) -> int | None:
        if number is not None:
            self.jobs.state(number)  # refuses what there is not
        if number is None:
            return self._turn.first
        return number if number in self._turn.numbers else None

    def _announce(self, event: str, job: int | None, **details: Any) -> None:
        self._out.append(_new_tuple(Announce, (event, job, details or NO_DETAILS)))
