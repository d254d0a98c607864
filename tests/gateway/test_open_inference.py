"""The Open Inference Protocol: paths, statuses, the repository extension; what is in the bodies of inferences passes through."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from support.gateways import Workspaces
from support.scripted_models import ScriptedModels, description, inferred, job

import bgpy
from bgpy.gateway import create_app

INFER = "/v2/models/half/infer"
HEAD = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
BODY = HEAD + b"\x00\x00\x80?"
LENGTH = {"inference-header-content-length": str(len(HEAD))}


@pytest.fixture(autouse=True)
def models(workspaces: Workspaces) -> ScriptedModels:
    return ScriptedModels(workspaces, half=description("half"), empty=None)


def test_the_server_tells_what_it_is_and_that_it_is_there(http: httpx.Client) -> None:
    extensions = ["binary_tensor_data", "model_repository", "statistics"]
    assert http.get("/v2").json() == {"name": "bgpy", "version": bgpy.__version__, "extensions": extensions}
    assert http.get("/v2/").status_code == 200
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert http.head("/v2/health/ready").status_code == 200


def test_a_server_without_models_is_alive_and_not_ready(http: httpx.Client, workspaces: Workspaces) -> None:
    responses: list[dict[str, Any]] = [{"count": 1}, {"request_result": False, "result": False}]
    workspaces.answers["get_workspace"] = lambda message: responses.pop(0)
    for status in (501, 503):
        assert http.get("/v2/health/live").status_code == 200
        answer = http.get("/v2/health/ready")
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_model_tells_what_it_takes_and_whether_it_is_ready(http: httpx.Client) -> None:
    metadata = {
        "name": "half",
        "versions": ["2"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1]}],
    }
    for path in ("/v2/models/half", "/v2/models/half/versions/2", "/v2/models/half/versions/02"):
        assert http.get(path).json() == metadata
        assert http.get(f"{path}/ready").json() == {"name": "half", "ready": True}


def test_an_inference_is_one_message_with_the_body_as_it_came(http: httpx.Client, models: ScriptedModels) -> None:
    for path, version in ((INFER, None), ("/v2/models/half/versions/2/infer", "2")):
        for headers, length in ((LENGTH, len(HEAD)), ({}, None), ({"inference-header-content-length": "0"}, 0)):
            models.jobs.append(inferred(b"{...}", b"\x00" * 8, content_type="application/octet-stream", header_length=5))
            answer = http.post(path, content=BODY, headers=headers)
            assert (answer.status_code, answer.content) == (200, b"{...}" + b"\x00" * 8)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["inference-header-content-length"] == "5"
            assert models.asked.pop() == {
                "command": "infer",
                "name": "half",
                "protocol": "v2",
                "verb": "infer",
                "body": BODY,
                "version": version,
                "header_length": length,
                "timeout": 300.0,
            }


def test_the_header_counts_what_was_compressed(http: httpx.Client, models: ScriptedModels) -> None:
    assert http.post(INFER, content=gzip.compress(BODY), headers={**LENGTH, "content-encoding": "gzip"}).status_code == 200
    assert (models.asked[0]["body"], models.asked[0]["header_length"]) == (BODY, len(HEAD))


def test_a_header_length_that_is_no_number_is_400(http: httpx.Client, models: ScriptedModels) -> None:
    name = "inference-header-content-length"
    for given in ([(name, "-1")], [(name, "x")], [(name, "")], [(name, "1_0")], [(name, "9" * 30)], [(name, "1"), (name, "1")]):
        answer = http.post(INFER, content=BODY, headers=given)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), given
    assert models.asked == []


WRONG = [
    ("GET", "/v2/models/nope", 404, "Request for unknown model 'nope': There is no workspace 'nope'"),
    ("GET", "/v2/models/nope/ready", 404, "Request for unknown model 'nope'"),
    ("GET", "/v2/models/empty/ready", 404, "Request for unknown model 'empty': Nothing is deployed"),
    ("GET", "/v2/models/half/versions/3/ready", 404, "Request for unknown version 3 of model 'half'"),
    ("GET", "/v2/models/half/versions/1/stats", 404, "Request for unknown version 1 of model 'half'"),
    ("POST", "/v2/models/nope/infer", 404, "Request for unknown model 'nope'"),
    ("POST", "/v2/models/nope/versions/3/infer", 404, "Request for unknown version 3 of model 'nope'"),
    ("GET", "/v2/models/half/versions/x", 404, "There is no /v2/models/half/versions/x"),
    ("GET", "/v2/models/half/config", 404, "There is no /v2/models/half/config"),
    ("GET", "/v2/models", 404, "There is no /v2/models"),
    ("POST", "/v2/nothing", 404, "There is no /v2/nothing"),
    ("GET", INFER, 405, "The method here is POST, not GET"),
    ("POST", "/v2/models/half", 405, "The method here is GET, HEAD, not POST"),
    ("POST", "/v2/health/live", 405, "The method here is GET, HEAD, not POST"),
    ("DELETE", "/v2", 405, "The method here is GET, HEAD, not DELETE"),
    ("GET", "/v2/repository/index", 405, "The method here is POST, not GET"),
    ("POST", "/v2/repository/mine/index", 501, "There is one repository, which has no name"),
]


def test_what_is_wrong_has_a_status_and_a_reason(http: httpx.Client) -> None:
    for method, path, status, text in WRONG:
        answer = http.request(method, path, content=BODY if method == "POST" else None)
        assert answer.status_code == status, (method, path)
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"].startswith(text)
        assert ("allow" in answer.headers) == (status == 405)


def test_what_the_worker_says_of_a_wrong_input_is_400(http: httpx.Client, models: ScriptedModels) -> None:
    models.jobs.append(job("failed", "bgpy.errors.ModelInputError", "The input x takes [?, 3], not [1, 2]"))
    answer = http.post(INFER, content=BODY)
    assert (answer.status_code, answer.json()) == (400, {"error": "The input x takes [?, 3], not [1, 2]"})


def test_inferences_are_counted(http: httpx.Client, models: ScriptedModels) -> None:
    count = {
        "name": "half",
        "version": "2",
        "last_inference": 1700000000250,
        "inference_count": 5,
        "execution_count": 3,
        "inference_stats": {"success": {"count": 5}, "fail": {"count": 1}},
    }
    for path in ("/v2/models/stats", "/v2/models/half/stats", "/v2/models/half/versions/2/stats"):
        assert http.get(path).json() == {"model_stats": [count]}
    models.deployed["half"] = {**description("half"), "last_prediction": None}
    assert http.get("/v2/models/half/stats").json()["model_stats"][0]["last_inference"] == 0


def test_the_index_has_every_workspace_or_those_that_are_ready(http: httpx.Client) -> None:
    ready = {"name": "half", "version": "2", "state": "READY", "reason": ""}
    empty = {"name": "empty", "state": "UNAVAILABLE", "reason": "nothing is deployed"}
    for body in (b"", b"{}", b'{"ready": false}'):
        assert http.post("/v2/repository/index", content=body).json() == [ready, empty]
    assert http.post("/v2/repository/index", content=b'{"ready": true}').json() == [ready]


def test_a_workspace_that_goes_while_the_index_is_made_is_not_in_it(http: httpx.Client, workspaces: Workspaces) -> None:
    workspaces.answers["get_workspace"] = lambda message: {"request_result": True, "result": ["gone", "half"]}
    assert [model["name"] for model in http.post("/v2/repository/index").json()] == ["half"]


def load(http: httpx.Client, name: str, **config: Any) -> httpx.Response:
    body = {"parameters": {"config": json.dumps(config)}} if config else {}
    return http.post(f"/v2/repository/models/{name}/load", json=body)


def test_a_load_is_a_deploy_that_waits_for_its_end(http: httpx.Client, models: ScriptedModels) -> None:
    answer = load(http, "half", path="/models/b", device="/gpu:0", warmup=True, max_batch=1, safe_mode=False, time_limit=9.5)
    assert (answer.status_code, answer.content) == (200, b"")
    rest = {"device": "/gpu:0", "warmup": True, "max_batch": 1, "safe_mode": False, "time_limit": 9.5}
    assert models.asked == [{"command": "deploy", "name": "half", "path": "/models/b", "timeout": 300.0, **rest}]


def test_a_load_that_says_so_is_an_update(http: httpx.Client, models: ScriptedModels) -> None:
    assert load(http, "half", path="/models/weights", update=True).status_code == 200
    assert models.asked == [{"command": "update", "name": "half", "path": "/models/weights", "timeout": 300.0}]
    assert load(http, "nope", path="/models/weights", update=True).status_code == 404
    assert list(models.asked_for("create_workspace")) == []


def test_a_load_without_a_path_takes_the_one_that_is_deployed(http: httpx.Client, models: ScriptedModels) -> None:
    again = {"name": "half", "path": "/models/half", "device": "/gpu:0", "max_batch": 7, "safe_mode": False, "timeout": 300.0}
    for body in (b"", b"{}", b'{"parameters": {}}', b'{"parameters": {"config": "{}"}}'):
        assert http.post("/v2/repository/models/half/load", content=body).status_code == 200
        assert models.asked.pop() == {"command": "deploy", **again}
    assert load(http, "half", max_batch=1).status_code == 200
    assert models.asked.pop() == {"command": "deploy", **again, "max_batch": 1}
    assert load(http, "half", update=True).status_code == 200
    assert models.asked.pop() == {"command": "update", "name": "half", "path": "/models/half", "timeout": 300.0}


def test_a_load_of_nothing_says_how_to_say_what(http: httpx.Client, models: ScriptedModels) -> None:
    for name in ("empty", "nope"):
        answer = load(http, name)
        assert answer.status_code == 400
        assert "so there is no path to load from: give one in parameters.config" in answer.json()["error"]
    assert [message["command"] for message in models.asked] == ["describe", "describe"]


def test_a_load_makes_the_workspace_that_is_not_there(http: httpx.Client, models: ScriptedModels) -> None:
    assert load(http, "a%2Fb", path="/models/b").status_code == 200
    assert [message["command"] for message in models.asked] == ["deploy", "create_workspace", "deploy"]
    assert [message["name"] for message in models.asked] == ["a/b"] * 3


def test_a_workspace_that_somebody_else_makes_meanwhile_is_fine(
    http: httpx.Client, models: ScriptedModels, workspaces: Workspaces
) -> None:
    taken = {"request_result": False, "result": "There is a workspace 'new' already.", "field": "name", "error": "RefusedError"}

    def create(message: dict[str, Any]) -> dict[str, Any]:
        models.deployed["new"] = None
        return taken

    workspaces.answers["create_workspace"] = create
    assert load(http, "new", path="/models/b").status_code == 200
    workspaces.answers["create_workspace"] = lambda message: {**taken, "result": "A name has no control characters."}
    answer = load(http, "bad%07", path="/models/b")
    assert (answer.status_code, answer.json()) == (400, {"error": "A name has no control characters."})


def test_a_load_that_fails_says_why(http: httpx.Client, models: ScriptedModels) -> None:
    for kind, status in (("bgpy.errors.ModelLoadError", 400), ("bgpy.errors.MissingExtraError", 501), ("builtins.OSError", 500)):
        models.jobs.append(job("failed", kind, "no such folder"))
        answer = load(http, "half", path="/models/b")
        assert answer.status_code == status
        assert answer.json()["error"].endswith("no such folder")
    models.jobs.append(job("running"))
    assert load(http, "half", path="/models/b").status_code == 504


def test_a_workspace_that_was_made_for_a_load_goes_when_that_fails(http: httpx.Client, models: ScriptedModels) -> None:
    models.jobs.append(job("failed", "bgpy.errors.ModelLoadError", "no such folder"))
    assert load(http, "new", path="/models/b").status_code == 400
    assert "new" not in models.deployed
    models.jobs.append(job("running"))
    assert load(http, "new", path="/models/b").status_code == 504
    assert "new" in models.deployed
    models.jobs.append(job("failed", "bgpy.errors.ModelLoadError", "no such folder"))
    assert load(http, "new", path="/models/b").status_code == 400
    assert "new" in models.deployed


BAD_LOADS: list[tuple[Any, str]] = [
    ([1], "The body is a JSON object, not an array"),
    ({"config": "{}"}, "The body has a field 'config'; it may have 'parameters'"),
    ({"parameters": []}, "The field 'parameters' is an object"),
    (
        {"parameters": {"file:1/model.pb": "AAAA"}},
        "A model is loaded from a path on the server; files in a request are not taken",
    ),
    ({"parameters": {"priority": 1}}, "A load has a parameter 'priority'; it may have 'config'"),
    ({"parameters": {"config": {"path": "/a"}}}, "The parameter 'config' is a JSON text"),
    ({"parameters": {"config": "path"}}, "The parameter 'config': The body is not JSON"),
    ({"parameters": {"config": "[]"}}, "The parameter 'config': The body is a JSON object, not an array"),
    ({"parameters": {"config": '{"name": "other", "path": "/a"}'}}, "The config has a field 'name'; it may have path, device"),
    ({"parameters": {"config": '{"command": "destroy"}'}}, "The config has a field 'command'"),
    ({"parameters": {"config": '{"timeout": 1e9}'}}, "The config has a field 'timeout'"),
    ({"parameters": {"config": '{"path": "/a", "update": 1}'}}, "The field 'update' of the config is true or false"),
]


def test_a_load_of_a_wrong_shape_does_nothing(http: httpx.Client, models: ScriptedModels) -> None:
    for body, text in BAD_LOADS:
        answer = http.post("/v2/repository/models/half/load", json=body)
        assert answer.status_code == 400, body
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"].startswith(text)
    assert models.asked == []


def test_an_unload_is_an_undeploy(http: httpx.Client, models: ScriptedModels) -> None:
    for body in (b"", b'{"parameters": {"unload_dependents": true}}'):
        answer = http.post("/v2/repository/models/half/unload", content=body)
        assert (answer.status_code, answer.content) == (200, b"")
        assert models.asked.pop() == {"command": "undeploy", "name": "half", "timeout": 300.0}
    models.jobs.append(job("failed", "bgpy.errors.ModelNotFoundError", "Nothing is deployed here"))
    answer = http.post("/v2/repository/models/half/unload")
    assert (answer.status_code, answer.json()) == (404, {"error": "Nothing is deployed here"})
    assert http.post("/v2/repository/models/nope/unload").status_code == 404
    for wrong in (b'{"parameters": {"more": 1}}', b'{"parameters": 1}', b'{"more": 1}', b"[", b"1"):
        assert http.post("/v2/repository/models/half/unload", content=wrong).status_code == 400


def test_every_door_is_found_by_its_own_path() -> None:
    """The description, the counters and the routes say the same."""
    app = create_app(token="x" * 30, port=1)
    doors = app.doors[len(app.table.doors) :]
    assert len(doors) == 25
    for door in doors:
        dialect = app._dialects.find(door.path)
        assert dialect is not None
        path = door.path.replace("{name}", "a").replace("{version}", "7").replace("{label}", "b")
        assert dialect.find(door.method, path)[0] is door
