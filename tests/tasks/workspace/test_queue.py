"""The queue of a workspace: what comes out of it for what goes in, with commits that take their time and fail."""

from __future__ import annotations

from typing import Any

import pytest
from support.queues import DONE, FULL, RAISED, STOPPED, Driver, events, of_kind, restored

from bgpy.errors import OverloadedError, RefusedError
from bgpy.tasks.workspace import line
from bgpy.tasks.workspace.backends import Order, Outcome
from bgpy.tasks.workspace.instructions import Acknowledge, Announce, Commit, Run, Settle, StartWorker
from bgpy.tasks.workspace.jobs import JobState
from bgpy.tasks.workspace.records import JobEnded, JobPushed, JobsForgotten, JobStarted, WorkerStarted, WorkspaceGone


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
