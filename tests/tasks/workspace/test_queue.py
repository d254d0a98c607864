"""The queue of a workspace: what comes out of it for what goes in, with commits that take their time and fail."""

from __future__ import annotations

from typing import Any

import pytest

from bgpy.errors import OverloadedError, RefusedError, StoreError
from bgpy.tasks.workspace import line
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.instructions import (
    Acknowledge,
    Announce,
    Commit,
    Interrupt,
    Kill,
    Run,
    SetTimer,
    Settle,
    StartWorker,
)
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.queue import GRACE, JobQueue
from bgpy.tasks.workspace.records import (
    JobEnded,
    JobPushed,
    JobsForgotten,
    JobStarted,
    StateChanged,
    WorkerStarted,
    WorkspaceGone,
)
from bgpy.tasks.workspace.values import Value

DONE = Outcome("done", Value(2, None), None)
RAISED = Outcome("failed", None, {"type": "ValueError", "message": "no", "traceback": "..."})
STOPPED = Outcome("interrupted", None, {"type": "KeyboardInterrupt", "message": "", "traceback": "..."})
FULL = StoreError("here", "The disk is full", "Make room on the disk")


class Driver:
    """Does what a queue wants, but for commits, which wait for `commit` unless `at_once` is on."""

    def __init__(self, *, at_once: bool = True, ready: bool = True, **options: Any) -> None:
        self.queue = JobQueue("w", **options)
        self.at_once = at_once
        self.commits: list[Commit] = []
        self.done: list[Any] = []
        if ready:
            self.queue.want_worker()
            self.queue.ready(None, 0.0)
            self.work()
            self.done.clear()

    def work(self) -> list[Any]:
        """Do what is to be done, and return what was done since the last call."""
        while instructions := self.queue.take():
            for instruction in instructions:
                self.done.append(instruction)
                if isinstance(instruction, Commit):
                    self.commits.append(instruction)
                elif isinstance(instruction, Run):
                    self.queue.handed(instruction.order.number)
            if self.at_once:
                self.commit()
        done, self.done = self.done, []
        return done

    def commit(self, error: StoreError | None = None) -> None:
        commits, self.commits = self.commits, []
        for commit in commits:
            self.queue.committed(commit, error, 3.0)

    def push(self, text: str = "x", **options: Any) -> int:
        return self.queue.push("script", text, **{"clear": False, "time_limit": None, "identity": None, "now": 1.0, **options})

    def states(self) -> list[str]:
        return [self.queue.jobs.state(number).value for number in self.queue.jobs.numbers()]


def of_kind(instructions: list[Any], *kinds: type) -> list[Any]:
    return [instruction for instruction in instructions if isinstance(instruction, kinds)]


def events(instructions: list[Any]) -> list[tuple[str, int | None]]:
    return [(announce.event, announce.job) for announce in of_kind(instructions, Announce)]


def test_a_job_is_pushed_run_and_ended_each_step_on_the_disk_before_the_next() -> None:
    driver = Driver(at_once=False)
    assert driver.push("1+1") == 0
    (commit,) = driver.work()
    assert [type(change) for change in commit.changes] == [JobPushed, JobStarted]
    driver.commit()
    assert driver.work() == [
        Acknowledge(0, None),
        Announce("queued", 0, {}),
        Announce("started", 0, {}),
        Run(Order(0, "script", "1+1", False)),
    ]
    driver.queue.ended(0, DONE, 2.0)
    (commit,) = driver.work()
    assert commit.changes == [JobEnded(driver.queue.jobs[0])]
    assert driver.queue.jobs.view(0).state is JobState.RUNNING
    assert driver.queue.jobs.view(0).value is None
    assert driver.queue.status()["STATUS"] == "BUSY"
    driver.commit()
    assert driver.work() == [Announce("finished", 0, {"state": "done", "result": True, "error": None}), Settle(0)]
    record = driver.queue.jobs.view(0)
    assert (record.state, record.value, record.pushed, record.started, record.ended) == (JobState.DONE, DONE.value, 1.0, 1.0, 2.0)


def test_the_next_job_starts_in_the_commit_of_the_last_ones_end() -> None:
    driver = Driver()
    driver.push()
    driver.push()
    assert of_kind(driver.work(), Run) == [Run(Order(0, "script", "x", False))]
    driver.queue.ended(0, DONE, 2.0)
    done = driver.work()
    assert [type(change) for change in of_kind(done, Commit)[0].changes] == [JobEnded, JobStarted]
    assert of_kind(done, Run) == [Run(Order(1, "script", "x", False))]


def test_a_job_whose_push_is_not_on_the_disk_does_not_start() -> None:
    driver = Driver(at_once=False)
    driver.push()
    driver.push()
    driver.work()
    driver.queue.committed(driver.commits.pop(0), None, 2.0)
    driver.queue.ended(0, DONE, 2.0)
    assert not of_kind(driver.work(), Run)[1:]
    assert [JobStarted] not in [[type(change) for change in commit.changes] for commit in driver.commits]
    driver.at_once = True
    driver.commit()
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]


def test_without_a_store_there_is_nothing_to_commit_but_the_end_of_the_workspace() -> None:
    driver = Driver(at_once=False, volatile=True)
    driver.push()
    driver.queue.ended(0, RAISED, 2.0)
    assert [type(each) for each in driver.work()] == [Announce, Announce, Run, Announce, Settle]
    driver.queue.destroy(3.0)
    assert driver.work() == [Commit([WorkspaceGone("w")], None, (), [])]


def test_jobs_wait_for_the_worker() -> None:
    driver = Driver(ready=False)
    driver.push()
    assert [type(each) for each in driver.work()] == [StartWorker, Commit, Acknowledge, Announce]
    assert driver.queue.status()["STATUS"] == "INITIAL"
    driver.queue.ready((7, "then"), 2.0)
    done = driver.work()
    assert of_kind(done, Commit)[0].changes == [WorkerStarted("w", 7, "then")]
    assert events(done) == [("worker_started", None), ("started", 0)]


@pytest.mark.parametrize(
    ("how", "status", "state"), [(DONE, "IDLE", "done"), (RAISED, "EXCEPT", "failed"), (STOPPED, "EXCEPT", "interrupted")]
)
def test_the_status_has_the_keys_of_the_original(how: Outcome, status: str, state: str) -> None:
    driver = Driver()
    expected = {"STATUS": "IDLE", "CUR_JOB_NUM": -1, "FIN_JOB_NUM": -1, "JOB_COUNT": 0, "held": 0, "restarts": 0}

    def status_now() -> dict[str, Any]:
        return {key: value for key, value in driver.queue.status().items() if key in expected}

    assert status_now() == expected
    driver.push()
    driver.push()
    driver.work()
    assert status_now() == {**expected, "STATUS": "BUSY", "CUR_JOB_NUM": 0, "JOB_COUNT": 1}
    driver.queue.ended(0, DONE, 2.0)
    driver.work()
    driver.queue.ended(1, how, 2.0)
    driver.work()
    assert status_now() == {**expected, "STATUS": status, "CUR_JOB_NUM": 1, "FIN_JOB_NUM": 1}
    assert driver.queue.status()["last_state"] == state
    assert driver.states() == ["done", state]


def test_a_cancelled_job_does_not_run_and_does_not_count_as_the_last_one() -> None:
    driver = Driver()
    for _ in range(3):
        driver.push()
    driver.work()
    assert driver.queue.cancel(1, 2.0)
    assert not driver.queue.cancel(1, 2.0)
    assert not driver.queue.cancel(0, 2.0)
    driver.work()
    driver.queue.ended(0, DONE, 2.0)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [2]
    driver.queue.cancel(2, 3.0)
    assert driver.states() == ["done", "cancelled", "running"]
    assert driver.queue.status()["FIN_JOB_NUM"] == 0


def test_an_interrupt_names_the_running_job_and_no_other() -> None:
    driver = Driver()
    driver.push()
    driver.push()
    driver.work()
    assert driver.queue.ask_interrupt(1, 2.0) is None
    assert driver.queue.ask_interrupt(None, 2.0) == 0
    assert driver.work() == [Interrupt(0)]
    driver.queue.ended(0, STOPPED, 2.0)
    driver.work()
    assert driver.queue.ask_interrupt(0, 2.0) is None
    assert driver.states() == ["interrupted", "running"]


@pytest.mark.parametrize(("ask", "state"), [("ask_interrupt", "interrupted"), ("ask_kill", "killed")])
def test_a_job_that_is_not_with_the_worker_yet_is_stopped_without_it(ask: str, state: str) -> None:
    driver = Driver(at_once=False)
    driver.push()
    driver.work()
    assert getattr(driver.queue, ask)(0, 2.0) == 0
    driver.at_once = True
    driver.commit()
    done = driver.work()
    assert not of_kind(done, Run, Interrupt, Kill)
    assert driver.states() == [state]


def test_an_interrupted_job_that_runs_through_all_the_same_is_done() -> None:
    driver = Driver()
    driver.push()
    driver.work()
    driver.queue.ask_interrupt(0, 2.0)
    driver.queue.ended(0, DONE, 2.0)
    driver.work()
    assert driver.states() == ["done"]


def test_a_time_limit_interrupts_and_after_the_grace_kills() -> None:
    driver = Driver()
    driver.push(time_limit=5)
    assert driver.work()[-1] == SetTimer(0, 5)
    driver.queue.time_passed(0, 6.0)
    assert driver.work() == [Interrupt(0), SetTimer(0, GRACE)]
    driver.queue.time_passed(0, 8.0)
    assert driver.work() == [Kill(0)]
    driver.queue.died("signal SIGKILL", False, 8.1)
    driver.work()
    assert driver.queue.jobs[0].error == {
        "type": "TimedOut",
        "message": "It was killed, still running after its time limit of 5 s",
        "traceback": "",
    }
    assert driver.states() == ["timed_out"]


@pytest.mark.parametrize(("how", "state"), [(STOPPED, "timed_out"), (RAISED, "timed_out"), (DONE, "done")])
def test_a_job_that_ends_after_its_limit_has_timed_out_unless_it_ran_through(how: Outcome, state: str) -> None:
    driver = Driver()
    driver.push(time_limit=5)
    driver.work()
    driver.queue.time_passed(0, 6.0)
    driver.queue.ended(0, how, 6.5)
    driver.work()
    driver.queue.time_passed(0, 8.0)
    assert not of_kind(driver.work(), Kill)
    assert driver.states() == [state]


def test_a_limit_does_not_kill_where_nothing_can() -> None:
    driver = Driver()
    driver.queue.can_kill = False
    driver.push(time_limit=5)
    driver.work()
    driver.queue.time_passed(0, 6.0)
    driver.work()
    driver.queue.time_passed(0, 8.0)
    assert driver.work() == []
    assert driver.states() == ["running"]


def test_the_death_of_a_worker_ends_its_job_and_aborts_those_behind() -> None:
    driver = Driver()
    for _ in range(3):
        driver.push()
    driver.work()
    driver.queue.died("exit code 3", False, 2.0)
    done = driver.work()
    assert len(of_kind(done, Commit)) == 1
    assert events(done)[0] == ("worker_died", 0)
    assert of_kind(done, StartWorker) == [StartWorker()]
    assert driver.states() == ["crashed", "aborted", "aborted"]
    assert driver.queue.jobs[0].error == {"type": "WorkerDied", "message": "Its worker died: exit code 3", "traceback": ""}
    assert driver.queue.status()["restarts"] == 1
    assert driver.queue.status()["FIN_JOB_NUM"] == 0


def test_on_crash_continue_runs_those_behind() -> None:
    driver = Driver(on_crash="continue")
    driver.push()
    driver.push()
    driver.work()
    driver.queue.died("signal SIGSEGV", True, 2.0)
    driver.work()
    assert driver.queue.status()["STATUS"] == "BUSY"
    driver.queue.ready(None, 3.0)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]
    assert driver.queue.jobs[0].error is not None
    assert "memory limit" in driver.queue.jobs[0].error["message"]


def test_a_kill_that_comes_just_after_the_end_takes_no_other_job() -> None:
    driver = Driver(on_crash="continue")
    driver.push()
    driver.push()
    driver.work()
    assert driver.queue.ask_kill(0, 2.0) == 0
    driver.queue.ended(0, DONE, 2.0)
    assert not of_kind(driver.work(), Run)
    driver.queue.died("signal SIGKILL", False, 2.1)
    driver.queue.ready(None, 3.0)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]
    assert driver.states() == ["done", "running"]


def test_after_a_kill_that_failed_it_goes_on() -> None:
    driver = Driver()
    driver.push()
    driver.push()
    driver.work()
    driver.queue.ask_kill(0, 2.0)
    driver.queue.kill_failed(2.0)
    driver.queue.ended(0, DONE, 2.5)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]


def test_a_worker_that_dies_unused_is_started_again_when_it_is_needed() -> None:
    driver = Driver()
    driver.queue.died("exit code 1", False, 2.0)
    assert not of_kind(driver.work(), StartWorker)
    assert driver.queue.status()["STATUS"] == "IDLE"
    driver.push()
    assert of_kind(driver.work(), StartWorker) == [StartWorker()]


def test_those_behind_a_job_that_is_killed_are_told_that() -> None:
    driver = Driver()
    for _ in range(2):
        driver.push()
    driver.work()
    driver.queue.ask_kill(0, 2.0)
    driver.work()
    driver.queue.died("signal SIGKILL", False, 2.1)
    driver.work()
    error = driver.queue.jobs[1].error
    assert error is not None
    assert error["message"] == "The worker died before it, and with it all variables: job 0 was killed"


def test_a_job_that_was_just_chosen_is_aborted_where_the_worker_dies_first() -> None:
    driver = Driver(at_once=False)
    driver.push()
    driver.work()
    driver.queue.died("exit code 1", False, 2.0)
    driver.at_once = True
    driver.commit()
    assert not of_kind(driver.work(), Run)
    assert driver.states() == ["aborted"]


def test_a_worker_that_cannot_be_started_aborts_what_waits_for_it() -> None:
    driver = Driver(ready=False, on_crash="continue")
    driver.push()
    driver.queue.start_failed("no memory", 2.0)
    driver.work()
    assert driver.states() == ["aborted"]
    driver.push()
    assert of_kind(driver.work(), StartWorker) == [StartWorker()]


def test_output_is_kept_while_it_runs_and_afterwards() -> None:
    driver = Driver()
    driver.push()
    driver.push()
    driver.queue.output(0, "stdout", b"one")
    driver.queue.output(None, "stdout", b"nobody's")
    driver.queue.output(1, "stderr", b"too early")
    driver.queue.output(0, "stderr", b"two")
    assert driver.queue.jobs.view(0).stdout == b"one"
    driver.queue.ended(0, DONE, 2.0)
    driver.work()
    record = driver.queue.jobs.view(0)
    assert (record.stdout, record.stderr, record.truncated) == (b"one", b"two", False)
    assert driver.queue.jobs.view(1).stdout == driver.queue.jobs.view(1).stderr == b""


def test_a_push_that_cannot_be_kept_is_an_error_and_never_runs() -> None:
    driver = Driver(at_once=False)
    driver.push()
    driver.work()
    driver.commit(FULL)
    driver.at_once = True
    assert of_kind(driver.work(), Acknowledge, Run) == [Acknowledge(0, FULL)]
    assert driver.push() == 1
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]
    with pytest.raises(RefusedError):
        driver.queue.jobs.view(0)


def test_a_start_that_cannot_be_written_down_does_not_happen() -> None:
    driver = Driver()
    driver.push()
    driver.push()
    driver.work()
    driver.at_once = False
    driver.queue.ended(0, DONE, 2.0)
    driver.work()
    driver.commit(FULL)
    done = driver.work()
    assert not of_kind(done, Run)
    assert of_kind(done, Settle) == [Settle(0), Settle(1)]
    assert driver.queue.jobs.unsaved == {0: FULL, 1: FULL}
    assert driver.states() == ["done", "aborted"]


def test_a_restart_interrupts_what_ran_and_holds_what_waited() -> None:
    first = Driver()
    for _ in range(4):
        first.push()
    first.work()
    first.queue.ended(0, DONE, 2.0)
    first.work()
    driver = Driver(ready=False)
    driver.queue.restore([first.queue.jobs[number] for number in range(4)], 9, 2, 5.0)
    done = driver.work()
    changes = of_kind(done, Commit)[0].changes
    assert changes == [
        JobEnded(driver.queue.jobs[1]),
        StateChanged("w", 2, JobState.HELD),
        StateChanged("w", 3, JobState.HELD),
    ]
    assert driver.states() == ["done", "interrupted", "held", "held"]
    status = driver.queue.status()
    assert (status["held"], status["restarts"], status["CUR_JOB_NUM"], status["FIN_JOB_NUM"]) == (2, 2, 1, 1)


def restored(count: int = 3) -> Driver:
    driver = Driver(ready=False)
    driver.queue.restore([JobRecord("w", number, "script", "old", pushed=0.5) for number in range(count)], count, 0, 5.0)
    driver.queue.want_worker()
    driver.queue.ready(None, 5.0)
    driver.work()
    return driver


def test_new_jobs_queue_behind_those_that_are_held() -> None:
    driver = restored()
    assert driver.push() == 3
    assert not of_kind(driver.work(), Run)
    assert driver.queue.resume(None, 6.0) == 3
    order = []
    for _ in range(4):
        (run,) = of_kind(driver.work(), Run)
        order.append(run.order.number)
        driver.queue.ended(run.order.number, DONE, 7.0)
    assert order == [0, 1, 2, 3]


def test_new_jobs_run_when_the_last_held_one_is_cancelled() -> None:
    driver = restored(1)
    driver.push()
    driver.work()
    assert driver.queue.cancel(0, 6.0)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]


def test_one_held_job_can_be_resumed_alone() -> None:
    driver = restored()
    assert driver.queue.resume(1, 6.0) == 1
    assert driver.queue.resume(1, 6.0) == 0
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]
    driver.queue.died("exit code 1", False, 7.0)
    driver.work()
    assert driver.states() == ["held", "crashed", "held"]


def test_a_request_that_comes_again_after_a_restart_finds_its_job() -> None:
    driver = Driver(ready=False)
    identity = (b"c", 1, 5)
    driver.queue.restore([JobRecord("w", 4, "script", "old", state=JobState.DONE, identity=identity)], 7, 0, 5.0)
    assert driver.push(identity=identity) == 4
    assert driver.push(identity=(b"c", 1, 6)) == 7
    assert driver.push(identity=(b"c", 1, 6)) == 7
    assert driver.push() == 8


def test_the_oldest_ended_jobs_are_forgotten() -> None:
    driver = Driver(max_jobs=3)
    for number in range(5):
        driver.push(identity=(b"c", 0, number + 1))
        driver.queue.ended(number, DONE, 2.0) if of_kind(driver.work(), Run) else None
        done = driver.work()
    assert driver.queue.jobs.numbers() == [2, 3, 4]
    assert driver.queue.jobs.counts[JobState.DONE] == 3
    with pytest.raises(RefusedError, match=r"Job 1 .* is gone: the last 3 jobs are remembered"):
        driver.queue.jobs.view(1)
    with pytest.raises(RefusedError, match="has no job 5"):
        driver.queue.jobs.view(5)
    driver.push()
    done = driver.work()
    assert JobsForgotten("w", 3) in of_kind(done, Commit)[0].changes
    assert driver.push(identity=(b"c", 0, 1)) == 6  # forgotten with its job


def test_a_job_that_has_not_ended_is_not_forgotten() -> None:
    driver = Driver(max_jobs=1)
    for _ in range(3):
        driver.push()
    driver.work()
    assert driver.states() == ["running", "queued", "queued"]


def test_a_queue_takes_no_more_than_it_can_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_WAITING", 2)
    driver = Driver()
    for _ in range(3):
        driver.push()
    with pytest.raises(OverloadedError):
        driver.push()


def test_the_end_of_the_workspace_ends_all_its_jobs() -> None:
    driver = restored(1)
    driver.queue.resume(None, 6.0)
    driver.push()
    driver.work()
    driver.queue.destroy(7.0)
    done = driver.work()
    assert done[0] == Commit([WorkspaceGone("w")], None, (), [0, 1])
    assert of_kind(done, Settle) == [Settle(0), Settle(1)]
    assert driver.states() == ["killed", "cancelled"]
    driver.queue.died("signal SIGKILL", False, 7.1)
    assert driver.work() == []


def test_no_job_yet_is_refused_with_the_reason() -> None:
    with pytest.raises(RefusedError, match="has had no job yet"):
        Driver().queue.jobs.view(None)


# A worker that outlives the server


def returned() -> Driver:
    """Return the queue of a server that has found a job which ran, one which waited and one which was held, and no worker yet."""
    driver = Driver(ready=False)
    states = (JobState.RUNNING, JobState.QUEUED, JobState.HELD)
    records = [JobRecord("w", number, "script", "old", state=state, started=0.7) for number, state in enumerate(states)]
    driver.queue.restore(records, 3, 1, 5.0, survivor=True)
    driver.queue.want_worker()
    return driver


def test_what_ran_is_asked_for_and_what_waited_goes_on_where_the_worker_is_found_again() -> None:
    driver = returned()
    driver.work()
    assert driver.states() == ["running", "held", "held"]
    assert driver.queue.is_being_handed()
    driver.push()
    assert not of_kind(driver.work(), Run)
    driver.queue.ready(None, 6.0, adopted=True)
    done = driver.work()
    assert of_kind(done, Run) == [Run(Order(0, "script", "old", False))]
    assert driver.states() == ["running", "queued", "held", "queued"]
    assert not driver.queue.is_being_handed()
    driver.queue.ended(0, DONE, 7.0)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [1]
    assert driver.states() == ["done", "running", "held", "queued"]
    assert driver.queue.restarts == 1


def test_what_ran_has_crashed_and_what_waited_is_held_where_the_worker_is_there_no_more() -> None:
    driver = returned()
    driver.work()
    driver.queue.ready(None, 6.0, adopted=False)
    done = driver.work()
    assert not of_kind(done, Run)
    assert driver.states() == ["crashed", "held", "held"]
    assert ("worker_died", 0) in events(done)
    assert driver.queue.jobs.view(0).error == {
        "type": "WorkerDied", "message": "Its worker died: it ended while no server was there", "traceback": ""
    }  # fmt: skip
    assert of_kind(done, Commit)[-1].changes == [JobEnded(driver.queue.jobs[0])]
    assert driver.queue.restarts == 2


def test_what_ran_is_not_given_up_while_its_worker_cannot_be_reached() -> None:
    driver = returned()
    driver.push()
    driver.queue.start_failed("the cluster is not there", 6.0)
    driver.work()
    assert driver.states() == ["running", "held", "held", "aborted"]  # who has just come is told at once
    driver.queue.want_worker()
    driver.queue.ready(None, 8.0, adopted=True)
    assert [run.order.number for run in of_kind(driver.work(), Run)] == [0]
