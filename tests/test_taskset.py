"""Three tasks from callables, a module, its name or a file; and what marks an exec task as concurrent."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bgpy.example import tasks as example
from bgpy.taskset import TaskSet, concurrent


def init_task(*_: Any) -> dict[str, Any]:
    return {}


def exec_task(client_socket: Any, state: Any, args: Any) -> Any:
    return state


def exit_task(client_socket: Any, state: Any, args: Any) -> None:
    return None


def test_the_three_tasks_may_be_named() -> None:
    tasks = TaskSet.of(exec=exec_task, init=init_task, exit=exit_task)
    assert (tasks.init, tasks.exec, tasks.exit) == (init_task, exec_task, exit_task)
    assert TaskSet.of(init_task, exec_task, exit=exit_task).exit is exit_task
    with pytest.raises(TypeError, match="'exist_okay'"):
        TaskSet.of(init_task, exec_task, exit_task, exist_okay=True)


def of_module(module: object) -> list[object]:
    tasks = TaskSet.of(module)
    return [tasks.init, tasks.exec, tasks.exit]


@pytest.fixture
def imports() -> Iterator[None]:
    """Undo what a file's import leaves behind."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


def test_three_callables_are_a_task_set() -> None:
    tasks = TaskSet.of(init_task, exec_task, exit_task)
    assert (tasks.init, tasks.exec, tasks.exit) == (init_task, exec_task, exit_task)
    assert not tasks.concurrent


def test_a_module_its_name_and_a_task_set_are_one() -> None:
    expected = [example.init_task, example.exec_task, example.exit_task]
    assert of_module(example) == of_module("bgpy.example.tasks") == expected
    tasks = TaskSet.of(example)
    assert TaskSet.of(tasks) is tasks


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((), "got 0 arguments"),
        ((init_task, exec_task), "got 2 arguments"),
        ((1,), "got int"),
        ((init_task, exec_task, "exit"), "The exit task is str, not a callable"),
        ((None, exec_task, exit_task), "The init task is NoneType, not a callable"),
    ],
)
def test_what_is_no_task_set_is_a_type_error_that_names_it(given: tuple[Any, ...], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        TaskSet.of(*given)


def test_a_module_that_lacks_tasks_names_them() -> None:
    module = ModuleType("half")
    module.init_task = init_task  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="The module 'half' has no exec_task and no exit_task"):
        TaskSet.of(module)
    with pytest.raises(ModuleNotFoundError):
        TaskSet.of("no_such_module_here")


def test_a_mark_makes_an_exec_task_concurrent_and_changes_nothing_else() -> None:
    def task() -> int:
        return 5

    marked = concurrent(task)
    assert marked is task
    assert marked() == 5
    assert TaskSet(init_task, marked, exit_task).concurrent
    assert not TaskSet(marked, exec_task, exit_task).concurrent


def test_tasks_travel_as_a_message() -> None:
    tasks = TaskSet(init_task, exec_task, exit_task)
    message = tasks.message()
    assert message == {"init_task": init_task, "exec_task": exec_task, "exit_task": exit_task}
    again = TaskSet.from_message(message)
    assert again.message() == message
    with pytest.raises(KeyError):
        TaskSet.from_message({})
    with pytest.raises(TypeError):
        TaskSet.from_message({**message, "exec_task": 1})


class Tasks:
    def with_socket(self, client_socket: Any) -> dict[str, Any]:
        return {"socket": client_socket}

    def without(self) -> dict[str, Any]:
        return {"socket": None}

    @staticmethod
    def static(client_socket: Any = None) -> dict[str, Any]:
        return {"socket": client_socket}

    def __call__(self, client_socket: Any) -> dict[str, Any]:
        return {"socket": client_socket}


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    ("init", "gets_socket"),
    [
        (lambda client_socket: {"socket": client_socket}, True),
        (lambda client_socket=None: {"socket": client_socket}, True),
        (lambda *args: {"socket": args[0]}, True),
        (lambda: {"socket": None}, False),
        (lambda *, option=1: {"socket": None}, False),
        (lambda **options: {"socket": None}, False),
        (Tasks().with_socket, True),
        (Tasks().without, False),
        (Tasks.static, True),
        (Tasks(), True),
        (functools.partial(lambda client_socket: {"socket": client_socket}), True),
        (functools.partial(lambda value: {"socket": None}, 1), False),
        (wrapped(lambda client_socket: {"socket": client_socket}), True),
        (wrapped(lambda: {"socket": None}), False),
    ],
)
def test_an_init_task_gets_the_client_socket_if_it_takes_one(init: Any, gets_socket: bool) -> None:
    state = TaskSet(init, exec_task, exit_task).make_state("the socket")  # type: ignore[arg-type]
    assert state == ({"socket": "the socket"} if gets_socket else {"socket": None})


def test_a_builtin_that_does_not_tell_its_arguments_makes_a_state_without_any() -> None:
    assert TaskSet(dict, exec_task, exit_task).make_state("the socket") == {}  # type: ignore[arg-type]


SOURCE = """
from {helper} import VALUE

def init_task():
    return {{"value": VALUE, "name": __name__, "file": __file__}}

def exec_task(client_socket, state, args):
    return state

def exit_task(client_socket, state, args):
    pass
"""


def write(folder: Path, name: str = "own_tasks.py", helper: str = "own_helper") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{helper}.py").write_text("VALUE = 5\n")
    path = folder / name
    path.write_text(SOURCE.format(helper=helper))
    return path


@pytest.mark.usefixtures("imports")
def test_a_file_finds_its_neighbours_and_is_a_module_of_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    tasks = TaskSet.from_file(str(path))
    assert tasks.make_state(None) == {"value": 5, "name": "own_tasks", "file": str(path)}  # type: ignore[arg-type]
    assert sys.path[0] == str(tmp_path)
    assert sys.modules["own_tasks"].init_task is tasks.init  # type: ignore[attr-defined]
    count = sys.path.count(str(tmp_path))
    TaskSet.from_file(str(path))
    assert sys.path.count(str(tmp_path)) == count


@pytest.mark.usefixtures("imports")
def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert TaskSet.from_file("own_tasks.py").make_state(None)["file"] == str(tmp_path / "own_tasks.py")  # type: ignore[arg-type]
    assert sys.path[0] == str(tmp_path)


@pytest.mark.usefixtures("imports")
def test_a_file_named_like_a_loaded_module_does_not_replace_it(tmp_path: Path) -> None:
    import json

    path = write(tmp_path, "json.py")
    tasks = TaskSet.from_file(str(path))
    assert tasks.make_state(None)["name"] == "bgpy_init_json"  # type: ignore[arg-type]
    assert sys.modules["json"] is json


@pytest.mark.usefixtures("imports")
def test_a_file_that_cannot_be_tasks_says_why(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("raise ValueError('from the file')\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(ValueError, match="from the file"):
        TaskSet.from_file(str(tmp_path / "raises.py"))
    with pytest.raises(AttributeError, match="no init_task and no exec_task and no exit_task"):
        TaskSet.from_file(str(tmp_path / "empty.py"))
    with pytest.raises(ImportError, match=r"text\.txt is no Python file"):
        TaskSet.from_file(str(tmp_path / "text.txt"))
    with pytest.raises(FileNotFoundError):
        TaskSet.from_file(str(tmp_path / "missing.py"))
