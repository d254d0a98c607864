"""TFserve's own endpoints, and TensorFlow Serving's, in front of real models."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import httpx
import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]


def ask(http: httpx.Client, command: str, **fields: Any) -> Any:
    """Return the result of a command that is carried out."""
    answer = http.post(f"/{command}/", json={"name": "half", **fields}, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["request_result"] is True, answer.text
    return answer.json()["result"]


def test_a_model_is_deployed_updated_and_undeployed(model_http: httpx.Client, models: Any) -> None:
    def first() -> Any:
        return ask(model_http, "predict", feed_dict={"x": [[1, 2, 3]]}, timeout=30)["result"]

    deployed = ask(model_http, "deploy", path=str(models.triple), timeout=30)
    assert (deployed["finish"], deployed["result"], deployed["state"], deployed["error"]) == (True, True, "done", None)
    assert deployed["value"]["device"] == "/cpu:0"
    assert first() == [[[3.0, 6.0, 9.0]]]
    updated = ask(model_http, "update", path=str(models.weights), timeout=30)
    assert updated["result"] is True
    assert updated["value"]["version"] == deployed["value"]["version"] + 1
    assert first() == [[[5.0, 10.0, 15.0]]]
    described = ask(model_http, "describe")
    assert (described["version"], described["predictions"]) == (updated["value"]["version"], 2)
    assert described["signatures"]["serving_default"]["inputs"]["x"]["shape"] == [None, 3]
    assert ask(model_http, "undeploy", timeout=30)["result"] is True
    assert ask(model_http, "describe") is None
    gone = ask(model_http, "predict", feed_dict={"x": [[1, 2, 3]]}, timeout=30)
    assert (gone["finish"], gone["result"], gone["error"]["type"]) == (True, False, "bgpy.errors.ModelNotFoundError")


def test_fetches_are_in_their_order_and_one_is_a_list_too(model_http: httpx.Client) -> None:
    feeds = {"a": [1, 2], "b": [10, 20]}
    for fetches, result in (
        (["sums/difference", "sums/sum"], [[-9, -18], [11, 22]]),
        ("sums/sum", [[11, 22]]),
    ):
        assert ask(model_http, "predict", fetches=fetches, feed_dict=feeds, timeout=30)["result"] == result


def test_arrays_of_a_prediction_that_came_too_late_for_its_answer_are_its_result(model_http: httpx.Client) -> None:
    late = ask(model_http, "predict", feed_dict={"x": [[1, 2, 3]]}, timeout=0)
    assert (late["finish"], late["result"]) == (False, None)
    job = {"job": late["job"]}
    assert ask(model_http, "get_record", **job, timeout=30)["state"] == "done"
    in_time = ask(model_http, "predict", feed_dict={"x": [[1, 2, 3]]}, timeout=30)["result"]
    assert ask(model_http, "get_result", **job) == in_time == [[[2.0, 4.0, 6.0]]]
    assert ask(model_http, "get_result")[late["job"]] is True
    wrong = ask(model_http, "predict", feed_dict={"x": 1}, timeout=30)
    assert ask(model_http, "get_result", job=wrong["job"]) is False


def test_what_the_worker_finds_wrong_is_a_job_that_failed(model_http: httpx.Client) -> None:
    wrong = ask(model_http, "predict", feed_dict={"x": [[1, 2]]}, timeout=30)
    assert (wrong["finish"], wrong["result"], wrong["state"]) == (True, False, "failed")
    assert wrong["error"]["type"] == "bgpy.errors.ModelInputError"
    assert "x: float32 [?, 3]" in wrong["error"]["message"]
    missing = ask(model_http, "deploy", path="/there/is/none", timeout=30)
    assert (missing["result"], missing["error"]["type"]) == (False, "bgpy.errors.ModelLoadError")
    assert ask(model_http, "predict", feed_dict={"x": [[1, 2, 3]]}, timeout=30)["result"] == [[[2.0, 4.0, 6.0]]]


def test_what_has_a_wrong_shape_is_refused(model_http: httpx.Client) -> None:
    for command, fields, field in (
        ("deploy", {"name": "nope", "path": "/models/a"}, "name"),
        ("deploy", {"name": "half"}, "path"),
        ("predict", {"name": "half", "feed_dict": [1]}, "feed_dict"),
        ("describe", {}, "name"),
    ):
        answer = model_http.post(f"/{command}/", json=fields)
        assert answer.status_code == 200
        assert answer.json()["request_result"] is False
        assert answer.json()["field"] == field


def test_serving_predicts_in_rows_and_columns(model_http: httpx.Client) -> None:
    rows = {"instances": [[1, 2, 3], [4, 5, 6]]}
    for path in ("/v1/models/half", f"/v1/models/half/versions/{ask(model_http, 'describe')['version']}"):
        answer = model_http.post(f"{path}:predict", json=rows)
        assert (answer.status_code, answer.text) == (200, '{"predictions":[[2.0,4.0,6.0],[8.0,10.0,12.0]]}')
    assert model_http.post("/v1/models/half:predict", json={"inputs": [[0.5, 1, 2]]}).json() == {"outputs": [[1.0, 2.0, 4.0]]}
    named = {"signature_name": "sums", "instances": [{"a": 1, "b": 2}, {"a": 3, "b": 5}]}
    answer = model_http.post("/v1/models/half:predict", json=named)
    assert answer.json() == {"predictions": [{"sum": 3, "difference": -1}, {"sum": 8, "difference": -2}]}


def test_predict_takes_bytes_as_it_gives_them(model_http: httpx.Client, models: Any) -> None:
    ask(model_http, "deploy", path=str(models.strings), timeout=30)
    texts = [{"b64": "/wBh"}, "ä"]
    answer = ask(model_http, "predict", feed_dict={"text": texts}, fetches=["upper", "length"], timeout=30)
    assert answer["result"] == [[{"b64": "/wBB"}, "ä"], [3, 2]]


def test_serving_takes_bytes(model_http: httpx.Client, models: Any) -> None:
    ask(model_http, "deploy", path=str(models.strings), timeout=30)
    answer = model_http.post("/v1/models/half:predict", json={"inputs": {"text": [{"b64": "YWJj"}, "x"]}})
    assert answer.json() == {"outputs": {"upper": ["ABC", "X"], "length": [3, 1]}}


def test_serving_classifies_and_regresses(model_http: httpx.Client, models: Any) -> None:
    ask(model_http, "deploy", path=str(models.classifier), timeout=30)
    examples = {"context": {"x": [1.0, 2.0]}, "examples": [{}, {"x": [3.0, 3.0]}]}
    answer = model_http.post("/v1/models/half:classify", json=examples)
    assert answer.status_code == 200, answer.text
    (no, yes), even = answer.json()["results"]
    assert (no[0], yes[0], [label for label, _ in even], no[1] < yes[1]) == ("no", "yes", ["no", "yes"], True)
    answer = model_http.post("/v1/models/half:regress", json={"signature_name": "regression", **examples})
    assert answer.json() == {"results": [3.0, 6.0]}
    wrong = model_http.post("/v1/models/half:regress", json=examples)
    assert wrong.status_code == 400
    assert "error" in wrong.json()


def test_serving_tells_versions_and_signatures(model_http: httpx.Client) -> None:
    version = str(ask(model_http, "describe")["version"])
    newest = model_http.get("/v1/models/half").json()["model_version_status"][0]
    assert (newest["version"], newest["state"], newest["status"]["error_code"]) == (version, "AVAILABLE", "OK")
    told = model_http.get("/v1/models/half/metadata").json()
    assert told["model_spec"] == {"name": "half", "signature_name": "", "version": version}
    signatures = told["metadata"]["signature_def"]["signature_def"]
    assert signatures["sums"]["inputs"]["a"]["dtype"] == "DT_INT64"


def test_serving_says_what_is_wrong_in_its_own_words(model_http: httpx.Client) -> None:
    for path, body, status, text in (
        ("half:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("half:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("half:predict", b'{"instances": [[1, 2]]}', 400, "Input 'x' takes float32 [?, 3]"),
        (
            "half:predict",
            b'{"signature_name": "x", "instances": [1]}',
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("half/versions/999:predict", b'{"instances": [[1, 2, 3]]}', 404, "Servable not found for request: Specific(half, 999)"),
        ("nope:predict", b'{"instances": [[1, 2, 3]]}', 404, "Servable not found for request: Latest(nope)"),
    ):
        answer = model_http.post(f"/v1/models/{path}", content=body)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"].startswith(text), answer.text
