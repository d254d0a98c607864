"""The host of a workspace's model: deploy, update, undeploy and predict, as jobs call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import models

from bgpy.errors import MissingExtraError, ModelInputError, ModelLoadError, ModelNotFoundError
from bgpy.tasks.tensorflow.bodies import check_json_size
from bgpy.tasks.tensorflow.host import ModelHost
from bgpy.tasks.workspace.values import Value

tensorflow = pytest.importorskip("tensorflow")
ROOT = Path(__file__).resolve().parents[3]
X = {"x": [[1, 2, 3]]}


@pytest.fixture
def host() -> Iterator[ModelHost]:
    host = ModelHost()
    yield host
    try:
        host.undeploy([{"name": "half"}])
    except ModelNotFoundError:
        pass


def deploy(host: ModelHost, path: Path, **other: Any) -> Any:
    options = {"device": "/cpu:0", "warmup": False, "max_batch": 64, "safe_mode": True, "version": 0, **other}
    return host.deploy([{"name": "half", "path": str(path), **options}])[0].json


def update(host: ModelHost, path: Path, version: int = 0) -> Any:
    return host.update([{"name": "half", "path": str(path), "version": version}])[0].json


def ask(feeds: Any, fetches: Any = None, encoding: str = "objects") -> dict[str, Any]:
    return {"fetches": fetches, "feed_dict": feeds, "encoding": encoding}


def predict(host: ModelHost, *arguments: dict[str, Any]) -> list[Any]:
    """Return the results as lists, and errors as they are."""
    results: list[Any] = []
    for outcome in host.predict(arguments):
        if isinstance(outcome, Exception):
            results.append(outcome)
        elif outcome.packed is None:
            results.append(outcome.json)
        else:
            results.append([each.tolist() for each in outcome.packed.open()])
    return results


def test_a_model_is_described_as_it_is_deployed(host: ModelHost, two: Path) -> None:
    described = deploy(host, two, max_batch=8)
    assert json.loads(json.dumps(described)) == described
    assert described.pop("load_time") > 0
    signatures = described.pop("signatures")
    assert described == {
        "name": "half",
        "path": str(two),
        "weights": None,
        "format": "saved_model",
        "platform": "tensorflow_savedmodel",
        "device": "/cpu:0",
        "version": 1,
        "max_batch": 8,
        "safe_mode": True,
        "default_signature": "serving_default",
        "batching": {"serving_default": True, "sums": True},
    }
    assert list(signatures) == ["serving_default", "sums"]
    assert signatures["serving_default"] == {
        "inputs": {"x": {"dtype": "float32", "shape": [None, 3], "tensor": "serving_default_x:0"}},
        "outputs": {"y": {"dtype": "float32", "shape": [None, 3], "tensor": "StatefulPartitionedCall:0"}},
        "method": "tensorflow/serving/predict",
    }


def test_versions_count_deploys_and_updates_that_went_well(host: ModelHost, two: Path, folder: Path) -> None:
    other = models.two_signatures(folder / "counted", 3.0)
    assert deploy(host, two)["version"] == 1
    assert update(host, other)["version"] == 2
    with pytest.raises(ModelLoadError):
        deploy(host, folder / "none")
    host.undeploy([{"name": "half"}])
    assert deploy(host, two)["version"] == 3
    assert deploy(host, two, version=7)["version"] == 8
    assert update(host, other, version=5)["version"] == 9


def test_a_deploy_that_fails_leaves_the_model_that_is_there(host: ModelHost, two: Path, folder: Path) -> None:
    deploy(host, two)
    torn = folder / "torn"
    torn.mkdir()
    (torn / "saved_model.pb").write_bytes(b"\xff")
    for path, device in [(torn, "/cpu:0"), (folder / "none", "/cpu:0"), (two, "/abc:0")]:
        with pytest.raises(ModelLoadError):
            deploy(host, path, device=device)
        assert predict(host, ask(X)) == [[[[2, 4, 6]]]]


def test_another_deploy_takes_the_place(host: ModelHost, two: Path, folder: Path) -> None:
    deploy(host, two)
    deploy(host, models.strings(folder / "strings"))
    assert predict(host, ask({"text": ["a"]}, "upper")) == [[[b"A"]]]


def test_an_update_brings_other_weights(host: ModelHost, two: Path, folder: Path) -> None:
    deploy(host, two)
    weights = models.two_signatures_weights(two, folder / "more" / "weights", 1.0)
    described = update(host, weights)
    assert (described["path"], described["weights"]) == (str(two), str(weights))
    assert predict(host, ask(X)) == [[[[3, 6, 9]]]]
    assert update(host, models.two_signatures(folder / "four", 4.0))["format"] == "saved_model"
    assert predict(host, ask(X)) == [[[[4, 8, 12]]]]
    with pytest.raises(ModelLoadError, match=r"has the input x: float32 \[\?, 3\], and .* has x: float32 \[\?, 4\]"):
        update(host, models.two_signatures(folder / "wide", width=4))
    assert predict(host, ask(X)) == [[[[4, 8, 12]]]]


def test_without_a_model_each_says_so(host: ModelHost, two: Path) -> None:
    assert [str(each) for each in predict(host, ask(X), ask(X))] == ["No model is deployed: deploy one first."] * 2
    for method in (host.update, host.undeploy):
        with pytest.raises(ModelNotFoundError, match="No model is deployed in workspace 'half'"):
            method([{"name": "half", "path": str(two), "version": 0}])
    deploy(host, two)
    assert host.undeploy([{"name": "half"}])[0].json is True
    assert isinstance(predict(host, ask(X))[0], ModelNotFoundError)


def test_each_prediction_of_a_batch_has_its_own_outcome(host: ModelHost, two: Path) -> None:
    deploy(host, two)
    for _ in range(2):
        first, names, shape, sums, fetch, last = predict(
            host,
            ask(X),
            ask({"z": 1}),
            ask({"x": [[1]]}),
            ask({"a": [1, 2], "b": [1, 1]}, ["sums/sum", "sums/difference"]),
            ask(X, "none"),
            ask({"x": [[0, 0, 1], [1, 0, 0]]}),
        )
        assert first == [[[2, 4, 6]]]
        assert sums == [[2, 3], [0, 1]]
        assert last == [[[0, 0, 2], [2, 0, 0]]]
        assert [type(each) for each in (names, shape, fetch)] == [ModelInputError] * 3
        assert str(shape).endswith("the value has the shape [1, 1]. The model's inputs are x: float32 [?, 3].")


def test_the_first_value_of_a_batch_tells_how_often_the_model_has_run(host: ModelHost, two: Path) -> None:
    deploy(host, two)
    runs = [[getattr(each, "runs", None) for each in host.predict([ask({"z": 1}), ask(X), ask(X)])] for _ in range(2)]
    assert runs == [[None, 3, 0], [None, 1, 0]]  # first with the proof that they may be joined
    assert [each.runs for each in host.predict([ask(X)]) if isinstance(each, Value)] == [1]


def test_only_the_row_that_the_model_refuses_fails(host: ModelHost, folder: Path) -> None:
    deploy(host, models.raising(folder / "raising"))
    for _ in range(2):
        good, bad, other = predict(host, ask({"x": [[4]]}), ask({"x": [[-1]]}), ask({"x": [[9]]}))
        assert (good, other) == ([[[2]]], [[[3]]])
        assert isinstance(bad, tensorflow.errors.InvalidArgumentError)
        assert "x has a negative number" in str(bad)


def test_a_batch_gives_what_each_alone_gives(host: ModelHost, folder: Path) -> None:
    deploy(host, models.dense(folder / "dense"))
    random = np.random.default_rng(1)
    asked = [ask({"pixels": random.random((rows, 784), np.float32)}) for rows in (1, 2, 3, 1, 70, 1)]
    alone = [predict(host, each)[0] for each in asked]
    for _ in range(2):
        for joined, single in zip(predict(host, *asked), alone, strict=True):
            np.testing.assert_allclose(joined[0], single[0], rtol=1e-4, atol=1e-7)


def test_rows_of_unlike_lengths_run_apart(host: ModelHost, folder: Path) -> None:
    deploy(host, models.ragged(folder / "ragged"))
    asked = [ask({"x": [row]}) for row in ([1.0, 2.0, 3.0], [4.0], [5.0, 6.0, 7.0], [8.0])]
    for _ in range(2):
        assert predict(host, *asked) == [[[2]], [[4]], [[6]], [[8]]]


def test_rows_that_depend_on_their_batch_are_run_apart(host: ModelHost, folder: Path) -> None:
    deploy(host, models.entangled(folder / "entangled"))
    for _ in range(2):
        assert predict(host, ask({"x": [[1, 2]]}), ask({"x": [[5, 6]]})) == [[[[0, 0]]], [[[0, 0]]]]


def test_an_output_of_the_whole_batch_is_that_of_each(host: ModelHost, folder: Path) -> None:
    described = deploy(host, models.batchless(folder / "batchless"))
    assert described["batching"] == {"serving_default": False}
    for _ in range(2):
        assert predict(host, ask({"x": [[1, 2]]}), ask({"x": [[3, 4]]})) == [[[[2, 4]], 3], [[[6, 8]], 7]]


def test_warmup_runs_each_signature_once_and_tells_what_went_wrong(host: ModelHost, two: Path, folder: Path) -> None:
    assert deploy(host, two, warmup=True)["warmup"] == {"serving_default": None, "sums": None}
    warmed = deploy(host, models.classifier(folder / "classifier"), warmup=True)["warmup"]
    assert list(warmed) == ["regression", "serving_default"]
    assert warmed["regression"].startswith("InvalidArgumentError: ")
    assert deploy(host, models.strings(folder / "warm"), warmup=True)["warmup"] == {"serving_default": None}


def test_results_as_json_are_plain_data(host: ModelHost, two: Path, folder: Path) -> None:
    deploy(host, two)
    assert predict(host, ask({"x": [[1, float("inf"), 3]]}, encoding="json")) == [[[[2, None, 6]]]]
    deploy(host, models.strings(folder / "json"))
    text = ["ä", b"\xff"]
    assert predict(host, ask({"text": text}, encoding="json")) == [[[2, 1], ["ä", {"b64": "/w=="}]]]
    deploy(host, models.graph_v1(folder / "graph" / "model"))
    assert predict(host, ask({"x": [[1, 2]]}, ["both", "y"], "json")) == [[[[[2.5, 4.5]], [[-2.5, -4.5]]], [[2.5, 4.5]]]]


def test_an_interrupt_is_left_to_whoever_runs_the_job(host: ModelHost, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(host, two)

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    assert host._deployed is not None
    monkeypatch.setattr(host._deployed.model, "resolve", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host.predict([ask(X)])
    monkeypatch.undo()
    monkeypatch.setattr("bgpy.tasks.tensorflow.host.load_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        deploy(host, two)
    assert predict(host, ask(X)) == [[[[2, 4, 6]]]]


@pytest.mark.parametrize("make", [models.two_signatures, models.graph_v1, models.keras_two_inputs])
def test_what_is_let_go_leaves_nothing_in_memory(host: ModelHost, folder: Path, make: Any) -> None:
    path = make(folder / "kept" / f"{make.__name__}{'.keras' if make is models.keras_two_inputs else ''}")
    graphs = []
    for step in (deploy, update, deploy):
        step(host, path)
        assert host._deployed is not None
        graphs.append(weakref.ref(host._deployed.model.session.graph))
    assert [graph() for graph in graphs[:2]] == [None] * 2
    host.undeploy([{"name": "half"}])
    assert graphs[2]() is None


# The protocols of model servers


def infer(protocol: str, body: dict[str, Any], **other: Any) -> dict[str, Any]:
    verb = "predict" if protocol == "v1" else "infer"
    given = {
        "protocol": protocol,
        "verb": verb,
        "name": "half",
        "body": json.dumps(body).encode(),
        "version": None,
        "header_length": None,
    }
    return {**given, **other}


def answer(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome.json["content_type"] == "application/json"
    assert bytes(outcome.packed.pickle) == b""
    return json.loads(b"".join(outcome.packed.buffers))


def test_requests_of_both_protocols_run_in_one_batch_with_plain_ones(
    host: ModelHost, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, two)
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [7, 8, 9]}
    asked = [
        infer("v1", {"instances": [[1, 2, 3], [4, 5, 6]]}),
        ask({"x": [[0, 0, 1]]}),
        infer("v2", {"inputs": [tensor], "id": "me"}),
    ]
    host.predict(asked)
    assert host._deployed is not None
    run, rows = host._deployed.model.run, []
    monkeypatch.setattr(host._deployed.batcher, "_run", lambda *query: rows.append(len(query[1]["x"])) or run(*query))
    row, plain, tensors = host.predict(asked)
    assert rows == [4]
    assert answer(row) == {"predictions": [[2, 4, 6], [8, 10, 12]]}
    assert not isinstance(plain, Exception)
    assert plain.packed is not None
    assert plain.packed.open()[0].tolist() == [[0, 0, 2]]
    told = answer(tensors)
    assert (told["model_name"], told["model_version"], told["id"]) == ("half", "1", "me")
    assert [(each["name"], each["datatype"], each["shape"], np.ravel(each["data"]).tolist()) for each in told["outputs"]] == [
        ("y", "FP32", [1, 3], [14, 16, 18])
    ]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_what_is_wrong_with_a_request_is_its_outcome(host: ModelHost, two: Path, protocol: str) -> None:
    deploy(host, two)
    shape, version, text = host.predict(
        [
            infer("v1", {"instances": [[1, 2]]})
            if protocol == "v1"
            else infer("v2", {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}),
            infer(protocol, {"instances": [[1, 2, 3]]}, version="5"),
            {**infer(protocol, {}), "body": b"no such thing"},
        ]
    )
    assert [type(each) for each in (shape, version, text)] == [ModelInputError, ModelNotFoundError, ModelInputError]
    assert str(version) == "Model 'half' has no version 5: version 1 is deployed."


def test_the_current_version_answers_under_its_number(host: ModelHost, two: Path) -> None:
    deploy(host, two)
    assert answer(host.predict([infer("v1", {"instances": [[1, 2, 3]]}, version="1")])[0]) == {"predictions": [[2, 4, 6]]}


# The process


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


SCRIPT = """
import os, sys
from bgpy.tasks.tensorflow.host import ModelHost
assert "tensorflow" not in sys.modules
os.write(2, b"mine before\\n")
host = ModelHost()
for path in sys.argv[1:] or {paths!r}:
    host.deploy([dict(name="w", path=path, device="/gpu:0", warmup=False, max_batch=64, safe_mode=True, version=0)])
outcome, = host.predict([dict(fetches=None, feed_dict=dict(x=[1.5]))])
host.undeploy([dict(name="w")])
import warnings, logging
warnings.warn("my warning", RuntimeWarning)
logging.getLogger("tensorflow").warning("my log")
os.write(2, b"mine after\\n")
"""


def test_only_what_the_model_itself_prints_is_to_be_seen(folder: Path, two: Path) -> None:
    keras_file = models.keras_two_inputs(folder / "quiet.h5")
    graph = models.graph_v1(folder / "quiet" / "model")
    paths = [str(two), str(keras_file), str(graph), str(models.printing(folder / "printing"))]
    ran = run_script(SCRIPT.format(paths=paths))
    assert ran.stdout == "the model sees [1.5]\n"
    lines = ran.stderr.splitlines()
    assert lines[0] == "mine before"
    assert lines[-1] == "mine after"
    assert [
        line for line in lines[1:-1] if "my warning" not in line and "my log" not in line and "warnings.warn" not in line
    ] == []
    assert len(lines) <= 5
    assert ran.returncode == 0


def test_without_tensorflow_a_deploy_says_how_to_install_it(host: ModelHost, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError) as error:
        deploy(host, two)
    assert str(error.value) == 'Deploying a model needs an optional dependency: pip install "bgpy[tensorflow]"'


WRONG_PATH = """
import sys
from bgpy.tasks.tensorflow.host import ModelHost
try:
    ModelHost().deploy([dict(name="w", path="/no/such", device="/cpu:0", warmup=False, max_batch=1, safe_mode=True, version=0)])
except Exception as error:
    print(type(error).__name__, "tensorflow" in sys.modules)
"""


def test_a_wrong_path_is_told_without_waiting_for_tensorflow() -> None:
    ran = run_script(WRONG_PATH)
    assert (ran.stdout, ran.stderr) == ("ModelLoadError False\n", "")


def test_weights_that_make_rows_depend_on_each_other_are_noticed(host: ModelHost, tmp_path: Path) -> None:
    import tensorflow as tf

    class Entangled(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.k = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])  # type: ignore[misc]
        def __call__(self, x: Any) -> Any:
            return {"y": x - self.k * tf.reduce_mean(x, axis=0, keepdims=True)}

    module = Entangled()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    module.k.assign(1.0)
    tf.saved_model.save(module, str(tmp_path / "other"), signatures=module.__call__)
    deploy(host, tmp_path / "model")

    def ask() -> list[Any]:
        arguments = [{"fetches": None, "feed_dict": {"x": [[value]]}, "encoding": "json"} for value in (1.0, 5.0)]
        return [outcome.json for outcome in host.predict(arguments) if isinstance(outcome, Value)]

    assert ask() == ask() == [[[[1.0]]], [[[5.0]]]]
    host.update([{"name": "half", "path": str(tmp_path / "other" / "variables" / "variables"), "version": 1}])
    assert ask() == [[[[0.0]]], [[[0.0]]]]


def test_an_interrupt_while_the_old_model_goes_comes_too_late(
    host: ModelHost, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, two)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bgpy.tasks.tensorflow.host.gc.collect", interrupted)
    assert deploy(host, two)["version"] == 2
    monkeypatch.undo()
    assert isinstance(host.predict([{"fetches": None, "feed_dict": {"x": [[1.0, 2.0, 3.0]]}, "encoding": "json"}])[0], Value)


def test_outputs_too_large_for_json_are_an_error_that_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgpy.tasks.tensorflow.bodies.MAX_VALUES", 3)
    check_json_size([np.zeros(3)])
    with pytest.raises(ModelInputError, match=r"have 4 values, and as JSON no more than 3 .* or for binary data"):
        check_json_size([np.zeros(3), np.zeros(1)])
