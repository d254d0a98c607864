"""Jobs in the queue of a workspace that are stopped: by an interrupt, a kill, a time limit, or the death of their worker."""

from __future__ import annotations

import pytest
from support.queues import DONE, RAISED, STOPPED, Driver, events, of_kind

from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.instructions import Commit, Interrupt, Kill, Run, SetTimer, StartWorker
from bgpy.tasks.workspace.queue import GRACE


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
