"""Run sessions on real servers, with real workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import DEAF, ENDLESS, PATIENCE, Gate, kinds, text_of, wait_for_text
from support.servers import Served, background_server, running_server

from bgpy.errors import BgpyError, ClientClosedError, JobFailedError, PlaceholderNotFoundError, RefusedError, SessionNotFoundError
from bgpy.tasks.runtime import runtime_tasks
from bgpy.tasks.runtime.face import Runtime
from bgpy.taskset import TaskSet

SESSION_ID = 32  # hexadecimal digits: 128 bits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the folders of the runs are made."""
    return tmp_path / "runs"


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    with running_server(runtime_tasks(folder=str(folder))) as served:
        yield served


@pytest.fixture
def runtime(served: Served) -> Runtime:
    return Runtime(served.client())


def folders_in(folder: Path) -> list[Path]:
    """Return the folders of the runs of the one server."""
    return list(folder.glob("*/*"))


def test_a_run_tells_from_its_start_to_its_end(runtime: Runtime) -> None:
    main = (
        "import sys\nfrom part.helper import twice\nfrom bgpy.tasks.runtime import save_placeholder\n"
        "from bgpy.tasks.workspace import progress\nprint('hello', 1)\nprint('oh', file=sys.stderr)\n"
        "save_placeholder('message', 'saved')\nlist(progress(range(2), 'steps'))\nx = twice(4)\n"
    )
    run = runtime.run({"main.py": main, "part/helper.py": "def twice(x):\n    return 2 * x\n"})
    assert len(run.id) == SESSION_ID
    told = list(run.events())
    assert told[0] == {
        "type": "[status]:EXECUTION_STARTED", "sessionId": run.id, "number": 1, "message": "main.py was started"
    }  # fmt: skip
    assert told[-1]["type"] == "[state]:EXECUTION_FINISHED"
    assert (text_of(told), text_of(told, "STDERR")) == ("hello 1\n", "oh\n")
    assert [message["name"] for message in told if message["type"] == "[placeholder]:READY"] == ["message", "x"]
    updates = [message for message in told if message["type"] == "[progress]:UPDATE"]
    assert [(update["name"], update["done"], update["total"]) for update in updates] == [("steps", 0, 2), ("steps", 2, 2)]
    assert len(set(kinds(told))) == 6
    assert [message["number"] for message in told] == sorted({message["number"] for message in told})
    assert run.status() == "Finished"


def test_a_run_answers_at_once_with_the_words_of_the_original(served: Served, tmp_path: Path) -> None:
    client, gate = served.client(), Gate(tmp_path)
    python = {"number": 1, "files": [{"filename": "main.py", "content": gate.code}], "mainfile": "main.py"}
    answer = client.execute({"command": "run", "python": python}, await_response=True)
    started = answer["result"]
    assert answer == {"request_result": True, "result": started}
    assert started["type"] == "[status]:EXECUTION_STARTED"
    session = started["sessionId"]
    status = {"type": "[status]:STATUS", "sessionId": session, "status": "Alive"}
    assert client.execute({"command": "run_status", "sessionId": session}, await_response=True)["result"] == status
    gate.open()
    first = next(iter(client.stream({"command": "watch_run", "sessionId": session, "since": started["number"]})))
    assert first["result"]["type"] == "[state]:EXECUTION_FINISHED"


def test_placeholders_are_there_while_the_run_goes_on_and_variables_at_its_end(runtime: Runtime, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    run = runtime.run(
        {"main.py": f"from bgpy.tasks.runtime import save_placeholder\nx = 1\nsave_placeholder('early', [1, 2, 3])\n{gate.code}"}
    )
    ready = next(message for message in run.events() if message["type"] == "[placeholder]:READY")
    assert ready["name"] == "early"
    found = run.placeholder("early")
    assert (found.value, found.type, found.shape, found.truncated, found.encoding) == ([1, 2, 3], "list", [3], False, None)
    assert run.placeholder("early", (1, 2)).value == [2]
    with pytest.raises(PlaceholderNotFoundError, match="no placeholder 'x'"):
        run.placeholder("x")
    gate.open()
    assert run.wait(PATIENCE) == "Finished"
    assert run.placeholder("x").value == 1
    assert [known["name"] for known in run.placeholders()] == ["early", "x"]
    assert run.placeholders()[0] == {"name": "early", "type": "list", "shape": [3]}


@pytest.mark.parametrize("code", [ENDLESS, DEAF], ids=["endless", "deaf"])
def test_code_that_does_not_end_is_stopped(runtime: Runtime, code: str) -> None:
    run = runtime.run({"main.py": code})
    wait_for_text(run, "up")
    assert run.stop() == "Stopped"
    last = list(run.events())[-1]
    assert (last["type"], last["status"]) == ("[state]:EXECUTION_FAILED", "Stopped")
    assert last["error"]["type"] == ("KeyboardInterrupt" if code is ENDLESS else "Killed")
    assert run.stop() == "Stopped"


def test_an_interrupted_run_keeps_its_placeholders_and_a_killed_one_says_that_they_are_gone(runtime: Runtime) -> None:
    interrupted, killed = runtime.run({"main.py": f"x = 5\n{ENDLESS}"}), runtime.run({"main.py": f"x = 5\n{DEAF}"})
    for run in (interrupted, killed):
        wait_for_text(run, "up")
        assert run.stop() == "Stopped"
    assert interrupted.placeholder("x").value == 5
    for ask in (
        killed.placeholders,
        lambda: killed.placeholder("x"),
        lambda: killed.stats("x"),
        lambda: killed.run_model("x", 1),
    ):
        with pytest.raises(RefusedError, match="has ended, and with it its placeholders"):
            ask()


def test_a_run_is_stopped_before_it_has_begun(runtime: Runtime) -> None:
    run = runtime.run({"main.py": "print('never')"})
    assert run.stop() == "Stopped"
    assert text_of(run.events()) == ""


def test_a_run_that_has_ended_is_not_stopped_any_more(runtime: Runtime) -> None:
    run = runtime.run({"main.py": "x = 1"})
    assert run.wait(PATIENCE) == "Finished"
    assert run.stop() == "Finished"


def test_code_that_ends_in_its_own_way_when_interrupted_has_failed_or_finished(runtime: Runtime) -> None:
    waiting = "try:\n    print('up', flush=True)\n    while True: pass\nexcept KeyboardInterrupt:\n    "
    tidy, angry = runtime.run({"main.py": f"{waiting}x = 'tidy'"}), runtime.run({"main.py": f"{waiting}raise ValueError('no')"})
    for run in (tidy, angry):
        wait_for_text(run, "up")
    assert (tidy.stop(), angry.stop()) == ("Finished", "Failed")
    assert tidy.placeholder("x").value == "tidy"


def test_an_error_shows_the_files_of_the_run_and_their_lines(runtime: Runtime, folder: Path) -> None:
    run = runtime.run({"main.py": "from part import helper\n\nhelper.go()\n", "part/helper.py": "def go():\n    return 1 / 0\n"})
    last = list(run.events())[-1]
    assert (last["status"], last["message"]) == ("Failed", "ZeroDivisionError: division by zero")
    trace = last["error"]["traceback"]
    assert 'File "main.py", line 3, in <module>\n    helper.go()' in trace
    assert "line 2, in go\n    return 1 / 0" in trace
    assert str(folder) not in trace
    assert "bgpy" not in trace
    assert run.status() == "Failed"


def test_a_file_that_is_no_python_has_failed_with_its_line(runtime: Runtime, folder: Path) -> None:
    last = list(runtime.run({"main.py": "x = 1\nx = = 2\n"}).events())[-1]
    assert last["error"]["type"] == "SyntaxError"
    assert 'File "main.py", line 2' in last["error"]["traceback"]
    assert str(folder) not in str(last)


@pytest.mark.parametrize("code", ["import os\nos.abort()", "import os\nos._exit(0)"])
def test_a_run_whose_process_dies_has_failed(runtime: Runtime, code: str) -> None:
    run = runtime.run({"main.py": code})
    told = list(run.events())
    assert kinds(told) == ["[status]:EXECUTION_STARTED", "[state]:EXECUTION_FAILED"]
    assert (told[-1]["error"]["type"], told[-1]["status"]) == ("WorkerDied", "Failed")
    assert run.wait(PATIENCE) == "Failed"
    with pytest.raises(RefusedError, match="has ended, and with it its placeholders"):
        run.placeholders()


def test_a_model_that_kills_its_process_takes_the_placeholders_along_and_nothing_else(runtime: Runtime) -> None:
    run = runtime.run({"main.py": "import os\nclass Bomb:\n    def predict(self, data): os._exit(1)\nx = Bomb()\n"})
    assert run.wait(PATIENCE) == "Finished"
    with pytest.raises(JobFailedError) as failed:
        run.run_model("x", [1])
    assert (failed.value.type_name, failed.value.state) == ("WorkerDied", "crashed")
    with pytest.raises(RefusedError, match="has ended, and with it its placeholders"):
        run.placeholders()
    assert run.status() == "Finished"
    assert runtime.run({"main.py": "y = 1"}).wait(PATIENCE) == "Finished"


def test_two_runs_at_once_tell_of_themselves_only(served: Served, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, name) for name in "ab"]
    runs = [
        Runtime(served.client()).run({"main.py": f"print({name!r})\nname = {name!r}\n{gate.code}", f"{name}.txt": ""})
        for name, gate in zip("ab", gates, strict=True)
    ]
    told: list[list[dict[str, Any]]] = [[], []]
    listeners = [threading.Thread(target=lambda at=at, run=run: told[at].extend(run.events())) for at, run in enumerate(runs)]
    for listener in listeners:
        listener.start()
    assert [run.status() for run in runs] == ["Alive", "Alive"]
    for gate in reversed(gates):
        gate.open()
    for listener in listeners:
        listener.join(PATIENCE)
    for name, run, messages in zip("ab", runs, told, strict=True):
        assert text_of(messages) == f"{name}\n"
        assert {message["sessionId"] for message in messages} == {run.id}
        assert run.placeholder("name").value == name
    assert runs[0].id != runs[1].id


def test_who_comes_back_goes_on_where_it_left(served: Served, tmp_path: Path) -> None:
    gate, first = Gate(tmp_path), served.client()
    save = "from bgpy.tasks.runtime import save_placeholder\nsave_placeholder('x', 1)\nprint('one', flush=True)\n"
    run = Runtime(first).run({"main.py": f"{save}{gate.code}save_placeholder('x', 2)\nprint('two')"})
    told: list[dict[str, Any]] = []
    for message in run.events():
        told.append(message)
        if text_of(told) == "one\n" and "[placeholder]:READY" in kinds(told):
            break
    seen = told[-1]["number"]
    first.close()
    gate.open()
    back = Runtime(served.client())[run.id]
    assert back.wait(PATIENCE) == "Finished"
    rest = list(back.events(seen))
    assert text_of(rest) == "two\n"
    assert kinds(rest)[-1] == "[state]:EXECUTION_FINISHED"
    assert "x" not in [message["name"] for message in rest if message["type"] == "[placeholder]:READY"]
    assert kinds(back.events())[0] == "[status]:EXECUTION_STARTED"
    assert kinds(back.events(rest[-1]["number"])) == ["[state]:EXECUTION_FINISHED"]


def test_a_flood_of_output_is_cut_and_says_so(runtime: Runtime) -> None:
    run = runtime.run(
        {"main.py": "line = 'x' * 99\nfor _ in range(100):\n    print((line + '\\n') * 1000, end='')\nprint('end')"}
    )
    assert run.wait(PATIENCE) == "Finished"
    told = list(run.events())
    assert kinds(told)[:2] == ["[status]:EXECUTION_STARTED", "[output]:GAP"]
    assert told[1]["missed"][0] == 2
    assert kinds(told)[-1] == "[state]:EXECUTION_FINISHED"
    assert text_of(told).endswith("xxx\nend\n")


def test_a_session_that_is_forgotten_is_gone_with_its_folder_and_its_listeners_hear_of_it(runtime: Runtime, folder: Path) -> None:
    run = runtime.run({"main.py": ENDLESS})
    told: list[dict[str, Any]] = []
    listener = threading.Thread(target=lambda: told.extend(run.events()))
    listener.start()
    wait_for_text(run, "up")
    assert [path.name for path in folders_in(folder)[0].iterdir()] == ["main.py"]
    run.forget()
    listener.join(PATIENCE)
    assert (told[-1]["type"], told[-1]["status"]) == ("[state]:EXECUTION_FAILED", "Stopped")
    assert folders_in(folder) == []
    assert runtime.sessions() == []
    for ask in (run.forget, run.stop, run.placeholders, run.status, lambda: list(run.events()), lambda: runtime[run.id]):
        with pytest.raises(SessionNotFoundError, match=run.id):
            ask()


def test_the_files_of_a_run_are_its_working_directory_and_first_on_its_path(runtime: Runtime) -> None:
    main = "import colorsys, os, sys\nfiles = sorted(os.listdir())\nsame = sys.path[0] == os.getcwd()\nmine = colorsys.mine\n"
    files: dict[str, str | bytes] = {
        "d/data.bin": b"\0\xff",
        "main.py": f"{main}data = list(open('d/data.bin', 'rb').read())",
        "colorsys.py": "mine = 1",
    }
    run = runtime.run(files, "main.py")
    assert run.wait(PATIENCE) == "Finished", list(run.events())[-1]
    found = [run.placeholder(name).value for name in ("files", "same", "mine", "data")]
    assert found == [["colorsys.py", "d", "main.py"], True, 1, [0, 255]]


def test_of_a_main_file_in_a_folder_the_folder_of_the_run_comes_first_and_its_own_second(runtime: Runtime) -> None:
    main = "import os, sys, both, own\nwhere = os.listdir()\npath, here = sys.path[:], os.getcwd()\nwhich = both.name\n1 / 0\n"
    files = {"d/main.py": main, "both.py": "name = 'run'", "d/both.py": "name = 'own'", "d/own.py": ""}
    run = runtime.run(files)
    last = list(run.events())[-1]
    assert last["error"]["type"] == "ZeroDivisionError"
    assert 'File "d/main.py", line 5, in <module>' in last["error"]["traceback"]
    here, path = run.placeholder("here").value, run.placeholder("path").value
    assert path[:2] == [here, os.path.join(here, "d")]
    assert (path.count(path[0]), path.count(path[1]), path.count(None)) == (1, 1, 0)
    assert run.placeholder("which").value == "run"
    assert {"d", "both.py"} <= set(run.placeholder("where").value)


def test_the_folder_of_a_run_is_on_its_path_once(runtime: Runtime) -> None:
    run = runtime.run({"main.py": "import os, sys\ntimes = sys.path.count(os.getcwd())\n"})
    assert run.wait(PATIENCE) == "Finished"
    assert run.placeholder("times").value == 1


def test_sessions_are_listed_in_the_order_of_their_starts(runtime: Runtime) -> None:
    runs = [runtime.run({"a.py": "", f"{number}.txt": ""}) for number in range(3)]
    runs[1].wait(PATIENCE)
    listed = runtime.sessions()
    assert [session["sessionId"] for session in listed] == [run.id for run in runs]
    assert (listed[1]["status"], listed[1]["mainfile"], listed[1]["files"]) == ("Finished", "a.py", ["a.py", "1.txt"])
    assert listed[1]["started"] <= listed[1]["ended"]
    assert [run.id for run in runtime] == [run.id for run in runs]


def test_nothing_is_left_of_runs_at_the_end_of_the_server_and_listeners_hear_of_it(folder: Path) -> None:
    with running_server(runtime_tasks(folder=str(folder))) as served:
        run = Runtime(served.client()).run({"main.py": ENDLESS})
        told: list[dict[str, Any]] = []
        listener = threading.Thread(target=lambda: told.extend(run.events()))
        listener.start()
        wait_for_text(run, "up")
        served.client().terminate()
        listener.join(PATIENCE)
    assert told[-1]["type"] == "[status]:FORGOTTEN"
    assert list(folder.iterdir()) == []


def test_runs_live_beside_workspaces_and_are_none(folder: Path) -> None:
    sets = {"workspace": "bgpy.tasks.workspace", "runtime": runtime_tasks(folder=str(folder))}
    with running_server(TaskSet.combine(sets)) as served:
        client = served.client()
        run = Runtime(client).run({"main.py": "x = 1"})
        assert run.wait(PATIENCE) == "Finished"
        assert client.execute({"command": "get_workspace"}, await_response=True)["result"] == []
        named = client.execute({"command": "runtime.run_status", "sessionId": run.id}, await_response=True)
        assert named["result"]["status"] == "Finished"


def test_the_set_can_be_sent_to_a_detached_server() -> None:
    with background_server(runtime_tasks(keep=60.0), name="runs"):
        with Runtime("runs") as runtime:
            run = runtime.run({"main.py": "x = 1"})
            assert run.wait(PATIENCE) == "Finished"
            runtime.client.terminate()
        with pytest.raises(ClientClosedError):
            run.status()


def test_a_server_without_the_set_says_which_it_needs() -> None:
    with running_server() as served, pytest.raises(BgpyError, match=r"needs the task set bgpy\.tasks\.runtime"):
        Runtime(served.client()).sessions()
