"""Answers at the end of a job: by whoever hears of it, once, and never later than the request's time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted import Backends, KeepingSocket

from bgpy.errors import MessageTooLargeError, RefusedError, StoreError
from bgpy.tasks.workspace.answering import SMALL_ANSWER, LateAnswer, answer_at_end, push_and_answer
from bgpy.tasks.workspace.backends import Outcome
from bgpy.tasks.workspace.jobs import JobRecord
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

TIMEOUT = 20.0


class Waiting(KeepingSocket):
    """A client of a task that may defer; keeps which thread answered."""

    deferrable = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.thread = ""
        self.limit = 1 << 30

    def respond(self, response: dict[str, Any], *, more: bool = False) -> None:
        if len(str(response)) > self.limit:
            raise MessageTooLargeError(len(str(response)), self.limit, True)
        self.thread = threading.current_thread().name
        self.responded = True
        super().respond(response, more=more)


def make(record: JobRecord, waited: float) -> dict[str, Any]:
    return {"state": record.state.value, "value": record.value and record.value.json, "waited": waited}


@pytest.fixture
def backends() -> Backends:
    return Backends()


@pytest.fixture
def workspace(backends: Backends) -> Iterator[Workspace]:
    workspaces = Workspaces(make_backend=backends.make)
    yield workspaces.create("w")
    workspaces.close()


def begin(workspace: Workspace, backends: Backends) -> int:
    number = workspace.push("script", "wait")
    assert backends.last.waiting.wait(TIMEOUT)
    return number


def test_the_task_returns_at_once_and_the_thread_that_hears_the_end_answers(workspace: Workspace, backends: Backends) -> None:
    number, client = begin(workspace, backends), Waiting()
    answer_at_end(workspace, client, number, TIMEOUT, make)
    assert client.responses.empty()
    assert client.deferred == math.inf
    backends.last.end_job(Outcome("done", Value(7, None), None))
    result = client.answer()["result"]
    assert (result["state"], result["value"], client.thread) == ("done", 7, "test-backend")


def test_who_pushes_and_waits_is_answered_by_the_thread_that_hears_the_end(workspace: Workspace, backends: Backends) -> None:
    client = Waiting()
    push_and_answer(workspace, client, lambda then: workspace.push("script", "wait", then=then), TIMEOUT, make)
    assert backends.last.waiting.wait(TIMEOUT)
    assert client.responses.empty()
    assert client.deferred == math.inf
    backends.last.end_job(Outcome("done", Value(7, None), None))
    result = client.answer()["result"]
    assert (result["state"], result["value"], client.thread) == ("done", 7, "test-backend")


def test_a_push_that_comes_again_is_answered_with_the_job_of_the_first(workspace: Workspace) -> None:
    identity = (b"client", 0, 1)
    for _ in range(2):
        client = Waiting()
        push_and_answer(
            workspace, client, lambda then: workspace.push("script", "value 7", identity=identity, then=then), TIMEOUT, make
        )
        assert client.answer()["result"]["value"] == "7"
    assert workspace.look(lambda jobs: jobs.next_number) == 1


def test_a_pushed_job_that_is_gone_when_its_time_is_over_runs_as_far_as_is_known(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(number: int) -> None:
        raise RefusedError(f"Job {number} is gone", "job")

    monkeypatch.setattr(workspace, "record", gone)
    client = Waiting()
    push_and_answer(workspace, client, lambda then: workspace.push("script", "wait", then=then), 0.01, make)
    assert client.answer()["result"]["state"] == "running"


def test_a_job_that_has_ended_is_answered_at_once(workspace: Workspace) -> None:
    number, client = workspace.push("script", "value 7"), Waiting()
    workspace.wait(number, TIMEOUT)
    answer_at_end(workspace, client, number, TIMEOUT, make)
    assert client.answer()["result"]["value"] == "7"
    assert client.thread == threading.current_thread().name


def test_after_its_time_a_request_is_answered_with_the_job_as_it_is_and_only_once(
    workspace: Workspace, backends: Backends
) -> None:
    number, client, other = begin(workspace, backends), Waiting(), Waiting()
    answer_at_end(workspace, client, number, 0.01, make)
    result = client.answer()["result"]
    assert (result["state"], client.thread) == ("running", "bgpy-deadlines")
    answer_at_end(workspace, other, number, TIMEOUT, make)
    backends.last.end_job()
    assert other.answer()["result"]["state"] == "done"
    assert client.responses.empty()


@pytest.mark.parametrize("options", [{"timeout": 0}, {"awaited": False}], ids=["no time", "nobody waits"])
def test_where_there_is_no_wait_the_answer_is_given_at_once(
    workspace: Workspace, backends: Backends, options: dict[str, Any]
) -> None:
    number, client = begin(workspace, backends), Waiting(awaited=options.get("awaited", True))
    answer_at_end(workspace, client, number, options.get("timeout", TIMEOUT), make)
    assert client.answer()["result"]["state"] == "running"
    assert client.deferred is None


def test_a_task_that_may_not_defer_waits(workspace: Workspace, backends: Backends) -> None:
    number, client = begin(workspace, backends), KeepingSocket()
    thread = threading.Thread(target=answer_at_end, args=(workspace, client, number, TIMEOUT, make))
    thread.start()
    backends.last.end_job()
    assert client.answer()["result"]["state"] == "done"
    thread.join(TIMEOUT)


@pytest.mark.parametrize(
    "value",
    [Value("x" * SMALL_ANSWER, None), Value(None, Packed.of(b"x" * SMALL_ANSWER)), Value([[0.5] * 100] * 100, None)],
    ids=["text", "pickle", "lists"],
)
def test_a_large_answer_goes_out_by_a_thread_of_its_own(workspace: Workspace, backends: Backends, value: Value) -> None:
    number, client = begin(workspace, backends), Waiting()
    answer_at_end(workspace, client, number, TIMEOUT, make)
    backends.last.end_job(Outcome("done", value, None))
    assert client.answer()["result"]["state"] == "done"
    assert client.thread == "bgpy-large-answer"


def test_a_large_answer_has_what_the_store_alone_keeps(tmp_path: Path, backends: Backends) -> None:
    workspaces = Workspaces(str(tmp_path / "store"), make_backend=backends.make)
    try:
        workspace = workspaces.create("w")
        for _ in range(100):
            client = Waiting()
            number = workspace.push("script", "value " + "x" * SMALL_ANSWER)
            answer_at_end(workspace, client, number, TIMEOUT, make)
            assert len(client.answer()["result"]["value"]) == SMALL_ANSWER
    finally:
        workspaces.close()


def test_an_answer_that_the_client_cannot_take_becomes_the_reason(workspace: Workspace, backends: Backends) -> None:
    number, client = begin(workspace, backends), Waiting()
    client.limit = 1000
    answer_at_end(workspace, client, number, TIMEOUT, make)
    backends.last.end_job(Outcome("done", Value("x" * 2000, None), None))
    answer = client.answer()
    assert (answer["request_result"], answer["error"]) == (False, "MessageTooLargeError")


def test_an_end_that_could_not_be_kept_is_the_reason(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    number, client = workspace.push("script", "done"), Waiting()
    workspace.wait(number, TIMEOUT)

    def unsaved(number: int) -> None:
        raise StoreError("here", "The disk is full", "Make room on the disk")

    monkeypatch.setattr(workspace, "check_saved", unsaved)
    answer_at_end(workspace, client, number, TIMEOUT, make)
    answer = client.answer()
    assert (answer["request_result"], answer["error"]) == (False, "StoreError")
    assert "The disk is full" in answer["result"]


def test_who_waits_is_answered_when_the_server_ends(backends: Backends) -> None:
    workspaces = Workspaces(make_backend=backends.make)
    try:
        workspace = workspaces.create("w")
        number, client = begin(workspace, backends), Waiting()
        answer_at_end(workspace, client, number, TIMEOUT, make)
        workspaces.shut()
        assert client.answer()["result"]["state"] == "running"
    finally:
        workspaces.close()


def test_an_answer_about_a_job_that_is_gone_says_so(workspace: Workspace) -> None:
    client = Waiting()
    LateAnswer(workspace, client, 7, make, 0.0).expire()
    answer = client.answer()
    assert (answer["request_result"], answer["field"], answer["error"]) == (False, "job", "RefusedError")
