"""What is refused changes nothing and names the field; what a model raises is told as it is."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from support.runs import ENDLESS, PATIENCE, Gate
from support.servers import running_server

from bgpy.client import Client
from bgpy.errors import ModelDataError, ModelError, PlaceholderNotFoundError, PredictionFailedError, RefusedError
from bgpy.tasks.runtime import dispatch, runtime_tasks
from bgpy.tasks.runtime.commands import ACTIONS, COMMANDS
from bgpy.tasks.runtime.face import Run, Runtime


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """Return a client of a server, and where the folders of its runs are."""
    folder = tmp_path_factory.mktemp("place") / "runs"
    with running_server(runtime_tasks(folder=str(folder))) as served:
        yield served.client(), folder


@pytest.fixture
def client(place: tuple[Client, Path]) -> Client:
    return place[0]


@pytest.fixture
def runtime(client: Client) -> Runtime:
    return Runtime(client)


@pytest.fixture
def run(runtime: Runtime) -> Run:
    """Return a run that has ended, with a few placeholders."""
    code = (
        "import time\nx = 1\ntable = [[1, 2], [3, 4], [5, 6]]\n"
        "class Model:\n    def predict(self, rows):\n        return self.sums(rows)\n"
        "    def sums(self, rows):\n        return [sum(row) for row in rows]\n"
        "class Slow:\n    def predict(self, rows):\n        time.sleep(1000)\n"
        "model = Model()\nslow = Slow()\n"
    )
    run = runtime.run({"main.py": code, "rows.json": "[[1, 2], [3, 4]]"})
    assert run.wait(PATIENCE) == "Finished"
    return run


def ask(client: Client, command: str, **fields: Any) -> dict[str, Any]:
    return client.execute({"command": command, **fields}, await_response=True)


def python(*names: str, **other: Any) -> dict[str, Any]:
    """Return what is run, with files of these names, the first of which is the main file."""
    files = [{"filename": name, "content": "x = 1"} for name in names]
    return {"number": len(names), "files": files, "mainfile": names[0], **other}


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (python("../main.py"), "files"),
        (python("/tmp/main.py"), "files"),
        (python("C:/main.py"), "files"),
        (python("a\\..\\main.py"), "files"),
        (python("nul.py"), "files"),
        (python("main.py", "Main.py"), "files"),
        (python("\u00e9.py", "e\u0301.py"), "files"),
        (python("main.py", "main.py/x.py"), "files"),
        (python("main.py", "good.py", "a/../../bad.py"), "files"),
        (python("main.py", number=2), "number"),
        (python("main.py", mainfile="other.py"), "mainfile"),
        (python("main.py", mainfile="../main.py"), "mainfile"),
        (python("main.py", number="1"), "number"),
        (python("main.py", files="main.py"), "files"),
        (python("main.py", files=[{"filename": "main.py"}]), "content"),
        (python("main.py", files=[{"content": ""}]), "filename"),
        (python("main.py", more=1), "more"),
        ({"number": 0, "files": [], "mainfile": ""}, "mainfile"),
        ({"files": [], "mainfile": ""}, "number"),
        ("main.py", "python"),
    ],
)
def test_files_that_cannot_be_run_are_refused_and_nothing_is_written(
    place: tuple[Client, Path], asked: dict[str, Any], field: str
) -> None:
    client, folder = place
    before = sorted(folder.parent.rglob("*"))
    answer = ask(client, "run", python=asked)
    assert (answer["request_result"], answer["field"]) == (False, field), answer
    assert sorted(folder.parent.rglob("*")) == before
    assert ask(client, "list_runs")["result"]["sessions"] == []


def test_a_disk_that_does_not_take_the_files_refuses_the_run_and_keeps_nothing(
    place: tuple[Client, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bgpy.tasks.runtime import sessions

    def write(folder: str, uploads: Any) -> None:
        (Path(folder) / "half").touch()
        raise OSError(28, "No space left on device")

    client, folder = place
    monkeypatch.setattr(sessions, "write_files", write)
    answer = ask(client, "run", python=python("main.py"))
    assert (answer["field"], "No space left on device" in answer["result"]) == ("files", True)
    assert list(folder.glob("*/*")) == []
    assert ask(client, "list_runs")["result"]["sessions"] == []


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        ({}, "command", "no field 'command'"),
        ({"command": "nothing"}, "command", "no command 'nothing'"),
        ({"command": 3}, "command", "no command 3"),
        ({"command": "run"}, "python", "needs the field 'python'"),
        ({"command": "run_status"}, "sessionId", "needs the field 'sessionId'"),
        ({"command": "get_placeholder", "placeholder": {"name": "x"}}, "sessionId", "needs the field 'sessionId'"),
        ({"command": "get_placeholder", "placeholder": {"sessionId": "x"}}, "name", "needs the field 'name'"),
        (
            {"command": "get_stats", "placeholder": {"sessionId": "x", "name": "x", "window": [0, 1]}},
            "window",
            "no field 'window'",
        ),
        ({"command": "run_model", "model": {"sessionId": "x", "name": "x"}}, "data", "needs the field 'data'"),
        ({"command": "run_model", "model": {"sessionId": "x", "name": "x", "data": 1, "is_data": 1}}, "is_data", "is boolean"),
        ({"command": "run_status", "sessionId": "x", "timeout": 86_401}, "timeout", "at most 86,400"),
        (
            {"command": "run_model", "model": {"sessionId": "x", "name": "x", "data": 1, "timeout": 1e308}},
            "timeout",
            "at most 86,400",
        ),
        (
            {"command": "run_model", "model": {"sessionId": "x", "name": "x", "data": 1, "is_data": False}},
            "data",
            "path of a file",
        ),
        ({"command": "stop_run", "sessionId": None}, "sessionId", "is string or integer"),
    ],
)
def test_a_message_of_a_wrong_shape_is_refused(client: Client, message: dict[str, Any], field: str, reason: str) -> None:
    answer = client.execute(message, await_response=True)
    assert (answer["request_result"], answer["field"]) == (False, field)
    assert reason in answer["result"]


@pytest.mark.parametrize("session", ["", "../x", 123123123123, "0" * 32])
def test_a_session_that_there_is_not_has_a_status_and_nothing_else(client: Client, session: object) -> None:
    status = {"type": "[status]:STATUS", "sessionId": session, "status": "Session not found"}
    assert ask(client, "run_status", sessionId=session) == {"request_result": True, "result": status}
    for command in ("stop_run", "forget_run", "list_placeholders", "watch_run"):
        answer = ask(client, command, sessionId=session)
        assert (answer["request_result"], answer["field"], answer["error"]) == (False, "sessionId", "SessionNotFoundError")


def test_a_value_has_the_words_of_the_original_and_a_window(client: Client, run: Run) -> None:
    asked = {"sessionId": run.id, "name": "table", "window": [1, 3]}
    result = ask(client, "get_placeholder", placeholder=asked)["result"]
    known = {"type": "[placeholder]:VALUE", "sessionId": run.id, "name": "table", "value": [[3, 4], [5, 6]], "value_type": "list"}
    assert known.items() <= result.items()
    assert (result["window"], result["truncated"]) == ([1, 3], False)


@pytest.mark.parametrize("window", [[1], [1, 2, 3], [2, 1], [-1, 1]])
def test_a_window_that_is_none_is_refused(client: Client, run: Run, window: list[int]) -> None:
    answer = ask(client, "get_placeholder", placeholder={"sessionId": run.id, "name": "table", "window": window})
    assert (answer["request_result"], answer["field"]) == (False, "window")


def test_a_placeholder_that_there_is_not_is_refused(client: Client, run: Run) -> None:
    for command in ("get_placeholder", "get_stats"):
        answer = ask(client, command, placeholder={"sessionId": run.id, "name": "y"})
        assert (answer["request_result"], answer["field"], answer["error"]) == (False, "name", "PlaceholderNotFoundError")


def test_the_columns_of_a_placeholder_are_described(client: Client, run: Run) -> None:
    result = ask(client, "get_stats", placeholder={"sessionId": run.id, "name": "table"})["result"]
    assert (result["type"], result["sessionId"], result["name"]) == ("[placeholder]:STATS", run.id, "table")
    assert len(result["value"]["columns"]) == 2
    answer = ask(client, "get_stats", placeholder={"sessionId": run.id, "name": "x"})
    assert answer["request_result"] is False


def test_a_model_predicts_from_data_and_from_a_file(client: Client, run: Run, tmp_path: Path) -> None:
    result = {"type": "[model]:RESULT", "sessionId": run.id, "name": "model", "value": [3, 7]}
    asked = {"sessionId": run.id, "name": "model", "is_data": True, "data": [[1, 2], [3, 4]]}
    assert ask(client, "run_model", model=asked) == {"request_result": True, "result": result}
    (tmp_path / "data.json").write_text("[[1, 2], [3, 4]]")
    asked = {**asked, "is_data": False, "data": str(tmp_path / "data.json")}
    assert ask(client, "run_model", model=asked)["result"] == result


@pytest.mark.parametrize("data", [deque([(1, 2), (3, 4)]), [(1, 2), array("i", [3, 4])], [[1, 2], [HTTPStatus.OK, -193]]])
def test_data_of_any_class_are_made_plain_for_the_model(client: Client, run: Run, data: object) -> None:
    """An array in the message itself ended the process of the run, and its placeholders with it."""
    model = {"sessionId": run.id, "name": "model", "data": data}
    assert ask(client, "run_model", model=model)["result"]["value"] == [3, 7]
    assert run.run_model("model", data) == [3, 7]


def test_files_come_in_whatever_makes_a_dict_and_their_content_is_text_or_bytes(runtime: Runtime) -> None:
    run = runtime.run([("main.py", b"import other; x = other.x"), ("other.py", "x = 5")])  # type: ignore[arg-type]
    assert run.wait(PATIENCE) == "Finished"
    assert run.placeholder("x").value == 5
    with pytest.raises(TypeError, match=r"The content of the file 'main.py' is a text or bytes, not (Posix|Windows)Path"):
        runtime.run({"main.py": Path("main.py")})  # type: ignore[dict-item]


def test_a_large_prediction_comes_whole(runtime: Runtime) -> None:
    run = runtime.run({"main.py": "def model(count):\n    return ['x' * 100] * count\n"})
    assert run.wait(PATIENCE) == "Finished"
    assert run.run_model("model", 50_000) == ["x" * 100] * 50_000


def test_what_a_model_raises_is_told_with_its_files_and_lines(client: Client, run: Run) -> None:
    answer = ask(client, "run_model", model={"sessionId": run.id, "name": "model", "data": [1]})
    assert (answer["request_result"], answer["error"]) == (False, "TypeError")
    assert answer["result"].startswith("TypeError: ")
    assert answer["result"].endswith("object is not iterable")
    assert 'File "main.py", line 8, in sums' in answer["traceback"]
    assert answer["traceback"].splitlines()[1] == '  File "main.py", line 6, in predict'
    with pytest.raises(PredictionFailedError) as failed:
        run.run_model("model", [1])
    assert f"{failed.value.type_name}: {failed.value.message}" == answer["result"]
    assert failed.value.traceback_text == answer["traceback"]
    assert str(failed.value).startswith(f"A prediction of the session {run.id!r} failed: TypeError: ")


def test_what_is_no_model_does_not_predict(run: Run) -> None:
    with pytest.raises(ModelError, match="'x' is no model"):
        run.run_model("x", [1])
    with pytest.raises(PlaceholderNotFoundError, match="no placeholder 'y'"):
        run.run_model("y", [1])
    with pytest.raises(ModelDataError, match=r"'rows\.txt' does not"):
        run.run_model("model", "rows.txt", is_data=False)


@pytest.mark.parametrize(
    ("name", "data", "field", "error"),
    [
        ("x", [1], "name", "ModelError"),
        ("y", [1], "name", "PlaceholderNotFoundError"),
        ("model", "rows.txt", "data", "ModelDataError"),
    ],
)
def test_a_question_that_is_at_fault_itself_is_refused_like_all_others(
    client: Client, run: Run, name: str, data: Any, field: str, error: str
) -> None:
    asked = {"sessionId": run.id, "name": name, "data": data, "is_data": not isinstance(data, str)}
    answer = ask(client, "run_model", model=asked)
    assert (answer["request_result"], answer["field"], answer["error"]) == (False, field, error)
    assert set(answer) == {"request_result", "result", "field", "error"}


def test_a_prediction_that_takes_too_long_is_stopped_and_the_next_one_runs(run: Run) -> None:
    assert run.run_model("model", [[1, 2]]) == [3]  # what is imported for it must not be what is interrupted
    with pytest.raises(RefusedError, match=r"'slow' did not predict within 0\.2 s and was told to stop"):
        run.run_model("slow", [1], timeout=0.2)
    assert run.run_model("model", [[1, 1]]) == [2]


def test_a_prediction_waits_for_the_run_and_leaves_the_queue_at_its_timeout(runtime: Runtime, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    run = runtime.run({"main.py": f"def model(x):\n    print('asked')\n    return x\n{gate.code}"})
    with pytest.raises(RefusedError, match="did not predict within 0 s"):
        run.run_model("model", 1, timeout=0)
    gate.open()
    assert run.run_model("model", 2) == 2


def test_a_silent_run_shows_that_it_lives(runtime: Runtime, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "ALIVE_INTERVAL", 0.01)
    run = runtime.run({"main.py": ENDLESS})
    with closing(client.stream({"command": "watch_run", "sessionId": run.id})) as told:  # type: ignore[type-var]
        alive = next(each["result"] for each in told if each["result"]["type"] == "[status]:STATUS")
    assert (alive["sessionId"], alive["status"]) == (run.id, "Alive")


def test_every_command_has_one_action_and_every_action_a_command() -> None:
    assert set(ACTIONS.values()) == set(COMMANDS)
    assert len(ACTIONS) == len(COMMANDS)
    of_the_original = {"run", "get_placeholder", "run_model", "get_stats", "status", "stop"}
    assert of_the_original <= set(ACTIONS)
