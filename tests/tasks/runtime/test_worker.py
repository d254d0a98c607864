"""The host of a run's placeholders: alone, and in the process of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.backends import PATIENCE, Recorder

from bgpy.errors import PlaceholderNotFoundError, RefusedError
from bgpy.tasks.runtime import saving, worker
from bgpy.tasks.runtime.saving import RUN, save_placeholder
from bgpy.tasks.runtime.worker import HOST, MAX_LISTED, Placeholders
from bgpy.tasks.workspace.backends import Backend, Order, Outcome
from bgpy.tasks.workspace.backends.process import ProcessBackend, Spawner
from bgpy.tasks.workspace.progress import SINK, Sink
from bgpy.tasks.workspace.values import Value

ROOT = Path(__file__).resolve().parents[3]


class Host:
    """A host in this process, whose main module is an empty one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        main = ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", main)
        monkeypatch.chdir(folder.parent)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(RUN, "saved", None)
        self.told: list[str] = []
        monkeypatch.setattr(SINK, "of_process", Sink(lambda event, details: self.told.append(details["name"])))
        self.namespace = vars(main)
        self.host = Placeholders(self.namespace)
        assert self.host.prepare([{"folder": str(folder), "nested": True}]) == [None]

    def announce(self) -> list[str]:
        (value,) = self.host.announce([{}])
        assert value.packed is None
        return value.json["placeholders"]  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        return [each["name"] for each in self.host.listing({})["listed"]]

    def predict(self, name: str, data: Any, is_data: bool = True) -> Any:
        (outcome,) = self.host.predict([{"name": name, "is_data": is_data, "data": data}])
        return outcome.json if isinstance(outcome, Value) else outcome


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    (tmp_path / "run").mkdir()
    return Host(monkeypatch, tmp_path / "run")


def test_a_run_begins_in_its_folder_which_is_first_on_the_path(host: Host, tmp_path: Path) -> None:
    assert os.getcwd() == sys.path[0] == str(tmp_path / "run")
    assert sys.path[1] is None


def test_what_is_saved_is_there_at_once_and_variables_when_the_main_file_has_ended(host: Host) -> None:
    host.namespace.update(number=5, text="x")
    assert host.host.listing({}) == {"listed": [], "left_out": 0}
    assert host.host.value({"name": "number", "window": None}) == {"found": False}
    save_placeholder("early", [1, 2])
    assert host.host.listing({})["listed"] == [{"name": "early", "type": "list", "shape": [2]}]
    assert host.announce() == ["early", "number", "text"]
    assert host.host.listing({})["listed"] == [
        {"name": "early", "type": "list", "shape": [2]},
        {"name": "number", "type": "int", "shape": None},
        {"name": "text", "type": "str", "shape": [1]},
    ]
    assert host.told == ["early", "number", "text"]


def test_modules_functions_classes_and_hidden_names_are_no_placeholders_unless_saved(host: Host) -> None:
    def function() -> None: ...

    host.namespace.update(os=os, function=function, kind=int, builtin=len, __hidden__=1, _own=2)
    host.namespace["x" * 1000] = host.namespace["\ud800"] = 3
    save_placeholder("saved", function)
    assert host.announce() == ["saved", "_own"]
    assert host.host.value({"name": "function", "window": None}) == {"found": False}
    assert host.host.value({"name": "saved", "window": None})["type"] == "function"


def test_what_was_saved_goes_before_a_variable_of_its_name(host: Host) -> None:
    host.namespace["x"] = "variable"
    save_placeholder("x", "saved")
    assert host.announce() == ["x"]
    assert host.told == ["x"]
    assert host.host.value({"name": "x"})["value"] == "saved"


def test_a_value_comes_with_its_window(host: Host) -> None:
    save_placeholder("rows", list(range(100)))
    found = host.host.value({"name": "rows", "window": [3, 5]})
    assert found == {"found": True, "value": [3, 4], "type": "list", "shape": [100], "window": [3, 5], "truncated": False}
    with pytest.raises(RefusedError, match="A window is two integers"):
        host.host.value({"name": "rows", "window": [5, 3]})


def test_statistics_are_those_of_the_columns(host: Host) -> None:
    save_placeholder("rows", [{"a": 1}, {"a": 3}])
    found = host.host.statistics({"name": "rows"})
    assert found["found"]
    assert [(column["name"], column["mean"]) for column in found["value"]["columns"]] == [("a", 2.0)]
    assert host.host.statistics({"name": "none"}) == {"found": False}
    save_placeholder("number", 5)
    with pytest.raises(RefusedError, match="no statistics of a value of the type int"):
        host.host.statistics({"name": "number"})


def test_a_placeholder_that_is_none_is_found(host: Host) -> None:
    save_placeholder("nothing", None)
    assert host.host.value({"name": "nothing"})["found"]
    assert host.host.value({"name": "nothing"})["value"] is None


def test_of_very_many_placeholders_the_rest_is_counted_and_found_all_the_same(host: Host) -> None:
    host.namespace.update({f"v{number}": number for number in range(MAX_LISTED + 5)})
    assert len(host.announce()) == len(host.told) == len(host.names()) == MAX_LISTED
    assert host.host.listing({})["left_out"] == 5
    assert host.host.value({"name": f"v{MAX_LISTED + 4}"})["value"] == MAX_LISTED + 4


def test_a_model_predicts_whatever_its_name_is_and_a_function_need_not_be_saved(host: Host, tmp_path: Path) -> None:
    host.namespace["double"] = lambda data: [2 * number for number in data]
    save_placeholder("the sum", sum)
    host.announce()
    assert host.predict("double", [1, 2]) == [2, 4]
    assert host.predict("the sum", [1, 2]) == 3
    (tmp_path / "run" / "rows.json").write_text("[4, 5]")
    os.chdir(tmp_path)  # the path is one in the run's folder, wherever its code has gone
    assert host.predict("double", "rows.json", is_data=False) == [8, 10]


def test_the_traceback_of_a_prediction_begins_with_the_code_of_the_model(host: Host) -> None:
    host.namespace.update(broken=lambda data: 1 / data, leaving=lambda data: sys.exit(3))
    host.announce()
    for name, kind in (("broken", ZeroDivisionError), ("leaving", SystemExit)):
        failure = host.predict(name, 0)
        assert isinstance(failure, kind)
        assert failure.__traceback__ is not None
        assert failure.__traceback__.tb_frame.f_code.co_filename == __file__
    assert host.predict("missing", 0).__traceback__ is None


def test_what_goes_wrong_with_a_prediction_is_its_outcome(host: Host) -> None:
    host.namespace.update(broken=lambda data: 1 / data, plain=5)
    host.announce()
    assert isinstance(host.predict("broken", 0), ZeroDivisionError)
    missing = host.predict("missing", 0)
    assert isinstance(missing, PlaceholderNotFoundError)
    assert missing.name == "missing"
    assert isinstance(host.predict("plain", 0), Exception)
    assert "x.csv" in str(host.predict("broken", "x.csv", is_data=False))


def test_an_interrupt_of_a_prediction_is_no_outcome(host: Host) -> None:
    def interrupt(data: Any) -> None:
        raise KeyboardInterrupt

    save_placeholder("interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host.predict("interrupt", 0)


def test_the_host_can_be_imported_without_any_extra() -> None:
    module, _, name = HOST.partition(":")
    assert (worker.__name__, getattr(worker, name)) == (module, Placeholders)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module} as m, bgpy.inspection.statistics as s, json; "
        "import bgpy.tasks.runtime.models; s.describe([1, 2.5]); s.describe([{'a': 'x'}]); assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# In the process of a run


class Session:
    """A process of its own that runs files."""

    def __init__(self, backend: Backend, recorder: Recorder, folder: Path) -> None:
        self.backend, self.recorder, self.folder = backend, recorder, folder
        self.number = 0
        assert self.call("prepare", {"folder": str(folder), "nested": False}).state == "done"

    def call(self, method: str, argument: dict[str, Any]) -> Outcome:
        number, self.number = self.number, self.number + 1
        self.backend.run(Order(number, method, "", False, HOST, [(number, argument)]))
        return self.recorder.outcome(number)

    def begin(self, main: str) -> int:
        number, self.number = self.number, self.number + 1
        (self.folder / "main.py").write_text(main)
        self.backend.run(Order(number, "file", str(self.folder / "main.py"), False))
        return number

    def run(self, main: str) -> Outcome:
        return self.recorder.outcome(self.begin(main))

    def ask(self, method: str, **argument: Any) -> Any:
        return self.backend.ask(HOST, method, argument, PATIENCE)

    def saved(self) -> list[str]:
        return [told[2] for told in self.recorder.told if told[0] == "saved"]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    spawner, recorder = Spawner(), Recorder()
    backend = ProcessBackend(recorder, spawner=spawner)
    backend.start()
    yield Session(backend, recorder, tmp_path)
    backend.close()
    spawner.close()


def test_a_run_in_a_process_of_its_own(session: Session) -> None:
    (session.folder / "helper.py").write_text("def triple(rows):\n    return [3 * row for row in rows]\n")
    outcome = session.run(
        "from bgpy.tasks.runtime import save_placeholder\n"
        "from helper import triple\n"
        "save_placeholder('message', {'a': float('nan')})\n"
        "rows = list(range(2000))\n"
    )
    assert outcome.error is None, outcome.error
    assert session.saved() == ["message"]
    announced = session.call("announce", {}).value
    assert announced is not None
    assert announced.json == {"placeholders": ["message", "rows"]}
    assert session.saved() == ["message", "rows"]
    assert session.ask("value", name="message")["value"] == {"a": None}
    assert session.ask("value", name="rows", window=[1998, 5000])["value"] == [1998, 1999]
    (column,) = session.ask("statistics", name="rows")["value"]["columns"]
    assert (column["count"], column["mean"]) == (2000, 999.5)
    predicted = session.call("predict", {"name": "triple", "is_data": True, "data": [1, 2]}).value
    assert predicted is not None
    assert predicted.json == [3, 6]
    error = session.call("predict", {"name": "rows", "is_data": True, "data": []}).error
    assert error is not None
    assert error["type"] == "bgpy.errors.ModelError"
    error = session.call("predict", {"name": "none", "is_data": True, "data": []}).error
    assert error is not None
    assert error["type"] == "bgpy.errors.PlaceholderNotFoundError"
    with pytest.raises(RefusedError, match=r"^There are no statistics of a value of the type dict"):
        session.ask("statistics", name="message")


def test_placeholders_are_read_while_the_main_file_runs_and_threads_save_as_well(session: Session) -> None:
    number = session.begin(
        "import threading, time\n"
        "from bgpy.tasks.runtime import save_placeholder\n"
        "thread = threading.Thread(target=save_placeholder, args=('of a thread', 5))\n"
        "thread.start()\n"
        "thread.join()\n"
        "while True: pass\n"
    )
    session.recorder.wait_for(session.saved)
    assert session.ask("listing") == {"listed": [{"name": "of a thread", "type": "int", "shape": None}], "left_out": 0}
    assert session.ask("value", name="of a thread")["value"] == 5
    assert session.ask("value", name="thread") == {"found": False}
    assert session.backend.interrupt(number)
    assert session.recorder.outcome(number).state == "interrupted"
    announced = session.call("announce", {}).value
    assert announced is not None
    assert announced.json == {"placeholders": ["of a thread", "thread"]}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_what_a_forked_process_saves_is_not_told_and_not_kept(session: Session) -> None:
    outcome = session.run(
        "import os\n"
        "from bgpy.tasks.runtime import save_placeholder\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    save_placeholder('of the child', 1)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "save_placeholder('own', 1)\n"
    )
    assert outcome.error is None, outcome.error
    assert session.saved() == ["own"]
    assert [each["name"] for each in session.ask("listing")["listed"]] == ["own"]


def test_too_many_names_end_the_code_that_saves_them(session: Session) -> None:
    outcome = session.run(
        "from bgpy.tasks.runtime import save_placeholder\n"
        f"for number in range({saving.MAX_SAVED + 1}): save_placeholder(str(number), number)\n"
    )
    assert outcome.error is not None
    assert "no room for '1000'" in outcome.error["message"]
    assert "save_placeholder(str(number), number)" in outcome.error["traceback"]
