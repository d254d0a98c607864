"""From messages to answers: each command, and each way in which a message can be wrong."""

from __future__ import annotations

import enum
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
from support.desks import CommandDesk
from support.scripted import Backends, KeepingSocket

from bgpy.tasks.schema import REQUIRED
from bgpy.tasks.workspace import dispatch as dispatching
from bgpy.tasks.workspace.commands import COMMANDS
from bgpy.tasks.workspace.dispatch import dispatch
from bgpy.tasks.workspace.values import Packed
from bgpy.tasks.workspace.workspace import Workspace
from bgpy.tasks.workspace.workspaces import Workspaces

PUSH = {"command": "push_job", "name": "w", "type": 1, "timeout": 10}


class Desk(CommandDesk):
    """Workspaces with scripted backends, and the clients that ask them."""

    def __init__(self) -> None:
        self.backends = Backends()
        self.workspaces = Workspaces(make_backend=self.backends.make)

    def answer(self, message: dict[str, Any], client: KeepingSocket | None = None) -> dict[str, Any]:
        client = client or KeepingSocket()
        dispatch(self.workspaces, client, message)
        return client.answer()

    def run(self, job: str, **fields: Any) -> Any:
        return self.ask(**{**PUSH, "job": job, **fields})


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.ask("create_workspace", name="w")
    yield desk
    desk.workspaces.close()


def test_a_job_that_ran_is_answered_with_all_fields(desk: Desk) -> None:
    answer = desk.run("value 7")
    assert answer.pop("time") >= 0
    assert answer == {
        "job": 0,
        "finish": True,
        "result": True,
        "state": "done",
        "value": "7",
        "value_type": "str",
        "variable": {},
        "output": {"stdout": "", "stderr": "", "truncated": False},
        "error": None,
    }


def test_a_job_that_raised_is_no_refusal(desk: Desk) -> None:
    answer = desk.run("fail no")
    assert (answer["finish"], answer["result"], answer["state"]) == (True, False, "failed")
    assert answer["error"] == {"type": "ValueError", "message": "no", "traceback": "..."}


def test_a_job_that_has_not_ended_in_time_has_no_result(desk: Desk) -> None:
    answer = desk.run("wait", timeout=0.01)
    assert (answer["finish"], answer["result"], answer["variable"]) == (False, None, {})
    assert answer["time"] >= 0.01
    assert not desk.ask("get_finish", name="w", job=0)
    assert desk.ask("get_result", name="w", job=0) is None
    desk.backends.last.end_job()


@pytest.mark.parametrize(
    ("variables", "expected"), [(True, {"x": "1", "y": "2"}), (False, {}), (["y", "z"], {"y": "2"}), ([], {})]
)
def test_the_variables_of_a_push_can_be_limited(desk: Desk, variables: Any, expected: dict[str, str]) -> None:
    desk.run("set x 1")
    assert desk.run("set y 2", variables=variables)["variable"] == expected


def test_variables_are_read_by_name_by_names_and_all(desk: Desk) -> None:
    desk.run("set x 1")
    desk.ask("set_variable", name="w", variable="y", value={"a": [1, 2.5, None, True]})
    packed = Packed.of(5)
    desk.ask("set_variable", name="w", variable="z", value=packed)
    assert desk.ask("get_variable", name="w", variable="x") == "1"
    assert desk.ask("get_variable", name="w", variable="unknown") is None
    assert desk.ask("get_variable", name="w", variable=["x", "unknown"]) == {"x": "1", "unknown": None}
    assert desk.ask("get_variable", name="w", variable=[]) == {}
    assert desk.ask("get_variable", name="w") == {"x": "1", "y": {"a": [1, 2.5, None, True]}, "z": packed}


def test_clear_is_a_job(desk: Desk) -> None:
    desk.run("set x 1")
    answer = desk.ask("clear", name="w", timeout=10)
    assert set(answer) == {"job", "finish", "result", "time", "state", "error"}
    assert (answer["job"], answer["finish"], answer["result"]) == (1, True, True)
    assert desk.ask("get_variable", name="w") == {}


def test_results_come_as_one_or_as_a_list_in_their_order(desk: Desk) -> None:
    for job in ("done", "fail", "done"):
        desk.run(job)
    assert desk.ask("get_result", name="w") == [True, False, True]
    assert desk.ask("get_result", name="w", job=1) is False
    assert desk.ask("get_finish", name="w") is True
    assert desk.ask("get_job", name="w") == 0


def test_a_record_says_all(desk: Desk) -> None:
    desk.run("print hello", time_limit=5)
    record = desk.ask("get_record", name="w")
    times = record.pop("times")
    assert times["pushed"] <= times["started"] <= times["ended"]
    assert record == {
        "number": 0,
        "state": "done",
        "result": True,
        "value": None,
        "value_type": None,
        "error": None,
        "output": {"stdout": "hello", "stderr": "", "truncated": False},
        "type": "script",
        "job": "print hello",
        "clear": False,
        "time_limit": 5,
    }
    assert desk.ask("get_output", name="w", job=0) == record["output"]


def test_a_running_job_is_interrupted_and_killed_and_a_waiting_one_cancelled(desk: Desk) -> None:
    for _ in range(2):
        desk.run("wait", timeout=0)
    assert desk.backends.last.waiting.wait(10)
    assert desk.ask("get_job", name="w") == 1
    assert desk.ask("cancel", name="w", job=1) is True
    assert desk.ask("cancel", name="w", job=1) is False
    assert desk.ask("cancel", name="w", job=0) is False
    assert desk.ask("interrupt", name="w", job=0) is True
    desk.workspaces["w"].wait(0, 10)
    desk.run("deaf", timeout=0)
    assert desk.backends.last.waiting.wait(10)
    assert desk.ask("kill", name="w") is True
    assert desk.ask("interrupt", name="w") is False
    assert desk.ask("resume", name="w") == 0
    states = [desk.ask("get_record", name="w", job=number)["state"] for number in range(3)]
    assert states == ["interrupted", "cancelled", "killed"]
    assert desk.ask("get_status", name="w")["STATUS"] == "EXCEPT"


def test_after_destroy_everything_but_create_answers_false(desk: Desk) -> None:
    assert desk.ask("destroy") is True
    for command in [*COMMANDS, None]:
        if command is None or command.name != "create":
            message = {"command": command.name if command else "nonsense"}
            assert desk.answer(message) == {"request_result": False, "result": False}
    assert desk.ask("create") is True
    assert desk.ask("get_workspace") == []
    desk.ask("create_workspace", name="w")


def test_a_workspace_has_the_name_it_was_given_or_a_random_one(desk: Desk) -> None:
    name = desk.ask("create_workspace")
    assert desk.ask("get_workspace") == ["w", name]
    assert desk.ask("destroy_workspace", name=name) is True
    assert desk.ask("destroy_workspace") is True
    assert desk.ask("get_workspace") == []
    desk.ask("create_workspace", name="x", type="thread", max_jobs=3.0, memory_limit=None, time_interval=0.5)
    assert desk.ask("get_status", name="x")["type"] == "thread"


def test_metrics_count(desk: Desk) -> None:
    desk.run("done")
    metrics = desk.ask("get_metrics")
    assert (metrics["workspaces"], metrics["jobs"]["done"]) == (1, 1)


def test_an_overview_has_the_status_of_each_workspace(desk: Desk) -> None:
    desk.run("done")
    overview = desk.ask("get_overview", since=0)
    assert overview["workspaces"] == [{"name": "w", **desk.ask("get_status", name="w")}]
    assert [job["state"] for job in overview["ended"]] == ["done"]
    assert desk.ask("get_overview", since=overview["time"])["ended"] == []


def test_a_server_without_a_cluster_has_no_nodes_and_its_workspaces_run_on_none(desk: Desk) -> None:
    assert desk.ask("get_nodes") == []
    desk.ask("create_workspace", name="x", type="thread")
    desk.run("done", name="x")
    status = desk.ask("get_status", name="x")
    assert (status["node"], status["address"]) == (None, None)


@pytest.mark.parametrize("message", [{}, {"command": None}, {"command": 5}, {"command": ["a"]}, {"command": "nonsense"}])
def test_an_unknown_command_is_refused(desk: Desk, message: dict[str, Any]) -> None:
    reason, field = desk.refused(message)
    assert field == "command"
    assert "push_job" in reason


REQUIRED_FIELDS = [(command.name, field.name) for command in COMMANDS for field in command.fields if field.default is REQUIRED]
VALID: dict[str, Any] = {
    "name": "w",
    "job": 0,
    "variable": "x",
    "value": 1,
    "to": "w",
    "key": "00",
    "reference": "00",
    "node": "00",
}


@pytest.mark.parametrize(("command", "missing"), REQUIRED_FIELDS)
def test_a_missing_field_is_named(desk: Desk, command: str, missing: str) -> None:
    fields = {field: VALID[field] for name, field in REQUIRED_FIELDS if name == command and field != missing}
    if command == "push_job" and "job" in fields:
        fields["job"] = "done"
    reason, field = desk.refused({"command": command, **fields})
    assert field == missing
    assert repr(missing) in reason


WRONG: dict[str, Any] = {"string": 5, "number": "5", "integer": 1.5, "boolean": 1, "array": 5}
TYPED_FIELDS = [(command.name, field) for command in COMMANDS for field in command.fields if field.types]


@pytest.mark.parametrize(("command", "field"), TYPED_FIELDS, ids=lambda value: getattr(value, "name", value))
def test_a_field_of_the_wrong_type_is_named(desk: Desk, command: str, field: Any) -> None:
    (specification,) = (each for each in COMMANDS if each.name == command)
    fields = {each.name: VALID.get(each.name) for each in specification.fields if each.default is REQUIRED}
    if command == "push_job":
        fields["job"] = "done"
    for wrong in ({"an": "object"}, *(WRONG[word] for word in field.types if word in WRONG and len(field.types) == 1)):
        assert desk.refused({"command": command, **fields, field.name: wrong})[1] == field.name


@pytest.mark.parametrize(
    ("command", "fields", "at_fault"),
    [
        ("push_job", {"name": "w", "job": "done", "type": 2}, "type"),
        ("push_job", {"name": "w", "job": "done", "timeout": -1}, "timeout"),
        ("push_job", {"name": "w", "job": "done", "timeout": float("nan")}, "timeout"),
        ("push_job", {"name": "w", "job": "done", "time_limit": -1}, "time_limit"),
        ("push_job", {"name": "w", "job": "done", "variables": [1]}, "variables"),
        ("push_job", {"name": "w", "job": "done", "encoding": "xml"}, "encoding"),
        ("push_job", {"name": "w", "job": "done", "colour": "red"}, "colour"),
        ("push_job", {"name": "nobody", "job": "done"}, "name"),
        ("create_workspace", {"name": ""}, "name"),
        ("create_workspace", {"name": "w"}, "name"),
        ("create_workspace", {"type": 3}, "type"),
        ("create_workspace", {"type": True}, "type"),
        ("create_workspace", {"type": "thread", "num_cpus": 1}, "num_cpus"),
        ("create_workspace", {"node": "here"}, "node"),
        ("create_workspace", {"type": "ray", "num_gpus": -1}, "num_gpus"),
        ("create_workspace", {"type": 2, "resources": ["gpu"]}, "resources"),
        ("copy_variable", {"name": "w", "variable": "x", "to": "nobody"}, "to"),
        ("copy_variable", {"name": "w", "variable": "missing", "to": "w"}, "variable"),
        ("copy_variable", {"name": "w", "variable": "x", "to": "w", "new_name": "no name"}, "new_name"),
        ("get_value", {"name": "w", "variable": "x", "window": [2, 1]}, "window"),
        ("get_value", {"name": "w", "variable": "x", "window": [0, 1, 2]}, "window"),
        ("get_value", {"name": "w", "variable": "x", "window": [0, 1.5]}, "window"),
        ("lend_variable", {"name": "w", "variable": "x"}, "name"),
        ("return_variable", {"name": "w", "key": "no digits"}, "key"),
        ("take_variable", {"name": "w", "variable": "no name", "reference": "00"}, "variable"),
        ("take_variable", {"name": "w", "variable": "x", "reference": "no digits"}, "reference"),
        ("create_workspace", {"on_crash": "explode"}, "on_crash"),
        ("create_workspace", {"max_jobs": 0}, "max_jobs"),
        ("get_status", {"name": "nobody"}, "name"),
        ("get_finish", {"name": "w"}, "job"),
        ("get_finish", {"name": "w", "job": 7}, "job"),
        ("get_record", {"name": "w", "job": -1}, "job"),
        ("cancel", {"name": "w", "job": 7}, "job"),
        ("interrupt", {"name": "w", "job": 7}, "job"),
        ("resume", {"name": "w", "job": 7}, "job"),
        ("watch", {"name": "w", "until": 7}, "job"),
        ("set_variable", {"name": "w", "variable": "no name", "value": 1}, "variable"),
        ("set_variable", {"name": "w", "variable": "class", "value": 1}, "variable"),
        ("set_variable", {"name": "w", "variable": "x", "value": {1, 2}}, "value"),
        ("set_variable", {"name": "w", "variable": "x", "value": [{1: 2}]}, "value"),
    ],
)
def test_what_makes_no_sense_is_refused(desk: Desk, command: str, fields: dict[str, Any], at_fault: str) -> None:
    reason, field = desk.refused({"command": command, **fields})
    assert field == at_fault
    assert reason.endswith(".")
    assert desk.ask("get_workspace") == ["w"]


def test_a_value_that_is_too_deep_is_refused(desk: Desk) -> None:
    value: Any = 1
    for _ in range(200):
        value = [value]
    assert desk.refused({"command": "set_variable", "name": "w", "variable": "x", "value": value})[1] == "value"


def test_a_value_of_a_subclass_of_plain_data_is_set_as_the_plain_data_that_it_is(desk: Desk) -> None:
    class Number(float):
        pass

    class Text(str):
        pass

    class Level(enum.IntEnum):
        HIGH = 3

    value = OrderedDict({Text("a"): [Number(1.5), Level.HIGH, (Text("b"), True, None)]})
    desk.ask("set_variable", name="w", variable="x", value=value)
    found = desk.ask("get_variable", name="w", variable="x")
    assert type(found) is dict
    ((key, items),) = found.items()
    assert (key, items) == ("a", [1.5, 3, ("b", True, None)])
    assert [type(each) for each in (key, *items, *items[2])] == [str, float, int, tuple, str, bool, type(None)]


def test_a_client_that_does_not_wait_for_an_answer_does_not_wait_for_the_job(desk: Desk) -> None:
    client = KeepingSocket(awaited=False)
    assert desk.answer({**PUSH, "job": "wait", "timeout": 1000}, client)["request_result"] is True
    assert desk.backends.last.waiting.wait(10)
    desk.backends.last.end_job()


def test_a_request_that_comes_again_finds_its_job(desk: Desk) -> None:
    numbers = [
        desk.answer({**PUSH, "job": "done"}, KeepingSocket(identity=(b"c", 1, number)))["result"]["job"] for number in (1, 1, 2)
    ]
    assert numbers == [0, 0, 1]


@pytest.mark.parametrize("fields", [{}, {"timeout": 0}, {"variables": True}], ids=["waits", "does not wait", "variables"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_that_is_forgotten_as_soon_as_it_has_run_is_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], deferrable: bool
) -> None:
    desk.ask("create_workspace", name="short", max_jobs=1)
    push = Workspace.push

    def push_and_forget(workspace: Workspace, *arguments: Any, **options: Any) -> int:
        number = push(workspace, *arguments, **options)
        while number in workspace.look(lambda jobs: jobs.numbers()):
            workspace.wait(push(workspace, "script", "done"), 10)
        return number

    monkeypatch.setattr(Workspace, "push", push_and_forget)
    client = KeepingSocket()
    client.deferrable = deferrable
    answer = desk.answer({**PUSH, "name": "short", "job": "value 7", **fields}, client)
    assert answer["request_result"] is True, answer
    assert (answer["result"]["job"], answer["result"]["state"], answer["result"]["value"]) == (0, "done", "7")


def stream_of(client: KeepingSocket) -> Iterator[tuple[dict[str, Any], bool]]:
    more = True
    while more:
        answer, more = client.responses.get(timeout=10)
        assert answer["request_result"] is True
        yield answer["result"], more


def test_a_watcher_sees_a_job_from_its_push_to_its_end(desk: Desk) -> None:
    client = KeepingSocket()
    desk.run("print hello")
    desk.run("wait", timeout=0)
    thread = threading.Thread(
        target=dispatch, args=(desk.workspaces, client, {"command": "watch", "name": "w", "since": 0, "until": 1})
    )
    thread.start()
    desk.backends.last.die("exit code 1")
    told = [(event["event"], event["job"]) for event, _ in stream_of(client)]
    thread.join(10)
    assert [each for each in told if each[0] not in ("queued", "worker_started")] == [
        ("started", 0),
        ("output", 0),
        ("finished", 0),
        ("started", 1),
        ("worker_died", 1),
        ("finished", 1),
    ]


def test_watching_until_a_job_that_has_ended_tells_its_end(desk: Desk) -> None:
    desk.run("fail no")
    client = KeepingSocket()
    dispatch(desk.workspaces, client, {"command": "watch", "name": "w", "until": 0})
    ((event, more),) = stream_of(client)
    assert (event["event"], event["job"], event["state"], more) == ("finished", 0, "failed", False)


def test_a_watch_without_an_end_is_for_who_takes_a_stream(desk: Desk) -> None:
    """A plain request for it was answered when the workspace was gone."""
    client = KeepingSocket()
    client.streamed = False
    assert "a stream" in desk.answer({"command": "watch", "name": "w"}, client)["result"]
    desk.run("done")
    dispatch(desk.workspaces, client, {"command": "watch", "name": "w", "until": 0, "since": 10**6})
    assert [event["event"] for event, more in stream_of(client) if not more] == ["finished"]


def test_a_watch_ends_with_its_workspace(desk: Desk) -> None:
    client = KeepingSocket()
    thread = threading.Thread(target=dispatch, args=(desk.workspaces, client, {"command": "watch", "name": "w", "since": 0}))
    thread.start()
    desk.run("done")
    desk.ask("destroy_workspace", name="w")
    thread.join(10)
    assert not thread.is_alive()
    assert [event["event"] for event, _ in stream_of(client)][-1] == "gone"


def test_a_watch_ends_when_its_client_has_gone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "ALIVE_INTERVAL", 0.01)
    client = KeepingSocket(connected=False)
    desk.ask("get_variable", name="w")
    dispatch(desk.workspaces, client, {"command": "watch", "name": "w"})
    event, more = client.responses.get(timeout=10)
    assert (event["result"]["event"], more) == ("alive", True)
    with pytest.raises(queue.Empty):
        client.responses.get(timeout=0)
