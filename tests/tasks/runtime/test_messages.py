"""Events of a workspace become messages of a run."""

from __future__ import annotations

from typing import Any

import pytest

from bgpy.tasks.runtime.messages import Ending, Status, Story, status_of
from bgpy.tasks.workspace.jobs import JobState


def event(kind: str, number: int, **details: Any) -> dict[str, Any]:
    return {"event": kind, "number": number, "time": 0.0, "job": 1, **details}


def output(number: int, text: str, stream: str = "stdout") -> dict[str, Any]:
    return event("output", number, stream=stream, text=text)


def tell(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return list(Story("s", "main.py").tell(events))


def message(kind: str, number: int, **details: Any) -> dict[str, Any]:
    return {"type": kind, "sessionId": "s", "number": number, **details}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (output(7, "a\n"), message("[output]:STDOUT", 7, text="a\n")),
        (output(7, "a\n", "stderr"), message("[output]:STDERR", 7, text="a\n")),
        (event("progress", 8, name="n", done=1.0, total=None), message("[progress]:UPDATE", 8, name="n", done=1.0, total=None)),
        (event("saved", 9, name="x"), message("[placeholder]:READY", 9, name="x")),
        (event("gap", 5, missed=[2, 5]), message("[output]:GAP", 5, missed=[2, 5])),
    ],
)
def test_an_event_of_the_run_is_a_message(given: dict[str, Any], told: dict[str, Any]) -> None:
    assert tell(given) == [told]


@pytest.mark.parametrize("kind", ["queued", "started", "finished", "worker_started", "worker_failed", "worker_died", "held"])
def test_what_the_workspace_is_about_is_no_message(kind: str) -> None:
    assert tell(event(kind, 3, name="x", text="x")) == []


def test_other_messages_of_one_kind_are_not_joined() -> None:
    updates = [event("progress", number, name="n", done=float(number), total=None) for number in (3, 4)]
    assert [told["done"] for told in tell(*updates)] == [3.0, 4.0]


def test_the_first_and_the_last_message() -> None:
    story = Story("s", "main.py")
    error = {"type": "ValueError", "message": "no", "traceback": "Traceback ..."}
    assert story.started() == message("[status]:EXECUTION_STARTED", 1, message="main.py was started")
    assert story.ended(Ending(Status.FINISHED, None, 5.0), 9) == message(
        "[state]:EXECUTION_FINISHED", 9, message="main.py ran to its end", status="Finished"
    )
    assert story.ended(Ending(Status.FAILED, error, 5.0), 9) == message(
        "[state]:EXECUTION_FAILED", 9, message="ValueError: no", error=error, status="Failed"
    )
    stopped = {"type": "KeyboardInterrupt", "message": "", "traceback": ""}
    assert story.ended(Ending(Status.STOPPED, stopped, 5.0), 9)["message"] == "KeyboardInterrupt"


@pytest.mark.parametrize("state", JobState)
def test_every_state_of_the_main_job_is_a_status(state: JobState) -> None:
    alive = {JobState.QUEUED, JobState.RUNNING, JobState.HELD}
    stopped = {JobState.INTERRUPTED, JobState.KILLED, JobState.CANCELLED}
    expected = Status.ALIVE if state in alive else Status.STOPPED if state in stopped else Status.FAILED
    assert status_of(state) is (Status.FINISHED if state is JobState.DONE else expected)
