"""The TensorFlow task set on a real server with real models. All tests share one workspace: importing TensorFlow takes time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import models as making
from support.servers import background_server

from bgpy.client import Client
from bgpy.errors import JobFailedError
from bgpy.server import Server
from bgpy.tasks.tensorflow import Workspace, Workspaces
from bgpy.tasks.workspace.values import Packed

TOKEN = "t" * 40
LONG = 60.0
#: Times that a model is deployed, updated and undeployed, and what tells the worker's memory then.
CYCLES = 20
RESIDENT = "[int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS')][0]"
pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]


class Paths(NamedTuple):
    """Models that the server loads."""

    double: Path
    triple: Path
    dense: Path
    raising: Path
    ragged: Path
    slow: Path


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("models")
    double = making.two_signatures(folder / "double", 2.0)
    triple = making.two_signatures(folder / "triple", 3.0)
    rest = (making.dense, making.raising, making.ragged, making.slow)
    return Paths(double, triple, *(make(folder / make.__name__) for make in rest))


@pytest.fixture(scope="module")
def server(paths: Paths) -> Iterator[Server]:
    with background_server("bgpy.tasks.tensorflow", token=TOKEN) as server:
        with Client(server.host, server.port, TOKEN, timeout=LONG) as client:
            Workspaces(client).create("w").deploy(paths.double)
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.host, server.port, TOKEN, timeout=LONG) as client:
        yield client


@pytest.fixture
def workspace(client: Client) -> Workspace:
    """Return a workspace whose interpreter has imported TensorFlow."""
    return Workspaces(client)["w"]


def test_model_is_deployed_asked_updated_and_let_go(workspace: Workspace, paths: Paths) -> None:
    before = workspace.deploy(paths.double).description["version"]
    model = workspace.model
    assert model.inputs["x"]["dtype"] == "float32"
    assert model.inputs["x"]["shape"] == [None, 3]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (y,) = model.predict({"x": x})
    assert (y.dtype, y.shape) == (np.float32, (2, 3))
    assert np.array_equal(y, 2 * x)
    assert [int(each[0]) for each in model.predict({"a": [5], "b": [3]}, ["sums/difference", "sums/sum"])] == [2, 8]
    model.update(paths.triple)
    assert np.array_equal(model.predict({"x": x}, "y")[0], 3 * x)
    described = model.describe()
    assert (described["version"], described["predictions"], described["executions"]) == (before + 1, 3, 3)
    assert described["versions"] == {**{str(n): "END" for n in range(1, before + 1)}, str(before + 1): "AVAILABLE"}
    model.undeploy()
    for ask in (lambda: model.predict({"x": x}), model.undeploy):
        with pytest.raises(JobFailedError) as caught:
            ask()
        assert caught.value.type_name == "bgpy.errors.ModelNotFoundError"


def test_wrong_input_is_named_and_the_models_own_are_listed(workspace: Workspace, paths: Paths) -> None:
    model = workspace.deploy(paths.double)
    for feeds in ({"z": [[1, 2, 3]]}, {"x": [[1, 2]]}, {"x": [["text"] * 3]}, {}):
        with pytest.raises(JobFailedError) as caught:
            model.predict(feeds)
        assert caught.value.type_name == "bgpy.errors.ModelInputError"
        assert "x" in caught.value.message
        assert "float32" in caught.value.message
    assert model.describe()["failed_predictions"] == 4


def test_model_that_does_not_load_leaves_the_other_one(workspace: Workspace, paths: Paths, tmp_path: Path) -> None:
    model = workspace.deploy(paths.double)
    with pytest.raises(JobFailedError) as caught:
        workspace.deploy(tmp_path / "missing")
    assert caught.value.type_name == "bgpy.errors.ModelLoadError"
    assert str(tmp_path / "missing") in caught.value.message
    assert model.predict({"x": [[1, 2, 3]]})[0].tolist() == [[2, 4, 6]]
    assert workspace.model.description["path"] == str(paths.double)


def test_error_of_the_model_itself_fails_that_prediction_alone(workspace: Workspace, paths: Paths) -> None:
    model = workspace.deploy(paths.raising)

    def ask(number: float) -> float | str:
        try:
            return float(model.predict({"x": [[number]]})[0][0, 0])
        except JobFailedError as error:
            return error.type_name.rpartition(".")[2]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, [4.0, -1.0, 9.0] * 10))
    assert results == [2.0, "InvalidArgumentError", 3.0] * 10


def test_many_threads_get_their_own_rows(workspace: Workspace, paths: Paths) -> None:
    model = workspace.deploy(paths.dense, warmup=True)
    pixels = np.random.default_rng(0).random((64, 784), dtype=np.float32)
    (all_at_once,) = model.predict({"pixels": pixels})
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda n: model.predict({"pixels": pixels[n : n + 1]})[0], range(64)))
    assert np.allclose(np.concatenate(rows), all_at_once, atol=1e-6)
    assert np.allclose(all_at_once.sum(axis=1), 1, atol=1e-5)


def test_large_arrays_come_writable_and_whole(workspace: Workspace, paths: Paths) -> None:
    x = np.random.default_rng(0).random((200_000, 3), dtype=np.float32)
    (y,) = workspace.deploy(paths.double).predict({"x": x})
    assert np.array_equal(y, 2 * x)
    y += 1
    assert np.array_equal(y, 2 * x + 1)


def test_json_takes_the_same_way(client: Client, workspace: Workspace, paths: Paths) -> None:
    workspace.deploy(paths.double)

    def ask(command: str, **fields: Any) -> Any:
        message = {"command": command, "name": "w", "timeout": LONG, **fields}
        return client.execute(message, await_response=True)["result"]

    answer = ask("predict", feed_dict={"x": [[1, 2, 3]]}, fetches="y", encoding="json")
    assert (answer["result"], answer["error"]) == ([[[2.0, 4.0, 6.0]]], None)
    body = json.dumps({"instances": [[1, 2, 3], [4, 5, 6]]}).encode()
    answer = ask("infer", protocol="v1", verb="predict", body=Packed(b"", (body,)))
    parts = b"".join(bytes(part) for part in answer["result"].buffers)
    assert json.loads(parts) == {"predictions": [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]}


def test_model_is_a_neighbour_of_the_variables(workspace: Workspace, paths: Paths) -> None:
    workspace.run("kept = 5")
    workspace.deploy(paths.double)
    workspace.clear(LONG)
    assert "kept" not in workspace.variables
    assert workspace.model.predict({"x": [[1, 2, 3]]})[0].tolist() == [[2, 4, 6]]


def test_noise_of_tensorflow_is_no_output_of_a_job(workspace: Workspace) -> None:
    assert workspace.job(0).record["type"] == "deploy"
    assert workspace.job(0).output[:2] == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process tells what it has loaded")
def test_server_itself_has_not_loaded_tensorflow(server: Server, workspace: Workspace) -> None:
    workers = Path(f"/proc/{workspace.status()['pid']}/maps").read_text()
    assert "tensorflow" in workers
    servers = Path(f"/proc/{server.pid}/maps").read_text()
    assert "tensorflow" not in servers
    assert "numpy" not in servers


def test_predictions_of_many_shapes_at_once_each_get_their_own(workspace: Workspace, paths: Paths) -> None:
    model = workspace.deploy(paths.ragged)
    arrays = [np.random.default_rng(n).random((1 + n % 3, 1 + n % 4), np.float32) for n in range(240)]
    with ThreadPoolExecutor(12) as pool:
        for array, (mean,) in zip(arrays, pool.map(lambda array: model.predict({"x": array}), arrays), strict=True):
            np.testing.assert_allclose(mean, array.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("end", ["kill", "time limit"])
def test_a_prediction_that_does_not_end_is_ended(workspace: Workspace, paths: Paths, end: str) -> None:
    """These end the worker that the others share: each that follows deploys its own model."""
    model = workspace.deploy(paths.slow)
    assert model.predict({"n": [[3]]})[0].tolist() == [[3]]
    feeds = {"name": "w", "feed_dict": {"n": [[2**60]]}, "timeout": 0, "time_limit": 0.2 if end == "time limit" else None}
    answer = workspace._server._client.execute({"command": "predict", **feeds}, await_response=True)["result"]
    job = workspace.job(answer["job"])
    if end == "kill":
        for event in workspace.watch(since=0):
            if (event.kind, event.job) == ("output", job.number):
                break
        assert job.kill()
    assert job.wait(LONG)
    assert job.state == ("killed" if end == "kill" else "timed_out")
    with pytest.raises(JobFailedError, match=r"No model is deployed"):
        model.predict({"n": [[3]]})
    assert workspace.deploy(paths.double).predict({"x": [[1, 2, 3]]})[0].tolist() == [[2, 4, 6]]


def test_model_goes_with_its_worker_and_versions_count_on(workspace: Workspace, paths: Paths) -> None:
    """The last one: it ends the worker that the others share."""
    version = workspace.deploy(paths.double).description["version"]
    job = workspace.push_job("print('up', flush=True)\nwhile True: pass")
    for event in workspace.watch(since=0):
        if (event.kind, event.job) == ("output", job.number):
            break
    assert workspace.kill()
    assert workspace._server.ask("describe", "w") is None
    model = workspace.deploy(paths.double)
    assert model.description["version"] == version + 1
    assert model.predict({"x": [[1, 2, 3]]})[0].tolist() == [[2, 4, 6]]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system tells no memory in use there")
def test_models_that_come_and_go_leave_no_memory_behind(workspace: Workspace, paths: Paths, tmp_path: Path) -> None:
    # Of 16 MB each: if they stayed, the worker would have twice its size in the end.
    wide = making.two_signatures(tmp_path / "wide", width=4_000_000)
    resident = []
    for _ in range(CYCLES):
        model = workspace.deploy(wide)
        model.predict({"a": [1], "b": [2]}, "sums/sum")
        model.update(wide)
        model.undeploy()
        resident.append(workspace.run(RESIDENT))
    workspace.deploy(paths.double)
    assert resident[-1] < resident[1] * 1.1
