"""Several task sets behind one server: who gets a message, in which order, and what they share."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from support.scripted import KeepingSocket
from support.servers import COUNTER, background_server, running_server

from bgpy.client import Client
from bgpy.errors import InvalidResultError, OwnServerError, RemoteError
from bgpy.sockets import ClientSocket
from bgpy.tasks.workspace import workspace_tasks
from bgpy.taskset import TaskSet, concurrent


class Recorder:
    """A task set that keeps what it is asked, and responds with its name."""

    def __init__(self, name: str, commands: tuple[str, ...] = (), fails: str = "") -> None:
        self.name = name
        self.asked: list[dict[str, Any]] = []
        self.fails = fails
        self.tasks = TaskSet(self.init, self.exec, self.exit, commands)

    def init(self) -> dict[str, Any]:
        if "init" in self.fails:
            raise ValueError(f"init of {self.name}")
        return {"name": self.name}

    def exec(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> Any:
        self.asked.append(args)
        client_socket.respond({"set": self.name})
        return None if "exec" in self.fails else {**state, "count": state.get("count", 0) + 1}

    def exit(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
        self.asked.append({"exit": True, **state})
        if "exit" in self.fails:
            raise ValueError(f"exit of {self.name}")


def ask(tasks: TaskSet, state: dict[str, Any], **message: Any) -> dict[str, Any]:
    client = KeepingSocket()
    tasks.exec(client, state, message)
    return client.answer()


def test_a_command_goes_to_the_set_that_has_it() -> None:
    first, second, rest = Recorder("first", ("go", "stop")), Recorder("second", ("stop", "wait")), Recorder("rest")
    tasks = TaskSet.combine({"first": first.tasks, "second": second.tasks, "rest": rest.tasks})
    state = tasks.make_state(KeepingSocket())
    assert ask(tasks, state, command="go", x=1) == {"set": "first"}
    assert ask(tasks, state, command="second.stop", x=2) == {"set": "second"}
    assert ask(tasks, state, command="wait") == {"set": "second"}
    assert ask(tasks, state, command="rest.anything") == {"set": "rest"}
    assert ask(tasks, state, anything=5) == {"set": "rest"}
    assert ask(tasks, state, command="unknown") == {"set": "rest"}
    assert first.asked == [{"command": "go", "x": 1}]
    assert second.asked == [{"command": "stop", "x": 2}, {"command": "wait"}]
    assert rest.asked == [{"command": "anything"}, {"anything": 5}, {"command": "unknown"}]


def test_a_command_of_several_sets_needs_a_name_and_an_unknown_one_is_refused() -> None:
    sets = {name: Recorder(name, ("stop",)).tasks for name in ("first", "second")}
    tasks = TaskSet.combine(sets)
    state = tasks.make_state(KeepingSocket())
    ambiguous = ask(tasks, state, command="stop")
    assert ambiguous == {
        "request_result": False,
        "result": "Several task sets have the command 'stop': say first.stop or second.stop.",
        "field": "command",
    }
    for message in ({"command": "nonsense"}, {"command": 5}, {}, {"command": "third.stop"}):
        answer = ask(tasks, state, **message)
        assert (answer["request_result"], answer["field"]) == (False, "command")
    assert tasks.commands == ("first.stop", "second.stop")


def test_each_set_keeps_its_own_state_and_they_end_in_the_reverse_order() -> None:
    ends: list[str] = []

    class Ending(Recorder):
        def exit(self, client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> None:
            ends.append(f"{state['name']} {state.get('count', 0)}")

    tasks = TaskSet.combine({name: Ending(name, (f"do_{name}",)).tasks for name in ("first", "second")})
    state = tasks.make_state(KeepingSocket())
    for command in ("do_first", "do_first", "do_second"):
        ask(tasks, state, command=command)
    tasks.exit(KeepingSocket(), state, {})
    assert ends == ["second 1", "first 2"]


def test_an_init_task_that_fails_ends_those_before_it() -> None:
    first, second = Recorder("first"), Recorder("second", fails="init")
    with pytest.raises(ValueError, match="init of second"):
        TaskSet.combine({"first": first.tasks, "second": second.tasks}).make_state(KeepingSocket())
    assert first.asked == [{"exit": True, "name": "first"}]


def test_an_exit_task_that_fails_keeps_no_other_from_running() -> None:
    first, second = Recorder("first"), Recorder("second", fails="exit")
    tasks = TaskSet.combine({"first": first.tasks, "second": second.tasks})
    state = tasks.make_state(KeepingSocket())
    with pytest.raises(ValueError, match="exit of second"):
        tasks.exit(KeepingSocket(), state, {})
    assert first.asked == [{"exit": True, "name": "first"}]


def test_a_task_that_returns_no_state_is_an_error_and_the_state_is_as_before() -> None:
    recorder = Recorder("first", ("go",), fails="exec")
    tasks = TaskSet.combine({"first": recorder.tasks})
    state = tasks.make_state(KeepingSocket())
    with pytest.raises(InvalidResultError):
        ask(tasks, state, command="go")
    tasks.exit(KeepingSocket(), state, {})
    assert recorder.asked[-1] == {"exit": True, "name": "first"}
    bad = TaskSet.combine({"bad": TaskSet(lambda: None, recorder.exec, recorder.exit)})
    with pytest.raises(InvalidResultError):
        bad.make_state(KeepingSocket())


def test_a_set_that_calls_its_own_server_is_told_at_once() -> None:
    clients: list[Client] = []

    def inward(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        client_socket.respond(clients[0].execute({"command": "add"}, await_response=True))
        return state

    sets = {"inward": TaskSet(dict, inward, lambda *_: None, ["inward"]), "count": COUNTER}
    with running_server(TaskSet.combine(sets)) as served:
        clients.append(served.client(timeout=10))
        with pytest.raises(RemoteError) as caught:
            served.client().execute({"command": "inward"}, await_response=True)
        assert isinstance(caught.value.__cause__, OwnServerError)


def test_a_set_that_is_not_concurrent_runs_one_request_at_a_time_and_others_meanwhile() -> None:
    inside, go = threading.Event(), threading.Event()
    counts: list[int] = []

    def slow(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        assert not client_socket.deferrable
        counts.append(state["count"])
        inside.set()
        assert go.wait(10)
        return {"count": state["count"] + 1}

    @concurrent
    def quick(client_socket: ClientSocket, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        client_socket.respond({"quick": True})
        return state

    def end(*_: Any) -> None:
        """Do nothing."""

    sets = {"slow": TaskSet(lambda: {"count": 0}, slow, end, ["slow"]), "quick": TaskSet(dict, quick, end, ["quick"])}
    tasks = TaskSet.combine(sets)
    assert tasks.concurrent
    state = tasks.make_state(KeepingSocket())
    threads = [threading.Thread(target=tasks.exec, args=(KeepingSocket(), state, {"command": "slow"})) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    assert ask(tasks, state, command="quick") == {"quick": True}
    assert counts == [0]
    go.set()
    for thread in threads:
        thread.join(10)
    assert counts == [0, 1, 2, 3, 4]


def test_sets_that_take_workspaces_share_those_of_the_first() -> None:
    given: list[Any] = []

    def init(*, workspaces: Any = None) -> dict[str, Any]:
        given.append(workspaces)
        return {"workspaces": workspaces or "made here", "number": len(given)}

    def nothing(*_: Any) -> dict[str, Any]:
        return {}

    sets = {name: TaskSet(init, nothing, nothing) for name in ("first", "second", "third")}
    state = TaskSet.combine({"none": TaskSet(dict, nothing, nothing), **sets}).make_state(KeepingSocket())
    assert given == [None, "made here", "made here"]
    assert state["workspaces"] == "made here"


def test_the_workspace_set_does_not_end_what_another_set_made() -> None:
    tasks = TaskSet.combine({"one": workspace_tasks(max_jobs=5), "two": "bgpy.tasks.workspace"})
    state = tasks.make_state(KeepingSocket())
    workspaces = state["workspaces"]
    ended = tasks_ended = state["members"]
    assert ended["one"]._state == {"workspaces": workspaces, "owned": True}
    assert tasks_ended["two"]._state == {"workspaces": workspaces, "owned": False}
    assert ask(tasks, state, command="two.create_workspace", name="w")["result"] == "w"
    assert ask(tasks, state, command="one.get_workspace")["result"] == ["w"]
    tasks.exit(KeepingSocket(), state, {})


@pytest.mark.parametrize("sets", [{}, {"": COUNTER}, {"a.b": COUNTER}])
def test_a_combination_needs_sets_with_names(sets: dict[str, TaskSet]) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        TaskSet.combine(sets)


def test_a_combination_can_be_pickled() -> None:
    tasks = TaskSet.combine({"workspace": workspace_tasks(max_jobs=5), "counter": COUNTER})
    copied = TaskSet.from_message(pickle.loads(pickle.dumps(tasks.message())))
    assert copied.concurrent
    assert set(copied.message()) == {"init_task", "exec_task", "exit_task"}


def test_one_server_has_them_all() -> None:
    tasks = TaskSet.combine({"workspace": "bgpy.tasks.workspace", "counter": COUNTER})
    with running_server(tasks) as served:
        client = served.client()
        assert client.execute({"add": 2}, await_response=True) == {"count": 2}
        assert client.execute({"command": "get_workspace"}, await_response=True) == {"request_result": True, "result": []}
        with pytest.raises(RemoteError, match="TypeError"):
            client.execute({"add": "text"}, await_response=True)
        assert client.execute({"add": 1}, await_response=True) == {"count": 3}


@pytest.mark.process
def test_a_detached_server_takes_a_combination() -> None:
    tasks = TaskSet.combine({"workspace": workspace_tasks(max_jobs=5), "example": "bgpy.example.tasks"})
    with background_server(tasks) as server, Client(server.host, server.port) as client:
        answer = client.execute({"command": "workspace.create_workspace", "name": "w"}, await_response=True)
        assert answer == {"request_result": True, "result": "w"}
        client.terminate()
