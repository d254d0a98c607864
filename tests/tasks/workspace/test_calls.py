"""Jobs that call a host: how they queue, run as one, and end, from the queue to a server's answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder
from support.calls import HOST

from bgpy.errors import RefusedError, StoreError
from bgpy.tasks.workspace import ledger as ledgers
from bgpy.tasks.workspace.backends import Backend, Order, Outcome
from bgpy.tasks.workspace.calls import Call
from bgpy.tasks.workspace.instructions import Acknowledge, Commit, Interrupt, Kill, Run, Settle
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.queue import JobQueue
from bgpy.tasks.workspace.records import JobEnded, JobPushed, JobStarted, NumbersReserved
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.tasks.workspace.workspaces import Workspaces

DONE = Outcome("done", Value(1, None), None)
STOPPED = Outcome("interrupted", None, {"type": "KeyboardInterrupt", "message": "", "traceback": ""})
FULL = StoreError("here", "The disk is full", "Make room on the disk")


class Line:
    """A queue with a worker, whose commits are done at once, or kept."""

    def __init__(self, **options: Any) -> None:
        self.queue = JobQueue("w", **options)
        self.error: StoreError | None = None
        self.queue.want_worker()
        self.queue.ready(None, 0.0)
        self.work()

    def work(self) -> list[Any]:
        done: list[Any] = []
        while instructions := self.queue.take():
            for instruction in instructions:
                done.append(instruction)
                if isinstance(instruction, Commit):
                    self.queue.committed(instruction, self.error, 3.0)
                elif isinstance(instruction, Run):
                    self.queue.handed(instruction.order.number)
        return done

    def push(self, kind: str = "predict", call: Call | None = None, time_limit: float | None = None, now: float = 1.0) -> int:
        call = call if call is not None or kind == "script" else Call(HOST, kind, {"n": 1}, 4, False)
        return self.queue.push(kind, "", clear=False, time_limit=time_limit, identity=None, now=now, call=call)

    def orders(self) -> list[list[int]]:
        runs = [each.order for each in self.work() if isinstance(each, Run)]
        return [[number for number, _ in order.calls] or [order.number] for order in runs]

    def states(self) -> list[str]:
        return [self.queue.jobs.state(number).value for number in self.queue.jobs.numbers()]


@pytest.fixture
def line() -> Line:
    return Line(volatile=True)


def test_calls_that_wait_side_by_side_are_run_as_one_up_to_their_batch(line: Line) -> None:
    for kind in ("predict",) * 7 + ("script",) + ("predict",) * 2:
        line.push(kind)
    assert line.orders() == [[0]]
    line.queue.ended(0, DONE, 2.0)
    assert line.orders() == [[1, 2, 3, 4]]
    assert line.states() == ["done", *["running"] * 4, *["queued"] * 5]
    assert (line.queue.status()["CUR_JOB_NUM"], line.queue.status()["JOB_COUNT"]) == (4, 5)
    line.queue.ended(1, DONE._replace(rest=(DONE, DONE._replace(state="failed"), DONE)), 3.0)
    assert line.orders() == [[5, 6]]
    assert line.states()[:5] == ["done", "done", "done", "failed", "done"]
    line.queue.ended(5, DONE, 4.0)  # all of them alike
    assert line.orders() == [[7]]
    line.queue.ended(7, DONE, 5.0)
    assert line.orders() == [[8, 9]]
    assert line.states()[5:8] == ["done"] * 3


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "describe"},
        {"call": Call("other:Host", "predict", {}, 4, False)},
        {"time_limit": 1.0},
        {"kind": "script"},
    ],
    ids=["method", "host", "time limit", "script"],
)
def test_only_calls_of_one_method_without_limits_run_as_one(line: Line, other: dict[str, Any]) -> None:
    line.push("script")
    line.push()
    line.push(**other)
    line.push()
    line.orders()
    for number in range(3):
        line.queue.ended(number, DONE, 2.0)
        assert line.orders() == [[number + 1]]


def test_an_order_of_calls_has_their_arguments(line: Line) -> None:
    line.push("script")
    for n in range(2):
        line.push(call=Call(HOST, "predict", {"n": n}, 4))
    line.orders()
    line.queue.ended(0, DONE, 2.0)
    (run,) = [each for each in line.work() if isinstance(each, Run)]
    assert run.order == Order(1, "predict", "", False, HOST, [(1, {"n": 0}), (2, {"n": 1})])


def test_one_of_several_is_interrupted_by_its_number_and_the_others_end_as_they_do(line: Line) -> None:
    for kind in ("script", "predict", "predict", "predict"):
        line.push(kind)
    line.orders()
    line.queue.ended(0, DONE, 2.0)
    line.work()
    assert line.queue.ask_interrupt(2, 3.0) == 2
    assert Interrupt(2) in line.work()
    line.queue.ended(1, DONE._replace(rest=(STOPPED, DONE)), 4.0)
    assert line.states() == ["done", "done", "interrupted", "done"]


def test_a_kill_is_the_end_of_all_that_run_as_one_and_says_whose_it_was(line: Line) -> None:
    for kind in ("script", "predict", "predict", "predict"):
        line.push(kind)
    line.orders()
    line.queue.ended(0, DONE, 2.0)
    line.work()
    assert line.queue.ask_kill(2, 3.0) == 2
    assert Kill(2) in line.work()
    line.queue.died("signal SIGKILL", False, 4.0)
    assert line.states() == ["done", "aborted", "killed", "aborted"]
    assert "job 2, which ran as one with it" in (line.queue.jobs[1].error or {})["message"]


def test_a_death_of_the_worker_crashes_all_that_run_as_one(line: Line) -> None:
    for kind in ("script", "predict", "predict"):
        line.push(kind)
    line.orders()
    line.queue.ended(0, DONE, 2.0)
    line.work()
    line.queue.died("signal SIGSEGV", False, 4.0)
    assert line.states() == ["done", "crashed", "crashed"]


def test_the_end_of_the_workspace_ends_all_that_run_as_one(line: Line) -> None:
    for kind in ("script", "predict", "predict", "predict"):
        line.push(kind)
    line.orders()
    line.queue.ended(0, DONE, 2.0)
    line.work()
    line.queue.destroy(3.0)
    settled = [each.number for each in line.work() if isinstance(each, Settle)]
    assert settled == [1, 2, 3]
    assert line.states() == ["done", *["killed"] * 3]


def test_a_call_that_is_not_kept_costs_no_commit_but_one_for_a_thousand_numbers() -> None:
    line = Line()
    commits: list[Any] = []
    for number in range(1001):
        line.push()
        commits += [change for each in line.work() if isinstance(each, Commit) for change in each.changes]
        line.queue.ended(number, DONE, 2.0)
        commits += [change for each in line.work() if isinstance(each, Commit) for change in each.changes]
    assert commits == [NumbersReserved("w", 1000), NumbersReserved("w", 2000)]


def test_a_number_that_could_not_be_reserved_is_not_given() -> None:
    line = Line()
    line.error = FULL
    line.push()
    assert Acknowledge(0, FULL) in line.work()
    assert line.states() == []
    line.error = None
    line.push()
    assert line.orders() == [[1]]


def test_kept_and_other_calls_share_one_commit_where_they_must() -> None:
    line = Line()
    line.push("deploy", Call(HOST, "deploy", {}))
    line.push()
    commits = [[type(change) for change in each.changes] for each in line.work() if isinstance(each, Commit)]
    assert commits == [[JobPushed, JobStarted], [NumbersReserved]]
    line.queue.ended(0, DONE, 2.0)
    done = line.work()
    assert [type(change) for each in done if isinstance(each, Commit) for change in each.changes] == [JobEnded]
    assert [each.order.number for each in done if isinstance(each, Run)] == [1]


def test_of_calls_that_are_not_kept_the_last_thousand_are_remembered(line: Line) -> None:
    first = line.push("script")
    line.queue.ended(first, DONE, 2.0)
    for number in range(1, 1005):
        line.push()
        line.work()
        line.queue.ended(number, DONE, 2.0)
        line.work()
    assert line.queue.jobs.numbers()[:2] == [0, 5]
    with pytest.raises(RefusedError, match="of predictions the last 1,000"):
        line.queue.jobs.view(1)


def test_a_large_value_of_a_call_that_is_not_kept_does_not_stay_in_memory() -> None:
    ledger = ledgers.Ledger("w", 10)
    for number, value in enumerate((Value([0.5] * 10_000, None), Value(None, Packed.of(b"x" * 100_000)), Value([0.5], None))):
        ledger.add(JobRecord("w", number, "predict", "", call=Call(HOST, "predict", {}, 1, False), value=value))
        ledger.let_go(number, 4096)
    assert [ledger[number].value for number in range(3)] == [
        Value({"type": "list", "truncated": True}, None),
        Value({"type": "list", "truncated": True}, None),
        Value([0.5], None),
    ]


@pytest.fixture
def recorder_and_backend(make_backend: Callable[[Recorder], Backend]) -> tuple[Recorder, Backend]:
    recorder = Recorder()
    backend = make_backend(recorder)
    backend.start()
    return recorder, backend


@pytest.fixture
def call(recorder_and_backend: tuple[Recorder, Backend]) -> Callable[..., list[Outcome]]:
    recorder, backend = recorder_and_backend
    # The worker finds the host where the tests do.
    folder = str(Path(sys.modules["support.calls"].__file__ or "").parents[1])
    backend.run(Order(0, "script", f"import sys; sys.path.append({folder!r})", False))
    recorder.outcome(0)
    numbers = iter(range(1, 1000, 10))

    def call(method: str, *arguments: Any) -> list[Outcome]:
        number = next(numbers)
        backend.run(Order(number, method, "", False, HOST, [(number + n, each) for n, each in enumerate(arguments)]))
        outcome = recorder.outcome(number)
        return [outcome, *outcome.rest]

    return call


def test_a_host_lives_on_from_call_to_call_and_each_call_has_its_own_outcome(call: Callable[..., list[Outcome]]) -> None:
    (first,) = call("add", {"x": 1})
    assert first.value is not None
    assert first.value.json == [1, 1]
    outcomes = call("add", Packed.of({"x": 2}), {"x": -5}, {"x": 3})
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done"]
    assert [outcome.value.json for outcome in outcomes if outcome.value is not None] == [[3, 3], [6, 3]]
    assert outcomes[2].value is not None
    assert outcomes[2].value.packed is not None
    assert outcomes[2].value.packed.open() == {6}
    assert outcomes[1].error is not None
    assert (outcomes[1].error["type"], outcomes[1].error["message"]) == ("ValueError", "-5 is negative")


def test_a_call_may_have_no_value_and_one_that_raises_is_the_end_of_all(call: Callable[..., list[Outcome]]) -> None:
    assert [(outcome.state, outcome.value) for outcome in call("nothing", {}, {})] == [("done", None)] * 2
    outcomes = call("fail", {}, {})
    assert {outcome.state for outcome in outcomes} == {"failed"}
    assert outcomes[0].error is not None
    assert outcomes[0].error["message"] == "all of them"
    assert "in fail\n" in outcomes[0].error["traceback"]


def test_an_argument_that_cannot_be_opened_fails_its_own_call(call: Callable[..., list[Outcome]]) -> None:
    outcomes = call("add", Packed(b"no pickle"), {"x": 1})
    assert [outcome.state for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].error is not None
    assert "unpickle" in outcomes[0].error["message"]


def test_a_host_that_there_is_not_fails_the_call(recorder_and_backend: tuple[Recorder, Backend]) -> None:
    recorder, backend = recorder_and_backend
    backend.run(Order(5, "add", "", False, "support.nowhere:Host", [(5, {})]))
    error = recorder.outcome(5).error
    assert error is not None
    assert "support.nowhere" in error["message"] or "support" in error["message"]


def test_interrupting_one_of_several_runs_the_others_again(
    recorder_and_backend: tuple[Recorder, Backend], call: Callable[..., list[Outcome]]
) -> None:
    recorder, backend = recorder_and_backend
    if not backend.abilities.interrupt:
        pytest.skip("a thread cannot be interrupted for sure")
    call("nothing", {})
    backend.run(Order(500, "loop", "", False, HOST, [(500, {}), (501, {"loop": True}), (502, {})]))
    recorder.wait_for_text(500, "looping over 3\n")
    assert not backend.interrupt(499)
    assert backend.interrupt(501)
    outcome = recorder.outcome(500)
    assert [each.state for each in (outcome, *outcome.rest)] == ["done", "interrupted", "done"]
    assert outcome.value == Value(2, None)
    recorder.wait_for_text(500, "looping over 2\n")
    assert not backend.interrupt(502)


def test_a_call_that_waited_at_the_end_of_a_server_is_there_after_it(tmp_path: Path) -> None:
    folder = str(Path(sys.modules["support.calls"].__file__ or "").parents[1])
    first = Workspaces(str(tmp_path / "store"))
    workspace = first.create("w")
    workspace.wait_for_backend(time.monotonic() + PATIENCE)
    workspace.push("script", "while True: pass")
    held = workspace.call(Call(HOST, "add", {"x": 5}), "five")
    lost = workspace.call(Call(HOST, "add", Packed.of({"x": 7}), 1, False), "seven")
    first.close()
    second = Workspaces(str(tmp_path / "store"))
    try:
        workspace = second["w"]
        assert workspace.state(held) is JobState.HELD
        with pytest.raises(RefusedError):
            workspace.state(lost)
        path = workspace.push("script", f"import sys; sys.path.append({folder!r})")
        assert path > lost
        workspace.resume(held)
        assert workspace.wait(held, PATIENCE) is JobState.FAILED  # it came before the path
        again = workspace.call(Call(HOST, "add", {"x": 5}), "five")
        assert workspace.wait(again, PATIENCE) is JobState.DONE
        record = workspace.record(again)
        assert (record.kind, record.text, record.value and record.value.json) == ("add", "five", [5, 1])
        assert not workspace.when_ended(again, print)
    finally:
        second.close()
