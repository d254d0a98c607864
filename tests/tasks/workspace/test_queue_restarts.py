"""The queue of a workspace in the server that comes after: what ran, what waited, and a worker that is still there."""

from __future__ import annotations

from support.queues import DONE, Driver, events, of_kind, restored

from bgpy.tasks.workspace.backends import Order
from bgpy.tasks.workspace.instructions import Commit, Run
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.records import JobEnded, StateChanged


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
