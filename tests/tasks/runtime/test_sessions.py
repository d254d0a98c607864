"""Sessions are kept for a time, are no more than may be, and are let go whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import DEAF, ENDLESS, PATIENCE, Gate

from bgpy.errors import OverloadedError, RefusedError, SessionNotFoundError
from bgpy.tasks.runtime import init_task, sessions
from bgpy.tasks.runtime.messages import Status
from bgpy.tasks.runtime.predictions import Prediction
from bgpy.tasks.runtime.sessions import MAIN, RunSession, Sessions
from bgpy.tasks.runtime.uploads import Upload
from bgpy.tasks.workspace.workspaces import Workspaces


class Watched(Sessions):
    """Sessions that tell when one was forgotten, or could be and was not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.forgotten = threading.Event()
        self.looked_after = threading.Event()

    def look_after(self, session: RunSession) -> None:
        super().look_after(session)
        self.looked_after.set()

    def forget(self, session: RunSession) -> None:
        super().forget(session)
        self.forgotten.set()


@pytest.fixture
def workspaces() -> Iterator[Workspaces]:
    made = Workspaces()
    yield made
    made.close()


@pytest.fixture
def place(workspaces: Workspaces, tmp_path: Path) -> Iterator[Any]:
    """Return what makes sessions, with options; they are closed in the end."""
    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        made.append(Watched(workspaces, folder=str(tmp_path / "runs"), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def start(sessions: Sessions, code: str = "x = 1") -> RunSession:
    return sessions.start([Upload("main.py", code.encode())], "main.py")


def ended(session: RunSession) -> Status:
    session.wait(PATIENCE)
    return session.status


def test_a_session_is_forgotten_when_its_time_is_over(place: Any) -> None:
    sessions = place(keep=0.1)
    session = start(sessions)
    assert ended(session) is Status.FINISHED
    assert sessions.forgotten.wait(PATIENCE)
    with pytest.raises(SessionNotFoundError):
        sessions.find(session.id)
    assert not Path(session.folder).exists()
    assert session.workspace.worker is None


def test_the_time_begins_with_the_end_of_the_run(place: Any) -> None:
    sessions = place(keep=0.0)
    session = start(sessions, ENDLESS)
    session.wait(0.5)
    assert sessions.find(session.id) is session
    assert not sessions.looked_after.is_set()
    session.stop()
    assert sessions.forgotten.wait(PATIENCE)


def test_a_session_that_is_asked_for_is_kept_for_longer(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = place(keep=0.5)
    session = start(sessions)
    assert ended(session) is Status.FINISHED
    before = session.used
    assert sessions.find(session.id).used > before
    session.used += 1000
    assert sessions.looked_after.wait(PATIENCE)
    assert not sessions.forgotten.is_set()
    assert sessions.find(session.id) is session


def test_there_are_no_more_sessions_than_may_be(place: Any, tmp_path: Path) -> None:
    sessions = place(max_sessions=2)
    kept = [start(sessions, ENDLESS), start(sessions, ENDLESS)]
    with pytest.raises(OverloadedError, match="it keeps 2 sessions, and something runs in each; forget_run lets one go"):
        start(sessions)
    assert len(list((tmp_path / "runs").glob("*/*"))) == 2
    sessions.forget(kept[0])
    assert ended(start(sessions)) is Status.FINISHED


def test_for_one_more_the_ended_one_goes_that_was_asked_for_longest_ago(place: Any) -> None:
    sessions = place(max_sessions=3)
    alive, asked, forgotten = start(sessions, ENDLESS), start(sessions), start(sessions)
    assert (ended(asked), ended(forgotten)) == (Status.FINISHED, Status.FINISHED)
    sessions.find(asked.id)
    new = start(sessions)
    assert sessions.all() == [alive, asked, new]
    assert not Path(forgotten.folder).exists()
    assert forgotten.log.closed


def test_a_session_in_which_something_runs_does_not_go(place: Any, tmp_path: Path) -> None:
    sessions, gate = place(keep=0.0, max_sessions=1), Gate(tmp_path)
    first = Gate(tmp_path, "first")
    session = start(sessions, f"def model(data):\n    {gate.code}\n{first.code}")
    predictions: list[Prediction] = []
    sessions.predict(session, "model", True, 1, 1000.0, predictions.append)
    first.open()
    assert ended(session) is Status.FINISHED
    assert sessions.looked_after.wait(PATIENCE)
    with pytest.raises(OverloadedError):
        start(sessions)
    assert not sessions.forgotten.is_set()
    gate.open()
    assert sessions.forgotten.wait(PATIENCE)
    assert [session.result_of(prediction) for prediction in predictions] == [None]


def test_the_process_that_follows_one_that_died_in_a_prediction_is_let_go(place: Any) -> None:
    sessions, over = place(), threading.Event()
    session = start(sessions, "import os\ndef model(data):\n    os._exit(3)\n")
    assert ended(session) is Status.FINISHED
    sessions.predict(session, "model", True, 1, 1000.0, lambda prediction: over.set())
    assert over.wait(PATIENCE)
    while not session.log.closed and session.log.wait(session.log.last, PATIENCE):
        pass
    assert session.log.closed
    assert session.status is Status.FINISHED


def test_what_could_not_be_started_takes_no_place(place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sessions = place(max_sessions=1)
    for _ in range(2):  # whoever leaks a place has none left
        for owner, method in ((Workspaces, "create_unlisted"), (RunSession, "begin")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, method, refuse)
                with pytest.raises(RefusedError, match="no room for a process"):
                    start(sessions)
    assert list((tmp_path / "runs").glob("*/*")) == []
    assert sessions.all() == []
    assert ended(start(sessions)) is Status.FINISHED


def refuse(*_: Any, **__: Any) -> Any:
    raise RefusedError("There is no room for a process")


def test_a_run_whose_process_cannot_be_prepared_has_failed(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = place()
    monkeypatch.setattr("bgpy.tasks.runtime.sessions.HOST", "os:no_such_host")
    session = start(sessions)
    assert ended(session) is Status.FAILED
    ending = session.ending()
    assert ending is not None
    assert ending.error is not None
    assert ending.error["type"] == "AttributeError"


def test_the_process_that_follows_a_dead_one_is_let_go(place: Any) -> None:
    sessions = place()
    session = start(sessions, DEAF)
    while session.workspace.state(MAIN).value == "queued":
        session.log.wait(session.log.last, PATIENCE)
    session.stop(grace=0.0)
    assert session.status is Status.STOPPED
    while not session.log.closed and session.log.wait(session.log.last, PATIENCE):
        pass  # the fresh one has been started
    assert session.log.closed
    assert sessions.find(session.id).status is Status.STOPPED


def test_nothing_is_started_once_it_is_closed(place: Any, tmp_path: Path) -> None:
    sessions = place()
    session = start(sessions, ENDLESS)
    sessions.close()
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(RefusedError, match="The server is ending"):
        start(sessions)
    sessions.forget(session)
    sessions.close()


def test_what_is_started_while_it_is_closed_is_let_go(place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sessions, begin, begun = place(), RunSession.begin, []

    def close_meanwhile(session: RunSession) -> None:
        begin(session)
        begun.append(session)
        sessions.close()

    monkeypatch.setattr(RunSession, "begin", close_meanwhile)
    with pytest.raises(RefusedError, match="The server is ending"):
        start(sessions, ENDLESS)
    assert begun[0].log.closed
    assert sessions.all() == []
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("options", [{"keep": -1.0}, {"keep": float("nan")}, {"keep": 1e300}, {"max_sessions": 0}])
def test_options_that_make_no_sense_are_errors(options: dict[str, Any], workspaces: Workspaces) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sessions(workspaces, **options)


def test_workspaces_that_were_made_for_sessions_end_where_these_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()
    monkeypatch.setattr(Workspaces, "close", lambda self: closed.set())
    with pytest.raises(ValueError, match="keep"):
        init_task(keep=-1.0)
    assert closed.is_set()
    assert sessions.PREPARE == 0
