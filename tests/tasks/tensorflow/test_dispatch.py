"""From messages to calls of the models' host, and from the ends of their jobs to answers; the host is a script."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import ROOT, environment
from support.hosts import LARGE, WAIT, Desk, ModelBackends, description
from support.scripted import KeepingSocket

from bgpy.tasks.schema import REQUIRED
from bgpy.tasks.tensorflow import COMMANDS, tensorflow_tasks
from bgpy.tasks.tensorflow.catalog import Catalog
from bgpy.tasks.tensorflow.commands import HIDDEN, OWN
from bgpy.tasks.tensorflow.dispatch import dispatch
from bgpy.tasks.tensorflow.fleet import Fleet
from bgpy.tasks.workspace import workspace_tasks
from bgpy.tasks.workspace.jobs import JobRecord, JobState
from bgpy.tasks.workspace.ledger import Ledger
from bgpy.tasks.workspace.means import Options
from bgpy.tasks.workspace.values import Packed, Value
from bgpy.taskset import TaskSet


def test_deploy_is_a_job_whose_answer_has_the_description(desk: Desk) -> None:
    answer = desk.run("deploy", path="m")
    assert answer.pop("time") >= 0
    described = description("m", 1)
    assert answer == {"job": 0, "finish": True, "result": True, "state": "done", "error": None, "value": described}
    assert desk.argument == {
        "name": "w",
        "path": "m",
        "device": "/cpu:0",
        "warmup": False,
        "max_batch": 64,
        "safe_mode": True,
        "version": 0,
    }
    record = desk.ask("get_record", job=0)
    assert (record["type"], record["job"], record["value"]) == ("deploy", "m", described)


def test_options_of_a_deploy_reach_the_host(desk: Desk) -> None:
    desk.run("deploy", path="m", device="/gpu:0", warmup=True, max_batch=2.0, safe_mode=False)
    given = {key: desk.argument[key] for key in ("device", "warmup", "max_batch", "safe_mode")}
    assert given == {"device": "/gpu:0", "warmup": True, "max_batch": 2, "safe_mode": False}
    assert type(desk.argument["max_batch"]) is int


def test_no_model_is_deployed_into_the_process_of_the_server(desk: Desk) -> None:
    desk.ask("create_workspace", name="shared", type=1)
    reason, field, _ = desk.refused("deploy", name="shared", path="m")
    assert (field, "no server loads TensorFlow" in reason) == ("name", True)


@pytest.mark.parametrize("command", ["deploy", "update"])
def test_an_empty_path_is_refused(desk: Desk, command: str) -> None:
    assert desk.refused(command, path="")[1:] == ("path", "RefusedError")


def test_the_time_of_an_answer_counts_from_the_push(desk: Desk) -> None:
    desk.ask("push_job", job="wait", type=1, timeout=0)
    assert desk.ask("predict", feed_dict={"x": 1}, timeout=0.05)["time"] >= 0.05


def test_update_and_undeploy_are_jobs_and_versions_count_on_in_a_new_interpreter(desk: Desk) -> None:
    desk.run("deploy", path="a")
    assert desk.run("update", path="b")["value"]["version"] == 2
    assert desk.argument == {"name": "w", "path": "b", "version": 1}
    answer = desk.run("undeploy")
    assert (answer["result"], "value" in answer, desk.argument) == (True, False, {"name": "w"})
    desk.run("push_job", job="die", type=1)
    assert desk.run("deploy", path="c")["value"]["version"] == 3
    assert len(desk.backends.made) == 2


def test_what_fails_is_a_failed_job_and_no_refusal(desk: Desk) -> None:
    answer = desk.run("deploy", path="missing")
    assert (answer["finish"], answer["result"], answer["state"], answer["value"]) == (True, False, "failed", None)
    assert answer["error"] == {"type": "bgpy.errors.ModelLoadError", "message": "no", "traceback": ""}
    answer = desk.run("predict", feed_dict={"wrong": 1})
    assert (answer["result"], answer["error"]["type"]) == (False, "bgpy.errors.ModelInputError")


def test_prediction_that_ran_has_its_arrays_as_result(desk: Desk) -> None:
    answer = desk.run("predict", feed_dict={"x": [1, 2]}, fetches=["y", "z"])
    assert (answer["finish"], answer["state"], answer["error"]) == (True, "done", None)
    assert answer["result"].open() == [{"x": [1, 2]}]
    assert desk.argument == {"fetches": ["y", "z"], "feed_dict": {"x": [1, 2]}, "encoding": "objects"}
    assert desk.run("predict", feed_dict={"x": 1}, encoding="json")["result"] == [{"x": 1}]
    assert desk.run("predict")["result"].open() == [None]


def test_prediction_that_has_not_ended_has_no_result(desk: Desk) -> None:
    desk.run("push_job", job="done", type=1)
    desk.backend.gate = threading.Event()
    answer = desk.ask("predict", timeout=0.01)
    assert (answer["finish"], answer["result"], answer["state"]) == (False, None, "running")
    answer = desk.ask("deploy", path="m", timeout=0)
    assert (answer["job"], answer["finish"], answer["result"], answer["value"]) == (2, False, None, None)
    desk.backend.gate.set()
    assert desk.ask("get_record", job=2, timeout=WAIT)["state"] == "done"


def test_feeds_that_the_client_has_closed_stay_closed_until_the_host(desk: Desk) -> None:
    closed = Packed(b"no pickle at all", (bytes(100_000),))
    assert desk.run("predict", feed_dict=closed)["error"]["type"] == "SerializationError"
    array = np.arange(20_000.0)
    result = desk.run("predict", feed_dict=Packed.of({"x": array}))["result"].open()
    assert np.array_equal(result[0]["x"], array)
    assert isinstance(desk.argument["feed_dict"], Packed)


def test_arrays_that_the_client_has_not_closed_are_taken_too(desk: Desk) -> None:
    result = desk.run("predict", feed_dict={"x": np.arange(20_000)})["result"].open()
    assert result[0]["x"].sum() == 199_990_000


def test_result_too_large_to_be_kept_reaches_whoever_waits(desk: Desk) -> None:
    assert len(desk.run("predict", feed_dict={"large": True})["result"].buffers[0]) == LARGE


class Swift:
    """A workspace whose jobs end before their request has been answered."""

    def __init__(self, ended: JobRecord, told: JobRecord | None = None) -> None:
        self.on = True
        self.name = "w"
        self.when_destroyed: list[Any] = []
        self.when_died: list[Any] = []
        self.options = Options()
        self.worker = self
        self._ended = ended
        self._told = told

    def __getitem__(self, name: str) -> Swift:
        return self

    def call(self, *_: Any, then: Callable[[JobRecord], object], **__: Any) -> int:
        if self._told is not None:
            then(self._told)
        return self._ended.number

    def look(self, question: Callable[[Any], Any]) -> Any:
        return question(Ledger("w", 10))

    def when_ended(self, number: int, then: Callable[[JobRecord], object]) -> bool:
        return False

    def record(self, number: int) -> JobRecord:
        return self._ended

    def check_saved(self, number: int) -> None:
        pass


def ask_swift(workspace: Any, catalog: Catalog, command: str, **fields: Any) -> Any:
    client = KeepingSocket()
    client.deferrable = True
    dispatch(Fleet(workspace, catalog), client, {"command": command, "name": "w", **fields})
    return client.answer()["result"]


def test_result_that_is_forgotten_before_the_answer_is_made_is_in_it() -> None:
    ended = JobRecord("w", 0, "predict", "", state=JobState.DONE, value=Value({"truncated": True}, None))
    told = dataclasses.replace(ended, value=Value(None, Packed.of([5])))
    assert ask_swift(Swift(ended, told), Catalog(), "predict")["result"].open() == [5]


def test_answer_about_a_deploy_comes_after_the_word_to_the_catalog() -> None:
    described = description("m", 1)
    workspace, catalog = Swift(JobRecord("w", 0, "deploy", "", state=JobState.DONE, value=Value(described, None))), Catalog()
    assert ask_swift(workspace, catalog, "deploy", path="m", timeout=0)["value"] == described
    assert ask_swift(workspace, catalog, "describe")["path"] == "m"


def test_predictions_that_wait_together_go_to_the_host_together(desk: Desk) -> None:
    desk.run("deploy", path="m")
    gate = desk.backend.gate = threading.Event()
    clients = [desk.send({"command": "predict", "name": "w", "feed_dict": {"x": n}, "timeout": WAIT}) for n in range(5)]
    gate.set()
    assert [client.answer()["result"]["result"].open() for client in clients] == [[{"x": n}] for n in range(5)]
    # The first went alone, at once; three is what the model takes.
    assert [len(order.calls) for order in desk.backend.orders] == [1, 1, 3, 1]


def test_describe_waits_for_no_job_and_knows_what_the_last_answer_told(desk: Desk) -> None:
    assert desk.ask("describe") is None
    desk.run("deploy", path="m")
    assert desk.ask("describe")["path"] == "m"
    desk.run("undeploy")
    assert desk.ask("describe") is None
    desk.run("deploy", path="m")
    desk.run("predict")
    desk.run("predict", feed_dict={"wrong": 1})
    desk.ask("push_job", job="wait", type=1)
    assert desk.backend.waiting.wait(WAIT)
    described = desk.ask("describe")
    assert (described["predictions"], described["failed_predictions"], described["versions"]["2"]) == (1, 1, "AVAILABLE")
    desk.ask("kill")
    assert desk.ask("describe") is None


def test_infer_passes_a_body_through(desk: Desk) -> None:
    fields = {"protocol": "v2", "verb": "infer", "version": "1", "header_length": 7}
    for size in (3, 100_000):
        body = bytes(range(256)) * (size // 256 + 1)
        answer = desk.run("infer", **fields, body=Packed(b"", (memoryview(body),)))
        assert (answer["value"], answer["state"]) == ({"content_type": "x"}, "done")
        assert bytes(answer["result"].buffers[0]) == body[::-1]
        argument = dict(desk.argument)
        assert bytes(argument.pop("body")) == body
        assert argument == {**fields, "name": "w"}


@pytest.mark.parametrize("body", [None, "text", b"bytes", Packed(b""), Packed(b"", (b"1", b"2"))])
def test_infer_without_a_body_is_refused(desk: Desk, body: Any) -> None:
    reason = ("The field 'body' of infer is a Packed with one buffer.", "body", "RefusedError")
    assert desk.refused("infer", protocol="v1", verb="predict", body=body) == reason


def test_wrong_requests_are_refused_and_take_no_number(desk: Desk) -> None:
    assert desk.refused("deploy")[1:] == ("path", "RefusedError")
    assert desk.refused("deploy", path=5)[1] == "path"
    assert desk.refused("deploy", path="m", max_batch=0)[1] == "max_batch"
    assert desk.refused("predict", fetches=[1])[1] == "fetches"
    assert desk.refused("predict", timeout=-1)[1] == "timeout"
    assert desk.refused("predict", encoding="xml")[1] == "encoding"
    assert desk.refused("predict", nonsense=1)[1] == "nonsense"
    reason = "The field 'feed_dict' of predict is object or null, not list."
    assert desk.refused("predict", feed_dict=[1, 2]) == (reason, "feed_dict", "RefusedError")
    for command in OWN:
        fields = {field.name: "x" for field in command.fields if field.default is REQUIRED and field.name != "name"}
        assert desk.refused(command.name, **{**fields, "name": "other"})[1:] == ("name", "WorkspaceNotFoundError")
    assert desk.ask("get_status")["next_job"] == 0


def test_feeds_that_cannot_be_pickled_are_refused(desk: Desk) -> None:
    reason, field, error = desk.refused("predict", feed_dict={"x": threading.Lock()})
    assert (field, error) == (None, "SerializationError")
    assert "feed_dict" in reason


def test_commands_of_workspaces_are_answered_as_there(desk: Desk) -> None:
    assert desk.run("push_job", job="value 7", type=1)["value"] == "7"
    assert desk.ask("get_result") == [True]
    reason, field, _ = desk.refused("nonsense")
    assert field == "command"
    assert all(command.name in reason for command in COMMANDS if command not in HIDDEN)
    assert not any(command.name in reason.split(", ") for command in HIDDEN)
    for message in ({}, {"command": None}, {"command": ["deploy"]}):
        assert desk.answer(message)["field"] == "command"


def test_service_that_is_switched_off_answers_with_false(desk: Desk) -> None:
    desk.answer({"command": "destroy"})
    assert desk.answer({"command": "deploy", "name": "w", "path": "m"}) == {"request_result": False, "result": False}
    desk.answer({"command": "create"})
    assert desk.refused("deploy", path="m")[1] == "name"


def test_client_that_does_not_wait_starts_the_job_all_the_same(desk: Desk) -> None:
    desk.send({"command": "deploy", "name": "w", "path": "m", "timeout": WAIT}, KeepingSocket(awaited=False))
    assert desk.ask("get_record", timeout=WAIT)["state"] == "done"
    assert desk.ask("describe")["path"] == "m"


def test_request_that_comes_twice_is_one_job(desk: Desk) -> None:
    message = {"command": "deploy", "name": "w", "path": "m", "timeout": WAIT}
    answers = [desk.send(message, KeepingSocket(identity=(b"c", 0, 1))).answer()["result"] for _ in range(2)]
    assert [(answer["job"], answer["value"]["version"]) for answer in answers] == [(0, 1), (0, 1)]
    assert desk.ask("describe")["version"] == 1


def test_time_limit_of_a_prediction_is_that_of_its_job(desk: Desk) -> None:
    desk.run("predict", time_limit=5)
    assert desk.ask("get_record")["time_limit"] == 5


class Explosive:
    """What must not be unpickled in the server."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        return explode, ()


def explode() -> None:
    where = "in the worker" if threading.current_thread().name == "test-backend" else "in the server"
    raise AssertionError(f"unpickled {where}")


def test_nothing_of_the_users_is_opened_on_the_way(desk: Desk) -> None:
    gate = desk.backend.gate = threading.Event()
    message = {"command": "predict", "name": "w", "feed_dict": Packed.of({"x": Explosive()}), "timeout": 0}
    assert desk.answer(pickle.loads(pickle.dumps(message, 5)))["result"]["finish"] is False
    gate.set()
    assert "unpickled in the worker" in desk.ask("get_record", timeout=WAIT)["error"]["message"]


# As a task set


def ask(tasks: TaskSet, state: dict[str, Any], **message: Any) -> Any:
    client = KeepingSocket()
    client.deferrable = True
    tasks.exec(client, state, message)
    answer = client.answer()
    assert answer["request_result"] is True, answer
    return answer["result"]


@pytest.mark.parametrize("order", [("workspace", "tensorflow"), ("tensorflow", "workspace")])
def test_sets_behind_one_server_share_their_workspaces(order: tuple[str, str]) -> None:
    backends = ModelBackends()
    makers = {"workspace": workspace_tasks, "tensorflow": tensorflow_tasks}
    sets = {name: makers[name](make_backend=backends.make) if name == order[0] else makers[name]() for name in order}
    tasks = TaskSet.combine(sets)
    state = tasks.make_state(KeepingSocket())
    ask(tasks, state, command="workspace.create_workspace", name="w")
    assert ask(tasks, state, command="deploy", name="w", path="m", timeout=WAIT)["result"] is True
    assert ask(tasks, state, command="tensorflow.get_workspace") == ["w"]
    assert ask(tasks, state, command="workspace.get_result", name="w") == [True]
    assert ask(tasks, state, command="describe", name="w")["path"] == "m"
    tasks.exit(KeepingSocket(), state, {})
    assert backends.last.closed


def test_deploy_that_was_held_at_a_restart_is_known_once_it_was_resumed(tmp_path: Path) -> None:
    def tasks_with(backends: ModelBackends) -> TaskSet:
        return tensorflow_tasks(store=str(tmp_path / "jobs.db"), make_backend=backends.make)

    backends = ModelBackends()
    tasks = tasks_with(backends)
    state = tasks.make_state(KeepingSocket())
    ask(tasks, state, command="create_workspace", name="w")
    for path in ("a", "b"):
        ask(tasks, state, command="deploy", name="w", path=path, timeout=WAIT)
    ask(tasks, state, command="predict", name="w", timeout=WAIT)
    ask(tasks, state, command="push_job", name="w", job="wait", type=1, timeout=0)
    assert backends.last.waiting.wait(WAIT)
    held = ask(tasks, state, command="deploy", name="w", path="late", timeout=0)["job"]
    tasks.exit(KeepingSocket(), state, {})

    tasks = tasks_with(ModelBackends())
    state = tasks.make_state(KeepingSocket())
    assert ask(tasks, state, command="describe", name="w") is None
    assert ask(tasks, state, command="get_record", name="w", job=held)["state"] == "held"
    ask(tasks, state, command="resume", name="w")
    assert ask(tasks, state, command="get_record", name="w", job=held, timeout=WAIT)["state"] == "done"
    assert ask(tasks, state, command="describe", name="w")["path"] == "late"
    assert ask(tasks, state, command="update", name="w", path="c", timeout=WAIT)["value"]["version"] == 4
    tasks.exit(KeepingSocket(), state, {})


def test_server_knows_all_its_commands_and_imports_nothing_heavy() -> None:
    assert {"create_workspace", "deploy", "predict", "infer"} < set(tensorflow_tasks().commands)
    assert set(tensorflow_tasks().commands) == {command.name for command in COMMANDS}
    assert TaskSet.of("bgpy.tasks.tensorflow").commands == tensorflow_tasks().commands
    script = (
        "import sys, bgpy.tasks.tensorflow, bgpy.tasks.tensorflow.dispatch, bgpy.tasks.tensorflow.catalog\n"
        "from bgpy.tasks.tensorflow import Model, Workspaces\n"
        "print({'numpy', 'tensorflow', 'keras', 'orjson'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=WAIT, check=True
    )
    assert done.stdout == "set()\n"
