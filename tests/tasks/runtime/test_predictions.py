"""Who waits for a run or a prediction costs no thread; a prediction ends when it has to."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import PATIENCE, Gate
from support.servers import running_server

from bgpy.client import Client
from bgpy.errors import RefusedError
from bgpy.protocol.frames import FLAG_AWAIT
from bgpy.sockets import ClientSocket
from bgpy.tasks.runtime import runtime_tasks
from bgpy.tasks.runtime.dispatch import dispatch
from bgpy.tasks.runtime.face import Runtime
from bgpy.tasks.runtime.sessions import RunSession, Sessions
from bgpy.tasks.runtime.uploads import Upload
from bgpy.tasks.workspace.workspaces import Workspaces

#: A prediction that ignores its interrupt.
DEAF_MODEL = (
    "import signal, time\nx = 1\ndef deaf(data):\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "    print('asked', flush=True)\n    while True:\n        time.sleep(1000)\n"
)


class Asked(ClientSocket):
    """A request whose answers come into a queue; it may defer them."""

    deferrable = True

    def __init__(self) -> None:
        super().__init__(None, None, FLAG_AWAIT)
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def respond(self, response: dict[str, object], *, more: bool = False) -> None:
        self.answers.put(response)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    workspaces = Workspaces()
    made = Sessions(workspaces, folder=str(tmp_path / "runs"))
    yield made
    made.close()
    workspaces.close()


def start(sessions: Sessions, code: str) -> RunSession:
    return sessions.start([Upload("main.py", code.encode())], "main.py")


def ask(sessions: Sessions, command: str, **fields: Any) -> Asked:
    asked = Asked()
    dispatch(sessions, asked, {"command": command, **fields})
    return asked


def ask_model(sessions: Sessions, session: RunSession, name: str, timeout: float) -> Asked:
    return ask(sessions, "run_model", model={"sessionId": session.id, "name": name, "data": 1, "timeout": timeout})


def test_waiting_for_a_run_or_a_prediction_takes_no_thread(sessions: Sessions, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    session = start(sessions, f"def model(data):\n    return data\n{gate.code}")
    waits = [ask(sessions, "run_status", sessionId=session.id, timeout=20) for _ in range(3)]
    waits += [ask_model(sessions, session, "model", 20) for _ in range(3)]
    assert all(wait.answers.empty() for wait in waits)
    assert all(wait.deferred is not None and wait.deferred > 20 for wait in waits)
    gate.open()
    answers = [wait.answers.get(timeout=PATIENCE)["result"] for wait in waits]
    assert [answer.get("status", answer.get("value")) for answer in answers] == ["Finished"] * 3 + [1] * 3


def test_a_wait_for_a_run_ends_with_its_time(sessions: Sessions, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    session = start(sessions, gate.code)
    wait = ask(sessions, "run_status", sessionId=session.id, timeout=0.01)
    assert wait.answers.get(timeout=PATIENCE)["result"]["status"] == "Alive"
    gate.open()


def test_who_waits_is_answered_when_the_session_is_forgotten(sessions: Sessions, tmp_path: Path) -> None:
    session = start(sessions, Gate(tmp_path).code)
    waits = [ask(sessions, "run_status", sessionId=session.id, timeout=1000), ask_model(sessions, session, "model", 1000)]
    sessions.forget(session)
    status, prediction = (wait.answers.get(timeout=PATIENCE) for wait in waits)
    assert status["result"]["status"] == "Stopped"
    assert (prediction["request_result"], prediction["error"]) == (False, "Cancelled")
    assert session.id not in str(prediction)


@pytest.fixture
def client() -> Iterator[Client]:
    with running_server(runtime_tasks()) as served:
        yield served.client()


def test_a_prediction_that_ignores_its_interrupt_is_killed_and_the_answer_says_so(client: Client) -> None:
    run = Runtime(client).run({"main.py": DEAF_MODEL})
    assert run.wait(PATIENCE) == "Finished"
    with pytest.raises(RefusedError, match="told to stop; it had to be killed, and with it went the session's placeholders"):
        run.run_model("deaf", 1, timeout=2)
    with pytest.raises(RefusedError, match="has ended, and with it its placeholders"):
        run.run_model("deaf", 1, timeout=0.5)


@pytest.mark.parametrize("name", ["slow", "deaf"])
def test_stopping_a_run_stops_the_prediction_that_runs_and_those_that_wait(sessions: Sessions, name: str) -> None:
    slow = "def slow(data):\n    print('asked', flush=True)\n    time.sleep(1000)\n"
    session = start(sessions, DEAF_MODEL + slow)
    session.wait(PATIENCE)
    waits = [ask_model(sessions, session, each, 1000) for each in (name, "slow", "slow")]
    watcher = session.log.watch(0)
    while not any(event["event"] == "output" for event in watcher.next(PATIENCE, 0.0)):
        pass  # until it has been asked
    session.stop()
    answers = [wait.answers.get(timeout=PATIENCE) for wait in waits]
    assert [answer["state"] for answer in answers] == ["interrupted" if name == "slow" else "killed", "cancelled", "cancelled"]
    assert session.status.value == "Finished"
    assert session.has_process() is (name == "slow")
