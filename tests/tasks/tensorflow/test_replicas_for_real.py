"""Replicas with real models in processes, asked from Python and through the gateway in each of its protocols."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support import models as making
from support.asking import Asking
from support.gateways import BEARER, TOKEN, RunningGateway
from support.servers import background_server
from support.waiting import wait_until

from bgpy.client import Client
from bgpy.errors import JobFailedError
from bgpy.server import Server
from bgpy.tasks.tensorflow import Model, Workspaces

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(180),
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]
LONG = 120.0
X = [[1.0, 2.0, 3.0]]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {factor: making.two_signatures(folder / f"times{factor}", float(factor)) for factor in (2, 3)}


@pytest.fixture(scope="module")
def server(paths: dict[int, Path]) -> Iterator[Server]:
    """Run a server with a model on two workspaces: TensorFlow is imported once in each for all tests."""
    with background_server("bgpy.tasks.tensorflow", token=TOKEN) as server:
        with Client(server.host, server.port, TOKEN, timeout=LONG) as client:
            Workspaces(client).create("w").deploy(paths[2], replicas=2)
        yield server


@pytest.fixture
def model(server: Server, paths: dict[int, Path]) -> Iterator[Model]:
    """Return the model that doubles."""
    with Client(server.host, server.port, TOKEN, timeout=LONG) as client:
        yield Workspaces(client)["w"].deploy(paths[2], replicas=2)


def states(model: Model) -> dict[str, str]:
    return {row["workspace"]: row["state"] for row in model.replicas}


def test_no_answer_is_lost_while_models_are_rolled_and_replicas_come_and_go(model: Model, paths: dict[int, Path]) -> None:
    workspace = Workspaces(model._server._client)["w"]
    asking = Asking(lambda: float(model.predict({"x": X}, "y")[0][0, 0]))
    try:
        model.update(paths[3])
        assert [model.predict({"x": X}, "y")[0].tolist() for _ in range(4)] == [[[3.0, 6.0, 9.0]]] * 4
        version = model.description["version"]
        assert [(row["workspace"], row["version"]) for row in model.replicas] == [("w", version), ("w.1", version)]
        workspace.deploy(paths[2])
        assert [model.predict({"x": X}, "y")[0].tolist() for _ in range(4)] == [[[2.0, 4.0, 6.0]]] * 4
        workspace.deploy(paths[2], replicas=1)
        assert model.replicas[0]["workspace"] == "w"
        workspace.deploy(paths[2], replicas=2)
        assert list(states(model)) == ["w", "w.1"]
    finally:
        answers = asking.end()
    assert min(map(len, answers)) > 10
    assert {answer for each in answers for answer in each} == {2.0, 3.0}


def test_weights_that_do_not_fit_are_refused_and_all_go_on(model: Model, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="has the input x"):
        model.update(making.ragged(tmp_path / "ragged"))
    assert set(states(model).values()) == {"ready"}
    assert [model.predict({"x": X}, "y")[0].tolist() for _ in range(4)] == [[[2.0, 4.0, 6.0]]] * 4


def test_a_wrong_prediction_fails_where_it_ran(model: Model) -> None:
    caught = []
    for _ in range(2):
        with pytest.raises(JobFailedError, match="float32") as error:
            model.predict({"x": [[1.0]]})
        caught.append(error.value.workspace)
    assert sorted(caught) == ["w", "w.1"]


@pytest.fixture
def gateway(model: Model, server: Server) -> Iterator[RunningGateway]:
    running = RunningGateway(server)
    try:
        yield running
    finally:
        running.end()


def test_all_protocols_of_the_gateway_answer_while_a_replica_is_down(model: Model, gateway: RunningGateway) -> None:
    workspaces = Workspaces(model._server._client)
    version = model.describe()["version"]
    with gateway.client() as http:
        job = workspaces["w"].push_job("print('up', flush=True)\nwhile True: pass")
        next(event for event in workspaces["w"].watch(since=0) if (event.kind, event.job) == ("output", job.number))
        assert workspaces["w"].kill()
        assert states(model) in ({"w": "failed", "w.1": "ready"}, {"w": "loading", "w.1": "ready"})
        for _ in range(3):
            ask_all(http, version)
        assert "w" not in {ask(http)["name"] for _ in range(4)}  # it is loading still
        wait_until(lambda: states(model) == {"w": "ready", "w.1": "ready"}, LONG)
        for _ in range(3):
            ask_all(http, version)
        assert {ask(http)["name"] for _ in range(4)} == {"w", "w.1"}


def ask(http: httpx.Client) -> Any:
    answer = http.post("/predict/", json={"name": "w", "feed_dict": {"x": X}, "fetches": "y", "timeout": 30})
    return answer.json()["result"]


def ask_all(http: httpx.Client, version: int) -> None:
    """Ask in the words of TFserve, of TensorFlow Serving and of Open Inference."""
    result = ask(http)
    assert (result["state"], result["result"]) == ("done", [[[2.0, 4.0, 6.0]]])
    record = http.post("/get_record/", json={"name": result["name"], "job": result["job"]}).json()["result"]
    assert (record["type"], record["state"]) == ("predict", "done")
    for path in ("w", f"w/versions/{version}"):
        assert http.post(f"/v1/models/{path}:predict", json={"instances": X}).json() == {"predictions": [[2.0, 4.0, 6.0]]}
    (status,) = http.get(f"/v1/models/w/versions/{version}").json()["model_version_status"]
    assert status["state"] == "AVAILABLE"
    assert http.get("/v2/models/w/ready").status_code == 200
    given = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": X[0]}]}
    inferred = http.post(f"/v2/models/w/versions/{version}/infer", json=given).json()
    assert (inferred["model_name"], inferred["outputs"][0]["data"]) == ("w", [2.0, 4.0, 6.0])


@pytest.mark.skipif(find_spec("tritonclient") is None, reason="tritonclient is not installed")
def test_tritonclient_loads_a_model_on_replicas_and_asks_it(
    model: Model, gateway: RunningGateway, paths: dict[int, Path]
) -> None:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}", network_timeout=LONG)
    try:
        headers = {"Authorization": BEARER["authorization"]}
        client.load_model("w", dict(headers), config=f'{{"path": "{paths[3]}", "replicas": 2}}')
        assert client.is_model_ready("w", headers=dict(headers))
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(np.array(X, np.float32))
        for _ in range(4):
            assert client.infer("w", [given], headers=dict(headers)).as_numpy("y").tolist() == [[3.0, 6.0, 9.0]]
        assert set(states(model).values()) == {"ready"}
    finally:
        client.close()
        importlib.import_module("gevent").get_hub().destroy(destroy_loop=True)
