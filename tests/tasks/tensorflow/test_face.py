"""What a Python program sees of models: a real server whose interpreters are scripts, and arrays both ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.hosts import LARGE, ModelBackend, ModelBackends, description
from support.servers import Served, running_server, tasks

from bgpy.errors import (
    JobFailedError,
    ModelNotFoundError,
    RefusedError,
    RequestTimeoutError,
    SerializationError,
    WorkspaceNotFoundError,
)
from bgpy.tasks import tensorflow
from bgpy.tasks.tensorflow import Model, Workspace, Workspaces, init_task
from bgpy.tasks.workspace import remote
from bgpy.tasks.workspace.values import Packed
from bgpy.taskset import TaskSet

WAIT = 20.0


@pytest.fixture
def backends() -> ModelBackends:
    return ModelBackends()


@pytest.fixture
def served(backends: ModelBackends) -> Iterator[Served]:
    task_set = TaskSet(lambda: init_task(make_backend=backends.make), tensorflow.exec_task, tensorflow.exit_task)
    with running_server(task_set) as served:
        yield served


@pytest.fixture
def workspaces(served: Served) -> Workspaces:
    return Workspaces(served.client())


@pytest.fixture
def workspace(workspaces: Workspaces) -> Workspace:
    return workspaces.create("w")


@pytest.fixture
def model(workspace: Workspace) -> Model:
    return workspace.deploy("m")


@pytest.fixture
def backend(backends: ModelBackends, model: Model) -> Iterator[ModelBackend]:
    backend = backends.last
    assert isinstance(backend, ModelBackend)
    yield backend
    if backend.gate is not None:
        backend.gate.set()


class Deaf:
    """A client of a server that answers as it is told, and keeps what it was sent."""

    timeout = None

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.messages: list[dict[str, Any]] = []

    def execute(self, message: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.messages.append(message)
        return {"request_result": True, "result": self.results.pop(0)}


def test_workspaces_are_those_that_can_have_models(workspaces: Workspaces) -> None:
    made = workspaces.create("a", "thread", on_crash="continue")
    assert [type(each) for each in (made, workspaces["a"], workspaces.create("a", exist_ok=True))] == [Workspace] * 3
    assert (made.name, list(workspaces)) == ("a", ["a"])
    with pytest.raises(WorkspaceNotFoundError):
        workspaces["b"]
    with pytest.raises(RefusedError):
        workspaces.create("a")


def test_jobs_of_workspaces_run_beside_models(workspace: Workspace) -> None:
    workspace.deploy("m")
    assert [job.number for job in (workspace.push_job("value 7"), workspace.job(0))] == [1, 0]
    assert workspace.job(0).record["type"] == "deploy"
    assert workspace.job(0).result() == description("m", 1)


def test_model_knows_what_it_takes_and_gives(model: Model) -> None:
    assert model.inputs == {"x": {"dtype": "float32", "shape": [None, 3], "tensor": "x:0"}}
    assert model.outputs.keys() == {"y"}
    assert (model.workspace, model.description["version"]) == ("w", 1)
    assert repr(model) == "<Model of 'w': 'm' on /cpu:0, version 1>"


def test_options_of_a_deploy_are_sent(workspace: Workspace, backends: ModelBackends) -> None:
    workspace.deploy("m", "/gpu:0", warmup=True, max_batch=1, safe_mode=False, time_limit=50)
    assert isinstance(backends.last, ModelBackend)
    (method, given), *rest = backends.last.arguments
    assert (method, rest) == ("deploy", [])
    assert given == {
        "name": "w",
        "path": "m",
        "device": "/gpu:0",
        "warmup": True,
        "max_batch": 1,
        "safe_mode": False,
        "version": 0,
    }
    assert workspace.job().record["time_limit"] == 50


def test_replicas_are_asked_for_and_told_and_a_failed_prediction_names_its_workspace(workspace: Workspace) -> None:
    model = workspace.deploy("m", min_replicas=2, max_replicas=3, idle_time=60)
    assert [(row["workspace"], row["state"]) for row in model.replicas] == [("w", "ready"), ("w.1", "ready")]
    assert {name: model.description[name] for name in ("min_replicas", "max_replicas", "idle_time")} == {
        "min_replicas": 2,
        "max_replicas": 3,
        "idle_time": 60,
    }
    caught = []
    for _ in range(2):
        with pytest.raises(JobFailedError) as error:
            model.predict({"wrong": 1})
        caught.append(error.value.workspace)
    assert sorted(caught) == ["w", "w.1"]
    workspace.deploy("m", replicas=1)
    assert [row["workspace"] for row in model.replicas] == ["w"]


def test_arrays_go_in_and_come_back(model: Model, backend: ModelBackend) -> None:
    large, small = np.arange(100_000.0), np.arange(3)
    (feeds,) = model.predict({"x": large, "y": small, "z": [1, 2]}, fetches=("a", "b"))
    assert np.array_equal(feeds["x"], large)
    assert feeds["x"].flags.writeable
    assert np.array_equal(feeds["y"], small)
    assert feeds["z"] == [1, 2]
    assert backend.arguments[-1][1]["fetches"] == ["a", "b"]
    assert model.predict(fetches="a") == [None]
    assert backend.arguments[-1][1]["fetches"] == "a"


def test_prediction_is_one_request_and_copies_no_array() -> None:
    answer = {"job": 0, "finish": True, "result": Packed.of([5]), "state": "done", "error": None}
    deaf = Deaf(answer)
    model = Model(remote.Asker(deaf), "w", description("m", 1))  # type: ignore[arg-type]
    array = np.arange(100_000.0)
    assert model.predict({"x": array}) == [5]
    (message,) = deaf.messages
    (buffer,) = message["feed_dict"].buffers
    assert np.shares_memory(np.frombuffer(buffer), array)


def test_result_too_large_to_be_kept_comes_all_the_same(model: Model) -> None:
    answer = model._server.ask("predict", "w", feed_dict=Packed.of({"large": True}), timeout=WAIT)
    assert len(answer["result"].buffers[0]) == LARGE


def test_update_is_a_new_version(model: Model, workspace: Workspace) -> None:
    model.update("n")
    assert (model.description["weights"], model.description["version"]) == ("n", 2)
    assert workspace.model.describe()["versions"] == {"1": "END", "2": "AVAILABLE"}


def test_undeployed_model_is_not_found(model: Model, workspace: Workspace) -> None:
    assert workspace.model.description["predictions"] == 0
    model.undeploy()
    for ask in (model.describe, lambda: workspace.model):
        with pytest.raises(ModelNotFoundError, match="No model is deployed in the workspace 'w'"):
            ask()


def test_what_fails_raises_what_the_job_says(model: Model, workspace: Workspace) -> None:
    with pytest.raises(JobFailedError) as caught:
        model.predict({"wrong": 1})
    failed = caught.value
    assert (failed.workspace, failed.number, failed.state) == ("w", 1, "failed")
    assert (failed.type_name, failed.message) == ("bgpy.errors.ModelInputError", "no wrong")
    for change in (workspace.deploy, model.update):
        with pytest.raises(JobFailedError) as caught:
            change("missing")
        assert caught.value.type_name == "bgpy.errors.ModelLoadError"
    assert (model.description["path"], workspace.model.description["path"]) == ("m", "m")


def test_wrong_values_are_refused_before_they_travel(model: Model) -> None:
    with pytest.raises(SerializationError):
        model.predict({"x": threading.Lock()})
    with pytest.raises(RefusedError) as caught:
        model.predict({}, fetches=[1])  # type: ignore[list-item]
    assert caught.value.field == "fetches"


def test_workspace_that_is_gone_is_not_found(model: Model, workspace: Workspace) -> None:
    workspace.destroy()
    for ask in (model.predict, model.describe, model.undeploy, lambda: workspace.deploy("m")):
        with pytest.raises(WorkspaceNotFoundError):
            ask()


def test_wait_ends_at_its_timeout_and_the_job_goes_on(model: Model, workspace: Workspace, backend: ModelBackend) -> None:
    backend.gate = threading.Event()
    with pytest.raises(RequestTimeoutError) as caught:
        model.predict(timeout=0.05)
    assert caught.value.timeout == 0.05
    assert "the end of job 1 of workspace 'w'" in str(caught.value)
    with pytest.raises(RequestTimeoutError):
        workspace.deploy("n", timeout=0.05)
    backend.gate.set()
    assert workspace.job(2).wait(WAIT)
    assert workspace.model.description["path"] == "n"


def test_wait_may_take_several_requests(
    model: Model, workspace: Workspace, backend: ModelBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.05)
    for wait in (lambda: model.predict({"x": 5}), lambda: model.update("n")):
        gate = backend.gate = threading.Event()
        asked = _third_request(model)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            assert asked.wait(WAIT)
            gate.set()
            result = waiting.result(WAIT)
        assert result in ([{"x": 5}], None)
    assert model.description["weights"] == "n"


def _third_request(model: Model) -> threading.Event:
    """Return what is set when a wait has come to its third request."""
    several, count, ask = threading.Event(), [0], remote.Asker.ask

    def counting(self: remote.Asker, *args: Any, **fields: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            several.set()
        return ask(self, *args, **fields)

    model._server.ask = counting.__get__(model._server)  # type: ignore[method-assign]
    return several


def test_job_that_ends_another_way_than_by_failing_says_so(model: Model, workspace: Workspace, backend: ModelBackend) -> None:
    backend.gate = threading.Event()
    blocker = workspace.push_job("wait")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.predict, {"x": 1})
        for event in workspace.watch(since=0):
            if event.kind == "queued" and event.job == blocker.number + 1:
                break
        assert workspace.job().cancel()
        with pytest.raises(JobFailedError) as caught:
            waiting.result(WAIT)
    assert caught.value.state == "cancelled"
    blocker.interrupt()


def test_one_model_serves_many_threads_each_its_own_rows(model: Model) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: model.predict({"x": number}), range(200)))
    assert results == [[{"x": number}] for number in range(200)]
    assert model.describe()["predictions"] == 200


def test_server_without_models_is_refused() -> None:
    def refuse(client_socket: Any, state: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        client_socket.respond({"echo": args})
        return state

    with running_server(tasks(refuse)) as served, pytest.raises(RefusedError, match="has no workspaces"):
        Workspaces(served.client())["w"]


def test_names_of_the_face_are_found_and_others_are_not() -> None:
    assert {getattr(tensorflow, name).__name__ for name in tensorflow._HOMES} == set(tensorflow._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        tensorflow.Nonsense  # noqa: B018 - to look it up is the test
