"""The queue against a model of dicts and lists, under any order of events: pushes, commits that lag and fail, restarts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bgpy.errors import StoreError
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.instructions import Acknowledge, Announce, Commit, Interrupt, Kill, Run, Settle, StartWorker
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.queue import JobQueue
from bgpy.tasks.workspace.records import JobEnded, JobPushed, JobStarted, StateChanged

FULL = StoreError("here", "The disk is full", "Make room on the disk")


class QueueMachine(RuleBasedStateMachine):
    """A queue, a disk, a worker; and what must be true of them whatever happens."""

    on_crash: Any = "abort"

    def __init__(self) -> None:
        super().__init__()
        #: What is on the disk: the records by number.
        self.disk: dict[int, JobRecord] = {}
        self.pushed: list[int] = []
        self.refused: set[int] = set()
        self.acknowledged: set[int] = set()
        #: Jobs that were handed to a worker, in order, over all restarts.
        self.runs: list[int] = []
        #: The model: how each job must end, by what has happened to it.
        self.fates: dict[int, set[str]] = {}
        self.told: dict[int, str] = {}
        self.settled: set[int] = set()
        self.restarts = 0
        #: Ran when a server was killed; the next one tells that before it is on the disk.
        self.broken_off: set[int] = set()
        self.failures = False
        self.begin()

    def begin(self) -> None:
        self.queue = JobQueue("w", on_crash=self.on_crash)
        self.commits: list[Commit] = []
        self.worker = "none"
        self.running: int | None = None
        self.asked: set[str] = set()

    def work(self) -> None:
        while instructions := self.queue.take():
            for instruction in instructions:
                self.follow(instruction)

    def follow(self, instruction: Any) -> None:
        match instruction:
            case Commit():
                # As a store does, which takes what is in the records at this moment.
                self.commits.append(instruction._replace(changes=copy.deepcopy(instruction.changes)))
            case Run(order):
                assert self.worker == "ready", "a job was handed to no worker"
                assert self.running is None, "two jobs at once"
                assert order.number not in self.runs, "a job ran twice"
                assert self.disk[order.number].state is JobState.RUNNING, "it ran before that was on the disk"
                self.running = order.number
                self.runs.append(order.number)
                self.asked = set()
                self.queue.handed(order.number)
            case StartWorker():
                assert self.worker == "none"
                self.worker = "starting"
            case Acknowledge(number, error):
                assert (number in self.disk) == (error is None), "acknowledged, and not on the disk, or the other way round"
                (self.acknowledged if error is None else self.refused).add(number)
            case Announce("finished", number, details):
                assert number is not None
                if number in self.broken_off:
                    assert details["state"] == "interrupted"
                elif "unsaved" not in details:
                    assert self.disk[number].state.value == details["state"], "told before it was on the disk"
                self.told[number] = details["state"]
            case Settle(number):
                assert number not in self.settled or number in self.broken_off, "its end was told twice"
                self.settled.add(number)
            case Interrupt(number) | Kill(number):
                assert number == self.running

    @rule()
    def push(self) -> None:
        number = self.queue.push("script", "x", clear=False, time_limit=None, identity=None, now=1.0)
        assert number == (self.pushed[-1] + 1 if self.pushed else 0), "numbers go on, also after a restart"
        self.pushed.append(number)
        self.work()

    @precondition(lambda self: self.commits)
    @rule()
    def commit(self) -> None:
        commit = self.commits.pop(0)
        for change in commit.changes:
            match change:
                case JobPushed(record):
                    self.disk[record.number] = copy.deepcopy(record)
                    self.disk[record.number].state = JobState.QUEUED
                case JobStarted(_, number, _):
                    self.disk[number].state = JobState.RUNNING
                case JobEnded(record):
                    if record.number in self.disk:
                        self.disk[record.number] = record
                case StateChanged(_, number, state):
                    self.disk[number].state = state
        self.queue.committed(commit, None, 2.0)
        self.work()

    @precondition(lambda self: self.commits)
    @rule()
    def commit_in_vain(self) -> None:
        self.failures = True
        self.queue.committed(self.commits.pop(0), FULL, 2.0)
        self.work()

    @precondition(lambda self: self.worker == "starting")
    @rule(fails=st.booleans())
    def start_worker(self, fails: bool) -> None:
        self.worker = "none" if fails else "ready"
        if fails:
            self.queue.start_failed("no", 2.0)
        else:
            self.queue.ready((7, "then"), 2.0)
        self.work()

    @precondition(lambda self: self.running is not None)
    @rule(state=st.sampled_from(["done", "failed", "interrupted"]))
    def end(self, state: Any) -> None:
        number, self.running = self.running, None
        assert number is not None
        self.fates[number] = {"timed_out"} if "limit" in self.asked and "kill" not in self.asked and state != "done" else {state}
        self.queue.ended(number, Outcome(state, None, None), 2.0)
        self.work()

    @precondition(lambda self: self.worker == "ready")
    @rule()
    def die(self) -> None:
        self.worker = "none"
        if self.running is not None:
            fate = "killed" if "kill" in self.asked else "timed_out" if "limit" in self.asked else "crashed"
            self.fates[self.running] = {fate}
            self.running = None
        self.queue.died("exit code 1", False, 2.0)
        self.work()

    @rule(kind=st.sampled_from(["interrupt", "kill", "limit"]))
    def ask(self, kind: str) -> None:
        if kind == "limit":
            if self.running is None:
                return
            self.queue.time_passed(self.running, 2.0)
            self.asked.add(kind)
        else:
            hit = (self.queue.ask_interrupt if kind == "interrupt" else self.queue.ask_kill)(None, 2.0)
            if hit is not None and hit == self.running:
                self.asked.add(kind)
            elif hit is not None:
                self.fates[hit] = {"interrupted" if kind == "interrupt" else "killed"}
            else:
                assert self.running is None
        self.work()

    @precondition(lambda self: self.queue.jobs.numbers())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.queue.jobs.numbers()))
        if self.queue.cancel(number, 2.0):
            assert number not in self.runs, "a job that ran was cancelled"
            self.fates[number] = {"cancelled"}
        self.work()

    @rule()
    def resume(self) -> None:
        held = self.queue.status()["held"]
        assert self.queue.resume(None, 2.0) == held
        assert self.queue.status()["held"] == 0
        self.work()

    @rule()
    def restart(self) -> None:
        """Kill the server: only what is on the disk is left."""
        self.restarts += 1
        lost = set(self.pushed) - set(self.disk) - self.refused
        assert not lost & self.acknowledged, "an acknowledged job is lost"
        records = [copy.deepcopy(self.disk[number]) for number in sorted(self.disk)]
        ran = {record.number for record in records if record.state is JobState.RUNNING}
        waited = {record.number for record in records if record.state in (JobState.QUEUED, JobState.HELD)}
        # An end that could not be written is told to those who wait, and forgotten by the next server.
        self.settled = {number for number in self.settled if number in self.disk and self.disk[number].state.ended}
        self.begin()
        self.broken_off |= ran
        self.fates.update({number: {"interrupted"} for number in ran})
        self.queue.restore(records, len(self.pushed), 0, 3.0)
        for number in waited:
            assert self.queue.jobs[number].state is JobState.HELD
            self.fates.pop(number, None)
        self.work()

    @invariant()
    def jobs_run_in_the_order_of_their_numbers(self) -> None:
        if not self.restarts:
            assert self.runs == sorted(self.runs)

    @invariant()
    def what_was_told_is_what_happened(self) -> None:
        if not self.failures:
            for number, state in self.told.items():
                assert {state} == self.fates.get(number, {"aborted"})

    @invariant()
    def every_job_is_counted_once(self) -> None:
        jobs = self.queue.jobs
        states = [jobs[number].state for number in jobs.numbers()]
        assert {state: count for state, count in jobs.counts.items() if count} == {each: states.count(each) for each in states}
        status = self.queue.status()
        waiting = {JobState.QUEUED: status["JOB_COUNT"], JobState.HELD: status["held"]}
        assert {state: states.count(state) for state in waiting} == waiting

    @invariant()
    def nothing_is_stuck(self) -> None:
        """With a worker that is ready, nothing running and no commit under way, no job waits but behind one that is held."""
        status = self.queue.status()
        if (
            self.worker == "ready"
            and self.running is None
            and not self.commits
            and not status["held"]
            and "kill" not in self.asked
        ):
            assert status["JOB_COUNT"] == 0

    def teardown(self) -> None:
        """Let everything end: no acknowledged job is without an end, but for those that are held."""
        while self.commits or self.running is not None or self.worker == "starting":
            if self.commits:
                self.commit()
            elif self.running is not None:
                self.end("done")
            else:
                self.start_worker(False)
        if "kill" in self.asked and self.worker == "ready":
            return  # the kill is still to come
        ended = {number for number in self.acknowledged if number in self.queue.jobs and self.queue.jobs.state(number).ended}
        if not self.queue.status()["held"]:
            assert ended == {number for number in self.acknowledged if number in self.queue.jobs}


class ContinuingMachine(QueueMachine):
    on_crash = "continue"


@pytest.mark.parametrize("machine", [QueueMachine, ContinuingMachine])
def test_no_order_of_events_loses_a_job_or_runs_one_twice(machine: type[QueueMachine]) -> None:
    # Without the phase that explains failures: it traces every line.
    phases = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=40, phases=phases))
