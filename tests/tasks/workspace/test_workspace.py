"""One workspace with a scripted backend: jobs, ends of all kinds, and threads that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.scripted import Backends, ScriptedBackend

from bgpy.errors import RefusedError, StoreError
from bgpy.serving.deadlines import Deadlines
from bgpy.tasks.workspace.backends import Abilities, Order
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.means import Means, Options
from bgpy.tasks.workspace.records import Change, JobEnded, JobPushed, JobStarted
from bgpy.tasks.workspace.store import MemoryStore
from bgpy.tasks.workspace.variables import read_variables, write_variable
from bgpy.tasks.workspace.workspace import Workspace

FULL = StoreError("here", "The disk is full", "Make room on the disk")
THREAD = Abilities(kill=False, interrupt=False, capture=False, own_main=False, memory_limit=False)


class SlowStore(MemoryStore):
    """Commits when a test lets it, in a thread of its own; may be told to fail."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.error: StoreError | None = None
        self.changes: list[Change] = []
        self._threads: list[threading.Thread] = []

    def commit(self, changes: Sequence[Change], then: Callable[[StoreError | None], None]) -> None:
        previous = self._threads[-1] if self._threads else None
        self._threads.append(threading.Thread(target=self._commit, args=(list(changes), then, previous)))
        self._threads[-1].start()

    def _commit(self, changes: list[Change], then: Any, previous: threading.Thread | None) -> None:
        if previous is not None:
            previous.join()
        assert self.gate.acquire(timeout=10)
        self.changes += changes if self.error is None else []
        then(self.error)

    def close(self) -> None:
        self.gate.release(1000)
        for thread in self._threads:
            thread.join(10)


class House:
    """Workspaces that a test makes, and all that they share."""

    def __init__(self) -> None:
        self.backends = Backends()
        self.deadlines = Deadlines()
        self.workspaces: list[Workspace] = []
        self.store: Any = MemoryStore()

    def make(self, *, keeps: bool = False, **options: Any) -> Workspace:
        workspace = Workspace("w", Options(**options), Means(self.store, keeps, self.deadlines, self.backends.make))
        self.workspaces.append(workspace)
        workspace.prepare()
        workspace.open()
        return workspace

    @property
    def backend(self) -> ScriptedBackend:
        return self.backends.last


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    for workspace in house.workspaces:
        workspace.close()
    house.store.close()
    house.deadlines.close()
    assert all(backend.closed for backend in house.backends.made)


def run(workspace: Workspace, text: str, **options: Any) -> tuple[int, JobState]:
    number = workspace.push("script", text, **options)
    return number, workspace.wait(number, 10)


def wait_for_job(house: House) -> None:
    assert house.backend.waiting.wait(10)


def test_jobs_run_in_their_order_and_their_records_say_how_they_ended(house: House) -> None:
    workspace = house.make()
    assert run(workspace, "value 7") == (0, JobState.DONE)
    assert run(workspace, "fail no") == (1, JobState.FAILED)
    assert run(workspace, "print hello") == (2, JobState.DONE)
    first, second, third = (workspace.record(number) for number in range(3))
    assert first.value is not None
    assert first.value.json == "7"
    assert second.error == {"type": "ValueError", "message": "no", "traceback": "..."}
    assert third.stdout == b"hello"
    assert first.pushed is not None
    assert first.started is not None
    assert first.ended is not None
    assert first.pushed <= first.started <= first.ended
    assert [order.text for order in house.backend.orders] == ["value 7", "fail no", "print hello"]
    assert workspace.look(lambda jobs: jobs.results()) == [True, False, True]


def test_fifty_threads_push_at_once_and_no_job_is_lost(house: House) -> None:
    workspace = house.make()
    start, lock = threading.Barrier(50), threading.Lock()
    numbers: dict[int, str] = {}

    def push(text: str) -> None:
        start.wait(10)
        for part in range(4):
            number = workspace.push("script", f"value {text}.{part}")
            assert workspace.wait(number, 30) is JobState.DONE
            with lock:
                numbers[number] = f"{text}.{part}"

    threads = [threading.Thread(target=push, args=(str(each),)) for each in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(200))
    values = {number: record.value.json for number in numbers if (record := workspace.record(number)).value is not None}
    assert values == numbers
    assert [order.number for order in house.backend.orders] == list(range(200))


def test_a_wait_that_is_given_up_leaves_the_job_alone(house: House) -> None:
    workspace = house.make()
    number = workspace.push("script", "wait")
    wait_for_job(house)
    assert workspace.wait(number, 0.01) is JobState.RUNNING
    assert workspace.wait(number, 0) is JobState.RUNNING
    house.backend.end_job()
    assert workspace.wait(number, float("inf")) is JobState.DONE


def test_interrupt_hits_the_running_job_only(house: House) -> None:
    workspace = house.make()
    first, second = workspace.push("script", "wait"), workspace.push("script", "wait")
    wait_for_job(house)
    assert not workspace.interrupt(second)
    assert workspace.interrupt(None)
    assert workspace.wait(first, 10) is JobState.INTERRUPTED
    assert not workspace.interrupt(first)
    house.backend.end_job()
    assert workspace.wait(second, 10) is JobState.DONE
    assert not workspace.interrupt(None)


def test_an_interrupt_waits_for_a_job_that_is_on_its_way_to_the_worker(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = house.make()
    read_variables(workspace, None, "json", None)
    backend, entered, go = house.backend, threading.Event(), threading.Event()
    hand_over = backend.run

    def slow(order: Order) -> None:
        entered.set()
        assert go.wait(10)
        hand_over(order)

    monkeypatch.setattr(backend, "run", slow)
    monkeypatch.setattr("bgpy.tasks.workspace.workspace.STOP_TIMEOUT", 30)  # it is woken, and does not wait that long
    told: list[bool] = []
    pushing = threading.Thread(target=workspace.push, args=("script", "wait"))
    asking = threading.Thread(target=lambda: told.append(workspace.interrupt(0)))
    pushing.start()
    assert entered.wait(10)
    asking.start()
    asking.join(0.05)
    assert told == []
    go.set()
    asking.join(10)
    pushing.join(10)
    assert told == [True]
    assert workspace.wait(0, 10) is JobState.INTERRUPTED


def test_kill_ends_the_worker_and_a_fresh_one_runs_what_comes_after(house: House) -> None:
    workspace = house.make()
    first, second = workspace.push("script", "deaf"), workspace.push("script", "done")
    wait_for_job(house)
    assert workspace.kill(first)
    assert workspace.state(first) is JobState.KILLED
    assert workspace.state(second) is JobState.ABORTED
    assert run(workspace, "done") == (2, JobState.DONE)
    assert len(house.backends.made) == 2
    assert house.backends.made[0].closed
    assert workspace.status()["restarts"] == 1
    assert not workspace.kill(None)


def test_a_thread_workspace_says_that_it_cannot_kill(house: House) -> None:
    house.backends.abilities = THREAD
    workspace = house.make(type="thread")
    number = workspace.push("script", "deaf")
    with pytest.raises(RefusedError, match="cannot be killed"):
        workspace.kill(number)
    wait_for_job(house)
    house.backend.end_job()
    assert workspace.wait(number, 10) is JobState.DONE
    assert run(workspace, "wait", time_limit=0) == (1, JobState.TIMED_OUT)


@pytest.mark.parametrize(("script", "how_long"), [("wait", 0.01), ("deaf", 0.01)])
def test_a_time_limit_interrupts_and_then_kills(
    house: House, script: str, how_long: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpy.tasks.workspace.queue.GRACE", 0.05)
    workspace = house.make()
    assert run(workspace, script, time_limit=how_long) == (0, JobState.TIMED_OUT)
    assert workspace.status()["restarts"] == (1 if script == "deaf" else 0)
    assert run(workspace, "done", time_limit=float("inf")) == (1, JobState.DONE)


@pytest.mark.parametrize(("on_crash", "state"), [("abort", JobState.ABORTED), ("continue", JobState.DONE)])
def test_a_crash_aborts_what_waits_or_goes_on_with_it(house: House, on_crash: str, state: JobState) -> None:
    workspace = house.make(on_crash=on_crash)
    first, second = workspace.push("script", "wait"), workspace.push("script", "done")
    wait_for_job(house)
    house.backend.die("signal SIGSEGV")
    assert workspace.wait(first, 10) is JobState.CRASHED
    assert workspace.wait(second, 10) is state
    error = {"type": "WorkerDied", "message": "Its worker died: signal SIGSEGV", "traceback": ""}
    assert workspace.record(first).error == error


def test_a_worker_that_cannot_start_aborts_and_the_next_push_tries_again(house: House) -> None:
    house.backends.fails = "out of luck"
    workspace = house.make()
    number, state = run(workspace, "done")
    assert state is JobState.ABORTED
    error = workspace.record(number).error
    assert error is not None
    assert "out of luck" in error["message"]
    with pytest.raises(RefusedError, match="out of luck"):
        read_variables(workspace, None, "json", None)
    house.backends.fails = None
    assert run(workspace, "done")[1] is JobState.DONE


def test_variables_are_read_when_they_are_asked_for(house: House) -> None:
    house.backends.ready = threading.Event()
    workspace = house.make()
    read: list[Any] = []
    thread = threading.Thread(target=lambda: read.append(read_variables(workspace, None, "json", None)))
    thread.start()
    assert workspace.status()["STATUS"] == "INITIAL"
    house.backends.ready.set()
    thread.join(10)
    assert read == [{}]
    run(workspace, "set x 5")
    write_variable(workspace, "y", [1])
    assert read_variables(workspace, None, "json", None) == {"x": "5", "y": [1]}
    assert read_variables(workspace, ["y", "z"], "json", None) == {"y": [1]}


def test_after_a_death_the_variables_are_those_of_the_fresh_worker(house: House) -> None:
    workspace = house.make()
    run(workspace, "set x 5")
    run(workspace, "die")
    assert read_variables(workspace, None, "json", None) == {}


def test_an_idle_worker_that_dies_is_replaced_when_somebody_asks(house: House) -> None:
    workspace = house.make()
    assert read_variables(workspace, None, "json", None) == {}
    watcher = workspace.log.watch(None)
    house.backend.die("signal SIGKILL")
    assert [event["event"] for event in watcher.next(10, 0.0)] == ["worker_died"]
    assert len(house.backends.made) == 1
    assert run(workspace, "done")[1] is JobState.DONE


def test_the_events_tell_it_all_in_order(house: House) -> None:
    workspace = house.make()
    run(workspace, "print h\N{LATIN SMALL LETTER E WITH ACUTE}")
    run(workspace, "die exit code 3")
    read_variables(workspace, None, "json", None)
    told = [(event["event"], event["job"]) for event in workspace.log.watch(0).next(0, 0.0)]
    assert [each for each in told if each[0] != "queued"] == [
        ("worker_started", None),
        ("started", 0),
        ("output", 0),
        ("finished", 0),
        ("started", 1),
        ("worker_died", 1),
        ("finished", 1),
        ("worker_started", None),
    ]


def test_text_of_output_is_not_cut_within_a_character(house: House) -> None:
    workspace = house.make()
    number = workspace.push("script", "wait")
    wait_for_job(house)
    listener = house.backend.listener
    for piece in (b"\xc3", b"\xa9\xe2\x82"):
        listener.output(number, "stdout", piece)
    house.backend.end_job()
    workspace.wait(number, 10)
    texts = [event["text"] for event in workspace.log.watch(0).next(0, 0.0) if event["event"] == "output"]
    assert texts == ["\xe9\N{REPLACEMENT CHARACTER}"]
    assert workspace.record(number).stdout == b"\xc3\xa9\xe2\x82"


def test_a_job_for_a_workspace_that_is_being_destroyed_is_refused(house: House) -> None:
    workspace = house.make()
    workspace.push("script", "deaf")
    wait_for_job(house)
    backend, refused = house.backends.last, list[str]()

    def kill() -> bool:
        with pytest.raises(RefusedError) as error:
            workspace.push("script", "done")
        refused.append(str(error.value))
        return ScriptedBackend.kill(backend)

    backend.kill = kill  # type: ignore[method-assign]
    workspace.destroy()
    assert refused[0] == f"The workspace {workspace.name!r} is gone."


def test_destroying_ends_all_jobs_and_wakes_who_waits(house: House) -> None:
    workspace = house.make()
    first, second = workspace.push("script", "deaf"), workspace.push("script", "done")
    wait_for_job(house)
    states: list[JobState] = []
    thread = threading.Thread(target=lambda: states.append(workspace.wait(first, 30)))
    thread.start()
    workspace.destroy()
    thread.join(10)
    assert states == [JobState.KILLED]
    assert workspace.state(second) is JobState.CANCELLED
    assert workspace.log.closed
    with pytest.raises(RefusedError, match="is gone"):
        workspace.push("script", "done")


def test_closing_wakes_who_waits_and_says_that_nothing_ended(house: House) -> None:
    workspace = house.make()
    first, second = workspace.push("script", "deaf"), workspace.push("script", "done")
    wait_for_job(house)
    workspace.close()
    assert workspace.wait(second, 30) is JobState.QUEUED
    assert workspace.wait(first, 30) is JobState.RUNNING


def test_a_workspace_that_closes_while_its_worker_starts_leaves_none(house: House) -> None:
    house.backends.ready = threading.Event()
    workspace = house.make()
    closing = threading.Thread(target=workspace.close)
    closing.start()
    house.backends.ready.set()
    closing.join(20)
    assert not closing.is_alive()


def test_a_push_is_acknowledged_after_its_commit_and_the_end_told_after_its_own(house: House) -> None:
    house.store = store = SlowStore()
    workspace = house.make(keeps=True)
    read_variables(workspace, None, "json", None)
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(run(workspace, "value 1")))
    thread.start()
    thread.join(0.05)
    assert told == []
    assert not house.backend.orders, "it was handed to the worker before that was on the disk"
    store.gate.release(1)
    thread.join(0.05)
    assert told == []
    assert not workspace.state(0).ended
    store.gate.release(1)
    thread.join(10)
    assert told == [(0, JobState.DONE)]
    assert {type(change) for change in store.changes} == {JobPushed, JobStarted, JobEnded}


def test_who_pushes_what_the_same_request_has_pushed_before_is_told_of_its_end_too(house: House) -> None:
    workspace = house.make()
    told: list[tuple[str, JobState]] = []
    for name in ("first", "while it runs"):
        number = workspace.push(
            "script", "wait", identity=(b"c", 0, 1), then=lambda record, name=name: told.append((name, record.state))
        )
    wait_for_job(house)
    house.backend.end_job()
    assert workspace.wait(number, 10) is JobState.DONE
    assert workspace.push("script", "wait", identity=(b"c", 0, 1), then=lambda record: told.append(("later", record.state))) == 0
    assert told == [(name, JobState.DONE) for name in ("first", "while it runs", "later")]


def test_a_push_that_cannot_be_kept_raises(house: House) -> None:
    house.store = store = SlowStore()
    store.gate.release(1000)
    workspace = house.make(keeps=True)
    store.error = FULL
    told: list[JobRecord] = []
    with pytest.raises(StoreError, match="The disk is full"):
        workspace.push("script", "done", then=told.append)
    store.error = None
    assert run(workspace, "done") == (1, JobState.DONE)
    workspace.shut()  # tells all that wait: nobody waits for what is no job
    assert told == []


def test_an_end_that_cannot_be_kept_is_an_error_for_who_waits(house: House) -> None:
    house.store = store = SlowStore()
    store.gate.release(1000)
    workspace = house.make(keeps=True)
    number = workspace.push("script", "wait")
    wait_for_job(house)
    store.error = FULL
    house.backend.end_job()
    with pytest.raises(StoreError, match="The disk is full"):
        workspace.wait(number, 10)
